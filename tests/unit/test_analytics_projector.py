"""The analytics projector on a real catalog and warehouse: SQLite and a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from pyiceberg.table import Table, TableProperties
from pyiceberg.transforms import DayTransform

from daybook.analytics.catalog import account_events
from projectors.analytics import rows
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    FreezeCause,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    RecordedEvent,
)
from schemas.iceberg import Place, place
from schemas.money import EXPONENTS, INT64_MAX, INT64_MIN
from tests.analytics_table import DAY_US, FIRST_DAY, SOURCE, connections, filled, projector
from tests.recorded import (
    batch,
    completed,
    deposited,
    logs,
    opened,
    received,
    recorded,
    returned,
    sent,
    transfer_id,
)

EVENTS = [opened("A-1"), *(deposited("A-1", sequence, sequence - 1) for sequence in range(2, 8))]


@pytest.fixture
def to(tmp_path: Path) -> Connections:
    return connections(tmp_path)


@pytest.fixture
def table(to: Connections) -> Iterator[Table]:
    """The table as it was made; `refresh()` shows what is in it."""
    projector(to).checkpoint(0)
    with account_events(to) as table:
        yield table


def offsets(table: Table) -> list[int]:
    """The offsets of all rows, in order: one that is there twice shows."""
    return sorted(table.refresh().scan(selected_fields=("offset",)).to_arrow()["offset"].to_pylist())


def test_rows_and_the_place_in_the_log_of_all_partitions_arrive_in_one_snapshot(to: Connections, table: Table) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS[:3], base=None), batch([opened("B-1")], base=None, partition=2)])
    writer.apply([batch(EVENTS[3:], base=3)])

    assert [writer.checkpoint(partition) for partition in range(3)] == [7, None, 1]
    assert place(table.refresh().metadata) == Place(str(SOURCE), {0: 7, 2: 1})
    assert len(table.metadata.snapshots) == 2
    assert offsets(table) == [0, 0, 1, 2, 3, 4, 5, 6]


def test_the_table_is_partitioned_by_day_and_never_repeats_a_commit_by_itself(to: Connections, table: Table) -> None:
    filled(to, range(3), [("A-1", "EUR")])

    assert [type(field.transform) for field in table.spec().fields] == [DayTransform]
    assert len({file.partition[0] for file in (task.file for task in table.refresh().scan().plan_files())}) == 3
    assert table.properties[TableProperties.COMMIT_NUM_RETRIES] == "0"
    with table.transaction() as transaction:
        transaction.remove_properties(TableProperties.COMMIT_NUM_RETRIES)
    projector(to).checkpoint(0)
    assert table.refresh().properties[TableProperties.COMMIT_NUM_RETRIES] == "0"


def test_an_event_of_another_days_end_is_in_that_days_file(to: Connections, table: Table) -> None:
    last, first = (replace_time(deposited("A-1", s, 1), FIRST_DAY + DAY_US + s - 3) for s in (2, 3))

    projector(to).apply([batch([last, first], base=None)])

    days = {task.file.partition[0]: task.file.record_count for task in table.refresh().scan().plan_files()}
    assert days == {20_500: 1, 20_501: 1}


def replace_time(event: RecordedEvent, at: int) -> RecordedEvent:
    from msgspec.structs import replace as with_fields  # noqa: PLC0415

    return with_fields(event, recorded_at=at)


def test_what_a_row_has(to: Connections, table: Table) -> None:
    event = recorded("A-1", 3, MoneyWithdrawn(amount_minor=250, currency="EUR", balance_minor=-50))

    projector(to).apply([Batch(1, None, [event], [41], 42)])

    (row,) = table.refresh().scan().to_arrow().to_pylist()
    at = datetime.fromtimestamp(event.recorded_at / 1e6, UTC)
    assert row == {
        "event_id": event.event_id,
        "account_id": "A-1",
        "sequence": 3,
        "event_type": "MoneyWithdrawn",
        "recorded_at": at,
        "effective_at": at,
        "user_id": "teller",
        "command_id": event.command_id,
        "correlation_id": event.command_id,
        "causation_id": event.command_id,
        "reason": None,
        "chain_hash": bytes(32),
        "currency": "EUR",
        "amount": Decimal("2.5000"),
        "amount_minor": 250,
        "balance_before": Decimal("2.0000"),
        "balance_before_minor": 200,
        "balance_after": Decimal("-0.5000"),
        "balance_after_minor": -50,
        "overdraft_limit": None,
        "overdraft_limit_minor": None,
        "withdrawal_sequence": None,
        "partition": 1,
        "offset": 41,
        "previous_overdraft_limit": None,
        "previous_overdraft_limit_minor": None,
        "cause": None,
        "payout_reference": None,
        "transfer_id": None,
        "to_account_id": None,
        "from_account_id": None,
        "in_transit": None,
        "in_transit_minor": None,
        "code": None,
    }


def test_what_a_transfer_has_on_both_accounts() -> None:
    events = [
        sent("A-1", 3, 1, amount=30, balance=70, in_transit=50),
        received("B-1", 2, 1, amount=30, balance=90),
        completed("A-1", 4, 1, amount=30, in_transit=20),
        returned("A-1", 5, 2, amount=20, balance=90),
    ]
    found = rows([batch(events, base=None)])

    names = ("amount_minor", "balance_before_minor", "balance_after_minor", "in_transit_minor", "in_transit")
    assert [found[name].to_pylist() for name in names] == [
        [30, 30, 30, 20],
        [100, 60, None, 70],
        [70, 90, None, 90],
        [50, None, 20, 0],
        [Decimal("0.5000"), None, Decimal("0.2000"), Decimal("0.0000")],
    ]
    names = ("transfer_id", "to_account_id", "from_account_id", "code")
    assert [found[name].to_pylist() for name in names] == [
        [transfer_id(1), transfer_id(1), transfer_id(1), transfer_id(2)],
        ["B-1", None, "B-1", "B-1"],
        [None, "A-1", None, None],
        [None, None, None, "account_closed"],
    ]


def test_events_that_move_no_money_have_no_amount_and_what_they_set() -> None:
    events = [
        recorded("A-1", 1, AccountCreated(currency="EUR", holder_name="Ada", overdraft_limit_minor=7)),
        recorded("A-1", 2, OverdraftLimitSet(previous_limit_minor=5, new_limit_minor=9, currency="EUR")),
        recorded("A-1", 3, MoneyRefunded(amount_minor=1, currency="EUR", balance_minor=4, withdrawal_sequence=2)),
    ]
    found = rows([batch(events, base=None)])

    names = ("amount_minor", "balance_before_minor", "balance_after_minor", "overdraft_limit_minor")
    assert [found[name].to_pylist() for name in (*names, "withdrawal_sequence")] == [
        [None, None, 1],
        [None, None, 3],
        [0, None, 4],
        [7, 9, None],
        [None, None, 2],
    ]
    assert not {"holder_name", "holder_email"} & set(found.column_names), "personal data would outlive its erasure"


@pytest.mark.parametrize("minor", [INT64_MAX, INT64_MIN, -1, 0, 123456789])
def test_any_amount_of_64_bits_in_any_currency_is_exact(minor: int) -> None:
    by_exponent = {exponent: code for code, exponent in EXPONENTS.items()}
    events = [
        recorded("A-1", 1, MoneyDeposited(amount_minor=0, currency=code, balance_minor=minor))
        for code in by_exponent.values()
    ]

    found = rows([batch(events, base=None)])["balance_after"].to_pylist()

    assert found == [Decimal(minor).scaleb(-exponent) for exponent in by_exponent]


def test_a_balance_that_no_ledger_can_have_stops_it_and_names_the_event() -> None:
    event = recorded("A-1", 2, MoneyDeposited(amount_minor=1, currency="EUR", balance_minor=INT64_MIN))

    with pytest.raises(CannotProject, match=r"event A-1/2: .* beyond 64 bits"):
        rows([batch([event], base=None)])


@given(logs())
def test_every_event_becomes_one_row_in_order(log: list[RecordedEvent]) -> None:
    fits = [e for e in log if INT64_MIN < getattr(e.event, "balance_minor", 0) < INT64_MAX]
    found = rows([batch(fits, base=5)])

    assert found["sequence"].to_pylist() == [event.sequence for event in fits]
    assert found["event_type"].to_pylist() == [event.type_name for event in fits]
    assert found["balance_after_minor"].to_pylist() == [
        0 if isinstance(e.event, AccountCreated) else getattr(e.event, "balance_minor", None) for e in fits
    ]
    assert found["offset"].to_pylist() == [*range(5, 5 + len(fits))]


def test_of_two_writers_the_stale_one_writes_nothing(to: Connections, table: Table) -> None:
    first, second = projector(to), projector(to)
    assert first.checkpoint(0) is None
    assert second.checkpoint(0) is None
    first.apply([batch(EVENTS[:3], base=None)])

    with pytest.raises(CheckpointMoved, match="stands at 3 in partition 0, where none was expected"):
        second.apply([batch(EVENTS[:2], base=None)])
    assert offsets(table) == [0, 1, 2]


def test_a_writer_that_loses_between_looking_and_committing_looks_again(
    to: Connections, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked at the same snapshot. The loser's commit is refused, and then its place is found to have moved."""
    stale, other = projector(to), projector(to)
    stale.apply([batch(EVENTS[:1], base=None)])
    commit = stale._commit
    attempts = 0

    def late(at: Table, files: object, reached: Place) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            other.apply([batch(EVENTS[1:3], base=1)])
        return commit(at, files, reached)  # type: ignore[arg-type]

    monkeypatch.setattr(stale, "_commit", late)
    with pytest.raises(CheckpointMoved, match="stands at 3"):
        stale.apply([batch(EVENTS[1:4], base=1)])
    assert (attempts, offsets(table)) == (1, [0, 1, 2])

    attempts = 0
    monkeypatch.setattr(other, "apply", lambda _: projector(to).apply([batch([opened("B-1")], base=None, partition=1)]))
    stale.apply([batch(EVENTS[3:], base=3)])
    assert attempts == 2, "another partition's commit came first, which is no reason to give up"
    assert offsets(table) == [0, 0, 1, 2, 3, 4, 5, 6]
    assert place(table.metadata) == Place(str(SOURCE), {0: 7, 1: 1})


