"""State: what is committed for a partition, and the overlay of the transaction that is under way.

Committed accounts are held in three ways, by how long ago they were used: decoded, packed in memory, and packed on the
disk. How many may be held in each is bounded; each account is looked for in that order.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from msgspec import Struct

from command_service.answers import Answer, Answers
from command_service.keys import SubjectKeys
from command_service.packing import Entry, Packing
from command_service.rounds import Round
from command_service.samples import Samples
from command_service.spill import SpillStore

__all__ = ["Bounds", "Entry", "Overlay", "Overlays", "PartitionState"]


class Bounds(Struct, frozen=True):
    """How many accounts of a partition are held decoded, and how many in memory at all."""

    decoded: int = sys.maxsize
    held: int = sys.maxsize


class PartitionState:
    """The committed state of all accounts of one partition. A restore fills it; then only an `Overlay` changes it, once
    its commit returned."""

    def __init__(
        self,
        answers: Answers,
        packing: Packing,
        keys: SubjectKeys,
        bounds: Bounds = Bounds(),  # noqa: B008 - it is immutable
        *,
        new_store: Callable[[], SpillStore] | None = None,
        samples: Samples | None = None,
    ) -> None:
        """`new_store` makes the store that takes what is beyond `bounds.held`, when there is something."""
        self.answers = answers
        self.packing = packing
        self.keys = keys
        self.count = 0
        """How many accounts there are."""
        self.changed: set[str] = set()
        """The accounts that changed since they were last to be snapshotted."""
        self.events = 0
        """How many events were added since a round of snapshots began, or were replayed after the mark."""
        self.covered = True
        """Whether the snapshots hold all accounts that are not among the changed."""
        self.due = False
        """Whether a round of snapshots must begin, however few events there were."""
        self.round: Round | None = None
        self.samples = samples
        self._decoded: OrderedDict[str, Entry] = OrderedDict()
        # The least recently used come first, since whatever is used leaves it and is put at its end.
        # By ids in UTF-8, which take less than texts.
        self._packed: dict[bytes, bytes] = {}
        self._new_store = new_store
        self._store: SpillStore | None = None
        self._bounds = bounds

    def get(self, account_id: str) -> Entry | None:
        """Raises `SnapshotDamaged` when what is held of the account cannot be decoded."""
        entry = self._decoded.get(account_id)
        if entry is not None:
            self._decoded.move_to_end(account_id)
            return entry
        packed = self._kept(account_id)
        if packed is None:
            return None
        entry = self._decoded[account_id] = self.packing.unpack(account_id, packed)
        self._packed.pop(account_id.encode(), None)
        return entry

    def put(self, account_id: str, entry: Entry) -> None:
        """Take a committed change of an account."""
        if account_id not in self._decoded:
            known = self._packed.pop(account_id.encode(), None) is not None or self._is_stored(account_id)
            self.count += not known
        self._decoded[account_id] = entry
        self.changed.add(account_id)

    def put_snapshot(self, account_id: str, packed: bytes) -> None:
        """Take an account as a snapshot has it, which is not looked into, in place of an older snapshot."""
        key = account_id.encode()
        if key not in self._packed and not self._is_stored(account_id):
            self.count += 1
        self._packed[key] = packed

    def forget_accounts(self) -> None:
        """Begin anew without any account."""
        self.close()
        self.count, self.events = 0, 0
        self.changed.clear()
        self._decoded.clear()
        self._packed.clear()

    def snapshot(self, account_id: str) -> bytes:
        """An account's snapshot as of now."""
        entry = self._decoded.get(account_id)
        if entry is not None:
            return self.packing.pack(account_id, entry)
        packed = self._kept(account_id)
        if packed is None:
            raise KeyError(account_id)
        return packed

    def _kept(self, account_id: str) -> bytes | None:
        """An account as it is held packed, in memory or on the disk."""
        packed = self._packed.get(account_id.encode())
        if packed is None and self._store is not None:
            packed = self._store.get(account_id)
        return packed

    def ids(self) -> list[str]:
        """The ids of all accounts."""
        return list(self._ids())

    def _ids(self) -> Iterator[str]:
        yield from self._decoded
        yield from (key.decode() for key in self._packed)
        if self._store is not None:
            yield from (i for i in self._store.ids() if i not in self._decoded and i.encode() not in self._packed)

    def settle(self) -> None:
        """Keep within the bounds. Called between transactions, so that what is decided on stays decoded meanwhile."""
        decoded, packed = self._decoded, self._packed
        while len(decoded) > self._bounds.decoded:
            account_id, entry = decoded.popitem(last=False)
            packed[account_id.encode()] = self.packing.pack(account_id, entry)
        surplus = len(decoded) + len(packed) - self._bounds.held
        if surplus > 0 and self._new_store is not None:
            if self._store is None:
                self._store = self._new_store()
            # Some more at once: looking for the oldest passes over the places of all that left since.
            oldest = list(islice(packed.items(), surplus + self._bounds.held // 20))
            self._store.put(oldest)
            for key, _ in oldest:
                del packed[key]

    def held(self) -> dict[str, int]:
        """How many accounts are held in each way."""
        decoded, packed = len(self._decoded), len(self._packed)
        return {"decoded": decoded, "packed": packed, "spilled": self.count - decoded - packed}

    def close(self) -> None:
        """Remove what is on the disk. The partition is no longer ours."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _is_stored(self, account_id: str) -> bool:
        return self._store is not None and self._store.get(account_id) is not None


class Overlay:
    """One transaction's changes over a partition's state: seen by the commands that follow in the same batch, and
    dropped as a whole when the transaction is aborted."""

    def __init__(self, committed: PartitionState, partition: int) -> None:
        self.partition = partition
        self._committed = committed
        self._entries: dict[str, Entry] = {}
        self._answers: dict[bytes, Answer] = {}
        self._samples = committed.samples
        self._sampled: list[tuple[str, list[bytes], bool]] = []
        self._events = 0
        self.keys = committed.keys
        self.keys.begin()

    def entry(self, account_id: str) -> Entry | None:
        return self._entries.get(account_id) or self._committed.get(account_id)

    def put(self, account_id: str, entry: Entry, events: list[bytes]) -> None:
        """Note what an account became by some events, given as they are to be written."""
        self._entries[account_id] = entry
        self._events += len(events)
        if self._samples is not None and self._samples.wants(account_id):
            self._sampled.append((account_id, events, entry.account.sequence == len(events)))

    def answer(self, key: bytes) -> Answer | None:
        return self._answers.get(key) or self._committed.answers.get(key)

    def remember(self, key: bytes, answer: Answer) -> None:
        self._answers[key] = answer

    def commit(self, now: int) -> int:
        """Make the changes the committed state. The transaction's commit has returned.

        Returns how many answers were forgotten before their time, to stay within the memory's capacity.
        """
        committed = self._committed
        committed.keys.commit()
        for account_id, entry in self._entries.items():
            committed.put(account_id, entry)
        committed.events += self._events
        if self._samples is not None:
            for account_id, events, is_new in self._sampled:
                self._samples.add(account_id, events, is_new=is_new)
        for key, answer in self._answers.items():
            committed.answers.remember(key, answer)
        committed.settle()
        return committed.answers.forget_old(now)


class Overlays(dict[int, Overlay]):
    """The overlays of one transaction, by partition: each is made when its partition is first touched."""

    def __init__(self, ours: Mapping[int, PartitionState]) -> None:
        """`ours` are the states of all partitions that are ours."""
        super().__init__()
        self.ours = ours

    def __missing__(self, partition: int) -> Overlay:
        """Raises `KeyError` when the partition is not ours."""
        overlay = self[partition] = Overlay(self.ours[partition], partition)
        return overlay
