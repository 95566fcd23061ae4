"""Reading the search indices in Elasticsearch: finding accounts, an account's current view, and its audit trail.

An account or an event that was just written is there at once for a read by its id, and for a search up to a second
later, when the index is refreshed. Nothing here asks for a refresh: that would need more rights than reading, and many
readers' refreshes would cost the index dearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from elastic_transport import ConnectionTimeout
from elasticsearch import NotFoundError

from daybook.account_query import ORDER, account_query, cursor, place
from daybook.elasticsearch import address, answering, connect, read_hit
from daybook.errors import AccountUnknown, InvalidSearch, ReadTimeout, Unreachable
from daybook.transfer_trail import in_causal_order, in_flight
from daybook.waiting import looks
from schemas.connections import Connections
from schemas.money import Money

T = TypeVar("T")

MAX_LIMIT: Final = 1000
"""Accounts on one page: beyond this a page is no quicker to read than several."""

_PAGE: Final = 500
"""Events read at once: some 300 kB, beyond which the cost of a request no longer shows."""


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as the search index knows it, as of its event number `sequence`."""

    account_id: str
    holder_name: str
    """`[erased]` once the holder was erased; then there is no e-mail address either."""
    holder_email: str | None
    holder_erased: bool
    status: str
    """`active`, `frozen` or `closed`."""
    money: Money
    in_transit: Money
    """What it has sent to other accounts and is not settled yet: no longer in `money`."""
    overdraft_limit: Money
    opened_at: datetime
    """When its first event was recorded; all times are in UTC."""
    closed_at: datetime | None
    updated_at: datetime
    """When event number `sequence` was recorded."""
    sequence: int


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Some of the accounts that were found, best first, and where the next ones begin."""

    accounts: tuple[AccountView, ...]
    after: str | None
    """What to give as `after` for the next page; None when this is the last."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One event of an account: what, who, when, why, and where it stands in the log."""

    account_id: str
    sequence: int
    event_type: str
    """As in the log, such as `MoneyDeposited`."""
    recorded_at: datetime
    effective_at: datetime
    """Since when it counts."""
    user_id: str
    reason: str | None
    """Sealed if it is personal, as `payout_reference` and the holder are always: `Client.holders` opens them."""
    amount: Money | None
    """What was paid in, taken out, refunded or transferred. None when no money moved."""
    balance_before: Money
    balance: Money
    """The account's balance after it."""
    in_transit: Money | None
    """What the account has sent in all and is not settled, after it. None when it changed nothing about that."""
    transfer_id: str | None
    to_account_id: str | None
    """The account that a transfer goes to; None where this is that account."""
    from_account_id: str | None
    """The account that a transfer was received from."""
    code: str | None
    """Why a transfer came back: the code of the refusal at the other account."""
    message: str | None
    """The same in words."""
    overdraft_limit: Money | None
    """The limit that it set."""
    previous_overdraft_limit: Money | None
    """The limit before that, where the event says so."""
    cause: str | None
    """Why it froze the account, such as `COURT_ORDER`; None when that was not said."""
    payout_reference: str | None
    """Where the last of the money went when the account was closed."""
    holder_name: str | None
    """The name that it set."""
    holder_email: str | None
    withdrawal_sequence: int | None
    """The withdrawal that a refund is for."""
    event_id: str
    command_id: str
    correlation_id: str
    causation_id: str
    chain_hash: str
    """In hexadecimal."""
    partition: int
    offset: int


