"""The double of the import's unit tests keeps the contract that a real ledger keeps."""

from __future__ import annotations

import pytest

from daybook.giving import GivesCommands
from daybook.importing import Ledger
from tests.contract.ledger import LedgerContract, TransferContract
from tests.unit.memory_ledger import MemoryLedger


class TestMemoryLedger(LedgerContract):
    @pytest.fixture
    def answering(self) -> Ledger:
        return MemoryLedger()


class TestTransfersInMemory(TransferContract):
    @pytest.fixture
    def giving(self) -> GivesCommands:
        return MemoryLedger()
