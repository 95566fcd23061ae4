"""A proof that one event is in the log as a checkpoint was taken of it: made from the log, checked without anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from daybook.audit import merkle
from daybook.audit.formats import Proof, head_of
from daybook.audit.keys import PublicKeys
from daybook.errors import DaybookError
from schemas.checkpoints import Checkpoint, PartitionTree, event_leaf, partition_leaf
from schemas.codec import HEADER_BYTES
from schemas.connections import Connections
from schemas.reading import Undecodable, as_written, canonical_form
from schemas.topics import event_key, parse_event_key, partition_of

_REQUEST_TIMEOUT_S: Final = 30.0
_TELL_EVENTS: Final = 5_000

Tell = Callable[[int, int], None]
"""Told how many events were hashed, and of how many."""


class NotCovered(DaybookError):
    """The event is in no checkpoint yet, or not in the log at all."""


class LogDiffers(DaybookError):
    """The log is not what the checkpoint was taken of, so that nothing can be proven from it."""


class NotProven(DaybookError):
    """A proof does not prove what it says. `part` names what does not fit."""

    def __init__(self, part: str, why: str) -> None:
        self.part = part
        super().__init__(f"not proven: {part}: {why}")


@dataclass(frozen=True, slots=True)
class Proven:
    """An event that is proven: in a log's checkpoint, which says when it was recorded by then at the latest."""

    account_id: str
    sequence: int
    type_name: str
    """The record's full name, as it was written."""
    fields: dict[str, Any]
    proof: Proof


def prove(connections: Connections, account_id: str, sequence: int, checkpoint: Checkpoint, tell: Tell) -> Proof:
    """A proof that the event is among those that a checkpoint was taken of. Blocks while its partition is hashed.

    Raises:
        NotCovered: it is not.
        LogDiffers: the log has changed since.
        Unreachable, ReadTimeout: the log could not be read.
    """
    # What it takes to check a proof is importable without these.
    from daybook import registry as schema_registry  # noqa: PLC0415
    from daybook.audit.records import Records  # noqa: PLC0415
    from schemas.codec import Codec  # noqa: PLC0415
    from schemas.registry import RegistryUnavailable, SchemaNotRegistered  # noqa: PLC0415

    topic, wanted = connections.topics.events, event_key(account_id, sequence)
    with ExitStack() as opened:
        records = opened.enter_context(Records(connections, timeout_s=_REQUEST_TIMEOUT_S))
        registry = opened.enter_context(schema_registry.registry(connections))
        codec = Codec(registry)
        partition = partition_of(account_id, records.partitions(topic))
        place, tree = _tree(checkpoint, partition, account_id, sequence)
        finder = merkle.PathFinder(tree.size)
        found = b""
        try:
            for message in records.read(topic, partition, 0, tree.offset):
                key, value = message.key() or b"", message.value() or b""
                fingerprint = codec.chain_cut(value)[3]
                is_it = key == wanted
                if is_it and finder.index is None:
                    found = value
                if finder.size == tree.size:
                    # More events than there were.
                    raise _differs(checkpoint, partition)
                finder.append(merkle.leaf_hash(event_leaf(key, fingerprint, value)), is_it=is_it)
                if finder.size % _TELL_EVENTS == 0:
                    tell(finder.size, tree.size)
            if finder.size != tree.size or finder.root != tree.root:
                raise _differs(checkpoint, partition)
            if finder.index is None:
                end = records.ends(topic, [partition])[partition]
                later = any(message.key() == wanted for message in records.read(topic, partition, tree.offset, end))
                raise _not_covered(checkpoint, account_id, sequence, later=later)
            schema = canonical_form(registry.schema(int.from_bytes(found[1:HEADER_BYTES], "big")))
        except (RegistryUnavailable, SchemaNotRegistered) as error:
            raise schema_registry.unreachable(connections, error) from error
        except Undecodable as error:
            raise _differs(checkpoint, partition) from error
    leaves = [merkle.leaf_hash(partition_leaf(one)) for one in checkpoint.partitions]
    return Proof(
        key=wanted,
        value=found,
        schema=schema,
        tree=tree,
        leaf=finder.index,
        path=tuple(finder.path()),
        head=head_of(checkpoint),
        tree_leaf=place,
        tree_path=tuple(merkle.path(place, leaves)),
    )


