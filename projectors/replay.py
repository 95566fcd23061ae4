"""Reading the log into a read model up to a given place, as fast as it goes, without sharing it with anybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from projectors.patience import Patience, SinkThread
from projectors.projector import Batch, CannotProject, CheckpointMoved, Projector, SinkUnavailable
from projectors.rebuilding import CannotRebuild
from projectors.records import is_passing, passes, read
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.offsets import offset_of
from schemas.registry import RegistryUnavailable
from schemas.telemetry.quiet import kafka_logger

_TURN_S: Final = 0.2
"""How long to wait for as many events as were asked for: what the last, unfilled batch of a catch-up costs."""

_QUERY_TIMEOUT_S: Final = 5
"""One request's bound: brokers that are up answer within milliseconds."""

_MOST_MOVES: Final = 5
"""A checkpoint that somebody else moves this often is not moved by a restart of the sink: two write to one copy."""


def consumer(connections: Connections, projector: str) -> Consumer:
    """The consumer that a replay needs. It joins no group; the name only serves access rights."""
    config = connections.kafka(
        group_id=connections.topics.projector_group(f"{projector}.rebuild"),
        client_id=f"daybook-rebuild-{projector}",
        # Events of open or aborted transactions have not happened. The ends asked for are those of committed ones.
        isolation_level="read_committed",
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        # Offsets that the log no longer has, or does not have yet, must not be jumped over.
        auto_offset_reset="error",
        # Says where a partition ends, behind the transaction markers that hold no events.
        enable_partition_eof=True,
        # The end is known to be met once the broker has waited this long in vain, by default half a second: also the
        # last time, for which the live model is held.
        fetch_wait_max_ms=20,
        # The defaults serve a consumer that keeps up. One that reads everything wants few, large answers, and the next
        # ones there when it is done with those before; the queue's bound in kilobytes keeps memory in check.
        max_partition_fetch_bytes=8 * 1024 * 1024,
        queued_min_messages=200_000,
        fetch_queue_backoff_ms=10,
        reconnect_backoff_ms=500,
        reconnect_backoff_max_ms=2_000,
    )
    return Consumer(config, logger=kafka_logger())


@dataclass(slots=True)
class _Place:
    """Where a partition stands: `stored` in the read model, `given` to it to be stored, and `seen` in the log.

    `ahead` are messages that were read already and not taken yet, since they lie behind where we were to read to.
    """

    stored: int | None
    given: int | None
    seen: int
    ahead: list[Message] = field(default_factory=list)

    @property
    def reached(self) -> int:
        """The offset to take next: everything before it was given."""
        return self.ahead[0].offset() if self.ahead else self.seen  # type: ignore[return-value]

    def take(self, end: int) -> list[Message]:
        """The messages before an end."""
        taken = self.ahead
        if taken and taken[-1].offset() >= end:  # type: ignore[operator]
            taken = [message for message in taken if message.offset() < end]  # type: ignore[operator]
        self.ahead = self.ahead[len(taken) :]
        return taken


