"""What can still be refunded: the newest withdrawals of an account, packed.

A refund must not exceed what its withdrawal took, so the state has to remember withdrawals. Remembering all of them
would make state, snapshots and restores grow with history; the newest `REMEMBERED` bound all three. They are packed
into one immutable `bytes`, 16 a withdrawal, since millions of accounts are held in memory.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import ClassVar, Final

from msgspec import Struct

_ENTRY: Final = struct.Struct(">qq")
"""A withdrawal's sequence and what is left to refund of it, in minor units."""


class Withdrawals(Struct, frozen=True, gc=False):
    REMEMBERED: ClassVar[int] = 1000

    packed: bytes = b""
    forgotten: int = 0
    """The sequence of the newest withdrawal that is no longer remembered; 0 when all are."""

    def withdrawn(self, sequence: int, amount_minor: int) -> Withdrawals:
        packed = self.packed + _ENTRY.pack(sequence, amount_minor)
        if len(packed) <= self.REMEMBERED * _ENTRY.size:
            return Withdrawals(packed, self.forgotten)
        return Withdrawals(packed[_ENTRY.size :], _ENTRY.unpack_from(packed)[0])

    def refunded(self, sequence: int, amount_minor: int) -> Withdrawals:
        """With less left to refund of a withdrawal. One that is forgotten leaves nothing to keep."""
        at = self._index(sequence)
        if at is None:
            return self
        left = _ENTRY.unpack_from(self.packed, at)[1] - amount_minor
        packed = self.packed[:at] + _ENTRY.pack(sequence, left) + self.packed[at + _ENTRY.size :]
        return Withdrawals(packed, self.forgotten)

    def refundable(self, sequence: int) -> int | None:
        """What is left to refund of a withdrawal, in minor units; None if no such withdrawal is remembered."""
        at = self._index(sequence)
        return None if at is None else _ENTRY.unpack_from(self.packed, at)[1]

    def _index(self, sequence: int) -> int | None:
        count = len(self.packed) // _ENTRY.size
        at = bisect_left(range(count), sequence, key=lambda i: _ENTRY.unpack_from(self.packed, i * _ENTRY.size)[0])
        if at == count or _ENTRY.unpack_from(self.packed, at * _ENTRY.size)[0] != sequence:
            return None
        return at * _ENTRY.size
