"""What a projector is: a read model that keeps its own place in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.events import RecordedEvent


class SinkUnavailable(Exception):
    """The sink cannot take the batch now: it is down, loading, full or read-only. Later it may."""


class CheckpointMoved(Exception):
    """The sink stands elsewhere than the batch builds on: it was wiped or restored, or somebody else writes to it.

    Nothing of the batch was applied that the events from the sink's own checkpoint on would not set again.
    """


class CannotProject(Exception):
    """Neither waiting nor reading again helps: the message says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive events of one partition. "Offset" always means the next one to read.

    `events[i]` was read at `offsets[i]`. `base` is the checkpoint that the batch builds on (None: the sink has none),
    `next_offset` the one to store with its effects. Without events, a batch moves the checkpoint past what holds no
    events, or asks whether the sink still stands at `base`.
    """

    partition: int
    base: int | None
    events: Sequence[RecordedEvent]
    offsets: Sequence[int]
    next_offset: int


class Projector(Protocol):
    """One read model. The runner alone calls it, from one thread; both methods may block for seconds.

    What `apply` does takes effect together with the checkpoint or, where the sink cannot do that, before it and so
    that doing it again changes nothing. Then a crash at any moment costs only reading again.
    """

    @property
    def name(self) -> str:
        """What the projector is called on the command line, in its consumer group and in metrics."""

    def checkpoint(self, partition: int) -> int | None:
        """The offset to read next, as stored in the sink; None when it has none.

        Raises:
            SinkUnavailable: it could not be asked.
            CannotProject: it holds the read model of another log.
        """

    def apply(self, batch: Batch) -> None:
        """Write the batch's effects and its `next_offset`, unless the stored checkpoint differs from its `base`.

        Raises:
            CheckpointMoved: it does differ.
            SinkUnavailable: the sink failed; whether the batch was applied is not known.
            CannotProject: the events, or what the sink holds, cannot be right.
        """
