"""Where something of an erased holder may be, and what was found there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from daybook.errors import DaybookError

WITHIN: Final = timedelta(minutes=10)
"""How long after the erasure all is gone under the default settings. What is on a disk later is called found."""


class NotErased(DaybookError):
    """The account's holder was not erased, so there is nothing to verify."""


class NoStack(DaybookError):
    """A folder is not that of a local stack, or a file in it cannot be read."""


class State(StrEnum):
    CLEAR = "clear"
    PENDING = "pending"
    """Something is left, and is going."""
    FOUND = "found"
    """Something is left, and nothing is known that would remove it."""
    UNSEEN = "not_looked_at"
    """The place is none of this ledger's, or cannot be looked at from here. It is no proof of anything."""


@dataclass(frozen=True, slots=True)
class Place:
    """One place, what it came to, and until when at the latest what is pending is gone."""

    name: str
    state: State
    detail: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A record with something of the holder in it. `written_at` is the record's time."""

    topic: str
    partition: int
    offset: int
    written_at: datetime
    what: str


def latest(places: Iterable[Place]) -> datetime | None:
    """When the last of what is pending is gone; None when nothing is, or nobody knows."""
    return max((place.until for place in places if place.until is not None), default=None)
