"""The balances of all accounts as of a time: from the audit index, and from the log.

Both give the accounts in the order of their ids (of the bytes of these), and both are exact to the microsecond and to
the minor unit: sums that Elasticsearch makes are not, so none is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from operator import itemgetter
from typing import Any, Final

from daybook.errors import UnreadableRecord
from daybook.fold import moved, moved_in_transit
from daybook.log import LogRanges
from daybook.progress import Progress, Tell
from daybook.timetravel.documents import micros
from daybook.timetravel.index import AuditIndex, Hit
from daybook.timetravel.states import past_money
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
from schemas.money import Money

_ACCOUNTS: Final = 5000
"""Accounts whose newest events are asked for at once: each takes 300 bytes of the answer."""

_FOUND: Final = 2 * _ACCOUNTS
"""As many may come: those, and what was opened since they were counted. Elasticsearch gives no more."""

_EVENTS: Final = 10_000
"""Events on a page, as many as Elasticsearch gives."""

_PARTITIONS: Final = 10_000
"""More than a topic has; Elasticsearch gives no more than asked for."""

_TELL_EVENTS: Final = 1000
"""After how many events of the log the progress is told."""


@dataclass(frozen=True, slots=True)
class PastBalance:
    """An account's balance as of a time, what it had in transit to others, and how many of its events made that."""

    account_id: str
    money: Money
    in_transit: Money
    events: int


@dataclass(slots=True)
class _Sum:
    currency: str
    balance_minor: int = 0
    in_transit_minor: int = 0
    counting: int = 0
    known: int = 0


def from_log(log: LogRanges, known_at: int | None, effective_at: int | None, tell: Tell) -> Iterator[PastBalance]:
    """By what was recorded until `known_at`, or by now; with `effective_at`, what was in force then. Reads all of it.

    Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`.
    """
    sums: dict[str, _Sum] = {}
    ends = log.ends()
    before, total, read = 0, sum(ends.values()), 0
    for partition, end in sorted(ends.items()):
        for logged in log.read(partition, 0, end):
            recorded, event = logged.recorded, logged.recorded.event
            read += 1
            if read % _TELL_EVENTS == 0:
                tell(Progress("reading the log", before + logged.offset, total))
            if known_at is not None and recorded.recorded_at > known_at:
                continue
            found = sums.get(recorded.account_id)
            if found is None and isinstance(event, AccountCreated):
                found = sums[recorded.account_id] = _Sum(event.currency)
            if found is None or recorded.sequence != found.known + 1:
                raise UnreadableRecord(
                    f"partition {partition}, offset {logged.offset} of the log",
                    f"event {recorded.sequence} of account {recorded.account_id} is not the one that must be next",
                )
            found.known += 1
            if effective_at is None:
                found.counting += 1
                match event:
                    case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded() | TransferReceived():
                        found.balance_minor = event.balance_minor
                    case TransferSent() | TransferReturned():
                        found.balance_minor, found.in_transit_minor = event.balance_minor, event.in_transit_minor
                    case TransferCompleted():
                        found.in_transit_minor = event.in_transit_minor
                    case _:
                        pass
            elif recorded.effective_at <= effective_at:
                found.counting += 1
                found.balance_minor += moved(event)
                found.in_transit_minor += moved_in_transit(event)
        before += end
    for account_id, found in sorted(sums.items()):
        if found.counting:
            money = past_money(account_id, found.balance_minor, found.currency)
            in_transit = past_money(account_id, found.in_transit_minor, found.currency)
            yield PastBalance(account_id, money, in_transit, found.counting)


def from_index(index: AuditIndex, known_at: int | None, effective_at: int | None, tell: Tell) -> Iterator[PastBalance]:
    """The same from the audit index, as far as a search shows it when this begins.

    An account's newest event has its balance, and the newest of those that say so what is in transit. What was not in
    force is taken off again, so that only the events are read that are effective later.

    Raises: `Unreachable`, `UnreadableRecord`.
    """
    visible = _Visible(index)
    off = {} if effective_at is None else visible.later(known_at, effective_at, tell)
    for newest in visible.newest(known_at, tell):
        later = off.get(newest.account_id, _NOTHING)
        if newest.events > later.events:
            account_id, currency = newest.account_id, newest.money.currency
            money = past_money(account_id, newest.money.amount_minor - later.moved_minor, currency)
            in_transit = past_money(account_id, newest.in_transit.amount_minor - later.in_transit_minor, currency)
            yield PastBalance(account_id, money, in_transit, newest.events - later.events)


