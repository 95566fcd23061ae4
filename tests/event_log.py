"""A log of events to write to without the command service, for tests of what reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from msgspec.structs import asdict

from schemas.codec import Codec
from schemas.connections import Connections
from schemas.events import CHAIN_START, RecordedEvent
from schemas.topics import event_key, partition_of


class _Ids:
    """What the codec asks of a registry in order to write: a client's answers, for as long as it is open."""

    def __init__(self, client: SchemaRegistryClient) -> None:
        self._client = client

    def schema(self, schema_id: int) -> str:
        return str(self._client.get_schema(schema_id).schema_str)

    def schema_id(self, subject: str, schema: str) -> int:
        found = self._client.lookup_schema(subject, Schema(schema, "AVRO")).schema_id
        assert found is not None
        return found


class Log:
    """Writes events as the command service does: each with its own key, in its account's partition.

    With `chained` each has the hash that follows from its account's event before; else all are as if they were first.
    """

    def __init__(self, connections: Connections, *, chained: bool = False) -> None:
        self._hashes: dict[str, bytes] | None = {} if chained else None
        self._connections = connections
        self._topic = connections.topics.events
        with SchemaRegistryClient(connections.registry()) as registry:
            self._codec = Codec(_Ids(registry))
            self._codec.look_up_events(self._topic)
        self._producer = Producer(connections.kafka(enable_idempotence=True))
        self.partitions = len(self._producer.list_topics(self._topic, 10).topics[self._topic].partitions)

    def append(self, events: Sequence[RecordedEvent]) -> None:
        self._send(self._producer, events)
        assert self._producer.flush(30) == 0

    def append_and_abort(self, events: Sequence[RecordedEvent]) -> None:
        with self._transaction() as producer:
            self._send(producer, events)
            assert producer.flush(30) == 0
            producer.abort_transaction(30)

    @contextmanager
    def transaction(self) -> Iterator[Callable[[Sequence[RecordedEvent]], None]]:
        """Events that are committed together, at the end, but stand in the log as soon as they are given."""
        with self._transaction() as producer:

            def append(events: Sequence[RecordedEvent]) -> None:
                self._send(producer, events)
                assert producer.flush(30) == 0

            yield append
            producer.commit_transaction(30)

    @contextmanager
    def _transaction(self) -> Iterator[Producer]:
        producer = Producer(self._connections.kafka(transactional_id=f"{self._topic}.test"))
        producer.init_transactions(30)
        producer.begin_transaction()
        yield producer

    def append_bytes(self, key: bytes, value: bytes, partition: int) -> None:
        self._producer.produce(self._topic, value, key, partition)
        assert self._producer.flush(30) == 0

    def ends(self) -> dict[int, int]:
        """Each partition's end: the offset that will be written next."""
        with closing(Consumer(self._connections.kafka(group_id=f"{self._topic}.test"))) as consumer:
            return {
                partition: consumer.get_watermark_offsets(TopicPartition(self._topic, partition), 10)[1]
                for partition in range(self.partitions)
            }

    def _send(self, producer: Producer, events: Sequence[RecordedEvent]) -> None:
        for event in events:
            common = {name: value for name, value in asdict(event).items() if name not in ("event", "chain_hash")}
            previous = (self._hashes or {}).get(event.account_id, CHAIN_START)
            value, chain_hash = self._codec.encode_event(event.event, common, previous)
            if self._hashes is not None:
                self._hashes[event.account_id] = chain_hash
            partition = partition_of(event.account_id, self.partitions)
            producer.produce(self._topic, value, event_key(event.account_id, event.sequence), partition)
            producer.poll(0)
