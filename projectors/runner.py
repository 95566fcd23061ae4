"""The one loop that feeds any projector. Read `Runner._turn`: its steps are the numbers here.

1. Stand where the sink stands: ask it for the checkpoint of every partition that we have, and read from there.
2. Take what is there, at most a batch. One event is not kept waiting for others, unless the projector says for how
   long; many are taken together.
3. Decode, and apply what was taken of all partitions.
4. Now and then ask the sink whether it still stands where we think, so that a wiped one fills up again by itself.

Whatever hinders that for a time (a sink or a registry that is down, a checkpoint that moved, partitions that came or
went) has one answer: forget where we stand, wait a little while staying in the consumer group, and begin at step 1.
The sink decides where that is, so nothing is lost or applied twice whatever happened in between.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from projectors.progress import SINKS, Progress, State
from projectors.projector import Batch, CheckpointMoved, Held, Projector, SinkUnavailable
from projectors.records import headers, passes, read
from projectors.tracing import show
from schemas.codec import Codec
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable
from schemas.telemetry.latencies import ISSUED_AT, issued_at
from schemas.telemetry.quiet import kafka_logger
from schemas.telemetry.traces import Tracer, parent
from schemas.telemetry.vitals import Brokers

_log = logging.getLogger(__name__)

_TURN_S: Final = 0.1
"""How long a turn waits for events: also how late a stop is noticed at most."""

_UNASSIGNED_TURN_S: Final = 0.05
"""The same while there is nothing to read yet, so that new partitions are not kept waiting."""

_VERIFY_S: Final = 1.0
"""How often an idle sink is asked where it stands: one small call a second and partition, and how late we notice."""

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
"""A restarting Redis or registry is back within seconds; asking it every five does not hinder that."""

_SESSION_TIMEOUT_MS: Final = 6_000
"""How long the partitions of a killed projector stay orphaned. The default of 45 s would be the time that its restart
takes to go on; the brokers' lower limit is 6 s."""


_REPLAY_US: Final = 3_600_000_000
"""Events that are older than an hour when they become visible are read again, or late for another reason than the
ledger's speed: they say nothing of how long it takes, and a replay is not slowed down by measuring it."""

_SAMPLE: Final = 500
"""Of each partition's part of a batch, so many events at least are asked for their command's time: a question costs
about as much as a tenth of decoding, and no more are needed to see how long it takes."""


def consumer(connections: Connections, projector: str, brokers: Brokers | None = None) -> Consumer:
    """The consumer that a runner needs; the group only shares the partitions out. `brokers` hears of lost ones."""
    config: dict[str, Any] = connections.kafka(
        group_id=connections.topics.projector_group(projector),
        client_id=f"daybook-projector-{projector}",
        # Events of open or aborted transactions have not happened.
        isolation_level="read_committed",
        # The sink keeps the position. What is committed to the group is for tools that show lag.
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        # Offsets that the log no longer has, or does not have yet, must not be jumped over.
        auto_offset_reset="error",
        # Says where a partition ends, behind the transaction markers that hold no events.
        enable_partition_eof=True,
        # With the eager protocol an assignment is one list that replaces the last, as `_stand` does at any time.
        partition_assignment_strategy="range",
        session_timeout_ms=_SESSION_TIMEOUT_MS,
        # A replay fills the local queue; the default second until the next fetch could let it run dry.
        fetch_queue_backoff_ms=10,
        # Brokers take seconds to come back: neither 20 attempts a second nor the default's 10 s of sitting there.
        reconnect_backoff_ms=500,
        reconnect_backoff_max_ms=2_000,
    )
    if brokers is not None:
        config["error_cb"] = brokers.on_error
    return Consumer(config, logger=kafka_logger())


@dataclass(slots=True)
class _Place:
    """Where a partition stands: `stored` in the sink, `reached` in the log, and when the sink last confirmed it."""

    stored: int | None
    reached: int
    confirmed: float

    def reach(self, offset: int) -> None:
        self.reached = max(self.reached, offset)


