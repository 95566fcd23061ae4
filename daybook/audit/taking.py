"""Taking checkpoints: hashing what is new since the last one, signing, and writing it down in one transaction.

One auditor at a time: all have one transactional id, so that a second fences the first, whose next write fails. The row
of checkpoints stays one row, whoever writes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Producer
from msgspec.structs import replace

from daybook import kafka
from daybook import registry as schema_registry
from daybook.audit import merkle, row
from daybook.audit.keys import PublicKeys, SigningKey
from daybook.audit.records import Records, identity
from daybook.errors import DaybookError, Unreachable, UnreadableRecord
from schemas.checkpoints import FIRST_PREVIOUS, Checkpoint, PartitionTree, event_leaf, partition_leaf, statement_of
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections, NotConfigured
from schemas.registry import RegistryUnavailable, SchemaNotRegistered

_REQUEST_TIMEOUT_S: Final = 30.0

_TRANSACTION_TIMEOUT_MS: Final = 10_000
"""One record is written and committed in milliseconds. While it is open, nobody reads beyond it."""

_TELL_EVENTS: Final = 5_000

Tell = Callable[[str, int, int], None]
"""Told what is done, how much, and of how much."""


class CheckpointRefused(DaybookError):
    """The log or the checkpoints are not what they were when the last one was taken: no other may follow."""


class Superseded(DaybookError):
    """Another auditor of this ledger has taken over."""


class Auditor:
    """Takes checkpoints of one ledger; a context manager. One thread uses it."""

    def __init__(self, connections: Connections, key: SigningKey, trusted: PublicKeys) -> None:
        """Take over from whoever took checkpoints before.

        `trusted` are keys with which earlier checkpoints may have been signed; `key` is one in any case.

        Raises: `Unreachable`, `NotConfigured`.
        """
        self._connections = connections
        self._key = key
        self._trusted = trusted | key.public
        self._opened = ExitStack()
        with ExitStack() as opened:
            self._records = opened.enter_context(Records(connections, timeout_s=_REQUEST_TIMEOUT_S))
            # Asked first, since it gives the clearest answer when Kafka, or the topic, is not there.
            try:
                self._records.partitions(connections.topics.checkpoints)
            except Unreachable as error:
                if self._records.refused:
                    raise NotConfigured(str(error)) from error
                raise
            self._codec = Codec(opened.enter_context(schema_registry.registry(connections)))
            try:
                self._codec.look_up_checkpoints(connections.topics.checkpoints)
            except (RegistryUnavailable, SchemaNotRegistered) as error:
                raise schema_registry.unreachable(connections, error) from error
            self._producer = self._take_over()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _take_over(self) -> Producer:
        try:
            producer = Producer(
                self._connections.kafka(
                    transactional_id=self._connections.topics.auditor_transactional_id,
                    transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
                ),
                logger=kafka.LOG,
            )
        except KafkaException as error:
            raise NotConfigured(f"the DAYBOOK_KAFKA_ settings cannot be used: {error.args[0].str()}") from error
        try:
            producer.init_transactions(_REQUEST_TIMEOUT_S)
        except KafkaException as error:
            why = f"no checkpoint can be written: {error.args[0].str()}"
            raise kafka.unreachable(self._connections, why) from error
        return producer

    def take(self, tell: Tell) -> tuple[Checkpoint, bool]:
        """The next checkpoint, of all that is committed by now; or the newest there is, when nothing is new.

        Returns: the checkpoint, and whether it was taken now.

        Raises:
            CheckpointRefused: the checkpoint before is not sound, or the log is shorter than it was then.
            Superseded: somebody else takes checkpoints now; this auditor is done.
            Unreachable, ReadTimeout, UnreadableRecord: what was to be read could not be; trying again may help.
        """
        events = self._connections.topics.events
        # Asked each time: a topic that was made anew meanwhile is another log.
        log = identity(self._connections, timeout_s=_REQUEST_TIMEOUT_S)
        before = self._before(log)
        count = self._records.partitions(events)
        ends = self._records.ends(events, range(count))
        trees = {tree.partition: tree for tree in before.partitions} if before is not None else {}
        starts = {partition: trees[partition].offset if partition in trees else 0 for partition in range(count)}
        for partition, start in starts.items():
            if ends[partition] < start:
                raise CheckpointRefused(
                    f"{events}, partition {partition}, ends at offset {ends[partition]}, and the last checkpoint was "
                    f"taken of what is before {start}: its tail is gone. `daybook audit verify` says more"
                )
        total, done = sum(ends.values()) - sum(starts.values()), 0
        found: list[PartitionTree] = []
        for partition, start in starts.items():
            found.append(self._grown(trees.get(partition), partition, start, ends[partition], done, total, tell))
            done += ends[partition] - start
        if before is not None and sum(tree.size for tree in found) == before.events:
            return before, False
        made = self._signed(log, before, tuple(found))
        self._write(made)
        return made, True

    def _before(self, log: str) -> Checkpoint | None:
        before = row.newest(self._connections, self._records, self._codec)
        if before is not None:
            for finding in row.wrong_alone(row.Named(row.name_of(before), before), self._trusted, log):
                raise CheckpointRefused(
                    f"{finding.message}. No checkpoint may follow it: `daybook audit verify` says more"
                )
        return before

    def _grown(
        self, before: PartitionTree | None, partition: int, start: int, end: int, done: int, total: int, tell: Tell
    ) -> PartitionTree:
        """A partition's tree with what was added from `start` to `end`."""
        topic = self._connections.topics.events
        tree = merkle.Tree() if before is None else merkle.Tree(before.size, before.frontier)
        for message in self._records.read(topic, partition, start, end):
            value, key = message.value() or b"", message.key() or b""
            try:
                fingerprint = self._codec.chain_cut(value)[3]
            except Undecodable as error:
                where = f"topic {topic}, partition {partition}, offset {message.offset()}, key {key!r}"
                raise UnreadableRecord(where, str(error)) from error
            except RegistryUnavailable as error:
                raise schema_registry.unreachable(self._connections, error) from error
            tree.append(merkle.leaf_hash(event_leaf(key, fingerprint, value)))
            if tree.size % _TELL_EVENTS == 0:
                tell("hashing", done + (message.offset() or 0) - start, total)
        return PartitionTree(partition=partition, offset=end, size=tree.size, root=tree.root(), frontier=tree.frontier)

    def _signed(self, log: str, before: Checkpoint | None, trees: tuple[PartitionTree, ...]) -> Checkpoint:
        return signed(
            self._key,
            log=log,
            number=1 if before is None else before.number + 1,
            taken_at=time.time_ns() // 1000,
            previous=FIRST_PREVIOUS if before is None else row.hash_of(before),
            trees=trees,
        )

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._producer.begin_transaction()
            self._producer.produce(
                self._connections.topics.checkpoints,
                self._codec.encode_checkpoint(checkpoint),
                str(checkpoint.number).encode(),
                0,
            )
            self._producer.commit_transaction(_REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._failed(error.args[0]) from error

    def _failed(self, error: KafkaError) -> DaybookError:
        if error.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
            return Superseded(
                "another auditor of this ledger has taken over: let one only run, by `daybook run` or by "
                "`daybook audit checkpoint --every`"
            )
        why = f"the checkpoint could not be written: {error.str()}"
        if error.fatal() or not error.txn_requires_abort():
            return DaybookError(f"Kafka at {self._connections.kafka_bootstrap}: {why}; start the auditor again")
        try:
            self._producer.abort_transaction(_REQUEST_TIMEOUT_S)
        except KafkaException as again:
            return DaybookError(f"Kafka at {self._connections.kafka_bootstrap}: {why}; then {again.args[0].str()}")
        return kafka.unreachable(self._connections, why)


def signed(
    key: SigningKey, *, log: str, number: int, taken_at: int, previous: bytes, trees: tuple[PartitionTree, ...]
) -> Checkpoint:
    """A checkpoint over these trees, signed."""
    unsigned = Checkpoint(
        log=log,
        number=number,
        taken_at=taken_at,
        previous=previous,
        partitions=trees,
        root=merkle.root_of(merkle.leaf_hash(partition_leaf(tree)) for tree in trees),
        key_id=key.key_id,
        signature=b"",
    )
    return replace(unsigned, signature=key.sign(statement_of(unsigned)))
