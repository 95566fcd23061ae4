"""Bytes on the log to and from typed records. With `schemas.reading` and `schemas.writing`, all that knows Avro.

Values are in Confluent's wire format: a zero byte, the schema's id as four bytes, the Avro body. Logical types are
left as the integers and strings that carry them, since the types of `commands` and `events` count in microseconds.

An event's fields are two runs: those that every event has, which end with the chain hash, and its own. Avro writes a
record as its fields one after the other, so each run is read and written by itself. That is what lets a chain hash be
cut out of an event's bytes, or put in, without knowing the event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol, TypeVar

from fastavro.schema import SchemaParseException
from msgspec import Struct
from msgspec.structs import asdict

from schemas import quick
from schemas.alerts import Alert
from schemas.checkpoints import Checkpoint, PartitionTree
from schemas.commands import CLIENT_COMMAND_TYPES, AnyCommand, CommandReply, CommandStatus
from schemas.events import EVENT_TYPES, Event, RecordedEvent
from schemas.keys import SubjectKey
from schemas.reading import Reader, Undecodable, fingerprint, split
from schemas.registry import SchemaNotRegistered
from schemas.released import is_event_name, newest, record_name
from schemas.snapshots import SNAPSHOT_TYPES, AccountSnapshot, RestoreMark
from schemas.topics import subject
from schemas.upcasters import Fields
from schemas.writing import RecordWriter

__all__ = ["HEADER_BYTES", "ChainBroken", "Codec", "SchemaSource", "Undecodable", "chain"]

T = TypeVar("T", bound=Struct)

HEADER_BYTES: Final = 5
_MAGIC: Final = 0
_MAX_SCHEMA_ID: Final = 2**31 - 1
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CHAIN_HASH_BYTES: Final = 32


class ChainBroken(Exception):
    """An event's chain hash does not follow from the event before it and its own bytes."""


class SchemaSource(Protocol):
    """What the codec asks of a registry (`schemas.registry.Registry`)."""

    def schema(self, schema_id: int) -> str: ...
    def schema_id(self, subject: str, schema: str) -> int: ...


