"""What the search indices say of transfers: the story of one of them, and which are in flight.

In flight is what was sent, and neither completed nor returned yet. An account's document says how much it has in
transit. Of those that have anything, the events about what they sent are gone through from the newest back, until what
was sent and is not settled comes to just that. So it takes as long as the oldest transfer in flight stands back among
those of its account, and not as long as the account's history is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from elasticsearch import Elasticsearch

from daybook.elasticsearch import answering, read_hit
from schemas.readmodels import Indices

if TYPE_CHECKING:
    from daybook.search import AuditEntry

_SENT: Final = "TransferSent"
_SETTLED: Final = ("TransferCompleted", "TransferReturned")

_STAGES: Final = {event_type: stage for stage, event_type in enumerate((_SENT, "TransferReceived", *_SETTLED))}
"""The events of a transfer, each of which leads to a later one."""

_ACCOUNTS: Final = 100
"""Accounts asked about at once."""

_NEWEST: Final = 50
"""Events that come with each of them: most transfers are settled within a second. Elasticsearch gives up to 100."""

_PAGE: Final = 1000
"""Events of one account read at once, when those were not enough: under a megabyte."""

Hit = Mapping[str, Any]


def in_causal_order(entries: Iterable[AuditEntry]) -> Sequence[AuditEntry]:
    """The events of one transfer id, each behind the one that led to it; a sending account's all together.

    The clocks of two services differ, so that the time of recording does not say which of two accounts was first. It
    does where one account used the id for several transfers.
    """

    def stage(entry: AuditEntry) -> int:
        return _STAGES.get(entry.event_type, len(_STAGES))

    by_sender: dict[str, list[AuditEntry]] = {}
    for entry in entries:
        by_sender.setdefault(entry.from_account_id or entry.account_id, []).append(entry)
    for legs in by_sender.values():
        several = sum(entry.event_type == _SENT for entry in legs) > 1
        legs.sort(key=(lambda entry: (entry.recorded_at, stage(entry))) if several else stage)
    return [entry for legs in sorted(by_sender.values(), key=lambda legs: legs[0].recorded_at) for entry in legs]


@dataclass(frozen=True, slots=True)
class Step:
    """One event about what an account sent, with the document that it was read from."""

    hit: Hit
    transfer_id: str
    sent: bool
    amount_minor: int
    in_transit_minor: int


def unsettled(steps: Iterable[Step]) -> list[Step]:
    """What an account sent that is not settled, the newest first, of its steps from the newest back.

    No more of them are taken than it needs.
    """
    found: list[Step] = []
    settled: set[str] = set()
    left: int | None = None
    for step in steps:
        if left is None:
            left = step.in_transit_minor
        if not step.sent:
            settled.add(step.transfer_id)
        elif step.transfer_id in settled:
            # An id may come again once its transfer is settled: each settlement is of one.
            settled.remove(step.transfer_id)
        else:
            found.append(step)
            left -= step.amount_minor
        if left <= 0:
            break
    return found


def in_flight(client: Elasticsearch, where: str, indices: Indices) -> Iterator[Hit]:
    """The `TransferSent` of all transfers in flight, account by account, as far as a search shows them.

    Raises: `Unreachable`, `UnreadableRecord`.
    """
    return _InFlight(client, where, indices).hits()


class _InFlight:
    def __init__(self, client: Elasticsearch, where: str, indices: Indices) -> None:
        self._client = client
        self._where = where
        self._indices = indices

    def hits(self) -> Iterator[Hit]:
        for account_ids in self._accounts():
            for hits in self._newest(account_ids):
                yield from (step.hit for step in unsettled(self._steps(hits)))

    def _accounts(self) -> Iterator[Sequence[str]]:
        """The accounts that have money in transit, some at a time."""
        after: list[Any] | None = None
        while True:
            found = self._search(
                self._indices.accounts,
                [{"range": {"in_transit_minor": {"gt": 0}}}],
                sort=[{"account_id": "asc"}],
                size=_ACCOUNTS,
                search_after=after,
                source=False,
            )
            if found:
                yield [str(hit["_id"]) for hit in found]
            if len(found) < _ACCOUNTS:
                return
            after = found[-1]["sort"]

    def _newest(self, account_ids: Sequence[str]) -> Iterator[Sequence[Hit]]:
        """The newest events of each account, the newest first."""
        groups = self._search(
            self._indices.account_events,
            [{"terms": {"account_id": account_ids}}, {"terms": {"event_type": [_SENT, *_SETTLED]}}],
            size=len(account_ids),
            source=False,
            sort=[{"account_id": "asc"}],
            collapse={
                "field": "account_id",
                "inner_hits": {"name": "newest", "size": _NEWEST, "sort": [{"sequence": "desc"}]},
            },
        )
        yield from (group["inner_hits"]["newest"]["hits"]["hits"] for group in groups)

    def _steps(self, newest: Sequence[Hit]) -> Iterator[Step]:
        """The steps of these events, and of those before them as far as they are asked for."""
        older = self._older(newest[-1]) if len(newest) == _NEWEST else ()
        for hit in chain(newest, older):
            yield read_hit(self._where, hit, partial(_step, hit))

    def _older(self, last: Hit) -> Iterator[Hit]:
        account_id, after = last["_source"]["account_id"], last["sort"]
        while True:
            found = self._search(
                self._indices.account_events,
                [{"term": {"account_id": account_id}}, {"terms": {"event_type": [_SENT, *_SETTLED]}}],
                sort=[{"sequence": "desc"}],
                size=_PAGE,
                search_after=after,
            )
            yield from found
            if len(found) < _PAGE:
                return
            after = found[-1]["sort"]

    def _search(self, index: str, filters: Sequence[Mapping[str, Any]], **asked: Any) -> Sequence[Hit]:
        with answering(self._where, index):
            found = self._client.search(
                index=index, query={"bool": {"filter": filters}}, track_total_hits=False, **asked
            )
        hits: Sequence[Hit] = found["hits"]["hits"]
        return hits


def _step(hit: Hit, document: Mapping[str, Any]) -> Step:
    return Step(
        hit,
        document["transfer_id"],
        document["event_type"] == _SENT,
        int(document["amount_minor"]),
        int(document["in_transit_minor"]),
    )
