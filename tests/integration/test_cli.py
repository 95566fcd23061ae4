"""The `daybook` command as a script or a person runs it, against a running ledger."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from daybook.supervise import PROGRAMS
from deploy.stack.stack import Stack
from schemas.connections import Connections
from tests.conftest import PARTITIONS, Ledger
from tests.processes import environment, until
from tests.wire import Wire, opening


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
def daybook(ledger: Ledger) -> Daybook:
    """Runs `daybook` with some arguments, against the module's ledger."""
    env = environment(ledger.connections, DAYBOOK_USER="ada")

    def run(*arguments: str, **more: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "daybook", *arguments],
            env=env | more,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def account() -> str:
    return f"C-{uuid.uuid4()}"


def test_from_opening_to_closing(daybook: Daybook, account: str) -> None:
    spoken = [
        daybook("open", account, "EUR", "--holder", "Ada Lovelace", "--overdraft", "10.00 EUR"),
        daybook("deposit", account, "200.00 EUR", "--reason", "salary"),
        daybook("withdraw", account, "150.00", "EUR", "--effective-at", "2024-02-29"),
        daybook("refund", account, "50.00 EUR", "--withdrawal", "3"),
        daybook("overdraft", account, "0 EUR"),
        daybook("holder", account, "--name", "Ada King", "--email", "ada@example.org"),
        daybook("freeze", account, "--cause", "court-order"),
        daybook("unfreeze", account),
        daybook("unfreeze", account),
        daybook("withdraw", account, "100.00 EUR", "--expect", "8"),
        daybook("close", account, "--payout-reference", "SEPA 2026-0042"),
    ]

    assert [ended.code for ended in spoken] == [0] * 11, [ended.err for ended in spoken]
    assert spoken[2].out == f"done: {account} is at sequence 3\n"
    assert spoken[8].out == f"done: {account} is at sequence 8, where nothing was left to do\n"
    (balance,) = daybook("balance", account, "--at-least", "10", "--json").records
    assert balance | {"updated_at": ""} == {
        "account_id": account,
        "balance": "0.00",
        "balance_minor": 0,
        "in_transit": "0.00",
        "in_transit_minor": 0,
        "currency": "EUR",
        "status": "closed",
        "sequence": 10,
        "updated_at": "",
    }
    events = daybook("tail", account, "--no-follow", "--json").records
    assert [events[4][name] for name in ("previous_limit_minor", "new_limit_minor")] == [1000, 0]
    assert events[6]["cause"] == "COURT_ORDER"
    assert events[9]["payout_reference"] == "SEPA 2026-0042"


def test_the_log_as_lines_and_as_json(daybook: Daybook, account: str) -> None:
    daybook("open", account, "JPY", "--holder", "Ada")
    daybook("deposit", account, "500 JPY", "--reason", "found", "--effective-at", "2024-02-29T12:00+01:00")
    daybook("deposit", account, "1 JPY", "--user", "bob")

    lines = daybook("tail", account, "--no-follow").out.splitlines()
    records = daybook("tail", account, "--no-follow", "--json").records

    assert lines[1] == f"2024-02-29 11:00:00  {account}/2  deposited 500 JPY, balance 500 JPY  by ada (found)"
    assert [(r["event_type"], r["sequence"], r["user_id"]) for r in records] == [
        ("AccountCreated", 1, "ada"),
        ("MoneyDeposited", 2, "ada"),
        ("MoneyDeposited", 3, "bob"),
    ]
    assert records[2]["balance_minor"] == 501
    assert len(records[2]["chain_hash"]) == 64


def test_a_refusal_is_said_and_is_exit_code_1(daybook: Daybook, account: str) -> None:
    said = daybook("deposit", account, "5.00 EUR")
    printed = daybook("deposit", account, "5.00 EUR", "--json")

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("refused: account_not_found: there is no account")
    assert printed.code == 1
    assert [(r["status"], r["code"]) for r in printed.records] == [("REJECTED", "account_not_found")]


def test_the_same_command_id_is_carried_out_once(daybook: Daybook, account: str) -> None:
    daybook("open", account, "EUR", "--holder", "Ada")
    command_id = str(uuid.uuid4())

    replies = [daybook("deposit", account, "5.00 EUR", "--command-id", command_id, "--json").records for _ in range(2)]

    assert replies[0] == replies[1]
    assert daybook("balance", account, "--at-least", "2", "--json").records[0]["balance"] == "5.00"


def test_an_unknown_account_and_one_that_is_waited_for_in_vain(daybook: Daybook, account: str) -> None:
    assert daybook("balance", account).code == 1
    late = daybook("balance", account, "--at-least", "1", "--timeout", "0.5")
    assert late.code == 3
    assert "not at 1, after 0.5 s" in late.err


def test_the_highest_and_the_lowest(daybook: Daybook) -> None:
    accounts = [f"T-{uuid.uuid4()}" for _ in range(3)]
    for amount, account in enumerate(accounts, start=1):
        daybook("open", account, "ISK", "--holder", "Ada")
        daybook("deposit", account, f"{amount} ISK")
        daybook("balance", account, "--at-least", "2")

    highest = daybook("top", "ISK", "--count", "2", "--json").records
    lowest = daybook("top", "ISK", "--lowest", "--json").records

    assert [r["account_id"] for r in highest] == [accounts[2], accounts[1]]
    assert [r["account_id"] for r in lowest] == accounts


