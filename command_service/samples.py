"""The check that a snapshot is what a replay gives: made on a few accounts, each time that they are snapshotted.

Of a sampled account the last snapshot is kept and, byte for byte, the events since. Before its next snapshot is
written, those events are read and folded as a restore would do it, and the result is compared.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import fields

from command_service.domain.account import evolve
from command_service.packing import Entry, Packing, SnapshotDamaged
from schemas.codec import ChainBroken, Undecodable
from schemas.events import CHAIN_START

_MOST_ACCOUNTS: Final = 1_000
_MOST_BYTES: Final = 64 * 1024
"""Bounds of what is kept: accounts beyond them go unchecked until they are snapshotted again."""


class SnapshotDiffers(Exception):
    """A snapshot that was about to be written is not what the events say."""


class Samples:
    """The sampled accounts of one partition: about one in `every`, others with each process."""

    def __init__(self, packing: Packing, every: int) -> None:
        self._packing = packing
        self._every = every
        self._kept: dict[str, list[bytes]] = {}
        """By account, its snapshot (empty when it had none) and the events since."""

    def wants(self, account_id: str) -> bool:
        # Python's hash of a text is salted anew in each process.
        return hash(account_id) % self._every == 0

    def add(self, account_id: str, events: list[bytes], *, is_new: bool) -> None:
        """Keep an account's next events, which are committed."""
        kept = self._kept.get(account_id)
        if kept is None:
            if not is_new or len(self._kept) >= _MOST_ACCOUNTS:
                return
            kept = self._kept[account_id] = [b""]
        kept += events
        if sum(map(len, kept)) > _MOST_BYTES:
            del self._kept[account_id]

    def snapshotted(self, account_id: str, snapshot: bytes) -> None:
        """An account's snapshot is committed."""
        if account_id in self._kept or len(self._kept) < _MOST_ACCOUNTS:
            self._kept[account_id] = [snapshot]

    def check(self, account_id: str, snapshot: bytes) -> None:
        """Raises: `SnapshotDiffers` if what was kept of the account does not lead to this snapshot."""
        kept = self._kept.get(account_id)
        if kept is None:
            return
        try:
            found, wanted = self._replayed(account_id, kept), self._packing.unpack(account_id, snapshot)
            why = None if found == wanted else f"they differ in {_differences(found, wanted)}"
        except (ChainBroken, Undecodable, ValueError, SnapshotDamaged) as error:
            why = str(error)
        if why is not None:
            raise SnapshotDiffers(
                f"account {account_id}: its snapshot, which was not written, is not what its last snapshot and the "
                f"{len(kept) - 1} events since lead to: {why}. The events are not concerned, but commands may have "
                "been decided on a wrong state: look at what the account was answered. Started again with "
                "DAYBOOK_COMMAND_SERVICE_SNAPSHOTS=ignore, the service restores its state from the events"
            )

    def _replayed(self, account_id: str, kept: list[bytes]) -> Entry | None:
        entry = self._packing.unpack(account_id, kept[0]) if kept[0] else None
        for value in kept[1:]:
            account, previous = (None, CHAIN_START) if entry is None else (entry.account, entry.chain_hash)
            recorded = self._packing.codec.decode_event(value, previous=previous)
            entry = Entry(evolve(account, recorded.event), recorded.chain_hash, recorded.recorded_at)
        return entry


def _differences(found: Entry | None, wanted: Entry) -> str:
    """The names of the fields in which two differ. Their values may be personal, and go into a log."""
    if found is None:
        return "everything"
    parts = ((found, wanted), (found.account, wanted.account))
    names = [f.name for one, other in parts for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
    return ", ".join(name for name in names if name != "account")
