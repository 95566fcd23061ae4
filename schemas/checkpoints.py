"""Checkpoints: what the log's events were at a time, as signed Merkle trees, and the exact bytes that are hashed.

What stands here is a storage format: a proof that was made once is checked by it years later. docs/AUDIT.md says the
same for those who check with other tools. Times are microseconds since the Unix epoch, in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final

from msgspec import Struct

FIRST_PREVIOUS: Final = bytes(32)
"""What the first checkpoint of a log names as the hash of the one before."""

SIGNATURE_BYTES: Final = 64
HASH_BYTES: Final = 32

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class PartitionTree(Struct, frozen=True, kw_only=True, gc=False):
    """The tree over one partition's events before `offset`, in the order of the log.

    `frontier` is the roots of the complete subtrees that it is made of, the largest first: what it takes to go on.
    """

    partition: int
    offset: int
    size: int
    root: bytes
    frontier: bytes


class Checkpoint(Struct, frozen=True, kw_only=True, gc=False):
    """One checkpoint as it is kept. `log` is cluster id, topic and topic id, as read models name it."""

    FULL_NAME: ClassVar[str] = "daybook.account.Checkpoint"

    log: str
    number: int
    taken_at: int
    previous: bytes
    partitions: tuple[PartitionTree, ...]
    root: bytes
    key_id: str
    signature: bytes

    @property
    def events(self) -> int:
        return sum(tree.size for tree in self.partitions)

    @property
    def taken(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.taken_at)


def event_leaf(key: bytes, schema_fingerprint: bytes, value: bytes) -> bytes:
    """What stands for an event in its partition's tree: a leaf's data.

    The value's bytes name their schema by an id that the registry alone can resolve, so the schema's fingerprint (as in
    the chain hash) is there as well: a registry that was rewritten must not give the same bytes another meaning.
    """
    return b"".join((len(key).to_bytes(4, "big"), key, schema_fingerprint, value))


def partition_leaf(tree: PartitionTree) -> bytes:
    """What stands for a partition in a checkpoint's own tree."""
    return b"".join(
        (tree.partition.to_bytes(4, "big"), tree.offset.to_bytes(8, "big"), tree.size.to_bytes(8, "big"), tree.root)
    )


def statement(
    *, log: str, number: int, taken_at: int, previous: bytes, partitions: int, events: int, root: bytes, key_id: str
) -> bytes:
    """What is signed: lines of ASCII text, so that any tool can make the same. `partitions` says how many."""
    taken = _EPOCH + taken_at * _MICROSECOND
    lines = (
        "daybook checkpoint v1",
        f"log {log}",
        f"number {number}",
        f"taken_at {taken:%Y-%m-%dT%H:%M:%S.%fZ}",
        f"previous {previous.hex()}",
        f"partitions {partitions}",
        f"events {events}",
        f"root {root.hex()}",
        f"key {key_id}",
    )
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def statement_of(checkpoint: Checkpoint) -> bytes:
    """What a checkpoint's signature is over. Raises `ValueError`: it holds what no statement can."""
    if "\n" in checkpoint.log or "\n" in checkpoint.key_id:
        raise ValueError("a checkpoint's log and key are one line each")
    try:
        return statement(
            log=checkpoint.log,
            number=checkpoint.number,
            taken_at=checkpoint.taken_at,
            previous=checkpoint.previous,
            partitions=len(checkpoint.partitions),
            events=checkpoint.events,
            root=checkpoint.root,
            key_id=checkpoint.key_id,
        )
    except OverflowError:
        raise ValueError(f"{checkpoint.taken_at} is no time in microseconds since 1970") from None
