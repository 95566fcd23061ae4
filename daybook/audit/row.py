"""The row of checkpoints: reading it from Kafka, and whether each follows from the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from confluent_kafka import Message

from daybook import registry as schema_registry
from daybook.audit import merkle
from daybook.audit.findings import Finding, Kind
from daybook.audit.keys import PublicKeys
from daybook.audit.records import Records
from daybook.errors import UnreadableRecord
from schemas.checkpoints import FIRST_PREVIOUS, Checkpoint, partition_leaf, statement_of
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable

_LOOK_BACK: Final = (10, 1000)
"""How far before the topic's end the newest checkpoint is looked for first: transactions' marks stand between."""


@dataclass(frozen=True, slots=True)
class Named:
    """A checkpoint, and how it is called: where it is kept belongs to that."""

    name: str
    checkpoint: Checkpoint


def name_of(checkpoint: Checkpoint) -> str:
    return f"checkpoint {checkpoint.number} of {checkpoint.taken:%Y-%m-%d %H:%M:%S} UTC"


def checkpoints(connections: Connections, records: Records, codec: Codec) -> Iterator[Checkpoint]:
    """All checkpoints of the ledger, the oldest first.

    Raises:
        Unreachable, ReadTimeout: they could not be read, or the topic is not there.
        UnreadableRecord: a record of the topic is no checkpoint.
    """
    topic = connections.topics.checkpoints
    records.partitions(topic)
    for message in records.read(topic, 0, 0, records.ends(topic, [0])[0]):
        yield _decoded(connections, codec, message)


def newest(connections: Connections, records: Records, codec: Codec) -> Checkpoint | None:
    """The newest checkpoint, without reading all of them. Raises as `checkpoints` does."""
    topic = connections.topics.checkpoints
    records.partitions(topic)
    end = records.ends(topic, [0])[0]
    for start in (*(max(0, end - back) for back in _LOOK_BACK), 0):
        last: Message | None = None
        for message in records.read(topic, 0, start, end):
            last = message
        if last is not None:
            return _decoded(connections, codec, last)
        if start == 0:
            break
    return None


def _decoded(connections: Connections, codec: Codec, message: Message) -> Checkpoint:
    try:
        return codec.decode_checkpoint(message.value())
    except Undecodable as error:
        where = f"topic {connections.topics.checkpoints}, offset {message.offset()}, key {message.key()!r}"
        raise UnreadableRecord(where, str(error)) from error
    except RegistryUnavailable as error:
        raise schema_registry.unreachable(connections, error) from error


def hash_of(checkpoint: Checkpoint) -> bytes:
    """What the next checkpoint names as `previous`. Raises `ValueError`, as `statement_of` does."""
    return sha256(statement_of(checkpoint)).digest()


def wrong_alone(named: Named, keys: PublicKeys, log: str) -> Iterator[Finding]:
    """What is wrong with one checkpoint, whatever stands beside it. `log` is the one that it should be of."""
    checkpoint = named.checkpoint
    if checkpoint.log != log:
        yield Finding(
            Kind.OTHER_LOG,
            f"{named.name} is of the log {checkpoint.log}, and this is {log} (cluster id, topic, topic id)",
            expected=log,
            found=checkpoint.log,
        )
    if not keys.knows(checkpoint.key_id):
        yield Finding(
            Kind.SIGNATURE,
            f"{named.name} was signed with key {checkpoint.key_id}, which is none of those trusted: "
            f"{', '.join(keys.ids)}",
            expected=", ".join(keys.ids),
            found=checkpoint.key_id,
        )
        return
    why = _why_unsound(checkpoint)
    try:
        signed = keys.signed(checkpoint.key_id, checkpoint.signature, statement_of(checkpoint))
    except ValueError as error:
        signed, why = False, str(error)
    if not signed:
        yield Finding(Kind.SIGNATURE, f"{named.name}: the signature is not that of key {checkpoint.key_id} over it")
    elif why is not None:
        yield Finding(Kind.SIGNATURE, f"{named.name}: {why}, so that what was signed is not what stands there")


def _why_unsound(checkpoint: Checkpoint) -> str | None:
    """Why the trees are not those that the root was made of."""
    trees = checkpoint.partitions
    if [tree.partition for tree in trees] != sorted({tree.partition for tree in trees}):
        return "its partitions are not in order"
    try:
        leaves = [merkle.leaf_hash(partition_leaf(tree)) for tree in trees]
        if merkle.root_of(leaves) != checkpoint.root:
            return "its root is not that of its trees"
        for tree in trees:
            if merkle.Tree(tree.size, tree.frontier).root() != tree.root:
                return f"the frontier of partition {tree.partition} does not lead to its root"
    except (ValueError, OverflowError) as error:
        return str(error)
    return None


class Row:
    """The checkpoints one after the other, of which it keeps the last alone: does each follow from the one before?"""

    def __init__(self) -> None:
        self.newest: Checkpoint | None = None
        self._previous = FIRST_PREVIOUS
        self._is_broken = False

    def follows(self, checkpoint: Checkpoint) -> Finding | None:
        """What is wrong with the place of the next checkpoint; once something was, nothing is said of later ones."""
        before, self.newest = self.newest, checkpoint
        if self._is_broken:
            return None
        found = self._wrong(before, checkpoint)
        try:
            self._previous = hash_of(checkpoint)
        except ValueError:
            # Told by `wrong_alone`.
            self._is_broken = True
        self._is_broken = self._is_broken or found is not None
        return found

    def _wrong(self, before: Checkpoint | None, checkpoint: Checkpoint) -> Finding | None:
        number = 1 if before is None else before.number + 1
        if checkpoint.number != number:
            return Finding(
                Kind.ROW,
                f"{name_of(checkpoint)} stands where number {number} must be: checkpoints are missing, or twice there",
                expected=str(number),
                found=str(checkpoint.number),
            )
        if checkpoint.previous != self._previous:
            return Finding(
                Kind.ROW,
                f"{name_of(checkpoint)} does not follow from the checkpoint before, which is not what it was",
                expected=self._previous.hex(),
                found=checkpoint.previous.hex(),
            )
        sizes = {} if before is None else {tree.partition: tree.size for tree in before.partitions}
        for tree in checkpoint.partitions:
            if tree.size < sizes.pop(tree.partition, 0):
                return Finding(
                    Kind.ROW,
                    f"{name_of(checkpoint)} has fewer events of partition {tree.partition} than the one before",
                    partition=tree.partition,
                    found=str(tree.size),
                )
        for partition in sizes:
            return Finding(
                Kind.ROW,
                f"{name_of(checkpoint)} has nothing of partition {partition}, which the one before has",
                partition=partition,
            )
        return None


def wrong_elsewhere(kept: Iterable[Named], row: Mapping[int, Checkpoint], count: int) -> Iterator[Finding]:
    """Which of the checkpoints that were kept elsewhere are not in the row as they were. `row` has at least those of
    their numbers that there are, of `count` altogether."""
    for named in kept:
        checkpoint = named.checkpoint
        there = row.get(checkpoint.number)
        if there is None:
            yield Finding(
                Kind.ROW,
                f"{named.name} is not among the ledger's, which has {count}: checkpoints were removed",
                expected=str(checkpoint.number),
                found=str(count),
            )
        elif (there.root, there.previous, there.taken_at) != (
            checkpoint.root,
            checkpoint.previous,
            checkpoint.taken_at,
        ):
            yield Finding(
                Kind.ROW,
                f"{named.name} is not the ledger's checkpoint of that number: it was replaced",
                expected=checkpoint.root.hex(),
                found=there.root.hex(),
            )
