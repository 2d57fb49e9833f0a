"""Which engines are to run: what a caller names, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import InputError, MissingExtraError
from ._registry import EVERY, OWN, REFERENCE, Engine, engines

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Planned:
    """An engine that is to run.

    Attributes:
        engine: The engine.
        named: Whether it was asked for by its own name, so that it is an error if it cannot run.
    """

    engine: Engine
    named: bool


def plan_engines(against: Sequence[str] | str | None) -> list[Planned]:
    """The engines to run, each once, in the order in which they are named.

    Args:
        against: As for `verify`.

    Raises:
        InputError: One is unknown, or none is left.
        MissingExtraError: One that is named is not installed.
    """
    names = against.split(",") if isinstance(against, str) else list(against or ())
    names = [OWN] if against is None else names
    found: dict[str, Planned] = {}
    for name in names:
        if not isinstance(name, str):
            raise InputError("against= takes names of engines", received=repr(name))
        plain = name.strip()
        if plain == EVERY:
            for engine in engines:
                # what is under test must run, however it was asked for
                found.setdefault(engine.name, Planned(engine, named=engine.name == OWN))
        elif plain != REFERENCE:
            engine = engines[plain]
            _require(engine)
            found[engine.name] = Planned(engine, named=True)
    if not found:
        raise InputError(
            "Keras is the reference; name an engine to compare with it",
            expected=f"some of {', '.join(engine.name for engine in engines)}, or {EVERY}",
            received=", ".join(names) or "nothing",
        )
    return list(found.values())


def _require(engine: Engine) -> None:
    if not engine.installed:
        raise MissingExtraError(
            f"comparing with {engine.name!r} needs the package {engine.packages[0]!r}, which is "
            "not installed",
            remedy=engine.install,
        )
