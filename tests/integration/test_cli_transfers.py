"""Transfers at the terminal, against a running ledger: sent, told as one story, looked for in flight, added up."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from daybook import Client
from daybook.cli import main
from daybook.cli.display import WorkDisplay
from daybook.cli.exits import REFUSED
from daybook.progress import Progress
from schemas.connections import Connections
from schemas.events import MoneyDeposited, TransferReceived, TransferSent
from schemas.transfers import receive_id
from tests.conftest import PARTITIONS, Ledger
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.recorded import opened, recorded
from tests.wire import transfer


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Daybook = Callable[..., Ended]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Connections], Daybook]:
    """Runs `daybook` with some arguments, against a ledger."""

    def of(connections: Connections) -> Daybook:
        for name, value in environment(connections, DAYBOOK_USER="ada").items():
            monkeypatch.setenv(name, value)

        def run(*arguments: str) -> Ended:
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            said = capsys.readouterr()
            return Ended(int(ended.value.code or 0), said.out, said.err)

        return run

    return of


@pytest.fixture
def daybook(at: Callable[[Connections], Daybook], ledger: Ledger) -> Daybook:
    return at(ledger.connections)


@pytest.fixture(scope="module")
def searched(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The module's ledger with a search projector."""
    log = tmp_path_factory.mktemp("search") / "search.log"
    search = Process("projectors", "search", env=environment(ledger.connections), log=log)
    search.start()
    yield
    assert search.stop() == 0, search.output


@pytest.fixture
def pair(ledger: Ledger) -> tuple[str, str]:
    """An account with 100.00 EUR, and an empty one."""
    source, destination = f"S-{uuid.uuid4().hex[:8]}", f"D-{uuid.uuid4().hex[:8]}"
    with Client(ledger.connections, user_id="ada", timeout_s=30) as client:
        client.open_account(source, "EUR", "Ada")
        client.deposit(source, "100.00 EUR")
        client.open_account(destination, "EUR", "Bob")
    return source, destination


@pytest.mark.usefixtures("searched")
def test_a_transfer_from_sending_to_its_story(daybook: Daybook, pair: tuple[str, str]) -> None:
    source, destination = pair
    identity = str(uuid.uuid4())
    told = ("--transfer-id", identity, "--reason", "rent", "--correlation-id", "2026-07")
    spoken = daybook("transfer", source, destination, "40.00", "EUR", *told)
    assert (spoken.code, spoken.err) == (0, "")
    went = f"40.00 EUR went from {source} (at sequence 3) to {destination} (at sequence 2)"
    assert spoken.out == f"completed: {went}, transfer {identity}\n"
    (again,) = daybook("transfer", source, destination, "40.00 EUR", *told, "--json").records
    assert (again["status"], again["from_sequence"], again["to_sequence"]) == ("completed", 3, 2)
    assert (again["amount"], again["amount_minor"], again["transfer_id"]) == ("40.00", 4000, identity)

    story = until(lambda: _whole(daybook("history", "--transfer", identity, "--json")), "the story to be found")
    assert [(e["event_type"], e["account_id"], e["sequence"]) for e in story] == [
        ("TransferSent", source, 3),
        ("TransferReceived", destination, 2),
        ("TransferCompleted", source, 4),
    ]
    assert {(e["user_id"], e["reason"], e["correlation_id"]) for e in story} == {("ada", "rent", "2026-07")}
    spoken = daybook("history", destination, "--transfer", identity)
    head, _, sent, received, completed, end = (line.rstrip() for line in spoken.out.splitlines())
    assert head == f"transfer {identity}: 40.00 EUR from {source} to {destination} (rent), part of 2026-07"
    assert f"sent to {destination}" in sent
    assert f"received from {source}" in received
    assert f"40.00 EUR arrived at {destination}" in completed
    assert end == "completed"
    assert daybook("history", "nobody", "--transfer", identity).code == REFUSED
    unknown = daybook("history", "--transfer", str(uuid.uuid4()))
    assert (unknown.code, unknown.out) == (REFUSED, "")
    assert "is known to search" in unknown.err


