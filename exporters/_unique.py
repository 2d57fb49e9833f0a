"""Names that nothing else has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class UniqueNames:
    """Hands out names, with `_1`, `_2`, ... appended to those that came before.

    Args:
        used: Names that are taken already.
        wanted: Names that are asked for later: none of them is made up for another.
    """

    def __init__(self, used: Iterable[str] = (), wanted: Collection[str] = ()) -> None:
        self._used = set(used)
        self._wanted = wanted

    def take(self, base: str) -> str:
        """The name, or the first numbered one that is free."""
        name, count = base, 1
        while name in self._used or (name != base and name in self._wanted):
            name = f"{base}_{count}"
            count += 1
        self._used.add(name)
        return name
