"""Which store: as text that every replica opens it by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..store import RedisStore, SqliteStore

if TYPE_CHECKING:
    from ..store import StateStore

_REDIS: Final = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class StoreAt:
    """Where a store is. Called, it opens it.

    Attributes:
        url: A URL of Redis, or the path of an SQLite file.
        expiry: Seconds after its last step at which a stream is forgotten; None is never.
    """

    url: str
    expiry: float | None = None

    @property
    def shared(self) -> bool:
        """Whether other machines can use it."""
        return self.url.startswith(_REDIS)

    def __call__(self) -> StateStore:
        """Open it.

        Raises:
            StoreError: It cannot be opened.
            MissingExtraError: The package redis is not installed.
        """
        if self.shared:
            return RedisStore(self.url, expiry=self.expiry)
        return SqliteStore(self.url, expiry=self.expiry)

    def whole(self) -> StoreAt:
        """The same for processes that run in other folders."""
        if self.shared:
            return self
        return StoreAt(os.path.abspath(self.url), self.expiry)  # noqa: PTH100 (as text)
