"""A ledger's history as it was recorded, to be written to a log as it was or changed, for tests of what audits it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.schema_registry import SchemaRegistryClient
from elasticsearch import Elasticsearch
from msgspec.structs import asdict, replace

from command_service.domain.account import Account, evolve
from command_service.packing import Entry, Packing
from daybook.audit import merkle
from daybook.audit.keys import SigningKey
from daybook.audit.row import hash_of
from daybook.audit.taking import signed
from projectors.projector import Batch
from projectors.search import SearchProjector
from projectors.source import Source, identify
from schemas.checkpoints import FIRST_PREVIOUS, Checkpoint, PartitionTree, event_leaf
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.events import CHAIN_START, RecordedEvent
from schemas.snapshots import MARK_KEY, RestoreMark
from schemas.topics import event_key
from tests.event_log import _Ids
from tests.holders import PLAIN
from tests.recorded import START, deposited, opened


@dataclass(frozen=True)
class Record:
    """An event's bytes, and what they decode to."""

    key: bytes
    value: bytes
    recorded: RecordedEvent


Log = Mapping[int, Sequence[Record]]
"""By partition."""


class History:
    """Writes events for one ledger's schemas, each chained to the account's event before."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        with SchemaRegistryClient(connections.registry()) as registry:
            self.codec = Codec(_Ids(registry))
            self.codec.look_up_events(connections.topics.events)
            self.codec.look_up_checkpoints(connections.topics.checkpoints)
            self.codec.look_up_snapshots(connections.topics.snapshots)
        with AdminClient(connections.kafka()) as admin:
            self.source: Source = identify(admin, connections.topics.events)

    def account(self, account_id: str, events: int, *, odd: int | None = None) -> list[Record]:
        """An account's first events. The balance after event `odd` is another than usual."""
        return self.chained(
            opened(account_id)
            if sequence == 1
            else deposited(account_id, sequence, 1_000_000 if sequence == odd else sequence * 100)
            for sequence in range(1, events + 1)
        )

    def chained(self, events: Iterable[RecordedEvent]) -> list[Record]:
        """One account's events, from its first on."""
        written: list[Record] = []
        previous = CHAIN_START
        for recorded in events:
            common = {name: value for name, value in asdict(recorded).items() if name not in ("event", "chain_hash")}
            value, previous = self.codec.encode_event(recorded.event, common, previous)
            key = event_key(recorded.account_id, recorded.sequence)
            written.append(Record(key, value, self.codec.decode_event(value)))
        return written

    def write(self, log: Log, *, topic: str | None = None) -> None:
        producer = Producer(self.connections.kafka(enable_idempotence=True))
        for partition, records in log.items():
            for record in records:
                producer.produce(topic or self.connections.topics.events, record.value, record.key, partition)
        assert producer.flush(30) == 0

    def trees(self, log: Log, partitions: int) -> tuple[PartitionTree, ...]:
        """The trees of a log without transactions, so that an event's offset is its place."""
        found = []
        for partition in range(partitions):
            tree = merkle.Tree()
            for record in log.get(partition, ()):
                leaf = event_leaf(record.key, self.codec.chain_cut(record.value)[3], record.value)
                tree.append(merkle.leaf_hash(leaf))
            found.append(
                PartitionTree(
                    partition=partition, offset=tree.size, size=tree.size, root=tree.root(), frontier=tree.frontier
                )
            )
        return tuple(found)

    def checkpoint(
        self, key: SigningKey, log: Log, partitions: int, before: Checkpoint | None = None, *, source: str | None = None
    ) -> Checkpoint:
        """What the auditor would have taken of a log, as one of this ledger's."""
        return signed(
            key,
            log=source or str(self.source),
            number=1 if before is None else before.number + 1,
            taken_at=START,
            previous=FIRST_PREVIOUS if before is None else hash_of(before),
            trees=self.trees(log, partitions),
        )

    def keep(self, *checkpoints: Checkpoint) -> None:
        """Put checkpoints into the ledger's topic."""
        producer = Producer(self.connections.kafka(enable_idempotence=True))
        for checkpoint in checkpoints:
            value = self.codec.encode_checkpoint(checkpoint)
            producer.produce(self.connections.topics.checkpoints, value, str(checkpoint.number).encode(), 0)
        assert producer.flush(30) == 0

    def snapshot(self, partition: int, records: Sequence[Record], **changed: Any) -> None:
        """Write the snapshot that the command service would, of an account after these events, or one that says
        something else; and a restore mark."""
        account: Account | None = None
        for record in records:
            account = evolve(account, record.recorded.event)
        assert account is not None
        last = records[-1].recorded
        packing = Packing(self.codec, bytes(8), self.source.topic_id)
        packed = packing.pack(last.account_id, Entry(account, last.chain_hash, last.recorded_at))
        snapshot = self.codec.encode_snapshot(replace(self.codec.decode_snapshot(packed), **changed))
        mark = RestoreMark(
            fingerprint=bytes(8),
            partition=partition,
            events_topic_id=self.source.topic_id,
            events_offset=0,
            accounts=1,
            taken_at=START,
        )
        producer = Producer(self.connections.kafka(enable_idempotence=True))
        topic = self.connections.topics.snapshots
        producer.produce(topic, snapshot, last.account_id.encode(), partition)
        producer.produce(topic, self.codec.encode_snapshot(mark), MARK_KEY, partition)
        assert producer.flush(30) == 0

    def index(self, log: Log) -> None:
        """Have the search projector index a log, wherever its events are now."""
        with closing(Elasticsearch(**self.connections.elasticsearch(), request_timeout=30)) as client:
            search = SearchProjector(client, self.connections.indices, self.source, PLAIN)
            for partition, records in log.items():
                assert search.checkpoint(partition) is None
                events = [record.recorded for record in records]
                search.apply([Batch(partition, None, events, range(len(events)), len(events))])
