"""`verify money` on a real log, whose transactions end when they will."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daybook.verify import money
from daybook.verify.money import verify_money
from schemas.connections import Connections
from schemas.events import TransferReceived
from schemas.topics import partition_of
from tests.event_log import Log
from tests.unit.memory_ledger import MemoryLedger
from tests.wire import deposit, opening, transfer


def test_a_transaction_that_is_written_in_any_order_is_read_as_a_whole(
    deployed: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partitions of one transaction may have other leaders, of which any may write first."""
    log, ledger = Log(deployed, chained=True), MemoryLedger()
    away = next(
        f"B-{n}" for n in range(99) if partition_of(f"B-{n}", log.partitions) != partition_of("A-1", log.partitions)
    )
    for command in (opening("A-1"), deposit("A-1", 100), opening(away)):
        ledger.decide(command)
    log.append(ledger.log)
    ledger.execute(transfer("A-1", away, 60))
    of_transfer = ledger.log[3:]
    first = [recorded for recorded in of_transfer if isinstance(recorded.event, TransferReceived)]
    assert (len(of_transfer), len(first)) == (3, 1)
    waits, settle = threading.Event(), money._settle

    def noticed(*arguments: Any) -> None:
        waits.set()
        settle(*arguments)

    monkeypatch.setattr(money, "_settle", noticed)
    with ThreadPoolExecutor(1) as pool:
        with log.transaction() as append:
            append(first)
            found = pool.submit(verify_money, deployed, timeout_s=30, tell=lambda _: None)
            assert waits.wait(30)
            append([recorded for recorded in of_transfer if recorded not in first])
        reckoning = found.result(60)

    assert reckoning.wrong is None
    # What the receipt depends on is in the cut, and what follows from it is behind.
    assert (reckoning.completed, [each.arrived for each in reckoning.in_flight]) == (0, [True])