class SearchIndex:
    """The search indices of a ledger. Connects when first asked; may be used by several threads.

    Every method raises `Unreachable` when Elasticsearch does not answer within `timeout_s`, or has no such index.
    """

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        """Raises: `NotConfigured`."""
        self._indices = connections.indices
        self._address = address(connections)
        self._timeout_s = timeout_s
        self._client = connect(connections, timeout_s)

    def close(self) -> None:
        self._client.close()

    def find(
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
        """Accounts by holder or id, status and balance. See `daybook.client.Client.search`.

        Raises: `InvalidSearch`, `InvalidMoney`, `Unreachable`.
        """
        if not 1 <= limit <= MAX_LIMIT:
            raise InvalidSearch(f"the limit is {limit}: a page has 1 to {MAX_LIMIT} accounts")
        query = account_query(text, status, currency, min_balance, max_balance)
        search_after = None if after is None else place(after)
        with self._answering(self._indices.accounts):
            found = self._client.search(
                index=self._indices.accounts,
                query=query,
                sort=ORDER,
                # One more than is shown tells whether there is a next page.
                size=limit + 1,
                search_after=search_after,
                track_scores=True,
                track_total_hits=False,
            )
        hits = found["hits"]["hits"]
        more = len(hits) > limit
        views = tuple(self._read(hit, account_view) for hit in hits[:limit])
        return AccountPage(views, cursor(hits[limit - 1]["sort"]) if more else None)

    def account(self, account_id: str) -> AccountView:
        """Raises: `AccountUnknown`, `Unreachable`."""
        view = self._find(account_id, self._timeout_s)
        if view is None:
            raise AccountUnknown(account_id, "search")
        return view

    def wait(self, account_id: str, at_least: int, timeout_s: float) -> AccountView:
        """The account once it includes event number `at_least`; blocks until then, at most `timeout_s`.

        Raises: `ReadTimeout`, `Unreachable`.
        """
        view: AccountView | None = None
        looked = False
        for left_s in looks(timeout_s):
            try:
                view = self._find(account_id, left_s)
            except Unreachable as error:
                if looked and _was_slow(error):
                    break
                raise
            looked = True
            if view is not None and view.sequence >= at_least:
                return view
        found = None if view is None else view.sequence
        raise self._late(account_id, found, self._indices.accounts, at_least, timeout_s)

    def history(
        self, account_id: str, *, at_least: int | None, newest_first: bool, after: int | None, timeout_s: float
    ) -> Iterator[AuditEntry]:
        """The account's events in order, read as they are taken. See `daybook.client.Client.history`.

        Raises: `AccountUnknown`, `ReadTimeout`, `Unreachable`.
        """
        if at_least is not None:
            self._wait_for_event(account_id, at_least, timeout_s)
        query = {"term": {"account_id": account_id}}
        # Where there is nothing before, a page's end would be none of the account's.
        known = at_least is not None or after is not None
        while True:
            with self._answering(self._indices.account_events):
                found = self._client.search(
                    index=self._indices.account_events,
                    query=query,
                    sort=[{"sequence": "desc" if newest_first else "asc"}],
                    size=_PAGE,
                    search_after=None if after is None else [after],
                    track_total_hits=False,
                )
            hits = found["hits"]["hits"]
            if not hits and not known:
                raise AccountUnknown(account_id, "search")
            for hit in hits:
                yield self._read(hit, audit_entry)
            if len(hits) < _PAGE:
                return
            known, after = True, hits[-1]["sort"][0]

    def transfer(self, transfer_id: str) -> Sequence[AuditEntry]:
        """All events of a transfer, on both accounts, in the order in which one led to the other; none if unknown.

        Where several accounts used the same id, one account's transfers come after another's. What was just recorded is
        found up to a second after it is in the index.

        Raises: `Unreachable`, `UnreadableRecord`.
        """
        entries: list[AuditEntry] = []
        after: list[Any] | None = None
        while True:
            with self._answering(self._indices.account_events):
                found = self._client.search(
                    index=self._indices.account_events,
                    # All of a transfer's events have its id as the client wrote it, be that in capitals.
                    query={"term": {"transfer_id": {"value": transfer_id, "case_insensitive": True}}},
                    sort=[{"account_id": "asc"}, {"sequence": "asc"}],
                    size=_PAGE,
                    search_after=after,
                    track_total_hits=False,
                )
            hits = found["hits"]["hits"]
            entries += (self._read(hit, audit_entry) for hit in hits)
            if len(hits) < _PAGE:
                return in_causal_order(entries)
            after = hits[-1]["sort"]

    def in_flight(self, older_than_s: float = 0.0) -> Sequence[AuditEntry]:
        """The `TransferSent` of transfers that are neither completed nor returned, those sent first before the others.

        Only those that were sent at least `older_than_s` ago, as far as a search shows them: each takes a kilobyte.

        Raises: `Unreachable`, `UnreadableRecord`.
        """
        latest = datetime.now(UTC) - timedelta(seconds=older_than_s)
        entries = (self._read(hit, audit_entry) for hit in in_flight(self._client, self._address, self._indices))
        old = (entry for entry in entries if entry.recorded_at <= latest)
        return sorted(old, key=lambda entry: (entry.recorded_at, entry.account_id, entry.sequence))

    def _wait_for_event(self, account_id: str, sequence: int, timeout_s: float) -> None:
        """Blocks until a search shows an event. Raises: `ReadTimeout`, `Unreachable`."""
        newest: int | None = None
        looked = False
        for left_s in looks(timeout_s):
            try:
                newest = self._newest(account_id, left_s)
            except Unreachable as error:
                if looked and _was_slow(error):
                    break
                raise
            looked = True
            if newest is not None and newest >= sequence:
                return
        raise self._late(account_id, newest, self._indices.account_events, sequence, timeout_s)

    def _newest(self, account_id: str, timeout_s: float) -> int | None:
        """The sequence of the account's newest event that a search shows."""
        index = self._indices.account_events
        with self._answering(index):
            found = self._client.options(request_timeout=timeout_s).search(
                index=index,
                query={"term": {"account_id": account_id}},
                sort=[{"sequence": "desc"}],
                size=1,
                source=False,
                track_total_hits=False,
            )
        hits = found["hits"]["hits"]
        return int(hits[0]["sort"][0]) if hits else None

    def _late(self, account_id: str, found: int | None, index: str, at_least: int, timeout_s: float) -> ReadTimeout:
        stands = "is unknown" if found is None else f"is at sequence {found}"
        return ReadTimeout(
            f"account {account_id} {stands} in the index {index} at {self._address}, not at {at_least}, after "
            f"{timeout_s:g} s: is the search projector running and caught up (`daybook run`)?"
        )

    def _find(self, account_id: str, timeout_s: float) -> AccountView | None:
        index = self._indices.accounts
        if not account_id:
            return None
        with self._answering(index):
            try:
                # By its id, which finds what no search would find yet.
                found = self._client.options(request_timeout=timeout_s).get(index=index, id=account_id)
            except NotFoundError as error:
                if "error" in error.body:
                    raise
                return None
        # The projector keeps its place in documents of the same index, which are no accounts.
        return self._read(found.body, account_view) if "account_id" in found["_source"] else None

    def _read(self, hit: Mapping[str, Any], what: Callable[[Mapping[str, Any]], T]) -> T:
        return read_hit(self._address, hit, what)

    @contextmanager
    def _answering(self, index: str) -> Iterator[None]:
        with answering(self._address, index):
            yield


def _was_slow(error: Unreachable) -> bool:
    """Whether the server did not answer in what was left of the time. If it did before, what was awaited is late."""
    return isinstance(error.__cause__, ConnectionTimeout)


def account_view(document: Mapping[str, Any]) -> AccountView:
    """What a document of the accounts' index says. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
    currency = document["currency"]
    closed_at = document.get("closed_at")
    return AccountView(
        account_id=document["account_id"],
        holder_name=document["holder_name"],
        holder_email=document.get("holder_email"),
        # Left out where he is not.
        holder_erased=document.get("holder_erased") or False,
        status=document["status"],
        money=Money(document["balance_minor"], currency),
        # Left out where there is nothing.
        in_transit=Money(document.get("in_transit_minor") or 0, currency),
        overdraft_limit=Money(document["overdraft_limit_minor"], currency),
        opened_at=datetime.fromisoformat(document["opened_at"]),
        closed_at=None if closed_at is None else datetime.fromisoformat(closed_at),
        updated_at=datetime.fromisoformat(document["updated_at"]),
        sequence=document["sequence"],
    )


def audit_entry(document: Mapping[str, Any]) -> AuditEntry:
    """What a document of the events' index says. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
    currency = document["currency"]
    amount_minor, in_transit_minor = document.get("amount_minor"), document.get("in_transit_minor")
    # An account is opened with a limit, which may be set to another later.
    limit_minor = document.get("limit_minor", document.get("overdraft_limit_minor"))
    previous_minor = document.get("previous_limit_minor")
    return AuditEntry(
        account_id=document["account_id"],
        sequence=document["sequence"],
        event_type=document["event_type"],
        recorded_at=datetime.fromisoformat(document["recorded_at"]),
        effective_at=datetime.fromisoformat(document["effective_at"]),
        user_id=document["user_id"],
        reason=document.get("reason"),
        amount=None if amount_minor is None else Money(amount_minor, currency),
        balance_before=Money(document["balance_before_minor"], currency),
        balance=Money(document["balance_minor"], currency),
        in_transit=None if in_transit_minor is None else Money(in_transit_minor, currency),
        transfer_id=document.get("transfer_id"),
        to_account_id=document.get("to_account_id"),
        from_account_id=document.get("from_account_id"),
        code=document.get("code"),
        message=document.get("message"),
        overdraft_limit=None if limit_minor is None else Money(limit_minor, currency),
        previous_overdraft_limit=None if previous_minor is None else Money(previous_minor, currency),
        cause=document.get("cause"),
        payout_reference=document.get("payout_reference"),
        holder_name=document.get("holder_name"),
        holder_email=document.get("holder_email"),
        withdrawal_sequence=document.get("withdrawal_sequence"),
        event_id=document["event_id"],
        command_id=document["command_id"],
        correlation_id=document["correlation_id"],
        causation_id=document["causation_id"],
        chain_hash=document["chain_hash"],
        partition=document["partition"],
        offset=document["offset"],
    )
