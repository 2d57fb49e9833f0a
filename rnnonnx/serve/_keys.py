"""API keys: made here, kept as hashes, checked in constant time.

A key is `NAME.SECRET`; the secret is 256 random bits, so that a fast hash with a salt is enough:
there is nothing to guess, as there is with a password. The file is JSON,
`{"format": 1, "keys": [{"name", "admin", "salt", "hash"}]}`.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from .._files import replace_file
from ..errors import InputError
from ._errors import Kind, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = 1
NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET_BYTES: Final = 32
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        name: The name of the key; empty where the server asks for none.
        admin: Whether models may be loaded and unloaded.
    """

    name: str
    admin: bool


ANYBODY: Final = Caller("", admin=True)
"""Who comes to a server without keys."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key as it is kept.

    Attributes:
        name: What it is called; its sequences belong to this name.
        salt: 16 random bytes, hexadecimal.
        hash: `blake2b` of the secret with that salt, hexadecimal.
        admin: Whether it may load and unload models.
    """

    name: str
    salt: str
    hash: str
    admin: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    keys: list[Key]


def make_key(name: str, *, admin: bool = False) -> tuple[str, Key]:
    """A new key.

    Args:
        name: What it is called: letters of ASCII, digits, `_` and `-`.
        admin: Whether it may load and unload models.

    Returns:
        The key as its owner sends it, which is nowhere kept, and as the file has it.

    Raises:
        InputError: A key cannot be called so.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "a key cannot be called so",
            expected="1 to 64 letters of ASCII, digits, `_` and `-`",
            received=repr(name),
        )
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    salt = os.urandom(blake2b.SALT_SIZE)
    return f"{name}.{secret}", Key(name, salt.hex(), _digest(secret, salt), admin)


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        InputError: It cannot be read, or is no file of keys.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
        for key in found.keys:
            _check_sizes(key)
    except OSError as error:
        raise InputError(f"cannot read the keys {str(path)!r}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InputError(
            f"{str(path)!r} is no file of API keys: {error}", remedy="rnnonnx key makes one"
        ) from error
    names = [key.name for key in found.keys]
    if found.format != FORMAT or len(set(names)) != len(names):
        raise InputError(
            f"{str(path)!r} is no file of API keys: its format is unknown, or a name comes twice",
            expected=f"format {FORMAT}",
            received=f"format {found.format}",
        )
    return found.keys


def _check_sizes(key: Key) -> None:
    """Whether salt and hash are what they say.

    Raises:
        ValueError: They are not.
    """
    sizes = len(bytes.fromhex(key.salt)), len(bytes.fromhex(key.hash))
    if sizes != (blake2b.SALT_SIZE, blake2b.MAX_DIGEST_SIZE):
        raise ValueError(f"the salt or hash of {key.name!r} is cut short, or longer than it is")


def add_key(path: Path, name: str, *, admin: bool = False) -> str:
    """Make a key and add it to a file, which only its owner may read.

    Returns:
        The key, which is nowhere kept.

    Raises:
        InputError: The name is taken or cannot be one, or the file is no file of keys.
    """
    text, key = make_key(name, admin=admin)
    kept = read_keys(path) if path.exists() else []
    if any(other.name == name for other in kept):
        raise InputError(
            f"there is a key {name!r} already", remedy="take its entry out of the file first"
        )
    if not path.exists():
        try:  # the file that is replaced hands on its mode
            path.touch(mode=0o600)
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    document = msgspec.json.format(msgspec.json.encode(_File(FORMAT, [*kept, key])), indent=2)
    replace_file(path, document + b"\n", what="the file of keys", error=InputError)
    return text


class KeyRing:
    """The keys that a server takes.

    Args:
        keys: As they are kept; None asks nobody for a key.
    """

    def __init__(self, keys: list[Key] | None) -> None:
        self._keys = None if keys is None else {key.name: key for key in keys}
        # NOTE: an unknown name is hashed and compared as well, so that names cannot be found
        # out by the time that it takes
        self._nobody = Key("", os.urandom(blake2b.SALT_SIZE).hex(), "0" * 128)

    @property
    def asked(self) -> bool:
        """Whether a key is asked for."""
        return self._keys is not None

    def caller(self, authorization: str | None) -> Caller:
        """Who sends a request.

        Args:
            authorization: The header or metadata `authorization`: `Bearer NAME.SECRET`.

        Raises:
            RefusedError: There is no key, or none that is known.
        """
        if self._keys is None:
            return ANYBODY
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not text or len(text) > _LONGEST:
            raise RefusedError(
                Kind.UNAUTHENTICATED,
                "this server asks for an API key",
                expected="the header `Authorization: Bearer KEY`",
            )
        name, _, secret = text.partition(".")
        key = self._keys.get(name, self._nobody)
        found = _digest(secret, bytes.fromhex(key.salt))
        if not hmac.compare_digest(found, key.hash) or key is self._nobody:
            raise RefusedError(Kind.UNAUTHENTICATED, "the API key is not known")
        return Caller(key.name, key.admin)


def _digest(secret: str, salt: bytes) -> str:
    return blake2b(secret.encode("utf-8", "surrogateescape"), salt=salt).hexdigest()
