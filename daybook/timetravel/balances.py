"""The balances of all accounts as of a time: from the audit index, and from the log.

Both give the accounts in the order of their ids (of the bytes of these), and both are exact to the microsecond and to
the minor unit: sums that Elasticsearch makes are not, so none is asked of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from typing import Any, Final

from daybook.errors import UnreadableRecord
from daybook.fold import moved
from daybook.log import LogRanges
from daybook.progress import Progress, Tell
from daybook.timetravel.documents import micros
from daybook.timetravel.index import AuditIndex, Hit
from daybook.timetravel.states import past_money
from schemas.events import AccountCreated, MoneyDeposited, MoneyRefunded, MoneyWithdrawn
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
    """An account's balance as of a time, and how many of its events that is made of."""

    account_id: str
    money: Money
    events: int


@dataclass(slots=True)
class _Sum:
    currency: str
    balance_minor: int = 0
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
                if isinstance(event, MoneyDeposited | MoneyWithdrawn | MoneyRefunded):
                    found.balance_minor = event.balance_minor
            elif recorded.effective_at <= effective_at:
                found.counting += 1
                found.balance_minor += moved(event)
        before += end
    for account_id, found in sorted(sums.items()):
        if found.counting:
            yield PastBalance(account_id, past_money(account_id, found.balance_minor, found.currency), found.counting)


def from_index(index: AuditIndex, known_at: int | None, effective_at: int | None, tell: Tell) -> Iterator[PastBalance]:
    """The same from the audit index, as far as a search shows it when this begins.

    An account's newest event has its balance. What was not in force is taken off again, so that only the events are
    read that are effective later.

    Raises: `Unreachable`, `UnreadableRecord`.
    """
    visible = _Visible(index)
    off = {} if effective_at is None else visible.later(known_at, effective_at, tell)
    for newest in visible.newest(known_at, tell):
        taken, events = off.get(newest.account_id, (0, 0))
        if newest.events > events:
            money = past_money(newest.account_id, newest.money.amount_minor - taken, newest.money.currency)
            yield PastBalance(newest.account_id, money, newest.events - events)


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
            for hit in self._by_account(low, high, filters):
                balance = self._index.read(hit, lambda document: self._as_of(document, known_at))
                if balance is not None:
                    yield balance
            low, done = high, done + _ACCOUNTS
            tell(Progress("reading balances of accounts", min(done, total), total))

    def _by_account(self, low: str | None, high: str | None, filters: list[dict[str, Any]]) -> Iterator[Hit]:
        """The newest event that fits of each account behind `low`, up to `high`, in the order of the accounts."""
        ids = {bound: value for bound, value in (("gt", low), ("lte", high)) if value is not None}
        hits = self._search(
            [self._filter, {"range": {"account_id": ids}}, *filters],
            size=_FOUND,
            sort=[{"sequence": "desc"}],
            collapse={"field": "account_id"},
            source=["account_id", "sequence", "balance_minor", "currency", "recorded_at"],
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

    def later(self, known_at: int | None, effective_at: int, tell: Tell) -> Mapping[str, tuple[int, int]]:
        """What known events that are effective later moved on each account, and how many they are."""
        filters: list[dict[str, Any]] = [{"range": {"effective_at": _since(effective_at)}}]
        if known_at is not None:
            filters.append({"range": {"recorded_at": _until(known_at)}})
        found: dict[str, tuple[int, int]] = {}

        def add(document: Mapping[str, Any]) -> None:
            if micros(document["effective_at"]) <= effective_at:
                return
            if known_at is not None and micros(document["recorded_at"]) > known_at:
                return
            taken, events = found.get(document["account_id"], (0, 0))
            taken += document["balance_minor"] - document["balance_before_minor"]
            found[document["account_id"]] = taken, events + 1

        after, total = None, 0
        for page in count():
            answer = self._search(
                [self._filter, *filters],
                size=_EVENTS,
                sort=[{"offset": "asc"}, {"partition": "asc"}],
                search_after=after,
                source=["account_id", "balance_minor", "balance_before_minor", "recorded_at", "effective_at"],
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

    def _as_of(self, document: Mapping[str, Any], known_at: int | None) -> PastBalance | None:
        account_id, currency = document["account_id"], document["currency"]
        if known_at is None or micros(document["recorded_at"]) <= known_at:
            return PastBalance(account_id, Money(document["balance_minor"], currency), document["sequence"])
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
                    return PastBalance(account_id, money, events) if events else None
            if not hits:
                raise ValueError("a search has an event that another has not")
            after = hits[-1]["sort"]

    def _search(self, filters: list[dict[str, Any]], **asked: Any) -> Any:
        with self._index.answering():
            return self._index.client.search(index=self._index.name, query={"bool": {"filter": filters}}, **asked)


def _until(at: int) -> dict[str, Any]:
    """All documents until a time, and perhaps some of the rest of its millisecond."""
    return {"lte": at // 1000, "format": "epoch_millis"}


def _since(at: int) -> dict[str, Any]:
    """All documents after a time, and perhaps some of its millisecond before it."""
    return {"gte": at // 1000, "format": "epoch_millis"}
