"""An event with its place in the log."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events import RecordedEvent


@dataclass(frozen=True, slots=True)
class Taken:
    """An event that was read at `offset` of `partition`."""

    partition: int
    offset: int
    recorded: RecordedEvent
    issued_at: int | None = None
    """When its command was issued, in microseconds since the Unix epoch, if the record says so."""
    trace: bytes | None = None
    """The sampled span that led to it, if there is one."""
