"""Does the log's money add up? Read `read_books`: its steps are the numbers here.

1. Take where the partitions end, one request after the other; these ends are no consistent cut yet, since money may be
   received before the one end that was sent behind another.
2. Wait until what is before these ends is committed or aborted. Then all that it depends on is in the log, written by
   an earlier transaction, or by the same one, which was not committed before all of it was written.
3. Take where they end now, and wait for what is before these ends as well.
4. Read all partitions up to the first ends at once, so that few transfers are read by half.
5. Read on to the second ends, and add what the events before the first ones depend on. That cut is consistent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import IsolationLevel

from daybook import kafka
from daybook.errors import ReadTimeout
from daybook.log import LogRanges
from daybook.progress import Progress, Tell
from daybook.transfers import InFlight
from daybook.verify.books import Books, Sums, Wrong
from schemas.connections import Connections

_LOOK_S: Final = 0.2
"""How often it is looked whether an open transaction has ended."""

_TELL_EVENTS: Final = 1000
"""After how many events the progress is told: a few hundredths of a second."""

_REQUEST_TIMEOUT_S: Final = 30.0
"""How long nothing may come from a broker that is busy."""


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What the log says of all money. `wrong` is the first thing that is, and then the rest is what was read so far."""

    accounts: int
    events: int
    completed: int
    """Transfers that arrived and are settled."""
    returned: int
    sums: Mapping[str, Sums]
    """By currency; empty where something is wrong."""
    in_flight: tuple[InFlight, ...]
    wrong: Wrong | None


def verify_money(connections: Connections, *, timeout_s: float, tell: Tell) -> Reckoning:
    """Hold every event of the log that moves money against those that it follows from, on both accounts.

    Blocks for as long as reading all of the log takes; `timeout_s` bounds the wait for an open transaction. Memory
    grows with the accounts and with what is in flight.

    Raises:
        Unreachable, ReadTimeout: the log could not be read.
        UnreadableRecord: a record is no event.
    """
    books = Books()
    try:
        read_books(connections, books, timeout_s=timeout_s, tell=tell)
        sums, in_flight, wrong = books.sums(), tuple(books.in_flight()), None
    except Wrong as found:
        sums, in_flight, wrong = {}, (), found
    return Reckoning(books.accounts, books.events, books.completed, books.returned, sums, in_flight, wrong)


def read_books(connections: Connections, books: Books, *, timeout_s: float, tell: Tell) -> None:
    """Read the log into `books`, up to a consistent cut. Raises: `Wrong`, and as `verify_money`."""
    with LogRanges(connections, timeout_s=_REQUEST_TIMEOUT_S) as log:
        ends = log.ends()  # 1
        _settle(connections, ends, timeout_s)  # 2
        later = log.ends()  # 3
        _settle(connections, later, timeout_s)
        total, done = sum(ends.values()), dict.fromkeys(ends, 0)
        for logged in log.across({}, ends):  # 4
            books.apply(logged)
            done[logged.partition] = logged.offset + 1
            if books.events % _TELL_EVENTS == 0:
                tell(Progress("reading events", sum(done.values()), total))
    with LogRanges(connections, timeout_s=_REQUEST_TIMEOUT_S) as log:
        books.close(log.across(ends, later))  # 5


def _settle(connections: Connections, ends: Mapping[int, int], timeout_s: float) -> None:
    topic, deadline = connections.topics.events, time.monotonic() + timeout_s
    while True:
        places = [(topic, partition) for partition in ends]
        committed = kafka.ends(connections, places, deadline, isolation_level=IsolationLevel.READ_COMMITTED)
        held = [at for at in committed if at.offset < ends[at.partition]]
        if not held:
            return
        if time.monotonic() >= deadline:
            raise ReadTimeout(
                f"{topic}, partition {held[0].partition}, was not readable up to offset {ends[held[0].partition]} "
                f"within {timeout_s:g} s: a transaction is still open there; try again once it has ended"
            )
        time.sleep(_LOOK_S)
