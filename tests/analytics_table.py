"""An analytics table of a test's own, in a folder, and events of several days to fill it with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from projectors.analytics import AnalyticsProjector
from projectors.analytics_table import EventsTable
from projectors.projector import Batch
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import AccountCreated, MoneyDeposited, MoneyWithdrawn, RecordedEvent
from tests.recorded import recorded

SOURCE: Final = Source("cluster", "account.events", "topic-1")
DAY_US: Final = 86_400_000_000
FIRST_DAY: Final = 20_500 * DAY_US
"""2026-02-16, in microseconds since the Unix epoch."""


def connections(folder: Path) -> Connections:
    return Connections(
        kafka_bootstrap="nowhere:1",
        registry_url="http://nowhere:1",
        iceberg_catalog=f"sqlite:///{folder}/warehouse/catalog.db",
        iceberg_warehouse=f"file://{folder}/warehouse",
    )


def projector(to: Connections, source: Source = SOURCE, branch: str = "main") -> AnalyticsProjector:
    return AnalyticsProjector(EventsTable(to), source, commit_interval_s=0, branch=branch)


def day_of_trade(day: int, accounts: Sequence[tuple[str, str]], first_sequence: int) -> list[RecordedEvent]:
    """Each account gets 300.00 (or 30000 of the smallest unit) and gives 100.00; on the first day it is opened."""
    events: list[RecordedEvent] = []
    for number, (account_id, currency) in enumerate(accounts):
        at = FIRST_DAY + day * DAY_US + number * 1_000_000
        balance = 20_000 * day
        for what in (
            *((AccountCreated(currency=currency, holder_name="Ada"),) if day == 0 else ()),
            MoneyDeposited(amount_minor=30_000, currency=currency, balance_minor=balance + 30_000),
            MoneyWithdrawn(amount_minor=10_000, currency=currency, balance_minor=balance + 20_000),
        ):
            sequence = first_sequence + len(events) % (3 if day == 0 else 2)
            events.append(replace(recorded(account_id, sequence, what), recorded_at=at, effective_at=at))
            at += 1000
    return events


def filled(to: Connections, days: Iterable[int], accounts: Sequence[tuple[str, str]]) -> AnalyticsProjector:
    """The table with a commit for each day, in partition 0."""
    writer = projector(to)
    base = writer.checkpoint(0)
    for day in days:
        events = day_of_trade(day, accounts, 1 if day == 0 else 2 + 2 * day)
        start = base or 0
        writer.apply([Batch(0, base, events, range(start, start + len(events)), start + len(events))])
        base = start + len(events)
    return writer
