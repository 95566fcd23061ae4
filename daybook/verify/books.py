"""The books that `verify money` keeps while it reads the log: every account's own stream, and every transfer's legs.

Each event is held against its account's events before it, and each leg of a transfer against the others as soon as both
were read, in whichever order: accounts are on different partitions, which are read as they come. A transfer whose legs
are all there is dropped, so that memory grows with the accounts and with what is in flight, not with history.

From balances that follow one by one, and money that is received where it was sent, once, it follows that at every
prefix of a consistent cut, per currency, deposits + refunds - withdrawals = balances + in transit.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from uuid import UUID

from daybook.log import LoggedEvent
from daybook.timetravel.points import moment_of
from daybook.transfers import InFlight
from schemas.events import (
    AccountCreated,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.money import Money, format_amount
from schemas.transfers import complete_id, receive_id, return_id


class Wrong(Exception):
    """The log contradicts itself. `where` names the event, `what` says what is wrong with it."""

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        self.what = what
        super().__init__(f"{where}: {what}")


@dataclass(slots=True)
class Sums:
    """All of a currency, in minor units; `in_transit_minor` has left one account and is in no other."""

    accounts: int = 0
    deposited_minor: int = 0
    refunded_minor: int = 0
    withdrawn_minor: int = 0
    balances_minor: int = 0
    in_transit_minor: int = 0
    arrived_minor: int = 0
    """What has arrived, and of which the sending account has yet to hear."""

    @property
    def paid_in_minor(self) -> int:
        return self.deposited_minor + self.refunded_minor - self.withdrawn_minor


class _Account:
    __slots__ = ("balance_minor", "currency", "in_transit_minor", "open", "sequence")

    def __init__(self, currency: str) -> None:
        self.sequence = 1
        self.currency = currency
        self.balance_minor = 0
        self.in_transit_minor = 0
        self.open: dict[str, bytes] | None = None
        """The transfers that it has in transit, and under which key their legs are."""


class _End(Enum):
    COMPLETED = "completed"
    RETURNED = "returned"


class _Legs:
    """The legs of one transfer that were read. `received` and `ended` are where they stand, for who has to be told."""

    __slots__ = ("end", "ended", "received", "sent")

    def __init__(self) -> None:
        self.sent: LoggedEvent | None = None
        self.received: LoggedEvent | None = None
        self.end: _End | None = None
        self.ended: LoggedEvent | None = None

    @property
    def lacks(self) -> bool:
        """Whether there is a leg without the one that it follows from."""
        return (self.received is not None and self.sent is None) or (
            self.end is _End.COMPLETED and self.received is None
        )


class Books:
    """Folds events, each account's in order; `close` and `sums` come at the end."""

    def __init__(self) -> None:
        self.events = 0
        self.completed = 0
        self.returned = 0
        self.most_open = 0
        """The most transfers that were in memory at once."""
        self._accounts: dict[str, _Account] = {}
        self._sums: defaultdict[str, Sums] = defaultdict(Sums)
        self._legs: dict[bytes, _Legs] = {}

    @property
    def accounts(self) -> int:
        return len(self._accounts)

    def apply(self, logged: LoggedEvent) -> None:
        """Raises: `Wrong`, when the event does not follow from what was read before it."""
        recorded, event = logged.recorded, logged.recorded.event
        self.events += 1
        if isinstance(event, AccountCreated):
            self._open(logged, event)
            return
        account = self._accounts.get(recorded.account_id)
        if account is None or recorded.sequence != account.sequence + 1:
            due = 1 if account is None else account.sequence + 1
            raise Wrong(_where(logged), f"event {due} of the account must be next: one is missing, or came twice")
        account.sequence = recorded.sequence
        match event:
            case MoneyDeposited():
                self._move(logged, account, event, event.amount_minor)
                self._sums[account.currency].deposited_minor += event.amount_minor
            case MoneyRefunded():
                self._move(logged, account, event, event.amount_minor)
                self._sums[account.currency].refunded_minor += event.amount_minor
            case MoneyWithdrawn():
                self._move(logged, account, event, -event.amount_minor)
                self._sums[account.currency].withdrawn_minor += event.amount_minor
            case TransferSent():
                self._move(logged, account, event, -event.amount_minor)
                self._move_in_transit(logged, account, event, event.amount_minor)
                self._sent(logged, account, event)
            case TransferReceived():
                self._move(logged, account, event, event.amount_minor)
                self._received(logged)
            case TransferCompleted():
                self._move_in_transit(logged, account, event, -event.amount_minor)
                self._ended(logged, account, event, _End.COMPLETED)
            case TransferReturned():
                self._move(logged, account, event, event.amount_minor)
                self._move_in_transit(logged, account, event, -event.amount_minor)
                self._ended(logged, account, event, _End.RETURNED)
            case _:
                # It moves no money.
                pass

    def close(self, tail: Iterable[LoggedEvent]) -> None:
        """Make a consistent cut of what was read: fold of `tail`, what follows it in the log, what it depends on.

        That is the sending of what was received, the receipt of what was completed, and whatever their accounts did
        before. All of it is written by the transaction of what depends on it at the latest, hence in a tail that
        reaches up to where the log ended after all that was read had been committed.

        Raises: `Wrong`, when it is not there, or a leg in `tail` has no id that tells which transfer it is of.
        """
        streams: defaultdict[str, deque[LoggedEvent]] = defaultdict(deque)
        places: dict[tuple[bytes, type], LoggedEvent] = {}
        for logged in tail:
            streams[logged.recorded.account_id].append(logged)
            # Of what is received twice the first is what others depend on, and the second is found to be one too many.
            if isinstance(logged.recorded.event, TransferSent | TransferReceived):
                places.setdefault((_key(logged), type(logged.recorded.event)), logged)
        while lacking := [(key, legs) for key, legs in self._legs.items() if legs.lacks]:
            for key, legs in sorted(lacking, key=lambda found: _first_of(found[1]).recorded.recorded_at):
                if not legs.lacks:
                    continue
                wanted = places.get((key, TransferSent if legs.sent is None else TransferReceived))
                if wanted is not None:
                    stream = streams[wanted.recorded.account_id]
                    while stream and stream[0].recorded.sequence <= wanted.recorded.sequence:
                        self.apply(stream.popleft())
                if legs.lacks:
                    raise _unfounded(legs)

    def sums(self) -> dict[str, Sums]:
        """What there is of each currency, once the cut is closed. Raises: `Wrong`, when it does not add up."""
        found = {currency: replace(sums) for currency, sums in sorted(self._sums.items())}
        unsettled: defaultdict[str, int] = defaultdict(int)
        for account in self._accounts.values():
            sums = found[account.currency]
            sums.balances_minor += account.balance_minor
            unsettled[account.currency] += account.in_transit_minor
        for legs in self._legs.values():
            if legs.sent is not None and isinstance(sent := legs.sent.recorded.event, TransferSent):
                sums = found[sent.currency]
                if legs.received is None:
                    sums.in_transit_minor += sent.amount_minor
                else:
                    sums.arrived_minor += sent.amount_minor
        for currency, sums in found.items():
            there_minor = sums.balances_minor + sums.in_transit_minor
            if sums.paid_in_minor != there_minor:
                paid, there = _text(sums.paid_in_minor, currency), _text(there_minor, currency)
                raise Wrong(currency, f"{paid} were paid in, and {there} are in balances and in transit")
            if unsettled[currency] != sums.in_transit_minor + sums.arrived_minor:
                said = _text(unsettled[currency], currency)
                raise Wrong(currency, f"the accounts say that {said} are in transit, and the transfers say otherwise")
        return found

    def in_flight(self) -> list[InFlight]:
        """What was sent and is not settled, once the cut is closed: what was sent first before the others."""
        found = [_in_flight(legs.sent, legs.received) for legs in self._legs.values() if legs.sent is not None]
        return sorted(found, key=lambda one: (one.sent_at, one.from_account_id, one.sequence))

    def _open(self, logged: LoggedEvent, event: AccountCreated) -> None:
        account_id = logged.recorded.account_id
        if account_id in self._accounts or logged.recorded.sequence != 1:
            raise Wrong(_where(logged), "the account was opened before, or not by its first event")
        self._accounts[account_id] = _Account(event.currency)
        self._sums[event.currency].accounts += 1

    def _move(
        self,
        logged: LoggedEvent,
        account: _Account,
        event: MoneyDeposited | MoneyRefunded | MoneyWithdrawn | TransferSent | TransferReceived | TransferReturned,
        moved_minor: int,
    ) -> None:
        if event.currency != account.currency or event.amount_minor <= 0:
            what = f"{event.amount_minor} minor units of {event.currency} moved on an account in {account.currency}"
            raise Wrong(_where(logged), what)
        due_minor = account.balance_minor + moved_minor
        if event.balance_minor != due_minor:
            due, said = _text(due_minor, account.currency), _text(event.balance_minor, account.currency)
            raise Wrong(_where(logged), f"the balance is {said} after it, where {due} follows from the event before it")
        account.balance_minor = due_minor

    def _move_in_transit(
        self,
        logged: LoggedEvent,
        account: _Account,
        event: TransferSent | TransferCompleted | TransferReturned,
        moved_minor: int,
    ) -> None:
        due_minor = account.in_transit_minor + moved_minor
        if event.currency != account.currency or event.in_transit_minor != due_minor:
            due, said = _text(due_minor, account.currency), _text(event.in_transit_minor, account.currency)
            what = f"{said} are in transit after it, where {due} follows from the events before it"
            raise Wrong(_where(logged), what)
        account.in_transit_minor = due_minor

    def _sent(self, logged: LoggedEvent, account: _Account, event: TransferSent) -> None:
        account.open = account.open or {}
        if event.transfer_id in account.open:
            raise Wrong(_where(logged), f"transfer {event.transfer_id} is sent again while it is in transit")
        key = _key(logged)
        account.open[event.transfer_id] = key
        legs = self._of(key)
        legs.sent = logged
        if legs.received is not None:
            _must_match(logged, legs.received)

    def _received(self, logged: LoggedEvent) -> None:
        key = _key(logged)
        legs = self._of(key)
        if legs.received is not None:
            raise Wrong(_where(logged), f"a transfer is received that {_where(legs.received)} received already")
        legs.received = logged
        if legs.sent is not None:
            _must_match(legs.sent, logged)
            self._retire(key, legs)

    def _ended(
        self, logged: LoggedEvent, account: _Account, event: TransferCompleted | TransferReturned, end: _End
    ) -> None:
        key = (account.open or {}).pop(event.transfer_id, None)
        legs = None if key is None else self._legs.get(key)
        if key is None or legs is None or legs.sent is None or not isinstance(legs.sent.recorded.event, TransferSent):
            raise Wrong(_where(logged), f"transfer {event.transfer_id} is settled, which is not in transit")
        if not account.open:
            account.open = None
        sent = legs.sent.recorded.event
        if (event.amount_minor, event.to_account_id) != (sent.amount_minor, sent.to_account_id):
            raise Wrong(_where(logged), f"another amount or account than {_where(legs.sent)} sent is settled")
        received = str(UUID(bytes=key))
        due = complete_id(received) if end is _End.COMPLETED else return_id(received)
        if logged.recorded.command_id != due:
            raise Wrong(_where(logged), f"it was settled by command {logged.recorded.command_id}, and not by {due}")
        if end is _End.RETURNED and legs.received is not None:
            raise Wrong(_where(logged), f"a transfer is returned that {_where(legs.received)} received")
        legs.end, legs.ended = end, logged
        self._retire(key, legs)

    def _of(self, key: bytes) -> _Legs:
        legs = self._legs.get(key)
        if legs is None:
            legs = self._legs[key] = _Legs()
            self.most_open = max(self.most_open, len(self._legs))
        return legs

    def _retire(self, key: bytes, legs: _Legs) -> None:
        """Drop a transfer that is all there. Should it be received later, no sending is there for that."""
        if legs.end is _End.RETURNED:
            self.returned += 1
            del self._legs[key]
        elif legs.end is _End.COMPLETED and legs.received is not None:
            self.completed += 1
            del self._legs[key]


