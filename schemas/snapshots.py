"""Snapshots: accounts as of one of their events, and the mark that says which events they hold.

They are derived from the events and can always be made anew; the log alone is the truth. Names and fields are a storage
format (`schemas/account/*.avsc`). Times are microseconds since the Unix epoch, in UTC; amounts are minor units.
"""

from __future__ import annotations

from typing import ClassVar, Final

from msgspec import Struct

FINGERPRINT_BYTES: Final = 8

MARK_KEY: Final = b"/restore-mark"
"""The key of a partition's mark on the snapshots topic. No account's id has a slash, so none is keyed like it."""


class AccountSnapshot(Struct, frozen=True, kw_only=True, gc=False):
    """One account. `withdrawals` is packed as in `command_service.domain.withdrawals`, and the transfers as in
    `command_service.domain.transfers`."""

    FULL_NAME: ClassVar[str] = "daybook.account.AccountSnapshot"

    fingerprint: bytes
    account_id: str
    sequence: int
    recorded_at: int
    chain_hash: bytes
    currency: str
    balance_minor: int
    overdraft_limit_minor: int
    status: str
    holder_name: str
    holder_email: str | None
    withdrawals: bytes
    withdrawals_forgotten: int
    in_transit_minor: int
    transfers_open: bytes
    transfers_settled: bytes
    holder_erased: bool


class RestoreMark(Struct, frozen=True, kw_only=True, gc=False):
    """All events of a partition before `events_offset` are inside the snapshots with the same fingerprint."""

    FULL_NAME: ClassVar[str] = "daybook.account.RestoreMark"

    fingerprint: bytes
    partition: int
    events_topic_id: str
    events_offset: int
    accounts: int
    taken_at: int


SNAPSHOT_TYPES: Final[tuple[type[AccountSnapshot] | type[RestoreMark], ...]] = (AccountSnapshot, RestoreMark)
"""What stands on the snapshots topic."""
