"""The golden corpus: stored bytes of every version of every record, and what they led to (`tests/golden`).

`bytes/*.json` have values in the wire format and say which version each schema id stands for; `recorded.sha256` has
their hashes, since they are only added to. `results.json` is what replaying them gave; `declared.json` lists its hash
each time that it was changed on purpose, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daybook.evolution.check import Problem, hash_of, read_hashes
from schemas.codec import ChainBroken, Codec, Undecodable
from schemas.events import CHAIN_START
from schemas.registry import SchemaNotRegistered
from schemas.released import ReleasedSchema
from schemas.upcasters import Version

HASHES: Final = "recorded.sha256"
RESULTS: Final = "results.json"
DECLARED: Final = "declared.json"
RECORD: Final = "`.venv/bin/python -m tests.golden.record`"


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of the corpus: its values, and the version that each schema id in them stands for.

    In a `stream` the values are the events of one account from its first on, each chained to the one before.
    """

    name: str
    stream: bool
    schemas: dict[int, Version]
    values: tuple[bytes, ...]

    @classmethod
    def read(cls, file: Path) -> Recording:
        """Raises: `ValueError`, `KeyError` or `TypeError` when it is none."""
        found = json.loads(file.read_text(encoding="utf-8"))
        schemas = {int(number): Version(name, version) for number, (name, version) in found["schemas"].items()}
        return cls(file.stem, found["stream"], schemas, tuple(map(bytes.fromhex, found["values"])))

    def written(self) -> dict[str, Any]:
        """What is in the file."""
        schemas = {str(number): [version.name, version.number] for number, version in self.schemas.items()}
        return {"stream": self.stream, "schemas": schemas, "values": [value.hex() for value in self.values]}


class StoredSchemas:
    """What the codec asks of a registry: the schemas of one recording, as they were released."""

    def __init__(self, recording: Recording, schemas: Sequence[ReleasedSchema]) -> None:
        texts = {Version(schema.name, schema.version): schema.text for schema in schemas}
        self._texts = {number: texts[version] for number, version in recording.schemas.items() if version in texts}

    def schema(self, schema_id: int) -> str:
        if schema_id not in self._texts:
            raise SchemaNotRegistered(f"schema id {schema_id} is of no released version")
        return self._texts[schema_id]

    def schema_id(self, subject: str, schema: str) -> int:
        raise SchemaNotRegistered(f"nothing is written with the schemas of a recording ({subject}, {schema[:40]})")


def recordings(golden: Path) -> list[Recording]:
    return [Recording.read(file) for file in sorted((golden / "bytes").glob("*.json"))]


def corpus(golden: Path, schemas: Sequence[ReleasedSchema]) -> Iterator[Problem]:
    """The corpus is as it was recorded, has every version, can be read, and its results were declared."""
    listed = read_hashes(golden / HASHES)
    found: list[Recording] = []
    for file in sorted((golden / "bytes").glob("*.json")):
        digest = listed.pop(file.name, None)
        if digest is None:
            yield Problem(file.name, f"its hash is not in {HASHES}", f"{RECORD} records")
        elif digest != hash_of(file):
            yield Problem(file.name, "golden bytes were changed", "restore them: they stand for what is stored")
            continue
        try:
            found.append(Recording.read(file))
        except (ValueError, KeyError, TypeError) as error:
            yield Problem(file.name, f"it is no recording: {error}", "restore it")
    for name in listed:
        yield Problem(name, "golden bytes are gone", "restore them: they stand for what is stored")
    there = {Version(schema.name, schema.version) for schema in schemas}
    covered = {version for recording in found for version in used(recording)}
    for version in sorted(there - covered):
        yield Problem(
            str(version), "no golden bytes have it", f"add an event to tests/golden/streams.py, then {RECORD}"
        )
    for version in sorted(covered - there):
        yield Problem(str(version), "golden bytes have it, and its schema is gone", "restore the schema")
    for recording in found:
        yield from _readable(recording, schemas)
    yield from _declared(golden)


def used(recording: Recording) -> set[Version]:
    """The versions that values of a recording are written with."""
    ids = {int.from_bytes(value[1:5], "big") for value in recording.values}
    return {version for number, version in recording.schemas.items() if number in ids}


def _readable(recording: Recording, schemas: Sequence[ReleasedSchema]) -> Iterator[Problem]:
    codec = Codec(StoredSchemas(recording, schemas))
    previous = CHAIN_START
    for number, value in enumerate(recording.values, 1):
        where = f"value {number} of {recording.name}.json"
        try:
            if recording.stream:
                previous = codec.decode_event(value, previous=previous).chain_hash
            else:
                codec.decode_fields(value)
        except ChainBroken as error:
            yield Problem(where, str(error), "what is hashed has changed, and stored events no longer verify: undo it")
            return
        except Undecodable as error:
            yield Problem(where, f"it cannot be read any more: {error}", "undo what changed, or add an upcaster")
            return


def _declared(golden: Path) -> Iterator[Problem]:
    results = golden / RESULTS
    try:
        declared: list[dict[str, str]] = json.loads((golden / DECLARED).read_text(encoding="utf-8"))
        last = declared[-1]["results"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        yield Problem(DECLARED, f"it cannot be read: {error}", f"{RECORD} --why REASON writes it")
        return
    if not results.is_file() or hash_of(results) != last:
        what = "it is not as it was last declared: states or read models of stored events changed"
        yield Problem(RESULTS, what, f"undo the change, or declare it: {RECORD} --why REASON")
