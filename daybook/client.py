"""The Python client: commands in, replies out, and the read models."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack
from uuid import uuid4

from daybook.errors import DaybookError, Refused, ReplyTimeout
from daybook.link import Answer, Link, Outcomes
from daybook.log import LoggedEvent, read_log
from daybook.models import EPOCH, Balance, Balances
from schemas.commands import (
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CommandReply,
    Deposit,
    Freeze,
    OpenAccount,
    Refund,
    SetOverdraftLimit,
    Unfreeze,
    Withdraw,
    now_micros,
)
from schemas.connections import Connections
from schemas.money import InvalidMoney, Money
from schemas.topics import Topics

if TYPE_CHECKING:
    from daybook.search import AccountPage, AccountView, AuditEntry, SearchIndex

C = TypeVar("C", bound=AnyCommand)


class Common(TypedDict, total=False):
    """What any command may be given besides its own fields, and how long its reply is waited for."""

    command_id: str
    """A UUID; a fresh one unless given. Giving the same command again under the same id is always safe."""
    expected_version: int | None
    """Refuse unless this is the account's sequence."""
    correlation_id: str | None
    effective_at: datetime | int | None
    """Since when it counts: an aware datetime, or microseconds since the Unix epoch. Not in the future."""
    reason: str | None
    timeout_s: float | None


