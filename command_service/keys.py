"""The data keys of a partition's subjects: held, given, erased, wrapped anew.

Partition i of the topic of keys belongs to whoever owns partition i of the accounts, so that nobody can write a key
behind its tombstone. Keys are held as they stand on the topic, wrapped; they are part of the transactions, as events
are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice
from typing import Final

from command_service.records import Outgoing
from schemas.codec import Codec
from schemas.keys import (
    ECHO_S,
    LATER_KEY,
    SEGMENT_MS,
    HeldKeys,
    KeyEncryption,
    SubjectKey,
    WrapBroken,
    rewrapped,
    unwrapped,
    wrapped,
)
from schemas.sealing import Sealer, new_data_key

_log: Final = logging.getLogger(__name__)

_REWRAPPED_AT_ONCE: Final = 500
"""Keys wrapped anew in one transaction: some ten milliseconds' work."""

_TRIED: Final = 5
"""How many keys of one key-encryption key must be damaged to say that it is another."""

Undo = Callable[[], None]


class SubjectKeys:
    """The keys of one partition. A restore fills it; then each transaction's overlay begins and commits changes."""

    def __init__(self, codec: Codec, keeper: KeyEncryption) -> None:
        self._codec = codec
        self._keeper = keeper
        self._committed = HeldKeys()
        self._pending: dict[str, SubjectKey | None] = {}
        """What the transaction under way changes: a key, or None for a tombstone."""
        self._new: dict[str, bytes] = {}
        """The data keys that it gives, as they are: to unwrap one takes longer than to seal with it."""
        self.outdated: set[str] = set()
        """Subjects whose key is wrapped with another than the current key-encryption key."""
        self.later_at: float | None = None
        """When, of the monotonic clock, a record is due that closes the segment with the newest tombstone, if it is."""
        self._tombstone_ms: int | None = None
        """When the newest tombstone was appended, as a restore reads it, if no record after it closed its segment."""
        self.sealer = Sealer(self.data_key)

    def __len__(self) -> int:
        return len(self._committed)

    def take(self, key: bytes, value: bytes | None, timestamp_ms: int) -> None:
        """Take a record of the topic, as a restore reads it. Raises: `Undecodable`, `RegistryUnavailable`."""
        if self._tombstone_ms is not None and timestamp_ms - self._tombstone_ms > SEGMENT_MS:
            self._tombstone_ms = self.later_at = None
        if key == LATER_KEY:
            return
        subject_id = key.decode(errors="replace")
        if value is None:
            self._committed.discard(subject_id)
            self.outdated.discard(subject_id)
            # However long ago: while no service ran, nothing closed the segment, and the key is on the disk as it was.
            self._tombstone_ms = timestamp_ms
            self.later_at = time.monotonic() + max(0.0, ECHO_S - (time.time() - timestamp_ms / 1000))
            return
        taken = self._codec.decode_key(value)
        self._committed.put(subject_id, taken)
        if taken.kek_id == self._keeper.current_id:
            self.outdated.discard(subject_id)
        else:
            self.outdated.add(subject_id)

    def check(self) -> None:
        """Look whether keys can be unwrapped, by some of each key-encryption key. A restore has ended.

        A single key that cannot be unwrapped is its holder's matter; where none can, the key-encryption key is not the
        one that it was.

        Raises: `UnknownKek`, `WrapBroken`.
        """
        tried: dict[str, int] = {}
        good: set[str] = set()
        failed: dict[str, WrapBroken] = {}
        current = islice((s for s in self._committed if s not in self.outdated), _TRIED)
        for subject_id in chain(self.outdated, current):
            key = self._committed.get(subject_id)
            kek_id = "" if key is None else key.kek_id
            if kek_id in good or tried.get(kek_id, 0) >= _TRIED:
                continue
            tried[kek_id] = tried.get(kek_id, 0) + 1
            try:
                self.data_key(subject_id)
                good.add(kek_id)
            except WrapBroken as error:
                failed.setdefault(kek_id, error)
        for kek_id, first in failed.items():
            if kek_id not in good:
                raise first

    def begin(self) -> None:
        """A transaction begins anew: what the one before changed and did not commit is dropped."""
        for subject_id in self._pending:
            self.sealer.forget(subject_id)
        self._pending.clear()
        self._new.clear()

    def commit(self) -> None:
        """The transaction is committed."""
        for subject_id, value in self._pending.items():
            self.outdated.discard(subject_id)
            if value is None:
                self._committed.discard(subject_id)
                self.later_at = time.monotonic() + ECHO_S
            else:
                self._committed.put(subject_id, value)
        self._pending.clear()
        self._new.clear()

    def has(self, subject_id: str) -> bool:
        if subject_id in self._pending:
            return self._pending[subject_id] is not None
        return subject_id in self._committed

    def data_key(self, subject_id: str) -> bytes | None:
        """A subject's data key. Raises: `UnknownKek`, `WrapBroken`."""
        if subject_id in self._new:
            return self._new[subject_id]
        key = self._key(subject_id)
        return None if key is None else unwrapped(self._keeper, key)

    def create(self, subject_id: str, now: int) -> bytes:
        """Give a subject a new key, within the transaction. Returns the record's value."""
        data_key = new_data_key()
        key = wrapped(self._keeper, subject_id, data_key, now)
        self._change(subject_id, key)
        self._new[subject_id] = data_key
        return self.encoded(key)

    def erase(self, subject_id: str) -> None:
        """Forget a subject's key, within the transaction, which is to write a tombstone."""
        self._change(subject_id, None)

    def undo(self, subject_id: str) -> Undo:
        """What takes back what is changed of a subject from now on, for a command that fails half-way."""
        was_pending, before = subject_id in self._pending, self._pending.get(subject_id)

        def undone() -> None:
            self.sealer.forget(subject_id)
            self._pending.pop(subject_id, None)
            self._new.pop(subject_id, None)
            if was_pending:
                self._pending[subject_id] = before

        return undone

    def rewrap(self, most: int) -> dict[str, SubjectKey]:
        """Some outdated keys, wrapped anew, by subject: those that the transaction under way leaves alone."""
        found: dict[str, SubjectKey] = {}
        for subject_id in list(islice((s for s in self.outdated if s not in self._pending), most)):
            key = self._committed.get(subject_id)
            try:
                if key is not None:
                    found[subject_id] = rewrapped(self._keeper, key) or key
            except WrapBroken as error:
                # Nobody can read what it seals, wrapped anew or not.
                _log.error("left as it is: %s", error, extra={"account_id": subject_id})
                self.outdated.discard(subject_id)
        return found

    def rewrote(self, keys: Mapping[str, SubjectKey]) -> None:
        """Keys that were wrapped anew are committed."""
        for subject_id, key in keys.items():
            self._committed.put(subject_id, key)
        self.outdated.difference_update(keys)

    def encoded(self, key: SubjectKey) -> bytes:
        """A key as the value of its record."""
        return self._codec.encode_key(key)

    def _change(self, subject_id: str, key: SubjectKey | None) -> None:
        self.sealer.forget(subject_id)
        self._new.pop(subject_id, None)
        self._pending[subject_id] = key

    def _key(self, subject_id: str) -> SubjectKey | None:
        if subject_id in self._pending:
            return self._pending[subject_id]
        return self._committed.get(subject_id)


