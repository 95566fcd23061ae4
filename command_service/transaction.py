"""THE loop: one batch of commands, one transaction.

1. Take what is there: the first command is waited for, the rest is what has come meanwhile.
2. Keep what is ours: a rebalance may have taken partitions whose messages were already fetched.
3. Decide each command on an overlay over the committed state.
4. In one transaction send the events, replies, parked and forwarded records, and the consumed offsets.
5. Once the commit has returned, the overlay becomes the committed state.

When the transaction is aborted, the overlay is dropped and the batch is read again. When the producer is lost, only the
log knows what happened: all partitions are given back and taken anew, which restores their state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from command_service import metrics
from command_service.accounts import Overlay, PartitionState
from command_service.answers import Answers
from command_service.handler import Handler, Outcomes
from command_service.producer import ProducerLost, TransactionAborted, TransactionalProducer
from command_service.restore import restore
from command_service.settings import Settings
from schemas.codec import Codec
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable

_log: Final = logging.getLogger(__name__)

_IDLE_WAIT_S: Final = 0.5
"""How long to wait for a first command: the time that a stop may go unnoticed."""

_REQUEST_TIMEOUT_S: Final = 30.0
"""Bound of one question to the brokers. The stable committed offset may wait for a dead owner's transaction (10 s)."""

_REGISTRY_WAIT_S: Final = 1.0
_REGISTRY_REMINDER_S: Final = 30.0

_FAILURES: Final = 5
_FAILURES_WITHIN_S: Final = 120.0
"""So many lost producers in so short a time are not an accident: the process ends, and says so."""


class TooManyFailures(Exception):
    """Transactions fail again and again; the process ends so that somebody looks."""


class _Interrupted(Exception):
    """A restore is no longer wanted: the assignment changed, or the service is stopping."""


