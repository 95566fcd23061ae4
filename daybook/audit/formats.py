"""Checkpoints and proofs as JSON, for whoever keeps them elsewhere. What is not exactly as it was written is refused.

A text has one way only to be written (hexadecimal digits in lower case, base 64 with its padding), and nothing may
stand beside what is meant to, so that no byte of a file can change and leave what it says as it was.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from daybook.errors import DaybookError
from schemas.checkpoints import HASH_BYTES, SIGNATURE_BYTES, Checkpoint, PartitionTree, statement

CHECKPOINT_FORMAT: Final = "daybook checkpoint v1"
PROOF_FORMAT: Final = "daybook proof v1"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX: Final = 2**63 - 1

T = TypeVar("T", int, str, list, dict)  # type: ignore[type-arg]


class InvalidFile(DaybookError):
    """A file is not a checkpoint or a proof as it was written."""


class NoFile(DaybookError):
    """A file cannot be read."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a checkpoint's signature is over, and the signature. The trees themselves are behind `root`."""

    log: str
    number: int
    taken_at: int
    previous: bytes
    partitions: int
    events: int
    root: bytes
    key_id: str
    signature: bytes

    def statement(self) -> bytes:
        return statement(
            log=self.log,
            number=self.number,
            taken_at=self.taken_at,
            previous=self.previous,
            partitions=self.partitions,
            events=self.events,
            root=self.root,
            key_id=self.key_id,
        )