def test_others_snapshots_without_a_place_do_not_hide_it(to: Connections, table: Table) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS[:1], base=None)])
    writer.apply([batch(EVENTS[1:3], base=1)])
    table.refresh().delete("offset = 0")

    assert writer.checkpoint(0) == 3
    writer.apply([batch(EVENTS[3:], base=3)])
    assert offsets(table) == [1, 2, 3, 4, 5, 6]


def test_rows_whose_place_was_lost_stop_it(to: Connections, table: Table) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS[:1], base=None)])
    writer.apply([batch(EVENTS[1:3], base=1)])
    placed = [snapshot.snapshot_id for snapshot in table.refresh().metadata.snapshots]
    table.delete("offset = 0")
    table.maintenance.expire_snapshots().by_ids(placed).commit()

    with pytest.raises(CannotProject, match=r"holds rows, and no snapshot of branch main says up to which offsets"):
        writer.checkpoint(0)


def test_a_table_of_another_log_is_left_alone(to: Connections, table: Table) -> None:
    projector(to).apply([batch(EVENTS, base=None)])
    other = projector(to, Source("cluster", "account.events", "topic-2"))

    with pytest.raises(CannotProject, match=r"events of another log: cluster/account\.events/topic-1"):
        other.checkpoint(0)
    with pytest.raises(CannotProject, match="another log"):
        other.apply([batch(EVENTS, base=None)])
    assert offsets(table) == [*range(7)]


