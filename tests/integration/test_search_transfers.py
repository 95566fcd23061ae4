"""Transfers in the search indices: the story of one, and which are in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from daybook import Money, Unreachable, UnreadableRecord
from daybook.search import AuditEntry, SearchIndex
from deploy.definitions import apply
from schemas.connections import Connections
from schemas.events import RecordedEvent
from tests.recorded import (
    START,
    completed,
    deposited,
    opened,
    received,
    returned,
    sent,
    transfer_id,
)
from tests.search_index import Index
from tests.search_model import SearchModel


@pytest.fixture(scope="module")
def ledger(new_connections: Callable[[], Connections]) -> Connections:
    connections = new_connections()
    apply(connections, partitions=1)
    return connections


@pytest.fixture
def index(ledger: Connections) -> Iterator[Index]:
    index = Index(ledger)
    yield index
    index.server.close()
    with SearchModel(ledger) as model:
        model.wipe()


@pytest.fixture
def found(index: Index) -> Iterator[SearchIndex]:
    found = SearchIndex(index.connections, timeout_s=30)
    yield found
    found.close()


def steps(entries: Sequence[AuditEntry]) -> list[tuple[str, int, str]]:
    return [(entry.account_id, entry.sequence, entry.event_type.removeprefix("Transfer")) for entry in entries]


def recorded_at(seconds: float, item: RecordedEvent) -> RecordedEvent:
    at = START + round(seconds * 1_000_000)
    return replace(item, recorded_at=at, effective_at=at)


def test_the_story_of_a_transfer_is_told_across_both_accounts(index: Index, found: SearchIndex) -> None:
    index.add(
        *(opened("A-1"), opened("B-1"), deposited("A-1", 2, 100)),
        *(sent("A-1", 3, 1, amount=30, balance=70), sent("A-1", 4, 2, amount=20, balance=50, in_transit=50)),
        # Its clock is behind that of the service which the other account is with.
        recorded_at(1, received("B-1", 2, 1, amount=30, balance=30)),
        *(completed("A-1", 5, 1, amount=30, in_transit=20), returned("A-1", 6, 2, amount=20, balance=70)),
    )
    index.refresh()
    arrived = found.transfer(transfer_id(1))
    assert steps(arrived) == [("A-1", 3, "Sent"), ("B-1", 2, "Received"), ("A-1", 5, "Completed")]
    assert [entry.in_transit for entry in arrived] == [Money(30, "EUR"), None, Money(20, "EUR")]
    assert (arrived[0].to_account_id, arrived[0].from_account_id) == ("B-1", None)
    assert (arrived[1].to_account_id, arrived[1].from_account_id) == (None, "A-1")
    assert {entry.transfer_id for entry in arrived} == {transfer_id(1)}
    back = found.transfer(transfer_id(2))
    assert steps(back) == [("A-1", 4, "Sent"), ("A-1", 6, "Returned")]
    assert (back[1].code, back[1].message) == ("account_closed", "account B-1 is closed")
    assert (back[1].balance_before, back[1].balance) == (Money(50, "EUR"), Money(70, "EUR"))
    assert found.transfer(transfer_id(3)) == []
    views = {account_id: found.account(account_id) for account_id in ("A-1", "B-1")}
    assert {view.account_id: (view.money, view.in_transit) for view in views.values()} == {
        "A-1": (Money(70, "EUR"), Money(0, "EUR")),
        "B-1": (Money(30, "EUR"), Money(0, "EUR")),
    }


def test_an_id_that_several_accounts_used_is_told_account_by_account(index: Index, found: SearchIndex) -> None:
    first = [sent("A-1", 2, 7), received("C-1", 2, 7, sender="A-1"), completed("A-1", 3, 7)]
    second = [sent("B-1", 2, 7), received("C-1", 3, 7, sender="B-1"), completed("B-1", 3, 7)]
    again = [sent("A-1", 4, 7), returned("A-1", 5, 7)]
    order = [*first[:1], *second[:2], *first[1:], second[2], *again]
    events = [recorded_at(10 + number, event) for number, event in enumerate(order)]
    # In the index they stand in the order of each account.
    index.add(opened("A-1"), opened("B-1"), opened("C-1"), *sorted(events, key=lambda event: event.sequence))
    index.refresh()
    assert steps(found.transfer(transfer_id(7).upper())) == [
        *(("A-1", 2, "Sent"), ("C-1", 2, "Received"), ("A-1", 3, "Completed")),
        *(("A-1", 4, "Sent"), ("A-1", 5, "Returned")),
        *(("B-1", 2, "Sent"), ("C-1", 3, "Received"), ("B-1", 3, "Completed")),
    ]


def test_what_is_in_flight_is_what_was_sent_and_not_settled(index: Index, found: SearchIndex) -> None:
    index.add(opened("A-1"), opened("A-2"), opened("B-1"))
    index.refresh()
    assert found.in_flight() == []
    index.add(
        *(sent("A-1", 2, 1, amount=5), sent("A-1", 3, 2, amount=7, in_transit=12)),
        *(sent("A-2", 2, 3, amount=11), returned("A-2", 3, 3, amount=11)),
        # The second of them is done, the first is not; and the id of another account's is its own.
        completed("A-1", 4, 2, amount=7, in_transit=5),
        recorded_at(1.5, sent("B-1", 2, 2, to="A-1", amount=1)),
    )
    index.refresh()
    entries = found.in_flight()
    assert steps(entries) == [("B-1", 2, "Sent"), ("A-1", 2, "Sent")]
    assert (entries[1].amount, entries[1].to_account_id, entries[1].user_id) == (Money(5, "EUR"), "B-1", "teller")


def test_only_those_of_an_age_are_in_the_list(index: Index, found: SearchIndex) -> None:
    now = datetime.now(UTC).timestamp() - START / 1_000_000
    index.add(
        *(opened("A-1"), recorded_at(now - 3600, sent("A-1", 2, 1))),
        recorded_at(now - 60, sent("A-1", 3, 2, in_transit=2)),
    )
    index.refresh()
    assert [entry.sequence for entry in found.in_flight(30)] == [2, 3]
    assert [entry.sequence for entry in found.in_flight(600)] == [2]
    assert [entry.sequence for entry in found.in_flight(86_400)] == []


def test_one_that_is_stuck_is_found_behind_many_that_were_settled(index: Index, found: SearchIndex) -> None:
    events = [opened("A-1"), sent("A-1", 2, 1)]
    for number in range(700):
        events.append(sent("A-1", 3 + 2 * number, 2 + number, in_transit=2))
        events.append(completed("A-1", 4 + 2 * number, 2 + number, in_transit=1))
    index.add(*events)
    index.refresh()
    assert steps(found.in_flight()) == [("A-1", 2, "Sent")]


def test_many_accounts_may_have_money_in_flight(index: Index, found: SearchIndex) -> None:
    accounts = [f"A-{number:04}" for number in range(250)]
    index.add(*(opened(account_id) for account_id in accounts))
    index.add(*(sent(account_id, 2, number) for number, account_id in enumerate(accounts)))
    index.refresh()
    assert [entry.account_id for entry in found.in_flight()] == accounts


def test_indices_of_an_earlier_release_have_nothing_in_flight(index: Index, found: SearchIndex) -> None:
    index.add(opened("A-1"))
    index.refresh()
    document = index.server.get(index=index.connections.indices.accounts, id="A-1")
    # So its document is as the release before wrote it.
    assert "in_transit_minor" not in document["_source"]
    assert found.account("A-1").in_transit == Money(0, "EUR")
    assert found.in_flight() == []


def test_a_document_that_is_none_of_ours_is_named(index: Index, found: SearchIndex) -> None:
    index.add(opened("A-1"), sent("A-1", 2, 1))
    name = index.connections.indices.account_events
    index.server.update(index=name, id="A-1/2", doc={"amount_minor": None})
    index.refresh()
    with pytest.raises(UnreadableRecord, match="document A-1/2"):
        found.in_flight()


def test_without_indices_it_is_said_what_is_missing(new_connections: Callable[[], Connections]) -> None:
    found = SearchIndex(new_connections(), timeout_s=30)
    try:
        for ask in (found.in_flight, lambda: found.transfer(transfer_id(1))):
            with pytest.raises(Unreachable, match="there is no index"):
                ask()
    finally:
        found.close()
