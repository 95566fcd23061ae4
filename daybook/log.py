"""Reading the log itself: events as they were recorded, from Kafka alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final, Self

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from daybook import kafka
from daybook import registry as schema_registry
from daybook.errors import ReadTimeout, UnreadableRecord
from schemas.codec import ChainBroken, Codec, Undecodable
from schemas.connections import Connections
from schemas.events import CHAIN_START, RecordedEvent
from schemas.registry import RegistryUnavailable
from schemas.topics import event_key, partition_of

_POLL_S: Final = 0.1
"""How long one look at an idle log takes, and so how long an interrupt may have to wait. An event ends it at once."""

_END_WAIT_MS: Final = 20
"""Short, since whoever reads up to the end is waiting for it; long enough not to ask an idle broker in a tight loop."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event and where in the log it stands."""

    partition: int
    offset: int
    recorded: RecordedEvent


@dataclass(slots=True)
class Chain:
    """An account's stream as far as it was read: up to event `sequence`, whose chain hash is `chain_hash`.

    Without a hash the next event is taken as it is, since what it follows was not read.
    """

    account_id: str
    sequence: int = 0
    chain_hash: bytes | None = CHAIN_START


def read_log(
    connections: Connections, account_id: str | None, *, follow: bool, from_beginning: bool, timeout_s: float
) -> Iterator[LoggedEvent]:
    """The log's committed events, each partition's in order; those of one account need only its partition.

    Without `follow` it ends where the log ended when this was called: all that was replied to before is included.
    With it, it goes on for ever, waiting out a broker that is away. Nothing is connected before the first is taken.

    Raises:
        Unreachable: no contact within `timeout_s`, or a topic is missing.
        ReadTimeout: the end was not reached and nothing has come for `timeout_s`; never with `follow`.
        UnreadableRecord: a record is not an event.
    """
    health = kafka.Health()
    source = kafka.consumer(
        connections,
        health,
        auto_offset_reset="error",
        enable_partition_eof=True,
        # The end is known to be met once the broker has waited this long in vain, by default half a second.
        fetch_wait_max_ms=500 if follow else _END_WAIT_MS,
    )
    with closing(source), schema_registry.registry(connections) as registry:
        reading = _Reading(connections, source, health, Codec(registry), account_id, timeout_s)
        ends = reading.start(from_beginning)
        yield from reading.follow() if follow else reading.until(ends if from_beginning else [])


@dataclass(frozen=True, slots=True)
class Unread:
    """A record that has yet to be read: its offset, and how old it is."""

    offset: int
    age_s: float


