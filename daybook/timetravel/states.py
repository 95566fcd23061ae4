"""What one account was, and what became of it between two points. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from daybook.errors import DaybookError, InvalidPoint, NothingThen
from daybook.fold import Account, fold, in_force
from daybook.log import LoggedEvent
from daybook.timetravel.points import Point, UpToSequence, UpToTime, moment_of, text
from schemas.money import InvalidMoney, Money, format_amount


@dataclass(frozen=True, slots=True)
class PastAccount:
    """An account as it was after its event number `sequence`.

    Of an account in force at a time, the times are those since when things count, and `sequence` is the newest of its
    events that counts.
    """

    account_id: str
    holder_name: str
    """Sealed, as the e-mail address is: `Client.holders` opens both. `[erased]` after the erasure."""
    holder_email: str | None
    holder_erased: bool
    status: str
    """`active`, `frozen` or `closed`."""
    money: Money
    in_transit: Money
    """What it had sent to other accounts and was not settled: no longer in `money`."""
    overdraft_limit: Money
    refundable: Mapping[int, Money]
    """What could still be refunded of withdrawals, by their sequence; those with nothing left are left out."""
    opened_at: datetime
    closed_at: datetime | None
    updated_at: datetime
    sequence: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a field of `PastAccount` was and became. What an account was before there was one is None."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """An account at two points, what changed from one to the other, and the events that changed it."""

    before: PastAccount | None
    after: PastAccount | None
    changes: Sequence[Change]
    events: Sequence[LoggedEvent]


def state(history: Sequence[LoggedEvent], until: Point | None, effective_at: int | None = None) -> PastAccount | None:
    """What these first events of an account make of it up to a point, or in force at a time by what was known then.

    None before it was there.
    """
    known = history if until is None else [logged for logged in history if until.includes(logged.recorded)]
    account = fold(known) if effective_at is None else in_force(known, effective_at)
    return None if account is None else past_account(account)


def past_account(account: Account) -> PastAccount:
    """Raises: `DaybookError`, as `past_money` does."""
    currency = account.currency
    return PastAccount(
        account_id=account.account_id,
        holder_name=account.holder_name,
        holder_email=account.holder_email,
        holder_erased=account.holder_erased,
        status=account.status,
        money=past_money(account.account_id, account.balance_minor, currency),
        in_transit=past_money(account.account_id, account.in_transit_minor, currency),
        overdraft_limit=Money(account.overdraft_limit_minor, currency),
        refundable={number: Money(left, currency) for number, left in account.refundable().items() if left},
        opened_at=moment_of(account.opened_at),
        closed_at=None if account.closed_at is None else moment_of(account.closed_at),
        updated_at=moment_of(account.updated_at),
        sequence=account.sequence,
    )


def past_money(account_id: str, balance_minor: int, currency: str) -> Money:
    """An account's balance, or what it had in transit: in force it may be what the ledger, in its own order, would not
    have come to.

    Raises: `DaybookError`, where 64 bits do not hold it.
    """
    try:
        return Money(balance_minor, currency)
    except InvalidMoney:
        raise DaybookError(
            f"what counts of account {account_id} by then comes to {format_amount(balance_minor, currency)} {currency}"
            ", which is more than a balance can be (64 bits): ask for a later time, by which what it was balanced with "
            "counts too"
        ) from None


_COMPARED: Final = tuple(
    # These change with every event, which the events themselves say.
    field.name
    for field in fields(PastAccount)
    if field.name not in ("account_id", "updated_at", "sequence")
)


def difference(
    history: Sequence[LoggedEvent], start: Point, end: Point | None, effective_at: int | None = None
) -> Difference:
    """What an account's first events made of it from one point to another; with a time, of what was in force then.

    With `effective_at` both sides are about that same time, by what was known at the one point and at the other, and
    the events are those that became known in between and count since then or before.

    Raises: `InvalidPoint`, when the end is before the start.
    """
    if end is not None and _length(history, end) < _length(history, start):
        raise InvalidPoint(f"{end} is before {start}: give the earlier one first")
    before, after = state(history, start, effective_at), state(history, end, effective_at)
    return Difference(
        before,
        after,
        changes(before, after),
        [
            logged
            for logged in history
            if not start.includes(logged.recorded)
            and (end is None or end.includes(logged.recorded))
            and (effective_at is None or logged.recorded.effective_at <= effective_at)
        ],
    )


def _length(history: Sequence[LoggedEvent], until: Point) -> int:
    return sum(until.includes(logged.recorded) for logged in history)


def changes(before: PastAccount | None, after: PastAccount | None) -> Sequence[Change]:
    """The fields in which two states differ."""
    pairs = ((name, _value(before, name), _value(after, name)) for name in _COMPARED)
    return [Change(name, was, became) for name, was, became in pairs if was != became]


def _value(account: PastAccount | None, name: str) -> Any:
    return None if account is None else getattr(account, name)


def nothing_then(first: LoggedEvent, until: Point | None, effective_at: int | None) -> NothingThen:
    """What is said where there was nothing of an account that there is now; `first` is its first event."""
    recorded = first.recorded
    if effective_at is None:
        asked = f"at {until}"
    else:
        asked = f"in force at {text(effective_at)}" + ("" if until is None else f", by what was known at {until}")
    since = "" if recorded.effective_at == recorded.recorded_at else f", effective {text(recorded.effective_at)}"
    return NothingThen(
        f"there was no account {recorded.account_id} {asked}: it was opened at {text(recorded.recorded_at)}{since}"
    )


def must_have(account_id: str, newest: int, asked: Point | None, source: str) -> None:
    """Raises: `NothingThen`, where the point is an event that there is not yet."""
    if isinstance(asked, UpToSequence) and asked.sequence > newest:
        events = f"{newest} event{'' if newest == 1 else 's'}"
        raise NothingThen(f"account {account_id} has {events} in {source}, and no event {asked.sequence} yet")


def must_precede(start: Point, end: Point) -> None:
    """Raises: `InvalidPoint`, where the end is before the start as far as that can be told without the events."""
    match start, end:
        case (UpToSequence(first), UpToSequence(last)) | (UpToTime(first), UpToTime(last)) if last < first:
            raise InvalidPoint(f"{end} is before {start}: give the earlier one first")
        case _:
            pass
