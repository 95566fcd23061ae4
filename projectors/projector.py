"""What a projector is: a read model that keeps its own place in the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.events import RecordedEvent


class SinkUnavailable(Exception):
    """The sink cannot take the batch now: it is down, loading, full or read-only. Later it may."""


class Held(SinkUnavailable):
    """A rebuilt copy is taking the read model's place, which takes seconds."""


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
    events, or asks whether the sink still stands at `base`; then both may be None.
    """

    partition: int
    base: int | None
    events: Sequence[RecordedEvent]
    offsets: Sequence[int]
    next_offset: int | None


class Projector(Protocol):
    """One read model. One thread alone calls it; all methods may block for seconds.

    What `apply` does takes effect together with the checkpoint or, where the sink cannot do that, before it and so
    that doing it again changes nothing. Then a crash at any moment costs only reading again.
    """

    @property
    def name(self) -> str:
        """What the projector is called on the command line, in its consumer group and in metrics."""

    @property
    def linger_s(self) -> float:
        """How long to gather events for one `apply`: 0 where a write is cheap, more where each write leaves a file."""

    @property
    def moves_without_events(self) -> bool:
        """Whether a checkpoint is worth a write of its own, to move past offsets that hold no events."""

    def checkpoint(self, partition: int) -> int | None:
        """The offset to read next, as stored in the sink; None when it has none.

        Asked whenever partitions are taken and after every failure: what was remembered of the sink no longer counts.

        Raises:
            SinkUnavailable: it could not be asked.
            CannotProject: it holds the read model of another log.
        """

    def apply(self, batches: Sequence[Batch]) -> None:
        """Write the effects and the `next_offset` of batches of different partitions.

        None of a batch is written whose `base` is not the stored checkpoint. Batches before it may have been.

        Raises:
            CheckpointMoved: one does differ.
            SinkUnavailable: the sink failed; whether the batches were applied is not known.
            CannotProject: the events, or what the sink holds, cannot be right.
        """
