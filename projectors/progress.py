"""How far a projector is, as numbers: for `daybook status`, for Prometheus, and for whoever waits in a test."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCH_EVENTS_BUCKETS: Final = (1, 10, 100, 1_000, 2_000, 5_000, 10_000)


class State(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """A server that is needed is down; `Progress.reason` says which."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Reached:
    """One partition: the offset to read next, where the log ends, and when the newest applied event was recorded."""

    partition: int
    position: int
    end: int
    recorded_at: int | None

    @property
    def lag(self) -> int:
        return max(0, self.end - self.position)


class Progress:
    """What the runner tells about itself. Only the runner writes; any thread may read the properties.

    The metrics are registered with `registry`, labelled with the projector's name.
    """

    def __init__(self, projector: str, registry: CollectorRegistry) -> None:
        self._reached: dict[int, Reached] = {}
        self._state = State.STARTING
        self._reason = ""
        self._projector = projector
        self._events = Counter(
            "daybook_projector_events_applied", "Events applied.", ["projector"], registry=registry
        ).labels(projector)
        self._batch = Histogram(
            "daybook_projector_batch_events",
            "Events in a batch.",
            ["projector"],
            registry=registry,
            buckets=_BATCH_EVENTS_BUCKETS,
        ).labels(projector)
        self._seconds = Histogram(
            "daybook_projector_apply_seconds", "Time that the sink took for a batch.", ["projector"], registry=registry
        ).labels(projector)
        self._running = Gauge(
            "daybook_projector_running", "1 while events can be applied.", ["projector"], registry=registry
        ).labels(projector)
        self._lag = Gauge(
            "daybook_projector_lag_offsets", "Offsets to read.", ["projector", "partition"], registry=registry
        )

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str:
        """Why the state is `WAITING`; empty otherwise."""
        return self._reason

    @property
    def partitions(self) -> tuple[Reached, ...]:
        """The partitions that this process has, by number; none while they are being moved."""
        return tuple(sorted(self._reached.copy().values(), key=lambda reached: reached.partition))

    def entered(self, state: State, reason: str = "") -> None:
        self._state, self._reason = state, reason
        self._running.set(state is State.RUNNING)

    def applied(self, events: int, seconds: float) -> None:
        self._events.inc(events)
        self._batch.observe(events)
        self._seconds.observe(seconds)

    def reached(self, partition: int, position: int, end: int, recorded_at: int | None = None) -> None:
        """A partition's numbers; without `recorded_at`, the time of the newest event stays."""
        before = self._reached.get(partition)
        if recorded_at is None and before is not None:
            recorded_at = before.recorded_at
        reached = Reached(partition, position, end, recorded_at)
        self._reached[partition] = reached
        self._lag.labels(self._projector, str(partition)).set(reached.lag)

    def gave_up(self) -> None:
        """The partitions are another process's from now on, or are not read for now."""
        for partition in self._reached:
            self._lag.remove(self._projector, str(partition))
        self._reached = {}
