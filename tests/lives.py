"""Whole lives of accounts, with every type of event, for tests of what compares a read model with the log."""

from __future__ import annotations

from collections.abc import Iterator

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
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from tests.recorded import transfer_id

HISTORY: tuple[Event, ...] = (
    AccountCreated(currency="KWD", holder_name="Ada", holder_email="ada@example.org", overdraft_limit_minor=10),
    MoneyDeposited(amount_minor=2**60 + 1, currency="KWD", balance_minor=2**60 + 1),
    MoneyWithdrawn(amount_minor=2**60, currency="KWD", balance_minor=1),
    MoneyRefunded(amount_minor=5, currency="KWD", balance_minor=6, withdrawal_sequence=3),
    OverdraftLimitSet(previous_limit_minor=5, new_limit_minor=0, currency="KWD"),
    HolderChanged(holder_name="Grace", holder_email=None),
    AccountFrozen(),
    AccountUnfrozen(),
    MoneyWithdrawn(amount_minor=6, currency="KWD", balance_minor=0),
    AccountClosed(),
)
"""One event of each type but transfers, and an account's whole life."""

_TRANSFER = {"transfer_id": transfer_id(1), "to_account_id": "T-2", "currency": "KWD"}
TRANSFERS: tuple[tuple[str, int, Event], ...] = (
    ("T-1", 1, HISTORY[0]),
    ("T-2", 1, HISTORY[0]),
    ("T-1", 2, TransferSent(**_TRANSFER, amount_minor=2**60, balance_minor=-(2**60), in_transit_minor=2**60)),
    (
        *("T-2", 2),
        TransferReceived(
            transfer_id=transfer_id(1),
            from_account_id="T-1",
            amount_minor=2**60,
            currency="KWD",
            balance_minor=2**60,
        ),
    ),
    ("T-1", 3, TransferSent(**_TRANSFER, amount_minor=3, balance_minor=-(2**60) - 3, in_transit_minor=2**60 + 3)),
    ("T-1", 4, TransferCompleted(**_TRANSFER, amount_minor=2**60, in_transit_minor=3)),
    (
        *("T-1", 5),
        TransferReturned(
            **_TRANSFER,
            amount_minor=1,
            balance_minor=-(2**60) - 2,
            in_transit_minor=2,
            code="account_closed",
            message="account T-2 is closed",
        ),
    ),
)
"""What transfers do to two accounts; one of them has two thousandths in transit at the end."""


def lives(accounts: range) -> Iterator[tuple[str, int, Event]]:
    """Accounts at each stage of a life, their events in turn."""
    for sequence, event in enumerate(HISTORY, start=1):
        for number in accounts:
            if sequence <= number % len(HISTORY) + 1:
                yield f"A-{number}", sequence, event
