"""Numbers as they are put into sentences."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 account`, `2 accounts`, `1,000 accounts`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
