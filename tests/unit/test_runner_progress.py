"""The numbers that a projector tells about itself."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from projectors.progress import Progress, Reached, State


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def progress(registry: CollectorRegistry) -> Progress:
    return Progress("balances", registry)


def lag(registry: CollectorRegistry, partition: int) -> float | None:
    return registry.get_sample_value(
        "daybook_projector_lag_offsets", {"projector": "balances", "partition": str(partition)}
    )


def test_a_partition_is_where_it_was_last_reached(progress: Progress, registry: CollectorRegistry) -> None:
    progress.reached(1, position=5, end=9, recorded_at=1_000)
    progress.reached(0, position=3, end=3)
    progress.reached(1, position=9, end=9)
    assert progress.partitions == (Reached(0, 3, 3, None), Reached(1, 9, 9, 1_000))
    assert lag(registry, 1) == 0


def test_lag_is_what_is_left_to_read(progress: Progress, registry: CollectorRegistry) -> None:
    progress.reached(1, position=5, end=9)
    assert progress.partitions[0].lag == 4
    assert lag(registry, 1) == 4


def test_partitions_that_went_show_no_lag(progress: Progress, registry: CollectorRegistry) -> None:
    progress.reached(1, position=5, end=9)
    progress.gave_up()
    assert progress.partitions == ()
    assert lag(registry, 1) is None


def test_waiting_has_a_reason_and_shows_as_not_running(progress: Progress, registry: CollectorRegistry) -> None:
    running = {"projector": "balances"}
    assert progress.state is State.STARTING
    progress.entered(State.RUNNING)
    assert registry.get_sample_value("daybook_projector_running", running) == 1
    progress.entered(State.WAITING, "Redis: refused")
    assert (progress.state, progress.reason) == (State.WAITING, "Redis: refused")
    assert registry.get_sample_value("daybook_projector_running", running) == 0
    progress.entered(State.RUNNING)
    assert progress.reason == ""


def test_batches_are_counted_by_their_events(progress: Progress, registry: CollectorRegistry) -> None:
    progress.applied(10, 0.25)
    progress.applied(5, 0.5)
    labels = {"projector": "balances"}
    assert registry.get_sample_value("daybook_projector_events_applied_total", labels) == 15
    assert registry.get_sample_value("daybook_projector_batch_events_count", labels) == 2
    assert registry.get_sample_value("daybook_projector_apply_seconds_sum", labels) == 0.75
