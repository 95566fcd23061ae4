"""From snapshots and log to state: what a service reads before it takes the commands of a partition.

First the snapshots and the replies to their ends. With a usable mark the events are then read from where it says, else
from their beginning, and the snapshots are left aside.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from command_service.accounts import PartitionState
from command_service.fingerprint import fingerprint
from command_service.packing import Packing
from command_service.replay import LogDamaged, Replay
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.offsets import offset_of
from schemas.telemetry.quiet import kafka_logger

__all__ = ["UNREADABLE", "LogDamaged", "RestoreStalled", "restore"]

_log: Final = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S: Final = 30
"""Bound of one question to the brokers; a leader election takes seconds."""

_SILENCE_TIMEOUT_S: Final = 60
"""Bound of a wait without any progress. The longest honest one is for a dead owner's transaction: it is aborted
after `transaction.timeout.ms` (10 s) and the broker's next look at timeouts (at most 10 s)."""

_OFFSETS_AN_ANSWER: Final = 4
_READ: Final = 10_000
_READ_TIMEOUT_S: Final = 0.05

Tell = Callable[[Mapping[int, int], Mapping[int, int]], None]

UNREADABLE: Final = {KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG, KafkaError._AUTO_OFFSET_RESET}
"""Errors after which librdkafka stays where it is: the next record is never given out."""


class RestoreStalled(Exception):
    """The log could not be read to the point that was its end when the restore began."""


def restore(
    connections: Connections,
    codec: Codec,
    partitions: Iterable[int],
    new_state: Callable[[Packing], PartitionState],
    remembered_ms: int,
    keep_alive: Callable[[], None],
    tell: Tell,
    *,
    use_snapshots: bool = True,
) -> dict[int, PartitionState]:
    """The state of each partition as of the end of its events, and its memory of command ids.

    The caller fetched the stable committed offsets before: whatever was committed by then lies before the high
    watermarks that are taken here, and the restore goes on until the read-committed position has reached them. This
    may block for as long as a dead owner's transaction is open. `keep_alive` is called several times a second; what
    it raises ends the restore. `tell` is told for each partition how many offsets are left to read, and of how many.

    Raises:
        LogDamaged: a gap in an account's sequence, a broken chain, or a record that is not an event.
        UnknownKek, WrapBroken: keys of holders cannot be unwrapped.
        SnapshotDamaged: the snapshot of an account that has newer events cannot be decoded.
        RestoreStalled: no progress for a minute.
        RegistryUnavailable: an event's schema could not be asked for.
        KafkaException: the brokers did not answer.
    """
    began = time.monotonic()
    topics = connections.topics
    with AdminClient(connections.kafka(), logger=kafka_logger()) as admin:
        events_id = _topic_id(admin, topics.events)
        packing = Packing(codec, fingerprint(events_id), events_id)
        states = {partition: new_state(packing) for partition in partitions}
        replay = Replay(topics, packing, states)
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
                # At a partition's end there is nothing to wait for.
                fetch_wait_max_ms=10,
                queued_max_messages_kbytes=128 * 1024,
            ),
            logger=kafka_logger(),
        )
        reading = _Reading(consumer, replay, keep_alive, _Progress(consumer, states, tell))
        try:
            capacity = next((state.answers.capacity for state in states.values()), 0)
            snapshots = _all_of(admin, topics.snapshots, states) if use_snapshots else []
            keys = _all_of(admin, topics.subject_keys, states)
            reading.read(_replies(admin, topics.replies, states, remembered_ms, capacity) + snapshots + keys)
            # Taken after the snapshots were read, which are of events that were committed by then.
            events = _all_of(admin, topics.events, states)
            starts = replay.begin_events({place.partition: (begin, end) for place, begin, end in events})
            reading.read([(place, starts[place.partition], end) for place, _, end in events])
            replay.end()
        except BaseException:
            for state in states.values():
                state.close()
            raise
        finally:
            consumer.close()
            _give_memory_back()
    _log.info(
        "restored %d accounts from %d snapshots and %d events, and %d command ids, of partitions %s in %.1f s",
        sum(state.count for state in states.values()),
        replay.snapshots,
        replay.events,
        sum(len(state.answers) for state in states.values()),
        sorted(states),
        time.monotonic() - began,
    )
    return states