def _whole(ended: Ended) -> list[dict[str, Any]]:
    return ended.records if ended.code == 0 and len(ended.records) == 3 else []


def test_a_transfer_that_comes_back_says_why(daybook: Daybook, pair: tuple[str, str]) -> None:
    source, _ = pair
    spoken = daybook("transfer", source, "nobody", "40.00 EUR")
    assert (spoken.code, spoken.err) == (REFUSED, "")
    assert spoken.out.startswith(
        f"returned: 40.00 EUR are back in {source} (at sequence 4): there is no account nobody"
    )
    ended = daybook("transfer", source, "nobody", "40.00 EUR", "--json")
    assert ended.code == REFUSED
    (record,) = ended.records
    assert (record["status"], record["code"], record["to_sequence"]) == ("returned", "account_not_found", None)


def test_a_transfer_that_is_refused(daybook: Daybook, pair: tuple[str, str]) -> None:
    source, destination = pair
    ended = daybook("transfer", source, destination, "100.01 EUR", "--json")
    assert (ended.code, ended.records[0]["code"]) == (REFUSED, "insufficient_funds")
    assert "refused: insufficient_funds" in ended.err


def test_a_transfer_need_not_be_waited_for(daybook: Daybook, pair: tuple[str, str]) -> None:
    source, destination = pair
    ended = daybook("transfer", source, destination, "1.00 EUR", "--no-wait")
    said, _, identity = ended.out.rstrip().rpartition(" ")
    assert said == f"sent: 1.00 EUR for {destination} have left {source}, transfer"
    other = ("--command-id", str(uuid.uuid4()), "--transfer-id", identity)
    assert daybook("transfer", source, destination, "1.00 EUR", "--no-wait", *other).out.startswith("sent before: ")
    (record,) = daybook("transfer", source, destination, "1.00 EUR", "--no-wait", "--json").records
    assert (record["status"], record["account_id"], record["event_count"]) == ("ACCEPTED", source, 1)
    assert str(uuid.UUID(record["transfer_id"])) == record["command_id"]