class LogRanges:
    """Reads ranges of the log's partitions, one after the other; a context manager. One thread uses it."""

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        """`timeout_s` bounds how long nothing may come. Raises: `NotConfigured`."""
        self._topic = connections.topics.events
        self._opened = ExitStack()
        health = kafka.Health()
        self._source = self._opened.enter_context(
            closing(
                kafka.consumer(
                    connections,
                    health,
                    auto_offset_reset="error",
                    enable_partition_eof=True,
                    fetch_wait_max_ms=_END_WAIT_MS,
                )
            )
        )
        try:
            codec = Codec(self._opened.enter_context(schema_registry.registry(connections)))
        except BaseException:
            self._opened.close()
            raise
        self._connections = connections
        self._health = health
        self._timeout_s = timeout_s
        self._reading = _Reading(connections, self._source, health, codec, None, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, partition: int, start: int, end: int) -> Iterator[LoggedEvent]:
        """A partition's committed events from offset `start` up to before `end`, which it has reached already.

        Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`, as `read_log` does.
        """
        if start < end:
            self._source.assign([TopicPartition(self._topic, partition, start)])
            yield from self._reading.until([TopicPartition(self._topic, partition, end)])

    def across(self, starts: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[LoggedEvent]:
        """All partitions' committed events from their start up to before their end, as they come: each one's in order.

        To be called once, and nothing after it: partitions are paused on the way. Raises: as `read`.
        """
        ranges = [(partition, starts.get(partition, 0), end) for partition, end in ends.items()]
        wanted = [(partition, start, end) for partition, start, end in ranges if start < end]
        if wanted:
            self._source.assign([TopicPartition(self._topic, partition, start) for partition, start, _ in wanted])
            yield from self._reading.until(
                [TopicPartition(self._topic, partition, end) for partition, _, end in wanted]
            )

    def ends(self) -> dict[int, int]:
        """Where each partition ends now. Raises: `Unreachable`."""
        deadline = time.monotonic() + self._timeout_s
        (count,) = kafka.partitions(self._source, [self._topic], self._connections, self._health, deadline)
        places = [(self._topic, partition) for partition in range(count)]
        return {end.partition: end.offset for end in kafka.ends(self._connections, places, deadline)}

    def chained(
        self, chain: Chain, partition: int, start: int, end: int, passed: Callable[[int], None]
    ) -> Iterator[LoggedEvent]:
        """The events of one account in a range, as `read` gives it: each must follow from the one before it.

        `chain` is how far the account was read, and goes on with it. `passed` is told the offset of every record.

        Raises: as `read`; `UnreadableRecord` also where the account's sequence or its chain of hashes breaks.
        """
        if start >= end:
            return
        prefix = _key_prefix(chain.account_id)
        self._source.assign([TopicPartition(self._topic, partition, start)])
        place = TopicPartition(self._topic, partition, end)
        for message in read_until(self._source, self._connections, self._health, self._topic, [place], self._timeout_s):
            passed(message.offset() or 0)
            if (message.key() or b"").startswith(prefix):
                yield self._reading.linked(message, chain)


def first_unread(
    connections: Connections, topic: str, offsets: Mapping[int, int], *, timeout_s: float
) -> dict[int, Unread | None]:
    """The first committed record at or after an offset of each partition; None where only transactions' marks follow.

    A partition that did not answer within `timeout_s` is left out. Raises: `Unreachable`.
    """
    found: dict[int, Unread | None] = {}
    waiting = dict(offsets)
    deadline = time.monotonic() + timeout_s
    health = kafka.Health()
    source = kafka.consumer(
        connections,
        health,
        # A log that was cut begins later, which is no reason not to say what its first record is.
        auto_offset_reset="earliest",
        enable_partition_eof=True,
        fetch_wait_max_ms=_END_WAIT_MS,
        # One record of each partition is wanted, and no more should be read ahead than cannot be helped.
        queued_min_messages=1,
        fetch_message_max_bytes=16 * 1024,
    )
    with closing(source):
        source.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])
        while waiting and time.monotonic() < deadline:
            for message in kafka.take(source, _POLL_S):
                partition, offset, error = message.partition(), message.offset(), message.error()
                if partition is None or offset is None or partition not in waiting:
                    continue
                if error is None:
                    found[partition] = Unread(offset, max(0.0, time.time() - message.timestamp()[1] / 1000))
                elif error.code() == KafkaError._PARTITION_EOF:
                    found[partition] = None
                else:
                    continue
                del waiting[partition]
                source.pause([TopicPartition(topic, partition)])
    if waiting and health.down is not None:
        raise kafka.unreachable(connections, health.down)
    return found


class _Reading:
    """One read of the log, through a consumer of its own."""

    def __init__(
        self,
        connections: Connections,
        source: Consumer,
        health: kafka.Health,
        codec: Codec,
        account_id: str | None,
        timeout_s: float,
    ) -> None:
        self._connections = connections
        self._topic = connections.topics.events
        self._source = source
        self._health = health
        self._account_id = account_id
        self._key_prefix = None if account_id is None else _key_prefix(account_id)
        self._timeout_s = timeout_s
        self._codec = codec

    def start(self, from_beginning: bool) -> list[TopicPartition]:
        """Assign the partitions to read, from their beginning or their end; returns where they end now."""
        deadline = time.monotonic() + self._timeout_s
        (count,) = kafka.partitions(self._source, [self._topic], self._connections, self._health, deadline)
        chosen = range(count) if self._account_id is None else [partition_of(self._account_id, count)]
        places = [(self._topic, partition) for partition in chosen]
        ends = kafka.ends(self._connections, places, deadline)
        beginnings = [TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in places]
        self._source.assign(beginnings if from_beginning else ends)
        return ends

    def follow(self) -> Iterator[LoggedEvent]:
        while True:
            for message in kafka.take(self._source, _POLL_S):
                if _is_record(message, self._connections, self._topic) and self._is_wanted(message):
                    yield self._decoded(message)

    def until(self, ends: Iterable[TopicPartition]) -> Iterator[LoggedEvent]:
        records = read_until(self._source, self._connections, self._health, self._topic, ends, self._timeout_s)
        for message in records:
            if self._is_wanted(message):
                yield self._decoded(message)

    def _is_wanted(self, message: Message) -> bool:
        if self._key_prefix is None:
            return True
        key = message.key()
        return key is not None and key.startswith(self._key_prefix)

    def linked(self, message: Message, chain: Chain) -> LoggedEvent:
        """The account's next event, by its key, its fields and its hash alike; `chain` goes on to it."""
        expected = event_key(chain.account_id, chain.sequence + 1)
        if message.key() != expected:
            raise UnreadableRecord(
                self._where(message), f"{expected!r} must be next of this account: an event is missing, or came twice"
            )
        logged = self._decoded(message, chain.chain_hash)
        recorded = logged.recorded
        if event_key(recorded.account_id, recorded.sequence) != expected:
            raise UnreadableRecord(
                self._where(message), f"the event says that it is {recorded.account_id}/{recorded.sequence}"
            )
        chain.sequence, chain.chain_hash = recorded.sequence, recorded.chain_hash
        return logged

    def _where(self, message: Message) -> str:
        return f"topic {self._topic}, partition {message.partition()}, offset {message.offset()}, key {message.key()!r}"

    def _decoded(self, message: Message, previous: bytes | None = None) -> LoggedEvent:
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:
            raise UnreadableRecord(f"topic {self._topic}", "a record came without its partition and offset")
        try:
            return LoggedEvent(partition, offset, self._codec.decode_event(message.value(), previous=previous))
        except (Undecodable, ChainBroken) as error:
            raise UnreadableRecord(self._where(message), str(error)) from error
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(self._connections, error) from error


