"""The books of `verify money`: whatever is delayed, given twice or killed adds up, and what does not is named."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daybook.log import LoggedEvent
from daybook.verify.books import Books, Sums, Wrong
from schemas.commands import AnyCommand, CloseAccount, Freeze, OpenAccount, Refund, Transfer, Unfreeze
from schemas.events import (
    AccountCreated,
    HolderChanged,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    RecordedEvent,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.transfers import complete_id, receive_id, return_id
from tests.unit.killed_ledger import KilledLedger
from tests.unit.memory_ledger import MemoryLedger
from tests.wire import deposit, make, withdrawal

PARTITIONS = 3
ACCOUNTS = [f"A-{number}" for number in range(6)]
"""The last but one is in yen, and the last is never opened."""


def partition(account_id: str) -> int:
    return ACCOUNTS.index(account_id) % PARTITIONS


def transfer(source: str, destination: str, amount_minor: int, **fields: Any) -> Transfer:
    own = {"to_account_id": destination, "amount_minor": amount_minor, "currency": "EUR"}
    return make(Transfer, source, **({"transfer_id": str(uuid.uuid4())} | own | fields))


def a_command(rng: random.Random, given_before: Sequence[Transfer]) -> AnyCommand:
    account_id, amount = rng.choice(ACCOUNTS[:-1]), rng.randint(1, 60)
    kind = rng.random()
    if kind < 0.6:
        return transfer(account_id, rng.choice([a for a in ACCOUNTS if a != account_id]), amount)
    if kind < 0.65 and given_before:
        # The same again, by another command, or under the id of another.
        return make(Transfer, account_id, **_said(rng.choice(given_before)))
    if kind < 0.7:
        return deposit(account_id, amount)
    if kind < 0.8:
        return withdrawal(account_id, amount)
    if kind < 0.9:
        return make(Refund, account_id, amount_minor=amount, currency="EUR", withdrawal_sequence=rng.randint(2, 9))
    kinds: tuple[type[Freeze | Unfreeze | CloseAccount], ...] = (Freeze, Unfreeze, Unfreeze, CloseAccount)
    return make(rng.choice(kinds), account_id)


def _said(command: Transfer) -> dict[str, object]:
    return {name: getattr(command, name) for name in ("transfer_id", "to_account_id", "amount_minor", "currency")}


def openings() -> Iterator[AnyCommand]:
    for account_id in ACCOUNTS[:-1]:
        currency = "JPY" if account_id == ACCOUNTS[-2] else "EUR"
        yield make(OpenAccount, account_id, currency=currency, holder_name="Ada", overdraft_limit_minor=20)
        yield deposit(account_id, 100, currency=currency)


def a_history(rng: random.Random, steps: int) -> MemoryLedger:
    """A ledger after commands and follow-ups in any order, some of them more than once, some given up half-way."""
    ledger = MemoryLedger(settles=False)
    for command in openings():
        ledger.decide(command)
    transfers: list[Transfer] = []
    for _ in range(steps):
        if ledger.follow_ups and rng.random() < 0.5:
            # Any of them may be the next to be decided, and each is decided anew when its transaction was aborted.
            at = rng.randrange(len(ledger.follow_ups))
            command: AnyCommand = ledger.follow_ups[at]
            if rng.random() < 0.7:
                del ledger.follow_ups[at]
        else:
            command = a_command(rng, transfers)
            if isinstance(command, Transfer):
                transfers.append(command)
        ledger.decide(command)
        if rng.random() < 0.1:
            ledger.decide(command)
    return ledger


def logs(events: Iterable[RecordedEvent]) -> dict[int, list[LoggedEvent]]:
    """The partitions of a log with these events in this order."""
    found: dict[int, list[LoggedEvent]] = {number: [] for number in range(PARTITIONS)}
    for recorded in events:
        here = found[partition(recorded.account_id)]
        here.append(LoggedEvent(partition(recorded.account_id), len(here), recorded))
    return found


def interleaved(rng: random.Random, parts: Iterable[Sequence[LoggedEvent]]) -> list[LoggedEvent]:
    """Partitions as they may be read: each in order, and all in no common one."""
    queues = [list(reversed(part)) for part in parts if part]
    taken: list[LoggedEvent] = []
    while queues:
        queue = rng.choice(queues)
        taken.extend(queue.pop() for _ in range(min(len(queue), rng.randint(1, 4))))
        queues = [left for left in queues if left]
    return taken


def kept(events: Iterable[LoggedEvent], tail: Iterable[LoggedEvent] = ()) -> Books:
    books = Books()
    for logged in events:
        books.apply(logged)
    books.close(tail)
    return books


def plainly(events: Sequence[RecordedEvent]) -> dict[str, Sums]:
    """The sums of a consistent cut, by adding up and nothing else."""
    found: defaultdict[str, Sums] = defaultdict(Sums)
    currencies: dict[str, str] = {}
    balances: dict[str, int] = {}
    sent: dict[str, TransferSent] = {}
    for recorded in events:
        event: Any = recorded.event
        if isinstance(event, AccountCreated):
            currencies[recorded.account_id] = event.currency
            found[event.currency].accounts += 1
        balances[recorded.account_id] = getattr(event, "balance_minor", balances.get(recorded.account_id, 0))
        sums = found[currencies[recorded.account_id]]
        match event:
            case MoneyDeposited():
                sums.deposited_minor += event.amount_minor
            case MoneyRefunded():
                sums.refunded_minor += event.amount_minor
            case MoneyWithdrawn():
                sums.withdrawn_minor += event.amount_minor
            case TransferSent():
                sent[receive_id(event.transfer_id, recorded.account_id, recorded.sequence)] = event
    for account_id, balance in balances.items():
        found[currencies[account_id]].balances_minor += balance
    commands = {recorded.command_id for recorded in events}
    for key, event in sent.items():
        if commands.isdisjoint((key, return_id(key))):
            found[event.currency].in_transit_minor += event.amount_minor
        elif key in commands and complete_id(key) not in commands:
            found[event.currency].arrived_minor += event.amount_minor
    return dict(sorted(found.items()))


def depended_on(events: Iterable[RecordedEvent], whole: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """Events with all that they depend on, in the order of `whole`."""
    places = {(recorded.account_id, recorded.sequence): recorded for recorded in whole}
    by_command = {recorded.command_id: recorded for recorded in whole}
    senders = {
        receive_id(recorded.event.transfer_id, recorded.account_id, recorded.sequence): recorded
        for recorded in whole
        if isinstance(recorded.event, TransferSent)
    }
    receivers = {complete_id(key): by_command[key] for key in senders if key in by_command}
    cut: set[tuple[str, int]] = set()
    left = list(events)
    while left:
        recorded = left.pop()
        if (recorded.account_id, recorded.sequence) in cut:
            continue
        cut.add((recorded.account_id, recorded.sequence))
        if recorded.sequence > 1:
            left.append(places[recorded.account_id, recorded.sequence - 1])
        left.extend(found[recorded.command_id] for found in (senders, receivers) if recorded.command_id in found)
    return [recorded for recorded in whole if (recorded.account_id, recorded.sequence) in cut]


@given(st.randoms(use_true_random=False), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_money_adds_up_at_every_prefix_of_a_consistent_cut(rng: random.Random, steps: int) -> None:
    events = a_history(rng, steps).log
    books = Books()
    for count, recorded in enumerate(events, start=1):
        # The order in which they were decided is a consistent cut's at each of its events.
        books.apply(LoggedEvent(0, count - 1, recorded))
        assert books.sums() == plainly(events[:count])


@given(st.randoms(use_true_random=False), st.integers(0, 80))
@settings(max_examples=80, deadline=None)
def test_whatever_the_ends_of_the_partitions_the_cut_is_closed(rng: random.Random, steps: int) -> None:
    events = a_history(rng, steps).log
    partitions = logs(events)
    ends = {number: rng.randint(0, len(part)) for number, part in partitions.items()}
    read = interleaved(rng, [partitions[number][:end] for number, end in ends.items()])
    tail = interleaved(rng, [partitions[number][end:] for number, end in ends.items()])
    books = kept(read, tail)
    expected = depended_on((logged.recorded for logged in read), events)
    assert books.events == len(expected)
    assert books.sums() == plainly(expected)
    assert all(sums.in_transit_minor >= 0 and sums.arrived_minor >= 0 for sums in books.sums().values())


@given(st.randoms(use_true_random=False), st.integers(0, 80))
@settings(max_examples=40, deadline=None)
def test_when_the_dust_settles_nothing_is_in_transit(rng: random.Random, steps: int) -> None:
    ledger = a_history(rng, steps)
    while ledger.follow_ups:
        at = rng.randrange(len(ledger.follow_ups))
        command = ledger.follow_ups[at]
        del ledger.follow_ups[at]
        ledger.decide(command)
    books = kept(interleaved(rng, logs(ledger.log).values()))
    sums = books.sums()
    assert all((s.in_transit_minor, s.arrived_minor) == (0, 0) for s in sums.values())
    assert books.in_flight() == []
    assert all(account.in_transit_minor == 0 for account in ledger.accounts.values())
    assert books.completed + books.returned == sum(isinstance(one.event, TransferSent) for one in ledger.log)


@given(st.randoms(use_true_random=False), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_whoever_is_killed_money_adds_up_and_nothing_stays_in_transit(rng: random.Random, steps: int) -> None:
    ledger = KilledLedger(rng)
    commands = list(openings())
    for command in commands:
        ledger.put(command)
    for _ in range(steps):
        for _ in range(rng.randint(0, 3)):
            transfers = [each for each in commands if isinstance(each, Transfer)]
            # Some are given again, whatever has happened since.
            command = rng.choice(commands) if rng.random() < 0.2 else a_command(rng, transfers)
            commands.append(command)
            ledger.put(command)
        ledger.step()
    ledger.settle()

    books = Books()
    for count, recorded in enumerate(ledger.log, start=1):
        books.apply(LoggedEvent(0, count - 1, recorded))
        assert books.sums() == plainly(ledger.log[:count])
    assert all((s.in_transit_minor, s.arrived_minor) == (0, 0) for s in books.sums().values())
    assert (ledger.in_transit_minor(), ledger.parked()) == (0, 0)
    # Given again, also after a kill, it is the same transfer.
    assert len({one.command_id for one in ledger.log}) == len(ledger.log)


def a_story() -> MemoryLedger:
    """A-0 sends 40 to A-1, where it arrives, and 10 that come back since A-1 is frozen; 5 more are in flight."""
    ledger = MemoryLedger()
    for account_id in ACCOUNTS[:2]:
        ledger.execute(make(OpenAccount, account_id, currency="EUR", holder_name="Ada"))
    ledger.execute(deposit("A-0", 100))
    ledger.execute(transfer("A-0", "A-1", 40, transfer_id="00000000-0000-4000-8000-000000000001"))
    ledger.execute(make(Freeze, "A-1"))
    ledger.execute(transfer("A-0", "A-1", 10, transfer_id="00000000-0000-4000-8000-000000000002"))
    ledger.execute(make(Unfreeze, "A-1"))
    ledger.decide(
        transfer(
            *("A-0", "A-1", 5),
            transfer_id="00000000-0000-4000-8000-000000000003",
            reason="rent",
            correlation_id="2026-07",
        )
    )
    return ledger


def test_what_is_in_flight_is_told_with_who_and_why() -> None:
    ledger = a_story()
    books = kept(logged for part in logs(ledger.log).values() for logged in part)
    (found,) = books.in_flight()
    assert (found.from_account_id, found.to_account_id, str(found.amount)) == ("A-0", "A-1", "0.05 EUR")
    assert (found.transfer_id[-1], found.sequence, found.arrived) == ("3", 7, False)
    assert (found.user_id, found.reason, found.correlation_id) == ("tester", "rent", "2026-07")
    assert found.sent_at.timestamp() * 1e6 == pytest.approx(ledger.log[-1].recorded_at, abs=1)
    assert (books.completed, books.returned, books.accounts, books.events) == (1, 1, 2, 11)
    # Where the receipt is read as well, it has arrived.
    ledger.decide(ledger.follow_ups.popleft())
    (found,) = kept(logged for part in logs(ledger.log).values() for logged in part).in_flight()
    assert found.arrived
    sums = kept(logged for part in logs(ledger.log).values() for logged in part).sums()["EUR"]
    assert (sums.in_transit_minor, sums.arrived_minor, sums.balances_minor) == (0, 5, 100)


Events = list[RecordedEvent]


def changed(events: Events, kind: type, **fields: object) -> Events:
    """With the first event of a kind changed, in its own fields or in those of its record."""
    found = next(recorded for recorded in events if isinstance(recorded.event, kind))
    own = {name: value for name, value in fields.items() if name in found.event.__struct_fields__}
    record = {name: value for name, value in fields.items() if name not in own}
    event: Any = replace(found.event, **own)
    other = replace(found, event=event, **record)
    return [other if recorded is found else recorded for recorded in events]


def without(events: Events, kind: type) -> Events:
    """With something in place of the first event of a kind that moves no money."""
    at = next(number for number, recorded in enumerate(events) if isinstance(recorded.event, kind))
    other = replace(events[at], command_id=str(uuid.uuid4()), event=HolderChanged(holder_name="Grace"))
    return [*events[:at], other, *events[at + 1 :]]


def again(events: Events, kind: type, **fields: object) -> Events:
    """With the first event of a kind once more, as its account's next."""
    found = next(recorded for recorded in events if isinstance(recorded.event, kind))
    last = max(one.sequence for one in events if one.account_id == found.account_id)
    (other,) = changed([replace(found, sequence=last + 1)], kind, **fields)
    return [*events, other]


