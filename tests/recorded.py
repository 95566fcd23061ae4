"""Events as the log holds them, for tests of what reads the log, and what a plain fold makes of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from hypothesis import strategies as st

from projectors.projector import Batch
from schemas.events import (
    CHAIN_START,
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    FreezeCause,
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
    event_id,
)
from schemas.money import INT64_MAX, INT64_MIN

START: Final = 1_750_000_000_000_000
"""A moment in June 2025, in microseconds since the Unix epoch."""


def recorded(account_id: str, sequence: int, event: Event) -> RecordedEvent:
    """An event in its envelope, recorded as many seconds after `START` as its sequence says."""
    at = START + sequence * 1_000_000
    command_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{account_id}/{sequence}"))
    return RecordedEvent(
        event_id=event_id(command_id, 0, at),
        account_id=account_id,
        sequence=sequence,
        recorded_at=at,
        effective_at=at,
        user_id="teller",
        command_id=command_id,
        correlation_id=command_id,
        causation_id=command_id,
        reason=None,
        chain_hash=CHAIN_START,
        event=event,
    )


def opened(account_id: str, currency: str = "EUR") -> RecordedEvent:
    return recorded(account_id, 1, AccountCreated(currency=currency, holder_name="Ada"))


def deposited(account_id: str, sequence: int, balance_minor: int, currency: str = "EUR") -> RecordedEvent:
    return recorded(
        account_id, sequence, MoneyDeposited(amount_minor=1, currency=currency, balance_minor=balance_minor)
    )


def batch(events: Sequence[RecordedEvent], *, base: int | None, partition: int = 0) -> Batch:
    """A batch whose events are at the offsets from `base` on, one by one."""
    start = base or 0
    return Batch(partition, base, events, range(start, start + len(events)), start + len(events))


def histories(accounts: int, events: int, first: int = 1) -> list[RecordedEvent]:
    """As many events as asked for of each account, account after account in turn."""
    return [
        opened(f"A-{account}") if sequence == 1 else deposited(f"A-{account}", sequence, sequence * 100 + account)
        for sequence in range(first, first + events)
        for account in range(accounts)
    ]


Model = dict[str, dict[str, str]]


def plain_fold(events: Iterable[RecordedEvent]) -> Model:
    """Each account's hash as the `balances` read model should have it, made one event after the other."""
    model: Model = {}
    for item in events:
        account = model.setdefault(item.account_id, {})
        account |= {"sequence": str(item.sequence), "updated_at": str(item.recorded_at)}
        event = item.event
        if isinstance(event, AccountCreated):
            account |= {"currency": event.currency, "balance_minor": "0", "in_transit_minor": "0", "status": "active"}
        elif isinstance(event, MoneyDeposited | MoneyWithdrawn | MoneyRefunded | TransferReceived):
            account["balance_minor"] = str(event.balance_minor)
        elif isinstance(event, TransferCompleted):
            account["in_transit_minor"] = str(event.in_transit_minor)
        elif isinstance(event, TransferSent | TransferReturned):
            account["balance_minor"] = str(event.balance_minor)
            account["in_transit_minor"] = str(event.in_transit_minor)
        elif isinstance(event, AccountFrozen):
            account["status"] = "frozen"
        elif isinstance(event, AccountUnfrozen):
            account["status"] = "active"
        elif isinstance(event, AccountClosed):
            account["status"] = "closed"
    return model


_BALANCES: Final = st.integers(INT64_MIN, INT64_MAX)


def sent(
    account_id: str,
    sequence: int,
    transfer: int,
    *,
    to: str = "B-1",
    amount: int = 1,
    balance: int = 0,
    in_transit: int | None = None,
    currency: str = "EUR",
) -> RecordedEvent:
    """Transfer number `transfer` leaves an account, which has it alone in transit unless said otherwise."""
    event = TransferSent(
        transfer_id=transfer_id(transfer),
        to_account_id=to,
        amount_minor=amount,
        currency=currency,
        balance_minor=balance,
        in_transit_minor=amount if in_transit is None else in_transit,
    )
    return recorded(account_id, sequence, event)


