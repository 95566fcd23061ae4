"""Building the analytics table anew on a branch, on a real catalog and warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyiceberg.table import Table

from daybook.analytics.catalog import account_events
from projectors import analytics
from projectors.analytics_rebuild import AnalyticsRebuild
from projectors.analytics_table import EventsTable
from projectors.projector import Batch, CheckpointMoved
from projectors.rebuilding import REOPENED, CannotRebuild, LiveMoved
from schemas.connections import Connections
from schemas.iceberg import Place, place
from tests.analytics_table import SOURCE, connections, projector
from tests.recorded import batch, deposited, opened

EVENTS = [opened("A-1"), *(deposited("A-1", sequence, sequence - 1) for sequence in range(2, 8))]


@pytest.fixture
def to(tmp_path: Path) -> Connections:
    return connections(tmp_path)


@pytest.fixture
def rebuild(to: Connections) -> AnalyticsRebuild:
    return AnalyticsRebuild(EventsTable(to), SOURCE)


@pytest.fixture
def table(to: Connections) -> Iterator[Table]:
    projector(to).checkpoint(0)
    with account_events(to) as table:
        yield table


def amounts(table: Table) -> list[int | None]:
    return table.refresh().scan().to_arrow().sort_by("offset")["amount_minor"].to_pylist()


def ignore(_: int) -> None:
    pass


def test_a_wrong_model_is_corrected_without_readers_seeing_the_copy(
    to: Connections, table: Table, rebuild: AnalyticsRebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = projector(to)
    right = analytics.change
    monkeypatch.setattr(analytics, "change", lambda event: right(event)._replace(amount=99))
    live.apply([batch(EVENTS, base=None)])
    monkeypatch.undo()
    rebuild.begin("now")

    rebuild.copy.apply([batch(EVENTS[:4], base=None)])
    assert amounts(table) == [99] * 7
    first = rebuild.compare(None, ignore)
    assert (first.compared, first.differing) == (4, 4)
    assert first.examples[1].what == "event A-1/2 (partition 0, offset 1)"
    assert first.examples[1].live == "amount 0.9900, amount_minor 99"
    assert first.examples[1].rebuilt == "amount 0.0100, amount_minor 1"
    assert rebuild.compare({"B-1"}, ignore).compared == 0

    rebuild.copy.apply([batch(EVENTS[4:], base=4)])
    rebuild.switch(keep_old=False)
    assert amounts(table) == [None, 1, 1, 1, 1, 1, 1]
    assert set(table.metadata.refs) == {"main"}
    assert live.checkpoint(0) == 7
    live.apply([batch([deposited("A-1", 8, 7)], base=7)])
    assert len(amounts(table)) == 8


def test_equal_models_have_no_differences_and_missing_and_doubled_rows_are_named(
    to: Connections, table: Table, rebuild: AnalyticsRebuild
) -> None:
    live = projector(to)
    live.apply([batch(EVENTS, base=None)])
    rebuild.begin("now")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    assert (rebuild.compare(None, ignore).compared, rebuild.compare(None, ignore).differing) == (7, 0)
    rebuild.discard()

    rebuild.begin("now")
    wrong = [EVENTS[0], EVENTS[1], EVENTS[1], *EVENTS[3:]]
    rebuild.copy.apply([Batch(0, None, wrong, [0, 1, 1, 3, 4, 5, 6], 7)])
    found = rebuild.compare(None, ignore)
    assert [(d.what, d.live, d.rebuilt) for d in found.examples] == [
        ("event A-1/2 (partition 0, offset 1)", "1 rows", "2 rows"),
        ("event A-1/3 (partition 0, offset 2)", "1 rows", "is missing"),
    ]


def test_a_live_model_that_went_on_is_not_replaced(to: Connections, table: Table, rebuild: AnalyticsRebuild) -> None:
    live = projector(to)
    live.apply([batch(EVENTS[:3], base=None)])
    rebuild.begin("now")
    rebuild.copy.apply([batch(EVENTS[:3], base=None)])
    live.apply([batch(EVENTS[3:], base=3)])

    with pytest.raises(LiveMoved, match=r"partition 0 of daybook\.account_events stands at 7, its copy at 3"):
        rebuild.switch(keep_old=True)
    rebuild.copy.apply([batch(EVENTS[3:], base=3)])
    rebuild.switch(keep_old=True)
    assert len(amounts(table)) == 7


def test_the_kept_model_can_be_gone_back_to(to: Connections, table: Table, rebuild: AnalyticsRebuild) -> None:
    live = projector(to)
    live.apply([batch(EVENTS[:3], base=None)])
    old = table.refresh().current_snapshot()
    rebuild.begin("now")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    rebuild.switch(keep_old=True)
    assert (rebuild.begun(), rebuild.kept()) == (None, True)
    with pytest.raises(CheckpointMoved):
        live.apply([Batch(0, 3, (), (), 3)])

    rebuild.reopen()
    rebuild.reopen()
    assert (rebuild.begun(), rebuild.kept()) == (REOPENED, False)
    assert rebuild.copy.checkpoint(0) == 3
    rebuild.copy.apply([batch(EVENTS[3:], base=3)])
    rebuild.switch(keep_old=True)
    assert len(amounts(table)) == 7
    current = table.current_snapshot()
    assert current is not None
    assert old is not None
    assert current.parent_snapshot_id == old.snapshot_id
    rebuild.discard()
    assert (rebuild.begun(), rebuild.kept()) == (None, False)
    with pytest.raises(CannotRebuild, match="no old model of analytics was kept"):
        rebuild.reopen()


def test_a_copy_of_a_table_without_events_can_be_begun_resumed_and_discarded(
    to: Connections, table: Table, rebuild: AnalyticsRebuild
) -> None:
    assert (rebuild.begun(), rebuild.kept()) == (None, False)
    rebuild.begin("now")
    assert rebuild.begun() == "now"
    assert rebuild.copy.checkpoint(0) is None
    rebuild.copy.apply([batch(EVENTS, base=None)])
    assert AnalyticsRebuild(EventsTable(to), SOURCE).begun() == "now"
    assert rebuild.live_checkpoints([0, 1]) == {0: None, 1: None}
    assert amounts(table) == []
    rebuild.discard()
    assert (rebuild.begun(), place(table.refresh().metadata)) == (None, Place(str(SOURCE), {}))
    with pytest.raises(CannotRebuild, match="has no branch rebuild"):
        rebuild.switch(keep_old=False)


def test_a_commit_to_the_other_branch_at_the_same_moment_holds_neither_up(
    to: Connections, table: Table, rebuild: AnalyticsRebuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = projector(to)
    rebuild.begin("now")
    commit = rebuild.copy._commit

    def late(*arguments: object) -> bool:
        monkeypatch.undo()
        live.apply([batch(EVENTS, base=None)])
        return commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rebuild.copy, "_commit", late)
    rebuild.copy.apply([batch(EVENTS, base=None)])

    assert (live.checkpoint(0), rebuild.copy.checkpoint(0)) == (7, 7)
    assert rebuild.compare(None, ignore).differing == 0
    assert len(amounts(table)) == 7
