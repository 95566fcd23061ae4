"""The documents of the `search` read model, and how events become them. Nothing here does I/O.

Field names are an interface (see `schemas.readmodels`): those of the events' Avro, with what searching adds. Times are
ISO 8601 in UTC with six digits of microseconds, so that they sort as text too. A field without a value is left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
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
from schemas.sealing import ERASED

_EPOCH: Final = datetime(1970, 1, 1)


class Unprojectable(ValueError):
    """An event that no document can be made of: the message says why."""


class AccountDocument(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An account as of its event `sequence`, which stands at `offset` of `partition`. What it says of the holder can be
    read, until that is erased.

    One with nothing in transit has no `in_transit_minor`, and one whose holder is not erased no `holder_erased`, which
    is so of all that are older than transfers and erasure: their documents need not be made anew.
    """

    account_id: str
    holder_name: str
    holder_email: str | None = None
    holder_erased: bool = False
    status: str
    currency: str
    balance_minor: int
    in_transit_minor: int = 0
    overdraft_limit_minor: int
    opened_at: str
    closed_at: str | None = None
    updated_at: str
    sequence: int
    partition: int
    offset: int


class EventDocument(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event: what it has itself, where it stands in the log, and the account's balance before and after it.

    Events that move no money have the balance, and the currency that it is in, all the same. What is in transit after
    an event only those have that change it. A freeze without a cause has none, which is so of all that are older than
    causes: their documents need not be made anew.
    """

    event_type: str
    event_id: str
    account_id: str
    sequence: int
    recorded_at: str
    effective_at: str
    user_id: str
    command_id: str
    correlation_id: str
    causation_id: str
    reason: str | None = None
    chain_hash: str
    partition: int
    offset: int
    currency: str
    balance_before_minor: int
    balance_minor: int
    amount_minor: int | None = None
    in_transit_minor: int | None = None
    transfer_id: str | None = None
    to_account_id: str | None = None
    from_account_id: str | None = None
    code: str | None = None
    message: str | None = None
    withdrawal_sequence: int | None = None
    limit_minor: int | None = None
    previous_limit_minor: int | None = None
    overdraft_limit_minor: int | None = None
    cause: str | None = None
    payout_reference: str | None = None
    holder_name: str | None = None
    holder_email: str | None = None


def iso(micros: int) -> str:
    """A time in microseconds since the Unix epoch, as documents have it. Raises `Unprojectable`: no year 1 to 9999."""
    seconds, rest = divmod(micros, 1_000_000)
    try:
        return f"{_whole_second(seconds)}.{rest:06}Z"
    except OverflowError:
        raise Unprojectable(f"the time {micros}, in microseconds since 1970, is in no year from 1 to 9999") from None


@lru_cache(maxsize=1024)
def _whole_second(seconds: int) -> str:
    """Events that are recorded one after the other share it, and it is most of the work of making their times text."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()


def evolve(document: AccountDocument | None, recorded: RecordedEvent, partition: int, offset: int) -> AccountDocument:
    """The account's document after its next event, which stands at an offset of a partition. Raises `Unprojectable`.

    What is personal in the event has been opened (`projectors.holders`).
    """
    at = iso(recorded.recorded_at)
    event = recorded.event
    if isinstance(event, AccountCreated):
        return AccountDocument(
            account_id=recorded.account_id,
            **_holder(event),
            status="active",
            currency=event.currency,
            balance_minor=0,
            overdraft_limit_minor=event.overdraft_limit_minor,
            opened_at=at,
            updated_at=at,
            sequence=recorded.sequence,
            partition=partition,
            offset=offset,
        )
    if document is None:
        raise Unprojectable(f"{recorded.type_name} is the account's first event, where AccountCreated must be")
    sequence = recorded.sequence
    match event:
        case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded() | TransferReceived():
            return replace(document, balance_minor=event.balance_minor, updated_at=at, sequence=sequence, offset=offset)
        case TransferSent() | TransferReturned():
            return replace(
                document,
                balance_minor=event.balance_minor,
                in_transit_minor=event.in_transit_minor,
                updated_at=at,
                sequence=sequence,
                offset=offset,
            )
        case TransferCompleted():
            return replace(
                document, in_transit_minor=event.in_transit_minor, updated_at=at, sequence=sequence, offset=offset
            )
        case OverdraftLimitSet():
            return replace(
                document, overdraft_limit_minor=event.new_limit_minor, updated_at=at, sequence=sequence, offset=offset
            )
        case HolderChanged():
            return replace(
                document,
                **_holder(event),
                updated_at=at,
                sequence=sequence,
                offset=offset,
            )
        case HolderErased():
            return replace(
                document,
                holder_name=ERASED.value,
                holder_email=None,
                holder_erased=True,
                updated_at=at,
                sequence=sequence,
                offset=offset,
            )
        case AccountFrozen():
            return replace(document, status="frozen", updated_at=at, sequence=sequence, offset=offset)
        case AccountUnfrozen():
            return replace(document, status="active", updated_at=at, sequence=sequence, offset=offset)
        case AccountClosed():
            return replace(document, status="closed", closed_at=at, updated_at=at, sequence=sequence, offset=offset)
        case _:
            assert_never(event)


def _holder(event: AccountCreated | HolderChanged) -> dict[str, Any]:
    """What an event says of the holder. Of one who was erased since, no less is said than once that is come to."""
    if event.holder_name is ERASED:
        return {"holder_name": ERASED.value, "holder_email": None, "holder_erased": True}
    return {"holder_name": event.holder_name, "holder_email": event.holder_email}


def event_document(
    recorded: RecordedEvent, partition: int, offset: int, balance_before_minor: int, currency: str
) -> EventDocument:
    """The document of an event at an offset of a partition, with the account's balance before it. Raises
    `Unprojectable`.

    What is personal in the event stays sealed, so that an erasure has nothing to change here.
    """
    event = recorded.event
    balance_minor = balance_before_minor
    amount_minor = withdrawal_sequence = limit_minor = previous_limit_minor = overdraft_limit_minor = None
    cause = payout_reference = holder_name = holder_email = None
    transfer_id = to_account_id = from_account_id = in_transit_minor = code = message = None
    match event:
        case MoneyDeposited() | MoneyWithdrawn():
            amount_minor, balance_minor = event.amount_minor, event.balance_minor
        case MoneyRefunded():
            amount_minor, balance_minor = event.amount_minor, event.balance_minor
            withdrawal_sequence = event.withdrawal_sequence
        case TransferSent() | TransferReturned() | TransferCompleted():
            amount_minor, in_transit_minor = event.amount_minor, event.in_transit_minor
            transfer_id, to_account_id = event.transfer_id, event.to_account_id
            if not isinstance(event, TransferCompleted):
                balance_minor = event.balance_minor
            if isinstance(event, TransferReturned):
                code, message = event.code, event.message
        case TransferReceived():
            amount_minor, balance_minor = event.amount_minor, event.balance_minor
            transfer_id, from_account_id = event.transfer_id, event.from_account_id
        case AccountCreated():
            overdraft_limit_minor = event.overdraft_limit_minor
            holder_name, holder_email = event.holder_name, event.holder_email
        case OverdraftLimitSet():
            limit_minor, previous_limit_minor = event.new_limit_minor, event.previous_limit_minor
        case HolderChanged():
            holder_name, holder_email = event.holder_name, event.holder_email
        case AccountFrozen():
            cause = said_cause(event)
        case AccountClosed():
            payout_reference = event.payout_reference
        case AccountUnfrozen() | HolderErased():
            pass
        case _:
            assert_never(event)
    recorded_at = iso(recorded.recorded_at)
    same = recorded.effective_at == recorded.recorded_at
    return EventDocument(
        event_type=recorded.type_name,
        event_id=recorded.event_id,
        account_id=recorded.account_id,
        sequence=recorded.sequence,
        recorded_at=recorded_at,
        effective_at=recorded_at if same else iso(recorded.effective_at),
        user_id=recorded.user_id,
        command_id=recorded.command_id,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        reason=recorded.reason,
        chain_hash=recorded.chain_hash.hex(),
        partition=partition,
        offset=offset,
        currency=currency,
        balance_before_minor=balance_before_minor,
        balance_minor=balance_minor,
        amount_minor=amount_minor,
        in_transit_minor=in_transit_minor,
        transfer_id=transfer_id,
        to_account_id=to_account_id,
        from_account_id=from_account_id,
        code=code,
        message=message,
        withdrawal_sequence=withdrawal_sequence,
        limit_minor=limit_minor,
        previous_limit_minor=previous_limit_minor,
        overdraft_limit_minor=overdraft_limit_minor,
        cause=cause,
        payout_reference=payout_reference,
        holder_name=holder_name,
        holder_email=holder_email,
    )
