"""Which tolerance a file is held to, and who stated it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .._parity import BUDGETS, Recorder
from ..errors import InputError, ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._parity import Observation
    from ..manifest import Manifest

METADATA_BUDGET: Final = "rnnonnx.tolerance"
"""The metadata key under which a file that another tool made smaller states its tolerance."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A tolerance and where it is from.

    Attributes:
        tolerance: Largest difference allowed, relative to `max(1, |value|)`.
        origin: Who stated it, in words.
        precision: The lower precision that the file says it computes in; empty if it says none.
    """

    tolerance: float
    origin: str
    precision: str = ""

    def recorder(self, listener: Callable[[Observation], None] | None = None) -> Recorder:
        """A recorder that judges by it."""
        return Recorder(self.tolerance, precision=self.precision, listener=listener)


def stated(metadata: Mapping[str, str]) -> float | None:
    """The tolerance that a file states for itself; None if it states none.

    Raises:
        ManifestError: What it states is no positive number.
    """
    text = metadata.get(METADATA_BUDGET)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ManifestError(
            f"the file states a tolerance ({METADATA_BUDGET}) that is none",
            expected="a positive number",
            received=text,
        )
    return value


def check_tolerance(tolerance: object) -> None:
    """Raise InputError unless it is None or a number that differences can be held to."""
    number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if tolerance is not None and not (number and 0 <= float(str(tolerance)) < math.inf):
        raise InputError("tolerance= must be a number, 0 or more", received=repr(tolerance))


def choose_budget(
    tolerance: float | None,
    manifest: Manifest,
    metadata: Mapping[str, str],
    side: Any,
    *,
    stored: str = "",
) -> Budget:
    """The caller's tolerance, else the file's, else that of what the model computes in.

    Args:
        tolerance: The caller's.
        manifest: Of the file.
        metadata: All of the file's metadata.
        side: The Keras model, a `KerasSide`.
        stored: The precision of the file's weights, where the manifest does not say it.
    """
    reduced = manifest.precision
    kind = stored if reduced is None else reduced.kind
    if tolerance is not None:
        return Budget(float(tolerance), "the caller", kind)
    own = stated(metadata) if reduced is None else reduced.tolerance
    if own is not None:
        # a file under test does not set its own bar at will
        most = BUDGETS.get(kind, max(BUDGETS.values()))
        if own > most:
            return Budget(most, f"the most that a file may state; it states {own:g}", kind)
        return Budget(own, f"stated in the file{kind and f', for {kind}'}", kind)
    if kind:
        return Budget(BUDGETS[kind], f"the default for weights in {kind}", kind)
    what = "float16" if side.float16 else "float32"
    return Budget(side.tolerance, f"the default for {what}")
