"""What a rebuild tells about itself while it runs, for Prometheus and for its endpoint."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from schemas.telemetry.vitals import Pulse, Status

_STEPS: Final = ("preparing", "reading", "comparing", "switching")

_STILL_S: Final = 600.0
"""Comparing may take minutes between two signs of life, where the live model is asked for all it has."""


class RebuildTelemetry:
    """The numbers of one rebuild, and its vitals. Any thread may call."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str) -> Gauge:
            return Gauge(name, about, ["model"], registry=registry).labels(model)

        self._model = model
        self._pulse = Pulse(_STILL_S)
        self._waits: str | None = None
        self._step = Gauge(
            "daybook_rebuild_step", "1 for the step that is under way.", ["model", "step"], registry=registry
        )
        self._ratio = gauge(
            "daybook_rebuild_progress_ratio", "How much of this step's reading is done: 1 is all of it."
        )
        self._left = gauge("daybook_rebuild_left_offsets", "Offsets that are left to read in this step.")
        self._events = gauge("daybook_rebuild_events", "Events read into the copy since the step began.")
        self._compared = gauge("daybook_rebuild_compared", "Items of both models compared so far.")
        self._differing = gauge("daybook_rebuild_differing", "Items that the live model and the copy have differently.")
        gauge("daybook_rebuild_started_timestamp_seconds", "When the rebuild was started.").set(time.time())
        self.step("preparing")

    def beat(self) -> None:
        """The schemas are about to be looked up, once more."""
        self._pulse.beat("looking up the schemas")

    def step(self, step: str) -> None:
        """One of `_STEPS` is under way."""
        self._pulse.beat(step)
        for each in _STEPS:
            self._step.labels(self._model, each).set(each == step)

    def reading(self, done: int, total: int, events: int) -> None:
        """So many of so many offsets were read, which were so many events."""
        self._pulse.beat("reading")
        self._ratio.set(done / total if total else 1)
        self._left.set(max(0, total - done))
        self._events.set(events)

    def comparing(self, compared: int) -> None:
        self._pulse.beat("comparing")
        self._compared.set(compared)

    def compared(self, compared: int, differing: int) -> None:
        """What the comparison came to."""
        self._compared.set(compared)
        self._differing.set(differing)

    def waits(self, why: str | None) -> None:
        """What is waited for; None when that is over."""
        self._pulse.beat("waiting")
        self._waits = why

    def health(self) -> Status:
        return self._pulse.health()

    def ready(self) -> Status:
        if self._waits is not None:
            return Status(False, self._waits)
        return self._pulse.health()
