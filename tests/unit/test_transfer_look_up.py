"""Looking up in the log what became of a transfer, for as long as the caller waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pytest

from daybook.errors import ReadTimeout
from daybook.log import LoggedEvent
from daybook.progress import Progress, Tell
from daybook.transfers import Steps, TransferStatus, from_log, in_time
from schemas.commands import CommandReply, Transfer
from tests.unit.memory_ledger import MemoryLedger

TRANSFER_ID: Final = "5f0c8d1e-93a4-4a57-8b2f-3f5d3b7f6a10"


@pytest.fixture
def ledger() -> MemoryLedger:
    ledger = MemoryLedger()
    ledger.open_account("A", "EUR", "Ada", overdraft="9.00 EUR")
    ledger.open_account("B", "EUR", "Bob")
    ledger.transfer("A", "B", "5.00 EUR", transfer_id=TRANSFER_ID)
    return ledger


def given(ledger: MemoryLedger) -> tuple[Transfer, CommandReply]:
    (command,) = (command for command in ledger.commands if isinstance(command, Transfer))
    return command, ledger.execute(command)


def of_account(ledger: MemoryLedger, account_id: str, first: int) -> Iterator[LoggedEvent]:
    for offset, event in enumerate(ledger.log):
        if event.account_id == account_id and event.sequence >= first:
            yield LoggedEvent(0, offset, event)


def test_in_time_it_is_found(ledger: MemoryLedger) -> None:
    command, reply = given(ledger)
    stream = in_time(lambda a, first, _: of_account(ledger, a, first), command, time.monotonic() + 60)
    found = from_log(command, reply, Steps.of(TRANSFER_ID, "A", 2), stream)
    assert found is not None
    assert (found.status, found.from_sequence, found.to_sequence) == (TransferStatus.COMPLETED, 2, 2)


def test_once_the_time_is_over_no_more_events_are_read(ledger: MemoryLedger) -> None:
    command, _ = given(ledger)
    stream = in_time(lambda a, first, _: of_account(ledger, a, first), command, time.monotonic())
    with pytest.raises(
        ReadTimeout, match=f"{TRANSFER_ID} was sent from A; .* not read in time.*--transfer {TRANSFER_ID}"
    ):
        next(stream("A", 1))


def test_nor_are_other_accounts_events_gone_through(ledger: MemoryLedger) -> None:
    command, _ = given(ledger)

    def endless(account_id: str, _first: int, tell: Tell) -> Iterator[LoggedEvent]:
        while True:
            tell(Progress(f"scanning for {account_id}", 0, 1))
        yield  # type: ignore[unreachable]

    stream = in_time(endless, command, time.monotonic() + 0.01)
    with pytest.raises(ReadTimeout, match="not read in time"):
        next(stream("A", 1))