def received_and_returned(events: Events) -> Events:
    """The transfer that came back is in A-1 as well."""
    back = next(recorded.event for recorded in events if isinstance(recorded.event, TransferReturned))
    own = {"transfer_id": back.transfer_id, "amount_minor": 10, "balance_minor": 50}
    return again(events, TransferReceived, command_id=receive_id(back.transfer_id, "A-0", 5), **own)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda e: changed(e, MoneyDeposited, balance_minor=101), r"MoneyDeposited A-0/2 .*1\.01 EUR.*where 1\.00 EUR"),
        (lambda e: changed(e, MoneyDeposited, amount_minor=0), "MoneyDeposited A-0/2 .* 0 minor units"),
        (lambda e: changed(e, MoneyDeposited, currency="JPY"), "JPY moved on an account in EUR"),
        (lambda e: changed(e, MoneyDeposited, sequence=3), "MoneyDeposited A-0/3 .*event 2 of the account"),
        (lambda e: changed(e, TransferSent, balance_minor=61), "TransferSent A-0/3 .*the balance is 0.61 EUR"),
        (lambda e: changed(e, TransferSent, in_transit_minor=41), "TransferSent A-0/3 .*0.41 EUR are in transit"),
        (
            lambda e: changed(e, TransferSent, to_account_id="A-5"),
            "A-[01]/.*another amount or account|receiving account",
        ),
        (lambda e: changed(e, TransferSent, transfer_id="no"), 'TransferSent A-0/3 .*transfer id "no" is not a UUID'),
        # Of these digits a command id could be derived.
        (lambda e: changed(e, TransferSent, transfer_id="ab"), 'TransferSent A-0/3 .*transfer id "ab" is not a UUID'),
        (lambda e: changed(e, TransferReceived, amount_minor=41, balance_minor=41), r"TransferReceived A-1/2 .*amount"),
        (lambda e: changed(e, TransferReceived, from_account_id="A-2"), "TransferReceived A-1/2 .*sending account"),
        (lambda e: changed(e, TransferReceived, command_id=str(uuid.uuid4())), "A-1/2 .*no account has sent"),
        (
            lambda e: changed(e, TransferReceived, command_id="no"),
            'TransferReceived A-1/2 .*command id "no" is not a UUID',
        ),
        (
            lambda e: again(e, TransferReceived, balance_minor=80),
            "A-1/5 .*(received already|completed or returned before)",
        ),
        (lambda e: without(e, TransferReceived), "TransferCompleted A-0/4 .*never received; TransferSent A-0/3"),
        (
            lambda e: changed(e, TransferCompleted, in_transit_minor=1),
            "TransferCompleted A-0/4 .*0.01 EUR are in transit",
        ),
        (lambda e: changed(e, TransferCompleted, command_id=str(uuid.uuid4())), "TransferCompleted A-0/4 .*settled by"),
        (lambda e: again(e, TransferCompleted, in_transit_minor=-35), "A-0/8 .*settled, which is not in transit"),
        (
            lambda e: changed(e, TransferReturned, to_account_id="A-5"),
            "TransferReturned A-0/6 .*another amount or account",
        ),
        (lambda e: again(e, AccountCreated), "opened before"),
        (
            received_and_returned,
            "(A-1/5 .*completed or returned before|A-0/6 .*is returned that TransferReceived A-1/5)",
        ),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["sender first", "receiver first"])
