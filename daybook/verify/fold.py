"""What the log makes of each account, folded event by event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from daybook.errors import UnreadableRecord
from daybook.log import LoggedEvent
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    HolderChanged,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
)


@dataclass(slots=True)
class Account:
    """An account as of its event number `sequence`, which stands at `offset` of `partition`.

    Times are microseconds since the Unix epoch; `balance_before_minor` is the balance before that event.
    """

    account_id: str
    currency: str
    holder_name: str
    holder_email: str | None
    overdraft_limit_minor: int
    opened_at: int
    updated_at: int
    partition: int
    offset: int
    status: str = "active"
    balance_minor: int = 0
    balance_before_minor: int = 0
    closed_at: int | None = None
    sequence: int = 1


class Fold:
    """All accounts of the log as far as it was applied. One object an account, which changes with each event."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.events = 0

    def apply(self, logged: LoggedEvent) -> Account:
        """The account as it is after the next event of its partition.

        Raises:
            UnreadableRecord: an event is missing from the log, or came twice.
        """
        recorded = logged.recorded
        event = recorded.event
        account = self.accounts.get(recorded.account_id)
        last = 0 if account is None else account.sequence
        if recorded.sequence != last + 1 or (account is None) != isinstance(event, AccountCreated):
            raise UnreadableRecord(
                f"partition {logged.partition}, offset {logged.offset} of the log",
                f"event {recorded.sequence} of account {recorded.account_id}, {recorded.type_name}, follows event "
                f"{last}: the log itself is not whole, and no model can be compared with it",
            )
        self.events += 1
        if isinstance(event, AccountCreated):
            account = self.accounts[recorded.account_id] = Account(
                account_id=recorded.account_id,
                currency=event.currency,
                holder_name=event.holder_name,
                holder_email=event.holder_email,
                overdraft_limit_minor=event.overdraft_limit_minor,
                opened_at=recorded.recorded_at,
                updated_at=recorded.recorded_at,
                partition=logged.partition,
                offset=logged.offset,
            )
            return account
        assert account is not None  # noqa: S101 - just checked; mypy cannot see it
        account.sequence = recorded.sequence
        account.updated_at = recorded.recorded_at
        account.partition, account.offset = logged.partition, logged.offset
        account.balance_before_minor = account.balance_minor
        match event:
            case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded():
                account.balance_minor = event.balance_minor
            case OverdraftLimitSet():
                account.overdraft_limit_minor = event.limit_minor
            case HolderChanged():
                account.holder_name, account.holder_email = event.holder_name, event.holder_email
            case AccountFrozen():
                account.status = "frozen"
            case AccountUnfrozen():
                account.status = "active"
            case AccountClosed():
                account.status, account.closed_at = "closed", recorded.recorded_at
            case _:
                assert_never(event)
        return account