def test_servers_out_of_reach_are_exit_code_4(daybook: Daybook, account: str) -> None:
    kafka = daybook("deposit", account, "5 EUR", "--timeout", "2", DAYBOOK_KAFKA_BOOTSTRAP="127.0.0.1:1")
    redis = daybook("balance", account, "--timeout", "2", DAYBOOK_REDIS_URL="redis://127.0.0.1:1/0")

    assert (kafka.code, redis.code) == (4, 4)
    assert "127.0.0.1:1" in kafka.err
    assert "127.0.0.1:1" in redis.err
    assert "Traceback" not in kafka.err + redis.err


def test_a_ledger_without_its_service_is_exit_code_3(daybook: Daybook, deployed: Connections, account: str) -> None:
    silent = daybook("freeze", account, "--timeout", "3", DAYBOOK_NAMESPACE=deployed.namespace)

    assert silent.code == 3
    assert "daybook run" in silent.err


def test_a_follower_sees_what_comes_and_can_be_interrupted(daybook: Daybook, ledger: Ledger, account: str) -> None:
    command = [sys.executable, "-m", "daybook", "tail", account, "--json"]
    env = environment(ledger.connections, PYTHONUNBUFFERED="1")
    daybook("open", account, "EUR", "--holder", "Ada")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["event_type"] == "AccountCreated"
        daybook("freeze", account)
        assert json.loads(follower.stdout.readline())["event_type"] == "AccountFrozen"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(timeout=20) == 130


def test_run_serves_commands_and_leaves_nothing_behind(
    daybook: Daybook, deployed: Connections, account: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = environment(deployed, XDG_CACHE_HOME=str(tmp_path), DAYBOOK_ACTIVITY_PORT=str(port))
    here = {name: env[name] for name in ("DAYBOOK_NAMESPACE", "DAYBOOK_REDIS_URL", "XDG_CACHE_HOME")}
    log = tmp_path / "run.log"
    with log.open("wb") as out:
        run = subprocess.Popen([sys.executable, "-m", "daybook", "run"], env=env, stdout=out, stderr=out)
    try:
        opened = daybook("open", account, "EUR", "--holder", "Ada", "--timeout", "120", **here)
        balance = daybook("balance", account, "--at-least", "1", "--timeout", "120", "--json", **here)
        second = daybook("run", "--only", "balances", **here)
        children = until(
            lambda: len(found := psutil.Process(run.pid).children()) == len(PROGRAMS) and found, "every program", 120
        )
    finally:
        run.send_signal(signal.SIGTERM)
        code = run.wait(timeout=40)

    assert opened.code == 0, opened.err + log.read_text()
    assert balance.records[0]["balance"] == "0.00"
    assert second.code == 5
    assert f"balances is already run on this ledger by process {run.pid}" in second.err
    assert code == 0
    until(lambda: not any(child.is_running() for child in children), "end of the services")
    assert "command-service | " in log.read_text()


def test_addresses_are_found_where_the_stack_wrote_them(stack: Stack, ledger: Ledger, account: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    env |= {"DAYBOOK_ENV_FILE": str(stack.folder.env), "DAYBOOK_NAMESPACE": ledger.connections.namespace}
    command = [sys.executable, "-m", "daybook", "open", account, "EUR", "--holder", "Ada"]

    assert subprocess.run(command, env=env, capture_output=True, timeout=60, check=False).returncode == 0


def test_what_is_parked_is_listed_and_can_be_given_again(daybook: Daybook, ledger: Ledger, account: str) -> None:
    assert daybook("parked", "list", "--reason", "unknown_schema").out == "nothing is parked as unknown_schema\n"
    with Wire(ledger.connections, PARTITIONS) as wire:
        wire.put(b"not avro\x1b[2J", key=account.encode(), partition=1)
        wire.flush()
        # Nothing answers a record that is none of ours, so that the command behind it tells when it was looked at.
        wire.put(wire.codec.encode_command(opening(account)), key=account.encode(), partition=1)
        wire.flush()
    until(lambda: daybook("balance", account).code == 0, "account that was opened behind the record")

    def listed() -> list[dict[str, Any]]:
        found = daybook("parked", "list", "--json", "--reason", "undecodable")
        assert found.code == 0, found.err
        return [one for one in found.records if base64.b64decode(one["key"]).decode() == account]

    (first,) = listed()
    assert base64.b64decode(first["value"]) == b"not avro\x1b[2J"
    assert first["came_from"].startswith(f"{ledger.connections.topics.commands}/1/")
    place = f"{first['partition']}/{first['offset']}"
    shown = daybook("parked", "list")
    assert place in shown.out
    assert "\x1b" not in shown.out

    sent = daybook("parked", "send", place)
    assert (sent.code, sent.out.split(":")[0]) == (0, "sent again")
    until(lambda: len(listed()) == 2, "record that was parked once more")
    assert {one["value"] for one in listed()} == {first["value"]}

    nowhere = daybook("parked", "send", "0/999999")
    assert (nowhere.code, "has no record at 0/999999" in nowhere.err) == (1, True)
    assert daybook("parked", "send", "there").code == 2
