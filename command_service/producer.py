"""The transactional producer: one whole transaction at a time, and what its failures mean."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from command_service import metrics
from command_service.records import Outgoing
from command_service.vitals import Vitals
from schemas.connections import Connections
from schemas.telemetry.quiet import kafka_logger

_log: Final = logging.getLogger(__name__)

_TRANSACTION_TIMEOUT_MS: Final = 10_000
"""Short, so that a dead owner's open transaction does not hold the log for long."""

_SOCKET_TIMEOUT_MS: Final = 5_000
_SUSPICIOUS_COMMIT_S: Final = 0.9 * _SOCKET_TIMEOUT_MS / 1000

_CALL_TIMEOUT_S: Final = 10.0

_COMMIT_TIMEOUT_S: Final = 2.0
"""Short, and repeated like any call: librdkafka first waits for what is not delivered yet, and goes on waiting when the
transaction has failed and nothing of that can be. Asked again, it says so at once."""

_CALL_BOUND_S: Final = 1.5 * _CALL_TIMEOUT_S
_REPEAT_FOR_S: Final = 30.0
"""Bound of repeating one retriable call: by then the coordinator has timed the transaction out three times over."""

_INIT_FOR_S: Final = 60.0
"""Bound of becoming the owner of a transactional id: a broker that restarts takes less."""

_CONNECT_TIMEOUT_S: Final = 2.0
"""Bound of awaiting a first connection. Without one the start only takes half a second longer."""

_QUEUE_FULL_WAIT_S: Final = 0.05


class TransactionAborted(Exception):
    """The transaction is undone as a whole. The same batch can be decided and sent again."""


class ProducerLost(Exception):
    """This producer cannot go on, and whether its transaction was committed is only to be read from the log."""