class Client:
    """A user's connection to the ledger. Connects to each server when it is first needed; close it, or use `with`.

    One client may be used by several threads. The methods that give a command return the ledger's reply, and raise
    `Refused` when it decided against the command, `Unreachable`, `NotTaken` or `ReplyTimeout` when there is none.
    """

    def __init__(self, connections: Connections | None = None, *, user_id: str, timeout_s: float = 10.0) -> None:
        """`user_id` is recorded with every event; `timeout_s` bounds each wait that is not given a bound of its own.

        `timeout_s` also bounds how long a command may wait for a broker that is away before it is given up.

        Raises: `NotConfigured`, when no connections are given and the environment does not say where servers are.
        """
        self._connections = Connections.from_environment() if connections is None else connections
        self._user_id = user_id
        self._timeout_s = timeout_s
        self._lock = Lock()
        self._closed = False
        self._link: Link | None = None
        self._balances: Balances | None = None
        self._search: SearchIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; blocks for a few seconds at most. Commands still unanswered fail in their threads."""
        with self._lock:
            self._closed = True
            if self._link is not None:
                self._link.close()
                self._link = None
            if self._balances is not None:
                self._balances.close()
                self._balances = None
            if self._search is not None:
                self._search.close()
                self._search = None

    @property
    def connections(self) -> Connections:
        return self._connections

    @property
    def topics(self) -> Topics:
        return self._connections.topics

    def execute(self, command: AnyCommand, *, timeout_s: float | None = None) -> CommandReply:
        """Give one command and wait for its reply, which has been recorded by then.

        Raises:
            Refused: the ledger decided against it.
            NotTaken: Kafka turned the command down, since it is too large or not allowed; it was not carried out.
            Unreachable: Kafka or the registry cannot be reached, or what Daybook needs was not deployed there.
            ReplyTimeout: no reply in time; whether it was carried out is unknown, and giving it again is safe.
            ValueError: its command id is not a UUID.
        """
        bound_s = self._bound(timeout_s)
        deadline = time.monotonic() + bound_s
        link = self._linked(deadline)
        outcomes: Outcomes = SimpleQueue()
        link.send(command, outcomes, deadline)
        try:
            reply = _answer(outcomes.get(timeout=max(0.0, deadline - time.monotonic()))).reply
        except Empty:
            raise link.why_silent() or ReplyTimeout([command.command_id], bound_s) from None
        finally:
            link.withdraw(command.command_id.encode(), outcomes)
        if not reply.accepted:
            raise Refused(reply)
        return reply

    def send_many(
        self, commands: Iterable[AnyCommand], *, window: int = 10_000, timeout_s: float | None = None
    ) -> Iterator[CommandReply]:
        """Give many commands without waiting for each; yields their replies as they come, refusals included.

        See `answers`, which also tells the replies apart that had been given before.
        """
        for answer in self.answers(commands, window=window, timeout_s=timeout_s):
            yield answer.reply

    def answers(
        self, commands: Iterable[AnyCommand], *, window: int = 10_000, timeout_s: float | None = None
    ) -> Iterator[Answer]:
        """Give many commands without waiting for each; yields each reply as it comes, and whether it was replayed.

        At most `window` commands are under way, which bounds the memory. One account's commands are decided in the
        order given. Replies come in no particular order, and only while they are taken: an iterator that is left
        behind leaves up to `window` commands of unknown outcome. A command id that is given twice is answered twice.

        Raises:
            NotTaken, Unreachable: as `execute` does; what was given before may have been carried out.
            ReplyTimeout: nothing came for `timeout_s` though replies are owed; it names the unanswered commands.
        """
        bound_s = self._bound(timeout_s)
        link = self._linked(time.monotonic() + bound_s)
        outcomes: Outcomes = SimpleQueue()
        owed = 0
        try:
            for command in commands:
                while owed >= window:
                    yield self._next_answer(link, outcomes, bound_s)
                    owed -= 1
                link.send(command, outcomes, time.monotonic() + bound_s)
                owed += 1
                while not outcomes.empty():
                    yield _answer(outcomes.get())
                    owed -= 1
            while owed > 0:
                yield self._next_answer(link, outcomes, bound_s)
                owed -= 1
        finally:
            link.forget(outcomes)

    def command(
        self,
        kind: type[C],
        account_id: str,
        *,
        command_id: str | None = None,
        effective_at: datetime | int | None = None,
        **fields: Any,
    ) -> C:
        """Build a command of a kind from its own fields, with the common ones filled in; for `send_many`.

        Raises: `TypeError`, when the kind has no such field, or one is missing.
        """
        return kind(
            command_id=str(uuid4()) if command_id is None else command_id,
            account_id=account_id,
            user_id=self._user_id,
            issued_at=now_micros(),
            effective_at=_micros(effective_at),
            **fields,
        )

    def open_account(
        self,
        account_id: str,
        currency: str,
        holder_name: str,
        *,
        holder_email: str | None = None,
        overdraft: Money | str | None = None,
        **common: Unpack[Common],
    ) -> CommandReply:
        """Open an account whose balance may go down to `-overdraft`, which is nothing unless given.

        Raises: `InvalidMoney`, when the overdraft is no amount or in another currency.
        """
        limit = Money(0, currency) if overdraft is None else _money(overdraft)
        if limit.currency != currency:
            raise InvalidMoney(f"the overdraft is in {limit.currency}, but the account in {currency}")
        return self._give(
            OpenAccount,
            account_id,
            common,
            currency=currency,
            holder_name=holder_name,
            holder_email=holder_email,
            overdraft_limit_minor=limit.amount_minor,
        )

    def deposit(self, account_id: str, amount: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Pay money in. `amount` is `Money`, or as people write it: `"200.00 EUR"`. Raises: `InvalidMoney`."""
        return self._give(Deposit, account_id, common, **_fields(amount))

    def withdraw(self, account_id: str, amount: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Take money out. Raises: `InvalidMoney`."""
        return self._give(Withdraw, account_id, common, **_fields(amount))

    def refund(
        self, account_id: str, withdrawal_sequence: int, amount: Money | str, **common: Unpack[Common]
    ) -> CommandReply:
        """Give money back for the withdrawal that is event `withdrawal_sequence` of the account.

        Raises: `InvalidMoney`.
        """
        fields = _fields(amount)
        return self._give(Refund, account_id, common, withdrawal_sequence=withdrawal_sequence, **fields)

    def set_overdraft_limit(self, account_id: str, limit: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Let the balance go down to `-limit`. Raises: `InvalidMoney`."""
        money = _money(limit)
        fields = {"limit_minor": money.amount_minor, "currency": money.currency}
        return self._give(SetOverdraftLimit, account_id, common, **fields)

    def change_holder(
        self, account_id: str, holder_name: str, *, holder_email: str | None = None, **common: Unpack[Common]
    ) -> CommandReply:
        """Replace both the name and the e-mail address of the account's holder."""
        return self._give(ChangeHolder, account_id, common, holder_name=holder_name, holder_email=holder_email)

    def freeze(self, account_id: str, **common: Unpack[Common]) -> CommandReply:
        """Let no money move until `unfreeze`."""
        return self._give(Freeze, account_id, common)

    def unfreeze(self, account_id: str, **common: Unpack[Common]) -> CommandReply:
        return self._give(Unfreeze, account_id, common)

    def close_account(self, account_id: str, **common: Unpack[Common]) -> CommandReply:
        """Close an account, whose balance must be zero, for good."""
        return self._give(CloseAccount, account_id, common)

    def balance(self, account_id: str, *, at_least: int | None = None, timeout_s: float | None = None) -> Balance:
        """An account's balance; with `at_least`, once it includes that event (a reply's `sequence`).

        Raises:
            AccountUnknown: there is none, and it was not waited for.
            ReadTimeout: the balance did not include event `at_least` within `timeout_s`.
            Unreachable: Redis cannot be reached.
        """
        if at_least is None:
            return self._reading().get(account_id)
        return self._reading().wait(account_id, at_least, self._bound(timeout_s))

    def account(self, account_id: str, *, at_least: int | None = None, timeout_s: float | None = None) -> AccountView:
        """An account's current view: its holder, status, balance, limit and times; see `balance` for `at_least`.

        Raises:
            AccountUnknown: there is none, and it was not waited for.
            ReadTimeout: the view did not include event `at_least` within `timeout_s`.
            Unreachable: Elasticsearch cannot be reached, or has no such index yet.
        """
        if at_least is None:
            return self._searching().account(account_id)
        return self._searching().wait(account_id, at_least, self._bound(timeout_s))

    def search(
        self,
        text: str | None = None,
        *,
        status: str | None = None,
        currency: str | None = None,
        min_balance: Money | str | None = None,
        max_balance: Money | str | None = None,
        limit: int = 20,
        after: str | None = None,
    ) -> AccountPage:
        """Accounts that fit all that is given, best first; without anything, all by the holder's name.

        `text` is words of the holder's name in any order, in any case; the last may be a word's beginning, and longer
        words may have a letter or two wrong. Or it is an account's id, or its holder's e-mail address. The balances
        are both included. A page's `after` gets the next page; what changes meanwhile may be on both or on none.

        A change is found up to a second after it is in the index.

        Raises:
            InvalidSearch: a status that there is not, balances in several currencies, an `after` from elsewhere.
            InvalidMoney: no currency, or no balance.
            Unreachable: Elasticsearch cannot be reached, or has no such index yet.
        """
        return self._searching().find(
            text,
            status=status,
            currency=currency,
            min_balance=min_balance,
            max_balance=max_balance,
            limit=limit,
            after=after,
        )

    def history(
        self,
        account_id: str,
        *,
        at_least: int | None = None,
        newest_first: bool = False,
        after: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[AuditEntry]:
        """An account's events from the audit trail, in order or the newest first; they are read as they are taken.

        `after` goes on behind the event of that sequence. With `at_least`, which may take a second longer than with
        `account`, the first is waited for until that event is in the trail. `events` reads the same from the log.

        Raises:
            AccountUnknown: there are no events, and they were not waited for.
            ReadTimeout: event `at_least` was not in the trail within `timeout_s`.
            Unreachable: Elasticsearch cannot be reached, or has no such index yet.
        """
        return self._searching().history(
            account_id, at_least=at_least, newest_first=newest_first, after=after, timeout_s=self._bound(timeout_s)
        )

    def balances(self, account_ids: Iterable[str]) -> Iterator[Balance]:
        """The balances of many accounts, in the order asked for; unknown accounts are left out. Raises: `Unreachable`.

        They are read as they are taken, some hundred at a time.
        """
        return self._reading().many(account_ids)

    def top(self, currency: str, n: int = 10, *, lowest: bool = False) -> list[Balance]:
        """The `n` highest balances in a currency, or the lowest, in that order.

        Raises: `InvalidMoney`, when there is no such currency; `Unreachable`.
        """
        return self._reading().top(Money(0, currency).currency, n, lowest=lowest)

    def events(
        self, account_id: str | None = None, *, follow: bool = False, from_beginning: bool = True
    ) -> Iterator[LoggedEvent]:
        """The log's events, of one account or of all, each account's in order; see `daybook.log.read_log`.

        Without `follow` it ends where the log ends when the first event is taken, else it waits for more for ever.

        Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`.
        """
        return read_log(
            self._connections, account_id, follow=follow, from_beginning=from_beginning, timeout_s=self._timeout_s
        )

    def _give(self, kind: type[AnyCommand], account_id: str, common: Common, **fields: Any) -> CommandReply:
        given: dict[str, Any] = dict(common)
        timeout_s = given.pop("timeout_s", None)
        return self.execute(self.command(kind, account_id, **given, **fields), timeout_s=timeout_s)

    def _next_answer(self, link: Link, outcomes: Outcomes, timeout_s: float) -> Answer:
        try:
            return _answer(outcomes.get(timeout=timeout_s))
        except Empty:
            raise link.why_silent() or ReplyTimeout(link.forget(outcomes), timeout_s) from None

    def _bound(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def _linked(self, deadline: float) -> Link:
        with self._lock:
            self._must_be_open()
            if self._link is not None and self._link.broken is not None:
                self._link.close()
                self._link = None
            if self._link is None:
                self._link = Link(self._connections, timeout_s=self._timeout_s, deadline=deadline)
            return self._link

    def _reading(self) -> Balances:
        with self._lock:
            self._must_be_open()
            if self._balances is None:
                self._balances = Balances(self._connections.redis(), timeout_s=self._timeout_s)
            return self._balances

    def _searching(self) -> SearchIndex:
        # Elasticsearch's library takes half a second to import, which who only gives commands should not wait for.
        from daybook.search import SearchIndex  # noqa: PLC0415

        with self._lock:
            self._must_be_open()
            if self._search is None:
                self._search = SearchIndex(self._connections, timeout_s=self._timeout_s)
            return self._search

    def _must_be_open(self) -> None:
        if self._closed:
            raise RuntimeError("this Client was closed: make a new one")


def _answer(outcome: Answer | DaybookError) -> Answer:
    if isinstance(outcome, DaybookError):
        raise outcome
    return outcome


def _money(amount: Money | str) -> Money:
    return Money.parse(amount) if isinstance(amount, str) else amount


def _fields(amount: Money | str) -> dict[str, Any]:
    money = _money(amount)
    return {"amount_minor": money.amount_minor, "currency": money.currency}


def _micros(moment: datetime | int | None) -> int | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: say which, such as datetime(..., tzinfo=UTC)")
    return (moment - EPOCH) // timedelta(microseconds=1)
