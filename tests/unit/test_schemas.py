"""The released schemas: never edited, and in step with the types that stand for them."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import pytest
from fastavro import parse_schema
from fastavro.schema import fullname
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo, fields

from schemas.alerts import Alert
from schemas.checkpoints import Checkpoint, PartitionTree
from schemas.commands import COMMAND_TYPES, Command, CommandReply, CommandStatus, FromClient
from schemas.events import EVENT_TYPES, FreezeCause, OverdraftLimitSet, RecordedEvent
from schemas.keys import SubjectKey
from schemas.released import current_name, event_type, is_command, is_event, newest, record_name, released
from schemas.snapshots import SNAPSHOT_TYPES

FOLDER: Final = Path(__file__).parents[2] / "schemas" / "account"
FILES: Final = sorted(FOLDER.glob("*.avsc"))
RELEASED: Final = FOLDER / "released.sha256"

COMMON_OF_EVENTS: Final = [f for f in fields(RecordedEvent) if f.name != "event"]
COMMON_OF_COMMANDS: Final = list(fields(Command))
# They came later, and a schema's new fields stand at its end.
OF_CLIENTS: Final = [f for f in fields(FromClient) if f not in COMMON_OF_COMMANDS]

# Their types have no default, though Avro has one for the sake of older readers: whoever writes them has to say them.
ALWAYS_SAID: Final = {
    "RecordedEvent.reason",
    "CommandReply.sequence",
    "AccountSnapshot.holder_email",
    "AccountSnapshot.in_transit_minor",
    "AccountSnapshot.transfers_open",
    "AccountSnapshot.transfers_settled",
    "AccountSnapshot.holder_erased",
}

AVRO_TYPES: Final[dict[Any, list[Any]]] = {
    bool: ["boolean"],
    str: ["string", {"type": "string", "logicalType": "uuid"}],
    int: ["long", "int", {"type": "long", "logicalType": "timestamp-micros"}],
    str | None: [["null", "string"]],
    int | None: [["null", "long"], ["null", {"type": "long", "logicalType": "timestamp-micros"}]],
    bytes: [
        "bytes",
        {"type": "fixed", "name": "ChainHash", "size": 32},
        {"type": "fixed", "name": "SnapshotChainHash", "size": 32},
        {"type": "fixed", "name": "SnapshotFingerprint", "size": 8},
        {"type": "fixed", "name": "MarkFingerprint", "size": 8},
    ],
    CommandStatus: [{"type": "enum", "name": "CommandStatus", "symbols": ["ACCEPTED", "REJECTED"]}],
}


AVRO_TYPES[FreezeCause] = [
    {"type": "enum", "name": "FreezeCause", "symbols": list(FreezeCause), "default": "UNSPECIFIED"}
]


def schema_of(record_type: type) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(newest()[record_name(record_type)].text)
    return schema


def typed_fields(record_type: type) -> list[tuple[str, FieldInfo]]:
    """The fields that a record's schema should have, in order, each with the name of the type that declares it."""
    own = [(record_type.__name__, f) for f in fields(record_type)]
    common = [("RecordedEvent", f) for f in COMMON_OF_EVENTS]
    if issubclass(record_type, FromClient):
        later = [f.name for f in OF_CLIENTS]
        return sorted(own, key=lambda field: field[1].name in later)
    return common + own if record_type in EVENT_TYPES else own


RECORD_TYPES: Final[tuple[type, ...]] = (
    *COMMAND_TYPES,
    *EVENT_TYPES,
    *SNAPSHOT_TYPES,
    CommandReply,
    Alert,
    Checkpoint,
    SubjectKey,
)


def test_there_is_one_record_for_every_type() -> None:
    assert {current_name(name) for name in newest()} == {record_name(record_type) for record_type in RECORD_TYPES}


def test_a_superseded_record_is_read_as_the_type_of_its_next_major() -> None:
    superseded = {name for name in newest() if current_name(name) != name}
    assert superseded == {"daybook.account.event.OverdraftLimitSet"}
    assert event_type("daybook.account.event.OverdraftLimitSet") is OverdraftLimitSet
    assert is_event("daybook.account.event.v2.OverdraftLimitSet")
    assert not is_event("daybook.account.event.NoSuchThing")
    assert not is_command("daybook.account.event.OverdraftLimitSet")


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_a_schema_has_the_fields_of_its_type(record_type: type) -> None:
    schema, typed = schema_of(record_type), typed_fields(record_type)
    assert [f["name"] for f in schema["fields"]] == [f.name for _, f in typed]
    for avro, (owner, field) in zip(schema["fields"], typed, strict=True):
        if field.type == tuple[PartitionTree, ...]:
            continue
        assert avro["type"] in AVRO_TYPES[field.type], f"{owner}.{field.name}"
        if field.default is not NODEFAULT:
            assert avro.get("default", NODEFAULT) == field.default, f"{owner}.{field.name}"
        elif f"{owner}.{field.name}" not in ALWAYS_SAID:
            assert "default" not in avro, f"{owner}.{field.name}"


def test_a_checkpoints_trees_have_the_fields_of_their_type() -> None:
    trees = next(field["type"] for field in schema_of(Checkpoint)["fields"] if field["name"] == "partitions")
    assert trees["type"] == "array"
    assert [f["name"] for f in trees["items"]["fields"]] == [f.name for f in fields(PartitionTree)]
    assert all(f["doc"] for f in trees["items"]["fields"])
    for avro, field in zip(trees["items"]["fields"], fields(PartitionTree), strict=True):
        assert avro["type"] in AVRO_TYPES[field.type], field.name


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_all_events_begin_alike(event_type: type) -> None:
    own = len(fields(event_type))
    begin = schema_of(event_type)["fields"][: len(COMMON_OF_EVENTS)]
    assert [f["name"] for f in begin] == [f.name for f in COMMON_OF_EVENTS]
    assert begin == schema_of(EVENT_TYPES[0])["fields"][: len(COMMON_OF_EVENTS)]
    assert len(schema_of(event_type)["fields"]) == len(COMMON_OF_EVENTS) + own


@pytest.mark.parametrize("command_type", COMMAND_TYPES)
def test_all_commands_begin_alike(command_type: type) -> None:
    begin = schema_of(command_type)["fields"][: len(COMMON_OF_COMMANDS)]
    assert [f["name"] for f in begin] == [f.name for f in COMMON_OF_COMMANDS]
    assert begin == schema_of(COMMAND_TYPES[0])["fields"][: len(COMMON_OF_COMMANDS)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_schema_is_valid_documented_and_named_by_its_file(path: Path) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))
    parse_schema(schema)
    assert path.name.partition(".")[0] == schema["name"]
    assert fullname(schema) == f"{schema['namespace']}.{schema['name']}"
    assert schema["doc"]
    assert all(f["doc"] for f in schema["fields"])


def test_versions_are_counted_from_one() -> None:
    versions: dict[str, list[int]] = {}
    for schema in released():
        versions.setdefault(schema.name, []).append(schema.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())
    assert len(released()) == len(FILES)


def test_what_is_released_was_not_edited() -> None:
    lines = RELEASED.read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}
    edited = sorted(name for name in found.keys() & listed.keys() if found[name] != listed[name])
    assert not edited, f"released schemas are never edited: restore {edited}, and add a next version instead"
    assert found.keys() == listed.keys(), f"in {FOLDER}: sha256sum <the new one> >> {RELEASED.name}"
