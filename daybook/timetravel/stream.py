"""One account's events from Kafka, through what the audit index knows of their offsets.

The index says where the events that it has stand, and up to where it has read the account's partition. Those events are
read by their offsets, the rest of the partition by going through it. Without the index all of it is gone through. What
is read is verified either way: sequences without a gap, keys, and the chain of hashes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from daybook.errors import UnreadableRecord
from daybook.log import Chain, LoggedEvent, LogRanges
from daybook.progress import Progress, Tell

MERGED_GAP: Final = 2000
"""Records of others that are read along rather than left out: to be assigned anew takes as long as reading so many."""

_TELL_RECORDS: Final = 5000
"""After how many records the progress is told: some hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets from `start` up to before `end`, in which the account's events up to number `last` stand."""

    start: int
    end: int
    last: int


@dataclass(frozen=True, slots=True)
class Known:
    """What the index knows of an account: the offsets of its events from number `first` on, without a gap.

    `read_up_to` is up to where the account's partition was read: before it there are no other events of the account.
    """

    first: int
    offsets: Sequence[int]
    read_up_to: int

    def before(self, end: int) -> Known:
        """Only what is before an offset. Where that leaves some out, it is not known what else is before it."""
        kept = [offset for offset in self.offsets if offset < end]
        if len(kept) == len(self.offsets):
            return self
        return Known(self.first, kept, 0) if kept else NOTHING_KNOWN

    def ranges(self) -> Iterator[Range]:
        """The offsets, which ascend, as ranges to be read one after the other."""
        start = previous = None
        for number, offset in enumerate(self.offsets, self.first):
            if previous is None or start is None:
                start = offset
            elif offset - previous > MERGED_GAP:
                yield Range(start, previous + 1, number - 1)
                start = offset
            previous = offset
        if start is not None and previous is not None:
            yield Range(start, previous + 1, self.first + len(self.offsets) - 1)


NOTHING_KNOWN: Final = Known(1, (), 0)


def stream(
    log: LogRanges, account_id: str, known: Known, place: tuple[int, int], first: int, tell: Tell
) -> Iterator[LoggedEvent]:
    """The account's events from number `first` on, up to where its partition ended; each follows the one before it.

    `place` is the account's partition and its end. Of the first known event it is not verified what it follows, unless
    it is the account's first.

    Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`.
    """
    partition, end = place
    # The index may have gone on meanwhile, or be wrong.
    known = known.before(end)
    chain = Chain(account_id) if known.first == 1 else Chain(account_id, known.first - 1, None)
    begin = known.read_up_to
    for found in known.ranges():
        try:
            yield from _from(first, log.chained(chain, partition, found.start, found.end, lambda _: None))
        except UnreadableRecord as error:
            why = f"{error.why} (read where the audit index says that the account's events are; --scan reads all)"
            raise UnreadableRecord(error.where, why) from error
        if chain.sequence != found.last:
            raise UnreadableRecord(
                f"partition {partition} of the log, offsets {found.start} to {found.end - 1}",
                f"event {chain.sequence + 1} of account {account_id} is not where the audit index says that it is: "
                "read the log without the index (--scan), and compare both (`daybook verify models search`)",
            )
        begin = max(begin, found.end)

    records = count()

    def passed(offset: int) -> None:
        # Counted, since not every offset has a record: transactions' marks take some.
        if next(records) % _TELL_RECORDS == 0:
            tell(Progress(f"scanning partition {partition} for {account_id}", offset - begin, end - begin))

    yield from _from(first, log.chained(chain, partition, begin, end, passed))


def _from(first: int, events: Iterable[LoggedEvent]) -> Iterator[LoggedEvent]:
    return (logged for logged in events if logged.recorded.sequence >= first)