def _tree(checkpoint: Checkpoint, partition: int, account_id: str, sequence: int) -> tuple[int, PartitionTree]:
    for place, tree in enumerate(checkpoint.partitions):
        if tree.partition == partition:
            return place, tree
    raise _not_covered(checkpoint, account_id, sequence, later=False)


def _not_covered(checkpoint: Checkpoint, account_id: str, sequence: int, *, later: bool) -> NotCovered:
    taken = f"checkpoint {checkpoint.number}, taken {checkpoint.taken:%Y-%m-%d %H:%M:%S} UTC"
    if later:
        return NotCovered(
            f"event {account_id}/{sequence} is newer than {taken}: `daybook audit checkpoint` takes the next one, "
            "against which it can be proven"
        )
    return NotCovered(f"there is no event {account_id}/{sequence}, in {taken} or since then")


def _differs(checkpoint: Checkpoint, partition: int) -> LogDiffers:
    return LogDiffers(
        f"partition {partition} of the log is not what checkpoint {checkpoint.number} was taken of, so that nothing "
        "can be proven from it: `daybook audit verify` says what differs"
    )


def check(proof: Proof, keys: PublicKeys) -> Proven:
    """What a proof proves, given the public keys that are trusted. Computed in memory. Raises: `NotProven`."""
    head = proof.head
    if not keys.knows(head.key_id):
        raise NotProven("signature", f"it is by key {head.key_id}, and those trusted are {', '.join(keys.ids)}")
    try:
        signed = keys.signed(head.key_id, head.signature, head.statement())
    except (ValueError, OverflowError) as error:
        raise NotProven("signature", str(error)) from error
    if not signed:
        raise NotProven("signature", f"it is not that of key {head.key_id} over this checkpoint")
    tree_leaf = merkle.leaf_hash(_partition_leaf(proof))
    _leads("tree", tree_leaf, proof.tree_leaf, head.partitions, proof.tree_path, head.root, "the checkpoint's root")
    try:
        if canonical_form(proof.schema) != proof.schema:
            raise NotProven("schema", "it is not in Parsing Canonical Form, by which it is hashed")
    except Undecodable as error:
        raise NotProven("schema", str(error)) from error
    fingerprint = sha256(proof.schema.encode()).digest()
    leaf = merkle.leaf_hash(event_leaf(proof.key, fingerprint, proof.value))
    _leads("event", leaf, proof.leaf, proof.tree.size, proof.path, proof.tree.root, "its tree's root")
    try:
        name, fields = as_written(proof.schema, proof.value[HEADER_BYTES:])
        account_id, sequence = parse_event_key(proof.key)
    except (Undecodable, ValueError) as error:
        raise NotProven("event", str(error)) from error
    if (fields.get("account_id"), fields.get("sequence")) != (account_id, sequence):
        raise NotProven("event", f"it says that it is {fields.get('account_id')}/{fields.get('sequence')}")
    return Proven(account_id, sequence, name, fields, proof)


def _partition_leaf(proof: Proof) -> bytes:
    try:
        return partition_leaf(proof.tree)
    except OverflowError as error:
        raise NotProven("tree", str(error)) from error


def _leads(part: str, leaf: bytes, index: int, size: int, path: tuple[bytes, ...], root: bytes, what: str) -> None:
    try:
        found = merkle.root_by_path(leaf, index, size, path)
    except ValueError as error:
        raise NotProven(part, str(error)) from error
    if found != root:
        raise NotProven(part, f"what stands there leads to {found.hex()}, and {what} is {root.hex()}")
