"""What the runner makes of messages before a projector sees them."""

from __future__ import annotations

import pytest
from confluent_kafka import Message
from msgspec.structs import asdict

from projectors.projector import CannotProject
from projectors.records import read
from schemas.codec import Codec
from schemas.events import CHAIN_START, RecordedEvent
from schemas.registry import RegistryUnavailable
from schemas.topics import Topics, event_key
from tests.recorded import deposited, opened
from tests.unit.memory_registry import MemoryRegistry

TOPIC = Topics().events
EVENTS = [opened("A-1"), deposited("A-1", 2, 5), deposited("A-1", 3, 9)]


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry.deployed(Topics())


@pytest.fixture
def codec(registry: MemoryRegistry) -> Codec:
    codec = Codec(registry)
    codec.look_up_events(TOPIC)
    return codec


def message(codec: Codec, event: RecordedEvent, offset: int) -> Message:
    common = {name: value for name, value in asdict(event).items() if name not in ("event", "chain_hash")}
    value, _ = codec.encode_event(event.event, common, CHAIN_START)
    return raw(value, event_key(event.account_id, event.sequence), offset)


def raw(value: bytes | None, key: bytes, offset: int) -> Message:
    return Message(topic=TOPIC, partition=2, offset=offset, key=key, value=value)


def test_messages_become_a_batch_on_the_sinks_checkpoint(codec: Codec) -> None:
    # Offset 12 is a transaction's marker: it holds no event, and the next offset is behind what was read.
    messages = [message(codec, event, offset) for event, offset in zip(EVENTS, (10, 11, 13), strict=True)]
    batch, failure = read(messages, 2, 10, codec)
    assert failure is None
    assert batch is not None
    assert (batch.partition, batch.base, batch.next_offset) == (2, 10, 14)
    assert list(batch.offsets) == [10, 11, 13]
    assert [(event.sequence, event.event) for event in batch.events] == [(e.sequence, e.event) for e in EVENTS]


@pytest.mark.parametrize("value", [None, b"", b"{}", b"\x00\x00\x00\x00\x01"])
def test_what_comes_before_an_unreadable_record_is_kept_and_the_record_is_named(
    codec: Codec, value: bytes | None
) -> None:
    messages = [message(codec, EVENTS[0], 10), raw(value, b"A-1/2", 11), message(codec, EVENTS[2], 12)]
    batch, failure = read(messages, 2, 10, codec)
    assert batch is not None
    assert (len(batch.events), batch.next_offset) == (1, 11)
    assert isinstance(failure, CannotProject)
    assert f"the record at {TOPIC}, partition 2, offset 11, key b'A-1/2' is not an event" in str(failure)


def test_an_unreadable_record_at_the_front_leaves_no_batch(codec: Codec) -> None:
    batch, failure = read([raw(b"?", b"A-1/1", 10), message(codec, EVENTS[0], 11)], 2, 10, codec)
    assert batch is None
    assert isinstance(failure, CannotProject)


def test_a_registry_that_is_down_is_not_the_records_fault(codec: Codec, registry: MemoryRegistry) -> None:
    messages = [message(codec, event, offset) for offset, event in enumerate(EVENTS)]
    registry.down = True
    reader = Codec(registry)
    batch, failure = read(messages, 2, None, reader)
    assert batch is None
    assert isinstance(failure, RegistryUnavailable)
    registry.down = False
    batch, failure = read(messages, 2, None, reader)
    assert failure is None
    assert batch is not None
    assert batch.next_offset == 3
