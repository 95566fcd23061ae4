"""What time travel asks the audit index: an account's events, and where they stand in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final, TypeVar

from confluent_kafka.admin import AdminClient
from elasticsearch import NotFoundError

from daybook import kafka
from daybook.elasticsearch import address, answering, connect, read_hit
from daybook.errors import DaybookError, Unreachable, UnreadableRecord
from daybook.log import LoggedEvent, log_identity
from daybook.positions import SEARCH, position
from daybook.progress import Progress, Tell, untold
from daybook.timetravel.documents import logged_event
from daybook.timetravel.points import Point, UpToSequence
from daybook.timetravel.stream import NOTHING_KNOWN, Known
from schemas.connections import Connections, NotConfigured

_PAGE: Final = 1000
"""Events read at once: some 600 kB."""

_OFFSETS_PAGE: Final = 10_000
"""Offsets read at once: as many as Elasticsearch gives."""

T = TypeVar("T")

Hit = Mapping[str, Any]


class Unusable(DaybookError):
    """The audit index cannot say where an account's events stand: the message says why."""


class AuditIndex:
    """The audit index of a ledger. Connects when first asked; may be used by several threads; to be closed.

    Every method raises `Unreachable` when Elasticsearch does not answer in time, or has no such index.
    """

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        """Raises: `NotConfigured`."""
        self._connections = connections
        self._indices = connections.indices
        self._address = address(connections)
        self._timeout_s = timeout_s
        self.client = connect(connections, timeout_s)

    def close(self) -> None:
        self.client.close()

    @property
    def name(self) -> str:
        return self._indices.account_events

    def events(self, account_id: str, until: Point | None, tell: Tell = untold) -> Iterator[LoggedEvent]:
        """The account's events up to a point, in order. Raises: `UnreadableRecord`, when one is missing."""
        filters: list[dict[str, Any]] = [{"term": {"account_id": account_id}}]
        if until is not None:
            filters.append({"range": until.bound()})
        last = total = 0
        for sequence, hit in enumerate(self._all(filters, _PAGE, source=True), 1):
            logged = self.read(hit, logged_event)
            if logged.recorded.sequence != sequence:
                raise self._missing(account_id, sequence)
            # The index compares times to the millisecond.
            if until is not None and not until.includes(logged.recorded):
                return
            yield logged
            last = sequence
            if last % _PAGE == 0:
                total = total or self._count(self.name, {"bool": {"filter": filters}})
                tell(Progress(f"reading events of {account_id}", last, max(last, total)))
        if until is None or until == UpToSequence(last):
            return
        # What follows the last one may be missing too, and then something later would be there.
        if self._next(account_id, last) not in (None, last + 1):
            raise self._missing(account_id, last + 1)

    def _next(self, account_id: str, after: int) -> int | None:
        """The sequence of the account's first event behind one, that a search shows."""
        hits = self._search({"term": {"account_id": account_id}}, [{"sequence": "asc"}], 1, [after], source=False)
        return int(hits[0]["sort"][0]) if hits else None

    def _missing(self, account_id: str, sequence: int) -> UnreadableRecord:
        return UnreadableRecord(
            f"index {self.name} in Elasticsearch at {self._address}",
            f"event {sequence} of account {account_id} is missing: read the log (--from-log), and make the "
            "index anew (`daybook rebuild search`)",
        )

    def count_accounts(self) -> int:
        """How many accounts there are, for those who want to know how much there is to do."""
        return self._count(self._indices.accounts, {"exists": {"field": "account_id"}})

    def _count(self, name: str, query: Mapping[str, Any]) -> int:
        with answering(self._address, name):
            return int(self.client.count(index=name, query=query)["count"])

    def account_ids(self, every: int) -> Iterator[str | None]:
        """The id of each so many-th account in the order of the ids; at last None, for where they end."""
        after: list[Any] | None = None
        while True:
            with answering(self._address, self._indices.accounts):
                found = self.client.search(
                    index=self._indices.accounts,
                    query={"exists": {"field": "account_id"}},
                    sort=[{"account_id": "asc"}],
                    size=every,
                    search_after=after,
                    source=False,
                    track_total_hits=False,
                )
            hits = found["hits"]["hits"]
            if len(hits) < every:
                yield None
                return
            after = hits[-1]["sort"]
            yield str(hits[-1]["sort"][0])

    def read(self, hit: Hit, what: Callable[[Mapping[str, Any]], T]) -> T:
        """What a hit's document says. Raises: `UnreadableRecord`, when it is none of ours."""
        return read_hit(self._address, hit, what)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Tell what the client raises, asked for the audit index, as `Unreachable`."""
        with answering(self._address, self.name):
            yield

    def last_sequence(self, account_id: str) -> int | None:
        """The account's newest event that a search shows."""
        hits = self._search({"term": {"account_id": account_id}}, [{"sequence": "desc"}], 1, None, source=False)
        return int(hits[0]["sort"][0]) if hits else None

    def known(self, account_id: str, partition: int, first: int) -> Known:
        """Where the account's events from number `first` on stand, beginning with the one before it, if any.

        Raises: `Unusable`, for whatever reason; the log can be read without.
        """
        if not account_id:
            # Elasticsearch's client takes no empty id, and there is no such account.
            return NOTHING_KNOWN
        try:
            return self._known(account_id, partition, first)
        except (Unreachable, UnreadableRecord, NotConfigured) as error:
            raise Unusable(str(error)) from error

    def _known(self, account_id: str, partition: int, first: int) -> Known:
        # First: what is read of the index after it has at least what is before this.
        stands = position(self._connections, SEARCH, [partition], timeout_s=self._timeout_s)
        if partition not in stands.offsets:
            return NOTHING_KNOWN
        with AdminClient(self._connections.kafka(), logger=kafka.LOG) as admin:
            name = log_identity(self._connections, admin, time.monotonic() + self._timeout_s)
        if stands.log != name:
            raise Unusable(f"it was made from another log, {stands.log}, where this is {name}")
        newest = self._newest_written(account_id)
        begin = max(1, first - 1)
        found = list(self._offsets(account_id, partition, begin))
        if not found and first > 1 and newest > 0:
            # It has the account, but not as far as that: its newest event is what the rest follows.
            found = list(self._offsets(account_id, partition, 1))[-1:]
        at = found[0][0] if found else 1
        offsets = [offset for _, offset in found]
        if [sequence for sequence, _ in found] != list(range(at, at + len(found))) or at > begin:
            raise Unusable(f"it lacks an event of account {account_id}")
        if any(later <= offset for offset, later in pairwise(offsets)):
            raise Unusable(f"it has events of account {account_id} in another order than the log")
        shown = at + len(found) - 1 if found else 0
        # What was just written is found by its id at once, and by a search up to a second later.
        return Known(at, offsets, stands.offsets[partition] if shown >= newest else 0)

    def _newest_written(self, account_id: str) -> int:
        """The sequence of the account's document, which is there once it is written; 0 if there is none."""
        with answering(self._address, self._indices.accounts):
            try:
                found = self.client.get(index=self._indices.accounts, id=account_id, source_includes=["sequence"])
            except NotFoundError as error:
                if "error" in error.body:
                    raise
                return 0
        return int(found["_source"].get("sequence") or 0)

    def _offsets(self, account_id: str, partition: int, first: int) -> Iterator[tuple[int, int]]:
        """Sequence and offset of the account's events from a sequence on."""
        filters: list[dict[str, Any]] = [
            {"term": {"account_id": account_id}},
            {"range": {"sequence": {"gte": first}}},
        ]
        for hit in self._all(filters, _OFFSETS_PAGE, source=False, docvalue_fields=["offset", "partition"]):
            where = hit.get("fields", {})
            if where.get("partition") != [partition] or len(where.get("offset", ())) != 1:
                raise Unusable(f"its event {hit['_id']} is not of partition {partition}, where the account is")
            yield int(hit["sort"][0]), int(where["offset"][0])

    def _all(self, filters: list[dict[str, Any]], page: int, *, source: bool, **more: Any) -> Iterator[Hit]:
        """All events that fit, in the order of their sequence."""
        after: list[Any] | None = None
        while True:
            hits = self._search(
                {"bool": {"filter": filters}}, [{"sequence": "asc"}], page, after, source=source, **more
            )
            yield from hits
            if len(hits) < page:
                return
            after = hits[-1]["sort"]

    def _search(
        self,
        query: Mapping[str, Any],
        sort: list[dict[str, str]],
        size: int,
        after: list[Any] | None,
        *,
        source: bool,
        **more: Any,
    ) -> list[Hit]:
        with self.answering():
            found = self.client.search(
                index=self.name,
                query=query,
                sort=sort,
                size=size,
                search_after=after,
                source=source,
                track_total_hits=False,
                **more,
            )
        hits: list[Hit] = found["hits"]["hits"]
        return hits