def received(
    account_id: str,
    sequence: int,
    transfer: int,
    *,
    sender: str = "A-1",
    amount: int = 1,
    balance: int | None = None,
    currency: str = "EUR",
) -> RecordedEvent:
    event = TransferReceived(
        transfer_id=transfer_id(transfer),
        from_account_id=sender,
        amount_minor=amount,
        currency=currency,
        balance_minor=amount if balance is None else balance,
    )
    return recorded(account_id, sequence, event)


def completed(
    account_id: str,
    sequence: int,
    transfer: int,
    *,
    to: str = "B-1",
    amount: int = 1,
    in_transit: int = 0,
    currency: str = "EUR",
) -> RecordedEvent:
    event = TransferCompleted(
        transfer_id=transfer_id(transfer),
        to_account_id=to,
        amount_minor=amount,
        currency=currency,
        in_transit_minor=in_transit,
    )
    return recorded(account_id, sequence, event)


def returned(
    account_id: str,
    sequence: int,
    transfer: int,
    *,
    to: str = "B-1",
    amount: int = 1,
    balance: int | None = None,
    in_transit: int = 0,
    currency: str = "EUR",
) -> RecordedEvent:
    event = TransferReturned(
        transfer_id=transfer_id(transfer),
        to_account_id=to,
        amount_minor=amount,
        currency=currency,
        balance_minor=amount if balance is None else balance,
        in_transit_minor=in_transit,
        code="account_closed",
        message=f"account {to} is closed",
    )
    return recorded(account_id, sequence, event)


def transfer_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def _later(currency: str) -> st.SearchStrategy[Event]:
    """Any event that may follow the first. Not every history is one that the domain allows: none should matter."""
    money = {"amount_minor": st.just(1), "currency": st.just(currency), "balance_minor": _BALANCES}
    transfer = {"transfer_id": st.just(transfer_id(1))}
    return st.one_of(
        st.builds(MoneyDeposited, **money),
        st.builds(MoneyWithdrawn, **money),
        st.builds(MoneyRefunded, **money, withdrawal_sequence=st.just(2)),
        st.builds(
            OverdraftLimitSet,
            previous_limit_minor=st.sampled_from((None, 0)),
            new_limit_minor=st.just(1),
            currency=st.just(currency),
        ),
        st.builds(TransferSent, **money, **transfer, to_account_id=st.just("B-1"), in_transit_minor=_BALANCES),
        st.builds(TransferReceived, **money, **transfer, from_account_id=st.just("B-1")),
        st.builds(
            TransferCompleted,
            amount_minor=st.just(1),
            currency=st.just(currency),
            **transfer,
            to_account_id=st.just("B-1"),
            in_transit_minor=st.sampled_from((0, INT64_MAX)),
        ),
        st.builds(
            TransferReturned,
            **money,
            **transfer,
            to_account_id=st.just("B-1"),
            in_transit_minor=_BALANCES,
            code=st.just("account_closed"),
            message=st.just("account B-1 is closed"),
        ),
        st.builds(HolderChanged, holder_name=st.just("Grace")),
        st.just(HolderErased()),
        st.sampled_from((AccountFrozen(), AccountFrozen(cause=FreezeCause.SANCTIONS), AccountUnfrozen())),
    )


@st.composite
def logs(draw: st.DrawFn) -> list[RecordedEvent]:
    """One partition's events: a few accounts' gapless streams, interleaved; some end with the account closed."""
    accounts = {"A-1": "EUR", "A-2": "EUR", "ä/3": "JPY", "A-4": "KWD"}
    order = draw(st.lists(st.sampled_from(sorted(accounts)), max_size=40))
    closing = draw(st.sets(st.sampled_from(sorted(accounts))))
    remaining = {account_id: order.count(account_id) for account_id in accounts}
    sequences = dict.fromkeys(accounts, 0)
    log = []
    for account_id in order:
        sequences[account_id] += 1
        remaining[account_id] -= 1
        currency = accounts[account_id]
        if sequences[account_id] == 1:
            log.append(opened(account_id, currency))
        elif remaining[account_id] == 0 and account_id in closing:
            payout = draw(st.sampled_from((None, "SEPA 7")))
            log.append(recorded(account_id, sequences[account_id], AccountClosed(payout_reference=payout)))
        else:
            log.append(recorded(account_id, sequences[account_id], draw(_later(currency))))
    return log
