"""The audit index beside the log: whether every event has its document, which says the same, and none has one too many.

What a document adds to its event (the balance before it, and the currency of events that move no money) follows from
other events: `daybook verify models search` compares that as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final, Self

from elasticsearch import Elasticsearch
from msgspec.structs import asdict

from daybook.audit.findings import Finding, Kind
from daybook.audit.partition import Findings
from daybook.elasticsearch import address, answering, connect
from daybook.timetravel.documents import micros_if_time
from schemas.connections import Connections
from schemas.events import RecordedEvent

_PAGE: Final = 1000
"""Documents read at once: under a megabyte."""

_NAMES: Final = {"new_limit_minor": "limit_minor"}
"""Fields of events that documents have under another name."""

_LATER: Final = frozenset({"previous_limit_minor", "cause", "payout_reference"})
"""Fields that documents made by an earlier release lack, until the index is rebuilt."""

_TIMES: Final = frozenset({"recorded_at", "effective_at"})

_DERIVED: Final = frozenset({"currency", "balance_before_minor", "balance_minor"})

Hit = Mapping[str, Any]


class Trail:
    """The documents of one partition's events, in the order of the log; a context manager.

    All methods raise `Unreachable` when Elasticsearch fails.
    """

    def __init__(
        self, connections: Connections, findings: Findings, partition: int, account_id: str | None, *, timeout_s: float
    ) -> None:
        self._client: Elasticsearch = connect(connections, timeout_s)
        self._where = address(connections)
        self._index = connections.indices.account_events
        self._findings = findings
        self._partition = partition
        self._filters: list[Mapping[str, Any]] = [{"term": {"partition": partition}}]
        if account_id is not None:
            self._filters.append({"term": {"account_id": account_id}})
        self._hits: Iterator[Hit] = iter(())
        self._next: Hit | None = None
        self.events = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def begin(self, end: int) -> None:
        """Go to the documents of what is before offset `end`."""
        self._hits = self._all({"range": {"offset": {"lt": end}}})
        self._next = next(self._hits, None)

    def event(self, recorded: RecordedEvent, offset: int) -> None:
        """Compare the partition's next event."""
        key = f"{recorded.account_id}/{recorded.sequence}"
        is_there = False
        while (hit := self._next) is not None and hit["sort"][0] <= offset:
            if hit["_id"] == key and hit["sort"][0] == offset:
                is_there = True
                self.events += self._is_same(hit, recorded, offset)
            else:
                self._extra(hit)
            self._next = next(self._hits, None)
        if not is_there:
            self._findings.add(
                Finding(
                    Kind.INDEX,
                    f"the audit index {self._index} has no event {key}, which the log has at partition "
                    f"{self._partition}, offset {offset}",
                    recorded.account_id,
                    recorded.sequence,
                    self._partition,
                    offset,
                    key,
                    None,
                )
            )

    def finish(self) -> None:
        """The partition has no more events before the offset given to `begin`."""
        while self._next is not None:
            self._extra(self._next)
            self._next = next(self._hits, None)

    def beyond(self, end: int) -> int | None:
        """The offset of the last document at or after `end`, if there is one."""
        hits = self._page([{"range": {"offset": {"gte": end}}}], [{"offset": "desc"}], 1, None)
        return int(hits[0]["sort"][0]) if hits else None

    def too_far(self, offset: int, end: int) -> None:
        """The last document is at an offset that the log has not come to: it ends at `end`."""
        hits = self._page([{"range": {"offset": {"gte": end}}}], [{"offset": "asc"}], 1, None)
        key = str(hits[0]["_id"]) if hits else "?"
        account_id, _, sequence = key.rpartition("/")
        at = int(hits[0]["sort"][0]) if hits else offset
        self._findings.add(
            Finding(
                Kind.INDEX,
                f"the audit index {self._index} has event {key} at partition {self._partition}, offset {at}, and the "
                f"log ends at {end} there: its tail is gone",
                account_id,
                int(sequence) if sequence.isdecimal() else None,
                self._partition,
                at,
                None,
                key,
            )
        )

    def _extra(self, hit: Hit) -> None:
        key = str(hit["_id"])
        account_id, _, sequence = key.rpartition("/")
        offset = int(hit["sort"][0])
        self._findings.add(
            Finding(
                Kind.INDEX,
                f"the audit index {self._index} has event {key} at partition {self._partition}, offset {offset}, which "
                "the log has not there",
                account_id,
                int(sequence) if sequence.isdecimal() else None,
                self._partition,
                offset,
                None,
                key,
            )
        )

    def _is_same(self, hit: Hit, recorded: RecordedEvent, offset: int) -> bool:
        wanted = document(recorded, self._partition, offset)
        found = hit["_source"]
        for name, value in wanted.items():
            there = found.get(name)
            if name in _TIMES:
                there = micros_if_time(there)
            if there == value or (there is None and name in _LATER):
                continue
            self._differs(recorded, offset, name, value, there)
            return False
        for name, there in found.items():
            if name not in wanted and name not in _DERIVED and there is not None:
                self._differs(recorded, offset, name, None, there)
                return False
        return True

    def _differs(self, recorded: RecordedEvent, offset: int, name: str, value: object, there: object) -> None:
        key = f"{recorded.account_id}/{recorded.sequence}"
        self._findings.add(
            Finding(
                Kind.INDEX,
                f"the audit index {self._index} has another event {key} than the log at partition {self._partition}, "
                f"offset {offset}: {name} is {there!r}, and {value!r} in the log",
                recorded.account_id,
                recorded.sequence,
                self._partition,
                offset,
                str(value),
                str(there),
            )
        )

    def _all(self, condition: Mapping[str, Any]) -> Iterator[Hit]:
        order = [{"offset": "asc"}, {"account_id": "asc"}, {"sequence": "asc"}]
        after: Sequence[Any] | None = None
        while True:
            hits = self._page([condition], order, _PAGE, after)
            yield from hits
            if len(hits) < _PAGE:
                return
            after = hits[-1]["sort"]

    def _page(
        self,
        conditions: Sequence[Mapping[str, Any]],
        order: Sequence[Mapping[str, Any]],
        size: int,
        after: Sequence[Any] | None,
    ) -> Sequence[Hit]:
        with answering(self._where, self._index):
            found = self._client.search(
                index=self._index,
                query={"bool": {"filter": [*self._filters, *conditions]}},
                sort=order,
                size=size,
                search_after=after,
                track_total_hits=False,
            )
        hits: Sequence[Hit] = found["hits"]["hits"]
        return hits


