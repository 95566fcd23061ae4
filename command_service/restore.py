"""From the log to state: what a service reads before it takes the commands of a partition."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from command_service import metrics
from command_service.accounts import Entry, PartitionState
from command_service.answers import Answer, Answers, command_key
from command_service.domain.account import evolve
from command_service.records import headers, origin
from schemas.codec import ChainBroken, Codec, Undecodable
from schemas.connections import Connections
from schemas.events import CHAIN_START
from schemas.offsets import offset_of
from schemas.telemetry.quiet import kafka_logger
from schemas.topics import FINGERPRINT_HEADER, Topics, parse_event_key

_log: Final = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S: Final = 30
"""Bound of one question to the brokers; a leader election takes seconds."""

_SILENCE_TIMEOUT_S: Final = 60
"""Bound of a wait without any progress. The longest honest one is for a dead owner's transaction: it is aborted
after `transaction.timeout.ms` (10 s) and the broker's next look at timeouts (at most 10 s)."""

_OFFSETS_AN_ANSWER: Final = 4
_READ: Final = 10_000
_READ_TIMEOUT_S: Final = 0.2

Tell = Callable[[Mapping[int, int], Mapping[int, int]], None]

UNREADABLE: Final = {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._AUTO_OFFSET_RESET}
"""Errors after which librdkafka stays where it is: the next record is never given out."""


class LogDamaged(Exception):
    """The log is not the unbroken history that it must be. Nothing is decided on top of it."""


class RestoreStalled(Exception):
    """The log could not be read to the point that was its end when the restore began."""