class CommandService:
    """Decides the commands of the partitions that its consumer group gives it, until `stop`."""

    def __init__(self, connections: Connections, settings: Settings, codec: Codec, partitions: int) -> None:
        self._connections = connections
        self._settings = settings
        self._codec = codec
        self._topic = connections.topics.commands
        self._handler = Handler(codec, connections.topics, partitions, max_command_bytes=settings.max_command_bytes)
        self._producer = TransactionalProducer(connections, connections.topics.transactional_id(settings.instance))
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
        )
        self._stopping = threading.Event()
        self._assigned: set[int] = set()
        self._next: dict[int, int] = {}
        self._states: dict[int, PartitionState] = {}
        self._lost_at: deque[float] = deque(maxlen=_FAILURES)

    def stop(self) -> None:
        """Finish the transaction that is under way, then leave. May be called from a signal handler or any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`. Returns after having left the group; what it raises ends the process.

        Raises:
            TooManyFailures, LogDamaged, RestoreStalled, KafkaException: see there.
        """
        try:
            self._producer.open()
            self._subscribe()
            while not self._stopping.is_set():
                if self._assigned != self._states.keys():
                    self._restore()
                else:
                    self._step()
        finally:
            self._consumer.close()
            self._producer.close()

    def _step(self) -> None:
        messages = self._consumer.consume(1, _IDLE_WAIT_S)
        if messages:
            messages += self._consumer.consume(self._settings.batch - 1, 0)
        # Taken here and not at commit time: later metadata may belong to an assignment without these partitions, and
        # was seen to be accepted for them.
        group = self._consumer.consumer_group_metadata()
        ours = [message for message in messages if self._is_ours(message)]
        if not ours:
            return
        now = now_micros()
        outcomes = Outcomes()
        overlays: dict[int, Overlay] = {}
        offsets: dict[int, int] = {}
        unavailable: RegistryUnavailable | None = None
        for message in ours:
            partition = int(message.partition() or 0)
            overlay = overlays.get(partition)
            if overlay is None:
                overlay = overlays[partition] = Overlay(self._states[partition])
            try:
                self._handler.handle(message, overlay, now, outcomes)
            except RegistryUnavailable as error:
                unavailable = error
                break
            offsets[partition] = int(message.offset() or 0) + 1
        try:
            if offsets:
                with metrics.TRANSACTION.time():
                    places = {(self._topic, partition): offset for partition, offset in offsets.items()}
                    self._producer.transact(outcomes.outgoing, places, group)
        except TransactionAborted as error:
            _log.warning("aborted a batch of %d commands, which will be decided again: %s", len(ours), error)
            self._rewind()
            return
        except ProducerLost as error:
            self._start_anew(error)
            return
        self._next.update(offsets)
        for partition, overlay in overlays.items():
            overlay.commit(now)
            metrics.ACCOUNTS.labels(partition).set(len(self._states[partition].entries))
        _publish(outcomes, len(ours))
        if unavailable is not None:
            self._await_registry(unavailable)

    def _is_ours(self, message: Message) -> bool:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaException(error)
            # librdkafka goes on by itself after any other error, such as a broker that is away.
            _log.warning("consumer: %s", error)
            return False
        partition = int(message.partition() or 0)
        return partition in self._states and int(message.offset() or 0) >= self._next[partition]

    def _rewind(self) -> None:
        """Read again from the first command that is not committed."""
        try:
            for partition, offset in self._next.items():
                self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException as error:
            self._start_anew(error)

    def _start_anew(self, cause: Exception) -> None:
        """Give all partitions back and take them anew, with a new producer."""
        self._lost_at.append(time.monotonic())
        if len(self._lost_at) == _FAILURES and self._lost_at[-1] - self._lost_at[0] < _FAILURES_WITHIN_S:
            raise TooManyFailures(
                f"{_FAILURES} transactions in {self._lost_at[-1] - self._lost_at[0]:.0f} s could not be finished, the "
                f"last one by: {cause}. Is another process running as instance {self._settings.instance} "
                "(DAYBOOK_COMMAND_SERVICE_INSTANCE)? Are the brokers in order?"
            ) from cause
        _log.warning("starting anew from the log: %s", cause)
        metrics.REBUILT.inc()
        self._consumer.unsubscribe()
        self._drop_states()
        self._producer.open()
        self._subscribe()

    def _await_registry(self, error: RegistryUnavailable) -> None:
        """Wait for a registry that is down, as a member of the group, and then read again from where it was needed."""
        _log.warning("waiting for the registry, since a command's schema is not known here: %s", error)
        everything = [TopicPartition(self._topic, partition) for partition in self._assigned]
        self._consumer.pause(everything)
        self._consumer.poll(_REGISTRY_WAIT_S)
        if self._assigned == self._states.keys():
            self._consumer.resume([TopicPartition(self._topic, partition) for partition in self._assigned])
            self._rewind()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Note where to go on, and hold the partitions until their state is restored."""
        for place in consumer.committed(partitions, _REQUEST_TIMEOUT_S):
            if place.error is not None:
                raise KafkaException(place.error)
            low, _ = consumer.get_watermark_offsets(place, _REQUEST_TIMEOUT_S)
            if 0 <= place.offset < low:
                metrics.EXPIRED.inc(low - place.offset)
                _log.error(
                    "%s partition %d: the commands at offsets %d to %d were removed by retention before they were read",
                    *(self._topic, place.partition, place.offset, low - 1),
                )
            self._next[place.partition] = max(place.offset, low)
        starts = [TopicPartition(self._topic, p.partition, self._next[p.partition]) for p in partitions]
        consumer.assign(starts)
        consumer.pause(starts)
        self._assigned = {place.partition for place in partitions}
        _log.info("assigned partitions %s", sorted(self._assigned))

    def _on_revoke(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        # Callbacks run inside consume and poll only, so no transaction is under way.
        if self._assigned:
            _log.info("gave partitions %s back", sorted(self._assigned))
        self._drop_states()

    def _drop_states(self) -> None:
        self._assigned.clear()
        self._states.clear()
        self._next.clear()
        metrics.ACCOUNTS.clear()

    def _restore(self) -> None:
        wanted = frozenset(self._assigned)
        window_ms = int(self._settings.remembered_hours * 3_600_000)

        def keep_alive() -> None:
            self._consumer.poll(0)
            if self._stopping.is_set() or self._assigned != wanted:
                raise _Interrupted

        try:
            self._states = restore(
                self._connections,
                self._codec,
                wanted,
                lambda: Answers(self._settings.remembered_per_partition, window_ms * 1000),
                window_ms,
                keep_alive,
            )
        except _Interrupted:
            return
        except RegistryUnavailable as error:
            _log.warning("waiting for the registry before the state can be restored: %s", error)
            self._consumer.poll(_REGISTRY_WAIT_S)
            return
        for partition, state in self._states.items():
            metrics.ACCOUNTS.labels(partition).set(len(state.entries))
        self._consumer.resume([TopicPartition(self._topic, partition) for partition in wanted])


def _publish(outcomes: Outcomes, commands: int) -> None:
    """Count what is committed."""
    metrics.BATCH.observe(commands)
    for (outcome, code), count in outcomes.answered.items():
        metrics.COMMANDS.labels(outcome, code).inc(count)
    for reason, count in outcomes.parked.items():
        metrics.PARKED.labels(reason).inc(count)
    if outcomes.forwarded:
        metrics.FORWARDED.inc(outcomes.forwarded)
