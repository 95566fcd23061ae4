"""Deleting from Kafka what is left of an erased holder in plaintext, and until when its bytes are on the disks.

Commands are deleted up to an offset: a segment goes when all of it is before the partition's first one. Parked records
are deleted one by one, by tombstones: a segment is cleaned with all before it. Either way the segment that is being
written to is closed only by an append that comes `segment.ms` or more after its first record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from daybook import kafka
from daybook import registry as schema_registry
from daybook.erasure.parked import work
from daybook.erasure.places import Hit
from daybook.erasure.records import Seen
from daybook.erasure.timing import TICK, Timing
from daybook.waiting import looks
from schemas.codec import Codec
from schemas.commands import EraseHolder
from schemas.connections import Connections
from schemas.keys import ECHO_S, LATER_KEY
from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from schemas.topics import ERASED_HEADER, Topics

_KAFKAS_CHECK_MS: Final = 5 * 60 * 1000
"""Kafka's default of how often brokers look for what is to be deleted, where they may not be asked."""

_KAFKAS_BACKOFF_MS: Final = 15 * 1000
_KAFKAS_DELAY_MS: Final = 60 * 1000
_KAFKAS_SEGMENT_MS: Final = 7 * 24 * 60 * 60 * 1000

_LONGEST_MS: Final = 10 * 365 * 24 * 60 * 60 * 1000
"""What is longer means never, and is beyond what a date can have."""

_SPARE: Final = timedelta(seconds=5)
"""What brokers' clocks and a busy machine are allowed beyond what settings say."""


def deletable(topics: Topics) -> frozenset[str]:
    """The topics that are deleted from up to an offset. Facts, and what they are sealed with, are none of them."""
    return frozenset({topics.commands})


class Cleaning:
    """Deletes processed commands, and parked records by tombstones. One thread uses it; close it.

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
                lag=lag,
                cleaning=backoff + delay + _SPARE,
                retention=None if found.get("retention.ms") == "-1" else _duration(found, "retention.ms", _LONGEST_MS),
                compacted="compact" in found.get("cleanup.policy", "compact"),
            )
        return self._timings[topic]

    def keys_gone_at(self, tombstone_at: datetime) -> datetime:
        """When the bytes of an erased key are off the disks: the echo of its tombstone closes the segment with both."""
        timing = self.timing(self._topics.subject_keys)
        return tombstone_at + max(timedelta(seconds=ECHO_S), timing.segment) + timing.lag + timing.cleaning

    def due_at(self, hits: Collection[Hit]) -> datetime:
        """From when on an append closes the segments that these are in."""
        return max(hit.written_at + self.timing(hit.topic).segment for hit in hits) + TICK

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

    def erase_parked(self, seen: Seen, account_id: str) -> datetime | None:
        """Append tombstones of what is to be erased, and close the segments with tombstones that can be closed by now.

        Returns when all of this holder that has a tombstone behind it is off the disks; None where nothing has.
        """
        topic = self._topics.parked
        newest = {partition: at for (of, partition), (_, at) in seen.newest.items() if of == topic}
        found = work(seen.parked, newest, self.timing(topic), datetime.now(UTC))
        headers: Mapping[str, str | bytes | None] = {ERASED_HEADER: account_id}
        records = [(partition, key, None, headers) for partition, key in found.tombstones]
        records += [(partition, LATER_KEY, None, {}) for partition in found.closing]
        if records:
            self._produce(topic, records)
        return found.gone_at

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
