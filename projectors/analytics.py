"""The `analytics` read model: an Apache Iceberg table with one row an event, for whoever asks "how did it develop?".

The table `daybook.account_events` (`daybook_<namespace>` in a ledger with a namespace) has a file for each commit and
day of `recorded_at`; docs/ANALYTICS.md lists its columns. A commit gathers what comes within some seconds, and its
snapshot's summary says which log was read and, for all partitions, which offset to read next. So rows and place are
there together or not at all, and a commit that does not build on the branch's newest snapshot is refused.

Holders' names and addresses are not in it: old snapshots and files live on for a while, and would keep what is to be
forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, assert_never

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import fields
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH

from projectors.analytics_table import SCHEMA, EventsTable
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.source import Source
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    RecordedEvent,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
    said_cause,
)
from schemas.iceberg import LeanTransaction, Place, expirable, expire, write_days
from schemas.money import EXPONENTS, INT64_MAX, INT64_MIN

_ARROW: Final = schema_to_pyarrow(SCHEMA, include_field_ids=False)
_TEXT: Final = _ARROW.field("currency").type
_AMOUNT: Final = _ARROW.field("amount").type
_COMMON: Final = tuple(field.name for field in fields(RecordedEvent) if field.name != "event")
"""The columns that every event has a field for."""
_OWN: Final = (
    "withdrawal_sequence",
    "cause",
    "payout_reference",
    "transfer_id",
    "to_account_id",
    "from_account_id",
    "code",
)
"""The columns that are a field of `Change` as it is."""
_WHOLE: Final = pa.decimal128(19, 0)
"""Any 64-bit number as a decimal."""

_MOST_SNAPSHOTS: Final = 1_000
"""A commit's time and its metadata file grow with the snapshots that the table has: with a thousand it takes a few
tenths of a second. A thousand are what one commit every five seconds makes in 80 minutes. Rows do not depend on it."""

_COMMIT_ATTEMPTS: Final = 5
"""Compactions and rebuilds commit to the table too, rarely in the same tenth of a second."""


class AnalyticsProjector:
    """See `projectors.projector.Projector`. `source` is the log that the table is made from.

    `branch` is the table's branch that is written: another than `main` builds a copy that readers do not see.
    """

    name: Final = "analytics"
    moves_without_events: Final = False

    def __init__(
        self, table: EventsTable, source: Source, *, commit_interval_s: float, branch: str = MAIN_BRANCH
    ) -> None:
        self._table = table
        self._log = str(source)
        self._branch = branch
        self.linger_s: float = commit_interval_s

    def checkpoint(self, partition: int) -> int | None:
        with self._table.loaded() as table:
            return self._table.place(table, self._log, self._branch).offsets.get(partition)

    def apply(self, batches: Sequence[Batch]) -> None:
        written: tuple[object, Sequence[DataFile]] | None = None
        for _ in range(_COMMIT_ATTEMPTS):
            with self._table.loaded() as table:
                place = self._reached(table, batches)
                if place is None:
                    return
                if written is None or written[0] != table.metadata.table_uuid:
                    has_events = any(batch.events for batch in batches)
                    written = table.metadata.table_uuid, write_days(table, rows(batches)) if has_events else ()
                if self._commit(table, written[1], place):
                    return
        raise SinkUnavailable(
            f"others committed to {self._table.name} first, {_COMMIT_ATTEMPTS} times in a row: is more than one "
            "analytics projector writing it?"
        )

    def _reached(self, table: Table, batches: Sequence[Batch]) -> Place | None:
        """Where the table stands with the batches; None when they leave it where it is.

        Raises: `CheckpointMoved`.
        """
        stands = self._table.place(table, self._log, self._branch).offsets
        for batch in batches:
            if stands.get(batch.partition) != batch.base:
                raise CheckpointMoved(
                    f"{self._table.name} stands at {stands.get(batch.partition, 'no offset')} in partition "
                    f"{batch.partition}, where {'none' if batch.base is None else batch.base} was expected: it was "
                    "dropped, restored or switched, or another projector wrote"
                )
        moved = {b.partition: b.next_offset for b in batches if b.next_offset is not None and b.next_offset != b.base}
        return Place(self._log, {**stands, **moved}) if moved else None

    def _commit(self, table: Table, files: Sequence[DataFile], place: Place) -> bool:
        """Add files and place to the branch in one commit; False when another commit came first.

        That may have been a compaction, or one to another branch. Only the place, looked at anew, tells whether the
        same files may be committed on top of it.
        """
        transaction = LeanTransaction(table)
        snapshot = transaction.update_snapshot(snapshot_properties=place.summary(), branch=self._branch)
        try:
            with snapshot.merge_append() as append:
                for file in files:
                    append.append_data_file(file)
            transaction.commit_transaction()
        except CommitFailedException:
            return False
        if len(table.metadata.snapshots) > _MOST_SNAPSHOTS:
            expire(table, expirable(table.metadata)[: _MOST_SNAPSHOTS // 2])
        return True


class Change(NamedTuple):
    """What an event did to its account, in minor units; None where it did nothing of the kind."""

    currency: str | None = None
    amount: int | None = None
    before: int | None = None
    after: int | None = None
    overdraft_limit: int | None = None
    withdrawal_sequence: int | None = None
    previous_overdraft_limit: int | None = None
    cause: str | None = None
    payout_reference: str | None = None
    transfer_id: str | None = None
    to_account_id: str | None = None
    from_account_id: str | None = None
    in_transit: int | None = None
    code: str | None = None


_NOTHING: Final = Change()


def change(event: Event) -> Change:
    """The columns that are an event's own. Only what moves money has a balance, which needs no look at other events."""
    match event:
        case MoneyDeposited():
            after = event.balance_minor
            return Change(event.currency, event.amount_minor, after - event.amount_minor, after)
        case MoneyWithdrawn():
            after = event.balance_minor
            return Change(event.currency, event.amount_minor, after + event.amount_minor, after)
        case MoneyRefunded():
            after, withdrawal = event.balance_minor, event.withdrawal_sequence
            return Change(event.currency, event.amount_minor, after - event.amount_minor, after, None, withdrawal)
        case TransferSent():
            after = event.balance_minor
            return Change(
                event.currency,
                event.amount_minor,
                after + event.amount_minor,
                after,
                transfer_id=event.transfer_id,
                to_account_id=event.to_account_id,
                in_transit=event.in_transit_minor,
            )
        case TransferReceived():
            after = event.balance_minor
            return Change(
                event.currency,
                event.amount_minor,
                after - event.amount_minor,
                after,
                transfer_id=event.transfer_id,
                from_account_id=event.from_account_id,
            )
        case TransferCompleted():
            return Change(
                event.currency,
                event.amount_minor,
                transfer_id=event.transfer_id,
                to_account_id=event.to_account_id,
                in_transit=event.in_transit_minor,
            )
        case TransferReturned():
            after = event.balance_minor
            return Change(
                event.currency,
                event.amount_minor,
                after - event.amount_minor,
                after,
                transfer_id=event.transfer_id,
                to_account_id=event.to_account_id,
                in_transit=event.in_transit_minor,
                code=event.code,
            )
        case AccountCreated():
            return Change(event.currency, None, None, 0, event.overdraft_limit_minor)
        case OverdraftLimitSet():
            limit, previous = event.new_limit_minor, event.previous_limit_minor
            return Change(event.currency, overdraft_limit=limit, previous_overdraft_limit=previous)
        case AccountFrozen():
            return Change(cause=said_cause(event))
        case AccountClosed():
            return Change(payout_reference=event.payout_reference)
        case HolderChanged() | HolderErased() | AccountUnfrozen():
            return _NOTHING
        case _:
            assert_never(event)


