"""What is wrong, named."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

LISTED: Final = 20
"""Findings that are listed of a partition; the others are counted. Each account has one at most, its first."""


class Kind(StrEnum):
    """What a finding is about: an interface of `daybook audit verify --json`."""

    CHAIN = "chain"
    """An event's hash does not follow from the event before and its own bytes: one of the two was changed."""
    MISSING = "missing"
    """An event that must be there is not."""
    ORDER = "order"
    """Events stand in another order than that of their sequence, or twice."""
    KEY = "key"
    """A record's key, or its partition, is not that of the event."""
    UNREADABLE = "unreadable"
    """A record is not an event."""
    CUT = "cut"
    """The log ends before what a checkpoint covers."""
    CHECKPOINT = "checkpoint"
    """The log's events are not those that a checkpoint was taken of."""
    SIGNATURE = "signature"
    """A checkpoint was not signed by a key that is trusted, or changed afterwards."""
    ROW = "row"
    """The checkpoints do not follow from one another: one is missing, or was replaced."""
    OTHER_LOG = "other_log"
    """A checkpoint, or the index, was made of another log."""
    INDEX = "index"
    """The audit index lacks an event, has one too many, or another than the log."""
    SNAPSHOT = "snapshot"
    """A snapshot is not the state that the events before it lead to, or is newer than they are."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `message` says it to people; the other fields are there as far as they apply."""

    kind: Kind
    message: str
    account_id: str | None = None
    sequence: int | None = None
    partition: int | None = None
    offset: int | None = None
    expected: str | None = None
    found: str | None = None
