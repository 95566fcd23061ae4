"""Reading the search indices in Elasticsearch: finding accounts, an account's current view, and its audit trail.

An account or an event that was just written is there at once for a read by its id, and for a search up to a second
later, when the index is refreshed. Nothing here asks for a refresh: that would need more rights than reading, and many
readers' refreshes would cost the index dearly.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from elastic_transport import ConnectionTimeout, TransportError
from elasticsearch import ApiError, AuthenticationException, Elasticsearch, NotFoundError

from daybook.errors import AccountUnknown, InvalidSearch, ModelMissing, ReadTimeout, Unreachable, UnreadableRecord
from daybook.waiting import looks
from schemas.connections import Connections, NotConfigured
from schemas.money import EXPONENTS, InvalidMoney, Money, parse_amount

T = TypeVar("T")

SERVER: Final = "Elasticsearch"

MAX_LIMIT: Final = 1000
"""Accounts on one page: beyond this a page is no quicker to read than several."""

MAX_TEXT: Final = 256
"""Characters of a search: as long as a holder's name may be. Each word costs the server a search of its own."""

STATUSES: Final = ("active", "frozen", "closed")

_PAGE: Final = 500
"""Events read at once: some 300 kB, beyond which the cost of a request no longer shows."""

_BY_ID, _BY_WORDS, _BY_BEGINNING, _BY_LIKENESS = 8.0, 4.0, 2.0, 1.0
"""How an account was found, as its score. Relevance by how rare words are would change while one turns the pages."""

_ORDER: Final[Sequence[Mapping[str, str]]] = (
    {"_score": "desc"},
    {"holder_name.sort": "asc"},
    {"account_id": "asc"},
)


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as the search index knows it, as of its event number `sequence`."""

    account_id: str
    holder_name: str
    holder_email: str | None
    status: str
    """`active`, `frozen` or `closed`."""
    money: Money
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
    amount: Money | None
    """What was paid in, taken out or refunded. None when no money moved."""
    balance_before: Money
    balance: Money
    """The account's balance after it."""
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
        cursor = None if after is None else _place(after)
        with self._answering(self._indices.accounts):
            found = self._client.search(
                index=self._indices.accounts,
                query=query,
                sort=_ORDER,
                # One more than is shown tells whether there is a next page.
                size=limit + 1,
                search_after=cursor,
                track_scores=True,
                track_total_hits=False,
            )
        hits = found["hits"]["hits"]
        more = len(hits) > limit
        views = tuple(self._read(hit, account_view) for hit in hits[:limit])
        return AccountPage(views, _cursor(hits[limit - 1]["sort"]) if more else None)

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


def connect(connections: Connections, timeout_s: float) -> Elasticsearch:
    """A client that connects when it is first used; each answer is waited for `timeout_s`. Raises: `NotConfigured`."""
    try:
        return Elasticsearch(**connections.elasticsearch(), request_timeout=timeout_s)
    except (ValueError, OSError):
        # The error would tell the address with its password.
        raise NotConfigured(
            f"DAYBOOK_ELASTICSEARCH_URL, {address(connections)}, is not an address, or DAYBOOK_ELASTICSEARCH_SSL_CA "
            "not a file of certificates: write http://HOST:PORT or https://HOST:PORT"
        ) from None