def test_what_does_not_add_up_is_named(spoil: Callable[[Events], Events], named: str, order: Sequence[int]) -> None:
    events = a_story().log
    read = [logged for number in order for logged in logs(events)[number]]
    kept(read).sums()
    spoilt = logs(spoil(events))
    with pytest.raises(Wrong, match=named):
        kept(logged for number in order for logged in spoilt[number])


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (TransferSent, {"transfer_id": "no"}, r"TransferSent A-0/3 \(partition 0, offset 2\): its transfer id"),
        (TransferReceived, {"command_id": "no"}, r"TransferReceived A-1/2 \(partition 1, offset 1\): its command id"),
    ],
)
def test_what_has_no_id_is_named_behind_the_cut_as_well(kind: type, fields: dict[str, object], named: str) -> None:
    spoilt = logs(changed(a_story().log, kind, **fields))
    with pytest.raises(Wrong, match=named):
        kept([], (logged for part in spoilt.values() for logged in part))


def test_what_is_read_early_and_late_is_kept_no_longer_than_it_must_be() -> None:
    ledger = MemoryLedger()
    for account_id in ACCOUNTS[:2]:
        ledger.execute(make(OpenAccount, account_id, currency="EUR", holder_name="Ada"))
    ledger.execute(deposit("A-0", 1000))
    for _ in range(100):
        ledger.execute(transfer("A-0", "A-1", 1))
    at_once = kept(LoggedEvent(0, 0, recorded) for recorded in ledger.log)
    assert (at_once.most_open, at_once.completed) == (1, 100)
    one_by_one = kept(logged for part in logs(ledger.log).values() for logged in part)
    assert (one_by_one.most_open, one_by_one.completed) == (100, 100)
    assert one_by_one.sums() == at_once.sums()
