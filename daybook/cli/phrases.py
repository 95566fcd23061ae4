"""Events in plain words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import assert_never

from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    RecordedEvent,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
    said_cause,
)
from schemas.money import Money


def phrase(event: Event) -> str:
    """What happened, without to whom and when."""
    match event:
        case AccountCreated():
            limit = Money(event.overdraft_limit_minor, event.currency)
            return f"opened for {event.holder_name}, overdraft {limit}"
        case MoneyDeposited():
            return f"deposited {Money(event.amount_minor, event.currency)}, {_balance(event)}"
        case MoneyWithdrawn():
            return f"withdrew {Money(event.amount_minor, event.currency)}, {_balance(event)}"
        case MoneyRefunded():
            amount = Money(event.amount_minor, event.currency)
            return f"refunded {amount} of withdrawal {event.withdrawal_sequence}, {_balance(event)}"
        case TransferSent():
            amount = Money(event.amount_minor, event.currency)
            return f"sent {amount} to {event.to_account_id}, {_balance(event)}, {_in_transit(event)}"
        case TransferReceived():
            amount = Money(event.amount_minor, event.currency)
            return f"received {amount} from {event.from_account_id}, {_balance(event)}"
        case TransferCompleted():
            amount = Money(event.amount_minor, event.currency)
            return f"{amount} arrived at {event.to_account_id}, {_in_transit(event)}"
        case TransferReturned():
            amount = Money(event.amount_minor, event.currency)
            why = f"{event.message} ({event.code})"
            return f"{amount} came back from {event.to_account_id}: {why}, {_balance(event)}, {_in_transit(event)}"
        case OverdraftLimitSet():
            limit = Money(event.new_limit_minor, event.currency)
            if event.previous_limit_minor is None:
                return f"overdraft set to {limit}"
            return f"overdraft set to {limit} from {Money(event.previous_limit_minor, event.currency)}"
        case HolderChanged():
            return f"holder is now {event.holder_name}" + (f" <{event.holder_email}>" if event.holder_email else "")
        case HolderErased():
            return "erased the holder"
        case AccountFrozen():
            cause = said_cause(event)
            return "frozen" if cause is None else f"frozen: {in_words(cause)}"
        case AccountUnfrozen():
            return "unfrozen"
        case AccountClosed():
            return "closed" if event.payout_reference is None else f"closed, paid out by {event.payout_reference}"
        case _:
            assert_never(event)


def in_words(symbol: str) -> str:
    """An enum's symbol, such as `COURT_ORDER`, as people say it."""
    return symbol.replace("_", " ").lower()


def line(recorded: RecordedEvent) -> str:
    """An event on one line: when it counts, where it stands, what happened, by whom and why."""
    reason = f" ({recorded.reason})" if recorded.reason else ""
    where = f"{recorded.account_id}/{recorded.sequence}"
    return f"{moment(recorded.effective_at)}  {where:<16}  {phrase(recorded.event)}  by {recorded.user_id}{reason}"


def moment(micros: int) -> str:
    """A moment of the log, to the second, in UTC."""
    return f"{datetime.fromtimestamp(micros // 1_000_000, UTC):%Y-%m-%d %H:%M:%S}"


def _balance(
    event: MoneyDeposited | MoneyWithdrawn | MoneyRefunded | TransferSent | TransferReceived | TransferReturned,
) -> str:
    return f"balance {Money(event.balance_minor, event.currency)}"


def _in_transit(event: TransferSent | TransferCompleted | TransferReturned) -> str:
    return f"in transit {Money(event.in_transit_minor, event.currency)}"