def test_the_running_ledger_s_money_adds_up(
    daybook: Daybook, ledger: Ledger, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair
    progress: list[Progress] = []
    monkeypatch.setattr(WorkDisplay, "update", lambda _, told: progress.append(told))
    with Client(ledger.connections, user_id="ada", timeout_s=30) as client:
        client.open_account("yen", "JPY", "Cyd")
        client.deposit("yen", "700 JPY")
        client.withdraw("yen", "200 JPY")
        many = [transfer(source, destination, 1) for _ in range(400)]
        assert all(reply.accepted for reply in client.send_many(many))
        client.transfer(source, "nobody", "0.01 EUR", wait=True)
        client.transfer(source, destination, "0.01 EUR", wait=True)
    (record,) = daybook("verify", "money", "--json").records
    assert (record["outcome"], record["wrong"]) == ("equal", None)
    assert record["transfers_completed"] >= 401
    assert record["transfers_returned"] >= 1
    by_currency = {sums["currency"]: sums for sums in record["currencies"]}
    assert by_currency["JPY"] == by_currency["JPY"] | {
        "accounts": 1,
        "deposited": "700",
        "withdrawn": "200",
        "balances_minor": 500,
        "in_transit": "0",
    }
    euros = by_currency["EUR"]
    assert euros["deposited_minor"] == euros["balances_minor"] + euros["in_transit_minor"] > 0
    assert [(one.what, one.done <= one.total) for one in progress] == [("reading events", True)] * len(progress)
    assert progress
    spoken = daybook("verify", "money")
    assert spoken.out.splitlines()[0].split("  ")[0] == "currency"
    assert spoken.out.splitlines()[-1].startswith("money: adds up (")


FLYING = "5f0c8d1e-93a4-4a57-8b2f-3f5d3b7f6a10"

ON_THE_WAY: Any = {"transfer_id": FLYING, "amount_minor": 5, "currency": "EUR"}


@pytest.fixture
def log(deployed: Connections) -> Log:
    """The log of a ledger whose services do not run: 0.05 EUR are on the way from S-1 to D-1 since June 2025."""
    paid = MoneyDeposited(amount_minor=20, currency="EUR", balance_minor=20)
    sent = TransferSent(to_account_id="D-1", balance_minor=15, in_transit_minor=5, **ON_THE_WAY)
    log = Log(deployed)
    told = replace(recorded("S-1", 3, sent), user_id="ada", reason="rent")
    log.append([opened("S-1"), recorded("S-1", 2, paid), told, opened("D-1")])
    return log


def test_what_is_in_flight_is_listed(
    at: Callable[[Connections], Daybook], deployed: Connections, log: Log, start: Callable[..., Process]
) -> None:
    assert log.partitions == PARTITIONS
    daybook = at(deployed)
    (flying,) = daybook("transfers", "--in-flight", "--from-log", "--older-than", "30s", "--json").records
    assert (flying["transfer_id"], flying["from_account_id"], flying["to_account_id"]) == (FLYING, "S-1", "D-1")
    assert (flying["amount"], flying["currency"], flying["user_id"], flying["reason"]) == ("0.05", "EUR", "ada", "rent")
    assert (flying["sent_at"], flying["arrived"], flying["sequence"]) == ("2025-06-15T15:06:43+00:00", False, 3)
    assert flying["age_s"] > 30
    nothing = daybook("transfers", "--in-flight", "--from-log", "--older-than", "99999d")
    assert (nothing.code, nothing.out) == (0, "")
    assert "no transfer is in flight for 99999d or longer" in nothing.err

    start("projectors", "search", env=environment(deployed))
    found = until(lambda: _listed(daybook("transfers", "--in-flight", "--json")), "the index to list it")
    # The audit trail does not say whether it has arrived.
    assert [one | {"age_s": 0} for one in found] == [flying | {"age_s": 0, "arrived": None}]
    assert daybook("transfers", "--in-flight", "--older-than", "99999d", "--json").records == []
    table = daybook("transfers", "--in-flight").out.splitlines()
    assert table[0].split("  ")[0] == "sent (UTC)"
    assert FLYING in table[1]
    assert "0.05 EUR" in table[1]
    spoken = daybook("history", "--transfer", FLYING)
    assert spoken.out.splitlines()[-1] == "in flight: it has neither arrived at D-1 nor come back"


def _listed(ended: Ended) -> list[dict[str, Any]]:
    return ended.records if ended.code == 0 else []


def test_money_that_does_not_add_up_is_named(
    at: Callable[[Connections], Daybook], deployed: Connections, log: Log
) -> None:
    daybook = at(deployed)
    (record,) = daybook("verify", "money", "--json").records
    assert (record["outcome"], record["transfers_in_flight"]) == ("equal", 1)
    assert record["in_flight_since"] == "2025-06-15T15:06:43+00:00"
    assert record["currencies"][0]["in_transit"] == "0.05"
    assert f"1 in flight, the oldest {FLYING} since 2025-06-15" in daybook("verify", "money").out

    more = TransferReceived(from_account_id="S-1", balance_minor=6, **ON_THE_WAY | {"amount_minor": 6})
    log.append([replace(recorded("D-1", 2, more), command_id=receive_id(FLYING, "S-1", 3))])
    ended = daybook("verify", "money", "--json")
    (record,) = ended.records
    assert (ended.code, record["outcome"], record["currencies"]) == (REFUSED, "differs", [])
    assert record["wrong"]["where"].startswith("TransferReceived D-1/2 (partition ")
    assert record["wrong"]["what"].startswith("its amount in minor units is 6, where TransferSent S-1/3 (partition ")
    spoken = daybook("verify", "money")
    assert spoken.code == REFUSED
    assert spoken.out.startswith("money: wrong after ")
    listing = daybook("transfers", "--in-flight", "--from-log")
    assert "(`daybook verify money`)" in listing.err
    assert listing.code not in (0, REFUSED)
