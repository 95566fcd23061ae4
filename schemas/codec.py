"""Bytes on the log to and from typed records. The only module that knows Avro.

Values are in Confluent's wire format: a zero byte, the schema's id as four bytes, the Avro body. Logical types are
left as the integers and strings that carry them, since the types of `commands` and `events` count in microseconds.

An event's fields are two runs: those that every event has, which end with the chain hash, and its own. Avro writes a
record as its fields one after the other, so each run is read and written by itself. That is what lets a chain hash be
cut out of an event's bytes, or put in, without knowing the event.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, Final, Protocol, cast

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException, fullname, to_parsing_canonical_form
from msgspec.structs import asdict, fields

from schemas import quick
from schemas.alerts import Alert
from schemas.commands import COMMAND_NAMESPACE, COMMAND_TYPES, AnyCommand, CommandReply, CommandStatus
from schemas.events import EVENT_NAMESPACE, EVENT_TYPES, Event, RecordedEvent
from schemas.registry import SchemaNotRegistered
from schemas.topics import subject

HEADER_BYTES: Final = 5
_MAGIC: Final = 0
_MAX_SCHEMA_ID: Final = 2**31 - 1
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EVENT_COMMON: Final = tuple(field.name for field in fields(RecordedEvent) if field.name != "event")
_CHAIN_HASH_BYTES: Final = 32
_PRIMITIVES: Final = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}

_COMMANDS: Final[Mapping[str, type[AnyCommand]]] = {f"{COMMAND_NAMESPACE}.{t.__name__}": t for t in COMMAND_TYPES}
_EVENTS: Final[Mapping[str, type[Event]]] = {f"{EVENT_NAMESPACE}.{t.__name__}": t for t in EVENT_TYPES}

Schema = dict[str, Any]

_QuickFields = tuple[tuple[str, Callable[[bytes, int], tuple[quick.Value, int]]], ...]

_QUICK_READERS: Final[Mapping[str, Callable[[bytes, int], tuple[quick.Value, int]]]] = {
    json.dumps("long"): quick.number,
    json.dumps("string"): quick.text,
    json.dumps(["null", "string"]): quick.optional_text,
}
"""By a field's type, without logical types, as JSON."""


class Undecodable(ValueError):
    """A record's bytes are not what the contract says. `reason` is a stable snake_case code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChainBroken(Exception):
    """An event's chain hash does not follow from the event before it and its own bytes."""


class SchemaSource(Protocol):
    """What the codec asks of a registry (`schemas.registry.Registry`)."""

    def schema(self, schema_id: int) -> str: ...
    def schema_id(self, subject: str, schema: str) -> int: ...


@dataclass(frozen=True, slots=True)
class ReleasedSchema:
    """One version of one record, as released: `name` is its full name, `text` what the registry is given."""

    name: str
    version: int
    text: str


@cache
def released() -> tuple[ReleasedSchema, ...]:
    """Every schema ever released, by name and version (`schemas/account/<Name>.v<version>.avsc`)."""
    found = []
    for file in resources.files("schemas").joinpath("account").iterdir():
        if file.name.endswith(".avsc"):
            schema = json.loads(file.read_text(encoding="utf-8"))
            version = int(file.name.removesuffix(".avsc").rpartition(".v")[2])
            text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
            found.append(ReleasedSchema(fullname(schema), version, text))
    return tuple(sorted(found, key=lambda schema: (schema.name, schema.version)))


@cache
def newest() -> Mapping[str, ReleasedSchema]:
    """The newest version of every record, by full name: what is written, and read into."""
    return {schema.name: schema for schema in released()}


def is_command(name: str) -> bool:
    return name in _COMMANDS


def is_event(name: str) -> bool:
    return name in _EVENTS


def record_name(record_type: type) -> str:
    """The full Avro name of a command, an event, the reply or the alert."""
    if issubclass(record_type, CommandReply | Alert):
        return record_type.FULL_NAME
    namespace = COMMAND_NAMESPACE if record_type in COMMAND_TYPES else EVENT_NAMESPACE
    return f"{namespace}.{record_type.__name__}"


