"""One command's way, without servers: what is collected for the transaction, and what an abort leaves behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import Message

from command_service import deciding
from command_service.accounts import Overlay, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.handler import Handler
from command_service.records import Outgoing
from command_service.spill import SpillFailed
from schemas.codec import Codec
from schemas.commands import AnyCommand
from schemas.topics import Topics, parked_key, partition_of
from tests.unit.known_records import PACKING, codec_of, no_keys
from tests.unit.memory_registry import MemoryRegistry
from tests.wire import deposit, opening, withdrawal

PARTITIONS = 4
TOPICS = Topics()
NOW = 1_800_000_000_000_000
HOME = partition_of("A-1", PARTITIONS)


@pytest.fixture
def codec() -> Codec:
    return codec_of(MemoryRegistry.deployed(TOPICS))


@pytest.fixture
def handler(codec: Codec) -> Handler:
    return Handler(codec, TOPICS, PARTITIONS, max_command_bytes=2_000)


@pytest.fixture
def state() -> PartitionState:
    return PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())


def record(codec: Codec, command: AnyCommand, partition: int = HOME) -> Message:
    value = codec.encode_command(command)
    return Message(topic=TOPICS.commands, partition=partition, offset=7, key=b"A-1", value=value)


def sent_to(outcomes: Outcomes, topic: str) -> list[Outgoing]:
    return [outgoing for outgoing in outcomes.outgoing if outgoing.topic == topic]


def test_a_command_is_not_parked_because_the_disk_failed(
    codec: Codec, handler: Handler, state: PartitionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise SpillFailed("the disk is full")

    overlay, outcomes = Overlay(state, HOME), Outcomes()
    # Where the account lives was found out before.
    monkeypatch.setattr(handler, "_decider", SimpleNamespace(decide=failing))
    with pytest.raises(SpillFailed):
        handler.handle(record(codec, deposit("A-1", 5)), overlay, NOW, outcomes)
    assert outcomes.outgoing == []


def test_a_batch_that_is_decided_again_after_an_abort_leads_to_the_same_events_but_for_the_time(
    codec: Codec, handler: Handler, state: PartitionState
) -> None:
    batch = [record(codec, command) for command in (opening("A-1"), deposit("A-1", 5), withdrawal("A-1", 3))]
    attempts = []
    for now in (NOW, NOW + 1):
        overlay, outcomes = Overlay(state, HOME), Outcomes()
        for one in batch:
            handler.handle(one, overlay, now, outcomes)
        attempts.append((overlay, outcomes))

    assert state.count == 0, "an overlay that is not committed changes nothing"
    first, second = (
        [codec.decode_event(o.value) for o in sent_to(outcomes, TOPICS.events)] for _, outcomes in attempts
    )
    # Their names are sealed anew each time.
    assert [e.event for e in first[1:]] == [e.event for e in second[1:]]
    assert [e.command_id for e in first] == [e.command_id for e in second]

    attempts[1][0].commit(NOW)

    assert (held := state.get("A-1")) is not None
    assert held.account.balance_minor == 2
    assert len(state.answers) == 3


def test_time_does_not_run_backwards_within_an_account(codec: Codec, handler: Handler, state: PartitionState) -> None:
    overlay, outcomes = Overlay(state, HOME), Outcomes()
    handler.handle(record(codec, opening("A-1")), overlay, NOW, outcomes)
    handler.handle(record(codec, deposit("A-1", 5)), overlay, NOW - 60_000_000, outcomes)

    recorded = [codec.decode_event(o.value).recorded_at for o in sent_to(outcomes, TOPICS.events)]
    assert recorded == [NOW, NOW]


def test_an_account_that_lives_elsewhere_is_forwarded_and_not_decided(
    codec: Codec, handler: Handler, state: PartitionState
) -> None:
    away = (HOME + 1) % PARTITIONS
    overlay, outcomes = Overlay(state, away), Outcomes()
    stray = record(codec, opening("A-1"), partition=away)

    handler.handle(stray, overlay, NOW, outcomes)

    (forwarded,) = outcomes.outgoing
    assert (forwarded.topic, forwarded.partition, forwarded.value) == (TOPICS.commands, HOME, stray.value())
    assert (outcomes.forwarded, overlay.entry("A-1")) == (1, None)


def test_a_record_that_makes_us_fail_is_parked_whole_and_changes_nothing(
    codec: Codec, handler: Handler, state: PartitionState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours, planted: the record is its witness, and the next command is decided."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("planted")

    overlay, outcomes = Overlay(state, HOME), Outcomes()
    poison = record(codec, opening("A-1"))
    with monkeypatch.context() as patched:
        patched.setattr(deciding, "decide", fail)
        handler.handle(poison, overlay, NOW, outcomes)
    (parked,) = outcomes.outgoing
    assert (parked.topic, parked.value) == (TOPICS.parked, poison.value())
    assert parked.key == parked_key(TOPICS.commands, HOME, 7)
    assert dict(parked.headers or [])["parked-key"] == poison.key()
    assert dict(parked.headers or [])["parked-reason"] == b"undecidable"
    assert b"planted" in dict(parked.headers or [])["parked-detail"]
    assert overlay.entry("A-1") is None

    handler.handle(record(codec, opening("A-1")), overlay, NOW, outcomes)

    assert outcomes.answered == {("accepted", ""): 1}


def test_what_comes_from_one_place_is_parked_under_one_key_whatever_key_its_sender_chose(
    handler: Handler, state: PartitionState
) -> None:
    """As after the group's offsets were set back. Where it is parked is chosen by that key alone."""
    keys = []
    for key in (b"A-1", None, parked_key(TOPICS.commands, HOME, 8)):
        outcomes = Outcomes()
        poison = Message(topic=TOPICS.commands, partition=HOME, offset=7, key=key, value=b"not avro")
        handler.handle(poison, Overlay(state, HOME), NOW, outcomes)
        (kept,) = outcomes.outgoing
        keys.append((kept.partition, kept.key))
    assert keys == [(-1, parked_key(TOPICS.commands, HOME, 7))] * 3


def test_a_record_without_a_value_is_parked_with_one_since_it_would_be_a_tombstone(
    handler: Handler, state: PartitionState
) -> None:
    outcomes = Outcomes()
    empty = Message(topic=TOPICS.commands, partition=HOME, offset=7, key=b"A-1")
    handler.handle(empty, Overlay(state, HOME), NOW, outcomes)
    (kept,) = outcomes.outgoing
    assert kept.value == b""
    assert "parked-value" in dict(kept.headers or [])
