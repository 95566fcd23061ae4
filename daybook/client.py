"""The Python client: commands in, replies out, and the read models."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from daybook.errors import DaybookError, Refused, ReplyTimeout, TransferInFlight, TransferUnknown
from daybook.giving import GivesCommands
from daybook.link import Answer, Link, Outcomes
from daybook.log import LoggedEvent, read_log
from daybook.models import Balance, Balances
from daybook.progress import Tell, untold
from daybook.timetravel.past import Past
from daybook.transfers import InFlight, TransferOutcome, Unsettled, of_entry, settled
from schemas.commands import AnyCommand, CommandReply, Transfer
from schemas.connections import Connections
from schemas.money import Money
from schemas.topics import Topics

if TYPE_CHECKING:
    from daybook.holders import Holders
    from daybook.progress import Tell
    from daybook.search import AccountPage, AccountView, AuditEntry, SearchIndex


class Client(GivesCommands):
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
        super().__init__(user_id)
        self._timeout_s = timeout_s
        self._lock = Lock()
        self._closed = False
        self._link: Link | None = None
        self._balances: Balances | None = None
        self._search: SearchIndex | None = None
        self._past: Past | None = None

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
            if self._past is not None:
                self._past.close()
                self._past = None

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
        return self._answered(self._linked(deadline), command, deadline, bound_s).reply

    def settle(self, command: Transfer, *, timeout_s: float | None = None) -> TransferOutcome:
        """Give a transfer and wait until the money has arrived or is back; see `transfer`.

        Of one that was given before, the outcome may have to be looked for in the log, as `stream` does. A server that
        is silent meanwhile is waited for as long as the client's own `timeout_s` says.

        Raises:
            TransferInFlight: it was sent, and is not settled within `timeout_s`.
            ReadTimeout: the log is needed, and was not read within `timeout_s`.
            UnreadableRecord: the log is needed, and cannot be read.
            Refused, NotTaken, Unreachable, ReplyTimeout, ValueError: as `execute` does; nothing is known to be sent.
        """
        bound_s = self._bound(timeout_s)
        deadline = time.monotonic() + bound_s
        link = self._linked(deadline)
        give = partial(self._answered, link, command, deadline, bound_s)
        found = settled(link, command, give, self._stream_from, deadline)
        if isinstance(found, Unsettled):
            amount = str(Money(command.amount_minor, command.currency))
            raise TransferInFlight(command, amount, refused=found.refused, timeout_s=bound_s)
        return found

    def _stream_from(self, account_id: str, first: int, tell: Tell) -> Iterator[LoggedEvent]:
        return self.past.stream(account_id, first=first, tell=tell)

    def _answered(self, link: Link, command: AnyCommand, deadline: float, timeout_s: float) -> Answer:
        """Give one command and wait for its answer. Raises: as `execute`."""
        outcomes: Outcomes = SimpleQueue()
        link.send(command, outcomes, deadline)
        try:
            answer = _answer(outcomes.get(timeout=max(0.0, deadline - time.monotonic())))
        except Empty:
            raise link.why_silent() or ReplyTimeout([command.command_id], timeout_s) from None
        finally:
            link.withdraw(command.command_id.encode(), outcomes)
        if not answer.reply.accepted:
            raise Refused(answer.reply)
        return answer

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

        A change is found up to a second after it is in the index. Of a holder that was erased nothing is.

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

    def in_flight(self, older_than: timedelta = timedelta(0)) -> list[InFlight]:
        """The transfers that were sent at least so long ago and are neither completed nor returned, the oldest first.

        As the audit index has them, which follows a second behind. Raises: `Unreachable`.
        """
        return [of_entry(sent) for sent in self._searching().in_flight(older_than.total_seconds())]

    def transfer_history(self, transfer_id: str) -> Sequence[AuditEntry]:
        """All events of a transfer, on both accounts, from the audit trail, each after the one that led to it.

        Raises: `TransferUnknown`, `Unreachable`.
        """
        entries = self._searching().transfer(transfer_id)
        if not entries:
            raise TransferUnknown(transfer_id)
        return entries

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

    @property
    def past(self) -> Past:
        """The ledger as it was: `as_of`, `difference` and `balances` (`daybook.timetravel.past`)."""
        with self._lock:
            self._must_be_open()
            if self._past is None:
                self._past = Past(self._connections, timeout_s=self._timeout_s)
            return self._past

    def stream(self, account_id: str, *, from_sequence: int = 1, scan: bool = False) -> Iterator[LoggedEvent]:
        """One account's events from the log in order, each verified to follow from the one before it; none is waited
        for. They are read as they are taken.

        Only those are read, by the offsets that the audit index has, and the part of the account's partition that the
        index has yet to read. With `scan`, or where the index cannot be used, all of the partition is read.

        Raises:
            UnreadableRecord: the account's sequence, or its chain of hashes, breaks.
            Unreachable, ReadTimeout: the log cannot be read.
        """
        return self.past.stream(account_id, first=from_sequence, scan=scan)

    def holders(self, account_ids: Collection[str] | None = None, *, tell: Tell = untold) -> Holders:
        """Opens what is sealed in events, audit entries and past states; a context manager (`daybook.holders`).

        It takes the key-encryption keys of `DAYBOOK_KEK_FILE` or `DAYBOOK_KEK`, and the right to read the topic of
        keys. Given `account_ids`, it keeps no other accounts' keys.
        """
        from daybook.holders import Holders  # noqa: PLC0415 - whoever opens nothing need not wait for it

        return Holders(self._connections, timeout_s=self._timeout_s, account_ids=account_ids, tell=tell)

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
