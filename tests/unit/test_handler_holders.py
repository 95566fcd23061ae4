"""What becomes of a holder's key, and of what a command says of the holder, without servers."""

from __future__ import annotations

from typing import Final

import pytest
from confluent_kafka import Message

from command_service.accounts import Entry, Overlay, PartitionState
from command_service.answers import Answers
from command_service.domain.account import evolve
from command_service.handler import Handler, Outcomes
from schemas.commands import AnyCommand, ChangeHolder, EraseHolder
from schemas.events import CHAIN_START, AccountCreated
from schemas.sealing import ERASED, PREFIX
from schemas.topics import partition_of
from tests.unit.known_records import CODEC, PACKING, TOPICS, no_keys
from tests.wire import deposit, make, opening

PARTITIONS: Final = 4
HOME: Final = partition_of("A-1", PARTITIONS)
NOW: Final = 1_800_000_000_000_000
JUNK: Final = f"{PREFIX}junk"


@pytest.fixture
def state() -> PartitionState:
    return PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())


def decided(state: PartitionState, *commands: AnyCommand) -> Outcomes:
    """What a transaction with these commands leads to, once it is committed."""
    handler = Handler(CODEC, TOPICS, PARTITIONS, max_command_bytes=2_000)
    overlay, outcomes = Overlay(state), Outcomes()
    for command in commands:
        value = CODEC.encode_command(command)
        handler.handle(Message(TOPICS.commands, HOME, 7, b"A-1", value), overlay, NOW, outcomes)
    overlay.commit(NOW)
    return outcomes


def reasons(outcomes: Outcomes) -> list[str]:
    events = [CODEC.decode_event(o.value) for o in outcomes.outgoing if o.topic == TOPICS.events]
    return [event.reason or "" for event in events]


def keys_written(outcomes: Outcomes) -> list[bytes | None]:
    return [o.value for o in outcomes.outgoing if o.topic == TOPICS.subject_keys]


def test_a_reason_that_only_looks_sealed_can_be_read_of_a_holder_from_before_sealing(state: PartitionState) -> None:
    created = AccountCreated(currency="EUR", holder_name="Ada", holder_email=None, overdraft_limit_minor=0)
    state.put("A-1", Entry(evolve(None, created), CHAIN_START, NOW))

    (reason,) = reasons(decided(state, deposit("A-1", 5, reason=JUNK)))
    decided(state, make(ChangeHolder, "A-1", holder_name="Bob"))

    assert state.keys.sealer.open(reason, "A-1", "reason") == JUNK


def test_a_reason_that_only_looks_sealed_gives_an_erased_holder_no_new_key(state: PartitionState) -> None:
    decided(state, opening("A-1"), make(EraseHolder, "A-1"))

    after = decided(state, deposit("A-1", 5, reason=JUNK))

    assert keys_written(after) == []
    assert not state.keys.has("A-1")
    assert state.keys.sealer.open(reasons(after)[0], "A-1", "reason") is ERASED


def test_a_key_that_is_back_after_an_erasure_is_erased_again(state: PartitionState) -> None:
    """As when the topic of keys was restored from a backup that is older than that of the events."""
    (key, tombstone) = keys_written(decided(state, opening("A-1"), make(EraseHolder, "A-1")))
    assert tombstone is None
    assert keys_written(decided(state, make(EraseHolder, "A-1"))) == []
    state.keys.take(b"A-1", key, 0)

    again = decided(state, make(EraseHolder, "A-1"))

    assert keys_written(again) == [None]
    assert reasons(again) == []
    assert not state.keys.has("A-1")
