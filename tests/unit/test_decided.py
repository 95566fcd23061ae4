"""Whether a command was decided already, told from the two accounts' events; and what would come of it otherwise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

import pytest
from msgspec.structs import replace

from daybook.decided import decided
from daybook.log import LoggedEvent
from schemas.commands import AnyCommand, CompleteTransfer, FollowUp, ReceiveTransfer, ReturnTransfer
from schemas.transfers import receive_id
from tests.unit.memory_ledger import MemoryLedger
from tests.wire import deposit, transfer, withdrawal

TRANSFER_ID: Final = "5f0c8d1e-93a4-4a57-8b2f-3f5d3b7f6a10"


@pytest.fixture
def ledger() -> MemoryLedger:
    """A transfer of 5.00 EUR from A to B was sent, and stands among the follow-ups."""
    ledger = MemoryLedger(settles=False)
    ledger.open_account("A", "EUR", "Ada", overdraft="9.00 EUR")
    ledger.open_account("B", "EUR", "Bob")
    ledger.transfer("A", "B", "5.00 EUR", transfer_id=TRANSFER_ID)
    return ledger


def why_not(ledger: MemoryLedger, command: AnyCommand) -> str | None:
    def stream(account_id: str) -> Iterator[LoggedEvent]:
        for offset, event in enumerate(ledger.log):
            if event.account_id == account_id:
                yield LoggedEvent(0, offset, event)

    return decided(command, stream)


def money(ledger: MemoryLedger) -> int:
    """All that there is of it, in minor units."""
    return sum(account.balance_minor + account.in_transit_minor for account in ledger.accounts.values())


def next_of(ledger: MemoryLedger, kind: type[FollowUp]) -> FollowUp:
    found = ledger.follow_ups.popleft()
    assert isinstance(found, kind)
    return found


def settle(ledger: MemoryLedger) -> None:
    while ledger.follow_ups:
        ledger.decide(ledger.follow_ups.popleft())


def test_a_clients_command_is_known_by_the_event_that_bears_its_id(ledger: MemoryLedger) -> None:
    paid, refused = deposit("A", 5), withdrawal("A", 1_000_000)
    assert why_not(ledger, paid) is None
    ledger.decide(paid)
    ledger.decide(refused)
    assert "event 3 of account A (MoneyDeposited)" in (why_not(ledger, paid) or "")
    assert why_not(ledger, replace(paid, command_id=paid.command_id.upper())) is not None
    assert why_not(ledger, refused) is None, "a refusal is no event"
    assert why_not(ledger, deposit("nobody", 5)) is None


def test_a_transfer_that_waits_is_given_and_one_that_was_taken_in_is_not(ledger: MemoryLedger) -> None:
    receiving = next_of(ledger, ReceiveTransfer)
    assert why_not(ledger, receiving) is None
    ledger.decide(receiving)
    assert "the money is in account B since event 2" in (why_not(ledger, receiving) or "")
    completing = next_of(ledger, CompleteTransfer)
    assert why_not(ledger, completing) is None
    ledger.decide(completing)
    assert "settled since event 3 of account A (TransferCompleted)" in (why_not(ledger, completing) or "")
    # It is what keeps money from being made.
    before = money(ledger)
    ledger.forget_commands()
    ledger.decide(receiving)
    assert money(ledger) == before + 500


def test_a_transfer_that_came_back_is_not_given(ledger: MemoryLedger) -> None:
    ledger.freeze("B")
    receiving = next_of(ledger, ReceiveTransfer)
    ledger.decide(receiving)
    returning = next_of(ledger, ReturnTransfer)
    assert why_not(ledger, returning) is None
    ledger.decide(returning)
    assert "settled since event 3 of account A (TransferReturned)" in (why_not(ledger, returning) or "")
    assert "the money is back in account A since event 3" in (why_not(ledger, receiving) or "")


def test_what_was_taken_in_after_all_does_not_go_back(ledger: MemoryLedger) -> None:
    """It was refused, then given again when the account was open: its return is still somewhere."""
    ledger.freeze("B")
    receiving = next_of(ledger, ReceiveTransfer)
    ledger.decide(receiving)
    returning = next_of(ledger, ReturnTransfer)
    ledger.unfreeze("B")
    ledger.forget_commands()
    ledger.decide(receiving)
    assert "the money is in account B" in (why_not(ledger, returning) or "")


def test_what_was_not_sent_is_not_taken_in(ledger: MemoryLedger) -> None:
    receiving = next_of(ledger, ReceiveTransfer)
    assert isinstance(receiving, ReceiveTransfer)
    elsewhere = replace(receiving, command_id=receive_id(TRANSFER_ID, "A", 3))
    assert "account A has not sent it" in (why_not(ledger, elsewhere) or "")
    assert "account B has not sent it" in (why_not(ledger, replace(receiving, from_account_id="B")) or "")
    for changed in ({"amount_minor": 501}, {"currency": "USD"}, {"account_id": "A"}):
        assert "sends something else" in (why_not(ledger, replace(receiving, **changed)) or "")


def test_a_client_that_used_the_id_of_a_follow_up_does_not_hinder_it(ledger: MemoryLedger) -> None:
    receiving = next_of(ledger, ReceiveTransfer)
    for account_id in ("A", "B"):
        posing = deposit(account_id, 1, command_id=receiving.command_id)
        ledger.decide(posing)
        ledger.forget_commands()
        assert why_not(ledger, receiving) is None
        assert why_not(ledger, posing) is not None
    ledger.decide(receiving)
    other = deposit("B", 1, command_id=receiving.command_id)
    assert "MoneyDeposited" in (why_not(ledger, other) or "")


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_given_again_late_no_money_is_made_of_it(seed: int) -> None:
    """Accounts that freeze and thaw, and follow-ups that are all given once more when their ids are forgotten."""
    rng = random.Random(seed)
    ledger = MemoryLedger(settles=False)
    names = ["A", "B", "C"]
    for name in names:
        ledger.open_account(name, "EUR", name, overdraft="99.00 EUR")
    given: list[FollowUp] = []
    held_back: list[FollowUp] = []
    for _ in range(120):
        source, destination = rng.sample(names, 2)
        match rng.randrange(4):
            case 0:
                (ledger.freeze if rng.random() < 0.5 else ledger.unfreeze)(destination)
            case 1 if ledger.follow_ups:
                each = ledger.follow_ups.popleft()
                given.append(each)
                # It was parked, and is given again in the end.
                if rng.random() < 0.3:
                    held_back.append(each)
                else:
                    ledger.decide(each)
            case _:
                ledger.decide(transfer(source, destination, rng.randrange(1, 9)))
    assert held_back
    # What stands on the topic is decided before somebody looks at what is parked.
    while ledger.follow_ups:
        given.append(ledger.follow_ups[0])
        ledger.decide(ledger.follow_ups.popleft())

    for each in rng.sample(given, len(given)):
        ledger.forget_commands()
        if why_not(ledger, each) is None:
            ledger.decide(each)
            settle(ledger)

    assert all(account.in_transit_minor == 0 for account in ledger.accounts.values())
    assert money(ledger) == 0
