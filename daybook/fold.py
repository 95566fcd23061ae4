"""What events make of an account: the whole state, as recorded, or as it was in force at a time.

A second account of what `command_service.domain` decides by, written apart from it, so that comparing the two means
something. Everything here is pure; amounts are minor units, times microseconds since the Unix epoch.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from daybook.errors import UnreadableRecord
from daybook.log import LoggedEvent
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
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.sealing import ERASED

REMEMBERED: Final = 1000
"""How many withdrawals of an account can be refunded: its newest (docs/adr/0006-bounded-refunds.md)."""


class Account(Struct, frozen=True, kw_only=True, gc=False):
    """An account as of its event number `sequence`, which stands at `offset` of `partition`.

    `balance_before_minor` is the balance before that event. Of an account in force (`in_force`) the times are those
    since when things count, and `sequence` is the newest event that counts.
    """

    account_id: str
    currency: str
    holder_name: str
    holder_email: str | None
    holder_erased: bool = False
    overdraft_limit_minor: int
    opened_at: int
    updated_at: int
    partition: int
    offset: int
    status: str = "active"
    balance_minor: int = 0
    balance_before_minor: int = 0
    in_transit_minor: int = 0
    """What it has sent to others and is not settled; no longer in the balance."""
    closed_at: int | None = None
    sequence: int = 1
    withdrawals: bytes = b""
    """The remembered ones in order, two 64-bit numbers each: its sequence, and what is left to refund of it."""
    forgotten: int = 0
    """The sequence of the newest withdrawal that is no longer remembered; 0 when all are."""

    def refundable(self) -> Mapping[int, int]:
        """What is left to refund of each remembered withdrawal, by its sequence; some may have nothing left."""
        numbers = array("q", self.withdrawals)
        return dict(zip(numbers[::2], numbers[1::2], strict=True))


def evolve(account: Account | None, logged: LoggedEvent) -> Account:
    """The account after its next recorded event. The balance is what the event says that it is.

    Raises:
        UnreadableRecord: the event does not follow; one is missing, or came twice.
    """
    recorded = logged.recorded
    event = recorded.event
    last = 0 if account is None else account.sequence
    if recorded.sequence != last + 1 or (account is None) != isinstance(event, AccountCreated):
        raise UnreadableRecord(
            f"partition {logged.partition}, offset {logged.offset} of the log",
            f"event {recorded.sequence} of account {recorded.account_id}, {recorded.type_name}, follows event "
            f"{last}: the log itself is not whole, and nothing can be compared with it",
        )
    if account is None:
        return _opened(logged, recorded.recorded_at)
    changed, balance_minor, in_transit_minor = account, account.balance_minor, account.in_transit_minor
    withdrawals, forgotten = account.withdrawals, account.forgotten
    match event:
        case MoneyDeposited() | TransferReceived():
            balance_minor = event.balance_minor
        case TransferSent() | TransferReturned():
            balance_minor, in_transit_minor = event.balance_minor, event.in_transit_minor
        case TransferCompleted():
            in_transit_minor = event.in_transit_minor
        case MoneyWithdrawn() | MoneyRefunded():
            balance_minor = event.balance_minor
            withdrawals, forgotten = _remembered(withdrawals, forgotten, recorded.sequence, event)
        case _:
            changed = _changed(account, event, recorded.recorded_at)
    return replace(
        changed,
        sequence=recorded.sequence,
        updated_at=recorded.recorded_at,
        partition=logged.partition,
        offset=logged.offset,
        balance_before_minor=account.balance_minor,
        balance_minor=balance_minor,
        in_transit_minor=in_transit_minor,
        withdrawals=withdrawals,
        forgotten=forgotten,
    )


def fold(history: Iterable[LoggedEvent]) -> Account | None:
    """An account after these events of its, the first ones without a gap; None without any. Raises as `evolve`."""
    account: Account | None = None
    for logged in history:
        account = evolve(account, logged)
    return account


def in_force(history: Sequence[LoggedEvent], effective_at: int) -> Account | None:
    """The account as it was in force at a time, by events that count since then or before; None if none does.

    `history` is the account's first events in order: those that are known. Those that count are taken in the order of
    `effective_at`, and in the order recorded where that is the same, and the balance is the sum of what they moved,
    since the balance that an event gives is of the recorded order.

    The account exists from the first of its events that counts, be that back-dated to before the opening: what it
    moved was moved on this account. Once closed it stays closed. What is left to refund does not depend on the order:
    a refund is of the withdrawal that it names.
    """
    counting = [logged for logged in history if logged.recorded.effective_at <= effective_at]
    if not counting:
        return None
    first, newest = history[0], counting[-1]
    account = _opened(first, first.recorded.effective_at)
    withdrawals, forgotten = b"", 0
    for logged in counting:
        recorded = logged.recorded
        withdrawals, forgotten = _remembered(withdrawals, forgotten, recorded.sequence, recorded.event)
    for logged in sorted(counting, key=lambda logged: logged.recorded.effective_at):
        recorded = logged.recorded
        if logged is not first:
            account = replace(
                _changed(account, recorded.event, recorded.effective_at),
                updated_at=recorded.effective_at,
                balance_before_minor=account.balance_minor,
                balance_minor=account.balance_minor + moved(recorded.event),
                in_transit_minor=account.in_transit_minor + moved_in_transit(recorded.event),
            )
    return replace(
        account,
        sequence=newest.recorded.sequence,
        partition=newest.partition,
        offset=newest.offset,
        withdrawals=withdrawals,
        forgotten=forgotten,
    )


def moved(event: Event) -> int:
    """What an event did to the balance: positive, negative, or nothing."""
    match event:
        case MoneyDeposited() | MoneyRefunded() | TransferReceived() | TransferReturned():
            return event.amount_minor
        case MoneyWithdrawn() | TransferSent():
            return -event.amount_minor
        case _:
            return 0


def moved_in_transit(event: Event) -> int:
    """What an event did to the account's money in transit: positive, negative, or nothing."""
    match event:
        case TransferSent():
            return event.amount_minor
        case TransferCompleted() | TransferReturned():
            return -event.amount_minor
        case _:
            return 0


