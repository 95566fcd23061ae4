"""The client's link to the ledger: a producer of commands, and one thread that hands each reply to who waits for it.

All clients' replies are on one topic. The link reads all of its partitions from where they end when it is opened,
which is before its first command, and decodes only the replies to its own commands: their key is the command id.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from daybook import kafka
from daybook import registry as schema_registry
from daybook.errors import DaybookError, NotTaken, Unreachable, UnreadableRecord
from daybook.overheard import Overheard
from schemas.codec import Codec, Undecodable
from schemas.commands import AnyCommand, CommandReply
from schemas.connections import Connections, NotConfigured
from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from schemas.telemetry import traces
from schemas.topics import FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT, REPLAYED_HEADER


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and how it came about."""

    reply: CommandReply
    replayed: bool
    """The command had been answered before: this is that first reply once more, and nothing was changed now."""
    to_follow_up: bool = False
    """It is the reply to a command that the service gave itself."""


Outcomes = SimpleQueue[Answer | DaybookError]
"""Where a command's outcome is put: its answer, or why there will be none."""

Headers = list[tuple[str, str | bytes | None]]

_OnDelivery = Callable[[KafkaError | None, Message], None]

_log: Final = logging.getLogger(__name__)

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_LEFT: Final = "nobody waits for the reply any more"

_SAFE: Final = "giving them again under the same command ids is safe"

_POLL_S: Final = 0.1
"""How long the thread waits for a reply before it looks for failed deliveries and whether it should end. A reply
wakes it at once."""

_CLOSE_S: Final = 5.0
"""Closing waits this long for the thread, and for commands still being handed over; both take milliseconds."""

_QUEUE_KB: Final = 64 * 1024
"""Encoded commands that wait for the broker: about half a million, where the default would let 1 GB pile up."""

_LEAST_MESSAGE_TIMEOUT_MS: Final = 1000
"""librdkafka looks for commands that have waited too long once a second."""


