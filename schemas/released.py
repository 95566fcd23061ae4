"""The schemas as they were released, and which record stands for which type.

`schemas/account/` has one file per record and version, `<Name>.v<version>.avsc`; of a record's next major, which has a
full name of its own (namespace `...v2`), `<Name>.2.v<version>.avsc`. What is released is never edited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from schemas.alerts import Alert
from schemas.checkpoints import Checkpoint
from schemas.commands import COMMAND_NAMESPACE, COMMAND_TYPES, FOLLOW_UP_TYPES, AnyCommand, CommandReply
from schemas.events import EVENT_NAMESPACE, EVENT_TYPES, Event
from schemas.upcasters import Version, end, path


@dataclass(frozen=True, slots=True)
class ReleasedSchema:
    """One version of one record, as released: `name` is its full name, `text` what the registry is given."""

    name: str
    version: int
    text: str


def folder() -> Traversable:
    """Where the schemas' files are."""
    return resources.files("schemas").joinpath("account")


def read_schema(file: Traversable) -> ReleasedSchema:
    """A schema's file. Raises `ValueError` or `KeyError` if it is not one that is named as these are."""
    schema = json.loads(file.read_text(encoding="utf-8"))
    version = int(file.name.removesuffix(".avsc").rpartition(".v")[2])
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return ReleasedSchema(f"{schema['namespace']}.{schema['name']}", version, text)


@cache
def released() -> tuple[ReleasedSchema, ...]:
    """Every schema ever released, by name and version."""
    found = [read_schema(file) for file in folder().iterdir() if file.name.endswith(".avsc")]
    return tuple(sorted(found, key=lambda schema: (schema.name, schema.version)))


@cache
def newest() -> Mapping[str, ReleasedSchema]:
    """The newest version of every record, by full name."""
    return {schema.name: schema for schema in released()}


@cache
def newest_versions() -> Mapping[str, int]:
    return {name: schema.version for name, schema in newest().items()}


def record_name(record_type: type) -> str:
    """The full Avro name under which a type is written today."""
    full_name = getattr(record_type, "FULL_NAME", None)
    if full_name is not None:
        return str(full_name)
    namespace = COMMAND_NAMESPACE if record_type in COMMAND_TYPES else EVENT_NAMESPACE
    major = getattr(record_type, "MAJOR", 1)
    return f"{namespace}.{record_type.__name__}" if major == 1 else f"{namespace}.v{major}.{record_type.__name__}"


@cache
def current_name(name: str) -> str:
    """The name that a record's name leads to by upcasters: itself, unless there is a next major. Raises `NoPath`."""
    version = newest_versions().get(name)
    if version is None:
        return name
    start = Version(name, version)
    return end(start, path(start, newest_versions())).name


@cache
def _commands() -> Mapping[str, type[AnyCommand]]:
    return {record_name(command_type): command_type for command_type in COMMAND_TYPES}


@cache
def _events() -> Mapping[str, type[Event]]:
    return {record_name(event_type): event_type for event_type in EVENT_TYPES}


def command_type(name: str) -> type[AnyCommand] | None:
    """What a record of a name is read as; None if it is not a command."""
    return _commands().get(current_name(name))


def event_type(name: str) -> type[Event] | None:
    """What a record of a name is read as; None if it is not an event."""
    return _events().get(current_name(name))


def is_event_name(name: str) -> bool:
    """Whether a name is of the kind that events have, in this release or another."""
    return name.startswith(f"{EVENT_NAMESPACE}.")


def is_command(name: str) -> bool:
    return command_type(name) is not None


def is_follow_up(name: str) -> bool:
    """Whether it is a command that the command service alone gives."""
    return command_type(name) in FOLLOW_UP_TYPES


def is_event(name: str) -> bool:
    return event_type(name) is not None


def is_alert(name: str) -> bool:
    return name == Alert.FULL_NAME


def is_checkpoint(name: str) -> bool:
    return name == Checkpoint.FULL_NAME


def is_reply(name: str) -> bool:
    return name == CommandReply.FULL_NAME