class Codec:
    """Reads any record of the ledger, and writes those whose ids were looked up by one of the `look_up_*` methods.

    A schema id met for the first time is asked of the registry, which may block, and may raise
    `RegistryUnavailable`; the caller decides whether to wait. All else is computed in memory.
    """

    def __init__(self, registry: SchemaSource) -> None:
        self._registry = registry
        self._readers: dict[int, Reader] = {}
        self._plain: dict[type, _PlainWriter] = {}
        self._events: dict[type, _EventWriter] = {}

    def look_up_commands(self, topic: str, types: Iterable[type[AnyCommand]] = CLIENT_COMMAND_TYPES) -> None:
        """Look up the ids of commands on a topic, which is what writing them takes, and spares reading them a question.

        `FOLLOW_UP_TYPES` are those of the topic of follow-ups.

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

    def look_up_checkpoints(self, topic: str) -> None:
        """Look up the id of checkpoints on a topic."""
        self._plain[Checkpoint] = self._plain_writer(topic, Checkpoint)

    def look_up_keys(self, topic: str) -> None:
        """Look up the id of subjects' keys on a topic."""
        self._plain[SubjectKey] = self._plain_writer(topic, SubjectKey)

    def look_up_snapshots(self, topic: str) -> None:
        """Look up the ids of snapshots and restore marks on a topic."""
        for snapshot_type in SNAPSHOT_TYPES:
            self._plain[snapshot_type] = self._plain_writer(topic, snapshot_type)

    def look_up_events(self, topic: str) -> None:
        """Look up the ids of events on a topic."""
        for event_type in EVENT_TYPES:
            text, header = self._look_up(topic, event_type)
            schema = json.loads(text)
            common, own = split(schema)
            # The hash is written between the two runs, once it is known.
            common = {**common, "fields": common["fields"][:-1]}
            self._events[event_type] = _EventWriter(
                header, RecordWriter(common, mappings=True), RecordWriter(own), fingerprint(schema)
            )

    def _plain_writer(self, topic: str, record_type: type) -> _PlainWriter:
        text, header = self._look_up(topic, record_type)
        return _PlainWriter(header, RecordWriter(json.loads(text)))

    def _look_up(self, topic: str, record_type: type) -> tuple[str, bytes]:
        """The newest schema of a record, and the header under which its values are written to a topic."""
        name = record_name(record_type)
        text = newest()[name].text
        schema_id = self._registry.schema_id(subject(topic, name), text)
        self._readers.setdefault(schema_id, Reader(text))
        return text, bytes([_MAGIC]) + schema_id.to_bytes(4, "big")

    def encode_command(self, command: AnyCommand) -> bytes:
        return self._encode(command)

    def encode_reply(self, reply: CommandReply) -> bytes:
        return self._encode(reply)

    def encode_alert(self, alert: Alert) -> bytes:
        return self._encode(alert)

    def encode_checkpoint(self, checkpoint: Checkpoint) -> bytes:
        writer = self._plain[Checkpoint]
        trees = [asdict(tree) for tree in checkpoint.partitions]
        return writer.header + writer.body(asdict(checkpoint) | {"partitions": trees})

    def encode_snapshot(self, snapshot: AccountSnapshot | RestoreMark) -> bytes:
        return self._encode(snapshot)

    def encode_key(self, key: SubjectKey) -> bytes:
        return self._encode(key)

    def _encode(self, record: AnyCommand | CommandReply | Alert | AccountSnapshot | RestoreMark | SubjectKey) -> bytes:
        writer = self._plain[type(record)]
        return writer.header + writer.body(record)

    def encode_event(self, event: Event, common: Mapping[str, object], previous: bytes) -> tuple[bytes, bytes]:
        """An event's bytes and its chain hash, given the fields of `RecordedEvent` but for the hash and the event.

        `previous` is the chain hash of the account's event before, or `CHAIN_START`.
        """
        writer = self._events[type(event)]
        head, tail = writer.common(common), writer.own(event)
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
        return _made(reader.command, record)

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

    def decode_checkpoint(self, value: bytes | None) -> Checkpoint:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != Checkpoint.FULL_NAME:
            raise Undecodable("not_a_checkpoint", f"{reader.name} is not a checkpoint")
        record = reader.whole(body)
        trees = tuple(PartitionTree(**tree) for tree in record["partitions"])
        return Checkpoint(**(record | {"partitions": trees}))

    def chain_cut(self, value: bytes | None) -> tuple[bytes, int, int, bytes]:
        """What verifying a chain needs of an event, without reading the rest: some five times faster than decoding.

        Returns:
            The account's id as UTF-8, the sequence, where in the value the event's own fields begin (the chain hash is
            the 32 bytes before), and its schema's fingerprint. `chain` takes the last, and what is around the hash.

        Raises: as `decode_event` does, but what comes after the hash is not looked at.
        """
        reader, body = self._open(value)
        if reader.event is None:
            raise Undecodable("not_an_event", f"{reader.name} is not an event")
        try:
            account_id, sequence, cut = quick.chain_cut(body)
        except (quick.Unusual, IndexError):
            common, _, cut = reader.event(body)
            return common[1].encode(), common[2], cut + HEADER_BYTES, reader.fingerprint
        return account_id, sequence, cut + HEADER_BYTES, reader.fingerprint

    def decode_snapshot(self, value: bytes | None) -> AccountSnapshot:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != AccountSnapshot.FULL_NAME:
            raise Undecodable("not_a_snapshot", f"{reader.name} is not a snapshot of an account")
        return AccountSnapshot(**reader.whole(body))

    def decode_mark(self, value: bytes | None) -> RestoreMark:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != RestoreMark.FULL_NAME:
            raise Undecodable("not_a_mark", f"{reader.name} is not a restore mark")
        return RestoreMark(**reader.whole(body))

    def decode_key(self, value: bytes | None) -> SubjectKey:
        """Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for."""
        reader, body = self._open(value)
        if reader.name != SubjectKey.FULL_NAME:
            raise Undecodable("not_a_key", f"{reader.name} is not a subject's key")
        return SubjectKey(**reader.whole(body))

    def decode_fields(self, value: bytes | None) -> tuple[str, Fields]:
        """Any record but an event: its full name as written, and its fields as of the newest version.

        Raises: `Undecodable`, or `RegistryUnavailable` when an unknown id could not be asked for.
        """
        reader, body = self._open(value)
        return reader.name, reader.whole(body)

    def decode_event(self, value: bytes | None, *, previous: bytes | None = None) -> RecordedEvent:
        """An event of any released version, as its newest. With `previous`, its chain hash is verified as well.

        Raises:
            Undecodable: the bytes are not an event.
            ChainBroken: `previous` was given and the event does not follow it.
            RegistryUnavailable: an unknown id could not be asked for.
        """
        reader, body = self._open(value)
        if reader.event is None or reader.event_type is None:
            later = ", or one of a later release: upgrade this program" if is_event_name(reader.name) else ""
            raise Undecodable("not_an_event", f"{reader.name} is not an event{later}")
        common, own, cut = reader.event(body)
        recorded = RecordedEvent(*common, _made(reader.event_type, own))
        if previous is not None:
            head, tail = body[: cut - _CHAIN_HASH_BYTES], body[cut:]
            if chain(previous, reader.fingerprint, head, tail) != recorded.chain_hash:
                raise ChainBroken(
                    f"event {recorded.account_id}/{recorded.sequence} does not follow from the event before it"
                )
        return recorded

    def _open(self, value: bytes | None) -> tuple[Reader, bytes]:
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
                reader = Reader(self._registry.schema(schema_id))
            except SchemaNotRegistered as error:
                raise Undecodable("unknown_schema", str(error)) from error
            except (SchemaParseException, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise Undecodable("unreadable_schema", f"schema id {schema_id} cannot be used: {error}") from error
            self._readers[schema_id] = reader
        return reader, value[HEADER_BYTES:]


def _made(record_type: type[T], fields: Fields) -> T:
    """A record of its type. Only if type and newest schema are not in step, it does not take the fields."""
    try:
        return record_type(**fields)
    except TypeError as error:
        raise Undecodable("undecodable", f"{record_type.__name__} is not what its type takes: {error}") from error


def chain(previous: bytes, fingerprint: bytes, head: bytes, tail: bytes) -> bytes:
    """The chain hash of an event: SHA-256 over the previous hash and the event's canonical bytes.

    These are the SHA-256 of its writer schema's Parsing Canonical Form (so that an event cannot be passed off as one
    of another type or version) and its Avro body without the chain hash field: `head` before it and `tail` after.
    """
    return sha256(b"".join((previous, fingerprint, head, tail))).digest()


@dataclass(frozen=True, slots=True)
class _PlainWriter:
    header: bytes
    body: RecordWriter


@dataclass(frozen=True, slots=True)
class _EventWriter:
    header: bytes
    common: RecordWriter
    own: RecordWriter
    fingerprint: bytes
