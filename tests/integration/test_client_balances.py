"""Reading balances: only Redis is needed, and what stands there is taken at its word or not at all."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis
from pydantic import SecretStr

from daybook import AccountUnknown, Client, Money, ReadTimeout, Unreachable, UnreadableRecord
from schemas.connections import Connections
from schemas.money import INT64_MAX, INT64_MIN


@pytest.fixture
def client(connections: Connections) -> Iterator[Client]:
    # Reading must not need Kafka or the registry: there are none at these addresses.
    elsewhere = {"kafka_bootstrap": "127.0.0.1:1", "registry_url": "http://127.0.0.1:1"}
    with Client(connections.model_copy(update=elsewhere), user_id="ada", timeout_s=5) as client:
        yield client


@pytest.fixture
def server(connections: Connections) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(connections.redis()) as server:
        yield server


def put(server: redis.Redis, account_id: str, balance_minor: int, *, sequence: int = 1, currency: str = "EUR") -> None:
    state = ("balance_minor", balance_minor, "currency", currency, "status", "active", "sequence", sequence)
    server.hset(f"balance:{account_id}", items=[*state, "updated_at", 1_709_208_000_000_001])
    server.zadd(f"balances:{currency}", {account_id: balance_minor})


@pytest.mark.parametrize("amount_minor", [0, -1, INT64_MAX, INT64_MIN])
def test_a_balance_is_exact(client: Client, server: redis.Redis, amount_minor: int) -> None:
    put(server, "A-1", amount_minor, sequence=INT64_MAX)
    balance = client.balance("A-1")
    assert (balance.money, balance.sequence) == (Money(amount_minor, "EUR"), INT64_MAX)
    assert balance.updated_at == datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)


def test_what_is_in_transit_and_nothing_where_it_is_not_said(client: Client, server: redis.Redis) -> None:
    put(server, "A-1", 100)
    assert client.balance("A-1").in_transit == Money(0, "EUR")
    server.hset("balance:A-1", "in_transit_minor", INT64_MAX)
    assert client.balance("A-1").in_transit == Money(INT64_MAX, "EUR")


def test_an_unknown_account(client: Client) -> None:
    with pytest.raises(AccountUnknown, match="account A-1"):
        client.balance("A-1")
    assert list(client.balances(["A-1"])) == []


def test_waiting_for_a_sequence(client: Client, server: redis.Redis) -> None:
    put(server, "A-1", 100, sequence=6)
    assert client.balance("A-1", at_least=6).sequence == 6
    later = threading.Timer(0.3, put, [server, "A-1", 200], {"sequence": 8})
    later.start()
    assert client.balance("A-1", at_least=7, timeout_s=30).money == Money(200, "EUR")
    later.join()


def test_not_waiting_for_ever(client: Client, server: redis.Redis) -> None:
    began = time.monotonic()
    with pytest.raises(ReadTimeout, match="account A-1 is unknown"):
        client.balance("A-1", at_least=1, timeout_s=0.3)
    put(server, "A-1", 100, sequence=6)
    with pytest.raises(ReadTimeout, match=r"at sequence 6 .* not at 7"):
        client.balance("A-1", at_least=7, timeout_s=0.3)
    assert 0.6 <= time.monotonic() - began < 5


@pytest.mark.parametrize("at_least", [1, 7])
def test_a_silent_server_is_not_waited_for_longer_than_was_said(connections: Connections, at_least: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        with Client(connections.model_copy(update={"redis_url": url}), user_id="ada", timeout_s=30) as client:
            began = time.monotonic()
            with pytest.raises(Unreachable, match="Redis at"):
                client.balance("A-1", at_least=at_least, timeout_s=0.5)
            assert time.monotonic() - began < 5


def test_a_server_that_falls_silent_is_not_waited_for_either(connections: Connections, server: redis.Redis) -> None:
    put(server, "A-1", 100)
    with Client(connections, user_id="ada", timeout_s=0.4) as client:
        client.balance("A-1")
        server.client_pause(8_000, all=True)
        began = time.monotonic()
        with pytest.raises(Unreachable, match="no answer within"):
            client.balance("A-1", at_least=2)
        assert time.monotonic() - began < 6
        # What comes late is not taken for the answer to another question.
        assert client.balance("A-1", at_least=1, timeout_s=60).money == Money(100, "EUR")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("balance_minor", "1.5"),
        ("in_transit_minor", ""),
        ("currency", "XXX"),
        ("sequence", ""),
        ("updated_at", "9" * 30),
    ],
)
def test_what_is_no_balance_is_not_taken_for_one(client: Client, server: redis.Redis, field: str, value: str) -> None:
    put(server, "A-1", 100)
    server.hset("balance:A-1", field, value)
    with pytest.raises(UnreadableRecord, match="balance:A-1"):
        client.balance("A-1")


def test_half_a_balance_is_none(client: Client, server: redis.Redis) -> None:
    server.hset("balance:A-1", "balance_minor", 100)
    with pytest.raises(UnreadableRecord, match="currency"):
        client.balance("A-1")


def test_the_highest_are_in_order_where_doubles_are_not(client: Client, server: redis.Redis) -> None:
    # As doubles, the scores of the two largest are equal.
    for account_id, amount in {"A": 2**60, "B": 2**60 + 1, "C": -5, "D": 7}.items():
        put(server, account_id, amount)
    put(server, "Y", 2**61, currency="JPY")
    assert [balance.account_id for balance in client.top("EUR")] == ["B", "A", "D", "C"]
    assert [balance.account_id for balance in client.top("EUR", 2)] == ["B", "A"]
    assert [balance.account_id for balance in client.top("EUR", 2, lowest=True)] == ["C", "D"]