class TransactionalProducer:
    """Sends batches under one transactional id. Its methods block; they are called by the loop's thread alone."""

    def __init__(
        self, connections: Connections, transactional_id: str, stopping: threading.Event, vitals: Vitals
    ) -> None:
        """`stopping` ends the repetition of calls that fail for the time being."""
        self._connections = connections
        self._transactional_id = transactional_id
        self._stopping = stopping
        self._vitals = vitals
        self._calls = _Calls()
        self._suspect = False
        self._producer: Producer | None = None

    def open(self) -> None:
        """Become the id's only owner: whoever had it before is fenced, and what it left open is aborted.

        Raises:
            KafkaException: the brokers did not let it within a minute.
            ProducerLost: they did not even answer.
        """
        self._drop()
        producer = Producer(
            self._connections.kafka(
                transactional_id=self._transactional_id,
                transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                socket_timeout_ms=_SOCKET_TIMEOUT_MS,
                acks="all",
                compression_type="lz4",
                # A commit flushes; until then, full batches compress better.
                linger_ms=5,
                batch_size=1_000_000,
                queue_buffering_max_messages=1_000_000,
                # Room to park the largest command with its headers and ours.
                message_max_bytes=2 * 1024 * 1024,
                # A commit fails if a record was not delivered, so the many good reports need not be looked at.
                delivery_report_only_error=True,
                # Back-to-back transactions meet CONCURRENT_TRANSACTIONS, whose default back-off of 100 ms would
                # dominate the latency of a command.
                retry_backoff_ms=1,
                retry_backoff_max_ms=10,
                # Half of the first is also the pause between the first two connections. A broker that is away is asked
                # for three times a second, however short it is.
                reconnect_backoff_ms=100,
                reconnect_backoff_max_ms=2_000,
            )
            | {"error_cb": self._on_error},
            logger=kafka_logger(),
        )
        # Asked for before a broker is connected, the coordinator is asked for again only half a second later. The first
        # question is answered by whom the configuration names, whose connection is then replaced by a broker's.
        with suppress(KafkaException):
            for _ in range(2):
                producer.list_topics(self._connections.topics.events, _CONNECT_TIMEOUT_S)
        self._repeat(lambda: producer.init_transactions(_CALL_TIMEOUT_S), _INIT_FOR_S)
        self._producer, self._suspect = producer, False

    def transact(
        self, records: Iterable[Outgoing], offsets: Callable[[], Mapping[tuple[str, int], int]], group: Any
    ) -> None:
        """Send records and consumed offsets as one transaction, and return once it is committed.

        Records are sent as they come, while the next ones are made. `offsets` gives, after the last, the next to read,
        by topic and partition; `group` is the consumer's metadata as it was when the records were consumed, which is
        how a consumer that has since lost its partitions is found out.

        Raises:
            TransactionAborted: nothing happened.
            ProducerLost: what happened is in the log; `open` again and read it.
            Exception: whatever `records` or `offsets` raises. The transaction is left open, for `close` and the next
                `open` to undo.
        """
        producer = self._trusted()
        try:
            producer.begin_transaction()
            _produce(producer, records)
            places = [TopicPartition(*place, offset) for place, offset in offsets().items()]
            self._repeat(lambda: producer.send_offsets_to_transaction(places, group, _CALL_TIMEOUT_S))
            began = time.monotonic()
            self._repeat(lambda: producer.commit_transaction(_COMMIT_TIMEOUT_S))
            self._suspect |= time.monotonic() - began > _SUSPICIOUS_COMMIT_S
        except KafkaException as error:
            raise self._given_up(producer, error) from error

    def _trusted(self) -> Producer:
        """The producer, or a new one where something happened to its connections since the last transaction began.

        Two defects of librdkafka are kept out by that. It repeats an EndTxn out of sight, and without the newer
        protocol (its issue 5423) a broker may take the repetition for the end of the next transaction. And it remembers
        a group coordinator that is gone, and waits for it without a bound (its issues 5456 and 5511). A new producer
        has a new epoch and remembers nothing.
        """
        if self._producer is not None:
            # The error callback runs here, also for what happened while nothing was sent.
            self._producer.poll(0)
            if self._suspect:
                _log.warning("replacing the producer after errors of its connections")
                metrics.REBUILT.inc()
                try:
                    self.open()
                except KafkaException as error:
                    raise ProducerLost(f"it could not be replaced: {error.args[0].str()}") from error
        if self._producer is None:
            raise ProducerLost("there is no producer: it was not opened, or was dropped")
        return self._producer

    def close(self) -> None:
        self._drop()
        self._calls.end()

    def _given_up(self, producer: Producer, error: KafkaException) -> Exception:
        cause: KafkaError = error.args[0]
        if not cause.txn_requires_abort():
            # What made it fatal, such as another owner of the id, is told to the error callback, which runs in here.
            producer.poll(0)
            self._drop()
            return ProducerLost(f"{cause.name()}: {cause.str()}")
        try:
            self._repeat(lambda: producer.abort_transaction(_CALL_TIMEOUT_S))
        except KafkaException as abort_error:
            self._drop()
            return ProducerLost(f"{cause.str()}, and it could not be aborted: {abort_error.args[0].str()}")
        metrics.ABORTED.inc()
        return TransactionAborted(f"{cause.name()}: {cause.str()}")

    def _repeat(self, call: Callable[[], None], for_s: float = _REPEAT_FOR_S) -> None:
        """Make a call of the transactional API, and again while it says that this is the remedy and nobody stops us.

        Raises:
            KafkaException: it failed for good.
            ProducerLost: it did not come back.
        """
        deadline = time.monotonic() + for_s
        while True:
            self._vitals.pulse.beat("a call of the transactional producer")
            try:
                if self._calls.make(call):
                    return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline or self._stopping.is_set():
                    raise
            else:
                # The call still holds the producer, which is left to it: a purge would wait for the same locks.
                self._producer, self._calls = None, _Calls()
                raise ProducerLost(f"a call did not come back within {_CALL_BOUND_S:.0f} s")

    def _drop(self) -> None:
        if self._producer is not None:
            # Nothing unsent may be delivered under a dropped transaction, nor hold up the destruction.
            self._producer.purge()
            self._producer = None

    def _on_error(self, error: KafkaError) -> None:
        _log.warning("producer: %s", error)
        self._suspect = True


class _Calls:
    """Makes calls in a thread that can be left behind, since librdkafka does not keep every time-out (issue 5456)."""

    def __init__(self) -> None:
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="transactional calls", daemon=True).start()

    def make(self, call: Callable[[], None]) -> bool:
        """Make a call and raise what it raises. False: it has not come back well after its own time-out; it never may,
        and no further call can be made here."""
        self._todo.put(call)
        try:
            error = self._done.get(timeout=_CALL_BOUND_S)
        except queue.Empty:
            return False
        if error is not None:
            raise error
        return True

    def end(self) -> None:
        self._todo.put(None)

    def _work(self) -> None:
        while (call := self._todo.get()) is not None:
            try:
                call()
            except Exception as error:
                self._done.put(error)
            else:
                self._done.put(None)
            # It holds the producer, which would outlive its being dropped while this thread waits.
            del call


def _produce(producer: Producer, records: Iterable[Outgoing]) -> None:
    for record in records:
        while True:
            try:
                producer.produce(record.topic, record.value, record.key, record.partition, headers=record.headers)
                break
            except BufferError:
                # The local queue is full; delivering frees it, and a failed delivery ends the transaction.
                producer.poll(_QUEUE_FULL_WAIT_S)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._STATE:
                    # The transaction has failed, for instance by an earlier record: it can only be aborted. Why is told
                    # by the calls that end it, none of which commits it. After a fatal error they might.
                    return
                raise