def refresh(connections: Connections, *, timeout_s: float) -> None:
    """Make what the index has already be found, and not up to a second later. Raises: `Unreachable`."""
    index, where = connections.indices.account_events, address(connections)
    with closing(connect(connections, timeout_s)) as client, answering(where, index):
        client.indices.refresh(index=index)


def nowhere(connections: Connections, partitions: int, *, timeout_s: float) -> str | None:
    """The id of a document that is of no partition there is. Raises: `Unreachable`."""
    index, where = connections.indices.account_events, address(connections)
    elsewhere = [
        {"bool": {"must_not": {"terms": {"partition": list(range(partitions))}}}},
        {"bool": {"must_not": {"exists": {"field": "offset"}}}},
    ]
    with closing(connect(connections, timeout_s)) as client, answering(where, index):
        found = client.search(
            index=index, query={"bool": {"should": elsewhere, "minimum_should_match": 1}}, size=1, source=False
        )
    hits = found["hits"]["hits"]
    return str(hits[0]["_id"]) if hits else None


def document(recorded: RecordedEvent, partition: int, offset: int) -> dict[str, object]:
    """What an event's document must say of what the event says itself. Times are microseconds."""
    fields: dict[str, object] = {
        "event_type": recorded.type_name,
        "chain_hash": recorded.chain_hash.hex(),
        "partition": partition,
        "offset": offset,
    }
    common = {
        name: getattr(recorded, name) for name in recorded.__struct_fields__ if name not in ("event", "chain_hash")
    }
    own = {_NAMES.get(name, name): value for name, value in asdict(recorded.event).items()}
    return fields | common | own
