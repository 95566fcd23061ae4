"""The loop that feeds projectors, with a projector that takes its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from projectors.progress import Progress
from projectors.projector import Batch, CheckpointMoved
from projectors.runner import Runner, consumer
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.registry import Registry
from tests.event_log import Log
from tests.processes import until
from tests.recorded import histories


class Gathering:
    """Keeps what it is given, all of it or nothing, and wants to be given much at once."""

    name = "gathering"
    moves_without_events = False

    def __init__(self, linger_s: float) -> None:
        self.linger_s = linger_s
        self.stored: dict[int, int | None] = {}
        self.asked: list[int] = []
        self.applied: list[Sequence[Batch]] = []

    def checkpoint(self, partition: int) -> int | None:
        self.asked.append(partition)
        return self.stored.get(partition)

    def apply(self, batches: Sequence[Batch]) -> None:
        if any(self.stored.get(batch.partition) != batch.base for batch in batches):
            raise CheckpointMoved("it stands elsewhere")
        self.stored |= {batch.partition: batch.next_offset for batch in batches}
        self.applied.append(batches)

    @property
    def with_events(self) -> list[Sequence[Batch]]:
        return [batches for batches in self.applied if any(batch.events for batch in batches)]


@contextmanager
def running(connections: Connections, projector: Gathering) -> Iterator[Runner]:
    """The projector's loop, in a thread, once it reads; stopped at the end, which takes a second at most."""
    with Registry(connections) as registry:
        codec = Codec(registry)
        codec.look_up_events(connections.topics.events)
        runner = Runner(
            projector,
            consumer(connections, projector.name),
            connections.topics.events,
            codec,
            Progress(projector.name, CollectorRegistry()),
            batch_events=10_000,
        )
        thread = threading.Thread(target=runner.run)
        thread.start()
        try:
            until(lambda: len(projector.asked) == 4, "all partitions")
            yield runner
        finally:
            asked_at = time.monotonic()
            runner.stop()
            thread.join(60)
            took_s = time.monotonic() - asked_at
    # A turn lasts a tenth of a second; what lingers in these tests, far longer.
    assert took_s < 20


def test_a_projector_that_lets_events_linger_gets_those_of_all_partitions_at_once(deployed: Connections) -> None:
    log, projector = Log(deployed), Gathering(linger_s=10.0)
    events = histories(40, 4)
    with running(deployed, projector):
        for start in range(0, len(events), 40):
            log.append(events[start : start + 40])
        until(lambda: projector.with_events, "the first write")
        (batches,) = projector.with_events
        assert sorted(batch.partition for batch in batches) == [0, 1, 2, 3]
        assert sum(len(batch.events) for batch in batches) == len(events)
        assert projector.stored == log.ends()
        # It is asked where it stands all the same, and not moved.
        until(lambda: len(projector.applied) > 2, "two questions")
        assert all(b.next_offset == b.base for batches in projector.applied[1:] for b in batches)


def test_a_stop_does_not_wait_for_what_lingers(deployed: Connections) -> None:
    log, projector = Log(deployed), Gathering(linger_s=60.0)
    with running(deployed, projector):
        log.append(histories(40, 1))
        # Long enough for the events to be on their way; they are read again by whoever comes next.
        time.sleep(1)
        assert projector.with_events == []


def test_what_lingers_is_read_again_when_the_checkpoint_moved_meanwhile(deployed: Connections) -> None:
    log, projector = Log(deployed), Gathering(linger_s=3.0)
    with running(deployed, projector):
        log.append(histories(40, 2))
        until(lambda: projector.stored == log.ends(), "the end")
        projector.stored.clear()
        until(lambda: projector.stored == log.ends(), "the end again")
    again = projector.with_events[-1]
    assert sum(len(batch.events) for batch in again) == 80
    assert all(batch.base is None for batch in again)