def rows(batches: Sequence[Batch]) -> pa.Table:
    """The rows of batches, in the order of the table's columns.

    Raises:
        CannotProject: a currency is not known, or the balance before an event is beyond 64 bits: no ledger of this
            release writes either.
    """
    events = [recorded for batch in batches for recorded in batch.events]
    changes = [change(recorded.event) for recorded in events]
    columns: dict[str, Any] = {name: [getattr(recorded, name) for recorded in events] for name in _COMMON}
    columns["event_type"] = [type(recorded.event).__name__ for recorded in events]
    columns["currency"] = currencies = pa.array([c.currency for c in changes], _TEXT)
    exponents = _by_exponent(currencies)
    for name, values in (
        ("amount", [c.amount for c in changes]),
        ("balance_before", _within_64_bits(events, [c.before for c in changes])),
        ("balance_after", [c.after for c in changes]),
        ("overdraft_limit", [c.overdraft_limit for c in changes]),
        ("previous_overdraft_limit", [c.previous_overdraft_limit for c in changes]),
        ("in_transit", [c.in_transit for c in changes]),
    ):
        minor = pa.array(values, pa.int64())
        columns[f"{name}_minor"] = minor
        columns[name] = _amounts(minor, exponents)
    for name in _OWN:
        columns[name] = [getattr(c, name) for c in changes]
    columns["partition"] = [batch.partition for batch in batches for _ in batch.events]
    columns["offset"] = [offset for batch in batches for offset in batch.offsets]
    return pa.Table.from_arrays(
        [
            columns[field.name]
            if isinstance(columns[field.name], pa.Array)
            else pa.array(columns[field.name], field.type)
            for field in _ARROW
        ],
        schema=_ARROW,
    )


def _by_exponent(currencies: pa.Array) -> dict[int, pa.Array]:
    """For each exponent that occurs, which rows have a currency of it."""
    codes: dict[int, list[str]] = {}
    for code in pc.unique(currencies).to_pylist():
        if code is None:
            continue
        if code not in EXPONENTS:
            raise CannotProject(f"{code} is no currency that this release knows: update the projector")
        codes.setdefault(EXPONENTS[code], []).append(code)
    return {exponent: pc.is_in(currencies, value_set=pa.array(found, _TEXT)) for exponent, found in codes.items()}


def _amounts(minor: pa.Array, exponents: Mapping[int, pa.Array]) -> pa.Array:
    """Minor units as decimal amounts, exactly."""
    whole = minor.cast(_WHOLE)
    amounts = pa.nulls(len(minor), _AMOUNT)
    for exponent, of_it in exponents.items():
        # Times a decimal one of as many decimals, which moves the point and keeps the digits.
        unit = pa.scalar(Decimal(1).scaleb(-exponent), pa.decimal128(exponent + 1, exponent))
        amounts = pc.if_else(of_it, pc.multiply(whole, unit).cast(_AMOUNT), amounts)
    return amounts


def _within_64_bits(events: Sequence[RecordedEvent], balances: list[int | None]) -> Iterable[int | None]:
    for recorded, balance in zip(events, balances, strict=True):
        if balance is not None and not INT64_MIN <= balance <= INT64_MAX:
            raise CannotProject(
                f"event {recorded.account_id}/{recorded.sequence}: the balance before it would be {balance} minor "
                "units, which is beyond 64 bits. Something other than the command service wrote it"
            )
    return balances