def address(connections: Connections) -> str:
    """Where Elasticsearch is, for people to read: without its password. Raises: `NotConfigured`."""
    parts = urlsplit(connections.elasticsearch()["hosts"])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def read_hit(where: str, hit: Mapping[str, Any], what: Callable[[Mapping[str, Any]], T]) -> T:
    """What a hit's document says. Raises: `UnreadableRecord`, when it is none of ours."""
    try:
        return what(hit["_source"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRecord(
            f"document {hit['_id']} of {hit['_index']} in Elasticsearch at {where}",
            f"it is not what the search projector writes ({type(error).__name__}: {error}); "
            "`daybook rebuild search` makes the indices anew",
        ) from error


@contextmanager
def answering(where: str, index: str) -> Iterator[None]:
    """Tell what Elasticsearch's client raises, asked for an index, as `Unreachable`."""
    try:
        yield
    except NotFoundError as error:
        raise missing_index(where, index) from error
    except AuthenticationException as error:
        why = "it refuses the credentials: check DAYBOOK_ELASTICSEARCH_USERNAME and _PASSWORD, or _API_KEY"
        raise Unreachable(SERVER, where, f"{index} could not be read: {why}") from error
    except ApiError as error:
        raise Unreachable(SERVER, where, f"{index} could not be read: {error.meta.status} {error.message}") from error
    except TransportError as error:
        raise Unreachable(SERVER, where, f"{index} could not be read: {error.message}") from error


def missing_index(where: str, index: str) -> ModelMissing:
    """What is raised when there is no such index."""
    return ModelMissing(
        SERVER,
        where,
        f"there is no index {index}: `daybook deploy apply` says what it is to look like, and the search projector "
        "makes it (`daybook run`)",
    )


def account_query(
    text: str | None,
    status: str | None,
    currency: str | None,
    min_balance: Money | str | None,
    max_balance: Money | str | None,
) -> dict[str, Any]:
    """The query for accounts. Raises: `InvalidSearch`, `InvalidMoney`."""
    filters: list[dict[str, Any]] = []
    if status is not None:
        if status not in STATUSES:
            raise InvalidSearch(f'"{status}" is not a status: accounts are {", ".join(STATUSES)}')
        filters.append({"term": {"status": status}})
    bounds = {"gte": _signed(min_balance), "lte": _signed(max_balance)}
    given = {name: money for name, money in bounds.items() if money is not None}
    currencies = {money.currency for money in given.values()} | ({currency} if currency is not None else set())
    if len(currencies) > 1:
        raise InvalidSearch(f"balances of one currency can be compared, and these are {', '.join(sorted(currencies))}")
    for code in currencies:
        if code not in EXPONENTS:
            raise InvalidMoney(f'"{code}" is not a currency: use an ISO 4217 code such as EUR, USD or JPY')
        filters.append({"term": {"currency": code}})
    if given:
        filters.append({"range": {"balance_minor": {name: money.amount_minor for name, money in given.items()}}})
    wanted = [] if text is None or not text.strip() else [_holder_query(text.strip())]
    return {"bool": {"must": wanted, "filter": filters}}


def _holder_query(text: str) -> dict[str, Any]:
    """All words have to be in the holder's name, in any order; or the text is an account's id or holder's address."""
    if len(text) > MAX_TEXT:
        raise InvalidSearch(f"a search has at most {MAX_TEXT} characters, and this has {len(text)}")
    words = {"query": text, "operator": "and"}
    exactly = {"value": text, "case_insensitive": True}
    ways: Sequence[tuple[float, dict[str, Any]]] = (
        (_BY_ID, {"term": {"account_id": exactly}}),
        (_BY_ID, {"term": {"holder_email": exactly}}),
        (_BY_WORDS, {"match": {"holder_name": words}}),
        (_BY_BEGINNING, {"match_bool_prefix": {"holder_name": words}}),
        # One letter may be wrong in a word of three, two in one of eight; not the first, or all words would be tried.
        (_BY_LIKENESS, {"match": {"holder_name": {**words, "fuzziness": "AUTO:3,8", "prefix_length": 1}}}),
    )
    return {"dis_max": {"queries": [{"constant_score": {"filter": q, "boost": score}} for score, q in ways]}}


def account_view(document: Mapping[str, Any]) -> AccountView:
    """What a document of the accounts' index says. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
    currency = document["currency"]
    closed_at = document.get("closed_at")
    return AccountView(
        account_id=document["account_id"],
        holder_name=document["holder_name"],
        holder_email=document.get("holder_email"),
        status=document["status"],
        money=Money(document["balance_minor"], currency),
        overdraft_limit=Money(document["overdraft_limit_minor"], currency),
        opened_at=datetime.fromisoformat(document["opened_at"]),
        closed_at=None if closed_at is None else datetime.fromisoformat(closed_at),
        updated_at=datetime.fromisoformat(document["updated_at"]),
        sequence=document["sequence"],
    )


def audit_entry(document: Mapping[str, Any]) -> AuditEntry:
    """What a document of the events' index says. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
    currency = document["currency"]
    amount_minor = document.get("amount_minor")
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


def _signed(balance: Money | str | None) -> Money | None:
    """A balance, which unlike an amount may be below zero."""
    if not isinstance(balance, str):
        return balance
    amount, _, currency = balance.strip().partition(" ")
    currency = currency.strip()
    if not amount or not currency:
        raise InvalidMoney(f'"{balance}" is not a balance: write a number and a currency, such as "-200.00 EUR"')
    return Money(parse_amount(amount, currency, signed=True), currency)


def _cursor(sort: Sequence[object]) -> str:
    """Where a page ended, as text that needs no quoting."""
    return base64.urlsafe_b64encode(json.dumps(sort, separators=(",", ":")).encode()).decode().rstrip("=")


def _place(cursor: str) -> list[Any]:
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    match found:
        case [int() | float() as score, str() | None as name, str() as account_id]:
            return [score, name, account_id]
        case _:
            raise InvalidSearch(f'"{cursor}" is not where a page ended: give what the page before it said')
