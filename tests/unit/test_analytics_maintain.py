"""Maintenance of the analytics table, alone and beside a projector that goes on writing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from daybook.analytics import maintain as maintenance
from daybook.analytics.catalog import account_events
from daybook.analytics.maintain import TableBusy, maintain
from daybook.analytics.query import arrow_source, query
from projectors import analytics, analytics_table
from projectors.projector import Batch, CheckpointMoved, SinkUnavailable
from schemas.connections import Connections
from schemas.events import AccountFrozen, FreezeCause
from schemas.iceberg import Place, place
from tests.analytics_table import SOURCE, connections, day_of_trade, filled, projector
from tests.recorded import batch, opened, recorded

ACCOUNTS = [("A-1", "EUR"), ("A-2", "JPY")]
NOW = timedelta(0)


@pytest.fixture
def to(tmp_path: Path) -> Connections:
    return connections(tmp_path)


@pytest.fixture
def table(to: Connections) -> Iterator[Table]:
    """Three days in two commits each."""
    for _ in range(2):
        filled(to, range(3), ACCOUNTS)
    with account_events(to) as table:
        yield table


def rows(table: Table) -> list[dict[str, object]]:
    return table.refresh().scan().to_arrow().sort_by("offset").to_pylist()


def files_below(folder: Path) -> set[str]:
    return {file.name for file in (folder / "warehouse" / "daybook").rglob("*") if file.is_file()}


def test_small_files_become_one_a_day_and_rows_and_place_stay(to: Connections, table: Table) -> None:
    before, stands = rows(table), place(table.metadata)

    outcome = maintain(table, older_than=NOW)

    assert (outcome.before.files, outcome.after.files) == (6, 3)
    assert (outcome.rewritten_files, outcome.written_files) == (6, 3)
    assert outcome.before.rows == outcome.after.rows == len(before)
    assert rows(table) == before
    assert place(table.metadata) == stands == Place(str(SOURCE), {0: len(before)})
    assert len(table.metadata.snapshots) == 1
    assert projector(to).checkpoint(0) == len(before)
    again = maintain(table, older_than=NOW)
    assert (again.rewritten_files, again.expired_snapshots) == (0, 0)


def test_what_is_in_order_already_is_sorted_by_offset_within_its_file(table: Table) -> None:
    maintain(table)

    for task in table.scan().plan_files():
        found = table.io.new_input(task.file.file_path)
        with found.open() as file:
            import pyarrow.parquet as pq  # noqa: PLC0415

            offsets = pq.read_table(file)["offset"].to_pylist()
        assert offsets == sorted(offsets)


def test_files_that_nothing_refers_to_are_deleted_and_all_others_stay(table: Table, tmp_path: Path) -> None:
    orphan = tmp_path / "warehouse" / "daybook" / "account_events" / "data" / "left-behind.parquet"
    orphan.write_bytes(b"a commit that was killed")

    young = maintain(table, older_than=NOW, orphans_older_than=timedelta(hours=1))
    assert (young.deleted_orphans, orphan.exists()) == (0, True)
    outcome = maintain(table, older_than=NOW, orphans_older_than=NOW)

    assert outcome.deleted_orphans > 6
    assert not orphan.exists()
    assert len([name for name in files_below(tmp_path) if name.endswith(".parquet")]) == 3
    assert query(table.refresh(), "SELECT count(*), sum(amount_minor) FROM account_events").rows == [(28, 480_000)]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(table: Table, tmp_path: Path) -> None:
    before, metadata = files_below(tmp_path), table.metadata_location

    outcome = maintain(table, older_than=NOW, orphans_older_than=NOW, dry_run=True)

    assert (outcome.rewritten_files, outcome.written_files) == (6, 3)
    assert outcome.expired_snapshots == 5
    assert outcome.after == outcome.before
    assert (files_below(tmp_path), table.refresh().metadata_location) == (before, metadata)


def test_branches_and_tags_keep_their_snapshots_and_files(table: Table) -> None:
    first = table.metadata.snapshots[0].snapshot_id
    table.manage_snapshots().create_tag(first, "audit-2026").commit()

    maintain(table.refresh(), older_than=NOW, orphans_older_than=NOW)

    assert len(table.refresh().scan(snapshot_id=first).to_arrow()) == 6


def test_a_compaction_that_the_projector_overtakes_is_made_again_on_top_of_it(
    to: Connections, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = projector(to)
    events = day_of_trade(3, ACCOUNTS, 8)
    overtaken = maintenance.write_days

    def overtake(*arguments: object) -> object:
        monkeypatch.undo()
        base = writer.checkpoint(0)
        assert base is not None
        writer.apply([Batch(0, base, events, range(base, base + len(events)), base + len(events))])
        return overtaken(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(maintenance, "write_days", overtake)
    outcome = maintain(table)

    assert outcome.rewritten_files == 6
    found = rows(table)
    assert [row["offset"] for row in found] == [*range(28 + len(events))]
    assert place(table.metadata) == Place(str(SOURCE), {0: len(found)})


def test_a_file_that_another_compaction_took_is_left_to_it(
    to: Connections, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = rows(table), maintenance.write_days

    def overtake(*arguments: object) -> object:
        monkeypatch.undo()
        with account_events(to) as other:
            maintain(other)
        return written(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(maintenance, "write_days", overtake)
    maintain(table)

    assert rows(table) == before


def test_a_table_that_is_written_without_pause_is_given_up_on(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_COMMIT_ATTEMPTS", 0)

    with pytest.raises(TableBusy, match="DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S"):
        maintain(table)


def test_beside_a_live_projector_no_row_is_lost_or_doubled(to: Connections) -> None:
    """The projector commits as fast as it can; maintenance deletes orphans as it never would, of two seconds' age."""
    filled(to, range(1), ACCOUNTS)
    stop, done = threading.Event(), Counter[str]()
    failures: list[BaseException] = []

    def project() -> None:
        writer, day = projector(to), 1
        try:
            base = writer.checkpoint(0)
            while not stop.is_set():
                events = day_of_trade(day % 4, ACCOUNTS, 2 + 2 * day)
                start = base or 0
                try:
                    writer.apply([Batch(0, base, events, range(start, start + len(events)), start + len(events))])
                    done["commits"] += 1
                    day += 1
                except CheckpointMoved:
                    done["moved"] += 1
                except SinkUnavailable:
                    done["waited"] += 1
                base = writer.checkpoint(0)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=project)
    thread.start()
    try:
        while thread.is_alive() and (done["commits"] < 40 or done["rewritten"] < 40):
            with account_events(to) as table:
                done["rewritten"] += maintain(
                    table, older_than=timedelta(seconds=1), orphans_older_than=timedelta(seconds=2)
                ).rewritten_files
    finally:
        stop.set()
        thread.join()

    assert not failures
    with account_events(to) as table:
        maintain(table)
        offsets = [row["offset"] for row in rows(table)]
        assert offsets == [*range(len(offsets))]
        assert place(table.metadata) == Place(str(SOURCE), {0: len(offsets)})
    assert min(done["commits"], done["rewritten"]) >= 40
    assert done["moved"] == 0, "maintenance has not moved the place"


