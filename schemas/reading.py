"""Reading record bodies of any released version, as the newest.

With `schemas.codec` the only module that knows Avro. An event's fields are two runs (see there), read one after the
other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from hashlib import sha256
from typing import Any, Final, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException, fullname, to_parsing_canonical_form
from msgspec.structs import fields

from schemas import compiled, quick, upcasters
from schemas.commands import AnyCommand
from schemas.events import Event, RecordedEvent
from schemas.released import ReleasedSchema, command_type, event_type, newest, newest_versions, released
from schemas.upcasters import Fields, Upcaster, Version

_EVENT_COMMON: Final = tuple(field.name for field in fields(RecordedEvent) if field.name != "event")
_PRIMITIVES: Final = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}

Schema = dict[str, Any]
Part = Callable[[Schema], Schema]
"""Which part of a record's schema is read or written, parsed."""

_NO_SCHEMA: Final = (SchemaParseException, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What comes of a text that is no schema, or not of a record that is for us."""


class Undecodable(ValueError):
    """A record's bytes are not what the contract says. `reason` is a stable snake_case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Reader:
    """Decodes the bodies written with one schema, into the newest version of the same record."""

    def __init__(self, text: str) -> None:
        """Raises: what fastavro does when the schema is none, and `ValueError` when it is not for us."""
        schema = json.loads(text)
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise ValueError("it is not a record")
        self.name = fullname(schema)
        self.fingerprint = fingerprint(schema)
        ours = _released_by_fingerprint().get((self.name, self.fingerprint))
        if ours is None and not all(is_flat(f["type"]) for f in schema["fields"]):
            # Reading recurses in C, and an array of nulls may claim any length: a few bytes of a nested schema that
            # somebody registered could end the process or hold it up for ever. Ours are flat.
            raise ValueError(f"{self.name} is nested, and it is not one of Daybook's schemas")
        self.command: type[AnyCommand] | None = command_type(self.name)
        self.event_type: type[Event] | None = event_type(self.name)
        self.enums: tuple[tuple[str, type[StrEnum]], ...] = _enums(self.command or self.event_type)
        part = parsed if self.event_type is None else _own
        read_as, self._later = _onwards(self.name, ours, part)
        self._target = None if read_as is None else part(json.loads(read_as.text))
        self._writer = parsed(schema)
        self._quick = None if ours is None or read_as is not None else _quick_way(schema, self.event_type is not None)
        self.event: Callable[[bytes], tuple[quick.Common, Fields, int]] | None = None
        if self.event_type is not None:
            self._common, self._own = split(schema)
            self.event = self._event

    def whole(self, body: bytes) -> Fields:
        """The fields of a record that is not an event. Raises: `Undecodable`."""
        record = None if self._quick is None else _quickly(self._quick, body, 0)
        if record is None:
            data = io.BytesIO(body)
            record = self._read(data, self._writer, self._target)
            self._must_end(data, body)
        if self._later is None and not self.enums:
            return record
        return self._finished(record)

    def as_written(self, body: bytes) -> Fields:
        """All fields of a record, as it was written. Raises: `Undecodable`."""
        data = io.BytesIO(body)
        record = self._read(data, self._writer, None)
        self._must_end(data, body)
        return record

    def _event(self, body: bytes) -> tuple[quick.Common, Fields, int]:
        """The common fields' values, the event's own fields, and where in the body the own begin."""
        found = None if self._quick is None else _event_quickly(self._quick, body)
        if found is None:
            data = io.BytesIO(body)
            common = self._read(data, self._common, None)
            cut = data.tell()
            own = self._read(data, self._own, self._target)
            self._must_end(data, body)
            found = cast(quick.Common, tuple(common.values())), own, cut
        if self._later is None and not self.enums:
            return found
        return found[0], self._finished(found[1]), found[2]

    def _finished(self, record: Fields) -> Fields:
        """A record as Avro gives it, brought to the newest version, with its enums as their types."""
        try:
            if self._later is not None:
                record = self._later(record)
            for name, enum in self.enums:
                record[name] = enum(record[name])
        except Exception as error:
            # An upcaster that is wrong for this record. Whoever reads it stops or parks it, and says which it was.
            raise Undecodable(
                "undecodable", f"a {self.name} cannot become the newest version: {type(error).__name__} {error}"
            ) from error
        return record

    def _read(self, data: io.BytesIO, writer: Schema, target: Schema | None) -> Fields:
        try:
            record: Fields = schemaless_reader(data, writer, target)  # type: ignore[assignment]
        except Exception as error:
            # Bytes that were not written with this schema, or that do not resolve to ours. What fastavro's compiled
            # code raises on them is not a list that we could keep, and nothing else happens in there.
            raise Undecodable(
                "undecodable", f"the body is not a {self.name}: {type(error).__name__} {error}"
            ) from error
        return record

    def _must_end(self, data: io.BytesIO, body: bytes) -> None:
        if data.tell() != len(body):
            raise Undecodable("undecodable", f"{len(body) - data.tell()} bytes are left over after a {self.name}")


def _onwards(
    name: str, ours: ReleasedSchema | None, part: Part
) -> tuple[ReleasedSchema | None, Callable[[Fields], Fields] | None]:
    """What Avro is to read a record as, None for as it was written; and what is done with it afterwards, if anything.

    A schema that is not among the released ones (a later release's, or one that somebody registered) is resolved to the
    newest that we know of its name.
    """
    known = newest().get(name)
    if known is None:
        return None, None
    hops: upcasters.Path = upcasters.path(Version(name, (ours or known).version), newest_versions())
    read_as = None if ours is not None else known
    if ours is not None and hops and isinstance(hops[0], Version):
        read_as, hops = _schema_of(hops[0]), hops[1:]
    return read_as, _following(hops, part) if hops else None


def _following(hops: upcasters.Path, part: Part) -> Callable[[Fields], Fields]:
    steps: list[Callable[[Fields], Fields]] = []
    at: Version | None = None
    for hop in hops:
        if isinstance(hop, Upcaster):
            steps.append(hop.convert)
            at = hop.target
        else:
            assert at is not None  # noqa: S101 - a path has Avro's hops at its beginning and after upcasters
            steps.append(_resolution(part(json.loads(_schema_of(at).text)), part(json.loads(_schema_of(hop).text))))
            at = hop

    def follow(record: Fields) -> Fields:
        for step in steps:
            record = step(record)
        return record

    return follow


def _resolution(written: Schema, wanted: Schema) -> Callable[[Fields], Fields]:
    """Avro's resolution of fields that an upcaster gave, by writing and reading them."""

    def resolve(record: Fields) -> Fields:
        data = io.BytesIO()
        schemaless_writer(data, written, record)
        data.seek(0)
        return cast(Fields, schemaless_reader(data, written, wanted))

    return resolve


def _schema_of(version: Version) -> ReleasedSchema:
    return next(schema for schema in released() if (schema.name, schema.version) == version)


@cache
def _released_by_fingerprint() -> Mapping[tuple[str, bytes], ReleasedSchema]:
    """By name and fingerprint, which no two versions of a name have in common (`daybook schemas check`)."""
    return {(schema.name, fingerprint(json.loads(schema.text))): schema for schema in released()}


def _enums(record_type: type[AnyCommand] | type[Event] | None) -> tuple[tuple[str, type[StrEnum]], ...]:
    if record_type is None:
        return ()
    return tuple(
        (field.name, field.type)
        for field in fields(record_type)
        if isinstance(field.type, type) and issubclass(field.type, StrEnum)
    )


def split(schema: Schema) -> tuple[Schema, Schema]:
    """An event's schema as two: the fields common to all events, up to the chain hash, and its own."""
    count = len(_EVENT_COMMON)
    if tuple(field["name"] for field in schema["fields"][:count]) != _EVENT_COMMON:
        raise ValueError(f"{fullname(schema)} does not begin with the fields that every event has")
    plain = {**schema, "fields": schema["fields"][:count]}, {**schema, "fields": schema["fields"][count:]}
    return parsed(plain[0]), parsed(plain[1])


def _own(schema: Schema) -> Schema:
    return split(schema)[1]


def _quick_way(schema: Schema, is_event: bool) -> compiled.Read | None:
    """How a record is read without the library, or of an event its own fields; None when it is not laid out for it."""
    if not is_event:
        return compiled.reader(schema)
    count = len(quick.COMMON_FIELDS)
    if [(field["name"], _plain_type(_without_logical_types(field["type"]))) for field in schema["fields"][:count]] != [
        (name, json.dumps(kind)) for name, kind in quick.COMMON_FIELDS
    ]:
        return None
    return compiled.reader({**schema, "fields": schema["fields"][count:]})


def _quickly(read: compiled.Read, body: bytes, at: int) -> Fields | None:
    """The fields from a place to the body's end; None when it is not as `schemas.compiled` expects it."""
    try:
        found, end = read(body, at)
    except compiled.UNUSUAL:
        return None
    return found if end == len(body) else None


def _event_quickly(read: compiled.Read, body: bytes) -> tuple[quick.Common, Fields, int] | None:
    """The same of an event, with its common fields."""
    try:
        common, cut = quick.common(body)
    except compiled.UNUSUAL:
        return None
    own = _quickly(read, body, cut)
    return None if own is None else (common, own, cut)


def _plain_type(schema: Any) -> str:
    match schema:
        case {"type": "fixed", "size": size}:
            return json.dumps(f"fixed {size}")
        case {"type": str() as primitive}:
            return json.dumps(primitive)
        case [*branches]:
            return json.dumps([branch["type"] if isinstance(branch, dict) else branch for branch in branches])
        case plain:
            return json.dumps(plain)


def parsed(schema: Schema) -> Schema:
    """A schema as fastavro takes it, without logical types."""
    return parse_schema(_without_logical_types(schema))  # type: ignore[return-value]


def _without_logical_types(schema: Any) -> Any:
    match schema:
        case dict():
            return {k: _without_logical_types(v) for k, v in schema.items() if k not in ("logicalType", "doc")}
        case list():
            return [_without_logical_types(branch) for branch in schema]
        case _:
            return schema


def is_flat(schema: Any) -> bool:
    """Whether a field's schema is a primitive, an enum, a fixed, or a union of these."""
    match schema:
        case str():
            return schema in _PRIMITIVES
        case {"type": "enum" | "fixed"}:
            return True
        case {"type": str() as primitive}:
            return primitive in _PRIMITIVES
        case list():
            return all(not isinstance(branch, list) and is_flat(branch) for branch in schema)
        case _:
            return False


def fingerprint(schema: Schema) -> bytes:
    """The SHA-256 of a schema's Parsing Canonical Form."""
    return sha256(to_parsing_canonical_form(schema).encode()).digest()


def canonical_form(text: str) -> str:
    """A schema's Parsing Canonical Form: what decides how bytes are read, and nothing beside it.

    Raises: `Undecodable`, when the text is no schema.
    """
    try:
        return to_parsing_canonical_form(json.loads(text))
    except _NO_SCHEMA as error:
        raise Undecodable("unreadable_schema", f"this is no schema: {type(error).__name__} {error}") from error


def as_written(text: str, body: bytes) -> tuple[str, Fields]:
    """A record's full name and its fields as it was written with a schema, not brought to the newest version.

    Raises: `Undecodable`, also when the text is no schema of a record.
    """
    try:
        reader = Reader(text)
    except _NO_SCHEMA as error:
        raise Undecodable("unreadable_schema", f"this is no schema: {type(error).__name__} {error}") from error
    return reader.name, reader.as_written(body)
