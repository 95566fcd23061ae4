"""A real ledger, through its client: the contract that the double of the import's unit tests keeps as well."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from daybook import Client, Money, TransferOutcome
from daybook.giving import GivesCommands
from tests.conftest import Ledger
from tests.contract.ledger import LedgerContract, TransferContract


@pytest.fixture(scope="module")
def client(ledger: Ledger) -> Iterator[Client]:
    with Client(ledger.connections, user_id="test", timeout_s=60) as client:
        yield client


class TestClient(LedgerContract):
    @pytest.fixture
    def answering(self, client: Client) -> Client:
        return client


class TestTransfers(TransferContract):
    @pytest.fixture
    def giving(self, client: Client) -> GivesCommands:
        return client

    def test_many_threads_wait_for_their_transfers_with_one_client(
        self, client: Client, source: str, destination: str
    ) -> None:
        def send(number: int) -> list[TransferOutcome]:
            to = destination if number % 2 else f"nobody-{source}"
            return [client.transfer(source, to, "0.01 EUR", wait=True) for _ in range(10)]

        with ThreadPoolExecutor(8) as threads:
            outcomes = [outcome for found in threads.map(send, range(8)) for outcome in found]
        assert [outcome.completed for outcome in outcomes] == ([False] * 10 + [True] * 10) * 4
        arrived = [outcome.to_sequence for outcome in outcomes if outcome.completed]
        assert sorted(sequence or 0 for sequence in arrived) == list(range(2, 42))
        assert client.balance(destination, at_least=41).money == Money(40, "EUR")
        last = max(outcome.from_sequence for outcome in outcomes)
        assert client.balance(source, at_least=last).money == Money(10_000 - 40, "EUR")
