"""How a batch is collapsed before it goes to Redis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.balances import Change, collapse, cut
from projectors.projector import Batch, CannotProject
from schemas.events import AccountFrozen, AccountUnfrozen, HolderChanged, RecordedEvent
from tests.recorded import START, batch, deposited, logs, opened, plain_fold, recorded


def test_an_account_is_written_once_with_the_newest_of_each_field() -> None:
    events = [
        opened("A-1", "JPY"),
        deposited("A-1", 2, 500),
        recorded("A-1", 3, AccountFrozen()),
        recorded("A-1", 4, HolderChanged(holder_name="Grace")),
    ]
    assert collapse(batch(events, base=None)) == {
        "A-1": Change(1, 4, START + 4_000_000, {"balance_minor": 500, "currency": "JPY", "status": "frozen"})
    }


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


def test_a_part_ends_where_one_account_too_many_begins() -> None:
    events = [opened("A-1"), opened("A-2"), deposited("A-1", 2, 5), opened("A-3"), opened("A-4"), opened("A-5")]
    # Between the offsets of the events are those of transactions' ends.
    whole = Batch(3, 10, events, (10, 11, 13, 15, 16, 18), 19)
    assert list(cut(whole, accounts=2)) == [
        Batch(3, 10, events[:3], (10, 11, 13), 14),
        Batch(3, 14, events[3:5], (15, 16), 17),
        Batch(3, 17, events[5:], (18,), 19),
    ]


def test_a_batch_without_events_is_one_part() -> None:
    assert list(cut(Batch(3, 10, (), (), 12), accounts=2)) == [Batch(3, 10, (), (), 12)]


@given(logs(), st.integers(1, 4))
def test_the_parts_follow_each_other_and_are_the_whole(log: list[RecordedEvent], accounts: int) -> None:
    whole = batch(log, base=7)
    parts = list(cut(whole, accounts))
    assert [event for part in parts for event in part.events] == log
    assert [offset for part in parts for offset in part.offsets] == list(whole.offsets)
    assert [part.base for part in parts] == [7, *(part.next_offset for part in parts[:-1])]
    assert parts[-1].next_offset == whole.next_offset
    assert all(len({event.account_id for event in part.events}) <= accounts for part in parts)


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
