"""What is ours: the partitions that the group gave this instance, their restored states, and where to go on.

The consumer is used here alone. The group's callbacks run inside its `consume` and `poll`, so that no transaction is
ever under way when partitions come or go.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from command_service import metrics
from command_service.accounts import Bounds, PartitionState
from command_service.answers import Answers
from command_service.keys import SubjectKeys
from command_service.packing import Packing
from command_service.records import origin, was_decided
from command_service.restore import UNREADABLE, restore
from command_service.samples import Samples
from command_service.settings import Settings
from command_service.spill import SpillFolder
from command_service.vitals import Vitals
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.keys import KeyEncryption
from schemas.registry import RegistryUnavailable
from schemas.telemetry.quiet import kafka_logger

_log: Final = logging.getLogger(__name__)

_IDLE_WAIT_S: Final = 0.1
"""How long to wait for a first command: the time that a stop, or partitions that came, may go unnoticed. Ten empty
turns a second cost a thousandth of a core."""

_REQUEST_TIMEOUT_S: Final = 30.0
"""Bound of one question to the brokers. The stable committed offset may wait for a dead owner's transaction (10 s)."""

_END_TIMEOUT_S: Final = 5.0
"""Bound of asking where the events end, which commands wait for meanwhile: it takes a millisecond or two."""

_REGISTRY_WAIT_S: Final = 1.0

_PASSED_OVER: Final = 50_000
"""How many follow-ups, passed over, are worth a commit of their own. Until then a crash has them read again, in less
than 0.2 s."""

_LOOK_EVERY_S: Final = 1.0
"""How stale the lag is at most, which is a look into the client's memory."""


Place = tuple[str, int]
"""A topic and one of its partitions."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one transaction is made of."""

    records: list[tuple[Place, int, Message]]
    """Commands and follow-ups to be decided, in order, with their places and offsets."""
    passed: Mapping[Place, int]
    """The first offsets behind follow-ups that are not to be decided."""
    group: Any
    """The consumer's metadata as they were when this was taken."""

    def offsets(self, decided: int) -> dict[Place, int]:
        """The offsets to commit once the first so many records are decided."""
        offsets = {place: offset + 1 for place, offset, _ in self.records[:decided]}
        undecided = {place for place, _, _ in self.records[decided:]}
        for place, offset in self.passed.items():
            # A record that is not decided may stand before what is passed over.
            if place not in undecided:
                offsets[place] = max(offset, offsets.get(place, 0))
        return offsets


class CommandsUnreadable(Exception):
    """The consumer cannot go on: what comes next on a topic of commands is not given out."""


class _Interrupted(Exception):
    """A restore is no longer wanted: the assignment changed, or the service is stopping."""


