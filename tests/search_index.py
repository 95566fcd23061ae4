"""The search indices of a ledger whose log there is not: a test puts into them what it likes."""

from __future__ import annotations

from elasticsearch import Elasticsearch
from msgspec.structs import replace

from projectors.holders import Holders
from projectors.projector import Batch
from projectors.search import SearchProjector
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import Event, RecordedEvent
from tests.holders import PLAIN
from tests.recorded import START, recorded


class Index:
    """The indices of a ledger, and the projector that writes them."""

    def __init__(self, connections: Connections, holders: Holders = PLAIN) -> None:
        self.connections = connections
        self.server = Elasticsearch(**connections.elasticsearch(), request_timeout=30)
        source = Source("c", connections.topics.events, "t")
        self._projector = SearchProjector(self.server, connections.indices, source, holders)
        self._offset = self._projector.checkpoint(0)

    def put(self, account_id: str, sequence: int, *events: Event, reason: str | None = None) -> None:
        """Add events to an account, the first of them with this sequence."""
        made = [recorded(account_id, number, event) for number, event in enumerate(events, start=sequence)]
        if reason is not None:
            made = [replace(item, reason=reason, effective_at=START - 1) for item in made]
        self.add(*made)

    def add(self, *made: RecordedEvent) -> None:
        """Add events as they are recorded."""
        start = self._offset or 0
        end = start + len(made)
        self._projector.apply([Batch(0, self._offset, made, range(start, end), end)])
        self._offset = end

    def refresh(self) -> None:
        names = self.connections.indices
        self.server.indices.refresh(index=[names.accounts, names.account_events])
