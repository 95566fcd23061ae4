"""Histograms of how long something took, filled a batch at a time.

A call for each of tens of thousands of events a second would cost more than all else that is told of them. Here a
batch's moments are sorted once, and a search for each bucket's bound says how many lie within it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

ISSUED_AT: Final = "issued-at"
"""The header of an event that says when its command was issued: microseconds since the Unix epoch, by the client's
clock, as eight bytes, big-endian and signed. It is for measuring alone: an event without it is no worse."""

BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""From a lone command's few milliseconds to commands that waited for a service to restore."""


def issued_at_header(issued_at: int) -> tuple[str, bytes]:
    """The header for a command's time, which Avro lets have 64 bits."""
    return ISSUED_AT, issued_at.to_bytes(8, "big", signed=True)


def issued_at(value: object) -> int | None:
    """The time that the header's value says; None if it is not ours."""
    return int.from_bytes(value, "big", signed=True) if isinstance(value, bytes) and len(value) == 8 else None


class LatencyHistogram(Collector):
    """One series of a Prometheus histogram, in seconds. One thread observes; any thread may collect."""

    def __init__(
        self,
        name: str,
        documentation: str,
        *,
        registry: CollectorRegistry,
        labels: Sequence[tuple[str, str]] = (),
        bounds_s: Sequence[float] = BOUNDS_S,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._bounds_us = [round(bound * 1_000_000) for bound in bounds_s]
        self._les = [*(str(float(bound)) for bound in bounds_s), "+Inf"]
        self._counts = [0] * len(self._les)
        """How many took at most as long as each bound."""
        self._sum_us = 0
        self._lock = threading.Lock()
        registry.register(self)

    def observe_since(self, began_us: list[int], now_us: int) -> None:
        """Count what began at these times and is done now, in microseconds since the Unix epoch. Sorts the list.

        What seems to begin later, by the clock of another machine, counts as having taken no time.
        """
        if not began_us:
            return
        began_us.sort()
        count = len(began_us)
        future = bisect_left(began_us, now_us)
        sum_us = now_us * future - sum(began_us[:future])
        within = [count - bisect_left(began_us, now_us - bound) for bound in self._bounds_us]
        with self._lock:
            self._counts = [before + more for before, more in zip(self._counts, (*within, count), strict=True)]
            self._sum_us += sum_us

    def describe(self) -> Iterable[Metric]:
        return [HistogramMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[name for name, _ in self._labels])
        with self._lock:
            counts, sum_us = self._counts, self._sum_us
        buckets = [(le, float(count)) for le, count in zip(self._les, counts, strict=True)]
        family.add_metric([value for _, value in self._labels], buckets, sum_us / 1_000_000)
        yield family