def head_of(checkpoint: Checkpoint) -> Head:
    return Head(
        checkpoint.log,
        checkpoint.number,
        checkpoint.taken_at,
        checkpoint.previous,
        len(checkpoint.partitions),
        checkpoint.events,
        checkpoint.root,
        checkpoint.key_id,
        checkpoint.signature,
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """That an event is in a checkpoint's trees. `schema` is the Parsing Canonical Form of what it was written with."""

    key: bytes
    value: bytes
    schema: str
    tree: PartitionTree
    """Without its frontier, which no proof needs."""
    leaf: int
    path: tuple[bytes, ...]
    """From the event's leaf to the tree's root."""
    head: Head
    tree_leaf: int
    """The tree's place among the checkpoint's, from 0."""
    tree_path: tuple[bytes, ...]


def checkpoint_json(checkpoint: Checkpoint) -> dict[str, object]:
    head = _head_json(head_of(checkpoint))
    trees = [{**_tree_json(tree), "frontier": tree.frontier.hex()} for tree in checkpoint.partitions]
    return {"format": CHECKPOINT_FORMAT, **head, "partitions": trees}


def proof_json(proof: Proof) -> dict[str, object]:
    return {
        "format": PROOF_FORMAT,
        "event": {
            "key": base64.b64encode(proof.key).decode(),
            "value": base64.b64encode(proof.value).decode(),
            "schema": proof.schema,
        },
        "tree": {**_tree_json(proof.tree), "leaf": proof.leaf, "path": [step.hex() for step in proof.path]},
        "checkpoint": {
            **_head_json(proof.head),
            "leaf": proof.tree_leaf,
            "path": [step.hex() for step in proof.tree_path],
        },
    }


def _head_json(head: Head) -> dict[str, object]:
    return {
        "log": head.log,
        "number": head.number,
        "taken_at": _iso(head.taken_at),
        "previous": head.previous.hex(),
        "partitions": head.partitions,
        "events": head.events,
        "root": head.root.hex(),
        "key": head.key_id,
        "signature": base64.b64encode(head.signature).decode(),
    }


def _tree_json(tree: PartitionTree) -> dict[str, object]:
    return {"partition": tree.partition, "offset": tree.offset, "size": tree.size, "root": tree.root.hex()}


def read_checkpoint(file: str) -> Checkpoint:
    """Raises: `InvalidFile`. Whether it is signed, and by whom, is not looked at."""
    fields = _Fields(file, _object(file), "the checkpoint")
    fields.format(CHECKPOINT_FORMAT)
    trees: list[PartitionTree] = []
    for at, one in enumerate(fields.take("partitions", list)):
        tree = _Fields(file, one, f"partitions[{at}]")
        read = tree.tree()
        trees.append(replace(read, frontier=tree.hexadecimal("frontier", None)))
        tree.end()
    head = fields.head(partitions=len(trees))
    fields.end()
    found = Checkpoint(
        log=head.log,
        number=head.number,
        taken_at=head.taken_at,
        previous=head.previous,
        partitions=tuple(trees),
        root=head.root,
        key_id=head.key_id,
        signature=head.signature,
    )
    if found.events != head.events:
        raise InvalidFile(f"{file}: its trees have {found.events} events, and it says {head.events}")
    return found


def read_proof(file: str) -> Proof:
    """Raises: `InvalidFile`. Whether it proves anything is not looked at."""
    fields = _Fields(file, _object(file), "the proof")
    fields.format(PROOF_FORMAT)
    event = fields.inside("event")
    key, value, schema = event.base64("key"), event.base64("value"), event.take("schema", str)
    event.end()
    tree = fields.inside("tree")
    partition_tree, leaf, path = tree.tree(), tree.number("leaf"), tree.path()
    tree.end()
    checkpoint = fields.inside("checkpoint")
    head = checkpoint.head(partitions=None)
    tree_leaf, tree_path = checkpoint.number("leaf"), checkpoint.path()
    checkpoint.end()
    fields.end()
    return Proof(key, value, schema, partition_tree, leaf, path, head, tree_leaf, tree_path)


class _Fields:
    """The fields of one object of a file, each to be taken once."""

    def __init__(self, file: str, found: Any, where: str) -> None:
        self._file = file
        self._where = where
        if not isinstance(found, dict):
            raise self._wrong("it is not an object")
        self._left: dict[str, Any] = dict(found)

    def _wrong(self, why: str) -> InvalidFile:
        return InvalidFile(f"{self._file} is not as it was written: {self._where}: {why}")

    def format(self, wanted: str) -> None:
        found = self._left.pop("format", None)
        if found != wanted:
            raise InvalidFile(f'{self._file} is no "{wanted}": its format is {found!r}')

    def take(self, name: str, kind: type[T]) -> T:
        found = self._left.pop(name, None)
        if not isinstance(found, kind) or isinstance(found, bool):
            raise self._wrong(f"{name} is {'not there' if found is None else f'no {kind.__name__}'}")
        return found

    def inside(self, name: str) -> _Fields:
        return _Fields(self._file, self.take(name, dict), name)

    def number(self, name: str) -> int:
        found = self.take(name, int)
        if not 0 <= found <= _MAX:
            raise self._wrong(f"{name} is {found}")
        return found

    def hexadecimal(self, name: str, size: int | None) -> bytes:
        return self._hexadecimal(name, self.take(name, str), size)

    def _hexadecimal(self, name: str, text: str, size: int | None) -> bytes:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            raise self._wrong(f"{name} is not hexadecimal") from None
        if found.hex() != text or size not in (None, len(found)):
            raise self._wrong(f"{name} is not written as {size or 'some'} bytes in hexadecimal digits are")
        return found

    def base64(self, name: str) -> bytes:
        text = self.take(name, str)
        try:
            found = base64.b64decode(text.encode(), validate=True)
        except ValueError:
            raise self._wrong(f"{name} is not base 64") from None
        if base64.b64encode(found).decode() != text:
            raise self._wrong(f"{name} is not written as base 64 is")
        return found

    def path(self) -> tuple[bytes, ...]:
        return tuple(
            self._hexadecimal(f"path[{at}]", step if isinstance(step, str) else "?", HASH_BYTES)
            for at, step in enumerate(self.take("path", list))
        )

    def tree(self) -> PartitionTree:
        return PartitionTree(
            partition=self.number("partition"),
            offset=self.number("offset"),
            size=self.number("size"),
            root=self.hexadecimal("root", HASH_BYTES),
            frontier=b"",
        )

    def head(self, partitions: int | None) -> Head:
        """`partitions` is given where the trees themselves stand in the place of their number."""
        log, key_id = self.take("log", str), self.take("key", str)
        if not (log + key_id).isascii() or not (log + key_id).isprintable():
            raise self._wrong("log and key are one line of ASCII each")
        signature = self.base64("signature")
        if len(signature) != SIGNATURE_BYTES:
            raise self._wrong(f"signature has {len(signature)} bytes instead of {SIGNATURE_BYTES}")
        return Head(
            log,
            self.number("number"),
            self._time("taken_at"),
            self.hexadecimal("previous", HASH_BYTES),
            self.number("partitions") if partitions is None else partitions,
            self.number("events"),
            self.hexadecimal("root", HASH_BYTES),
            key_id,
            signature,
        )

    def _time(self, name: str) -> int:
        text = self.take(name, str)
        try:
            micros = (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
            written = _iso(micros)
        except (ValueError, TypeError, OverflowError):
            written = ""
            micros = 0
        if written != text:
            raise self._wrong(f"{name} is not a time as 2026-01-31T12:00:00.000000Z")
        return micros

    def end(self) -> None:
        if self._left:
            raise self._wrong(f"nothing is called {next(iter(self._left))!r}")


def _iso(micros: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%fZ}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _object(file: str) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise NoFile(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{file} is not JSON: {error}") from error
