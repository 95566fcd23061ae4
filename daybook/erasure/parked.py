"""What is parked of an erased holder, record by record: what is to be erased, what is going, and since when.

A parked record has a key of its own, so that a tombstone takes it out, and no other. It is off the disks when the
segment with the tombstone is closed, which only a later append does, and was cleaned. Records that earlier releases
parked have their sender's key, or none: of those with one cleaning leaves the newest, and of those without it none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from daybook.erasure.places import Hit
from daybook.erasure.timing import TICK, Timing
from schemas.keys import LATER_KEY


@dataclass(slots=True)
class ParkedSeen:
    """What was seen on the topic, each partition's records in order. Times are the brokers'."""

    going: list[Hit] = field(default_factory=list)
    """What is to be erased, and can still be read."""
    kept: list[Hit] = field(default_factory=list)
    """What is not to be: follow-ups of transfers, whose money is in transit until they are given again."""
    standing: dict[tuple[int, bytes], Hit] = field(default_factory=dict)
    """By partition and key, what is to be erased and has nothing behind it that supersedes it."""
    superseded_at: dict[int, datetime] = field(default_factory=dict)
    """By partition, when the newest tombstone of this holder was written, or what else supersedes something of his."""
    others_at: dict[int, datetime] = field(default_factory=dict)
    """By partition, when the newest tombstone of another holder was written."""
    closed_at: dict[int, datetime] = field(default_factory=dict)
    """By partition, when the newest record was written that is there only so that a segment is closed."""

    def take(self, partition: int, key: bytes | None, at: datetime, hit: Hit | None, *, is_follow_up: bool) -> None:
        """A parked record, when it was written, and what it has of the holder."""
        if key is not None and self.standing.pop((partition, key), None) is not None:
            self.superseded_at[partition] = at
        if hit is None:
            return
        if is_follow_up:
            self.kept.append(hit)
            return
        self.going.append(hit)
        if key is None:
            self.superseded_at[partition] = at
        else:
            self.standing[partition, key] = hit

    def take_tombstone(self, partition: int, key: bytes | None, at: datetime, *, is_own: bool) -> None:
        """A record without content, when it was written, and whether it says that it is of this holder."""
        if key == LATER_KEY:
            self.closed_at[partition] = at
        elif key is not None and (self.standing.pop((partition, key), None) is not None or is_own):
            self.superseded_at[partition] = at
        else:
            self.others_at[partition] = at


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be appended now, and when what is superseded of the holder is off the disks; None where nothing is."""

    tombstones: tuple[tuple[int, bytes], ...]
    """By partition and key."""
    closing: tuple[int, ...]
    """The partitions of which a segment with a tombstone is to be closed, be it of another erasure: that may have been
    interrupted."""
    gone_at: datetime | None


def work(seen: ParkedSeen, newest: Mapping[int, datetime], timing: Timing, now: datetime) -> Work:
    """What there is to do, by what was seen, and when each partition's newest record was written."""
    own = seen.superseded_at | {partition: now for partition, _ in seen.standing}
    closing: dict[int, None] = {}
    gone_at: list[datetime] = []
    for partition, at in (*own.items(), *seen.others_at.items()):
        # Where a record came so much later already, it closed the segment.
        closed_at = max(at + timing.segment + TICK, seen.closed_at.get(partition, at))
        if closed_at <= now and newest[partition] - at <= timing.segment:
            closing[partition] = None
            closed_at = now
        if own.get(partition) == at:
            gone_at.append(max(closed_at, at + timing.lag) + timing.cleaning)
    return Work(tuple(seen.standing), tuple(closing), max(gone_at, default=None))
