"""Time travel without servers: events out of audit documents, states, differences, and which offsets are read."""

from __future__ import annotations

import json
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daybook.cli import main
from daybook.cli.timetravel import _change_row
from daybook.errors import DaybookError, InvalidPoint, NothingThen
from daybook.fold import fold
from daybook.log import LoggedEvent
from daybook.timetravel.documents import logged_event
from daybook.timetravel.points import UpToSequence, UpToTime, moment_of, point
from daybook.timetravel.states import Change, difference, must_have, past_account, state
from daybook.timetravel.stream import MERGED_GAP, Known
from projectors.search_documents import event_document
from schemas.events import (
    AccountCreated,
    AccountFrozen,
    Event,
    FreezeCause,
    HolderChanged,
    MoneyDeposited,
    MoneyWithdrawn,
    RecordedEvent,
)
from schemas.money import Money
from tests.histories import histories, states
from tests.recorded import START, recorded
from tests.unit.test_fold import is_state, logged


def documents(events: list[RecordedEvent]) -> list[dict[str, Any]]:
    """The audit index's documents of an account's events, as they come back from it."""
    found, balance_minor = [], 0
    for offset, item in enumerate(events):
        document = event_document(item, 0, offset, balance_minor, "EUR")
        balance_minor = document.balance_minor
        found.append(json.loads(msgspec.json.encode(document)))
    return found


@given(histories())
def test_an_audit_document_gives_its_event_back(events: list[RecordedEvent]) -> None:
    found = [logged_event(document) for document in documents(events)]
    assert found == logged(events)
    for number, expected in enumerate(states(events), 1):
        account = fold(found[:number])
        assert account is not None
        assert is_state(account, expected)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"event_type": "AccountPainted"}, KeyError),
        ({"amount_minor": None}, ValueError),
        ({"amount_minor": "7"}, ValueError),
        ({"recorded_at": "yesterday"}, ValueError),
        ({"chain_hash": "xyz"}, ValueError),
    ],
)
def test_what_is_no_audit_document_is_noticed(wrong: dict[str, Any], error: type[Exception]) -> None:
    (document,) = documents([recorded("A-1", 2, MoneyDeposited(amount_minor=7, currency="EUR", balance_minor=7))])
    logged_event(document)
    with pytest.raises(error):
        logged_event(document | wrong)


@given(st.lists(st.integers(1, 3 * MERGED_GAP), max_size=30), st.integers(1, 5))
def test_ranges_have_each_offset_once_and_little_else(steps: list[int], first: int) -> None:
    offsets, at = [], -1
    for step in steps:
        at += step
        offsets.append(at)
    found = list(Known(first, offsets, 0).ranges())
    inside = [[offset for offset in offsets if part.start <= offset < part.end] for part in found]
    assert [offset for part in inside for offset in part] == offsets
    last = first - 1
    for part, held in zip(found, inside, strict=True):
        last += len(held)
        assert (part.start, part.end, part.last) == (held[0], held[-1] + 1, last)
        assert all(later - offset <= MERGED_GAP for offset, later in pairwise(held))
    assert all(later.start - part.end >= MERGED_GAP for part, later in pairwise(found))


def test_what_is_beyond_the_end_is_left_to_be_found() -> None:
    known = Known(3, [10, 20, 30], 40)
    assert known.before(31) is known
    assert known.before(30) == Known(3, [10, 20], 0)
    assert known.before(10) == Known(1, (), 0)


@given(histories(), st.data())
def test_a_difference_is_between_its_two_states(events: list[RecordedEvent], data: st.DataObject) -> None:
    history = logged(events)
    first = data.draw(st.integers(0, len(events)))
    last = data.draw(st.integers(first, len(events)))
    found = difference(history, UpToSequence(first), UpToSequence(last))
    assert found.before == state(history, UpToSequence(first))
    assert found.after == state(history, UpToSequence(last))
    assert [item.recorded for item in found.events] == events[first:last]
    if found.before is not None and found.after is not None:
        became = {change.field: change.after for change in found.changes}
        with_each_event = {name: getattr(found.after, name) for name in ("sequence", "updated_at")}
        assert replaced(found.before, **became, **with_each_event) == found.after
        assert all(getattr(found.before, change.field) == change.before != change.after for change in found.changes)
    elif found.after is not None:
        assert {change.before for change in found.changes} == {None}
        assert {"money", "status", "opened_at", "refundable"} <= {change.field for change in found.changes}
    else:
        assert first == last == 0
        assert found.changes == []


@given(histories(), st.data())
def test_what_is_known_later_is_what_became_known(events: list[RecordedEvent], data: st.DataObject) -> None:
    """The balance in force differs by just what the events moved that became known and count."""
    history = logged(events)
    at = data.draw(st.sampled_from([item.effective_at for item in events]))
    known = data.draw(st.integers(0, len(events)))
    found = difference(history, UpToSequence(known), None, at)
    assert all(item.recorded.sequence > known and item.recorded.effective_at <= at for item in found.events)
    before = 0 if found.before is None else found.before.money.amount_minor
    after = 0 if found.after is None else found.after.money.amount_minor
    balances = [0, *(item.balance_minor for item in states(events))]
    moved = sum(balances[item.recorded.sequence] - balances[item.recorded.sequence - 1] for item in found.events)
    assert after - before == moved


def told(sequence: int, event: Event, recorded_at: int, effective_at: int | None = None) -> LoggedEvent:
    item = replace(
        recorded("A-1", sequence, event),
        recorded_at=recorded_at,
        effective_at=recorded_at if effective_at is None else effective_at,
    )
    return LoggedEvent(0, sequence, item)


