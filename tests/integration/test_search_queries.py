"""Searching accounts and reading an audit trail: only the indices that the search projector made are needed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from daybook import (
    AccountUnknown,
    Client,
    InvalidMoney,
    InvalidSearch,
    Money,
    NotConfigured,
    ReadTimeout,
    Unreachable,
    UnreadableRecord,
)
from deploy.definitions import apply
from schemas.connections import Connections
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    HolderChanged,
    MoneyDeposited,
    MoneyWithdrawn,
    OverdraftLimitSet,
)
from tests.processes import environment
from tests.recorded import START
from tests.search_index import Index

HOLDERS = {
    "A-1": "Alice Smith",
    "A-2": "alice jones",
    "A-3": "Alicia Keys",
    "A-4": "Malice Aforethought",
    "A-5": "Zoë Ångström",
    "A-6": "Bob [bold]Builder[/bold]",
    "B-1": "山田 太郎",
}


@pytest.fixture(scope="module")
def index(new_connections: Callable[[], Connections]) -> Iterator[Index]:
    connections = new_connections()
    apply(connections, partitions=1)
    index = Index(connections)
    for number, (account_id, name) in enumerate(HOLDERS.items()):
        currency = "JPY" if account_id.startswith("B") else "EUR"
        email = f"{number}@Example.org"
        index.put(account_id, 1, AccountCreated(currency=currency, holder_name=name, holder_email=email))
        amount = (number + 1) * 100
        index.put(account_id, 2, MoneyDeposited(amount_minor=amount, currency=currency, balance_minor=amount))
    index.put("A-3", 3, AccountFrozen())
    index.put("A-4", 3, MoneyWithdrawn(amount_minor=450, currency="EUR", balance_minor=-50))
    index.refresh()
    yield index
    index.server.close()


@pytest.fixture(scope="module")
def client(index: Index) -> Iterator[Client]:
    # Searching must not need Kafka, the registry or Redis: there are none at these addresses.
    elsewhere = {"kafka_bootstrap": "127.0.0.1:1", "registry_url": "http://127.0.0.1:1", "redis_url": None}
    with Client(index.connections.model_copy(update=elsewhere), user_id="ada", timeout_s=10) as client:
        yield client


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("alice", ["A-2", "A-1"]),
        ("ALICE", ["A-2", "A-1"]),
        ("smith alice", ["A-1"]),
        ("alice smi", ["A-1"]),
        # A whole word goes before a beginning, and that before what is only alike.
        ("ali", ["A-2", "A-1", "A-3"]),
        ("alcie", ["A-2", "A-1"]),
        ("zoe angstrom", []),
        ("zoë ång", ["A-5"]),
        ("zoe", ["A-5"]),
        ("太郎", ["B-1"]),
        ("bold", ["A-6"]),
        ("a-4", ["A-4"]),
        ("3@example.ORG", ["A-4"]),
        ("alice bob", []),
        ("*", []),
        ('"; DROP {{x}}', []),
        ("  ", ["A-2", "A-1", "A-3", "A-6", "A-4", "A-5", "B-1"]),
    ],
)
def test_people_are_found_as_they_are_looked_for(client: Client, text: str, found: list[str]) -> None:
    assert [view.account_id for view in client.search(text).accounts] == found


def test_status_currency_and_balance_narrow_a_search(client: Client) -> None:
    def ids(**given: str) -> set[str]:
        return {view.account_id for view in client.search(**given).accounts}  # type: ignore[arg-type]

    assert ids(status="frozen") == {"A-3"}
    assert ids(text="alicia", status="active") == set()
    assert ids(currency="JPY") == {"B-1"}
    assert ids(min_balance="2.00 EUR", max_balance="5.00 EUR") == {"A-2", "A-3", "A-5"}
    assert ids(max_balance="-0.50 EUR") == {"A-4"}
    assert ids(min_balance="700 JPY") == {"B-1"}


def test_pages_follow_each_other_without_gap_or_repetition(client: Client) -> None:
    for text in (None, "ali"):
        whole = client.search(text)
        assert whole.after is None
        after, turned = None, []
        while True:
            page = client.search(text, limit=2, after=after)
            turned += page.accounts
            after = page.after
            if after is None:
                break
            assert len(page.accounts) == 2
        assert tuple(turned) == whole.accounts


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"status": "open"}, InvalidSearch, '"open" is not a status'),
        ({"currency": "EURO"}, InvalidMoney, '"EURO" is not a currency'),
        ({"min_balance": "5"}, InvalidMoney, '"5" is not a balance'),
        ({"min_balance": "5 EUR", "currency": "JPY"}, InvalidSearch, "EUR, JPY"),
        ({"min_balance": "5 EUR", "max_balance": Money(5, "USD")}, InvalidSearch, "EUR, USD"),
        ({"limit": 0}, InvalidSearch, "1 to 1000"),
        ({"after": "x"}, InvalidSearch, '"x" is not where a page ended'),
        ({"after": "W10"}, InvalidSearch, '"W10" is not where a page ended'),
        ({"text": "x" * 257}, InvalidSearch, "at most 256 characters"),
    ],
)
def test_what_cannot_be_meant_is_explained(
    client: Client, given: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        client.search(**given)  # type: ignore[arg-type]


def test_an_account_is_there_as_soon_as_it_is_written(client: Client, index: Index) -> None:
    index.put("N-1", 1, AccountCreated(currency="EUR", holder_name="New", overdraft_limit_minor=500))
    index.put("N-1", 2, HolderChanged(holder_name="Newer", holder_email="n@example.org"), AccountClosed())
    view = client.account("N-1")
    at = datetime.fromtimestamp(START / 1_000_000, UTC)
    assert (view.holder_name, view.holder_email, view.status) == ("Newer", "n@example.org", "closed")
    assert (view.money, view.overdraft_limit, view.sequence) == (Money(0, "EUR"), Money(500, "EUR"), 3)
    assert (view.opened_at, view.updated_at) == (at + timedelta(seconds=1), at + timedelta(seconds=3))
    assert view.closed_at == view.updated_at
    index.server.delete(index=index.connections.indices.accounts, id="N-1")


def test_what_is_unknown_or_late_is_said(client: Client) -> None:
    for nobody in ("nobody", "a-1", "", "..", "A/1", "/checkpoint/0", "x" * 600):
        with pytest.raises((AccountUnknown, Unreachable), match=r"known to search|id is too long"):
            client.account(nobody)
    with pytest.raises(AccountUnknown, match="known to search"):
        list(client.history("nobody"))
    for read in (client.account, lambda *a, **k: next(client.history(*a, **k))):
        began = time.monotonic()
        with pytest.raises(ReadTimeout, match=r"account A-1 is at sequence 2 in the index .*, not at 3, after 3 s"):
            read("A-1", at_least=3, timeout_s=3)
        with pytest.raises(ReadTimeout, match="account nobody is unknown"):
            read("nobody", at_least=1, timeout_s=3)
        assert 6 <= time.monotonic() - began < 60


def test_a_trail_says_who_what_when_how_much_and_why(client: Client, index: Index) -> None:
    index.put("T-1", 1, AccountCreated(currency="EUR", holder_name="Ada", overdraft_limit_minor=100))
    index.put("T-1", 2, MoneyDeposited(amount_minor=5, currency="EUR", balance_minor=5), reason="found")
    index.put("T-1", 3, OverdraftLimitSet(previous_limit_minor=0, new_limit_minor=7, currency="EUR"), AccountFrozen())
    opened, deposited, limited, frozen = client.history("T-1", at_least=4)
    assert (opened.event_type, opened.overdraft_limit, opened.holder_name) == (
        "AccountCreated",
        Money(100, "EUR"),
        "Ada",
    )
    assert (deposited.user_id, deposited.reason, deposited.amount) == ("teller", "found", Money(5, "EUR"))
    assert (deposited.balance_before, deposited.balance) == (Money(0, "EUR"), Money(5, "EUR"))
    assert deposited.effective_at < opened.recorded_at < deposited.recorded_at
    assert (limited.overdraft_limit, limited.amount) == (Money(7, "EUR"), None)
    assert (frozen.balance_before, frozen.balance, frozen.sequence) == (Money(5, "EUR"), Money(5, "EUR"), 4)
    assert len({entry.offset for entry in (opened, deposited, limited, frozen)}) == 4
    assert list(client.history("T-1", newest_first=True)) == [frozen, limited, deposited, opened]
    assert list(client.history("T-1", after=2)) == [limited, frozen]
    assert list(client.history("T-1", newest_first=True, after=2)) == [opened]
    assert list(client.history("T-1", after=4)) == []


def test_a_trail_of_several_pages_is_whole(client: Client, index: Index) -> None:
    index.put(
        "L-1",
        1,
        AccountCreated(currency="EUR", holder_name="Ada"),
        *(MoneyDeposited(amount_minor=1, currency="EUR", balance_minor=balance) for balance in range(1, 1250)),
    )
    assert [entry.sequence for entry in client.history("L-1", at_least=1250)] == list(range(1, 1251))
    assert [entry.sequence for entry in client.history("L-1", newest_first=True)] == list(range(1250, 0, -1))


def test_waiting_for_what_is_written_meanwhile(client: Client, index: Index) -> None:
    index.put("W-1", 1, AccountCreated(currency="EUR", holder_name="Ada"))
    later = threading.Timer(0.3, index.put, ["W-1", 2, AccountFrozen()])
    later.start()
    assert client.account("W-1", at_least=2, timeout_s=30).status == "frozen"
    later.join()
    assert [entry.sequence for entry in client.history("W-1", at_least=2, timeout_s=30)] == [1, 2]


def test_the_command_line_shows_the_same(index: Index) -> None:
    def daybook(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", "-m", "daybook", *arguments]
        env = environment(index.connections)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    index.put("C-1", 1, AccountCreated(currency="EUR", holder_name="Carol [b]\x1b[31m"))
    index.put("C-1", 2, MoneyDeposited(amount_minor=500, currency="EUR", balance_minor=500), reason="[red]why")
    index.put("C-1", 3, MoneyWithdrawn(amount_minor=150, currency="EUR", balance_minor=350))

    trail = daybook("history", "C-1", "--newest", "--at-least", "3")
    rows = [line.split() for line in trail.stdout.splitlines()]
    assert rows[0][-5:] == ["amount", "EUR", "balance", "EUR", "why"]
    assert rows[1][4:] == ["withdrew", "-1.50", "3.50"]
    assert rows[2][4:] == ["deposited,", "since", "15:06:39", "5.00", "5.00", "[red]why"]
    assert r"opened for Carol [b]\x1b[31m, overdraft 0.00 EUR" in trail.stdout

    printed = [json.loads(line) for line in daybook("history", "C-1", "--limit", "2", "--json").stdout.splitlines()]
    assert [(entry["sequence"], entry["amount"], entry["balance"]) for entry in printed] == [
        (1, None, "0.00"),
        (2, "5.00", "5.00"),
    ]

    first = daybook("search", "ali", "--limit", "2", "--json")
    assert [json.loads(line)["account_id"] for line in first.stdout.splitlines()] == ["A-2", "A-1"]
    cursor = first.stderr.removeprefix("there are more: --after ").strip()
    assert daybook("search", "ali", "--limit", "2", "--after", cursor).stdout.splitlines()[1].startswith("A-3 ")
    assert daybook("search", "--max", "-0.01 EUR", "--json").stdout.count("\n") == 1
    none = daybook("search", "nobody at all")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no account fits\n")

    assert "balance    3.50 EUR" in daybook("account", "C-1", "--at-least", "3").stdout
    assert daybook("account", "nobody").returncode == 1
    assert daybook("search", "--status", "open").returncode == 2


def test_a_damaged_document_is_named(client: Client, index: Index) -> None:
    name = index.connections.indices.accounts
    index.put("D-1", 1, AccountCreated(currency="EUR", holder_name="Ada"))
    index.server.update(index=name, id="D-1", doc={"currency": "XXX"})
    with pytest.raises(UnreadableRecord, match=r"document D-1 of .*accounts-000001 .*daybook rebuild search"):
        client.account("D-1")
    index.server.delete(index=name, id="D-1")


def test_out_of_reach(index: Index, deployed: Connections) -> None:
    asked: Sequence[Callable[[Client], object]] = (
        lambda client: client.search("x"),
        lambda client: client.account("A-1"),
        lambda client: client.account("A-1", at_least=1, timeout_s=1),
        lambda client: list(client.history("A-1")),
    )
    secret = index.connections.model_copy(
        update={"elasticsearch_url": type(index.connections.elasticsearch_url)("http://ada:secret@127.0.0.1:1")}
    )
    for connections, message in ((deployed, "daybook deploy apply"), (secret, r"http://127\.0\.0\.1:1: ")):
        with Client(connections, user_id="ada", timeout_s=20) as client:
            for ask in asked:
                with pytest.raises(Unreachable, match=message) as raised:
                    ask(client)
                assert "secret" not in str(raised.value)
    nowhere = index.connections.model_copy(update={"elasticsearch_url": None})
    with Client(nowhere, user_id="ada") as client, pytest.raises(NotConfigured, match="DAYBOOK_ELASTICSEARCH_URL"):
        client.search()
