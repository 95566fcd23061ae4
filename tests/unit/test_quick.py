"""The quick way to read events, against the library's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas import codec, quick, released
from schemas import reading as bodies
from schemas.codec import Codec, Undecodable
from schemas.events import EVENT_TYPES, Event, RecordedEvent
from tests.unit.known_records import EVENT_BYTES, REGISTRY, TOPICS
from tests.unit.strategies import ANY_EVENT, COMMON_FIELDS


def reading(monkeypatch: pytest.MonkeyPatch, *, quickly: bool) -> Codec:
    """A codec that reads one way only: the quick one, or the library's."""
    found = Codec(REGISTRY)
    if quickly:
        monkeypatch.setattr(bodies.Reader, "_read", _not_this_way)
    else:
        monkeypatch.setattr(bodies, "_quick_fields", lambda _: None)
    found.look_up_events(TOPICS.events)
    return found


def _not_this_way(*_: object) -> None:
    raise AssertionError("the library was asked")


@contextmanager
def library() -> Iterator[Codec]:
    with pytest.MonkeyPatch.context() as patch:
        yield reading(patch, quickly=False)


with library() as _made:
    LIBRARY = _made
BOTH = Codec(REGISTRY)
BOTH.look_up_events(TOPICS.events)


def result(reader: Codec, value: bytes) -> RecordedEvent | str:
    try:
        return reader.decode_event(value)
    except Undecodable as error:
        return error.reason


@given(ANY_EVENT, COMMON_FIELDS, st.binary(min_size=32, max_size=32))
def test_both_ways_read_the_same(event: Event, common: dict[str, Any], previous: bytes) -> None:
    value, _ = BOTH.encode_event(event, common, previous)
    assert LIBRARY.decode_event(value, previous=previous) == BOTH.decode_event(value, previous=previous)


@given(ANY_EVENT, COMMON_FIELDS, st.data())
def test_both_ways_refuse_the_same(event: Event, common: dict[str, Any], data: st.DataObject) -> None:
    value, _ = BOTH.encode_event(event, common, bytes(32))
    damaged = bytearray(value)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(codec.HEADER_BYTES, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "drop"])):
            case "change":
                damaged[at] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[at + 1 :]
            case "insert":
                damaged.insert(at, data.draw(st.integers(0, 255)))
            case "drop" if len(damaged) > codec.HEADER_BYTES + 1:
                del damaged[at]
    assert result(BOTH, bytes(damaged)) == result(LIBRARY, bytes(damaged))


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


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_every_kind_of_event_has_the_quick_way(event_type: type[Event]) -> None:
    schema = json.loads(released.newest()[released.record_name(event_type)].text)
    assert bodies._quick_fields(schema) is not None


def test_a_usual_event_is_read_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = LIBRARY.decode_event(EVENT_BYTES)
    assert reading(monkeypatch, quickly=True).decode_event(EVENT_BYTES) == expected
