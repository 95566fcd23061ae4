"""How a batch is collapsed before it goes to Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.balances import Change, collapse
from projectors.projector import CannotProject
from schemas.events import AccountFrozen, AccountUnfrozen, HolderChanged, RecordedEvent
from tests.recorded import (
    START,
    batch,
    completed,
    deposited,
    logs,
    opened,
    plain_fold,
    received,
    recorded,
    returned,
    sent,
)


def test_an_account_is_written_once_with_the_newest_of_each_field() -> None:
    events = [
        opened("A-1", "JPY"),
        deposited("A-1", 2, 500),
        recorded("A-1", 3, AccountFrozen()),
        recorded("A-1", 4, HolderChanged(holder_name="Grace")),
    ]
    assert collapse(batch(events, base=None)) == {
        "A-1": Change(
            1,
            4,
            START + 4_000_000,
            {"balance_minor": 500, "in_transit_minor": 0, "currency": "JPY", "status": "frozen"},
        )
    }


def test_what_is_sent_is_in_transit_until_it_is_settled() -> None:
    events = [
        sent("A-1", 7, 1, amount=30, balance=70, in_transit=30),
        sent("A-1", 8, 2, amount=20, balance=50, in_transit=50),
        completed("A-1", 9, 1, amount=30, in_transit=20),
        returned("A-1", 10, 2, amount=20, balance=70, in_transit=0),
    ]
    expected = [(70, 30), (50, 50), (50, 20), (70, 0)]
    for end, (balance, in_transit) in enumerate(expected, 1):
        change = collapse(batch(events[:end], base=3))["A-1"]
        assert change.fields == {"balance_minor": balance, "in_transit_minor": in_transit}
    change = collapse(batch([received("B-1", 4, 1, amount=30, balance=90)], base=3))["B-1"]
    assert change.fields == {"balance_minor": 90}


def test_what_a_batch_does_not_say_is_left_alone() -> None:
    events = [recorded("A-1", 7, AccountFrozen()), recorded("A-1", 8, AccountUnfrozen())]
    assert collapse(batch(events, base=70)) == {"A-1": Change(7, 8, START + 8_000_000, {"status": "active"})}


def test_accounts_are_kept_apart() -> None:
    changes = collapse(batch([deposited("A-1", 5, 1), deposited("A-2", 9, 2), deposited("A-1", 6, 3)], base=11))
    assert {account: (change.first, change.newest) for account, change in changes.items()} == {
        "A-1": (5, 6),
        "A-2": (9, 9),
    }


def test_an_event_that_comes_again_changes_nothing() -> None:
    events = [deposited("A-1", 5, 1), deposited("A-1", 6, 2)]
    assert collapse(batch([*events, *events], base=3)) == collapse(batch(events, base=3))


def test_a_gap_stops_it_and_is_named() -> None:
    with pytest.raises(CannotProject, match=r"account A-1: event 7 follows event 5 .*partition 3, offsets 20 to 21"):
        collapse(batch([deposited("A-1", 5, 1), deposited("A-1", 7, 2)], base=20, partition=3))


@given(logs())
def test_a_whole_log_as_one_batch_is_the_plain_fold(log: list[RecordedEvent]) -> None:
    collapsed = {
        account_id: {name: str(value) for name, value in change.fields.items()}
        | {"sequence": str(change.newest), "updated_at": str(change.updated_at)}
        for account_id, change in collapse(batch(log, base=None)).items()
    }
    assert collapsed == plain_fold(log)


@given(logs(), st.data())
def test_collapsing_in_two_batches_or_in_one_is_the_same(log: list[RecordedEvent], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(log)))
    whole = collapse(batch(log, base=0))
    first, second = collapse(batch(log[:cut], base=0)), collapse(batch(log[cut:], base=cut))
    for account_id, change in whole.items():
        parts = [part[account_id].fields for part in (first, second) if account_id in part]
        merged = {name: value for part in parts for name, value in part.items()}
        assert merged == change.fields
