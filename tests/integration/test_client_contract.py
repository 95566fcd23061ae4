"""A real ledger, through its client: the contract that the double of the import's unit tests keeps as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from daybook import Client
from tests.conftest import Ledger
from tests.contract.ledger import LedgerContract


@pytest.fixture(scope="module")
def client(ledger: Ledger) -> Iterator[Client]:
    with Client(ledger.connections, user_id="test", timeout_s=60) as client:
        yield client


class TestClient(LedgerContract):
    @pytest.fixture
    def answering(self, client: Client) -> Client:
        return client
