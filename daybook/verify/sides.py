"""What comparing one read model takes, whichever it is. `run` is the only caller; it uses one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from daybook.fold import Account, Fold
from daybook.log import LoggedEvent


@dataclass(frozen=True, slots=True)
class Ahead:
    """An account that the model has newer than the fold: `compare` is for when the fold has come to `sequence`.

    `compare` raises `Differs`. Without a sequence the account only has to turn up in the log: `compare` is called with
    its newest state then.
    """

    item: str
    account_id: str
    sequence: int | None
    compare: Callable[[Account], None]


class Trail(Protocol):
    """A model's events, compared with the log's partition by partition.

    Its methods raise `Differs`, and `Unreachable` when the server fails. The model has everything before each
    partition's end, and may go on meanwhile.
    """

    def begin(self, partition: int, end: int) -> None:
        """Go to the model's events of a partition that are before offset `end`."""

    def event(self, logged: LoggedEvent, account: Account) -> None:
        """Compare the next event of the partition, with its account as it is after it."""

    def finish(self) -> None:
        """The partition has no more events before its end."""

    def beyond(self, ends: Mapping[int, int]) -> Mapping[int, int]:
        """Once all partitions are through: where the model's events end that are not before `ends`, by partition, if
        there are any. Compares also what belongs to no partition, which must be nothing."""


Accounts = Callable[[Fold, Callable[[int], None]], Iterator[Ahead]]
"""Compares all accounts of a model with a fold, and gives those that are newer. The second argument is called with how
many are done. Raises as a trail does."""


@dataclass(frozen=True, slots=True)
class Side:
    """One model in comparison: of its two parts it has at least one."""

    name: str
    trail: Trail | None
    accounts: Accounts | None
    without: str | None = None
    """What cannot be compared here, and why, in words."""
