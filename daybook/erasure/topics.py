"""Deleting from Kafka what is left of an erased holder in plaintext, and until when its bytes are on the disks.

Kafka deletes whole segments: one goes when all of it is before the partition's first offset, and the one that is being
written to is closed only by an append that comes `segment.ms` or more after its first record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from daybook import kafka
from daybook import registry as schema_registry
from daybook.erasure.records import Hit, Seen
from daybook.parked import ERASED_REASON
from daybook.waiting import looks
from schemas.codec import Codec
from schemas.commands import EraseHolder
from schemas.connections import Connections
from schemas.keys import ECHO_S
from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from schemas.topics import Topics

_KAFKAS_CHECK_MS: Final = 5 * 60 * 1000
"""Kafka's default of how often brokers look for what is to be deleted, where they may not be asked."""

_KAFKAS_BACKOFF_MS: Final = 15 * 1000
_KAFKAS_DELAY_MS: Final = 60 * 1000
_KAFKAS_SEGMENT_MS: Final = 7 * 24 * 60 * 60 * 1000

_LONGEST_MS: Final = 10 * 365 * 24 * 60 * 60 * 1000
"""What is longer means never, and is beyond what a date can have."""

_SPARE: Final = timedelta(seconds=5)
"""What brokers' clocks and a busy machine are allowed beyond what settings say."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A topic's settings, as the brokers have them."""

    segment: timedelta
    deletion: timedelta
    """From being deleted to being off the disk."""
    compaction: timedelta
    """From when a segment is closed to when what it supersedes is off the disk."""
    retention: timedelta | None
    """None when nothing is deleted by age."""


def deletable(topics: Topics) -> frozenset[str]:
    """The topics that records are deleted from. Facts, and what they are sealed with, are none of them."""
    return frozenset({topics.commands, topics.parked})