def _give_memory_back() -> None:
    """Give what reading took back to the system: up to a queue's size, which the C library would keep for itself."""
    # GNU's C library alone has it; others give back by themselves, or never.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_Ranges = list[tuple[TopicPartition, int, int]]
"""What is to be read: each place, from an offset, up to one that is not read any more."""


def _topic_id(admin: AdminClient, topic: str) -> str:
    asked = admin.describe_topics(TopicCollection([topic]), request_timeout=_REQUEST_TIMEOUT_S)
    return str(asked[topic].result().topic_id)


def _all_of(admin: AdminClient, topic: str, partitions: Iterable[int]) -> _Ranges:
    places = [TopicPartition(topic, partition) for partition in partitions]
    # Of uncommitted reads: the watermark covers a transaction that is still open, whose outcome is waited for.
    ends = _offsets(admin, places, OffsetSpec.latest())
    begins = _offsets(admin, places, OffsetSpec.earliest())
    return [(place, begins[topic, place.partition], ends[topic, place.partition]) for place in places]


def _replies(admin: AdminClient, topic: str, partitions: Iterable[int], remembered_ms: int, capacity: int) -> _Ranges:
    since_ms = max(0, time.time_ns() // 1_000_000 - remembered_ms)
    ranges = _all_of(admin, topic, partitions)
    recent = _offsets(admin, [place for place, _, _ in ranges], OffsetSpec.for_timestamp(since_ms))
    return [
        (place, _first_reply(begin, end, recent[topic, place.partition], capacity), end) for place, begin, end in ranges
    ]


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


class _Reading:
    """Reads ranges of the log, one after the other."""

    def __init__(self, consumer: Consumer, replay: Replay, keep_alive: Callable[[], None], progress: _Progress) -> None:
        self._consumer = consumer
        self._replay = replay
        self._keep_alive = keep_alive
        self._progress = progress

    def read(self, ranges: _Ranges) -> None:
        """Read every range to its end, which read-committed positions reach when no transaction below is open."""
        ranges = [each for each in ranges if each[1] < each[2]]
        left = {(place.topic, place.partition): end for place, _, end in ranges}
        # Of a topic that is new to a client, it looks for the leaders only once a second, unless it is made to ask.
        for topic in {place.topic for place, _, _ in ranges}:
            self._consumer.list_topics(topic, _REQUEST_TIMEOUT_S)
        # Assigned anew: what was assigned before is read.
        self._consumer.assign([TopicPartition(place.topic, place.partition, begin) for place, begin, _ in ranges])
        self._progress.goes_on(ranges)
        progress_at = time.monotonic()
        while left:
            self._keep_alive()
            self._progress.tell()
            messages = self._consumer.consume(_READ, _READ_TIMEOUT_S)
            for message in messages:
                error = message.error()
                if error is None:
                    self._replay.read(message)
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
                self._replay.settle()
                progress_at = time.monotonic()
            elif time.monotonic() - progress_at > _SILENCE_TIMEOUT_S:
                raise RestoreStalled(
                    f"nothing came for {_SILENCE_TIMEOUT_S} s, but these have not been read to their ends: {left}. "
                    "Look for a transaction that stays open (`kafka-transactions.sh find-hanging`) or a broker that is "
                    "down"
                )


class _Progress:
    """How far a restore has come, in offsets. How many events are to be read is known once the snapshots are."""

    def __init__(self, consumer: Consumer, partitions: Iterable[int], tell: Tell) -> None:
        self._consumer = consumer
        self._tell = tell
        self._total = dict.fromkeys(partitions, 0)
        self._ranges: _Ranges = []

    def goes_on(self, ranges: _Ranges) -> None:
        """These are read next."""
        self._ranges = ranges
        for place, begin, end in ranges:
            self._total[place.partition] += end - begin

    def tell(self) -> None:
        """Look where the consumer stands, which is a question to the client's memory."""
        left = dict.fromkeys(self._total, 0)
        places = [TopicPartition(place.topic, place.partition) for place, _, _ in self._ranges]
        for (place, begin, end), now in zip(self._ranges, self._consumer.position(places), strict=True):
            # Negative until the first record has come.
            left[place.partition] += max(0, end - max(begin, now.offset))
        self._tell(left, self._total)
