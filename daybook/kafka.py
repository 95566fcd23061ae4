"""What the client's two ways to Kafka, commands and the log, have in common: finding topics, telling failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from daybook.errors import Unreachable
from schemas.connections import Connections, NotConfigured
from schemas.login import is_refusal, told
from schemas.offsets import offset_of

LOG: Final = logging.getLogger("daybook.kafka")
LOG.addHandler(logging.NullHandler())

LEAST_S: Final = 0.05
"""What a request is given when a deadline has all but passed, so that its error says more than "timed out"."""

_ATTEMPT_S: Final = 1.0
"""One request's bound: an answer takes milliseconds, and between requests a refusal is noticed."""

_FIRST_ATTEMPT_S: Final = 0.2
"""The bound of the first request for ends. Put while leaders are being looked up it may never be sent, and a second one
is answered within milliseconds; the bound is doubled each time that it was too short."""

_GIVE_UP_S: Final = 2.0
"""For how long every broker may refuse before the first contact fails: a name with several addresses (`localhost`
may first be an IPv6 one) is refused once or twice before the right address is tried."""

_NO_LEADER: Final = {
    KafkaError._NOENT,
    KafkaError._TIMED_OUT,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""What asking for an end comes to just after the topic was created or while its leader changes: ask again a little
later. librdkafka's own second look for a leader comes after three seconds, so each request is given less than that."""

BATCH: Final = 1000
"""Records taken at once: beyond this the cost of a call no longer shows."""


class Health:
    """Kafka's state as librdkafka's error callbacks tell it: `down` says why while no broker can be reached."""

    def __init__(self) -> None:
        self.fatal: str | None = None
        self.refused = False
        self._is_down = False
        self._last = "no broker answers"

    @property
    def down(self) -> str | None:
        return self._last if self._is_down else None

    def is_up(self) -> None:
        """Something came from a broker."""
        self._is_down = False

    def on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.fatal = error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            # The reason comes separately, before or after.
            self._is_down = True
        else:
            self._last = told(error)
            self.refused = self.refused or is_refusal(error)


def unreachable(connections: Connections, why: str) -> Unreachable:
    return Unreachable("Kafka", connections.kafka_bootstrap, why)


def consumer(
    connections: Connections, health: Health, *, uncommitted: bool = False, **options: str | int | bool
) -> Consumer:
    """A consumer that is assigned its partitions by hand and commits nothing; it reads only what is committed, unless
    what is open, and what was aborted, is asked for as well.

    Raises: `NotConfigured`, when the settings contradict each other or name a file that cannot be used.
    """
    config = connections.kafka(
        # librdkafka insists on a group; nothing is ever stored under it.
        group_id=connections.topics.client_group,
        enable_auto_commit=False,
        isolation_level="read_uncommitted" if uncommitted else "read_committed",
        socket_nagle_disable=True,
        # A record should be handed over as soon as it is there; these pauses follow an error or a full queue.
        fetch_error_backoff_ms=50,
        fetch_queue_backoff_ms=10,
        # 64 MB by default, more than a client should take for reading ahead.
        queued_max_messages_kbytes=16 * 1024,
        **options,
    )
    try:
        return Consumer({**config, "error_cb": health.on_error}, logger=LOG)
    except KafkaException as error:
        raise NotConfigured(f"the DAYBOOK_KAFKA_ settings cannot be used: {error.args[0].str()}") from error


def partitions(
    source: Consumer, topics: Sequence[str], connections: Connections, health: Health, deadline: float
) -> list[int]:
    """How many partitions each topic has; blocks until `deadline` (of `time.monotonic`).

    Raises: `Unreachable`, when no broker answers or a topic is missing.
    """
    # Asked through a consumer, which unlike a producer does not make the broker create what is missing.
    return [_partitions(source, topic, connections, health, deadline) for topic in topics]


def _partitions(source: Consumer, topic: str, connections: Connections, health: Health, deadline: float) -> int:
    began = time.monotonic()
    while True:
        left_s = deadline - time.monotonic()
        try:
            found = source.list_topics(topic, timeout=max(LEAST_S, min(left_s, _ATTEMPT_S))).topics[topic]
        except KafkaException as error:
            # The error callback is called here, if at all.
            source.poll(0)
            now = time.monotonic()
            if now >= deadline or (health.down is not None and now - began >= _GIVE_UP_S):
                why = health.down or error.args[0].str()
                hint = "" if health.refused else "; is Kafka running (`daybook stack up` starts one here)?"
                if not health.refused and connections.kafka_sasl_mechanism is None:
                    # Brokers that want a login close such a connection without a word.
                    hint += " If it wants a login, set DAYBOOK_KAFKA_SECURITY_PROTOCOL and DAYBOOK_KAFKA_SASL_..."
                raise unreachable(connections, f"{why}{hint}") from error
            continue
        health.is_up()
        if found.error is None:
            return len(found.partitions)
        if found.error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise unreachable(
                connections,
                f"{connections.kafka_sasl_username or 'nobody'} may not read topic {topic}, or it is not there; "
                "DAYBOOK_KAFKA_SASL_USERNAME says who asks, and docs/SECURITY.md who may what",
            )
        if not found.error.retriable() or found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            why = f"topic {topic}: {found.error.str()}; `daybook deploy apply` creates Daybook's topics"
            raise unreachable(connections, why)
        if time.monotonic() >= deadline:
            raise unreachable(connections, f"topic {topic} is not available: {found.error.str()}")
        time.sleep(LEAST_S)


def ends(
    connections: Connections,
    places: Iterable[tuple[str, int]],
    deadline: float,
    *,
    isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> list[TopicPartition]:
    """Where partitions, given by topic and number, end now. Raises: `Unreachable`.

    What stands in transactions that are still open is included, unless only what is committed is asked for: the end of
    that lags behind the replies, since partitions learn of a commit one by one.
    """
    admin = AdminClient(connections.kafka(), logger=LOG)
    asked = {TopicPartition(topic, partition): OffsetSpec.latest() for topic, partition in places}
    attempt_s = _FIRST_ATTEMPT_S
    while True:
        found = admin.list_offsets(
            asked,
            isolation_level=isolation_level,
            request_timeout=max(LEAST_S, min(deadline - time.monotonic(), attempt_s)),
        )
        try:
            return [TopicPartition(at.topic, at.partition, offset_of(end.result())) for at, end in found.items()]
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER or time.monotonic() >= deadline:
                why = f"the ends of topic {next(iter(asked)).topic} cannot be had: {error.args[0].str()}"
                raise unreachable(connections, why) from error
            if error.args[0].code() == KafkaError._TIMED_OUT:
                attempt_s *= 2
                if attempt_s > _ATTEMPT_S:
                    # A client keeps to the leaders that it met first, even to a dead one: who leads now, only a new one
                    # asks, and it has to connect and log in within its attempt.
                    admin = AdminClient(connections.kafka(), logger=LOG)
        time.sleep(LEAST_S)


def take(source: Consumer, timeout_s: float) -> list[Message]:
    """Up to `BATCH` records and errors: what is there, or the first that comes within `timeout_s`."""
    # Asked for many at once, `consume` waits out its time for the last of them.
    first = source.poll(timeout_s)
    return [] if first is None else [first, *source.consume(BATCH - 1, 0)]