class Upkeep:
    """What is written to the topic of keys besides new keys and tombstones.

    That is keys wrapped anew, and the records that come later than a tombstone, so that its segment ends.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def waiting(self, keys: Iterable[SubjectKeys]) -> bool:
        """Whether keys are to be wrapped anew."""
        return any(each.outdated for each in keys)

    def due(self, keys: Mapping[int, SubjectKeys]) -> Chores:
        """What the transaction under way is to write, after its commands were decided."""
        now = time.monotonic()
        most = _REWRAPPED_AT_ONCE // max(1, sum(1 for each in keys.values() if each.outdated))
        due = Chores()
        for partition, each in keys.items():
            is_late = each.later_at is not None and each.later_at <= now
            anew = each.rewrap(max(1, most)) if each.outdated else {}
            if not is_late and not anew:
                continue
            due.parts[partition] = each, is_late, anew
            due.records += [Outgoing(self._topic, partition, s.encode(), each.encoded(key)) for s, key in anew.items()]
            if is_late:
                due.records.append(Outgoing(self._topic, partition, LATER_KEY, None))
        return due


class Chores:
    """What one transaction writes of it. Nothing has happened until `committed` is called."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.parts: dict[int, tuple[SubjectKeys, bool, dict[str, SubjectKey]]] = {}

    def committed(self) -> None:
        """The transaction is committed. To be called before its overlays are, which may erase again."""
        for partition, (keys, is_late, anew) in self.parts.items():
            if is_late:
                keys.later_at = None
            if anew:
                keys.rewrote(anew)
                if not keys.outdated:
                    _log.info("partition %d: all %d keys are wrapped with the current key", partition, len(keys))