class Link:
    """An open link. All but `close` may be called by several threads.

    A link that failed for good says why in `broken`, has told all who waited, and should be closed and replaced.
    """

    def __init__(self, connections: Connections, *, timeout_s: float, deadline: float) -> None:
        """Connect; blocks until `deadline` (of `time.monotonic`) at most.

        `timeout_s` bounds how long a command may wait for the broker to take it.

        Raises: `Unreachable`, naming the broker, or the topic that is missing there; `NotConfigured`.
        """
        self._connections = connections
        self._topics = connections.topics
        self._health = kafka.Health()
        self._registry = schema_registry.registry(connections)
        self._codec = Codec(self._registry)
        self._looked_up: set[type[AnyCommand]] = set()
        self._waiting: dict[bytes, tuple[Outcomes, ...]] = {}
        self._spans: dict[bytes, list[traces.Span]] = {}
        self._overheard: Overheard[Answer | DaybookError] = Overheard()
        self._lock = Lock()
        self._closing = False
        self.broken: str | None = None
        self._consumer = kafka.consumer(connections, self._health, auto_offset_reset="earliest")
        try:
            self._consumer.assign(self._ends(deadline))
            self._producer = self._new_producer(timeout_s)
            self._tracer = _tracer()
        except BaseException:
            self._consumer.close()
            self._registry.close()
            raise
        # A daemon, so that a program that forgets to close its client can still end.
        self._thread = Thread(target=self._serve, name="daybook-replies", daemon=True)
        self._thread.start()

    def send(self, command: AnyCommand, outcomes: Outcomes, deadline: float) -> None:
        """Hand a command to the producer. Its outcome will be put into `outcomes`, once, unless forgotten before.

        Blocks, until `deadline` at most, only while the producer's queue is full, and for a question to the registry
        when a command is the first of its type.

        Raises: `NotTaken`, `Unreachable`, or `ValueError` for an id that is no UUID; then there will be no outcome.
        """
        if _UUID.fullmatch(command.command_id) is None:
            # The service could not tell whom to answer, and would put such a command aside.
            raise ValueError(f'command id "{command.command_id}" is not a UUID: use str(uuid.uuid4())')
        key = command.command_id.encode()
        value = self._encoded(command)
        with self._lock:
            if self.broken is not None:
                raise self._unreachable(self.broken)
            self._waiting[key] = (*self._waiting.get(key, ()), outcomes)
        headers = None if self._tracer is None else self._trace(self._tracer, command)
        try:
            self._produce(command, value, headers, partial(self._on_failure, key, outcomes), deadline)
        except BaseException as error:
            self.withdraw(key, outcomes, str(error) or type(error).__name__)
            raise

    def forget(self, outcomes: Outcomes) -> list[str]:
        """Wait no longer for anything owed to `outcomes`; returns the ids of those commands, oldest first."""
        with self._lock:
            keys = [key for key, waiting in self._waiting.items() if outcomes in waiting]
            for key in keys:
                self._keep(key, tuple(other for other in self._waiting[key] if other is not outcomes), _LEFT)
        return [key.decode() for key in keys]

    def withdraw(self, key: bytes, outcomes: Outcomes, why: str = _LEFT) -> bool:
        """Wait no longer for one command, whose id is `key`. False when nothing is owed. Its trace tells why."""
        with self._lock:
            waiting = list(self._waiting.get(key, ()))
            if outcomes not in waiting:
                return False
            waiting.remove(outcomes)
            self._keep(key, tuple(waiting), why)
            return True

    @contextmanager
    def keeping(self) -> Iterator[int]:
        """Keep all replies that come until the block is left; what it gives is for `overhear`.

        For who learns from the reply to a command which others are wanted: entered before that command is sent.
        """
        with self._lock:
            begun = self._overheard.begin()
        try:
            yield begun
        finally:
            with self._lock:
                self._overheard.end()

    @contextmanager
    def overhear(self, command_ids: Sequence[str], outcomes: Outcomes, begun: int) -> Iterator[bool]:
        """Have the replies to these, which others give, put into `outcomes` until the block is left.

        Gives False when so many replies came since `keeping` was entered that not all were kept: one that is wanted may
        have been among them, and has to be looked for elsewhere.

        Raises: `Unreachable`, when the link failed.
        """
        keys = [command_id.encode() for command_id in command_ids]
        with self._lock:
            if self.broken is not None:
                raise self._unreachable(self.broken)
            came = self._overheard.want(keys, outcomes)
            whole = self._overheard.has_all_since(begun)
        try:
            for message in came:
                outcomes.put(self._decoded(message))
            yield whole
        finally:
            with self._lock:
                self._overheard.leave(keys, outcomes)

    def why_silent(self) -> Unreachable | None:
        """What is known to keep replies from coming, if anything: the broker cannot be reached."""
        if self._health.down is not None and len(self._producer) > 0:
            return self._unreachable(f"commands cannot be handed over: {self._health.down}; {_SAFE}")
        return None

    def close(self) -> None:
        """Hand over what was sent, end the thread, and tell all who still wait. Blocks for a few seconds at most."""
        self._closing = True
        self._thread.join(_CLOSE_S)
        self._producer.flush(_CLOSE_S)
        self._break("the client was closed before the reply came")
        # Nothing is to be closed under a thread that is still using it.
        if not self._thread.is_alive():
            self._consumer.close()
            self._registry.close()
        if self._tracer is not None:
            self._tracer.close()

    def _ends(self, deadline: float) -> list[TopicPartition]:
        topics = (self._topics.commands, self._topics.replies)
        _, count = kafka.partitions(self._consumer, topics, self._connections, self._health, deadline)
        places = [(self._topics.replies, partition) for partition in range(count)]
        return kafka.ends(self._connections, places, deadline)

    def _encoded(self, command: AnyCommand) -> bytes:
        # A schema takes some 10 ms to look up, and a program that gives one command should pay for one. Two threads
        # that ask at once get the same answer.
        kind = type(command)
        if kind not in self._looked_up:
            try:
                self._codec.look_up_commands(self._topics.commands, [kind])
            except (RegistryUnavailable, SchemaNotRegistered) as error:
                raise schema_registry.unreachable(self._connections, error) from error
            self._looked_up.add(kind)
        return self._codec.encode_command(command)

    def _new_producer(self, timeout_s: float) -> Producer:
        config = self._connections.kafka(
            # Each command once and in order, on all in-sync replicas, before it counts as taken.
            enable_idempotence=True,
            acks="all",
            # As Java's clients choose partitions and as the command service expects; librdkafka's default differs.
            partitioner="murmur2",
            compression_type="lz4",
            # A single command is hardly held up, while many at once go in batches: 0 cost them a quarter of their rate.
            linger_ms=1,
            socket_nagle_disable=True,
            queue_buffering_max_kbytes=_QUEUE_KB,
            # A command nobody waits for any more should not be carried out when the broker comes back.
            message_timeout_ms=max(_LEAST_MESSAGE_TIMEOUT_MS, int(timeout_s * 1000)),
        )
        # Only failures are of interest, since a reply says more than a receipt does.
        more = {"delivery.report.only.error": True, "error_cb": self._health.on_error}
        return Producer({**config, **more}, logger=kafka.LOG)

    def _trace(self, tracer: traces.Tracer, command: AnyCommand) -> Headers | None:
        """Begin the command's span, if it is sampled, and return what tells the service of it."""
        span = tracer.begin(
            f"{type(command).__name__}",
            "CLIENT",
            messaging__system="kafka",
            messaging__destination__name=self._topics.commands,
            daybook__account_id=command.account_id,
            daybook__command_id=command.command_id,
            daybook__correlation_id=command.correlation_id or command.command_id,
        )
        above = span.traceparent
        if above is None:
            return None
        with self._lock:
            # Of several that sent the same command, the spans end together, when nobody waits any more.
            self._spans.setdefault(command.command_id.encode(), []).append(span)
        return [(traces.TRACEPARENT, above)]

    def _produce(
        self, command: AnyCommand, value: bytes, headers: Headers | None, on_failure: _OnDelivery, deadline: float
    ) -> None:
        key = command.account_id.encode()
        while True:
            try:
                self._producer.produce(self._topics.commands, value, key, on_delivery=on_failure, headers=headers)
            except BufferError as error:
                if time.monotonic() >= deadline:
                    why = self._health.down or "the queue of commands has been full for too long"
                    raise self._unreachable(why) from error
                # Deliveries make room, which the wait for their reports is long enough to notice.
                self._producer.poll(kafka.LEAST_S)
            except KafkaException as error:
                raise NotTaken(command.command_id, error.args[0].str()) from error
            else:
                return

    def _serve(self) -> None:
        try:
            while not self._closing and self._health.fatal is None:
                self._producer.poll(0)
                for message in kafka.take(self._consumer, _POLL_S):
                    self._receive(message)
        except Exception as error:  # Whatever it is, those who wait must hear of it.
            kafka.LOG.exception("the thread that receives replies failed")
            self._break(f"replies cannot be received any more: {type(error).__name__}: {error}")
        else:
            if self._health.fatal is not None:
                self._break(self._health.fatal)

    def _receive(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            # Broken connections are mended by librdkafka, and are no matter of the topic's.
            if not error.retriable() and error.code() != KafkaError._TRANSPORT:
                raise KafkaException(error)
            return
        self._health.is_up()
        outcome: Answer | DaybookError | None = None
        for outcomes in self._waiting_for(message.key(), message):
            outcome = outcome or self._decoded(message)
            outcomes.put(outcome)

    def _decoded(self, message: Message) -> Answer | DaybookError:
        try:
            headers = dict(message.headers() or {})
            return Answer(
                self._codec.decode_reply(message.value()),
                replayed=REPLAYED_HEADER in headers,
                to_follow_up=headers.get(FINGERPRINT_HEADER) == FOLLOW_UP_FINGERPRINT,
            )
        except (Undecodable, UnicodeDecodeError, SystemError) as error:
            # The last two are what the Kafka library raises on a header whose name is not UTF-8.
            where = f"topic {message.topic()}, partition {message.partition()}, offset {message.offset()}"
            return UnreadableRecord(where, str(error))
        except RegistryUnavailable as error:
            return schema_registry.unreachable(self._connections, error)

    def _waiting_for(self, key: bytes | None, message: Message) -> tuple[Outcomes, ...]:
        """Who is given a reply: of several that sent the same command the first, and all who overhear it."""
        # Most replies on the topic are other clients', and the lock is not needed to see that.
        if key is None or not (self._overheard.concerns(key) or key in self._waiting):
            return ()
        with self._lock:
            overhearing = self._overheard.hear(key, message)
            waiting = self._waiting.get(key, ())
            if not waiting:
                return overhearing
            self._keep(key, waiting[1:])
            return (waiting[0], *overhearing)

    def _on_failure(self, key: bytes, outcomes: Outcomes, error: KafkaError | None, _: Message) -> None:
        if error is None or not self.withdraw(key, outcomes, error.str()):
            return
        if error.code() in (KafkaError._MSG_TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            why = self._health.down or error.str()
            outcomes.put(self._unreachable(f"command {key.decode()} could not be handed over: {why}; {_SAFE}"))
        else:
            outcomes.put(NotTaken(key.decode(), error.str()))

    def _keep(self, key: bytes, waiting: tuple[Outcomes, ...], error: str | None = None) -> None:
        if waiting:
            self._waiting[key] = waiting
        else:
            self._waiting.pop(key, None)
            for span in self._spans.pop(key, ()):
                span.end(error)

    def _break(self, why: str) -> None:
        with self._lock:
            if self.broken is None:
                self.broken = why
            abandoned = [*self._waiting.values(), *self._overheard.wanted.values()]
            self._waiting.clear()
            self._overheard.wanted.clear()
            for spans in self._spans.values():
                for span in spans:
                    span.end(why)
            self._spans.clear()
        for waiting in abandoned:
            for outcomes in waiting:
                outcomes.put(self._unreachable(why))

    def _unreachable(self, why: str) -> Unreachable:
        return kafka.unreachable(self._connections, why)


def _tracer() -> traces.Tracer | None:
    """What makes the client's spans, if that is switched on and can be had.

    The variables may be there for the application's own traces, which are no reason to keep it from sending commands.
    """
    try:
        return traces.tracer("daybook-client")
    except NotConfigured as error:
        _goes_without_traces(str(error))
        return None


@cache
def _goes_without_traces(why: str) -> None:
    """Say so, once for each reason: a program may open many links."""
    _log.warning("commands are sent without traces: %s", why)
