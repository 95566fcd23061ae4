"""Replies to commands that are not the client's own: to the follow-ups of its transfers, which the service gives.

Which those are is known from the reply to the transfer alone, and theirs may stand on another partition: one may have
been read before anybody could say that it is wanted. So all are kept for a while.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

from confluent_kafka import Message

T = TypeVar("T")

MOST: Final = 10_000
"""A tenth of a second's replies of the busiest ledger, some 5 MB. The partitions of replies are read in no common
order, and are seldom further apart, but for a transaction of thousands of transfers, each with two replies."""


class Overheard(Generic[T]):
    """Who is told of which replies, and the newest replies for as long as somebody keeps them.

    Not locked: the link does that. Unlike the reply to a command, one of these is told to all who want it, since it
    does not come again for each of them; and they are told of every one, since a stranger may have given a command
    under the same id, which was turned away.
    """

    def __init__(self, most: int = MOST) -> None:
        self._kept: deque[tuple[bytes, Message]] = deque(maxlen=most)
        self._most = most
        self.wanted: dict[bytes, tuple[SimpleQueue[T], ...]] = {}
        self.keepers = 0
        self._heard = 0
        """How many replies were kept, ever."""

    def concerns(self, key: bytes) -> bool:
        """Whether a reply is to be handed to `hear`; may be asked without the lock."""
        # In this order: who ends to keep replies has said by then which are still wanted.
        return self.keepers > 0 or key in self.wanted

    def hear(self, key: bytes, reply: Message) -> tuple[SimpleQueue[T], ...]:
        """Keep a reply if somebody does; returns who is to be told of it."""
        if self.keepers:
            self._heard += 1
            self._kept.append((key, reply))
        return self.wanted.get(key, ())

    def begin(self) -> int:
        """Keep what comes from now on; returns where that begins, for `has_all_since`."""
        self.keepers += 1
        return self._heard

    def has_all_since(self, begun: int) -> bool:
        """Whether all is kept that came since a `begin`, whatever others had kept before it."""
        return self._heard - begun <= self._most

    def end(self) -> None:
        self.keepers -= 1
        if self.keepers == 0:
            self._kept.clear()

    def want(self, keys: Collection[bytes], told: SimpleQueue[T]) -> list[Message]:
        """Have `told` told of the replies to these; those that are kept are returned."""
        for key in keys:
            self.wanted[key] = (*self.wanted.get(key, ()), told)
        return [reply for key, reply in self._kept if key in keys]

    def leave(self, keys: Collection[bytes], told: SimpleQueue[T]) -> None:
        """Have `told` told of these no more."""
        for key in keys:
            others = tuple(other for other in self.wanted.pop(key, ()) if other is not told)
            if others:
                self.wanted[key] = others