def restore(
    connections: Connections,
    codec: Codec,
    partitions: Iterable[int],
    new_answers: Callable[[], Answers],
    remembered_ms: int,
    keep_alive: Callable[[], None],
    tell: Tell,
) -> dict[int, PartitionState]:
    """The state of each partition as of the end of its events, and its memory of command ids.

    The caller fetched the stable committed offsets before: whatever was committed by then lies before the high
    watermarks that are taken here, and the restore goes on until the read-committed position has reached them. This
    may block for as long as a dead owner's transaction is open. `keep_alive` is called several times a second; what
    it raises ends the restore. `tell` is told for each partition how many offsets are left to read, and of how many.

    Raises:
        LogDamaged: a gap in an account's sequence, a broken chain, or a record that is not an event.
        RestoreStalled: no progress for a minute.
        RegistryUnavailable: an event's schema could not be asked for.
        KafkaException: the brokers did not answer.
    """
    began = time.monotonic()
    topics = connections.topics
    states = {partition: PartitionState(new_answers()) for partition in partitions}
    reader = _Reader(topics, codec, states)
    consumer = Consumer(
        connections.kafka(
            group_id=topics.command_service_group + ".restore",
            enable_auto_commit=False,
            # A position outside of the log is an error here, never a reason to begin elsewhere.
            auto_offset_reset="error",
            isolation_level="read_committed",
            enable_partition_eof=True,
            # The whole partition is read: fetch more at once than the defaults for tailing.
            fetch_max_bytes=50 * 1024 * 1024,
            queued_max_messages_kbytes=128 * 1024,
        ),
        logger=kafka_logger(),
    )
    try:
        targets, starts = _begin(connections, consumer, topics, states, remembered_ms)
        progress = _Progress(consumer, targets, starts, states, tell)
        _read_to(consumer, targets, reader, keep_alive, progress)
    finally:
        consumer.close()
    for state in states.values():
        state.answers.forget_old(time.time_ns() // 1000)
    _log.info(
        "restored %d accounts from %d events, and %d command ids, of partitions %s in %.1f s",
        sum(len(state.entries) for state in states.values()),
        reader.events,
        sum(len(state.answers) for state in states.values()),
        sorted(states),
        time.monotonic() - began,
    )
    return states


def _begin(
    connections: Connections,
    consumer: Consumer,
    topics: Topics,
    states: dict[int, PartitionState],
    remembered_ms: int,
) -> tuple[dict[tuple[str, int], int], list[TopicPartition]]:
    """Assign what is to be read, from where it is to be read, and return where each reading ends, and begins."""
    places = [TopicPartition(topic, p) for topic in (topics.events, topics.replies) for p in states]
    since_ms = max(0, time.time_ns() // 1_000_000 - remembered_ms)
    with AdminClient(connections.kafka(), logger=kafka_logger()) as admin:
        # Of uncommitted reads: the watermark covers a transaction that is still open, whose outcome is waited for.
        ends = _offsets(admin, places, OffsetSpec.latest())
        begins = _offsets(admin, places, OffsetSpec.earliest())
        recent = _offsets(
            admin, [place for place in places if place.topic == topics.replies], OffsetSpec.for_timestamp(since_ms)
        )
    targets, starts = {}, []
    for place in places:
        where = (place.topic, place.partition)
        begin, end = begins[where], ends[where]
        if place.topic == topics.replies:
            begin = _first_reply(begin, end, recent[where], states[place.partition].answers.capacity)
        if begin < end:
            targets[where] = end
            starts.append(TopicPartition(place.topic, place.partition, begin))
    consumer.assign(starts)
    return targets, starts


def _first_reply(begin: int, end: int, recent: int, capacity: int) -> int:
    """Where to begin with the replies: in the window of time (-1: no reply is that new), and not for ever longer than
    what can be remembered. The ends of transactions take offsets as well, and so do answers given again."""
    return end if recent < 0 else max(begin, recent, end - _OFFSETS_AN_ANSWER * capacity)


def _offsets(admin: AdminClient, places: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
    asked = admin.list_offsets(
        dict.fromkeys(places, spec),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=_REQUEST_TIMEOUT_S,
    )
    return {(place.topic, place.partition): offset_of(answer.result()) for place, answer in asked.items()}


def _read_to(
    consumer: Consumer,
    targets: dict[tuple[str, int], int],
    reader: _Reader,
    keep_alive: Callable[[], None],
    progress: _Progress,
) -> None:
    """Read every partition up to its target, which read-committed positions reach when no transaction below is open."""
    left = dict(targets)
    progress_at = time.monotonic()
    while left:
        keep_alive()
        progress.tell()
        messages = consumer.consume(_READ, _READ_TIMEOUT_S)
        for message in messages:
            error = message.error()
            if error is None:
                reader.read(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                where = (str(message.topic()), int(message.partition() or 0))
                if int(message.offset() or 0) >= left.get(where, 0):
                    left.pop(where, None)
            elif error.fatal() or error.code() in UNREADABLE:
                raise KafkaException(error)
            else:
                # librdkafka goes on by itself, and the silence is bounded.
                _log.warning("restoring: %s", error)
        if messages:
            progress_at = time.monotonic()
        elif time.monotonic() - progress_at > _SILENCE_TIMEOUT_S:
            raise RestoreStalled(
                f"nothing came for {_SILENCE_TIMEOUT_S} s, but these have not been read to their ends: {left}. "
                "Look for a transaction that stays open (`kafka-transactions.sh find-hanging`) or a broker that is down"
            )


class _Progress:
    """How far a restore has come, in offsets of events and replies together: both must be read."""

    def __init__(
        self,
        consumer: Consumer,
        targets: Mapping[tuple[str, int], int],
        starts: list[TopicPartition],
        partitions: Iterable[int],
        tell: Tell,
    ) -> None:
        self._consumer = consumer
        self._targets = targets
        self._starts = starts
        self._tell = tell
        self._total = dict.fromkeys(partitions, 0)
        for place in starts:
            self._total[place.partition] += targets[place.topic, place.partition] - place.offset

    def tell(self) -> None:
        """Look where the consumer stands, which is a question to the client's memory."""
        left = dict.fromkeys(self._total, 0)
        for begun, now in zip(self._starts, self._consumer.position(self._starts), strict=True):
            # Negative until the first record has come.
            at = max(begun.offset, now.offset)
            left[begun.partition] += max(0, self._targets[begun.topic, begun.partition] - at)
        self._tell(left, self._total)


class _Reader:
    """Folds events and replies into the states, and holds every event against the one before it."""

    def __init__(self, topics: Topics, codec: Codec, states: dict[int, PartitionState]) -> None:
        self._events_topic = topics.events
        self._codec = codec
        self._states = states
        self.events = 0

    def read(self, message: Message) -> None:
        state = self._states[int(message.partition() or 0)]
        if message.topic() == self._events_topic:
            self._event(message, state)
        else:
            _reply(message, state.answers)

    def _event(self, message: Message, state: PartitionState) -> None:
        where = origin(message)
        try:
            account_id, sequence = parse_event_key(message.key() or b"")
            entry = state.entries.get(account_id)
            account, previous, expected = (
                (entry.account, entry.chain_hash, entry.account.sequence + 1) if entry else (None, CHAIN_START, 1)
            )
            if sequence != expected:
                raise LogDamaged(
                    f"{where}: account {account_id} goes on with event {sequence} where {expected} is due. "
                    "Events are missing or doubled; nothing is decided on this partition until that is explained"
                )
            recorded = self._codec.decode_event(message.value(), previous=previous)
            if (recorded.account_id, recorded.sequence) != (account_id, sequence):
                raise LogDamaged(f"{where}: the key {account_id}/{sequence} is not that of the event under it")
            state.entries[account_id] = Entry(
                evolve(account, recorded.event), recorded.chain_hash, recorded.recorded_at
            )
        except (ChainBroken, Undecodable, ValueError) as error:
            raise LogDamaged(f"{where}: {error}") from error
        self.events += 1
        metrics.RESTORED.inc()


def _reply(message: Message, answers: Answers) -> None:
    """Remember an answer. A reply without a fingerprint is not the first answer to its command id, and stands aside."""
    value, key = message.value(), message.key()
    asked = dict(headers(message)).get(FINGERPRINT_HEADER)
    if not isinstance(asked, bytes) or value is None or key is None:
        return
    try:
        command_id = command_key(key.decode())
    except ValueError as error:
        _log.warning("passed over %s, which is no reply: its key is not a command's UUID: %s", origin(message), error)
        return
    _, timestamp_ms = message.timestamp()
    answers.remember(command_id, Answer(value, asked, timestamp_ms * 1000))
