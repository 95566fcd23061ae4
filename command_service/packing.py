"""An account in one of its two forms: as an `Entry`, to be decided on, or packed into the bytes of its snapshot.

Packed it takes a fraction of the memory, so that is how most accounts are held; and what is held is what is written to
the snapshots topic, and what was read from it.
"""

from __future__ import annotations

import sys
from typing import Final, TypeVar

from msgspec import Struct

from command_service.domain.account import Account, Status
from command_service.domain.transfers import Transfers
from command_service.domain.withdrawals import Withdrawals
from schemas.codec import HEADER_BYTES, Codec, Undecodable
from schemas.snapshots import FINGERPRINT_BYTES, AccountSnapshot

_FINGERPRINT: Final = slice(HEADER_BYTES, HEADER_BYTES + FINGERPRINT_BYTES)
"""Where the fingerprint is in the bytes of a snapshot, and of a mark: it is their first field."""


class SnapshotDamaged(Exception):
    """A snapshot is not what was written. Nothing is decided on top of it."""


T = TypeVar("T")

_NO_WITHDRAWALS: Final = Withdrawals()
_NO_TRANSFERS: Final = Transfers()


class Entry(Struct, frozen=True, gc=False):
    """An account, and what its next event continues: the chain hash and the time of its last one (microseconds)."""

    account: Account
    chain_hash: bytes
    recorded_at: int


class Packing:
    """Packs accounts, and unpacks those that have its fingerprint."""

    def __init__(self, codec: Codec, fingerprint: bytes, events_topic_id: str) -> None:
        """`fingerprint` is `command_service.fingerprint` of the topic of events with that id."""
        self.codec = codec
        self.events_topic_id = events_topic_id
        self.fingerprint = fingerprint

    def is_ours(self, value: bytes) -> bool:
        """Whether a snapshot or a mark has our fingerprint. It is not decoded, since a restore reads millions."""
        return value[_FINGERPRINT] == self.fingerprint

    def pack(self, account_id: str, entry: Entry) -> bytes:
        account = entry.account
        return self.codec.encode_snapshot(
            AccountSnapshot(
                fingerprint=self.fingerprint,
                account_id=account_id,
                sequence=account.sequence,
                recorded_at=entry.recorded_at,
                chain_hash=entry.chain_hash,
                currency=account.currency,
                balance_minor=account.balance_minor,
                overdraft_limit_minor=account.overdraft_limit_minor,
                status=account.status.value,
                holder_name=account.holder_name,
                holder_email=account.holder_email,
                withdrawals=account.withdrawals.packed,
                withdrawals_forgotten=account.withdrawals.forgotten,
                in_transit_minor=account.in_transit_minor,
                transfers_open=account.transfers.open,
                transfers_settled=account.transfers.settled,
                holder_erased=account.holder_erased,
            )
        )

    def unpack(self, account_id: str, value: bytes) -> Entry:
        """Raises: `SnapshotDamaged`."""
        try:
            snapshot = self.codec.decode_snapshot(value)
            if snapshot.account_id != account_id:
                raise ValueError(f"it is that of account {snapshot.account_id}")  # noqa: TRY301
            account = Account(
                sequence=snapshot.sequence,
                # One text for all accounts of a currency.
                currency=sys.intern(snapshot.currency),
                balance_minor=snapshot.balance_minor,
                overdraft_limit_minor=snapshot.overdraft_limit_minor,
                status=Status(snapshot.status),
                holder_name=snapshot.holder_name,
                holder_email=snapshot.holder_email,
                withdrawals=_shared(Withdrawals(snapshot.withdrawals, snapshot.withdrawals_forgotten), _NO_WITHDRAWALS),
                in_transit_minor=snapshot.in_transit_minor,
                transfers=_shared(Transfers(snapshot.transfers_open, snapshot.transfers_settled), _NO_TRANSFERS),
                holder_erased=snapshot.holder_erased,
            )
        except (Undecodable, ValueError) as error:
            raise SnapshotDamaged(
                f"the snapshot of account {account_id} cannot be used: {error}. The events are not concerned: start "
                "the service with DAYBOOK_COMMAND_SERVICE_SNAPSHOTS=ignore once, and it restores the state from them "
                "and writes all snapshots anew"
            ) from error
        return Entry(account, snapshot.chain_hash, snapshot.recorded_at)


def _shared(found: T, none: T) -> T:
    """What was found; one object for all accounts that have nothing of the kind."""
    return none if found == none else found