@dataclass(frozen=True, slots=True)
class _Later:
    """What events that are effective later did to an account's balance and to what it has in transit."""

    moved_minor: int = 0
    in_transit_minor: int = 0
    events: int = 0


_NOTHING: Final = _Later()


class _Visible:
    """The audit index as far as searches show it when this is made, however many pages of it are read.

    Its documents do not change, and each partition's are added in the order of their offsets. So what is there now is
    what is up to the highest offset of each partition. A point in time of Elasticsearch's own would say the same, but
    is refused to those who may read the alias and not the index behind it.
    """

    def __init__(self, index: AuditIndex) -> None:
        """Raises: `Unreachable`."""
        self._index = index
        highest = {"max": {"field": "offset"}}
        partitions = {"terms": {"field": "partition", "size": _PARTITIONS}, "aggs": {"highest": highest}}
        found = self._search([], size=0, aggs={"partitions": partitions})["aggregations"]["partitions"]["buckets"]
        self._filter = {
            "bool": {
                "should": [
                    {
                        "bool": {
                            "filter": [
                                {"term": {"partition": bucket["key"]}},
                                {"range": {"offset": {"lte": int(bucket["highest"]["value"])}}},
                            ]
                        }
                    }
                    for bucket in found
                ],
                "minimum_should_match": 1,
            }
        }

    def newest(self, known_at: int | None, tell: Tell) -> Iterator[PastBalance]:
        """Each account's balance after the newest of its events that was known, in the order of the accounts."""
        total, done, low = self._index.count_accounts(), 0, None
        filters = [] if known_at is None else [{"range": {"recorded_at": _until(known_at)}}]
        for high in self._index.account_ids(_ACCOUNTS):
            in_transit = self._in_transit(low, high, filters, known_at)
            for hit in self._by_account(low, high, filters):
                balance = self._index.read(hit, lambda document: self._as_of(document, known_at))
                if balance is not None:
                    moving = Money(in_transit.get(balance.account_id, 0), balance.money.currency)
                    yield replace(balance, in_transit=moving)
            low, done = high, done + _ACCOUNTS
            tell(Progress("reading balances of accounts", min(done, total), total))

    def _in_transit(
        self, low: str | None, high: str | None, filters: list[dict[str, Any]], known_at: int | None
    ) -> Mapping[str, int]:
        """What the accounts behind `low`, up to `high`, had in transit, by those events that say so."""
        saying = {"exists": {"field": "in_transit_minor"}}
        found: dict[str, int] = {}

        def add(document: Mapping[str, Any]) -> None:
            in_transit_minor = self._in_transit_as_of(document, known_at)
            if in_transit_minor:
                found[document["account_id"]] = in_transit_minor

        for hit in self._by_account(low, high, [saying, *filters]):
            self._index.read(hit, add)
        return found

    def _by_account(self, low: str | None, high: str | None, filters: list[dict[str, Any]]) -> Iterator[Hit]:
        """The newest event that fits of each account behind `low`, up to `high`, in the order of the accounts."""
        ids = {bound: value for bound, value in (("gt", low), ("lte", high)) if value is not None}
        hits = self._search(
            [self._filter, {"range": {"account_id": ids}}, *filters],
            size=_FOUND,
            sort=[{"sequence": "desc"}],
            collapse={"field": "account_id"},
            source=["account_id", "sequence", "balance_minor", "in_transit_minor", "currency", "recorded_at"],
            track_total_hits=False,
        )["hits"]["hits"]
        by_id = sorted(((hit["fields"]["account_id"][0], hit) for hit in hits), key=itemgetter(0))
        if len(by_id) < _FOUND:
            yield from map(itemgetter(1), by_id)
        else:
            # There may be more of them: half of the range has fewer.
            middle = by_id[(len(by_id) - 1) // 2][0]
            yield from self._by_account(low, middle, filters)
            yield from self._by_account(middle, high, filters)

    def later(self, known_at: int | None, effective_at: int, tell: Tell) -> Mapping[str, _Later]:
        """What known events that are effective later moved on each account, and how many they are."""
        filters: list[dict[str, Any]] = [{"range": {"effective_at": _since(effective_at)}}]
        if known_at is not None:
            filters.append({"range": {"recorded_at": _until(known_at)}})
        found: dict[str, _Later] = {}

        def add(document: Mapping[str, Any]) -> None:
            if micros(document["effective_at"]) <= effective_at:
                return
            if known_at is not None and micros(document["recorded_at"]) > known_at:
                return
            before = found.get(document["account_id"], _NOTHING)
            found[document["account_id"]] = _Later(
                before.moved_minor + document["balance_minor"] - document["balance_before_minor"],
                before.in_transit_minor + _moved_in_transit(document),
                before.events + 1,
            )

        after, total = None, 0
        for page in count():
            answer = self._search(
                [self._filter, *filters],
                size=_EVENTS,
                sort=[{"offset": "asc"}, {"partition": "asc"}],
                search_after=after,
                source=[
                    *("account_id", "event_type", "recorded_at", "effective_at"),
                    *("amount_minor", "balance_minor", "balance_before_minor"),
                ],
                track_total_hits=page == 0,
            )
            hits = answer["hits"]["hits"]
            total = answer["hits"]["total"]["value"] if page == 0 else total
            for hit in hits:
                self._index.read(hit, add)
            if len(hits) < _EVENTS:
                return found
            tell(Progress("reading events that are effective later", (page + 1) * _EVENTS, total))
            after = hits[-1]["sort"]
        raise AssertionError("pages have no end")

    def _in_transit_as_of(self, document: Mapping[str, Any], known_at: int | None) -> int:
        """What an account had in transit, given the newest of its events that says so, and may be of a moment later."""
        if known_at is None or micros(document["recorded_at"]) <= known_at:
            return int(document["in_transit_minor"])
        # As below: the one before it within the millisecond, or before that.
        filters = [
            {"term": {"account_id": document["account_id"]}},
            {"exists": {"field": "in_transit_minor"}},
            {"range": {"recorded_at": _until(known_at)}},
        ]
        after: list[Any] | None = [document["sequence"]]
        while True:
            hits = self._search(
                filters,
                size=1000,
                sort=[{"sequence": "desc"}],
                search_after=after,
                source=["in_transit_minor", "recorded_at"],
            )["hits"]["hits"]
            for hit in hits:
                found = hit["_source"]
                if micros(found["recorded_at"]) <= known_at:
                    return int(found["in_transit_minor"])
            if not hits:
                return 0
            after = hits[-1]["sort"]

    def _as_of(self, document: Mapping[str, Any], known_at: int | None) -> PastBalance | None:
        """The balance alone: what is in transit other events say."""
        account_id, currency = document["account_id"], document["currency"]
        unsaid = Money(0, currency)
        if known_at is None or micros(document["recorded_at"]) <= known_at:
            return PastBalance(account_id, Money(document["balance_minor"], currency), unsaid, document["sequence"])
        # The index compares to the millisecond, and within that the account had events before the time and after it.
        filters = [{"term": {"account_id": account_id}}, {"range": {"recorded_at": _since(known_at)}}]
        after = None
        while True:
            hits = self._search(
                filters,
                size=1000,
                sort=[{"sequence": "asc"}],
                search_after=after,
                source=["sequence", "balance_before_minor", "recorded_at"],
            )["hits"]["hits"]
            for hit in hits:
                found = hit["_source"]
                if micros(found["recorded_at"]) > known_at:
                    events = found["sequence"] - 1
                    money = Money(found["balance_before_minor"], currency)
                    return PastBalance(account_id, money, unsaid, events) if events else None
            if not hits:
                raise ValueError("a search has an event that another has not")
            after = hits[-1]["sort"]

    def _search(self, filters: list[dict[str, Any]], **asked: Any) -> Any:
        with self._index.answering():
            return self._index.client.search(index=self._index.name, query={"bool": {"filter": filters}}, **asked)


def _moved_in_transit(document: Mapping[str, Any]) -> int:
    """As `daybook.fold.moved_in_transit`, of an event's document."""
    match document["event_type"]:
        case "TransferSent":
            return int(document["amount_minor"])
        case "TransferCompleted" | "TransferReturned":
            return -int(document["amount_minor"])
        case _:
            return 0


def _until(at: int) -> dict[str, Any]:
    """All documents until a time, and perhaps some of the rest of its millisecond."""
    return {"lte": at // 1000, "format": "epoch_millis"}


def _since(at: int) -> dict[str, Any]:
    """All documents after a time, and perhaps some of its millisecond before it."""
    return {"gte": at // 1000, "format": "epoch_millis"}
