"""What events make of an account, against what the domain makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from command_service.domain import account as domain
from command_service.domain.withdrawals import Withdrawals
from daybook.errors import UnreadableRecord
from daybook.fold import REMEMBERED, Account, Fold, evolve, fold, in_force, moved, moved_in_transit
from daybook.log import LoggedEvent
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    RecordedEvent,
)
from tests.histories import histories, states
from tests.recorded import opened, recorded


def logged(events: Sequence[RecordedEvent]) -> list[LoggedEvent]:
    return [LoggedEvent(0, offset, event) for offset, event in enumerate(events)]


def is_state(account: Account, state: domain.Account) -> bool:
    """Whether the account has the whole of the domain's state."""
    remembered = {
        number: left
        for number in range(1, state.sequence + 1)
        if (left := state.withdrawals.refundable(number)) is not None
    }
    return (
        account.sequence,
        account.currency,
        account.balance_minor,
        account.in_transit_minor,
        account.overdraft_limit_minor,
        account.status,
        account.holder_name,
        account.holder_email,
        account.refundable(),
        account.forgotten,
    ) == (
        state.sequence,
        state.currency,
        state.balance_minor,
        state.in_transit_minor,
        state.overdraft_limit_minor,
        state.status.value,
        state.holder_name,
        state.holder_email,
        remembered,
        state.withdrawals.forgotten,
    )


@given(histories())
def test_each_first_part_of_a_history_makes_the_state_of_the_domain(events: list[RecordedEvent]) -> None:
    account: Account | None = None
    for item, state in zip(logged(events), states(events), strict=True):
        before, in_transit = (0, 0) if account is None else (account.balance_minor, account.in_transit_minor)
        account = evolve(account, item)
        assert is_state(account, state)
        assert account.in_transit_minor == in_transit + moved_in_transit(item.recorded.event)
        assert account.balance_before_minor == before == state.balance_minor - moved(item.recorded.event)
        assert (account.opened_at, account.updated_at) == (events[0].recorded_at, item.recorded.recorded_at)
        closed = state.status is domain.Status.CLOSED
        assert (account.closed_at is not None) == closed


def test_only_the_newest_withdrawals_are_remembered() -> None:
    assert REMEMBERED == Withdrawals.REMEMBERED
    events: list[Event] = [
        AccountCreated(currency="EUR", holder_name="Ada"),
        MoneyDeposited(amount_minor=10_000, currency="EUR", balance_minor=10_000),
    ]
    balance = 10_000
    for _ in range(REMEMBERED + 3):
        balance -= 3
        events.append(MoneyWithdrawn(amount_minor=3, currency="EUR", balance_minor=balance))
    # Of one that is forgotten, of the oldest that is not, and of the newest.
    for number in (4, 6, len(events)):
        balance += 2
        events.append(MoneyRefunded(amount_minor=2, currency="EUR", balance_minor=balance, withdrawal_sequence=number))
    history = [recorded("A-1", sequence, event) for sequence, event in enumerate(events, 1)]
    account = fold(logged(history))
    assert account is not None
    assert is_state(account, states(history)[-1])
    assert (account.forgotten, account.refundable()[6], len(account.refundable())) == (5, 1, REMEMBERED)


@given(histories())
def test_a_fold_of_the_log_leaves_out_only_what_can_be_refunded(events: list[RecordedEvent]) -> None:
    found, account = Fold(), None
    for item in logged(events):
        account = evolve(account, item)
        assert found.apply(item) == replace(account, withdrawals=b"")
    assert found.accounts == {"A-1": replace(account, withdrawals=b"")}
    assert found.events == len(events)


@pytest.mark.parametrize("events", [[2], [1, 1], [1, 3]])
def test_an_account_with_a_missing_event_is_refused(events: list[int]) -> None:
    made = [opened("A-1") if number == 1 else recorded("A-1", number, AccountFrozen()) for number in events]
    with pytest.raises(UnreadableRecord, match=r"event \d of account A-1"):
        fold(logged(made))


@given(histories(back_dated=False))
def test_what_is_not_back_dated_was_in_force_when_recorded(events: list[RecordedEvent]) -> None:
    history = logged(events)
    for item in history:
        at = item.recorded.recorded_at
        known = [other for other in history if other.recorded.recorded_at <= at]
        assert in_force(history, at) == fold(known)


