"""How far the programs have come, as `daybook status` tells it: who runs, who lags, and what is out of reach."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import SecretStr

from daybook import Client
from daybook.status import ProgramStatus, State, status
from schemas.connections import Connections
from tests.conftest import PARTITIONS, Ledger
from tests.event_log import Log
from tests.processes import environment, until
from tests.recorded import opened


def asked(
    connections: Connections, *, timeout_s: float = 30, **other: str | SecretStr | None
) -> dict[str, ProgramStatus]:
    found = status(connections.model_copy(update=other), timeout_s=timeout_s)
    return {program.program: program for program in found}


def daybook(connections: Connections, *arguments: str, **more: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of `daybook status --json`, and what it printed."""
    command = [sys.executable, "-W", "error", "-m", "daybook", "status", "--json", *arguments]
    env = environment(connections, **more)
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other test's activity program is asked."""
    monkeypatch.setenv("DAYBOOK_ACTIVITY_PORT", "1")


@pytest.mark.usefixtures("elsewhere")
def test_a_program_that_runs_is_told_from_one_that_does_not(ledger: Ledger) -> None:
    with Client(ledger.connections, user_id="ada") as client:
        for _ in range(8):
            account = f"S-{uuid.uuid4()}"
            client.open_account(account, "EUR", "Ada")
        client.balance(account, at_least=1)
    found = until(
        lambda: (
            (all_of := asked(ledger.connections))
            and all(all_of[program].state is State.RUNNING for program in ("command-service", "follow-ups", "balances"))
            and all(reached.lag == 0 for reached in all_of["balances"].partitions)
            and all_of
        ),
        "balances that have caught up",
    )
    for program in ("command-service", "follow-ups", "balances"):
        assert (found[program].state, found[program].problems) == (State.RUNNING, ())
        assert [reached.partition for reached in found[program].partitions] == list(range(PARTITIONS))
        # The broker has the address from which it was reached, which a container's network may have made another.
        assert all(ip_address((reached.member or "").rpartition("@")[2]) for reached in found[program].partitions)
        assert found[program].is_well(60.0)
    # The service commits the offsets of what it has decided, so nothing is left of the commands.
    for program in ("command-service", "follow-ups"):
        assert {reached.behind_s for reached in found[program].partitions} == {0.0}
    for program in ("search", "analytics", "activity"):
        assert found[program].state is State.STOPPED
        assert not found[program].is_well(1e9)
    assert "there is no index" in found["search"].problems[0]
    assert "analytics projector makes the table" in found["analytics"].problems[0]


@pytest.mark.usefixtures("elsewhere")
def test_lag_is_counted_in_offsets_and_in_seconds(deployed: Connections) -> None:
    log = Log(deployed)
    log.append([opened(f"A-{number}") for number in range(20)])
    time.sleep(1.1)
    log.append_and_abort([opened("B-1")])
    ends = log.ends()

    reached = asked(deployed)["activity"].partitions

    assert [(at.position, at.end, at.lag) for at in reached] == [(None, end, end) for end in ends.values()]
    assert all((at.behind_s or 0.0) >= 1.0 for at in reached)
    # What is nothing but an aborted transaction leaves nobody behind.
    empty = asked(deployed)["command-service"].partitions
    assert [(at.lag, at.behind_s) for at in empty] == [(0, 0.0)] * PARTITIONS


@pytest.mark.usefixtures("elsewhere")
def test_a_server_that_is_down_makes_its_rows_say_so_and_no_others(ledger: Ledger) -> None:
    redis = asked(ledger.connections, redis_url=SecretStr("redis://:geheim@127.0.0.1:1/0"))
    assert redis["balances"].state is State.RUNNING
    assert redis["balances"].problems[0].startswith("unreachable: Redis at 127.0.0.1:1/0: ")
    assert [at.position for at in redis["balances"].partitions] == [None] * PARTITIONS
    assert all(at.end is not None and at.lag is None for at in redis["balances"].partitions)
    assert not redis["balances"].is_well(1e9)
    assert redis["command-service"].is_well(60)

    began = time.monotonic()
    kafka = asked(ledger.connections, timeout_s=3, kafka_bootstrap="127.0.0.1:1")
    assert time.monotonic() - began < 60
    assert {program.state for program in kafka.values()} == {State.UNKNOWN}
    assert all("Kafka at 127.0.0.1:1" in program.problems[0] for program in kafka.values())

    nothing = asked(ledger.connections, redis_url=None, elasticsearch_url=None, iceberg_catalog=None)
    assert nothing["search"].state is nothing["analytics"].state is State.NOT_CONFIGURED
    assert nothing["search"].is_well(0)
    # It runs with settings that we do not have.
    assert nothing["balances"].state is State.RUNNING
    assert "DAYBOOK_REDIS_URL is not set" in nothing["balances"].problems[0]


def test_another_logs_model_is_not_taken_for_ours(ledger: Ledger, deployed: Connections) -> None:
    until(
        lambda: any(at.position is not None for at in asked(ledger.connections)["balances"].partitions),
        "balances that began",
    )
    found = asked(deployed, redis_url=SecretStr(ledger.connections.redis()))["balances"]
    assert "made from another log" in found.problems[0]
    assert {at.position for at in found.partitions} == {None}


def test_a_script_can_check_it(ledger: Ledger) -> None:
    here = {"DAYBOOK_ELASTICSEARCH_URL": "", "DAYBOOK_ICEBERG_CATALOG": "", "DAYBOOK_ACTIVITY_PORT": "1"}
    code, rows = daybook(ledger.connections, **here)
    assert code == 0
    running = [row for row in rows if row["program"] == "balances"]
    assert [row["partition"] for row in running] == list(range(PARTITIONS))
    assert {row["state"] for row in running} == {"running"}
    assert set(running[0]) == {
        *("program", "topic", "partition", "position", "end", "lag", "behind_s", "member", "state", "problems")
    }
    # The activity program does not run.
    assert daybook(ledger.connections, "--check", "60", **here)[0] == 1