def read_until(
    source: Consumer,
    connections: Connections,
    health: kafka.Health,
    topic: str,
    ends: Iterable[TopicPartition],
    timeout_s: float,
) -> Iterator[Message]:
    """A topic's committed records before these ends, of the partitions that `source` was assigned.

    The last of them is not paused at its end: `source` may be assigned anew, and librdkafka loses now and then what it
    is told of a partition within moments, such as an assignment before a resumption (confluentinc/librdkafka#2190,
    #5591). Nothing more of it comes, then.

    Raises: `Unreachable`; `ReadTimeout` when the ends were not reached and nothing has come for `timeout_s`.
    """
    remaining = {place.partition: place.offset for place in ends if place.offset > 0}
    idle_s = 0.0
    while remaining:
        looked = time.monotonic()
        messages = kafka.take(source, _POLL_S)
        idle_s = 0.0 if messages else idle_s + time.monotonic() - looked
        if idle_s >= timeout_s:
            if health.down is not None:
                raise kafka.unreachable(connections, health.down)
            partition, end = next(iter(remaining.items()))
            raise ReadTimeout(
                f"{topic}, partition {partition}, was not readable up to offset {end} within {timeout_s:g} s: "
                "a transaction is still open there; try again once it has ended or timed out"
            )
        for message in messages:
            # A record's place, or where the end was met; a transaction's own marks lie between the two.
            at, offset, is_record = message.partition(), message.offset(), _is_record(message, connections, topic)
            if at is None or offset is None or at not in remaining:
                continue
            end = remaining[at]
            if is_record and offset < end:
                yield message
            if offset + is_record >= end:
                del remaining[at]
                if remaining:
                    source.pause([TopicPartition(topic, at)])


def _key_prefix(account_id: str) -> bytes:
    """What the keys of an account's events begin with, and no other's, since an account id holds no slash."""
    return f"{account_id}/".encode()


def _is_record(message: Message, connections: Connections, topic: str) -> bool:
    error = message.error()
    if error is None:
        return True
    # Broken connections are mended by librdkafka, and are no matter of the topic's.
    if error.code() not in (KafkaError._PARTITION_EOF, KafkaError._TRANSPORT) and not error.retriable():
        raise kafka.unreachable(connections, f"{topic} cannot be read: {error.str()}")
    return False


def log_identity(connections: Connections, admin: AdminClient, deadline: float) -> str:
    """Which log this is, as read models name it: cluster id, topic and topic id. Blocks until `deadline` at most.

    Raises: `Unreachable`.
    """
    topic = connections.topics.events
    left_s = max(kafka.LEAST_S, deadline - time.monotonic())
    try:
        cluster = admin.describe_cluster(request_timeout=left_s).result()
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=left_s)[topic].result()
    except KafkaException as error:
        raise kafka.unreachable(connections, f"topic {topic} cannot be described: {error.args[0].str()}") from error
    return f"{cluster.cluster_id}/{topic}/{described.topic_id}"
