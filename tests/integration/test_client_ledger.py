"""The client against the whole ledger: commands in, replies out, balances and the log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from daybook import Client, Money, Refused
from schemas.commands import AnyCommand, CommandReply, Deposit, OpenAccount, Withdraw
from schemas.events import AccountClosed, AccountCreated, HolderChanged, MoneyDeposited, MoneyRefunded, MoneyWithdrawn
from schemas.sealing import is_sealed
from schemas.topics import partition_of
from tests.conftest import PARTITIONS, Ledger


@pytest.fixture(scope="module")
def client(ledger: Ledger) -> Iterator[Client]:
    with Client(ledger.connections, user_id="ada", timeout_s=30) as client:
        yield client


@pytest.fixture
def account() -> str:
    return f"A-{uuid.uuid4()}"


def test_an_account_s_whole_life(client: Client, account: str) -> None:
    replies = [
        client.open_account(account, "EUR", "Ada Lovelace", holder_email="ada@example.org", overdraft="50.00 EUR"),
        client.deposit(account, "200.00 EUR", reason="salary", correlation_id="payroll-7"),
        client.withdraw(account, Money(22_000, "EUR"), expected_version=2),
        client.refund(account, 3, "20.00 EUR"),
        client.set_overdraft_limit(account, "0.00 EUR"),
        client.change_holder(account, "Ada King", holder_email=None),
        client.freeze(account),
        client.unfreeze(account),
        client.close_account(account),
    ]
    assert [reply.sequence for reply in replies] == list(range(1, 10))
    assert all(reply.accepted and reply.event_count == 1 and reply.account_id == account for reply in replies)

    balance = client.balance(account, at_least=9)
    assert (balance.account_id, balance.money, balance.status) == (account, Money(0, "EUR"), "closed")
    assert balance.sequence == 9
    assert datetime.now(UTC) - timedelta(minutes=5) < balance.updated_at <= datetime.now(UTC) + timedelta(seconds=1)


def test_the_log_tells_the_same(client: Client, account: str) -> None:
    effective = datetime(2024, 2, 29, tzinfo=UTC)
    client.open_account(account, "EUR", "Ada")
    deposited = client.deposit(account, "10.00 EUR", effective_at=effective, reason="found")
    client.withdraw(account, "4.00 EUR")
    client.refund(account, 3, "1.50 EUR")
    client.change_holder(account, "Ada King")
    client.withdraw(account, "7.50 EUR")
    client.close_account(account)

    logged = list(client.events(account))
    events = [entry.recorded.event for entry in logged]
    names = [event.holder_name for event in events if isinstance(event, AccountCreated | HolderChanged)]
    assert all(is_sealed(name) for name in names)
    assert events == [
        AccountCreated(currency="EUR", holder_name=names[0]),
        MoneyDeposited(amount_minor=1000, currency="EUR", balance_minor=1000),
        MoneyWithdrawn(amount_minor=400, currency="EUR", balance_minor=600),
        MoneyRefunded(amount_minor=150, currency="EUR", balance_minor=750, withdrawal_sequence=3),
        HolderChanged(holder_name=names[1]),
        MoneyWithdrawn(amount_minor=750, currency="EUR", balance_minor=0),
        AccountClosed(),
    ]
    assert [entry.recorded.sequence for entry in logged] == [1, 2, 3, 4, 5, 6, 7]
    assert {entry.partition for entry in logged} == {partition_of(account, PARTITIONS)}
    assert [entry.offset for entry in logged] == sorted({entry.offset for entry in logged})
    found = logged[1].recorded
    assert (found.user_id, found.command_id, found.reason) == ("ada", deposited.command_id, "found")
    assert found.effective_at == effective.timestamp() * 1_000_000
    everyone = [entry.recorded for entry in client.events() if entry.recorded.account_id == account]
    assert everyone == [entry.recorded for entry in logged]


def test_following_the_log(client: Client, account: str) -> None:
    client.open_account(account, "EUR", "Ada")
    with ThreadPoolExecutor(1) as other:
        events = client.events(account, follow=True)
        assert next(events).recorded.sequence == 1
        waiting = other.submit(next, events)
        client.deposit(account, "1.00 EUR")
        assert waiting.result(timeout=30).recorded.event == MoneyDeposited(
            amount_minor=100, currency="EUR", balance_minor=100
        )
    assert list(client.events(account, from_beginning=False)) == []


def test_a_refusal_is_raised_with_its_code(client: Client, account: str) -> None:
    with pytest.raises(Refused, match="account_not_found") as caught:
        client.deposit(account, "1.00 EUR")
    assert (caught.value.code, caught.value.reply.sequence) == ("account_not_found", None)
    client.open_account(account, "EUR", "Ada")
    with pytest.raises(Refused, match="insufficient_funds"):
        client.withdraw(account, "0.01 EUR")
    with pytest.raises(Refused, match="version_conflict") as caught:
        client.deposit(account, "1.00 EUR", expected_version=7)
    assert caught.value.reply.sequence == 1


def test_a_command_given_again_gets_its_first_reply(client: Client, account: str) -> None:
    client.open_account(account, "EUR", "Ada")
    identity = str(uuid.uuid4())
    first = client.deposit(account, "1.00 EUR", command_id=identity)
    client.deposit(account, "1.00 EUR")
    assert client.deposit(account, "1.00 EUR", command_id=identity) == first
    fresh = client.command(Deposit, account, amount_minor=1, currency="EUR")
    again = client.command(Deposit, account, amount_minor=100, currency="EUR", command_id=identity)
    replayed = {answer.reply.command_id: answer.replayed for answer in client.answers([fresh, again])}
    assert replayed == {fresh.command_id: False, identity: True}
    assert [entry.recorded.sequence for entry in client.events(account)] == [1, 2, 3, 4]


def test_many_commands_with_few_under_way(client: Client, account: str) -> None:
    taken = 0
    given = 0
    most_owed = 0

    def commands() -> Iterator[AnyCommand]:
        nonlocal given, most_owed
        yield client.command(OpenAccount, account, currency="EUR", holder_name="Ada")
        for amount in range(1, 1000):
            given += 1
            most_owed = max(most_owed, given - taken)
            kind = Withdraw if amount % 3 == 0 else Deposit
            yield client.command(kind, account, amount_minor=amount * (100 if amount == 999 else 1), currency="EUR")

    replies = []
    for reply in client.send_many(commands(), window=50):
        taken += 1
        replies.append(reply)
    assert len({reply.command_id for reply in replies}) == len(replies) == 1000
    assert most_owed <= 51
    refused = [reply.code for reply in replies if not reply.accepted]
    expected = sum(-n if n % 3 == 0 else n for n in range(1, 999))
    assert refused == ([] if expected >= 99_900 else ["insufficient_funds"])
    last = max(reply.sequence or 0 for reply in replies)
    assert client.balance(account, at_least=last).money == Money(expected - (0 if refused else 99_900), "EUR")


def test_a_command_id_given_twice_is_answered_twice(client: Client, account: str) -> None:
    opening = client.command(OpenAccount, account, currency="EUR", holder_name="Ada")
    replies = list(client.send_many([opening, opening]))
    assert len(replies) == 2
    assert replies[0] == replies[1]


def test_one_client_serves_many_threads(client: Client, account: str) -> None:
    client.open_account(account, "EUR", "Ada")

    def work(worker: int) -> list[CommandReply]:
        single = [client.deposit(account, "0.01 EUR") for _ in range(10)]
        piped = client.send_many(client.command(Deposit, account, amount_minor=1, currency="EUR") for _ in range(100))
        return single + list(piped)

    with ThreadPoolExecutor(8) as threads:
        replies = [reply for result in threads.map(work, range(8)) for reply in result]
    assert sorted(reply.sequence or 0 for reply in replies) == list(range(2, 882))
    assert client.balance(account, at_least=881).money == Money(880, "EUR")


def test_an_iterator_that_is_left_does_not_disturb_the_client(client: Client, account: str) -> None:
    client.open_account(account, "EUR", "Ada")
    replies = client.send_many(
        (client.command(Deposit, account, amount_minor=1, currency="EUR") for _ in range(500)), window=100
    )
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert client.deposit(account, "1.00 EUR").accepted


def test_balances_of_many(client: Client, account: str) -> None:
    names = [f"{account}-{n}" for n in range(1200)]
    opened = client.send_many(client.command(OpenAccount, n, currency="KWD", holder_name="Ada") for n in names)
    assert all(reply.accepted for reply in opened)
    last = max((client.deposit(name, Money(index + 1, "KWD")) for index, name in enumerate(names[:5])), key=str)
    assert last.accepted
    for name in names:
        client.balance(name, at_least=2 if name in names[:5] else 1)
    found = list(client.balances([names[3], f"{account}-unknown", *names]))
    assert [balance.account_id for balance in found] == [names[3], *names]
    assert found[0].money == Money(4, "KWD")
    assert [(b.account_id, b.money.amount_minor) for b in client.top("KWD", 3)] == [
        (names[4], 5),
        (names[3], 4),
        (names[2], 3),
    ]
    assert client.top("KWD", 1, lowest=True)[0].money == Money(0, "KWD")
    assert client.top("BHD") == []