def _unfounded(legs: _Legs) -> Wrong:
    first = _first_of(legs)
    if legs.sent is None:
        what = "money is received that no account has sent, or whose transfer was completed or returned before"
        return Wrong(_where(first), what)
    return Wrong(_where(first), f"a transfer is completed that was never received; {_where(legs.sent)} sent it")


def _key(logged: LoggedEvent) -> bytes:
    """What a sending and its receipt have in common: the id of the command to receive it.

    Raises: `Wrong`, when the id that it follows from is not a UUID.
    """
    recorded, event = logged.recorded, logged.recorded.event
    if isinstance(event, TransferSent):
        # The whole of it is looked at, since the other id can be derived from any hexadecimal digits.
        _uuid(logged, "transfer id", event.transfer_id)
        return UUID(receive_id(event.transfer_id, recorded.account_id, recorded.sequence)).bytes
    return _uuid(logged, "command id", recorded.command_id).bytes


def _uuid(logged: LoggedEvent, name: str, text: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        found = None
    # The constructor also takes other forms, which the ledger does not.
    if found is None or str(found) != text.lower():
        raise Wrong(_where(logged), f'its {name} "{text}" is not a UUID in its usual text form')
    return found


def _must_match(sent: LoggedEvent, received: LoggedEvent) -> None:
    left, arrived = sent.recorded.event, received.recorded.event
    if not isinstance(left, TransferSent) or not isinstance(arrived, TransferReceived):
        raise TypeError("these are no legs of a transfer")
    facts = (
        ("transfer id", left.transfer_id, arrived.transfer_id),
        ("amount in minor units", left.amount_minor, arrived.amount_minor),
        ("currency", left.currency, arrived.currency),
        ("sending account", sent.recorded.account_id, arrived.from_account_id),
        ("receiving account", left.to_account_id, received.recorded.account_id),
    )
    for name, there, here in facts:
        if there != here:
            raise Wrong(_where(received), f"its {name} is {here}, where {_where(sent)} says {there}")


def _first_of(legs: _Legs) -> LoggedEvent:
    """The leg that lacks the one before it."""
    found = legs.received or legs.ended
    if found is None:
        raise ValueError("these legs lack nothing")
    return found


def _in_flight(sent: LoggedEvent, received: LoggedEvent | None) -> InFlight:
    recorded, event = sent.recorded, sent.recorded.event
    if not isinstance(event, TransferSent):
        raise TypeError("this is no sending")
    return InFlight(
        transfer_id=event.transfer_id,
        from_account_id=recorded.account_id,
        to_account_id=event.to_account_id,
        amount=Money(event.amount_minor, event.currency),
        sent_at=moment_of(recorded.recorded_at),
        sequence=recorded.sequence,
        user_id=recorded.user_id,
        reason=recorded.reason,
        correlation_id=recorded.correlation_id,
        arrived=received is not None,
    )


def _where(logged: LoggedEvent) -> str:
    recorded = logged.recorded
    at = f"partition {logged.partition}, offset {logged.offset}"
    return f"{recorded.type_name} {recorded.account_id}/{recorded.sequence} ({at})"


def _text(amount_minor: int, currency: str) -> str:
    # What all accounts have together may be more than one may have.
    return f"{format_amount(amount_minor, currency)} {currency}"
