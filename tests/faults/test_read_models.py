"""Every read model equals the log in the end, whatever happened to its projector and its sink meanwhile."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch
from redis import Redis

from daybook import Client
from schemas.commands import ChangeHolder, Deposit, Freeze, OpenAccount, Unfreeze, Withdraw
from schemas.connections import Connections
from tests.processes import Process, environment, until

pytestmark = pytest.mark.faults

MODELS = ("balances", "search", "analytics")
KILLS = 10
ACCOUNTS = 40
EAGER = {"DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S": "0.5"}


class Load:
    """Commands of all kinds to the same accounts, until it is told to stop. Every account exists from the start."""

    def __init__(self, connections: Connections) -> None:
        self._dice = random.Random(4)
        self._accounts = [f"load-{uuid.uuid4().hex[:8]}" for _ in range(ACCOUNTS)]
        self._client = Client(connections, user_id="load", timeout_s=60)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: Exception | None = None
        self.accepted = 0

    def __enter__(self) -> Load:
        opening = [
            self._client.command(OpenAccount, account_id, currency=currency, holder_name=f"Holder of {account_id}")
            for account_id, currency in zip(self._accounts, ["EUR", "JPY", "KWD", "USD"] * (ACCOUNTS // 4), strict=True)
        ]
        self._currencies = {command.account_id: command.currency for command in opening}
        self.accepted += sum(reply.accepted for reply in self._client.send_many(opening))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._client.close()
        if self._failure is not None:
            raise self._failure

    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                commands = [self._any() for _ in range(100)]
                self.accepted += sum(reply.accepted for reply in self._client.send_many(commands))
                self._stopping.wait(0.1)
        except Exception as error:
            self._failure = error

    def _any(self) -> Deposit | Withdraw | ChangeHolder | Freeze | Unfreeze:
        account_id = self._dice.choice(self._accounts)
        money = {"amount_minor": self._dice.randint(1, 10_000), "currency": self._currencies[account_id]}
        place = self._dice.random()
        if place < 0.5:
            return self._client.command(Deposit, account_id, **money, reason="rent & “extras”")
        if place < 0.9:
            return self._client.command(Withdraw, account_id, **money)
        if place < 0.94:
            return self._client.command(ChangeHolder, account_id, holder_name=f"Ádám {place}", holder_email=None)
        return self._client.command(Freeze if place < 0.96 else Unfreeze, account_id)


@pytest.fixture
def ledger(deployed: Connections, start: Callable[..., Process]) -> dict[str, Process]:
    """The command service and every projector that writes a model of accounts and events."""
    env = environment(deployed, **EAGER)
    start("command_service", env=env)
    return {name: start("projectors", name, env=env) for name in MODELS}


def verify(connections: Connections) -> None:
    """What a user would ask, and what any difference makes fail."""
    asked = [sys.executable, "-m", "daybook", "verify", "models", *MODELS, "--timeout", "240"]
    ended = subprocess.run(asked, env=environment(connections), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"


def test_ten_kills_of_each_projector_at_random_change_no_model(
    deployed: Connections, ledger: dict[str, Process]
) -> None:
    stopped: list[str] = []

    def kill(process: Process, seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(KILLS):
            # Joining the group, standing where the sink stands, and writing are all met by some of them.
            threading.Event().wait(dice.uniform(0.2, 9.0))
            if not process.running():
                stopped.append(process.output[-4000:])
            process.kill()
            process.start()

    with Load(deployed) as load:
        killers = [
            threading.Thread(target=kill, args=(process, seed)) for seed, process in enumerate(ledger.values(), start=1)
        ]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        until(lambda: load.accepted > 1_000 or not load.running(), "accepted commands", 120)
    verify(deployed)
    stopped.extend(process.output[-4000:] for process in ledger.values() if not process.running())
    assert not stopped, "\n".join(stopped)


def test_a_sink_that_was_wiped_cut_or_set_back_is_filled_again_by_itself(
    deployed: Connections, ledger: dict[str, Process], tmp_path: Path
) -> None:
    warehouse = Path(str(deployed.iceberg_warehouse).removeprefix("file://"))
    older = tmp_path / "older"
    with Load(deployed):
        threading.Event().wait(3)
    verify(deployed)
    shutil.copytree(warehouse, older)
    with Load(deployed):
        with Redis.from_url(deployed.redis()) as redis:
            redis.flushdb()
        with Elasticsearch(**deployed.elasticsearch(), request_timeout=60) as search:
            for alias in (deployed.indices.accounts, deployed.indices.account_events):
                (index,) = search.indices.get_alias(name=alias)
                search.indices.delete(index=index)
        was = len(list(older.rglob("*.parquet")))
        until(lambda: len(list(warehouse.rglob("*.parquet"))) > was, "a commit that the older copy lacks")
        # The projector wakes up on another table than the one that it knows.
        ledger["analytics"].send(signal.SIGSTOP)
        shutil.rmtree(warehouse)
        shutil.copytree(older, warehouse)
        ledger["analytics"].send(signal.SIGCONT)
        threading.Event().wait(3)
    verify(deployed)
    assert all(process.running() for process in ledger.values())
