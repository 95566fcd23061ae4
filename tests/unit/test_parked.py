"""A parked record as it came, told from what the command service noted with it, and where it belongs."""

from __future__ import annotations

import pytest
from confluent_kafka import Message

from command_service import deciding
from command_service.accounts import Overlay, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.handler import Handler
from command_service.records import Headers
from daybook.parked import Parked, belongs_on
from daybook.parked import parked as as_it_came
from schemas.commands import AnyCommand
from schemas.keys import LATER_KEY
from schemas.topics import Topics
from tests.unit.given import NOW, complete, deposit, give_back, receive
from tests.unit.known_records import PACKING, codec_of, no_keys
from tests.unit.memory_registry import MemoryRegistry

TOPICS = Topics("eu")
CODEC = codec_of(MemoryRegistry.deployed(Topics()))


def parked(topic: str, value: bytes | None, *, key: bytes | None = b"acc-1", headers: Headers | None = None) -> Parked:
    """What becomes of a record that the service cannot decide."""
    state = PartitionState(Answers(capacity=10, window=3_600_000_000), PACKING, no_keys())
    outcomes = Outcomes()
    record = Message(topic=topic, partition=0, offset=7, key=key, value=value, headers=headers or [])
    Handler(CODEC, TOPICS, 1, max_command_bytes=1024).handle(record, Overlay(state, 0), NOW, outcomes)
    (kept,) = outcomes.outgoing
    assert kept.topic == TOPICS.parked
    found = as_it_came(standing(kept.key, kept.value, kept.headers))
    assert found is not None
    return found


def standing(key: bytes | None, value: bytes | None, headers: Headers | None = None) -> Message:
    """A record of the topic."""
    return Message(
        topic=TOPICS.parked, partition=3, offset=4, key=key, value=value, headers=headers, timestamp=(1, NOW // 1000)
    )


@pytest.mark.parametrize("key", [b"acc-1", b"", None, b"\xff not UTF-8", b"eu.account.commands/0/7"])
@pytest.mark.parametrize("value", [b"not avro", b"", None])
def test_key_and_value_are_as_they_came(key: bytes | None, value: bytes | None) -> None:
    record = parked(TOPICS.commands, value, key=key)
    assert (record.key, record.value, record.came_from) == (key, value, "eu.account.commands/0/7")
    assert (record.partition, record.offset, record.reason) == (3, 4, "undecodable")


def test_a_sender_cannot_say_what_the_key_and_the_value_were() -> None:
    forged: Headers = [("parked-key", b"acc-2"), ("parked-value", b"none"), ("parked-offset", b"8")]
    record = parked(TOPICS.commands, b"not avro", key=None, headers=forged)
    assert (record.key, record.value, record.came_from) == (None, b"not avro", "eu.account.commands/0/7")


@pytest.mark.parametrize("key", [b"acc-1", None])
def test_a_record_of_an_earlier_release_stands_under_its_own_key(key: bytes | None) -> None:
    noted: Headers = [
        ("parked-reason", b"undecodable"),
        ("parked-detail", b"the value is not in the wire format"),
        ("parked-topic", b"eu.account.commands"),
        ("parked-partition", b"0"),
        ("parked-offset", b"7"),
        ("parked-timestamp-ms", b"1750000000000"),
    ]
    for value in (b"not avro", None):
        record = as_it_came(standing(key, value, noted))
        assert record is not None
        assert (record.key, record.value, record.came_from) == (key, value, "eu.account.commands/0/7")


@pytest.mark.parametrize("key", [b"eu.account.commands/0/7", b"acc-1", LATER_KEY])
def test_a_tombstone_is_no_parked_record(key: bytes) -> None:
    assert as_it_came(standing(key, None)) is None


@pytest.mark.parametrize("command", [receive(), complete(), give_back()], ids=lambda c: type(c).__name__)
def test_a_follow_up_goes_back_to_the_follow_ups(command: AnyCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(deciding, "decide_follow_up", fail)
    record = parked(TOPICS.followups, CODEC.encode_command(command))
    assert (record.reason, record.came_from) == ("undecidable", "eu.account.followups/0/7")
    assert belongs_on(TOPICS, record) == TOPICS.followups


def test_a_follow_up_of_a_schema_that_was_unknown_goes_back_to_the_follow_ups() -> None:
    record = parked(TOPICS.followups, b"\0\0\0\3\xe7x")
    assert record.reason == "unknown_schema"
    assert belongs_on(TOPICS, record) == TOPICS.followups


def test_a_clients_command_that_came_among_them_goes_where_it_belongs() -> None:
    record = parked(TOPICS.followups, CODEC.encode_command(deposit()))
    assert record.reason == "not_a_follow_up"
    assert belongs_on(TOPICS, record) == TOPICS.commands


@pytest.mark.parametrize("value", [b"not avro", b"\0" * 2000], ids=["undecodable", "oversize"])
def test_what_came_among_the_commands_goes_back_there(value: bytes) -> None:
    assert belongs_on(TOPICS, parked(TOPICS.commands, value)) == TOPICS.commands


def test_a_sender_cannot_say_that_it_came_from_the_follow_ups() -> None:
    forged: Headers = [("parked-topic", TOPICS.followups.encode()), ("parked-reason", b"undecidable")]
    record = parked(TOPICS.commands, b"not avro", headers=forged)
    assert (record.reason, record.came_from) == ("undecodable", "eu.account.commands/0/7")
    assert belongs_on(TOPICS, record) == TOPICS.commands


def test_follow_ups_of_another_ledger_are_none_here() -> None:
    record = parked(TOPICS.followups, b"not avro")
    assert belongs_on(Topics("us"), record) == "us.account.commands"
