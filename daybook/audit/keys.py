"""The keys that sign checkpoints: Ed25519, in PEM files as OpenSSL writes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from daybook.errors import DaybookError

_PUBLIC: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


class InvalidKey(DaybookError):
    """A key's file is not there, or is not one."""


class SigningKey:
    """A private key, and the public one that belongs to it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKeys([key.public_key()])
        self.key_id = key_id(key.public_key())

    @classmethod
    def read(cls, file: str) -> SigningKey:
        """Raises: `InvalidKey`."""
        try:
            key = load_pem_private_key(_content(file), password=None)
        except TypeError:
            raise InvalidKey(f"{file} is encrypted: give an unencrypted key in a file that only you may read") from None
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidKey(f"{file} holds no private key ({error}): {_MAKE}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidKey(f"{file} holds a key that is not of Ed25519: {_MAKE}")
        return cls(key)

    def sign(self, statement: bytes) -> bytes:
        return self._key.sign(statement)


class PublicKeys:
    """The public keys that are trusted, by their ids: several, where a key was replaced by another."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def read(cls, file: str) -> PublicKeys:
        """All keys of a PEM file. Raises: `InvalidKey`."""
        content = _content(file)
        found: list[Ed25519PublicKey] = []
        for block in _PUBLIC.findall(content):
            try:
                key = load_pem_public_key(block)
            except (ValueError, UnsupportedAlgorithm) as error:
                raise InvalidKey(f"{file} holds no public key ({error})") from error
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidKey(f"{file} holds a key that is not of Ed25519")
            found.append(key)
        if not found:
            hint = "; it holds a private key, whose public one is beside it" if b"PRIVATE KEY" in content else ""
            raise InvalidKey(f"{file} holds no public key in PEM form{hint}: {_MAKE}")
        return cls(found)

    def __or__(self, other: PublicKeys) -> PublicKeys:
        return PublicKeys([*self._keys.values(), *other._keys.values()])

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._keys)

    def knows(self, key: str) -> bool:
        return key in self._keys

    def signed(self, key: str, signature: bytes, statement: bytes) -> bool:
        """Whether one of these keys, named by its id, signed a statement."""
        if key not in self._keys:
            return False
        try:
            self._keys[key].verify(signature, statement)
        except InvalidSignature:
            return False
        return True


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the key's 32 bytes."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def public_file(file: Path) -> Path:
    """Where `generate` puts the public key that belongs to a private one."""
    return file.with_name(f"{file.name}.pub")


def generate(file: Path) -> SigningKey:
    """Make a key: the private one into `file`, for its owner alone, the public one beside it. Never overwrites.

    Raises: `InvalidKey`, when one of the files is there or cannot be made.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    beside = public_file(file)
    if beside.exists():
        raise InvalidKey(f"{beside} is there already, and keys are never overwritten: choose another name")
    _write(file, private, 0o600)
    _write(beside, public, 0o644)
    return SigningKey(key)


def _write(file: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise InvalidKey(f"{file} is there already, and keys are never overwritten: choose another name") from None
    except OSError as error:
        raise InvalidKey(f"{file} cannot be made: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)


def _content(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidKey(f"{file} cannot be read: {error.strerror}") from error


_MAKE: Final = "`daybook audit keygen FILE` makes a pair of keys"