def test_a_table_of_something_else_stops_it(to: Connections, table: Table) -> None:
    with table.update_schema() as update:
        update.rename_column("balance_after", "balance")

    with pytest.raises(CannotProject, match=r"column balance_after of daybook\.account_events, .* is missing"):
        projector(to).checkpoint(0)


def test_a_table_of_an_older_release_gets_the_columns_it_lacks(to: Connections, table: Table) -> None:
    projector(to).apply([batch(EVENTS, base=None)])
    before = table.refresh().schema()
    with table.update_schema(allow_incompatible_changes=True) as update:
        for name in (
            *("previous_overdraft_limit", "previous_overdraft_limit_minor", "cause", "payout_reference"),
            *("transfer_id", "to_account_id", "from_account_id", "in_transit", "in_transit_minor", "code"),
        ):
            update.delete_column(name)
    later = [
        recorded("A-9", 1, OverdraftLimitSet(previous_limit_minor=5, new_limit_minor=9, currency="EUR")),
        recorded("A-9", 2, AccountFrozen(cause=FreezeCause.COURT_ORDER)),
        recorded("A-9", 3, AccountClosed(payout_reference="SEPA 7")),
        returned("A-9", 4, 1, amount=30, in_transit=20),
    ]

    projector(to).apply([batch(later, base=len(EVENTS))])

    assert [field.name for field in table.refresh().schema().fields] == [field.name for field in before.fields]
    rows = table.scan().to_arrow().sort_by("offset").to_pylist()
    own = ("overdraft_limit", "previous_overdraft_limit", "previous_overdraft_limit_minor", "cause", "payout_reference")
    assert [tuple(row[name] for name in own[1:]) for row in rows[: len(EVENTS)]] == [(None,) * 4] * len(EVENTS)
    *rest, back = rows[len(EVENTS) :]
    assert (back["transfer_id"], back["in_transit_minor"], back["code"]) == (transfer_id(1), 20, "account_closed")
    assert [tuple(row[name] for name in own) for row in rest] == [
        (Decimal("0.0900"), Decimal("0.0500"), 5, None, None),
        (None, None, None, "COURT_ORDER", None),
        (None, None, None, None, "SEPA 7"),
    ]


