"""The auditor as a process: a checkpoint every so many seconds, until it is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from daybook.audit.keys import PublicKeys, SigningKey
from daybook.audit.row import name_of
from daybook.audit.taking import Auditor, CheckpointRefused
from daybook.errors import DaybookError, ReadTimeout, Unreachable, UnreadableRecord
from schemas.checkpoints import Checkpoint
from schemas.connections import LOG_FORMAT, LOG_LEVEL, Connections, EnvironmentSettings
from schemas.telemetry import endpoint
from schemas.telemetry.endpoint import METRICS_HOST
from schemas.telemetry.vitals import Pulse, Status

_log = logging.getLogger(__name__)

_STILL_S: Final = 180.0
"""A loop that has not turned for so long is stuck. The longest that one call waits is half a minute."""

_RETRY_S: Final = 5.0
"""How soon it is tried again after a server was away, if the interval is not shorter still."""

_BEAT_S: Final = 10.0


class AuditorSettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_AUDITOR_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_AUDITOR_")

    every_s: float = Field(default=60.0, ge=0.1, le=86_400)
    """How often the log is looked at; what came last is unsigned for so long at most."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where metrics, health and readiness are served; nowhere without it."""

    metrics_host: str = METRICS_HOST

    log_level: str = LOG_LEVEL
    log_format: str = LOG_FORMAT


class Watch:
    """What the auditor tells about itself: metrics, and the vitals of its endpoint."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pulse = Pulse(_STILL_S)
        self._why: str | None = "no checkpoint was looked for yet"
        self._number = 0
        self._taken = Counter("daybook_auditor_checkpoints_taken", "Checkpoints taken.", registry=registry)
        self._failures = Counter(
            "daybook_auditor_failures", "How often no checkpoint could be taken.", registry=registry
        )
        self._refused = Gauge(
            "daybook_auditor_refused",
            "1 while the log or the checkpoints are not what they were when the last one was taken.",
            registry=registry,
        )
        self._looked_at = Gauge(
            "daybook_auditor_last_look_timestamp_seconds",
            "When all that was committed was last in a checkpoint.",
            registry=registry,
        )
        self._events = Gauge("daybook_auditor_covered_events", "Events in the newest checkpoint.", registry=registry)

    def took(self, checkpoint: Checkpoint, *, is_new: bool) -> None:
        self._why, self._number = None, checkpoint.number
        self._taken.inc(int(is_new))
        self._events.set(checkpoint.events)
        self._refused.set(0)
        self._looked_at.set_to_current_time()

    def failed(self, why: str, *, refused: bool) -> None:
        self._why = why
        self._failures.inc()
        self._refused.set(int(refused))

    def health(self) -> Status:
        return self.pulse.health()

    def ready(self) -> Status:
        """Whether the last look could be taken."""
        health = self.pulse.health()
        why = self._why if health.ok else health.reason
        return Status(why is None, why or "", {"checkpoint": self._number})


def watch(
    connections: Connections,
    key: SigningKey,
    trusted: PublicKeys,
    every_s: float,
    stopping: threading.Event,
    made: Callable[[Checkpoint], None],
    settings: AuditorSettings,
    registry: CollectorRegistry = REGISTRY,
) -> None:
    """Take a checkpoint every `every_s` seconds when events are new, until `stopping` is set.

    A server that is away is waited out. A log that is not what it was is told with every look, and gets no checkpoint.

    Raises:
        Superseded: another auditor took over. `DaybookError`: Kafka does not take what this one writes any more.
        NotConfigured: the settings cannot be used.
    """
    told = Watch(registry)
    with ExitStack() as opened:
        port = settings.metrics_port
        variable = "DAYBOOK_AUDITOR_METRICS_PORT"
        opened.enter_context(
            endpoint.serving("auditor", settings.metrics_host, port, told, variable=variable, registry=registry)
        )
        _log.info("auditing %s every %g s with key %s", connections.topics.events, every_s, key.key_id)
        auditor: Auditor | None = None
        while not stopping.is_set():
            began = time.monotonic()
            pause_s = every_s
            told.pulse.beat("taking a checkpoint")
            try:
                if auditor is None:
                    auditor = opened.enter_context(Auditor(connections, key, trusted))
                checkpoint, is_new = auditor.take(lambda *_: told.pulse.beat("hashing"))
                told.took(checkpoint, is_new=is_new)
                if is_new:
                    _log.info("%s, %s events, root %s", name_of(checkpoint), checkpoint.events, checkpoint.root.hex())
                    made(checkpoint)
            except CheckpointRefused as error:
                _say(told, error)
            except (Unreachable, ReadTimeout, UnreadableRecord) as error:
                _say(told, error)
                pause_s = min(every_s, _RETRY_S)
            _pause(told, stopping, pause_s - (time.monotonic() - began))
        _log.info("stopped")


def _say(told: Watch, error: DaybookError) -> None:
    refused = isinstance(error, CheckpointRefused)
    told.failed(str(error), refused=refused)
    _log.log(logging.ERROR if refused else logging.WARNING, "no checkpoint: %s", error)


def _pause(told: Watch, stopping: threading.Event, left_s: float) -> None:
    """Wait, beating meanwhile, so that a long interval is not taken for a loop that is stuck."""
    end = time.monotonic() + left_s
    while (left_s := end - time.monotonic()) > 0:
        told.pulse.beat("waiting for the next checkpoint")
        if stopping.wait(min(left_s, _BEAT_S)):
            return
