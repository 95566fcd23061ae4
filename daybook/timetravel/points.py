"""How far one looks: up to an event of the account, or up to what was recorded by a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from daybook.errors import InvalidPoint
from daybook.models import EPOCH
from schemas.events import RecordedEvent

_MICROSECOND = timedelta(microseconds=1)

_INT64_MAX = 2**63 - 1
"""Elasticsearch compares no greater number."""


@dataclass(frozen=True, slots=True)
class UpToSequence:
    """Up to the account's event of this number, from 1; 0 is before there was an account."""

    sequence: int

    def includes(self, recorded: RecordedEvent) -> bool:
        return recorded.sequence <= self.sequence

    def bound(self) -> dict[str, Any]:
        """The range of documents of the audit index that has all that are included, and may have more."""
        return {"sequence": {"lte": min(self.sequence, _INT64_MAX)}}

    def __str__(self) -> str:
        return f"event {self.sequence}"


@dataclass(frozen=True, slots=True)
class UpToTime:
    """Up to what was recorded by then, that moment included: in microseconds since the Unix epoch.

    It is a first part of the account's history, since no event is recorded earlier than the one before it.
    """

    micros: int

    def includes(self, recorded: RecordedEvent) -> bool:
        return recorded.recorded_at <= self.micros

    def bound(self) -> dict[str, Any]:
        # The index keeps milliseconds, and rounds down.
        return {"recorded_at": {"lte": self.micros // 1000, "format": "epoch_millis"}}

    def __str__(self) -> str:
        return text(self.micros)


Point = UpToSequence | UpToTime


def point(given: int | datetime) -> Point:
    """A sequence, or a time that says its zone. Raises: `InvalidPoint`, when it is neither."""
    if isinstance(given, datetime):
        return UpToTime(micros_of(given))
    if given < 0:
        raise InvalidPoint(f"{given} is no event of an account: they are numbered from 1, and 0 is before all of them")
    return UpToSequence(given)


def micros_of(moment: datetime) -> int:
    """Microseconds since the Unix epoch. Raises: `InvalidPoint`: it says no time zone, or is in no year of UTC."""
    if moment.tzinfo is None:
        raise InvalidPoint(f"{moment.isoformat()} has no time zone: say which, such as datetime(..., tzinfo=UTC)")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise InvalidPoint(f"{moment.isoformat()} is in no year from 1 to 9999 in UTC") from None
    return (moment - EPOCH) // _MICROSECOND


def moment_of(micros: int) -> datetime:
    """The time in UTC. Raises: `OverflowError`, beyond the years 1 to 9999."""
    return EPOCH + timedelta(microseconds=micros)


def text(micros: int) -> str:
    """A time for people to read: in UTC, and to the microsecond only where it has any."""
    return moment_of(micros).astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ") + " UTC"
