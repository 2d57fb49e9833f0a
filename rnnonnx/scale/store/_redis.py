"""`RedisStore`: a Redis server, shared by the processes of many machines."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ..._extras import require
from ...errors import StoreError
from ._entry import Entry, Mark, check_expiry, check_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "rnnonnx:"
_FIELDS: Final = ("step", "life", "state", "request", "answer")

_PUT: Final = """
local there = redis.call('HMGET', KEYS[1], 'step', 'life')
if ARGV[1] == '' then
    if there[1] then return 0 end
elseif there[1] ~= ARGV[1] or there[2] ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[1], 'step', ARGV[4], 'life', ARGV[5], 'state', ARGV[6],
    'request', ARGV[7], 'answer', ARGV[8])
if ARGV[3] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""
"""Arguments: step and life that are expected ('' for none), milliseconds of expiry ('' for never),
and the fields. A script runs as one step: nothing comes between the comparison and the writing."""


class RedisStore:
    """States in Redis, a hash for each stream.

    What survives the end of the server is the server's affair: `appendonly yes` with `appendfsync
    always` keeps every step that was answered, the default configuration does not.

    Args:
        client: A URL (`redis://localhost:6379/0`), or a `redis.Redis` that decodes no responses.
        expiry: Seconds after its last step at which a stream is forgotten; None is never.
        prefix: What keys begin with. Streams of one name of several models need one each.

    Raises:
        MissingExtraError: The package redis is not installed.
        StoreError: The URL is none.
        InputError: `expiry` is no time.
    """

    def __init__(
        self, client: str | Any, *, expiry: float | None = None, prefix: str = PREFIX
    ) -> None:
        self._redis = require("redis", extra="redis", purpose="a store of states in Redis")
        check_expiry(expiry)
        self._owned = isinstance(client, str)
        if isinstance(client, str):
            try:
                client = self._redis.Redis.from_url(client)
            except ValueError as error:
                raise StoreError("this is no URL of Redis", received=str(error)) from error
        self._client = client
        self._prefix = prefix
        self._expiry = b"" if expiry is None else str(max(1, round(expiry * 1000))).encode()
        self._put = client.register_script(_PUT)

    def get(self, stream: str) -> Entry | None:
        """The stream's entry; None where there is none, or it has expired."""
        with self._using():
            values = self._client.hmget(self._key(stream), *_FIELDS)
        if None in values:
            return None
        try:
            step, life, state, request, answer = values
            return Entry(Mark(int(step), life.decode()), state, request.decode(), answer)
        except (ValueError, AttributeError) as error:
            raise StoreError(
                f"the store holds no state under {self._key(stream)!r}", received=str(error)
            ) from error

    def put(self, stream: str, entry: Entry, *, expected: Mark | None) -> bool:
        """Write an entry if the stream is where it is expected to be, as one step."""
        mark = entry.mark
        arguments = [
            b"" if expected is None else str(expected.step).encode(),
            b"" if expected is None else expected.life.encode(),
            self._expiry,
            *(str(mark.step).encode(), mark.life.encode(), entry.state),
            *(entry.request.encode(), entry.answer),
        ]
        with self._using():
            return bool(self._put(keys=[self._key(stream)], args=arguments) == 1)

    def delete(self, stream: str) -> bool:
        """Forget a stream; whether there was one."""
        with self._using():
            return bool(self._client.delete(self._key(stream)) == 1)

    def close(self) -> None:
        """Close the connections, if the store has made them."""
        if self._owned:
            self._client.close()

    def _key(self, stream: str) -> str:
        return self._prefix + check_stream(stream)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """What Redis says, as an error of ours."""
        try:
            yield
        except self._redis.RedisError as error:
            raise StoreError(
                "the store in Redis failed", received=f"{type(error).__name__}: {error}"
            ) from error
