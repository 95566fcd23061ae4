"""The audit trail made of the log, as the index has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from daybook.fold import Account, evolve
from daybook.log import LoggedEvent
from daybook.search import AuditEntry, audit_entry
from daybook.timetravel.points import moment_of
from daybook.verify.search import event_document


def entries(events: Iterable[LoggedEvent]) -> Iterator[AuditEntry]:
    """The entries of an account's events, from its first on. Raises: `UnreadableRecord`, when one is missing."""
    account: Account | None = None
    for logged in events:
        account = evolve(account, logged)
        recorded = logged.recorded
        times = {"recorded_at": recorded.recorded_at, "effective_at": recorded.effective_at}
        document = event_document(logged, account)
        yield audit_entry(document | {name: moment_of(at).isoformat() for name, at in times.items()})
