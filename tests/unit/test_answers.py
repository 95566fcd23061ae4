"""The memory of command ids: bounded in number and time, and what counts as the same command."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from command_service.answers import Answer, Answers, command_key, fingerprint
from schemas.commands import AnyCommand, Deposit, Transfer, Withdraw
from schemas.topics import FOLLOW_UP_FINGERPRINT
from tests.unit.strategies import ANY_COMMAND

HOUR = 3_600_000_000


def answer(decided_at: int, reply: bytes = b"reply") -> Answer:
    return Answer(reply, b"12345678", decided_at)


def test_the_first_answer_is_the_one_that_counts() -> None:
    answers = Answers(capacity=10, window=HOUR)
    answers.remember(b"a", answer(1, b"first"))
    answers.remember(b"a", answer(2, b"second"))
    assert answers.get(b"a") == answer(1, b"first")


def test_what_is_older_than_the_window_is_forgotten() -> None:
    answers = Answers(capacity=10, window=HOUR)
    for hour in range(4):
        answers.remember(bytes([hour]), answer(hour * HOUR))
    assert answers.forget_old(now=int(2.5 * HOUR)) == 0
    assert [answers.get(bytes([hour])) is None for hour in range(4)] == [True, True, False, False]


def test_beyond_the_capacity_the_oldest_are_forgotten_and_counted() -> None:
    answers = Answers(capacity=3, window=HOUR)
    for number in range(5):
        answers.remember(bytes([number]), answer(number))
    assert answers.forget_old(now=5) == 2
    assert len(answers) == 3
    assert answers.get(bytes([1])) is None
    assert answers.get(bytes([2])) is not None


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 10), st.integers(1, 10), st.integers(0, 40))
def test_it_keeps_the_newest_that_are_young_enough(ages: list[int], capacity: int, window: int, now: int) -> None:
    answers = Answers(capacity, window)
    times = sorted(ages)
    for number, decided_at in enumerate(times):
        answers.remember(bytes([number]), answer(decided_at))
    answers.forget_old(now)
    young = [number for number, decided_at in enumerate(times) if decided_at >= now - window]
    assert [n for n in range(len(times)) if answers.get(bytes([n])) is not None] == young[-capacity:]


@given(ANY_COMMAND)
def test_stamping_or_tracing_a_command_anew_does_not_change_what_it_asks(command: AnyCommand) -> None:
    again = replace(command, command_id=str(uuid.uuid4()), issued_at=command.issued_at - 1, correlation_id="trace")
    assert fingerprint(again) == fingerprint(command)


@settings(max_examples=300)
@given(ANY_COMMAND, ANY_COMMAND)
def test_commands_that_ask_for_different_things_differ(one: AnyCommand, other: AnyCommand) -> None:
    passing = {"command_id", "issued_at", "correlation_id"}
    asked = [
        {f.name: getattr(command, f.name) for f in fields(type(command)) if f.name not in passing}
        for command in (one, other)
    ]
    same = type(one) is type(other) and asked[0] == asked[1]
    assert (fingerprint(one) == fingerprint(other)) is same


def test_a_fingerprint_is_the_same_in_every_release() -> None:
    """Those of the last day are on the log when a new release starts."""
    common = {
        "command_id": "00000000-0000-4000-8000-000000000000",
        "account_id": "A-1",
        "user_id": "zoë",
        "issued_at": 1,
        "amount_minor": 100,
        "currency": "EUR",
    }
    assert fingerprint(Deposit(**common)).hex() == "f390eae7038b5cdd"
    assert fingerprint(Withdraw(**common, reason="rent")).hex() == "acbee476e85d7e50"
    transfer = Transfer(**common, transfer_id="00000000-0000-4000-8000-000000000001", to_account_id="B-2")
    assert fingerprint(transfer).hex() == "d09c55326d8827fa"


@pytest.mark.parametrize("text", ["ABCDEF00-0000-4000-8000-000000000001", "abcdef00-0000-4000-8000-000000000001"])
def test_a_commands_key_is_its_uuid_in_either_case(text: str) -> None:
    assert command_key(text, b"") == uuid.UUID(text).bytes


def test_a_follow_up_is_remembered_apart_from_a_clients_command_of_the_same_id() -> None:
    command_id = "abcdef00-0000-4000-8000-000000000001"
    assert command_key(command_id, FOLLOW_UP_FINGERPRINT) != command_key(command_id, b"12345678")
    assert command_key(command_id.upper(), FOLLOW_UP_FINGERPRINT) == command_key(command_id, FOLLOW_UP_FINGERPRINT)