def test_an_older_copy_of_the_warehouse_is_noticed_when_idle_and_caught_up(to: Connections, tmp_path: Path) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS[:3], base=None)])
    shutil.copytree(tmp_path / "warehouse", tmp_path / "copy")
    writer.apply([batch(EVENTS[3:], base=3)])
    idle = [Batch(0, 7, (), (), 7)]
    writer.apply(idle)
    shutil.rmtree(tmp_path / "warehouse")
    shutil.copytree(tmp_path / "copy", tmp_path / "warehouse")

    with pytest.raises(CheckpointMoved, match="stands at 3"):
        writer.apply(idle)
    assert writer.checkpoint(0) == 3
    writer.apply([batch(EVENTS[3:], base=3)])
    with account_events(to) as table:
        assert offsets(table) == [*range(7)]


@pytest.mark.parametrize("how", ["dropped table", "deleted warehouse", "deleted files, with the catalog elsewhere"])
def test_a_table_that_is_gone_is_noticed_when_idle_and_made_again(to: Connections, tmp_path: Path, how: str) -> None:
    if how.endswith("elsewhere"):
        to = to.model_copy(update={"iceberg_catalog": f"sqlite:///{tmp_path}/catalog.db"})
    writer = projector(to)
    writer.apply([batch(EVENTS, base=None)])
    if how == "dropped table":
        with account_events(to) as table:
            table.catalog.drop_table(table.name())
    else:
        shutil.rmtree(tmp_path / "warehouse")

    with pytest.raises(CheckpointMoved, match="stands at no offset"):
        writer.apply([Batch(0, 7, (), (), 7)])
    assert writer.checkpoint(0) is None
    writer.apply([batch(EVENTS, base=None)])
    with account_events(to) as table:
        assert offsets(table) == [*range(7)]


def test_metadata_that_is_missing_is_waited_for_and_named(to: Connections, table: Table) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS, base=None)])
    metadata = Path(table.refresh().metadata_location.removeprefix("file://"))
    metadata.rename(metadata.with_suffix(".away"))

    with pytest.raises(SinkUnavailable, match=metadata.name):
        writer.checkpoint(0)
    metadata.with_suffix(".away").rename(metadata)
    assert writer.checkpoint(0) == 7


def test_a_warehouse_that_cannot_be_written_is_waited_for(to: Connections, tmp_path: Path) -> None:
    writer = projector(to)
    writer.apply([batch(EVENTS[:3], base=None)])
    data = tmp_path / "warehouse" / "daybook" / "account_events" / "data"
    data.rename(data.with_name("away"))
    data.write_text("in the way")

    with pytest.raises(SinkUnavailable, match="Iceberg: "):
        writer.apply([batch(EVENTS[3:], base=3)])
    data.unlink()
    data.with_name("away").rename(data)
    writer.apply([batch(EVENTS[3:], base=3)])
    with account_events(to) as table:
        assert offsets(table) == [*range(7)]


def test_a_catalog_that_is_not_there_is_waited_for() -> None:
    nowhere = Connections(
        kafka_bootstrap="nowhere:1", registry_url="http://nowhere:1", iceberg_catalog="http://127.0.0.1:9/"
    )

    with pytest.raises(SinkUnavailable, match="Iceberg: "):
        projector(nowhere).checkpoint(0)


def test_the_number_of_snapshots_is_bounded(to: Connections, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projectors.analytics._MOST_SNAPSHOTS", 4)
    writer = projector(to)
    for offset, event in enumerate(EVENTS):
        writer.apply([Batch(0, offset or None, [event], [offset], offset + 1)])

    assert len(table.refresh().metadata.snapshots) <= 4
    assert (writer.checkpoint(0), offsets(table)) == (7, [*range(7)])
