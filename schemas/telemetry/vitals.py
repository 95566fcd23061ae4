"""What health and readiness are made of: an answer with its reason, a loop's pulse, and whether Kafka is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from confluent_kafka import KafkaError, KafkaException

STILL_S: Final = 60.0
"""A loop that has not turned for so long is stuck: its longest single call is bounded to half of that."""

_ASK_EVERY_S: Final = 1.0
_ASK_TIMEOUT_S: Final = 0.5
"""A broker that is up answers within milliseconds, and the caller's loop stands still meanwhile."""


@dataclass(frozen=True, slots=True)
class Status:
    """The answer to "are you?": if not, `reason` says why not, in words for people. `details` are for machines."""

    ok: bool
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Vitals(Protocol):
    """What an endpoint asks a process. Any thread may ask, at any time; the answers must not block."""

    def health(self) -> Status:
        """Whether it is alive: its loop turns. One that is not should be started anew."""

    def ready(self) -> Status:
        """Whether it does its work now. One that does not may only be waiting for a server."""


class AsksKafka(Protocol):
    """A client of librdkafka's."""

    def list_topics(self, topic: str, *, timeout: float) -> object:
        """Raises `KafkaException` when no broker answers in time."""


class Pulse:
    """When a loop last turned, and what it did then. The loop's thread beats; any thread may read."""

    def __init__(self, still_s: float = STILL_S) -> None:
        self._still_s = still_s
        self._last = (time.monotonic(), "starting")

    def beat(self, doing: str) -> None:
        """The loop goes on, and is about to do this. Costs a look at the clock."""
        self._last = (time.monotonic(), doing)

    def health(self) -> Status:
        at, doing = self._last
        age_s = time.monotonic() - at
        details = {"last_turn_age_s": round(age_s, 1), "doing": doing}
        if age_s <= self._still_s:
            return Status(True, details=details)
        return Status(False, f"the loop has not turned for {age_s:.0f} s; the last thing it began was {doing}", details)


class Brokers:
    """Whether Kafka can be reached: `down` says why not.

    librdkafka tells when every connection is gone and never that they are back, so that is asked for.
    """

    def __init__(self) -> None:
        self.down: str | None = None
        self._why = "no broker answers"
        self._ask_at = 0.0

    def on_error(self, error: KafkaError) -> None:
        """A client's `error_cb`."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down = self._why
        else:
            # The reason comes separately, before or after.
            self._why = error.str()

    def look(self, client: AsksKafka, topic: str) -> None:
        """Where Kafka was down, ask it for a topic, once a second at most. Blocks for half a second at most."""
        now = time.monotonic()
        if self.down is None or now < self._ask_at:
            return
        self._ask_at = now + _ASK_EVERY_S
        try:
            client.list_topics(topic, timeout=_ASK_TIMEOUT_S)
        except KafkaException as error:
            self.down = f"{self._why} ({error.args[0].str()})"
        else:
            self.down = None
