"""The analytics table: each event's row. Needs what `daybook[analytics]` installs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, assert_never

from pyiceberg.table import Table

from daybook.analytics.catalog import account_events, answering
from daybook.fold import Account
from daybook.log import LoggedEvent
from daybook.models import EPOCH
from daybook.positions import ANALYTICS
from daybook.verify.differences import compare, extra, missing
from daybook.verify.sides import Side
from schemas.connections import Connections
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
    said_cause,
)
from schemas.money import EXPONENTS

_CHUNK: Final = 100_000
"""Offsets read at once: some 50 MB of rows. Each scan reads the table's manifests anew, so they should not be many."""

_SLICE: Final = 1000
"""Rows made Python's at once, which take ten times the room."""

Row = Mapping[str, Any]


@contextmanager
def analytics(connections: Connections) -> Iterator[Side]:
    """The table's newest snapshot as of now, ready to be compared. Raises: `Unreachable`, `NotConfigured`."""
    with account_events(connections) as table:
        yield Side(ANALYTICS, _Trail(connections, table), None)


class _Trail:
    """See `daybook.verify.sides.Trail`."""

    def __init__(self, connections: Connections, table: Table) -> None:
        self._connections = connections
        self._table = table
        snapshot = table.current_snapshot()
        self._snapshot_id = None if snapshot is None else snapshot.snapshot_id
        self._rows: Iterator[Row] = iter(())
        self._next: Row | None = None

    def begin(self, partition: int, end: int) -> None:
        self._rows = self._partition(partition, end)
        self._next = next(self._rows, None)

    def event(self, logged: LoggedEvent, account: Account) -> None:
        item = f"event {logged.recorded.account_id}/{logged.recorded.sequence}"
        row = self._next
        if row is None or row["offset"] > logged.offset:
            raise missing(item)
        if row["offset"] < logged.offset:
            raise extra(_item(row))
        compare(item, expected_row(logged, account), {name: _plain(value) for name, value in row.items()})
        self._next = next(self._rows, None)

    def finish(self) -> None:
        if self._next is not None:
            raise extra(_item(self._next))

    def beyond(self, ends: Mapping[int, int]) -> Mapping[int, int]:
        for row in self._scan(f"partition < {min(ends)} or partition > {max(ends)}"):
            raise extra(_item(row))
        found: dict[int, int] = {}
        for partition, end in ends.items():
            for row in self._scan(f"partition = {partition} and offset >= {end}", ("offset",)):
                found[partition] = row["offset"] + 1
        return found

    def _partition(self, partition: int, end: int) -> Iterator[Row]:
        for start in range(0, end, _CHUNK):
            last = min(start + _CHUNK, end)
            yield from self._scan(f"partition = {partition} and offset >= {start} and offset < {last}")

    def _scan(self, rows: str, columns: tuple[str, ...] = ("*",)) -> Iterator[Row]:
        """The rows of the snapshot that fit, by offset."""
        if self._snapshot_id is None:
            return
        with answering(self._connections):
            scan = self._table.scan(row_filter=rows, selected_fields=columns, snapshot_id=self._snapshot_id)
            found = scan.to_arrow().sort_by("offset")
        for start in range(0, found.num_rows, _SLICE):
            yield from found.slice(start, _SLICE).to_pylist()


def expected_row(logged: LoggedEvent, account: Account) -> dict[str, object]:
    """The row that an event should have, given its account as it is after it. Times are microseconds."""
    recorded, event = logged.recorded, logged.recorded.event
    currency: str | None = account.currency
    amount = before = after = limit = previous_limit = withdrawal = cause = payout = None
    transfer = to_account = from_account = in_transit = code = None
    match event:
        case MoneyDeposited():
            amount, before, after = event.amount_minor, event.balance_minor - event.amount_minor, event.balance_minor
        case MoneyWithdrawn():
            amount, before, after = event.amount_minor, event.balance_minor + event.amount_minor, event.balance_minor
        case MoneyRefunded():
            amount, before, after = event.amount_minor, event.balance_minor - event.amount_minor, event.balance_minor
            withdrawal = event.withdrawal_sequence
        case TransferReceived():
            amount, before, after = event.amount_minor, event.balance_minor - event.amount_minor, event.balance_minor
            transfer, from_account = event.transfer_id, event.from_account_id
        case TransferSent() | TransferCompleted() | TransferReturned():
            transfer, to_account, in_transit = event.transfer_id, event.to_account_id, account.in_transit_minor
            amount = event.amount_minor
            # What is settled where it was received moves nothing on the account that it left long before.
            if not isinstance(event, TransferCompleted):
                before, after = account.balance_before_minor, account.balance_minor
            if isinstance(event, TransferReturned):
                code = event.code
        case AccountCreated():
            after, limit = 0, event.overdraft_limit_minor
        case OverdraftLimitSet():
            limit, previous_limit = event.new_limit_minor, event.previous_limit_minor
        case HolderChanged() | HolderErased() | AccountFrozen() | AccountUnfrozen() | AccountClosed():
            # Events that hold no amount say nothing of money.
            currency = None
            if isinstance(event, AccountFrozen):
                cause = said_cause(event)
            elif isinstance(event, AccountClosed):
                payout = event.payout_reference
        case _:
            assert_never(event)
    return {
        "event_id": recorded.event_id,
        "account_id": recorded.account_id,
        "sequence": recorded.sequence,
        "event_type": recorded.type_name,
        "recorded_at": recorded.recorded_at,
        "effective_at": recorded.effective_at,
        "user_id": recorded.user_id,
        "command_id": recorded.command_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "reason": recorded.reason,
        "chain_hash": recorded.chain_hash,
        "currency": currency,
        **_amounts("amount", amount, account.currency),
        **_amounts("balance_before", before, account.currency),
        **_amounts("balance_after", after, account.currency),
        **_amounts("overdraft_limit", limit, account.currency),
        **_amounts("previous_overdraft_limit", previous_limit, account.currency),
        "cause": cause,
        "payout_reference": payout,
        "transfer_id": transfer,
        "to_account_id": to_account,
        "from_account_id": from_account,
        **_amounts("in_transit", in_transit, account.currency),
        "code": code,
        "withdrawal_sequence": withdrawal,
        "partition": logged.partition,
        "offset": logged.offset,
    }


def _amounts(name: str, minor: int | None, currency: str) -> dict[str, object]:
    exact = None if minor is None else Decimal(minor).scaleb(-EXPONENTS[currency])
    return {f"{name}_minor": minor, name: exact}


def _plain(value: Any) -> Any:
    return (value - EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value


def _item(row: Row) -> str:
    return f"event {row['account_id']}/{row['sequence']}"
