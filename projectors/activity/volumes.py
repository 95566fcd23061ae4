"""What a window of time holds: how many events moved how much, by currency and event type.

An event belongs to the windows that its `recorded_at` lies in, however late it is read and whatever its `effective_at`.

Each partition has volumes of its own, which readers add up. So a volume can tell by the offset that it has reached
whether an event is in already, and an event that is delivered again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self, assert_never

from projectors.activity.taken import Taken
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)


class VolumeKey(NamedTuple):
    partition: int
    currency: str
    event_type: str


Range = tuple[float, float]
"""A window's start and end as Faust has them, in seconds since the Unix epoch; the end is a tenth of a second short."""

Window = tuple[VolumeKey, Range]


class Volume(NamedTuple):
    """`next_offset` is the offset to read next: what is before it is in."""

    events: int = 0
    amount_minor: int = 0
    next_offset: int = 0

    @classmethod
    def stored(cls, value: Any) -> Self:
        """From what a table holds, of which None stands for nothing yet."""
        return cls() if value is None else cls(value[0], int(value[1]), value[2])

    def to_store(self) -> list[int | str]:
        """What a table holds. A sum of amounts of 64 bits may need more, which not every JSON library can write."""
        return [self.events, str(self.amount_minor), self.next_offset]

    def plus(self, moved: Iterable[tuple[int, int]]) -> Self:
        """With amounts, each after the offset that it was read at, but for those that are in already."""
        events, amount_minor, next_offset = self
        for offset, amount in moved:
            if offset >= next_offset:
                events, amount_minor, next_offset = events + 1, amount_minor + amount, offset + 1
        return type(self)(events, amount_minor, next_offset)


def moves(event: Event) -> tuple[str, int] | None:
    """The currency and the minor units that an event moves into or out of its account; None when it moves none.

    What was received is not moved once more by the event that settles it where it was sent.
    """
    match event:
        case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded():
            return event.currency, event.amount_minor
        case TransferSent() | TransferReceived() | TransferReturned():
            return event.currency, event.amount_minor
        case (
            AccountCreated()
            | AccountFrozen()
            | AccountUnfrozen()
            | AccountClosed()
            | HolderChanged()
            | HolderErased()
            | OverdraftLimitSet()
            | TransferCompleted()
        ):
            return None
        case _:
            assert_never(event)


def by_window(
    taken: Iterable[Taken], ranges: Callable[[float], Iterable[Range]], oldest_s: float
) -> Mapping[Window, list[tuple[int, int]]]:
    """What events add to the windows that begin at `oldest_s` or later: amounts, each after its offset."""
    added: dict[Window, list[tuple[int, int]]] = {}
    for item in taken:
        moved = moves(item.recorded.event)
        if moved is None:
            continue
        currency, amount = moved
        key = VolumeKey(item.partition, currency, item.recorded.type_name)
        for span in ranges(item.recorded.recorded_at / 1_000_000):
            if span[0] >= oldest_s:
                added.setdefault((key, span), []).append((item.offset, amount))
    return added
