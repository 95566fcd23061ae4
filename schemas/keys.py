"""Data keys of subjects, as they stand on `subject.keys`, and what keeps the keys that encrypt them.

A subject is the holder of an account, and its id is the account's. Its data key seals its personal fields
(`schemas.sealing`), and is kept only wrapped, that is encrypted under a key-encryption key which no topic holds. A
record's name and its fields are a storage format (`schemas/account/SubjectKey.v1.avsc`).

A key is written by whoever owns the partition of the account, and by nobody else: a record that lands behind the
tombstone of its subject would undo an erasure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from schemas.connections import NotConfigured

DATA_KEY_BYTES: Final = 32

SEGMENT_MS: Final = 60_000
"""How old a segment of `subject.keys` becomes before the next record closes it. Only then can the log cleaner take out
what an erasure left in it."""

LATER_KEY: Final = b"/later"
"""The key of a record without a value, which whoever erases writes a little more than `SEGMENT_MS` after, so that there
is a next record. No account's id has a slash, so none is keyed like it."""

ECHO_S: Final = SEGMENT_MS / 1000 + 30
"""How long after a tombstone the command service writes it. A clock may be off by seconds."""


class SubjectKey(Struct, frozen=True, kw_only=True, gc=False):
    """A subject's data key, wrapped. `created_at` is in microseconds since the Unix epoch, in UTC."""

    FULL_NAME: ClassVar[str] = "daybook.subject.SubjectKey"

    subject_id: str
    kek_id: str
    wrapped: bytes
    created_at: int


_HELD: Final = struct.Struct(">Hq")
"""Of a key that is held: which key-encryption key, and when it was made."""


class HeldKeys:
    """Many subjects' keys in memory, each in some 170 bytes."""

    def __init__(self) -> None:
        self._held: dict[bytes, bytes] = {}
        self._kek_ids: list[str] = []

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return (subject.decode() for subject in self._held)

    def __contains__(self, subject_id: str) -> bool:
        return subject_id.encode() in self._held

    def put(self, subject_id: str, key: SubjectKey) -> None:
        """Hold what is found under a subject's id, in place of what was held."""
        if key.kek_id not in self._kek_ids:
            self._kek_ids.append(key.kek_id)
        head = _HELD.pack(self._kek_ids.index(key.kek_id), key.created_at)
        self._held[subject_id.encode()] = head + key.wrapped

    def get(self, subject_id: str) -> SubjectKey | None:
        """The key under a subject's id, as the subject's: one that is another's cannot be unwrapped."""
        held = self._held.get(subject_id.encode())
        if held is None:
            return None
        kek, created_at = _HELD.unpack_from(held)
        return SubjectKey(
            subject_id=subject_id, kek_id=self._kek_ids[kek], wrapped=held[_HELD.size :], created_at=created_at
        )

    def discard(self, subject_id: str) -> None:
        self._held.pop(subject_id.encode(), None)


class UnknownKek(NotConfigured):
    """A data key is wrapped with a key-encryption key that we do not have. Not an erasure: the key may come back."""


class WrapBroken(Exception):
    """A wrapped data key is not what the key-encryption key of its name wrapped for its subject."""


class KeyEncryption(Protocol):
    """Keeps key-encryption keys, and wraps data keys with them: a `schemas.keyring.KeyRing`, or a client of a KMS.

    Calls may block where the keys are kept elsewhere, so callers keep what they have unwrapped.
    """

    @property
    def current_id(self) -> str:
        """The id of the key that wraps."""

    def wrap(self, subject_id: str, data_key: bytes) -> tuple[str, bytes]:
        """The id of the current key, and a data key wrapped with it for this subject and no other."""

    def unwrap(self, subject_id: str, kek_id: str, wrapped: bytes) -> bytes:
        """The data key that `wrap` was given.

        Raises:
            UnknownKek: there is no key of that id, or it cannot be had.
            WrapBroken: it was wrapped for another subject, by another key of the same id, or was altered.
        """


def wrapped(keeper: KeyEncryption, subject_id: str, data_key: bytes, created_at: int) -> SubjectKey:
    """The record of a new data key."""
    kek_id, secret = keeper.wrap(subject_id, data_key)
    return SubjectKey(subject_id=subject_id, kek_id=kek_id, wrapped=secret, created_at=created_at)


def unwrapped(keeper: KeyEncryption, key: SubjectKey) -> bytes:
    """The data key of a record. Raises as `KeyEncryption.unwrap`."""
    return keeper.unwrap(key.subject_id, key.kek_id, key.wrapped)


def rewrapped(keeper: KeyEncryption, key: SubjectKey) -> SubjectKey | None:
    """The same data key under the current key-encryption key; None if it is already. Raises as `KeyEncryption.unwrap`.

    The data key stays what it is, so what is sealed with it is not touched.
    """
    if key.kek_id == keeper.current_id:
        return None
    kek_id, secret = keeper.wrap(key.subject_id, unwrapped(keeper, key))
    return replace(key, kek_id=kek_id, wrapped=secret)
