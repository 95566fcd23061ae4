"""THE loop: one batch of commands, one transaction.

1. Take the commands that are there, of the partitions that are ours, and the group's metadata of that moment.
2. Decide each on an overlay over the committed state.
3. In one transaction send the events, follow-ups, replies, parked and forwarded records, holders' keys and their
   tombstones, the snapshots that are due, and the consumed offsets. What the commands led to is on its way while what
   they ask of other accounts is decided.
4. Once the commit has returned, the overlay becomes the committed state.

When the transaction is aborted, the overlay is dropped and the batch is read again, in smaller parts. When the producer
is lost, only the log knows what happened: all partitions are given back and taken anew, which restores their state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Final

from confluent_kafka import KafkaException, Message

from command_service import metrics
from command_service.accounts import Overlays
from command_service.assignment import Assignment, CommandsUnreadable, Place, Taken
from command_service.deciding import Outcomes
from command_service.handler import Handler
from command_service.keys import Upkeep
from command_service.producer import ProducerLost, TransactionAborted, TransactionalProducer
from command_service.records import Outgoing, origin
from command_service.rounds import Rounds
from command_service.settings import Settings
from command_service.vitals import Vitals
from schemas.codec import Codec
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.keys import KeyEncryption
from schemas.registry import RegistryUnavailable
from schemas.telemetry.traces import Tracer

_log: Final = logging.getLogger(__name__)

_FAILURES: Final = 5
_FAILURES_WITHIN_S: Final = 180.0
"""So many beginnings in so short a time are not an accident: the process ends, and says so. Five questions to brokers
that wait out their 30 s one after the other are within it: a new process asks with new clients."""

_ABORTS: Final = 20
_ABORT_WAIT_S: Final = 0.1
"""An abort's cause may need a moment to pass, such as a rebalance or a leader's election: the wait grows by this with
each abort in a row, so that the last of them comes after some twenty seconds."""


_AT_ONCE_S: Final = 3.0
"""Bound of deciding on other accounts within a transaction, which brokers give up after 10 s. What is left is read."""

_END_S: Final = 3.0
_NEARLY: Final = 10
"""Before a stop, a round begins for a tenth of the events that make one due, and takes a few seconds at most."""


class TooManyFailures(Exception):
    """Transactions fail again and again; the process ends so that somebody looks."""


class CommandService:
    """Decides the commands of the partitions that its consumer group gives it, until `stop`."""

    def __init__(
        self,
        connections: Connections,
        settings: Settings,
        codec: Codec,
        partitions: int,
        keeper: KeyEncryption,
        vitals: Vitals,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._vitals = vitals
        self._stopping = threading.Event()
        self._handler = Handler(
            codec, connections.topics, partitions, max_command_bytes=settings.max_command_bytes, tracer=tracer
        )
        self._assignment = Assignment(connections, settings, codec, keeper, self._stopping, vitals)
        self._producer = TransactionalProducer(
            connections, connections.topics.transactional_id(settings.instance), self._stopping, vitals
        )
        self._snapshots_topic = connections.topics.snapshots
        self._rounds = Rounds(self._snapshots_topic, settings.snapshot_every)
        self._upkeep = Upkeep(connections.topics.subject_keys)
        self._batch = settings.batch
        self._aborts = 0
        self._lost_at: deque[float] = deque(maxlen=_FAILURES)
        self._forgetting = False

    def stop(self) -> None:
        """Finish the transaction that is under way, then leave. May be called from a signal handler or any thread."""
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`. Returns after having left the group; what it raises ends the process.

        Raises:
            TooManyFailures, CommandsUnreadable, LogDamaged, RestoreStalled: see there.
            KafkaException, ProducerLost: Kafka cannot be reached at the start, or not again.
        """
        try:
            self._vitals.hindered("the transactional producer is being opened")
            self._producer.open()
            self._vitals.hindered(None)
            self._assignment.subscribe()
            while not self._stopping.is_set():
                try:
                    if self._assignment.restored:
                        self._step()
                    else:
                        self._assignment.restore()
                except (ProducerLost, KafkaException) as error:
                    self._start_anew(error)
            self._snapshot_at_end()
        finally:
            self._assignment.close()
            self._producer.close()

    def _step(self) -> None:
        self._vitals.pulse.beat("taking commands")
        self._begin_rounds()
        states = self._assignment.states
        busy = self._rounds.running(states) or self._upkeep.waiting(state.keys for state in states.values())
        self._decide(self._assignment.take(self._batch, wait=not busy))

    def _begin_rounds(self, least: int | None = None) -> None:
        try:
            self._rounds.begin(self._assignment.states, self._assignment.events_end, least)
        except KafkaException as error:
            # Commands do not depend on it. It is tried again with the next ones.
            _log.warning("no round of snapshots begun, since Kafka did not say where the events end: %s", error)

    def _decide(self, taken: Taken) -> None:
        """Decide a batch and write what it leads to, with the snapshots that are due. Either may be nothing."""
        now = now_micros()
        outcomes = Outcomes()
        overlays = Overlays(self._assignment.states)
        decided = 0
        unavailable: RegistryUnavailable | None = None
        for (_, partition), _, record in taken.records:
            try:
                self._handler.handle(record, overlays[partition], now, outcomes)
            except RegistryUnavailable as error:
                unavailable = error
                break
            decided += 1
        offsets = taken.offsets(decided)
        due = self._rounds.due(self._assignment.states, decided)
        chores = self._upkeep.due({partition: state.keys for partition, state in self._assignment.states.items()})
        if offsets or due.parts or chores.parts:

            def records() -> Iterator[Outgoing]:
                yield from outcomes.taken_out()
                until = time.monotonic() + _AT_ONCE_S
                while outcomes.asked:
                    self._handler.follow(overlays, now, outcomes, until)
                    yield from outcomes.taken_out()
                yield from due.records
                yield from chores.records

            def places() -> dict[Place, int]:
                # Also of partitions that are only written to, where offsets do not move: so a service is found out that
                # has lost them, and whoever has got them waits for this transaction before reading their events.
                return self._assignment.unmoved({*due.parts, *chores.parts, *overlays}) | offsets

            try:
                with metrics.TRANSACTION.time():
                    self._producer.transact(records(), places, taken.group)
            except (TransactionAborted, ProducerLost) as error:
                for span in outcomes.spans:
                    span.end(str(error))
                if isinstance(error, ProducerLost):
                    raise
                self._decide_again(taken, error)
                return
            self._assignment.advance(offsets)
            due.committed()
            chores.committed()
            self._batch, self._aborts = self._settings.batch, 0
            self._vitals.committed()
            for partition, overlay in overlays.items():
                self._tell_forgotten(overlay.commit(now))
                self._assignment.tell_accounts(partition)
            if decided:
                _publish(outcomes)
        if unavailable is not None:
            self._assignment.await_registry(unavailable)

    def _snapshot_at_end(self) -> None:
        """Before a stop, write the snapshots that are nearly due, so that the next start has little to read.

        Bounded, and given up at the first failure: it only spares time.
        """
        until = time.monotonic() + _END_S
        try:
            if self._assignment.restored:
                self._begin_rounds(least=max(1, self._settings.snapshot_every // _NEARLY))
            aborts = self._aborts
            while self._rounds.running(self._assignment.states) and time.monotonic() < until and self._aborts == aborts:
                # What is taken is for the next start: nothing of it is decided or passed over.
                self._decide(Taken([], {}, self._assignment.take(1, wait=False).group))
        except (ProducerLost, KafkaException, CommandsUnreadable) as error:
            _log.warning("stopping without having written all snapshots: %s", error)

    def _decide_again(self, taken: Taken, error: TransactionAborted) -> None:
        """Read an aborted batch again, in smaller parts, in case one record of it is what cannot be sent."""
        self._aborts += 1
        self._vitals.failed(str(error))
        batch = [record for _, _, record in taken.records]
        if batch:
            first, what = origin(batch[0]), "what this command leads to"
        elif taken.passed:
            first, what = str(next(iter(taken.passed))[0]), "how far follow-ups were passed over"
        else:
            first, what = self._snapshots_topic, "snapshots"
        about = self._handler.about(batch[0]) | {"commands": len(batch), "offsets": _spans_of(batch)} if batch else {}
        _log.warning("aborted %d commands from %s on, to be decided again: %s", len(batch), first, error, extra=about)
        if self._aborts >= _ABORTS:
            raise TooManyFailures(
                f"{first}: {what} could not be written in {_ABORTS} attempts, the last time for: {error}. Are the "
                "topics as `daybook deploy apply --check` wants them, and may this service write to them?"
            ) from error
        if batch:
            self._batch = max(1, len(batch) // 2)
        self._stopping.wait(_ABORT_WAIT_S * (self._aborts - 1))
        self._assignment.rewind()

    def _start_anew(self, cause: Exception) -> None:
        """Give all partitions back and take them anew, with a new producer."""
        self._lost_at.append(time.monotonic())
        self._vitals.failed(str(cause))
        if len(self._lost_at) == _FAILURES and self._lost_at[-1] - self._lost_at[0] < _FAILURES_WITHIN_S:
            raise TooManyFailures(
                f"{_FAILURES} times within {self._lost_at[-1] - self._lost_at[0]:.0f} s all had to begin anew, at "
                f"last for: {cause}. Is another process running as instance {self._settings.instance} "
                "(DAYBOOK_COMMAND_SERVICE_INSTANCE)? Are the brokers in order?"
            ) from cause
        _log.warning("starting anew from the log: %s", cause)
        metrics.REBUILT.inc()
        self._assignment.give_back()
        if not self._stopping.is_set():
            self._producer.open()
            self._assignment.subscribe()

    def _tell_forgotten(self, early: int) -> None:
        """Count answers that were forgotten before their time, and tell of the first."""
        metrics.FORGOTTEN.inc(early)
        if early and not self._forgetting:
            self._forgetting = True
            _log.warning(
                "more commands come than can be remembered for %g hours: the oldest ids are forgotten sooner, and such "
                "a command would be done again if it were sent again. "
                "DAYBOOK_COMMAND_SERVICE_REMEMBERED_PER_PARTITION raises the limit",
                self._settings.remembered_hours,
            )


def _spans_of(batch: list[Message]) -> dict[str, list[int]]:
    """The first and the last offset of each partition in a batch, as a log line's field."""
    spans: dict[str, list[int]] = {}
    for message in batch:
        offset = int(message.offset() or 0)
        spans.setdefault(f"{message.topic()} {message.partition()}", [offset, offset])[1] = offset
    return spans


def _publish(outcomes: Outcomes) -> None:
    """Count what is committed."""
    metrics.ISSUED_TO_COMMITTED.observe_since(outcomes.issued_us, now_micros())
    for span in outcomes.spans:
        span.end()
    commands = outcomes.forwarded + sum(outcomes.answered.values()) + sum(outcomes.parked.values())
    if commands:
        metrics.BATCH.observe(commands)
    for (outcome, code), count in outcomes.answered.items():
        metrics.COMMANDS.labels(outcome, code).inc(count)
    for reason, count in outcomes.parked.items():
        metrics.PARKED.labels(reason).inc(count)
    for command, count in outcomes.follow_ups.items():
        metrics.FOLLOW_UPS.labels(command).inc(count)
    if outcomes.forwarded:
        metrics.FORWARDED.inc(outcomes.forwarded)