class Cleaning:
    """Deletes processed commands and, on request, parked records. One thread uses it; close it.

    Its methods block for as long as brokers take, each request for `timeout_s` at most, and raise `Unreachable`.
    """

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        self._connections = connections
        self._topics = connections.topics
        self._timeout_s = timeout_s
        self._opened = ExitStack()
        self._admin = self._opened.enter_context(AdminClient(connections.kafka(), logger=kafka.LOG))
        self._timings: dict[str, Timing] = {}
        self.deleted_at: dict[str, datetime] = {}
        """When this run last deleted something of a topic."""

    def close(self) -> None:
        self._opened.close()

    def timing(self, topic: str) -> Timing:
        """A topic's settings; Kafka's defaults, which are longer, for what we may not ask."""
        if topic not in self._timings:
            found = self._config(ResourceType.TOPIC, topic)
            broker = self._config(ResourceType.BROKER, self._a_broker())
            check = _duration(broker, "log.retention.check.interval.ms", _KAFKAS_CHECK_MS)
            backoff = _duration(broker, "log.cleaner.backoff.ms", _KAFKAS_BACKOFF_MS)
            delay = _duration(found, "file.delete.delay.ms", _KAFKAS_DELAY_MS)
            lag = _duration(found, "max.compaction.lag.ms", _KAFKAS_SEGMENT_MS)
            self._timings[topic] = Timing(
                segment=min(_duration(found, "segment.ms", _KAFKAS_SEGMENT_MS), lag),
                deletion=check + delay + _SPARE,
                compaction=lag + backoff + delay + _SPARE,
                retention=None if found.get("retention.ms") == "-1" else _duration(found, "retention.ms", _LONGEST_MS),
            )
        return self._timings[topic]

    def keys_gone_at(self, tombstone_at: datetime) -> datetime:
        """When the bytes of an erased key are off the disks: the echo of its tombstone closes the segment with both."""
        timing = self.timing(self._topics.subject_keys)
        return tombstone_at + max(timedelta(seconds=ECHO_S), timing.segment) + timing.compaction

    def due_at(self, hits: Collection[Hit]) -> datetime:
        """From when on an append closes the segments that these are in."""
        return max(hit.written_at + self.timing(hit.topic).segment for hit in hits) + timedelta(seconds=1)

    def delete_commands(self, hits: Sequence[Hit], seen: Seen, erasure: EraseHolder) -> bool:
        """Delete the processed commands of the partitions that these are in, with all before them.

        Nothing is done, and False returned, before the segments can be closed, or when a command has yet to be
        processed. `erasure` is appended where nothing else has closed a segment: repeating it changes nothing.

        """
        topic = self._topics.commands
        segment = self.timing(topic).segment
        if datetime.now(UTC) < self.due_at(hits):
            return False
        last: dict[int, Hit] = {}
        for hit in hits:
            if hit.partition not in last or hit.offset > last[hit.partition].offset:
                last[hit.partition] = hit
        # Where a record came so much later already, it closed the segment.
        wanted = {p: seen.newest[topic, p][0] + 1 for p in last}
        open_ = [p for p, hit in last.items() if seen.newest[topic, p][1] - hit.written_at <= segment]
        if open_:
            wanted |= {p: offset + 1 for p, offset in self._append_commands(open_, erasure).items()}
        # Up to what was processed, and no further: a service that is down has yet to read the rest.
        offsets = self._await_processed(wanted)
        self._delete(topic, offsets)
        return all(offsets.get(p, 0) >= end for p, end in wanted.items())

    def drop_parked(self, hits: Collection[Hit], account_id: str, now: datetime) -> None:
        """Delete all that is parked by now in the partitions that these are in, those of others as well.

        Less would not do: a segment goes as a whole. A note stays, which tells of it, and closes the segment.
        """
        topic = self._topics.parked
        note: dict[str, str | bytes | None] = {
            "parked-reason": ERASED_REASON,
            "parked-detail": f"what was parked here before was deleted with the holder of {account_id}",
            "parked-topic": topic,
            "parked-timestamp-ms": str(int(now.timestamp() * 1000)),
        }
        partitions = sorted({hit.partition for hit in hits})
        self._delete(topic, self._produce(topic, [(p, None, None, note) for p in partitions]))

    def _append_commands(self, partitions: Sequence[int], erasure: EraseHolder) -> dict[int, int]:
        with schema_registry.registry(self._connections) as registry:
            codec = Codec(registry)
            try:
                codec.look_up_commands(self._topics.commands, [EraseHolder])
            except (RegistryUnavailable, SchemaNotRegistered) as error:
                raise schema_registry.unreachable(self._connections, error) from error
            value = codec.encode_command(erasure)
        return self._produce(self._topics.commands, [(p, erasure.account_id.encode(), value, {}) for p in partitions])

    def _produce(
        self, topic: str, records: Sequence[tuple[int, bytes | None, bytes | None, Mapping[str, str | bytes | None]]]
    ) -> dict[int, int]:
        """Append records, given by partition, key, value and headers. Returns the offset of each partition's last."""
        failed: list[KafkaError] = []
        offsets: dict[int, int] = {}

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
            else:
                offsets[int(message.partition() or 0)] = int(message.offset() or 0)

        health = kafka.Health()
        config = self._connections.kafka(enable_idempotence=True, message_timeout_ms=int(self._timeout_s * 1000))
        with Producer({**config, "error_cb": health.on_error}, logger=kafka.LOG) as producer:
            try:
                for partition, key, value, headers in records:
                    producer.produce(topic, value, key, partition, headers=dict(headers), on_delivery=delivered)
                left = producer.flush(self._timeout_s + 1)
            except KafkaException as error:
                raise kafka.unreachable(self._connections, f"{topic}: {error.args[0].str()}") from error
        if left or failed:
            why = health.down or (failed[0].str() if failed else "no answer")
            raise kafka.unreachable(self._connections, f"{topic} took no record: {why}")
        return offsets

    def _await_processed(self, ends: Mapping[int, int]) -> dict[int, int]:
        """The group's committed offsets, once they have reached these ends; at the latest after the time-out."""
        committed: dict[int, int] = {}
        for _ in looks(self._timeout_s):
            committed = self._committed(list(ends))
            if all(committed.get(partition, 0) >= end for partition, end in ends.items()):
                break
        return committed

    def _committed(self, partitions: Collection[int]) -> dict[int, int]:
        group = self._topics.command_service_group
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(self._topics.commands, p) for p in partitions])
        try:
            future = self._admin.list_consumer_group_offsets(
                [asked], require_stable=True, request_timeout=self._timeout_s
            )[group]
            found = future.result().topic_partitions or ()
        except KafkaException as error:
            raise kafka.unreachable(self._connections, f"offsets of {group}: {error.args[0].str()}") from error
        return {at.partition: at.offset for at in found if at.error is None and at.offset >= 0}

    def _delete(self, topic: str, offsets: Mapping[int, int]) -> None:
        if topic not in deletable(self._topics):
            raise ValueError(f"{topic} is not to be deleted from")
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items() if offset > 0]
        if not wanted:
            return
        try:
            for future in self._admin.delete_records(wanted, request_timeout=self._timeout_s).values():
                future.result()
        except KafkaException as error:
            hint = ""
            if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                hint = f"; {self._connections.kafka_sasl_username} needs the right to delete there (docs/SECURITY.md)"
            raise kafka.unreachable(
                self._connections, f"records of {topic} were not deleted: {error.args[0].str()}{hint}"
            ) from error
        self.deleted_at[topic] = datetime.now(UTC)

    def _a_broker(self) -> str:
        try:
            return str(next(iter(self._admin.list_topics(timeout=self._timeout_s).brokers)))
        except KafkaException as error:
            raise kafka.unreachable(self._connections, error.args[0].str()) from error

    def _config(self, kind: ResourceType, name: str) -> dict[str, str]:
        """Settings of a topic or a broker; none where we may not ask."""
        try:
            (future,) = self._admin.describe_configs(
                [ConfigResource(kind, name)], request_timeout=self._timeout_s
            ).values()
            return {entry.name: entry.value for entry in future.result().values() if entry.value is not None}
        except KafkaException as error:
            denied = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
            if error.args[0].code() in denied:
                return {}
            raise kafka.unreachable(self._connections, f"settings of {name}: {error.args[0].str()}") from error


def _duration(settings: Mapping[str, str], name: str, otherwise_ms: int) -> timedelta:
    return timedelta(milliseconds=min(int(settings.get(name, otherwise_ms)), _LONGEST_MS))
