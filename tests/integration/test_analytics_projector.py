"""The analytics projector and its rebuild as processes, from the real log to a real catalog and warehouse."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from daybook.analytics.catalog import account_events
from daybook.errors import Unreachable
from schemas.connections import Connections
from schemas.events import RecordedEvent
from schemas.iceberg import local_folder, place
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.recorded import histories

Start = Callable[..., Process]

Rows = list[tuple[str, int, int | None]]


@pytest.fixture
def log(deployed: Connections) -> Log:
    return Log(deployed)


@pytest.fixture
def warehouse(deployed: Connections) -> Path:
    folder = local_folder(deployed.iceberg_warehouse)
    assert folder is not None
    return folder


@pytest.fixture
def projector(start: Start, deployed: Connections) -> Callable[[], Process]:
    def begin() -> Process:
        return start("projectors", "analytics", env=environment(deployed, DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S="0.2"))

    return begin


def rows(connections: Connections) -> Rows:
    """All rows, so that one that is there twice shows; none while there is no table."""
    try:
        with account_events(connections) as table:
            columns = ("account_id", "sequence", "balance_after_minor")
            found = table.scan(selected_fields=columns).to_arrow().to_pylist()
    except Unreachable:
        return []
    return sorted(tuple(row[name] for name in columns) for row in found)


def expected(events: Sequence[RecordedEvent]) -> Rows:
    return sorted((e.account_id, e.sequence, getattr(e.event, "balance_minor", 0)) for e in events)


def become(connections: Connections, events: Sequence[RecordedEvent], timeout_s: float = 30.0) -> None:
    wanted = expected(events)
    until(lambda: rows(connections) == wanted, f"table with {len(wanted)} rows, each once", timeout_s)


def test_killed_at_random_times_and_beside_a_second_one_each_event_is_there_once(
    log: Log, deployed: Connections, projector: Callable[[], Process]
) -> None:
    events = histories(100, 20)
    log.append(events)
    first = projector()
    become(deployed, events)
    with account_events(deployed) as table:
        stands = place(table.metadata)
    assert stands is not None
    assert stands.offsets == log.ends()

    second = projector()
    for times in range(4):
        more = histories(100, 3, first=21 + 3 * times)
        log.append(more[:150])
        log.append_and_abort(histories(4, 1, first=999))
        victim = (first, second)[times % 2]
        victim.kill()
        log.append(more[150:])
        victim.start()
        events += more
    become(deployed, events, 60)
    assert [process.stop() for process in (first, second)] == [0, 0]
    become(deployed, events)


def test_an_older_copy_of_the_warehouse_and_a_deleted_one_catch_up_without_new_events(
    log: Log, deployed: Connections, warehouse: Path, tmp_path: Path, projector: Callable[[], Process]
) -> None:
    earlier, later = histories(20, 5), histories(20, 5, first=6)
    log.append(earlier)
    process = projector()
    become(deployed, earlier)
    shutil.copytree(warehouse, tmp_path / "copy")
    log.append(later)
    become(deployed, earlier + later)

    away = warehouse.with_name("away")
    warehouse.rename(away)
    (tmp_path / "copy").rename(warehouse)
    become(deployed, earlier + later)
    process.said("was expected: it was dropped, restored")
    warehouse.rename(warehouse.with_name("away-too"))
    become(deployed, earlier + later)
    assert process.stop() == 0


def test_a_rebuild_under_load_shows_readers_every_row_at_all_times(
    log: Log, deployed: Connections, projector: Callable[[], Process], start: Start
) -> None:
    events = histories(50, 20)
    log.append(events)
    projector()
    become(deployed, events)
    counts: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            counts.append(len(rows(deployed)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        rebuild = start("projectors.rebuild", "build", "analytics", "--keep-old", env=environment(deployed))
        sequence = 21
        while rebuild.running():
            more = histories(50, 1, first=sequence)
            log.append(more)
            events += more
            sequence += 1
            stop.wait(0.3)
        assert rebuild.wait() == 0, rebuild.output
    finally:
        stop.set()
        reader.join()

    become(deployed, events)
    assert counts == sorted(counts), "no reader has seen fewer rows than before"
    assert counts[0] >= 1000
    back = start("projectors.rebuild", "rollback", "analytics", env=environment(deployed))
    assert back.wait() == 0, back.output
    log.append(more := histories(50, 1, first=sequence))
    become(deployed, events + more)
