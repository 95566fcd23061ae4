"""How work that takes long tells where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done, and how much of how much. `what` ends as a sentence about offsets or accounts would."""

    what: str
    done: int
    total: int


Tell = Callable[[Progress], None]
"""Called now and then, from the thread that does the work."""


def untold(_: Progress) -> None:
    """For whoever does not want to know."""
