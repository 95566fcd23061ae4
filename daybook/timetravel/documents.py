"""The event that a document of the audit index was made of.

A document holds all of its event, so that the index can stand in for the log: what it adds is the account's balance
before and after, and the currency where the event has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec import NODEFAULT
from msgspec.structs import fields

from daybook.log import LoggedEvent
from daybook.models import EPOCH
from schemas.events import EVENT_TYPES, Event, OverdraftLimitSet, RecordedEvent

_TYPES: Final[Mapping[str, type[Event]]] = {event_type.__name__: event_type for event_type in EVENT_TYPES}

_NAMES: Final[Mapping[tuple[type[Event], str], str]] = {(OverdraftLimitSet, "new_limit_minor"): "limit_minor"}
"""Fields that documents have under another name."""

_MICROSECOND: Final = timedelta(microseconds=1)


def logged_event(document: Mapping[str, Any]) -> LoggedEvent:
    """The event and its place in the log. Raises `KeyError`, `TypeError` or `ValueError` if it is no such document."""
    return LoggedEvent(
        document["partition"],
        document["offset"],
        RecordedEvent(
            event_id=document["event_id"],
            account_id=document["account_id"],
            sequence=document["sequence"],
            recorded_at=micros(document["recorded_at"]),
            effective_at=micros(document["effective_at"]),
            user_id=document["user_id"],
            command_id=document["command_id"],
            correlation_id=document["correlation_id"],
            causation_id=document["causation_id"],
            reason=document.get("reason"),
            chain_hash=bytes.fromhex(document["chain_hash"]),
            event=_event(document),
        ),
    )


def micros(text: str) -> int:
    """A time as documents have it, in microseconds since the Unix epoch."""
    return (datetime.fromisoformat(text) - EPOCH) // _MICROSECOND


def micros_if_time(value: Any) -> Any:
    """The same of whatever stands there, which stays as it is if it is no time: for comparing."""
    try:
        return micros(value)
    except (TypeError, ValueError):
        return value


def _event(document: Mapping[str, Any]) -> Event:
    event_type = _TYPES[document["event_type"]]
    values: dict[str, Any] = {}
    for field in fields(event_type):
        name = _NAMES.get((event_type, field.name), field.name)
        if name in document:
            values[field.name] = document[name]
        elif field.default is NODEFAULT:
            # Left out, as what has no value is. Where there must be one, the conversion says so.
            values[field.name] = None
    return msgspec.convert(values, event_type)