class Replay:
    """Reads a topic's partitions into a projector. The projector is called in the sink's thread alone.

    `check` is called there as well, whenever we ask the read model anew where it stands; it raises if that is no longer
    ours to write. `tell` is called as places are reached.
    """

    def __init__(
        self,
        projector: Projector,
        sink: SinkThread,
        consumer: Consumer,
        admin: AdminClient,
        topic: str,
        partitions: Collection[int],
        codec: Codec,
        patience: Patience,
        *,
        batch_events: int,
        check: Callable[[], None],
        tell: Callable[[Mapping[int, int], int], None],
    ) -> None:
        self._projector = projector
        self._sink = sink
        self._consumer = consumer
        self._admin = admin
        self._topic = topic
        self._partitions = sorted(partitions)
        self._codec = codec
        self._patience = patience
        self._batch_events = batch_events
        self._check = check
        self._tell = tell
        self._places: dict[int, _Place] = {}
        self._pending: tuple[Future[None], Sequence[Batch]] | None = None
        self._positions: dict[int, int] = {}
        self._paused: set[int] = set()
        self._moves = 0
        self.events: int = 0
        """How many events were applied."""

    @property
    def positions(self) -> dict[int, int]:
        """The offset before which everything of a partition was taken, as far as we were to read."""
        return dict(self._positions)

    def ends(self) -> dict[int, int]:
        """Where the committed part of each partition ends. Waits for Kafka; raises `Stopped` or `CannotProject`."""
        # One request for all partitions; the consumer's own query takes a fifth of a second for each.
        newest = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in self._partitions}
        while True:
            try:
                answers = self._admin.list_offsets(
                    newest, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_QUERY_TIMEOUT_S
                )
                ends = {
                    place.partition: offset_of(answer.result(_QUERY_TIMEOUT_S)) for place, answer in answers.items()
                }
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if not is_passing(cause):
                    raise CannotProject(f"Kafka does not tell where {self._topic} ends: {cause.str()}") from error
                self._patience.wait(error)
            except TimeoutError as error:
                self._patience.wait(error)
            else:
                self._patience.went_on()
                return ends

    def read_to(self, ends: Mapping[int, int], *, deadline: float = float("inf")) -> bool:
        """Read until the read model has everything before these ends and, if it had not before, nothing behind them.

        Waits for servers that are away. With a deadline (of `time.monotonic`), false as soon as it passes or a server
        has to be waited for.

        Raises:
            Stopped: we were told to; the read model has all that was read so far, or less.
            CannotProject, CannotRebuild: waiting does not help.
        """
        while True:
            try:
                if not self._places:
                    self._stand()
                return self._read(ends, deadline)
            except (SinkUnavailable, RegistryUnavailable, CheckpointMoved) as error:
                self._forget()
                if isinstance(error, CheckpointMoved):
                    self._moved(error)
                if deadline != float("inf"):
                    return False
                self._patience.wait(error)
            except BaseException:
                self._forget()
                raise

    def _stand(self) -> None:
        """Read on from where the read model stands."""
        self._sink.call(self._check)
        stored = {partition: self._sink.call(self._projector.checkpoint, partition) for partition in self._partitions}
        self._places = {partition: _Place(at, at, at or 0) for partition, at in stored.items()}
        self._positions = {partition: at or 0 for partition, at in stored.items()}
        self._paused = set()
        self._consumer.assign([TopicPartition(self._topic, p, at) for p, at in self._positions.items()])
        self._tell(self.positions, self.events)

    def _read(self, ends: Mapping[int, int], deadline: float) -> bool:
        self._take(ends)
        while any(self._places[partition].reached < end for partition, end in ends.items()):
            self._patience.check()
            if time.monotonic() > deadline:
                self._settle()
                return False
            self._fetch()
            self._take(ends)
        self._settle()
        if self._projector.moves_without_events:
            # The live model stands behind the markers at the end of the log, which hold no events; so must this one.
            passed = [
                Batch(partition, self._places[partition].stored, (), (), at)
                for partition, at in self._positions.items()
                if at != self._places[partition].stored
            ]
            if passed:
                self._give(passed)
                self._settle()
        return True

    def _fetch(self) -> None:
        """Take over what came, leaving alone for now the partitions that are ahead of where we read to."""
        ahead = {partition for partition, place in self._places.items() if place.ahead}
        if resumed := self._paused - ahead:
            self._consumer.resume([TopicPartition(self._topic, partition) for partition in resumed])
        if paused := ahead - self._paused:
            self._consumer.pause([TopicPartition(self._topic, partition) for partition in paused])
        self._paused = ahead
        for message in self._consumer.consume(self._batch_events, _TURN_S):
            error = message.error()
            if error is None:
                self._places[message.partition()].ahead.append(message)  # type: ignore[index]
            elif error.code() == KafkaError._PARTITION_EOF:
                place = self._places[message.partition()]  # type: ignore[index]
                place.seen = max(place.seen, message.offset())  # type: ignore[type-var, assignment]
            else:
                passes(message, error, self._topic, self._projector.name)
        for place in self._places.values():
            if place.ahead:
                place.seen = max(place.seen, place.ahead[-1].offset() + 1)  # type: ignore[operator]

    def _take(self, ends: Mapping[int, int]) -> None:
        """Decode what lies before the ends while what came before is applied, and have it applied next."""
        batches: list[Batch] = []
        failure: Exception | None = None
        for partition, place in self._places.items():
            messages = place.take(ends[partition])
            if messages:
                batch, failure = read(messages, partition, place.given, self._codec)
                if batch is not None:
                    batches.append(batch)
                if failure is not None:
                    break
        self._settle()
        if batches:
            self._give(batches)
        if failure is not None:
            # What comes before a record that cannot be read is worth having.
            self._settle()
            raise failure
        for partition, place in self._places.items():
            self._positions[partition] = max(self._positions[partition], min(place.reached, ends[partition]))

    def _give(self, batches: Sequence[Batch]) -> None:
        self._pending = self._sink.begin(self._projector.apply, batches), batches
        for batch in batches:
            self._places[batch.partition].given = batch.next_offset

    def _settle(self) -> None:
        """Wait until what was given has been applied."""
        if self._pending is None:
            return
        future, batches = self._pending
        self._pending = None
        future.result()
        for batch in batches:
            self._places[batch.partition].stored = batch.next_offset
            self.events += len(batch.events)
        self._patience.went_on()
        self._tell(self.positions, self.events)

    def _forget(self) -> None:
        """No longer count on where we stand; what is under way ends first."""
        if self._pending is not None:
            future, _ = self._pending
            self._pending = None
            with suppress(Exception):
                # Why we forget is known already; this only follows from it.
                future.result()
        self._places = {}
        self._consumer.assign([])

    def _moved(self, error: CheckpointMoved) -> None:
        self._moves += 1
        if self._moves >= _MOST_MOVES:
            raise CannotRebuild(
                f"the copy is written to by somebody else ({error}). Only one rebuild of {self._projector.name} can "
                "run at a time: stop the other one, then run this again"
            ) from error