class Fold:
    """All accounts of the log as far as it was applied, but for what can be refunded.

    No read model has that, and of a million accounts it would take up to 16 GB.
    """

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.events = 0

    def apply(self, logged: LoggedEvent) -> Account:
        """The account as it is after the next event of its partition. Raises as `evolve`."""
        account_id = logged.recorded.account_id
        account = evolve(self.accounts.get(account_id), logged)
        if account.withdrawals:
            account = replace(account, withdrawals=b"")
        self.accounts[account_id] = account
        self.events += 1
        return account


def _opened(logged: LoggedEvent, at: int) -> Account:
    recorded = logged.recorded
    event = recorded.event
    if not isinstance(event, AccountCreated):
        raise UnreadableRecord(
            f"partition {logged.partition}, offset {logged.offset} of the log",
            f"the first event of account {recorded.account_id} is {recorded.type_name}, where AccountCreated must be",
        )
    return Account(
        account_id=recorded.account_id,
        currency=event.currency,
        holder_name=event.holder_name,
        holder_email=event.holder_email,
        overdraft_limit_minor=event.overdraft_limit_minor,
        opened_at=at,
        updated_at=at,
        partition=logged.partition,
        offset=logged.offset,
    )


def _changed(account: Account, event: Event, at: int) -> Account:
    """With what an event changes besides the money."""
    match event:
        case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded() | AccountCreated():
            return account
        case TransferSent() | TransferReceived() | TransferCompleted() | TransferReturned():
            return account
        case OverdraftLimitSet():
            return replace(account, overdraft_limit_minor=event.new_limit_minor)
        case HolderChanged():
            return replace(account, holder_name=event.holder_name, holder_email=event.holder_email)
        case HolderErased():
            return replace(account, holder_name=ERASED.value, holder_email=None, holder_erased=True)
        case AccountFrozen():
            return account if account.closed_at is not None else replace(account, status="frozen")
        case AccountUnfrozen():
            return account if account.closed_at is not None else replace(account, status="active")
        case AccountClosed():
            return replace(account, status="closed", closed_at=at)
        case _:
            assert_never(event)


def _remembered(withdrawals: bytes, forgotten: int, sequence: int, event: Event) -> tuple[bytes, int]:
    """What can be refunded after an event: `Account.withdrawals` and `Account.forgotten`."""
    match event:
        case MoneyWithdrawn():
            numbers = array("q", withdrawals)
            numbers.extend((sequence, event.amount_minor))
            if len(numbers) > 2 * REMEMBERED:
                forgotten = numbers[0]
                del numbers[:2]
            return numbers.tobytes(), forgotten
        case MoneyRefunded():
            numbers = array("q", withdrawals)
            at = 2 * bisect_left(numbers[::2], event.withdrawal_sequence)
            # One that is forgotten, or that does not count, leaves nothing to keep.
            if at < len(numbers) and numbers[at] == event.withdrawal_sequence:
                numbers[at + 1] -= event.amount_minor
            return numbers.tobytes(), forgotten
        case _:
            return withdrawals, forgotten
