"""How long bytes stay on the disks of brokers, by the settings of their topic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

TICK: Final = timedelta(seconds=1)
"""A segment is closed by an append that comes later than its age, and not at it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """A topic's settings, as the brokers have them."""

    segment: timedelta
    deletion: timedelta
    """From being deleted to being off the disk."""
    lag: timedelta
    """How old a segment becomes before it is cleaned."""
    cleaning: timedelta
    """From when a closed segment is as old to when what it supersedes is off the disk."""
    retention: timedelta | None
    """None when nothing is deleted by age."""
    compacted: bool
