"""How a test of the domain reads: `given(events).when(command).then(events)`, or `.then_refused(code)`.

Commands are built by the functions below, with fixed data for whatever a test does not care about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypedDict, Unpack

from command_service.domain.account import Account, Decision, decide, evolve
from command_service.domain.refusals import Code, Rejection
from schemas.commands import (
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CompleteTransfer,
    Deposit,
    EraseHolder,
    Freeze,
    OpenAccount,
    ReceiveTransfer,
    Refund,
    ReturnTransfer,
    SetOverdraftLimit,
    Transfer,
    Unfreeze,
    Withdraw,
)
from schemas.events import (
    AccountCreated,
    Event,
    FreezeCause,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)

NOW: Final = 1_750_000_000_000_000
"""A moment in June 2025, in microseconds since the Unix epoch."""

ACCOUNT: Final = "acc-1"
OTHER: Final = "acc-2"
"""The account at the other end of a transfer."""

CAUSE: Final = "01977375-f600-7000-8444-555555555555"
TRANSFER_ID: Final = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


def given(*events: Event) -> Given:
    """An account with a history; without events, one that does not exist."""
    return Given(fold(events))


def fold(events: tuple[Event, ...]) -> Account | None:
    state: Account | None = None
    for event in events:
        state = evolve(state, event)
    return state


@dataclass(frozen=True, slots=True)
class Given:
    state: Account | None

    def when(self, command: AnyCommand, *, now: int = NOW) -> Outcome:
        return Outcome(decide(self.state, command, now))


@dataclass(frozen=True, slots=True)
class Outcome:
    decision: Decision

    def then(self, *events: Event) -> None:
        """The command was accepted and led to exactly these events."""
        assert not isinstance(self.decision, Rejection), f"refused: {self.decision}"
        assert tuple(self.decision) == events

    def then_nothing(self) -> None:
        """The command was accepted, and what it asks for was so already."""
        self.then()

    def then_refused(self, code: Code) -> None:
        assert isinstance(self.decision, Rejection), f"accepted: {self.decision}"
        assert self.decision.code is code, self.decision.message


class Common(TypedDict, total=False):
    """What any command may say besides its own fields."""

    command_id: str
    account_id: str
    user_id: str
    issued_at: int
    expected_version: int | None
    correlation_id: str | None
    effective_at: int | None
    reason: str | None


class OfClients(Common, total=False):
    """What a client may say besides."""

    reason_is_personal: bool


def _common(said: Common) -> Common:
    defaults: Common = {
        "command_id": "11111111-2222-4333-8444-555555555555",
        "account_id": ACCOUNT,
        "user_id": "teller",
        "issued_at": NOW,
    }
    return {**defaults, **said}


def open_account(
    currency: str = "EUR",
    holder_name: str = "Ada",
    holder_email: str | None = None,
    overdraft_limit_minor: int = 0,
    **common: Unpack[OfClients],
) -> OpenAccount:
    return OpenAccount(
        currency=currency,
        holder_name=holder_name,
        holder_email=holder_email,
        overdraft_limit_minor=overdraft_limit_minor,
        **_common(common),
    )


def deposit(amount_minor: int = 100, currency: str = "EUR", **common: Unpack[OfClients]) -> Deposit:
    return Deposit(amount_minor=amount_minor, currency=currency, **_common(common))


def withdraw(amount_minor: int = 100, currency: str = "EUR", **common: Unpack[OfClients]) -> Withdraw:
    return Withdraw(amount_minor=amount_minor, currency=currency, **_common(common))


def refund(
    withdrawal_sequence: int, amount_minor: int = 100, currency: str = "EUR", **common: Unpack[OfClients]
) -> Refund:
    return Refund(
        amount_minor=amount_minor, currency=currency, withdrawal_sequence=withdrawal_sequence, **_common(common)
    )


def set_overdraft_limit(
    limit_minor: int = 100, currency: str = "EUR", **common: Unpack[OfClients]
) -> SetOverdraftLimit:
    return SetOverdraftLimit(limit_minor=limit_minor, currency=currency, **_common(common))


def change_holder(
    holder_name: str = "Ada", holder_email: str | None = None, **common: Unpack[OfClients]
) -> ChangeHolder:
    return ChangeHolder(holder_name=holder_name, holder_email=holder_email, **_common(common))


def freeze(cause: FreezeCause = FreezeCause.UNSPECIFIED, **common: Unpack[OfClients]) -> Freeze:
    return Freeze(cause=cause, **_common(common))


def unfreeze(**common: Unpack[OfClients]) -> Unfreeze:
    return Unfreeze(**_common(common))


def close_account(payout_reference: str | None = None, **common: Unpack[OfClients]) -> CloseAccount:
    return CloseAccount(payout_reference=payout_reference, **_common(common))


def transfer(
    amount_minor: int = 100,
    currency: str = "EUR",
    to_account_id: str = OTHER,
    transfer_id: str = TRANSFER_ID,
    **common: Unpack[OfClients],
) -> Transfer:
    return Transfer(
        transfer_id=transfer_id,
        to_account_id=to_account_id,
        amount_minor=amount_minor,
        currency=currency,
        **_common(common),
    )


def erase_holder(**common: Unpack[Common]) -> EraseHolder:
    return EraseHolder(**_common(common))


def receive(
    amount_minor: int = 100, currency: str = "EUR", transfer_id: str = TRANSFER_ID, **common: Unpack[Common]
) -> ReceiveTransfer:
    return ReceiveTransfer(
        transfer_id=transfer_id,
        from_account_id=OTHER,
        amount_minor=amount_minor,
        currency=currency,
        causation_id=CAUSE,
        **_common(common),
    )


def complete(transfer_id: str = TRANSFER_ID, **common: Unpack[Common]) -> CompleteTransfer:
    return CompleteTransfer(transfer_id=transfer_id, to_account_id=OTHER, causation_id=CAUSE, **_common(common))


def give_back(transfer_id: str = TRANSFER_ID, **common: Unpack[Common]) -> ReturnTransfer:
    return ReturnTransfer(
        transfer_id=transfer_id,
        to_account_id=OTHER,
        code="account_closed",
        message="account acc-2 is closed",
        causation_id=CAUSE,
        **_common(common),
    )


def created(
    currency: str = "EUR", holder_name: str = "Ada", holder_email: str | None = None, overdraft_limit_minor: int = 0
) -> AccountCreated:
    return AccountCreated(
        currency=currency,
        holder_name=holder_name,
        holder_email=holder_email,
        overdraft_limit_minor=overdraft_limit_minor,
    )


def deposited(amount_minor: int, balance_minor: int, currency: str = "EUR") -> MoneyDeposited:
    return MoneyDeposited(amount_minor=amount_minor, currency=currency, balance_minor=balance_minor)


def withdrawn(amount_minor: int, balance_minor: int, currency: str = "EUR") -> MoneyWithdrawn:
    return MoneyWithdrawn(amount_minor=amount_minor, currency=currency, balance_minor=balance_minor)


def refunded(withdrawal_sequence: int, amount_minor: int, balance_minor: int, currency: str = "EUR") -> MoneyRefunded:
    return MoneyRefunded(
        amount_minor=amount_minor,
        currency=currency,
        balance_minor=balance_minor,
        withdrawal_sequence=withdrawal_sequence,
    )


def limit_set(previous_limit_minor: int | None, new_limit_minor: int, currency: str = "EUR") -> OverdraftLimitSet:
    return OverdraftLimitSet(
        previous_limit_minor=previous_limit_minor, new_limit_minor=new_limit_minor, currency=currency
    )


def sent(
    amount_minor: int,
    balance_minor: int,
    in_transit_minor: int,
    currency: str = "EUR",
    to_account_id: str = OTHER,
    transfer_id: str = TRANSFER_ID,
) -> TransferSent:
    return TransferSent(
        transfer_id=transfer_id,
        to_account_id=to_account_id,
        amount_minor=amount_minor,
        currency=currency,
        balance_minor=balance_minor,
        in_transit_minor=in_transit_minor,
    )


def received(
    amount_minor: int, balance_minor: int, currency: str = "EUR", transfer_id: str = TRANSFER_ID
) -> TransferReceived:
    return TransferReceived(
        transfer_id=transfer_id,
        from_account_id=OTHER,
        amount_minor=amount_minor,
        currency=currency,
        balance_minor=balance_minor,
    )


def completed(
    amount_minor: int, in_transit_minor: int = 0, currency: str = "EUR", transfer_id: str = TRANSFER_ID
) -> TransferCompleted:
    return TransferCompleted(
        transfer_id=transfer_id,
        to_account_id=OTHER,
        amount_minor=amount_minor,
        currency=currency,
        in_transit_minor=in_transit_minor,
    )


def returned(
    amount_minor: int,
    balance_minor: int,
    in_transit_minor: int = 0,
    currency: str = "EUR",
    transfer_id: str = TRANSFER_ID,
) -> TransferReturned:
    return TransferReturned(
        transfer_id=transfer_id,
        to_account_id=OTHER,
        amount_minor=amount_minor,
        currency=currency,
        balance_minor=balance_minor,
        in_transit_minor=in_transit_minor,
        code="account_closed",
        message="account acc-2 is closed",
    )
