"""The ledger as it was: one account's stream, its states and what changed between them, and all balances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING

from daybook.errors import AccountUnknown, NothingThen
from daybook.log import LoggedEvent, LogRanges
from daybook.progress import Tell, untold
from daybook.timetravel import states
from daybook.timetravel.points import Point, UpToSequence, micros_of, point
from daybook.timetravel.states import Difference, PastAccount
from daybook.timetravel.stream import NOTHING_KNOWN, stream
from schemas.connections import Connections, NotConfigured
from schemas.topics import partition_of

if TYPE_CHECKING:
    from daybook.timetravel.balances import PastBalance
    from daybook.timetravel.index import AuditIndex

Note = Callable[[str], None]
"""Called with a sentence that whoever waits should read."""


def unnoted(_: str) -> None:
    """For whoever does not want to know."""


class Past:
    """Reads what was. Connects when first asked; may be used by several threads; to be closed.

    What takes long tells where it is (`tell`). Everything is read from the audit index unless `from_log` is given,
    which reads the log itself, as `stream` does; both say the same, but that the index may be behind.

    A point is a sequence of the account, or an aware datetime: what was recorded until then.
    """

    def __init__(self, connections: Connections, *, timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._lock = Lock()
        self._opened: AuditIndex | None = None

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def stream(
        self, account_id: str, *, first: int = 1, scan: bool = False, tell: Tell = untold, note: Note = unnoted
    ) -> Iterator[LoggedEvent]:
        """The account's events from the log, from number `first` on, as they are taken; see `Client.stream`."""
        with LogRanges(self._connections, timeout_s=self._timeout_s) as log:
            ends = log.ends()
            partition = partition_of(account_id, len(ends))
            known = NOTHING_KNOWN
            if not scan:
                from daybook.timetravel.index import Unusable  # noqa: PLC0415 - Elasticsearch's library is slow

                try:
                    known = self._index().known(account_id, partition, first)
                except (Unusable, NotConfigured) as error:
                    note(f"all of partition {partition} is read, since the audit index is of no use: {error}")
            yield from stream(log, account_id, known, (partition, ends[partition]), first, tell)

    def as_of(
        self,
        account_id: str,
        at: int | datetime | None = None,
        *,
        effective_at: datetime | None = None,
        from_log: bool = False,
        tell: Tell = untold,
        note: Note = unnoted,
    ) -> PastAccount:
        """The account as it was at a point, or is; with `effective_at`, what was in force then by what was known.

        Raises:
            NothingThen: it was not there yet, or has no such event yet.
            AccountUnknown: there is no such account at all.
            Unreachable, ReadTimeout, UnreadableRecord.
            InvalidPoint: a datetime without a time zone, or a negative sequence.
        """
        until = None if at is None else point(at)
        effective = None if effective_at is None else micros_of(effective_at)
        history = self._history(account_id, until, from_log, tell, note)
        states.must_have(account_id, len(history), until, _source(from_log))
        found = states.state(history, until, effective)
        if found is None:
            raise self._nothing_then(account_id, history, until, effective)
        return found

    def difference(
        self,
        account_id: str,
        start: int | datetime,
        end: int | datetime | None = None,
        *,
        effective_at: datetime | None = None,
        from_log: bool = False,
        tell: Tell = untold,
        note: Note = unnoted,
    ) -> Difference:
        """What changed from one point to another, or until now, and through which events.

        With `effective_at`, what was in force then, by what was known at the one point and at the other.

        Raises: as `as_of`; `InvalidPoint` also when the end is before the start.
        """
        first, last = point(start), None if end is None else point(end)
        if last is not None:
            states.must_precede(first, last)
        effective = None if effective_at is None else micros_of(effective_at)
        # Of a sequence and a time it is not known beforehand which comes first.
        until = last if type(first) is type(last) else None
        history = self._history(account_id, until, from_log, tell, note)
        for asked in (first, last):
            states.must_have(account_id, len(history), asked, _source(from_log))
        found = states.difference(history, first, last, effective)
        if found.before is None and found.after is None:
            raise self._nothing_then(account_id, history, last, effective)
        return found

    def balances(
        self,
        at: datetime | None = None,
        *,
        effective_at: datetime | None = None,
        currency: str | None = None,
        from_log: bool = False,
        tell: Tell = untold,
    ) -> Iterator[PastBalance]:
        """All accounts' balances as of a time, in the order of their ids; with `effective_at`, what was in force then.

        Accounts that were closed by then are among them, and those that were not there yet are not.

        Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`; `InvalidPoint`, a datetime without a time zone.
        """
        from daybook.timetravel import balances  # noqa: PLC0415

        known = None if at is None else micros_of(at)
        effective = None if effective_at is None else micros_of(effective_at)
        if from_log:
            with LogRanges(self._connections, timeout_s=self._timeout_s) as log:
                yield from _in(currency, balances.from_log(log, known, effective, tell))
        else:
            yield from _in(currency, balances.from_index(self._index(), known, effective, tell))

    def _history(
        self, account_id: str, until: Point | None, from_log: bool, tell: Tell, note: Note
    ) -> Sequence[LoggedEvent]:
        """The account's events up to a point, or more of them; empty only where there are others behind it."""
        if from_log:
            history: list[LoggedEvent] = []
            for logged in self.stream(account_id, tell=tell, note=note):
                history.append(logged)
                if until is not None and not until.includes(logged.recorded):
                    break
            if not history:
                raise AccountUnknown(account_id, None)
            return history
        history = list(self._index().events(account_id, until, tell))
        if not history and self._index().last_sequence(account_id) is None:
            raise AccountUnknown(account_id, "search")
        return history

    def _nothing_then(
        self, account_id: str, history: Sequence[LoggedEvent], until: Point | None, effective_at: int | None
    ) -> NothingThen:
        first = next(iter(history), None) or next(self._index().events(account_id, UpToSequence(1)))
        return states.nothing_then(first, until, effective_at)

    def _index(self) -> AuditIndex:
        from daybook.timetravel.index import AuditIndex  # noqa: PLC0415 - Elasticsearch's library is slow to import

        with self._lock:
            if self._opened is None:
                self._opened = AuditIndex(self._connections, timeout_s=self._timeout_s)
            return self._opened


def _source(from_log: bool) -> str:
    return "the log" if from_log else "the audit index"


def _in(currency: str | None, balances: Iterable[PastBalance]) -> Iterator[PastBalance]:
    return (found for found in balances if currency is None or found.money.currency == currency)
