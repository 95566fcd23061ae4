"""What the audit trail must say of an event, beside what the projector makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given

from daybook.audit.trail import _DERIVED, _TIMES, document
from daybook.timetravel.documents import micros_if_time
from projectors.search_documents import event_document
from schemas.events import RecordedEvent
from tests.recorded import logs


@given(logs())
def test_a_document_says_what_its_event_says_and_adds_only_what_follows_from_others(log: list[RecordedEvent]) -> None:
    for offset, recorded in enumerate(log):
        made = event_document(recorded, 3, offset, 7, getattr(recorded.event, "currency", "EUR"))
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(made))
        read = {name: micros_if_time(value) if name in _TIMES else value for name, value in found.items()}
        wanted = document(recorded, 3, offset)
        assert {name: value for name, value in wanted.items() if value is not None} == {
            name: value for name, value in read.items() if name in wanted
        } | {name: wanted[name] for name in ("cause",) if wanted.get(name) == "UNSPECIFIED"}
        assert set(read) - set(wanted) <= _DERIVED
