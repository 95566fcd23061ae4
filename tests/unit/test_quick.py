"""The quick ways to read and to write records, against the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas import codec, compiled, quick, released, writing
from schemas import reading as bodies
from schemas.codec import Codec, Undecodable
from schemas.commands import COMMAND_TYPES, AnyCommand, CommandReply, Deposit
from schemas.events import EVENT_TYPES, Event, RecordedEvent
from schemas.snapshots import AccountSnapshot
from tests.unit.given import deposit
from tests.unit.known_records import EVENT_BYTES, REGISTRY, codec_of
from tests.unit.strategies import ANY_COMMAND, ANY_EVENT, ANY_REPLY, ANY_SNAPSHOT, COMMON_FIELDS


def codec_that(monkeypatch: pytest.MonkeyPatch, *, is_quick: bool) -> Codec:
    """A codec that reads and writes one way only: the quick one, or the library's."""
    if is_quick:
        monkeypatch.setattr(bodies.Reader, "_read", _not_this_way)
        monkeypatch.setattr(writing, "schemaless_writer", _not_this_way)
    else:
        monkeypatch.setattr(bodies, "_quick_way", lambda *_: None)
        monkeypatch.setattr(compiled, "writer", lambda *_, **__: None)
    return codec_of(REGISTRY)


def _not_this_way(*_: object) -> None:
    raise AssertionError("the library was asked")


@contextmanager
def library() -> Iterator[Codec]:
    with pytest.MonkeyPatch.context() as patch:
        yield codec_that(patch, is_quick=False)


with library() as _made:
    LIBRARY = _made
BOTH = codec_of(REGISTRY)


def result(reader: Codec, value: bytes) -> RecordedEvent | str:
    try:
        return reader.decode_event(value)
    except Undecodable as error:
        return error.reason


def command_in(reader: Codec, value: bytes) -> AnyCommand | str:
    try:
        return reader.decode_command(value)
    except Undecodable as error:
        return error.reason


def damaged(value: bytes, data: st.DataObject) -> bytes:
    """A record's bytes with some of them changed, cut off, put in or left out."""
    found = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(codec.HEADER_BYTES, len(found) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "drop"])):
            case "change":
                found[at] = data.draw(st.integers(0, 255))
            case "cut":
                del found[at + 1 :]
            case "insert":
                found.insert(at, data.draw(st.integers(0, 255)))
            case "drop" if len(found) > codec.HEADER_BYTES + 1:
                del found[at]
    return bytes(found)


@given(ANY_EVENT, COMMON_FIELDS, st.binary(min_size=32, max_size=32))
def test_both_ways_read_the_same(event: Event, common: dict[str, Any], previous: bytes) -> None:
    value, _ = BOTH.encode_event(event, common, previous)
    assert LIBRARY.decode_event(value, previous=previous) == BOTH.decode_event(value, previous=previous)


@given(ANY_EVENT, COMMON_FIELDS, st.data())
def test_both_ways_refuse_the_same(event: Event, common: dict[str, Any], data: st.DataObject) -> None:
    value, _ = BOTH.encode_event(event, common, bytes(32))
    wrong = damaged(value, data)
    assert result(BOTH, wrong) == result(LIBRARY, wrong)


@given(ANY_COMMAND, st.data())
def test_both_ways_read_and_refuse_the_same_commands(command: AnyCommand, data: st.DataObject) -> None:
    value = LIBRARY.encode_command(command)
    assert BOTH.decode_command(value) == command
    wrong = damaged(value, data)
    assert command_in(BOTH, wrong) == command_in(LIBRARY, wrong)