def test_files_of_a_release_before_a_column_are_asked_and_compacted_with_those_after_it(
    to: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before_them:
        older = Schema(*analytics_table.SCHEMA.fields[: -len(analytics_table._ADDED)])
        before_them.setattr(analytics_table, "SCHEMA", older)
        before_them.setattr(analytics_table, "_ADDED", ())
        before_them.setattr(analytics, "_ARROW", schema_to_pyarrow(older, include_field_ids=False))
        filled(to, range(2), ACCOUNTS)
    with account_events(to) as table:
        assert "cause" not in {field.name for field in table.schema().fields}
        count = len(rows(table))
        frozen = recorded("A-9", 2, AccountFrozen(cause=FreezeCause.SANCTIONS))
        projector(to).apply([batch([opened("A-9"), frozen], base=count)])
        table.refresh()
        assert [(f.field_id, f.name) for f in table.schema().fields] == [
            (f.field_id, f.name) for f in analytics_table.SCHEMA.fields
        ]
        sql = "SELECT cause, count(*) AS events FROM account_events GROUP BY cause ORDER BY cause NULLS FIRST"
        wanted = [(None, count + 1), ("SANCTIONS", 1)]
        before = rows(table)
        assert isinstance(arrow_source(table), ds.Dataset)
        assert query(table, sql).rows == wanted
        maintain(table, older_than=NOW)
        assert rows(table) == before
        assert query(table.refresh(), sql).rows == wanted
