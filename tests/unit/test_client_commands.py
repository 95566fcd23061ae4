"""How the client builds commands, and what its errors say; no server is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

import daybook
from daybook import Client, InvalidMoney, Money, Refused, ReplyTimeout
from schemas.commands import CommandReply, CommandStatus, Deposit, Freeze, OpenAccount
from schemas.connections import Connections

# Nothing listens on port 1, and only root could.
NOWHERE = Connections(
    kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1", redis_url="redis://user:secret@127.0.0.1:1/3"
)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(NOWHERE, user_id="ada") as client:
        yield client


def test_the_common_fields_are_filled_in(client: Client) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    command = client.command(Deposit, "A-1", amount_minor=20_000, currency="EUR")
    assert (command.account_id, command.user_id, command.expected_version) == ("A-1", "ada", None)
    assert UUID(command.command_id).version == 4
    assert before.timestamp() * 1e6 <= command.issued_at <= datetime.now(UTC).timestamp() * 1e6 + 1
    assert client.command(Freeze, "A-1").command_id != client.command(Freeze, "A-1").command_id


def test_given_fields_are_kept(client: Client) -> None:
    identity = "0b7f6c0e-52a7-4f53-9d8e-0c1f6a4c8f11"
    command = client.command(Freeze, "A-1", command_id=identity, expected_version=3, reason="court order")
    assert (command.command_id, command.expected_version, command.reason) == (identity, 3, "court order")


@pytest.mark.parametrize(
    ("moment", "micros"),
    [
        (datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC), 1_709_208_000_000_001),
        (datetime(2024, 2, 29, 13, 0, 0, 1, tzinfo=timezone(timedelta(hours=1))), 1_709_208_000_000_001),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (1_709_208_000_000_001, 1_709_208_000_000_001),
        (None, None),
    ],
)
def test_effective_at_becomes_microseconds(client: Client, moment: datetime | int | None, micros: int | None) -> None:
    assert client.command(Freeze, "A-1", effective_at=moment).effective_at == micros


def test_a_time_without_a_zone_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        client.command(Freeze, "A-1", effective_at=datetime(2024, 2, 29))


def test_a_field_that_the_command_does_not_have_is_refused(client: Client) -> None:
    with pytest.raises(TypeError, match="amount"):
        client.command(OpenAccount, "A-1", currency="EUR", holder_name="Ada", amount_minor=1)


@pytest.mark.parametrize("amount", ["200.005 EUR", "1e3 EUR", "NaN EUR", "-1 EUR", "1 XXX", "1"])
def test_an_amount_is_checked_before_anything_is_sent(client: Client, amount: str) -> None:
    with pytest.raises(InvalidMoney):
        client.deposit("A-1", amount)


def test_an_overdraft_is_in_the_account_s_currency(client: Client) -> None:
    with pytest.raises(InvalidMoney, match="the overdraft is in USD, but the account in EUR"):
        client.open_account("A-1", "EUR", "Ada Lovelace", overdraft=Money(1_000, "USD"))


def test_the_highest_balances_of_no_currency_are_refused(client: Client) -> None:
    with pytest.raises(InvalidMoney):
        client.top("EURO")


def test_a_closed_client_says_so() -> None:
    client = Client(NOWHERE, user_id="ada")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.balance("A-1")
    with pytest.raises(RuntimeError, match="closed"):
        client.freeze("A-1")


def test_a_refusal_says_its_code_and_why() -> None:
    reply = CommandReply(
        command_id="0b7f6c0e-52a7-4f53-9d8e-0c1f6a4c8f11",
        account_id="A-1",
        status=CommandStatus.REJECTED,
        sequence=3,
        event_count=0,
        code="account_frozen",
        message="account A-1 is frozen",
        decided_at=0,
    )
    error = Refused(reply)
    assert (error.code, error.message, error.reply) == ("account_frozen", "account A-1 is frozen", reply)
    assert str(error) == "account_frozen: account A-1 is frozen"


def test_a_time_out_names_some_commands_and_keeps_all() -> None:
    one = ReplyTimeout(["a"], 10.0)
    many = ReplyTimeout([str(n) for n in range(5000)], 2.5)
    assert "command a within 10 s" in str(one)
    assert "5000 commands (0, 1, 2, ...) within 2.5 s" in str(many)
    assert len(many.command_ids) == 5000


def test_every_public_name_is_there() -> None:
    assert [name for name in daybook.__all__ if getattr(daybook, name).__name__ != name] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = daybook.no_such_name


def test_importing_the_package_does_not_load_the_servers_libraries() -> None:
    script = "import sys, daybook; print(sorted({'confluent_kafka', 'redis', 'fastavro'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