class Assignment:
    """The consuming side of a command service. All methods are called by the loop's thread."""

    def __init__(
        self,
        connections: Connections,
        settings: Settings,
        codec: Codec,
        keeper: KeyEncryption,
        stopping: threading.Event,
        vitals: Vitals,
    ) -> None:
        self._keeper = keeper
        self._connections = connections
        self._settings = settings
        self._codec = codec
        self._stopping = stopping
        self._vitals = vitals
        self._lag_at = 0.0
        self._spill = SpillFolder(settings.spill_dir)
        self._topics = (connections.topics.commands, connections.topics.followups)
        self.states: dict[int, PartitionState] = {}
        """The committed state of each partition that commands are taken from."""
        self._assigned: set[int] = set()
        self._next: dict[Place, int] = {}
        self._passed: dict[Place, int] = {}
        """How far follow-ups were passed over since records were taken. Nothing undecided stands before that."""
        self._passed_over = 0
        """How many they are."""
        self._consumer = Consumer(
            connections.kafka(
                group_id=connections.topics.command_service_group,
                client_id=f"daybook-command-service-{settings.instance}",
                enable_auto_commit=False,
                isolation_level="read_committed",
                # Applies to a group's first start, and where retention overtook a service that was down for long.
                auto_offset_reset="earliest",
                # Partition i of every topic of the ledger belongs to one owner.
                partition_assignment_strategy="range",
                # The least that brokers allow by default: how long the accounts of a killed service wait.
                session_timeout_ms=6_000,
                heartbeat_interval_ms=2_000,
                # Commands are small; after a full queue the next fetch must not wait the default second.
                queued_min_messages=20_000,
                fetch_queue_backoff_ms=10,
                # A broker that is away is asked for twice a second, not twenty times.
                reconnect_backoff_ms=500,
                reconnect_backoff_max_ms=2_000,
            )
            | {"error_cb": vitals.brokers.on_error},
            logger=kafka_logger(),
        )

    @property
    def restored(self) -> bool:
        """Whether every partition that was assigned has its state."""
        return self._assigned == self.states.keys()

    def subscribe(self) -> None:
        """Ask the group for partitions; they come inside `take` or `restore`."""
        self._consumer.subscribe(
            list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def give_back(self) -> None:
        """Give all partitions back to the group and drop their states."""
        self._consumer.unsubscribe()
        self._drop()

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
        self._drop()
        self._spill.close()

    def take(self, most: int, *, wait: bool = True) -> Taken:
        """The commands and follow-ups that are there, at most so many.

        The first is waited for a little, the others are what has come meanwhile: a lone command is not held up, and
        under load batches grow. Without `wait` there may be none at once. Messages that were fetched from partitions
        which are no longer ours are left out.

        Follow-ups that were decided with what asked for them are passed over. A few are not worth a transaction: how
        far they were passed over is told with the next record, or when nothing came, or when they are many.

        Raises:
            CommandsUnreadable: the next record cannot be had.
        """
        # Not after the commands were taken: it may wait for brokers, in which time the group may move partitions.
        self._look_around()
        ours = self._assigned
        messages = self._consumer.consume(1, _IDLE_WAIT_S if wait else 0)
        if messages:
            messages += self._consumer.consume(most - 1, 0)
        # Taken here and not at commit time: later metadata may belong to an assignment without these partitions, and
        # was seen to be accepted for them.
        group = self._consumer.consumer_group_metadata()
        # Where partitions came or went in between, what was fetched is of before, and is read again.
        records = self._sort_out(messages if self._assigned is ours else [])
        passed: dict[Place, int] = {}
        if records or not messages or self._passed_over >= _PASSED_OVER:
            passed = self._passed
            self._forget_passed()
        return Taken(records, passed, group)

    def advance(self, offsets: Mapping[Place, int]) -> None:
        """Note that the commands before these offsets are committed."""
        self._next.update(offsets)
        # They were decided, so no schema is waited for.
        self._vitals.hindered(None)

    def unmoved(self, partitions: Iterable[int]) -> dict[Place, int]:
        """The first client's command that is not committed, of some partitions."""
        return {(self._topics[0], partition): self._next[self._topics[0], partition] for partition in partitions}

    def events_end(self, partition: int) -> int:
        """The offset before which all events of a partition are committed or aborted. Raises `KafkaException`."""
        place = TopicPartition(self._connections.topics.events, partition)
        # For a read-committed consumer it is the last stable offset.
        _, end = self._consumer.get_watermark_offsets(place, _END_TIMEOUT_S)
        return end

    def _look_around(self) -> None:
        """Once a second, see how far behind we are, and whether Kafka is back if it was away."""
        now = time.monotonic()
        if now - self._lag_at < _LOOK_EVERY_S:
            return
        self._lag_at = now
        self._vitals.brokers.look(self._consumer, self._topics[0])
        lags: dict[int, int] = {}
        for (topic, partition), offset in self._next.items():
            try:
                _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            except KafkaException:
                # The client does not know it yet; the work does not depend on it.
                continue
            lags[partition] = lags.get(partition, 0) + max(0, end - offset)
        for partition, lag in lags.items():
            metrics.LAG.labels(partition).set(lag)

    def rewind(self) -> None:
        """Read again from the first command that is not committed. Raises `KafkaException` where that cannot be."""
        for (topic, partition), offset in self._next.items():
            self._consumer.seek(TopicPartition(topic, partition, offset))

    def await_registry(self, error: RegistryUnavailable) -> None:
        """Wait a second for a registry that is down, as a member of the group, and read again what is not committed."""
        self._vitals.hindered(str(error))
        _log.warning("waiting for the registry, since a command's schema is not known here: %s", error)
        self._consumer.assign([])
        self._consumer.poll(_REGISTRY_WAIT_S)
        if self.restored:
            self._read_on()

    def restore(self) -> None:
        """Restore the states of the assigned partitions, and begin to take their commands.

        Returns without having done so if the assignment changed meanwhile, the service is stopping, or the registry
        is down; `restored` tells.

        Raises:
            LogDamaged, RestoreStalled, KafkaException: see `command_service.restore`.
        """
        # Every assignment is a set of its own: the same partitions, given back and taken again meanwhile, may have had
        # another owner in between.
        wanted = self._assigned
        window_ms = int(self._settings.remembered_hours * 3_600_000)

        began = time.monotonic()

        def keep_alive() -> None:
            self._vitals.pulse.beat("restoring the state")
            self._consumer.poll(0)
            if self._stopping.is_set() or self._assigned is not wanted:
                raise _Interrupted

        try:
            self.states = restore(
                self._connections,
                self._codec,
                wanted,
                lambda packing: self._new_state(packing, len(wanted)),
                window_ms,
                keep_alive,
                self._vitals.restoring,
                use_snapshots=self._settings.snapshots == "use",
            )
        except _Interrupted:
            return
        except RegistryUnavailable as error:
            self._vitals.hindered(str(error))
            _log.warning("waiting for the registry before the state can be restored: %s", error)
            self._consumer.poll(_REGISTRY_WAIT_S)
            return
        for partition, state in self.states.items():
            # Whoever left the snapshots aside wants them written anew.
            state.due |= self._settings.snapshots == "ignore"
            self.tell_accounts(partition)
        self._read_on()
        self._vitals.restored(time.monotonic() - began)

    def tell_accounts(self, partition: int) -> None:
        """Publish how many accounts a partition has, and how they are held."""
        state = self.states[partition]
        metrics.ACCOUNTS.labels(partition).set(state.count)
        for form, count in state.held().items():
            metrics.HELD.labels(partition, form).set(count)

    def _new_state(self, packing: Packing, partitions: int) -> PartitionState:
        settings = self._settings
        window_us = int(settings.remembered_hours * 3_600_000_000)
        held = max(1, settings.held_accounts // partitions)
        return PartitionState(
            Answers(settings.remembered_per_partition, window_us, settings.remembered_mb_per_partition * 1024 * 1024),
            packing,
            SubjectKeys(self._codec, self._keeper),
            Bounds(decoded=min(held, max(1, settings.decoded_accounts // partitions)), held=held),
            new_store=self._spill.store,
            samples=Samples(packing, settings.snapshots_checked) if settings.snapshots_checked else None,
        )

    def _read_on(self) -> None:
        """Fetch the commands that follow what is committed.

        Until then nothing is assigned to the consumer, rather than paused: librdkafka loses an assignment that a pause
        follows within moments (confluentinc/librdkafka#2190), and now and then a resumption (#5591).
        """
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in self._next.items()])

    def _sort_out(self, messages: Iterable[Message]) -> list[tuple[Place, int, Message]]:
        """Those of messages that are ours and to be decided; the rest are passed over, or told of."""
        records = []
        passed_over = 0
        followups = self._topics[1]
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(message, error)
                continue
            # Where there is no error they are all there.
            place: Any = message.topic(), message.partition()
            offset: Any = message.offset()
            begin = self._next.get(place)
            if begin is None or offset < begin:
                continue
            if place[0] == followups and was_decided(message):
                self._passed[place] = offset + 1
                passed_over += 1
            else:
                records.append((place, offset, message))
        metrics.PASSED_OVER.inc(passed_over)
        self._passed_over += passed_over
        return records

    def _forget_passed(self) -> None:
        """They are given to a transaction, or will be read again."""
        self._passed, self._passed_over = {}, 0

    def _on_error(self, message: Message, error: KafkaError) -> None:
        if error.fatal() or error.code() in UNREADABLE:
            raise CommandsUnreadable(
                f"{origin(message)}: {error}. No record from there on can be had. Once it is known what stands "
                f"there, move the group {self._connections.topics.command_service_group} past it with "
                "kafka-consumer-groups.sh"
            )
        # librdkafka goes on by itself after any other error, such as a broker that is away.
        _log.warning("consumer: %s", error)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Note where to go on. Nothing is fetched until the state is restored."""
        consumer.assign([])
        if not self._belong_together(partitions):
            return
        for place in consumer.committed(partitions, _REQUEST_TIMEOUT_S):
            self._vitals.pulse.beat("asking where to go on in a partition that was assigned")
            if place.error is not None:
                raise KafkaException(place.error)
            self._next[place.topic, place.partition] = self._begin(consumer, place)
        self._assigned = {place.partition for place in partitions}
        self._vitals.hindered(None)
        self._vitals.assigned(self._assigned)
        _log.info("assigned partitions %s", sorted(self._assigned))

    def _belong_together(self, partitions: list[TopicPartition]) -> bool:
        """Whether the same partitions of both topics were assigned, as they are to members that read both.

        While an instance of a release without follow-ups is in the group, they are not: two instances would decide on
        the same accounts.
        """
        of_each = [{place.partition for place in partitions if place.topic == topic} for topic in self._topics]
        if of_each[0] == of_each[1]:
            return True
        why = (
            f"the group {self._connections.topics.command_service_group} assigned partitions {sorted(of_each[0])} of "
            f"{self._topics[0]} but {sorted(of_each[1])} of {self._topics[1]}: an instance of an earlier release is "
            "still in it. Nothing is taken until it has left"
        )
        self._vitals.hindered(why)
        _log.warning(why)
        return False

    def _begin(self, consumer: Consumer, committed: TopicPartition) -> int:
        """Where to go on, given the stable committed offset (negative: there is none)."""
        # For a read-committed consumer the second is the last stable offset, which no committed offset is behind.
        low, end = consumer.get_watermark_offsets(committed, _REQUEST_TIMEOUT_S)
        if committed.offset > end:
            raise CommandsUnreadable(
                f"{committed.topic} partition {committed.partition}: offset {committed.offset} is committed, but the "
                f"log ends at {end}. Commands were lost with a broker, or the offsets of the group "
                f"{self._connections.topics.command_service_group} were moved: set them with kafka-consumer-groups.sh"
            )
        # The mark of the transaction that wrote the last record is behind it, and is never taken.
        if 0 <= committed.offset < low - 1:
            metrics.EXPIRED.inc(low - committed.offset)
            _log.error(
                "%s partition %d: the commands at offsets %d to %d were removed by retention before they were read",
                *(committed.topic, committed.partition, committed.offset, low - 1),
            )
        return max(committed.offset, low)

    def _on_revoke(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        if self._assigned:
            _log.info("gave partitions %s back", sorted(self._assigned))
        self._drop()

    def _drop(self) -> None:
        self._assigned = set()
        for state in self.states.values():
            state.close()
        self.states.clear()
        self._next.clear()
        self._forget_passed()
        self._vitals.unassigned()