MARCH = [
    told(1, AccountCreated(currency="EUR", holder_name="Ada"), START),
    told(2, MoneyDeposited(amount_minor=10_000, currency="EUR", balance_minor=10_000), START + 10),
    told(3, HolderChanged(holder_name="Ada King"), START + 30),
    # Became known at 40, and counts since 15.
    told(4, MoneyDeposited(amount_minor=500, currency="EUR", balance_minor=10_500), START + 40, START + 15),
]


def test_what_we_knew_then_against_what_we_know_now() -> None:
    found = difference(MARCH, UpToTime(START + 20), UpToTime(START + 50), START + 20)
    assert [(change.field, change.before, change.after) for change in found.changes] == [
        ("money", Money(10_000, "EUR"), Money(10_500, "EUR"))
    ]
    assert [item.recorded.sequence for item in found.events] == [4]


def test_what_changed_between_a_time_and_now() -> None:
    found = difference(MARCH, UpToTime(START + 29), None)
    assert [(change.field, change.after) for change in found.changes] == [
        ("holder_name", "Ada King"),
        ("money", Money(10_500, "EUR")),
    ]
    assert [item.recorded.sequence for item in found.events] == [3, 4]
    everything = difference(MARCH, UpToSequence(0), None)
    assert everything.before is None
    assert len(everything.events) == 4
    assert {change.before for change in everything.changes} == {None}


def test_a_point_includes_its_own_moment() -> None:
    assert [UpToTime(START + 10).includes(item.recorded) for item in MARCH] == [True, True, False, False]
    assert [UpToSequence(3).includes(item.recorded) for item in MARCH] == [True, True, True, False]
    moment = datetime(2026, 2, 10, 11, 0, 0, 7, tzinfo=UTC)
    found = point(moment)
    assert isinstance(found, UpToTime)
    assert moment_of(found.micros) == moment
    assert point(moment.astimezone(tz=None)) == found


@pytest.mark.parametrize(
    "wrong",
    [
        datetime(2026, 2, 10),
        -1,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-14))),
    ],
)
def test_points_that_cannot_be_meant(wrong: datetime | int) -> None:
    with pytest.raises(InvalidPoint):
        point(wrong)


def test_points_in_the_wrong_order() -> None:
    with pytest.raises(InvalidPoint, match="event 2 is before event 3: give the earlier one first"):
        difference(MARCH, UpToSequence(3), UpToSequence(2))
    with pytest.raises(InvalidPoint, match="give the earlier one first"):
        difference(MARCH, UpToSequence(3), UpToTime(START + 10))


def test_a_balance_in_force_that_no_balance_can_be() -> None:
    most = 2**63 - 1
    events = [
        told(1, AccountCreated(currency="EUR", holder_name="Ada"), START),
        told(2, MoneyDeposited(amount_minor=most, currency="EUR", balance_minor=most), START + 10),
        told(3, MoneyWithdrawn(amount_minor=1, currency="EUR", balance_minor=most - 1), START + 30),
        told(4, MoneyDeposited(amount_minor=1, currency="EUR", balance_minor=most), START + 40, START + 10),
    ]
    found = state(events, None, START + 30)
    assert found is not None
    assert found.money == Money(most, "EUR")
    with pytest.raises(DaybookError, match=r"account A-1 by then comes to 92233720368547758.08 EUR, which is more"):
        state(events, None, START + 20)


def test_an_event_that_is_not_there_yet() -> None:
    must_have("A-1", 4, UpToSequence(4), "the log")
    with pytest.raises(NothingThen, match="A-1 has 1 event in the log, and no event 2 yet"):
        must_have("A-1", 1, UpToSequence(2), "the log")


def test_withdrawals_with_nothing_left_are_not_refundable() -> None:
    account = fold(MARCH)
    assert account is not None
    found = past_account(account)
    assert found.refundable == {}
    assert found.updated_at == moment_of(START) + timedelta(microseconds=40)


def test_withdrawals_that_did_not_change_are_not_shown_as_a_change() -> None:
    before = {number: Money(100, "EUR") for number in range(2, 50)}
    after = {**before, 7: Money(40, "EUR")}
    del after[9]
    row = _change_row(Change("refundable", before, after))
    assert row == ("refundable", "1.00 EUR of 7, 1.00 EUR of 9", "0.40 EUR of 7")
    assert _change_row(Change("refundable", {3: Money(1, "EUR")}, {}))[1:] == ("0.01 EUR of 3", "nothing")
    opened_row = _change_row(Change("refundable", None, before))
    assert opened_row[1] == "none"
    assert opened_row[2].startswith("38 older ones, 1.00 EUR of 40, ")


def test_a_cause_that_was_not_said_comes_back_so() -> None:
    for cause in FreezeCause:
        (document,) = documents([recorded("A-1", 1, AccountFrozen(cause=cause))])
        assert logged_event(document).recorded.event == AccountFrozen(cause=cause)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("as-of", "A-1", "--sequence", "3", "--at", "2026-01-31"), "--sequence and --at"),
        (("as-of", "A-1", "--at", "noon"), "is not a moment"),
        (("as-of", "A-1", "--sequence", "-1"), "--sequence"),
        (("diff", "A-1"), "--from"),
        (("diff", "A-1", "--from", "x"), "--from"),
        (("diff", "A-1", "--from", "1", "--to", "y"), "--to"),
        (("balances", "--at", "noon"), "--at"),
        (("balances", "--currency", "EURO"), "is not a currency"),
        (("history", "A-1", "--scan"), "--from-log"),
        (("history", "A-1", "--from-log", "--at-least", "3"), "--at-least"),
    ],
)
def test_wrong_usage_is_said(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