class Runner:
    """Runs one projector until `stop` is called or something is wrong that waiting does not help.

    `consumer` comes from `consumer()`; the runner closes it. All runs in the caller's thread but for `stop`.
    """

    def __init__(
        self,
        projector: Projector,
        consumer: Consumer,
        topic: str,
        codec: Codec,
        progress: Progress,
        *,
        batch_events: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._projector = projector
        self._consumer = consumer
        self._topic = topic
        self._codec = codec
        self._progress = progress
        self._batch_events = batch_events
        self._tracer = tracer
        self._assigned: tuple[int, ...] = ()
        # A new dictionary each time partitions came or went, so that what was read before can be told apart.
        self._places: dict[int, _Place] = {}
        self._stopping = False
        self._failures = 0

    def stop(self) -> None:
        """Have `run` return within a second, or once the sink has answered. Any thread or signal handler may call."""
        self._stopping = True

    def run(self) -> None:
        """Returns after `stop`. The partitions are then another process's to take, at once.

        Raises:
            CannotProject: naming what is wrong, where, and what to do.
        """
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
            while not self._stopping:
                self._turn()
        finally:
            self._consumer.close()
            self._progress.gave_up()
            self._progress.entered(State.STOPPED)

    def _turn(self) -> None:
        self._progress.pulse.beat("a turn: reading events and having them applied")
        self._progress.brokers.look(self._consumer, self._topic)
        try:
            if self._assigned and not self._places:
                self._stand()  # 1
            taken, ends = self._take()  # 2
            self._apply(taken)  # 3
            for partition, end in ends.items():
                self._places[partition].reach(end)
            self._verify()  # 4
        except (SinkUnavailable, RegistryUnavailable, CheckpointMoved) as error:
            self._step_back(error)

    def _stand(self) -> None:
        """Read on from the sink's checkpoints."""
        stored = {partition: self._projector.checkpoint(partition) for partition in self._assigned}
        now = time.monotonic()
        self._places = {partition: _Place(at, at or 0, now) for partition, at in stored.items()}
        self._consumer.assign([TopicPartition(self._topic, p, place.reached) for p, place in self._places.items()])
        _log.info("%s reads on from %s", self._projector.name, {p: place.reached for p, place in self._places.items()})

    def _take(self) -> tuple[dict[int, list[Message]], dict[int, int]]:
        """What came in and which ends were met, by partition.

        Nothing when partitions came or went meanwhile, since what came in may be of those that went.
        """
        before = self._places
        messages = self._consumer.consume(1, _TURN_S if before else _UNASSIGNED_TURN_S)
        if messages:
            messages += self._consumer.consume(self._batch_events - 1, 0)
        if any(message.error() is None for message in messages):
            self._gather(messages, before)
        taken: dict[int, list[Message]] = {}
        ends: dict[int, int] = {}
        for message in messages:
            error = message.error()
            if error is None:
                taken.setdefault(message.partition(), []).append(message)  # type: ignore[arg-type]
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition()] = message.offset()  # type: ignore[index, assignment]
            else:
                passes(message, error, self._topic, self._projector.name)
        return (taken, ends) if self._places is before else ({}, {})

    def _gather(self, messages: list[Message], places: dict[int, _Place]) -> None:
        """Add what comes while the projector lets events linger."""
        until = time.monotonic() + self._projector.linger_s
        while len(messages) < self._batch_events and self._places is places and not self._stopping:
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            self._progress.pulse.beat("gathering events for one commit")
            messages += self._consumer.consume(self._batch_events - len(messages), min(left_s, _TURN_S))

    def _apply(self, taken: Mapping[int, list[Message]]) -> None:
        batches: list[Batch] = []
        failure: Exception | None = None
        for partition, messages in taken.items():
            batch, failure = read(messages, partition, self._places[partition].stored, self._codec)
            if batch is not None:
                batches.append(batch)
            if failure is not None:
                break
        if batches:
            began_us = now_micros()
            self._hand_over(batches)
            self._show(batches, taken, began_us)
        if failure is not None:
            raise failure

    def _verify(self) -> None:
        """Move the sink's checkpoints to where we are, or at least see that they are where we left them."""
        now = time.monotonic()
        due = {p: place for p, place in self._places.items() if now - place.confirmed >= _VERIFY_S}
        if due:
            moves = self._projector.moves_without_events
            self._hand_over(
                [Batch(p, place.stored, (), (), place.reached if moves else place.stored) for p, place in due.items()]
            )
            self._commit(due)

    def _hand_over(self, batches: Sequence[Batch]) -> None:
        began = time.monotonic()
        self._projector.apply(batches)
        now = time.monotonic()
        for batch in batches:
            place = self._places[batch.partition]
            place.stored, place.confirmed = batch.next_offset, now
            place.reach(batch.next_offset or 0)
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, batch.partition), cached=True)
            recorded_at = batch.events[-1].recorded_at if batch.events else None
            self._progress.reached(batch.partition, place.reached, max(end, place.reached), recorded_at)
        if events := sum(len(batch.events) for batch in batches):
            self._progress.applied(events, now - began)
        if self._progress.state is not State.RUNNING:
            if self._failures:
                _log.info("%s goes on", self._projector.name)
            self._progress.entered(State.RUNNING)
        self._failures = 0

    def _show(self, batches: Sequence[Batch], taken: Mapping[int, list[Message]], began_us: int) -> None:
        """Tell how long it took until these events were visible, and end their traces here."""
        now_us = now_micros()
        recorded_us: list[int] = []
        issued_us: list[int] = []
        for batch in batches:
            if now_us - batch.events[-1].recorded_at > _REPLAY_US:
                continue
            recorded_us += [event.recorded_at for event in batch.events]
            # A trace is of one event, so that none may be left out.
            every = 1 if self._tracer is not None else max(1, len(batch.events) // _SAMPLE)
            for event, message in zip(
                batch.events[::every], taken[batch.partition][: len(batch.events) : every], strict=True
            ):
                found = headers(message)
                at_us = issued_at(found.get(ISSUED_AT))
                if at_us is not None:
                    issued_us.append(at_us)
                if self._tracer is not None and (above := parent(found)) is not None:
                    show(
                        self._tracer,
                        self._projector.name,
                        event,
                        batch.partition,
                        int(message.offset() or 0),
                        above,
                        began_us,
                    )
        self._progress.visible(recorded_us, issued_us)

    def _waited_for(self, error: Exception) -> str:
        match error:
            case Held():
                return "held"
            case SinkUnavailable():
                return SINKS.get(self._projector.name, "sink")
            case RegistryUnavailable():
                return "registry"
            case _:
                return "moved"

    def _step_back(self, error: Exception) -> None:
        """Forget where we stand and wait, each time longer, while the group still counts on us."""
        moved = isinstance(error, CheckpointMoved)
        if moved or self._progress.state is not State.WAITING:
            about = {"reason_class": self._waited_for(error)}
            _log.warning("%s stops for now: %s", self._projector.name, error, extra=about)
        self._progress.entered(State.WAITING, str(error), self._waited_for(error))
        self._consumer.assign([])
        self._places = {}
        until = time.monotonic() + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._failures, 10))
        self._failures += 1
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._progress.pulse.beat("waiting")
            message = self._consumer.poll(min(left, _TURN_S))
            if message is not None and (kafka := message.error()) is not None:
                passes(message, kafka, self._topic, self._projector.name)

    def _commit(self, places: Mapping[int, _Place]) -> None:
        """Show the group where we are. Nothing depends on it, so a failure is only worth a line."""
        offsets = [TopicPartition(self._topic, p, place.reached) for p, place in places.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            _log.debug("the group's offsets were not updated: %s", error)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched before `_stand` has asked the sink, which cannot be done here: it may be down for longer
        # than the group waits for this callback.
        consumer.assign([])
        self._assigned = tuple(sorted(partition.partition for partition in partitions))
        self._places = {}
        self._progress.gave_up()
        self._progress.assigned(self._assigned)
        if not partitions:
            # What was waited for is their new owner's matter.
            self._progress.entered(State.STARTING)
            self._failures = 0
        _log.info("%s has partitions %s", self._projector.name, list(self._assigned))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # With the eager protocol all partitions go at once. What was applied is in the sink with its checkpoint.
        consumer.unassign()
        self._assigned = ()
        self._places = {}
        self._progress.gave_up()
        self._progress.unassigned()
        _log.info("%s gives up partitions %s", self._projector.name, sorted(p.partition for p in partitions))