@given(histories(), st.data())
def test_the_balance_in_force_is_what_was_moved_by_then(events: list[RecordedEvent], data: st.DataObject) -> None:
    history = logged(events)
    at = data.draw(st.sampled_from(sorted({item.effective_at for item in events})))
    counting = [item for item in events if item.effective_at <= at]
    account = in_force(history, at)
    assert account is not None
    assert account.balance_minor == sum(moved(item.event) for item in counting)
    assert account.in_transit_minor == sum(moved_in_transit(item.event) for item in counting)
    assert account.sequence == counting[-1].sequence
    left = {item.sequence: item.event.amount_minor for item in counting if isinstance(item.event, MoneyWithdrawn)}
    for item in counting:
        if isinstance(item.event, MoneyRefunded) and item.event.withdrawal_sequence in left:
            left[item.event.withdrawal_sequence] -= item.event.amount_minor
    assert account.refundable() == left
    assert in_force(history, min(item.effective_at for item in events) - 1) is None


@given(histories())
def test_all_that_counts_comes_to_the_same_money_as_recorded(events: list[RecordedEvent]) -> None:
    history = logged(events)
    now, then = in_force(history, events[-1].recorded_at), fold(history)
    assert now is not None
    assert then is not None
    assert (now.balance_minor, now.in_transit_minor, now.refundable(), now.sequence) == (
        then.balance_minor,
        then.in_transit_minor,
        then.refundable(),
        then.sequence,
    )
    assert (now.status == "closed") == (then.status == "closed")


def effective(sequence: int, at: int, event: Event) -> RecordedEvent:
    return replace(recorded("A-1", sequence, event), effective_at=at)


HOLDERS = [
    effective(1, 10, AccountCreated(currency="EUR", holder_name="Ada")),
    effective(2, 30, HolderChanged(holder_name="Grace")),
    effective(3, 20, HolderChanged(holder_name="Jean", holder_email="jean@example.org")),
    effective(4, 30, HolderChanged(holder_name="Edith")),
]


@pytest.mark.parametrize(("at", "holder"), [(10, "Ada"), (19, "Ada"), (20, "Jean"), (29, "Jean"), (30, "Edith")])
def test_the_effective_order_goes_before_the_order_recorded(at: int, holder: str) -> None:
    account = in_force(logged(HOLDERS), at)
    assert account is not None
    assert account.holder_name == holder
    assert account.updated_at <= at


def test_an_account_exists_from_its_first_event_that_counts() -> None:
    events = [
        effective(1, 10, AccountCreated(currency="EUR", holder_name="Ada")),
        effective(2, 5, MoneyDeposited(amount_minor=7, currency="EUR", balance_minor=7)),
    ]
    assert in_force(logged(events), 4) is None
    account = in_force(logged(events), 5)
    assert account is not None
    assert (account.balance_minor, account.holder_name, account.opened_at, account.sequence) == (7, "Ada", 10, 2)


def test_an_account_that_was_closed_stays_closed() -> None:
    events = [
        effective(1, 10, AccountCreated(currency="EUR", holder_name="Ada")),
        effective(2, 20, AccountFrozen()),
        effective(3, 40, AccountUnfrozen()),
        effective(4, 30, AccountClosed()),
    ]
    found = [in_force(logged(events), at) for at in (20, 30, 40)]
    assert [(account.status, account.closed_at) for account in found if account is not None] == [
        ("frozen", None),
        ("closed", 30),
        ("closed", 30),
    ]


@given(histories())
def test_the_order_of_what_counts_together_is_the_recorded_one(events: list[RecordedEvent]) -> None:
    at = events[0].effective_at
    same = [replace(item, effective_at=at) for item in events]
    account = in_force(logged(same), at)
    assert account is not None
    assert is_state(account, states(events)[-1])


def test_random_orders_of_effect_conserve_money() -> None:
    """No event is counted twice or left out, however the times of effect are dealt."""
    random = Random(1)
    amounts = [random.randrange(1, 10**6) for _ in range(200)]
    balance, events = 0, [opened("A-1")]
    for sequence, amount in enumerate(amounts, 2):
        balance += amount
        event = MoneyDeposited(amount_minor=amount, currency="EUR", balance_minor=balance)
        events.append(effective(sequence, random.randrange(1000), event))
    events[0] = replace(events[0], effective_at=0)
    steps = [in_force(logged(events), at) for at in range(0, 1000, 9)]
    balances = [account.balance_minor for account in steps if account is not None]
    assert len(balances) == 112
    assert balances == sorted(balances)
    assert balances[-1] == sum(amounts)
