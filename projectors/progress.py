"""How far a projector is, and whether it does its work: for Prometheus, for its endpoint, and for tests that wait."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.telemetry.latencies import LatencyHistogram
from schemas.telemetry.vitals import Brokers, Pulse, Status

_BATCH_EVENTS_BUCKETS: Final = (1, 10, 100, 1_000, 2_000, 5_000, 10_000)


_STILL_S: Final = 180.0
"""A loop that has not turned for so long is stuck. It waits while its sink takes a batch, which an object store or a
cluster under load may take a minute for; each request has a shorter bound."""


SINKS: Final = {"balances": "redis", "search": "elasticsearch", "analytics": "iceberg"}
"""By projector, the server that it waits for when its sink is unavailable, as `daybook_projector_waiting` names it."""

_WAITED_FOR: Final = ("kafka", "registry", "moved", "held")


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
    """What the runner tells about itself, and the vitals of its endpoint. Only the runner writes; any thread may read.

    The metrics are registered with `registry`, labelled with the projector's name.
    """

    def __init__(self, projector: str, registry: CollectorRegistry) -> None:
        self._reached: dict[int, Reached] = {}
        self._state = State.STARTING
        self._reason = ""
        self._reason_class = ""
        self._projector = projector
        self._assigned: frozenset[int] | None = None
        self.pulse = Pulse(_STILL_S)
        self.brokers = Brokers()
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
        self._waiting = Gauge(
            "daybook_projector_waiting",
            "1 while events cannot be applied, by what is waited for.",
            ["projector", "reason_class"],
            registry=registry,
        )
        self._failures = Counter(
            "daybook_projector_waits",
            "How often it had to wait, by what for.",
            ["projector", "reason_class"],
            registry=registry,
        )
        for reason_class in (*_WAITED_FOR, *([SINKS[projector]] if projector in SINKS else ())):
            # From the start, since a series that begins above zero shows no increase.
            self._waiting.labels(projector, reason_class).set(0)
            self._failures.labels(projector, reason_class)
        self._applied_at = Gauge(
            "daybook_projector_last_apply_timestamp_seconds",
            "When events were applied last.",
            ["projector"],
            registry=registry,
        ).labels(projector)
        labels = (("projector", projector),)
        self._issued_to_visible = LatencyHistogram(
            "daybook_projector_issued_to_visible_seconds",
            "From when the client issued a command, by its clock, to its events being in the read model.",
            registry=registry,
            labels=labels,
        )
        self._recorded_to_visible = LatencyHistogram(
            "daybook_projector_recorded_to_visible_seconds",
            "From when an event was recorded to its being in the read model.",
            registry=registry,
            labels=labels,
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

    def entered(self, state: State, reason: str = "", reason_class: str = "") -> None:
        """`reason` says in words why it is `WAITING`, or what its start is at; `reason_class` names what it waits for:
        `redis`, `kafka`, `held`."""
        if self._reason_class and self._reason_class != reason_class:
            self._waiting.labels(self._projector, self._reason_class).set(0)
        if reason_class:
            self._waiting.labels(self._projector, reason_class).set(1)
            self._failures.labels(self._projector, reason_class).inc()
        self._state, self._reason, self._reason_class = state, reason, reason_class
        self._running.set(state is State.RUNNING)

    def applied(self, events: int, seconds: float) -> None:
        self._events.inc(events)
        self._batch.observe(events)
        self._seconds.observe(seconds)
        self._applied_at.set_to_current_time()

    def visible(self, recorded_us: list[int], issued_us: list[int]) -> None:
        """Events are in the read model now that were recorded at these times, of commands that were issued at those:
        in microseconds since the Unix epoch. Sorts the lists."""
        now_us = time.time_ns() // 1000
        self._recorded_to_visible.observe_since(recorded_us, now_us)
        self._issued_to_visible.observe_since(issued_us, now_us)

    def reached(self, partition: int, position: int, end: int, recorded_at: int | None = None) -> None:
        """A partition's numbers; without `recorded_at`, the time of the newest event stays."""
        before = self._reached.get(partition)
        if recorded_at is None and before is not None:
            recorded_at = before.recorded_at
        reached = Reached(partition, position, end, recorded_at)
        self._reached[partition] = reached
        self._lag.labels(self._projector, str(partition)).set(reached.lag)

    def assigned(self, partitions: Collection[int]) -> None:
        """The group gave it these partitions. None is an answer as well: then there is nothing to do."""
        self._assigned = frozenset(partitions)

    def unassigned(self) -> None:
        """The group shares the partitions out anew."""
        self._assigned = None

    def health(self) -> Status:
        return self.pulse.health()

    def ready(self) -> Status:
        """Whether events of all partitions that it was given can be applied."""
        reached = self.partitions
        details: dict[str, Any] = {
            "state": str(self._state),
            "assigned": None if self._assigned is None else sorted(self._assigned),
            "partitions": [_as_details(each) for each in reached],
        }
        why = self._why_not({each.partition for each in reached})
        return Status(why is None, why or "", details)

    def _why_not(self, reached: set[int]) -> str | None:
        health = self.pulse.health()
        if not health.ok:
            return health.reason
        if self._state is State.WAITING:
            return self._reason or "it waits"
        if self._state is State.STOPPED:
            return "it has stopped"
        if self.brokers.down is not None:
            return f"Kafka cannot be reached: {self.brokers.down}"
        if self._assigned is None:
            return self._reason or "the consumer group has not said yet which partitions are ours"
        if not self._assigned:
            return None
        if self._state is State.STARTING:
            return "it is starting"
        if missing := sorted(self._assigned - reached):
            return f"the read model was not asked yet where it stands in the partitions {missing}"
        return None

    def gave_up(self) -> None:
        """The partitions are another process's from now on, or are not read for now."""
        for partition in self._reached:
            self._lag.remove(self._projector, str(partition))
        self._reached = {}


def _as_details(reached: Reached) -> Mapping[str, int | None]:
    return {
        "partition": reached.partition,
        "position": reached.position,
        "end": reached.end,
        "lag": reached.lag,
        "recorded_at": reached.recorded_at,
    }
