"""The state of every stream in a store, where another process finds it after each step.

`StoredStreams` steps streams of a pool and writes each step to a store before it is answered; what
the pool holds is a copy that saves reading. `SqliteStore` is enough for one machine, `RedisStore`
for several.
"""

from __future__ import annotations

from ._entry import Entry, Mark, StateStore
from ._redis import RedisStore
from ._sqlite import SqliteStore
from ._streams import Answer, StoredStreams

__all__ = [
    # streams whose states are in a store
    "StoredStreams",
    "Answer",
    # stores
    "SqliteStore",
    "RedisStore",
    # what a store of one's own must do
    "StateStore",
    "Entry",
    "Mark",
]