class Codec:
    """Reads any record of the ledger, and writes those whose ids were looked up by one of the `look_up_*` methods.

    A schema id met for the first time is asked of the registry, which may block, and may raise
    `RegistryUnavailable`; the caller decides whether to wait. All else is computed in memory.
    """

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._readers: dict[int, _Reader] = {}
        self._plain: dict[type, _PlainWriter] = {}
        self._events: dict[type, _EventWriter] = {}

    def look_up_commands(self, topic: str, types: Iterable[type[AnyCommand]] = COMMAND_TYPES) -> None:
        """Look up the ids of commands on a topic, which is what writing them takes, and spares reading them a question.

        Raises what `Registry.schema_id` does, as the others do.
        """
        for command_type in types:
            self._plain[command_type] = self._plain_writer(topic, command_type)

    def look_up_replies(self, topic: str) -> None:
        """Look up the id of replies on a topic."""
        self._plain[CommandReply] = self._plain_writer(topic, CommandReply)

    def look_up_alerts(self, topic: str) -> None:
        """Look up the id of alerts on a topic."""
        self._plain[Alert] = self._plain_writer(topic, Alert)

    def look_up_events(self, topic: str) -> None:
        """Look up the ids of events on a topic."""
        for event_type in EVENT_TYPES:
            text, header = self._look_up(topic, event_type)
            schema = json.loads(text)
            common, own = _split(schema)
            # The hash is written between the two runs, once it is known.
            common = _parsed({**common, "fields": common["fields"][:-1]})
            self._events[event_type] = _EventWriter(header, common, own, _fingerprint(schema))

    def _plain_writer(self, topic: str, record_type: type) -> _PlainWriter:
        text, header = self._look_up(topic, record_type)
        return _PlainWriter(header, _parsed(json.loads(text)))

    def _look_up(self, topic: str, record_type: type) -> tuple[str, bytes]:
        """The newest schema of a record, and the header under which its values are written to a topic."""
        name = record_name(record_type)
        text = newest()[name].text
        schema_id = self._registry.schema_id(subject(topic, name), text)
        self._readers.setdefault(schema_id, _Reader(text))
        return text, bytes([_MAGIC]) + schema_id.to_bytes(4, "big")

    def encode_command(self, command: AnyCommand) -> bytes:
        return self._encode(command)

    def encode_reply(self, reply: CommandReply) -> bytes:
        return self._encode(reply)

    def encode_alert(self, alert: Alert) -> bytes:
        return self._encode(alert)

    def _encode(self, record: AnyCommand | CommandReply | Alert) -> bytes:
        writer = self._plain[type(record)]
        out = io.BytesIO()
        out.write(writer.header)
        schemaless_writer(out, writer.schema, asdict(record))
        return out.getvalue()

    def encode_event(self, event: Event, common: Mapping[str, object], previous: bytes) -> tuple[bytes, bytes]:
        """An event's bytes and its chain hash, given the fields of `RecordedEvent` but for the hash and the event.

        `previous` is the chain hash of the account's event before, or `CHAIN_START`.
        """
        writer = self._events[type(event)]
        out = io.BytesIO()
        schemaless_writer(out, writer.common, common)
        cut = out.tell()
        schemaless_writer(out, writer.own, asdict(event))
        body = out.getvalue()
        head, tail = body[:cut], body[cut:]
        chain_hash = chain(previous, writer.fingerprint, head, tail)
        return b"".join((writer.header, head, chain_hash, tail)), chain_hash

    def decode_command(self, value: bytes | None) -> AnyCommand:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.command is None:
            raise Undecodable("not_a_command", f"{reader.name} is not a command")
        record = reader.whole(body)
        if _UUID.fullmatch(record["command_id"]) is None:
            raise Undecodable("undecodable", f"command_id of {reader.name} is not a UUID")
        return reader.command(**record)

    def decode_reply(self, value: bytes | None) -> CommandReply:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != CommandReply.FULL_NAME:
            raise Undecodable("not_a_reply", f"{reader.name} is not a reply")
        record = reader.whole(body)
        return CommandReply(**(record | {"status": CommandStatus(record["status"])}))

    def decode_alert(self, value: bytes | None) -> Alert:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != Alert.FULL_NAME:
            raise Undecodable("not_an_alert", f"{reader.name} is not an alert")
        return Alert(**reader.whole(body))

    def decode_event(self, value: bytes | None, *, previous: bytes | None = None) -> RecordedEvent:
        """An event of any released version, as its newest. With `previous`, its chain hash is verified as well.

        Raises:
            Undecodable: the bytes are not an event.
            ChainBroken: `previous` was given and the event does not follow it.
            RegistryUnavailable: an unknown id could not be asked for.
        """
        reader, body = self._open(value)
        if reader.event is None:
            raise Undecodable("not_an_event", f"{reader.name} is not an event")
        common, own, cut = reader.event(body)
        recorded = RecordedEvent(*common, _EVENTS[reader.name](**own))
        if previous is not None:
            head, tail = body[: cut - _CHAIN_HASH_BYTES], body[cut:]
            if chain(previous, reader.fingerprint, head, tail) != recorded.chain_hash:
                raise ChainBroken(
                    f"event {recorded.account_id}/{recorded.sequence} does not follow from the event before it"
                )
        return recorded

    def _open(self, value: bytes | None) -> tuple[_Reader, bytes]:
        if value is None or len(value) < HEADER_BYTES or value[0] != _MAGIC:
            raise Undecodable("undecodable", "the value is not in the wire format: a zero byte, a schema id, Avro")
        schema_id = int.from_bytes(value[1:HEADER_BYTES], "big")
        if not 0 < schema_id <= _MAX_SCHEMA_ID:
            # Registries number schemas from 1 with signed integers. Asked for another number, one may answer anything
            # but a clear denial, and the reader would wait for ever.
            raise Undecodable("unknown_schema", f"there can be no schema id {schema_id}")
        reader = self._readers.get(schema_id)
        if reader is None:
            try:
                reader = _Reader(self._registry.schema(schema_id))
            except SchemaNotRegistered as error:
                raise Undecodable("unknown_schema", str(error)) from error
            except (SchemaParseException, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise Undecodable("unreadable_schema", f"schema id {schema_id} cannot be used: {error}") from error
            self._readers[schema_id] = reader
        return reader, value[HEADER_BYTES:]


def chain(previous: bytes, fingerprint: bytes, head: bytes, tail: bytes) -> bytes:
    """The chain hash of an event: SHA-256 over the previous hash and the event's canonical bytes.

    These are the SHA-256 of its writer schema's Parsing Canonical Form (so that an event cannot be passed off as one
    of another type or version) and its Avro body without the chain hash field: `head` before it and `tail` after.
    """
    return sha256(b"".join((previous, fingerprint, head, tail))).digest()


class _Reader:
    """Decodes the bodies written with one schema, into the newest version of the same record."""

    def __init__(self, text: str) -> None:
        schema = json.loads(text)
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise ValueError("it is not a record")
        self.name = fullname(schema)
        self.fingerprint = _fingerprint(schema)
        if self.fingerprint not in _released_fingerprints() and not all(_is_flat(f["type"]) for f in schema["fields"]):
            # Reading recurses in C, and an array of nulls may claim any length: a few bytes of a nested schema that
            # somebody registered could end the process or hold it up for ever. Ours are flat.
            raise ValueError(f"{self.name} is nested, and it is not one of Daybook's schemas")
        self.command = _COMMANDS.get(self.name)
        self._writer = _parsed(schema)
        known = newest().get(self.name)
        same = known is None or _fingerprint(json.loads(known.text)) == self.fingerprint
        self._target = None if known is None or same else _parsed(json.loads(known.text))
        self.event: Callable[[bytes], tuple[quick.Common, Schema, int]] | None = None
        if is_event(self.name) and known is not None:
            self._common, self._own = _split(schema)
            self._own_target = None if same else _split(json.loads(known.text))[1]
            self._quick_own = _quick_fields(schema) if same else None
            self.event = self._event

    def whole(self, body: bytes) -> Schema:
        data = io.BytesIO(body)
        record = self._read(data, self._writer, self._target)
        self._must_end(data, body)
        return record

    def _event(self, body: bytes) -> tuple[quick.Common, Schema, int]:
        """The common fields' values, the event's own fields, and where in the body the own begin."""
        if self._quick_own is not None and (quickly := self._quickly(body, self._quick_own)) is not None:
            return quickly
        data = io.BytesIO(body)
        common = self._read(data, self._common, None)
        cut = data.tell()
        own = self._read(data, self._own, self._own_target)
        self._must_end(data, body)
        return cast(quick.Common, tuple(common.values())), own, cut

    def _quickly(self, body: bytes, readers: _QuickFields) -> tuple[quick.Common, Schema, int] | None:
        """The same, or None when it is not as `schemas.quick` expects it."""
        try:
            common, cut = quick.common(body)
            own, at = {}, cut
            for name, read in readers:
                own[name], at = read(body, at)
        except (quick.Unusual, IndexError, ValueError):
            return None
        return (common, own, cut) if at == len(body) else None

    def _read(self, data: io.BytesIO, writer: Schema, target: Schema | None) -> Schema:
        try:
            record: Schema = schemaless_reader(data, writer, target)  # type: ignore[assignment]
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


@dataclass(frozen=True, slots=True)
class _PlainWriter:
    header: bytes
    schema: Schema


@dataclass(frozen=True, slots=True)
class _EventWriter:
    header: bytes
    common: Schema
    own: Schema
    fingerprint: bytes


def _split(schema: Schema) -> tuple[Schema, Schema]:
    """An event's schema as two: the fields common to all events, up to the chain hash, and its own."""
    count = len(_EVENT_COMMON)
    if tuple(field["name"] for field in schema["fields"][:count]) != _EVENT_COMMON:
        raise ValueError(f"{fullname(schema)} does not begin with the fields that every event has")
    plain = {**schema, "fields": schema["fields"][:count]}, {**schema, "fields": schema["fields"][count:]}
    return _parsed(plain[0]), _parsed(plain[1])


def _quick_fields(schema: Schema) -> _QuickFields | None:
    """How to read an event's own fields the quick way; None when the event is not laid out for it."""
    plain = [(field["name"], _plain_type(field["type"])) for field in schema["fields"]]
    count = len(quick.COMMON_FIELDS)
    if plain[:count] != [(name, json.dumps(kind)) for name, kind in quick.COMMON_FIELDS]:
        return None
    if any(kind not in _QUICK_READERS for _, kind in plain[count:]):
        return None
    return tuple((name, _QUICK_READERS[kind]) for name, kind in plain[count:])


def _plain_type(schema: Any) -> str:
    match _without_logical_types(schema):
        case {"type": "fixed", "size": size}:
            return json.dumps(f"fixed {size}")
        case {"type": str() as primitive}:
            return json.dumps(primitive)
        case plain:
            return json.dumps(plain)


def _parsed(schema: Schema) -> Schema:
    return parse_schema(_without_logical_types(schema))  # type: ignore[return-value]


def _without_logical_types(schema: Any) -> Any:
    match schema:
        case dict():
            return {k: _without_logical_types(v) for k, v in schema.items() if k not in ("logicalType", "doc")}
        case list():
            return [_without_logical_types(branch) for branch in schema]
        case _:
            return schema


@cache
def _released_fingerprints() -> frozenset[bytes]:
    return frozenset(_fingerprint(json.loads(schema.text)) for schema in released())


def _is_flat(schema: Any) -> bool:
    """Whether a field's schema is a primitive, an enum, a fixed, or a union of these."""
    match schema:
        case str():
            return schema in _PRIMITIVES
        case {"type": "enum" | "fixed"}:
            return True
        case {"type": str() as primitive}:
            return primitive in _PRIMITIVES
        case list():
            return all(not isinstance(branch, list) and _is_flat(branch) for branch in schema)
        case _:
            return False


def _fingerprint(schema: Schema) -> bytes:
    return sha256(to_parsing_canonical_form(schema).encode()).digest()