@given(ANY_COMMAND, ANY_REPLY, ANY_SNAPSHOT, ANY_EVENT, COMMON_FIELDS, st.binary(min_size=32, max_size=32))
def test_both_ways_write_the_same(
    command: AnyCommand,
    reply: CommandReply,
    snapshot: AccountSnapshot,
    event: Event,
    common: dict[str, Any],
    previous: bytes,
) -> None:
    assert BOTH.encode_command(command) == LIBRARY.encode_command(command)
    assert BOTH.encode_reply(reply) == LIBRARY.encode_reply(reply)
    assert BOTH.encode_snapshot(snapshot) == LIBRARY.encode_snapshot(snapshot)
    assert BOTH.encode_event(event, common, previous) == LIBRARY.encode_event(event, common, previous)


@pytest.mark.parametrize("length", [0, 63, 64, 200, 1023, 1024])
def test_both_ways_write_texts_of_any_length(length: int) -> None:
    command = deposit(reason="ě" * (length // 2) + "e" * (length % 2), correlation_id="c" * length)
    value = BOTH.encode_command(command)
    assert value == LIBRARY.encode_command(command)
    assert BOTH.decode_command(value) == LIBRARY.decode_command(value) == command


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_minor": 2**63},
        {"amount_minor": -(2**63) - 1},
        {"amount_minor": "5"},
        {"amount_minor": None},
        {"user_id": None},
        {"user_id": 5},
        {"currency": "\ud800"},
        {"reason": 5},
        {"effective_at": "now"},
        {"reason_is_personal": None},
    ],
    ids=str,
)
def test_what_does_not_fit_its_field_is_for_the_library_to_judge(wrong: dict[str, Any]) -> None:
    command = replace(deposit(), **wrong)
    assert written(BOTH, command) == written(LIBRARY, command)


def written(writer: Codec, command: AnyCommand) -> bytes | type[Exception]:
    try:
        return writer.encode_command(command)
    except Exception as error:
        return type(error)


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**62)
@example(-(2**62) - 1)
def test_numbers_are_read_to_the_last_bit_or_left_to_the_library(value: int) -> None:
    zigzag, encoded = (value << 1) ^ (value >> 63), bytearray()
    while zigzag > 0x7F:
        encoded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    encoded.append(zigzag)
    try:
        assert quick.number(bytes(encoded), 0) == (value, len(encoded))
    except quick.Unusual:
        assert abs(value) >= 2**62


@pytest.mark.parametrize("record_type", [*EVENT_TYPES, *COMMAND_TYPES, CommandReply])
def test_every_event_command_and_reply_has_the_quick_way(record_type: type[Event | AnyCommand | CommandReply]) -> None:
    schema = json.loads(released.newest()[released.record_name(record_type)].text)
    is_event = record_type in EVENT_TYPES
    assert bodies._quick_way(schema, is_event) is not None
    fields = [field for field in schema["fields"] if field["name"] != "chain_hash"]
    assert compiled.writer({**schema, "fields": fields}, mappings=False) is not None


def test_what_is_usual_is_read_and_written_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = LIBRARY.decode_event(EVENT_BYTES)
    quickly = codec_that(monkeypatch, is_quick=True)
    assert quickly.decode_event(EVENT_BYTES) == expected
    command = deposit()
    assert quickly.decode_command(quickly.encode_command(command)) == command


def test_no_code_is_made_of_a_schema_that_is_not_released() -> None:
    ours = json.loads(released.newest()[released.record_name(Deposit)].text)
    theirs = {**ours, "fields": [*ours["fields"], {"name": "note", "type": "string", "default": ""}]}
    assert bodies.Reader(json.dumps(ours))._quick is not None
    assert bodies.Reader(json.dumps(theirs))._quick is None


def test_a_name_that_is_none_does_not_become_code() -> None:
    fields = [{"name": "a; import os", "type": "string"}]
    with pytest.raises(ValueError, match="no name of a field"):
        compiled.reader({"type": "record", "name": "Note", "fields": fields})


def test_snapshots_are_written_the_quick_way() -> None:
    assert compiled.writer(json.loads(released.newest()[AccountSnapshot.FULL_NAME].text), mappings=False) is not None
