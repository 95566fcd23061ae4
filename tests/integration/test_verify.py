"""Comparing the read models with the log: what is equal, what was damaged in one way or another, and what is late."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from elasticsearch import Elasticsearch
from redis import Redis

from daybook.analytics.catalog import account_events
from daybook.verify.run import Outcome, Verdict, verify
from deploy.definitions import apply
from schemas.connections import Connections
from schemas.events import Event, MoneyDeposited
from schemas.iceberg import write_days
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.lives import HISTORY, TRANSFERS, lives
from tests.processes import Process, environment
from tests.recorded import recorded

MODELS = ("balances", "search", "analytics")


@dataclass(frozen=True)
class Models:
    """A ledger's log and its three models."""

    connections: Connections
    log: Log
    projectors: tuple[Process, ...]

    def verified(self, *models: str, timeout_s: float = 60) -> dict[str, Verdict]:
        found = verify(self.connections, models or MODELS, timeout_s=timeout_s, tell=lambda _: None)
        return {verdict.model: verdict for verdict in found}

    def append(self, events: Iterator[tuple[str, int, Event]]) -> None:
        self.log.append([recorded(*event) for event in events])


@pytest.fixture(scope="module")
def models(new_connections: Callable[[], Connections], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    logs = tmp_path_factory.mktemp("projectors")
    env = environment(connections, DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S="0.5")
    projectors = tuple(Process("projectors", name, env=env, log=logs / f"{name}.log") for name in MODELS)
    for projector in projectors:
        projector.start()
    models = Models(connections, Log(connections), projectors)
    try:
        models.append(lives(range(60)))
        models.append(iter(TRANSFERS))
        yield models
    finally:
        for projector in projectors:
            if projector.running():
                projector.stop()
            print(projector.output[-2000:])


def test_models_are_equal_while_the_ledger_goes_on(models: Models) -> None:
    first = models.verified()
    assert [verdict.outcome for verdict in first.values()] == [Outcome.EQUAL] * 3, first
    events = sum(1 for _ in lives(range(60))) + len(TRANSFERS)
    assert [(verdict.accounts, verdict.events) for verdict in first.values()] == [
        (62, None),
        (62, events),
        (None, events),
    ]
    going = threading.Event()
    going.set()

    def trade() -> None:
        # One busy account that is always ahead of what was just read, and new ones all the time.
        for turn in itertools.count(1):
            if not going.is_set():
                return
            balance = turn * 10
            models.append(iter([(f"N-{turn}", 1, HISTORY[0])]))
            event = MoneyDeposited(amount_minor=10, currency="KWD", balance_minor=balance)
            models.append(iter([("B-1", 1, HISTORY[0])] if turn == 1 else [("B-1", turn, event)]))

    busy = threading.Thread(target=trade)
    busy.start()
    try:
        found = [models.verified() for _ in range(4)]
    finally:
        going.clear()
        busy.join()
    assert {verdict.outcome for verdicts in found for verdict in verdicts.values()} == {Outcome.EQUAL}, found
    assert (found[-1]["search"].events or 0) > events


@pytest.fixture(scope="module")
def still(models: Models) -> Models:
    """The models, all caught up, and nobody to write to them any more."""
    assert {verdict.outcome for verdict in models.verified().values()} == {Outcome.EQUAL}
    for projector in models.projectors:
        assert projector.stop() == 0
    return models


def _changed(models: Models, what: str, redis: Redis) -> None:
    # A-9 has lived its whole life and is closed; A-3 has a balance of 6.
    match what:
        case "balance":
            redis.hset("balance:A-3", "balance_minor", 7)
        case "time":
            redis.hincrby("balance:A-3", "updated_at", 1)
        case "in transit":
            redis.hset("balance:T-1", "in_transit_minor", 0)
        case "not in transit":
            redis.hdel("balance:T-1", "in_transit_minor")
        case "no status":
            redis.hdel("balance:A-3", "status")
        case "later":
            redis.hset("balance:A-3", "sequence", 99)
        case "missing":
            redis.delete("balance:A-3")
        case "extra":
            redis.hset("balance:X-1", mapping=redis.hgetall("balance:A-3"))
        case "no hash":
            redis.delete("balance:A-3")
            redis.set("balance:A-3", "6")
        case "score":
            redis.zadd("balances:KWD", {"A-3": 7})
        case "no place":
            redis.zrem("balances:KWD", "A-3")
        case "closed place":
            redis.zadd("balances:KWD", {"A-9": 0})
        case "nobody's place":
            redis.zadd("balances:KWD", {"X-1": 0})
        case "other currency":
            redis.zadd("balances:EUR", {"A-3": 6})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("balance", "account A-3: balance_minor is 7, where the log gives 6"),
        ("time", "account A-3: updated_at is 1750000004000001, where the log gives 1750000004000000"),
        ("in transit", "account T-1: in_transit_minor is 0, where the log gives 2"),
        ("not in transit", "account T-1: in_transit_minor is 0, where the log gives 2"),
        ("no status", "account A-3: status is not there, where the log gives active"),
        ("later", "account A-3: sequence is 99, where the log gives 4"),
        ("missing", "account A-3 is missing"),
        ("extra", "account X-1 is there, and the log has nothing of the kind"),
        ("no hash", "account A-3: type is something else, where the log gives a hash"),
        ("score", "account A-3 in the ranking KWD: score is 7, where the log gives 6"),
        ("no place", "account A-3 in the ranking KWD is missing"),
        ("closed place", "account A-9 in the ranking KWD is there, and the log has nothing of the kind"),
        ("nobody's place", "account X-1 in the ranking KWD is there, and the log has nothing of the kind"),
        ("other currency", "account A-3 in the ranking EUR is there, and the log has nothing of the kind"),
    ],
)
def test_damaged_balances_are_named(still: Models, what: str, said: str) -> None:
    with Redis.from_url(still.connections.redis()) as redis:
        before = {key: redis.dump(key) for key in redis.scan_iter("balance*")}
        _changed(still, what, redis)
        try:
            verdict = still.verified("balances")["balances"]
        finally:
            for key in redis.scan_iter("balance*"):
                redis.delete(key)
            for key, dump in before.items():
                redis.restore(key, 0, dump)
    assert (verdict.outcome, str(verdict.difference)) == (Outcome.DIFFERS, said)


def test_balances_that_an_earlier_release_wrote_have_nothing_in_transit(still: Models) -> None:
    with Redis.from_url(still.connections.redis()) as redis:
        for account_id in ("A-3", "T-2"):
            assert redis.hdel(f"balance:{account_id}", "in_transit_minor") == 1
        try:
            assert still.verified("balances")["balances"].outcome is Outcome.EQUAL
        finally:
            for account_id in ("A-3", "T-2"):
                redis.hset(f"balance:{account_id}", "in_transit_minor", 0)


@pytest.mark.parametrize(
    ("index", "doc_id", "change", "said"),
    [
        ("accounts", "A-3", {"holder_name": "Eve"}, "account A-3: holder_name is Eve, where the log gives Ada"),
        ("accounts", "A-9", {"closed_at": None}, "account A-9: closed_at is not there, where the log gives 1750000010"),
        (
            "accounts",
            "A-8",
            {"closed_at": "2025-01-01"},
            "account A-8: closed_at is 2025-01-01, where the log gives none",
        ),
        (
            "accounts",
            "T-1",
            {"in_transit_minor": None},
            "account T-1: in_transit_minor is not there, where the log gives 2",
        ),
        ("accounts", "A-3", {"in_transit_minor": 5}, "account A-3: in_transit_minor is 5, where the log gives none"),
        (
            "account_events",
            "T-1/4",
            {"in_transit_minor": 4},
            "event T-1/4: in_transit_minor is 4, where the log gives 3",
        ),
        (
            "account_events",
            "T-2/2",
            {"from_account_id": "A-3"},
            "event T-2/2: from_account_id is A-3, where the log gives",
        ),
        (
            "account_events",
            "T-1/5",
            {"message": "no"},
            "event T-1/5: message is no, where the log gives account T-2 is",
        ),
        ("accounts", "A-3", {"sequence": 99}, "account A-3: sequence is 99, where the log gives 4"),
        ("accounts", "A-3", None, "account A-3 is missing"),
        ("accounts", "X-1", {}, "account X-1 is there, and the log has nothing of the kind"),
        ("account_events", "A-3/2", {"user_id": "eve"}, "event A-3/2: user_id is eve, where the log gives teller"),
        ("account_events", "A-3/4", {"balance_before_minor": 2}, "event A-3/4: balance_before_minor is 2, where"),
        ("account_events", "A-3/2", {"reason": "none"}, "event A-3/2: reason is none, where the log gives none"),
        ("account_events", "A-3/2", {"chain_hash": "00"}, "event A-3/2: chain_hash is 00, where"),
        ("account_events", "A-3/2", None, "event A-3/2 is missing"),
        ("account_events", "A-3/2", {"offset": 10**9}, "event A-3/2 is missing"),
        ("account_events", "A-3/2", {"partition": 77}, "event A-3/2 is missing"),
        ("account_events", "X-1/1", {}, "event X-1/1 is there, and the log has nothing of the kind"),
        ("account_events", "X-1/1", {"partition": 77}, "event X-1/1 is there, and the log has nothing of the kind"),
        ("account_events", "X-1/1", {"offset": 10**9}, "an event at offset 1000000000 of partition"),
    ],
)
def test_damaged_indices_are_named(
    still: Models, index: str, doc_id: str, change: dict[str, object] | None, said: str
) -> None:
    name = getattr(still.connections.indices, index)
    with Elasticsearch(**still.connections.elasticsearch(), request_timeout=30) as server:
        # A document that should not be there is like another one, but for its account.
        source = server.get(index=name, id=doc_id.replace("X-1", "A-3"))["_source"]
        if change is None:
            server.delete(index=name, id=doc_id)
        else:
            account_id = doc_id.partition("/")[0]
            server.index(index=name, id=doc_id, document=source | {"account_id": account_id} | change)
        try:
            verdict = still.verified("search")["search"]
        finally:
            if doc_id.startswith("X-1"):
                server.delete(index=name, id=doc_id)
            else:
                server.index(index=name, id=doc_id, document=source)
    assert verdict.outcome is Outcome.DIFFERS
    assert str(verdict.difference).startswith(said)


Damage = Callable[[pa.Table], pa.Table]


def _set(name: str, value: object) -> Damage:
    def change(row: pa.Table) -> pa.Table:
        field = row.schema.field(name)
        return row.set_column(row.schema.get_field_index(name), field, pa.array([value], field.type))

    return change


@contextmanager
def damaged(connections: Connections, damage: Damage | None, *, keep: bool) -> Iterator[None]:
    """Event A-3/2's row replaced by another, or another one added, until the block ends."""
    with account_events(connections) as table:
        before = table.current_snapshot()
        assert before is not None
        rows = table.scan().to_arrow()
        is_it = pc.and_(pc.equal(rows["account_id"], "A-3"), pc.equal(rows["sequence"], 2))
        parts = [rows if keep else rows.filter(pc.invert(is_it))]
        if damage is not None:
            parts.append(damage(rows.filter(is_it)))
        with table.transaction() as transaction, transaction.update_snapshot().overwrite() as overwrite:
            for task in table.scan().plan_files():
                overwrite.delete_data_file(task.file)
            for file in write_days(table, pa.concat_tables(parts)):
                overwrite.append_data_file(file)
        yield
        table.refresh()
        table.manage_snapshots().set_current_snapshot(before.snapshot_id).commit()


@pytest.mark.parametrize(
    ("damage", "keep", "said"),
    [
        (None, False, "event A-3/2 is missing"),
        (_set("amount_minor", 1), False, f"event A-3/2: amount_minor is 1, where the log gives {2**60 + 1}"),
        (_set("user_id", "eve"), False, "event A-3/2: user_id is eve, where the log gives teller"),
        (_set("balance_before_minor", None), False, "event A-3/2: balance_before_minor is not there, where"),
        (_set("chain_hash", bytes(32)), False, "event A-3/2: chain_hash is 0000"),
        (_set("sequence", 2), True, "event A-3/2 is there, and the log has nothing of the kind"),
        (_set("partition", 77), True, "event A-3/2 is there, and the log has nothing of the kind"),
        (_set("offset", 10**9), True, "an event at offset 1000000000 of partition"),
    ],
)
def test_a_damaged_table_is_named(still: Models, damage: Damage | None, keep: bool, said: str) -> None:
    with damaged(still.connections, damage, keep=keep):
        verdict = still.verified("analytics")["analytics"]
    assert verdict.outcome is Outcome.DIFFERS
    assert str(verdict.difference).startswith(said)


def test_one_difference_does_not_hide_another_and_the_exit_code_says_it(still: Models) -> None:
    with ExitStack() as undo:
        redis = undo.enter_context(Redis.from_url(still.connections.redis()))
        redis.hset("balance:A-3", "balance_minor", 7)
        undo.callback(redis.hset, "balance:A-3", "balance_minor", 6)
        undo.enter_context(damaged(still.connections, None, keep=False))
        code, found = daybook(environment(still.connections), "verify", "models", "--json")
    assert code == 1
    assert [(verdict["model"], verdict["outcome"]) for verdict in found] == [
        ("balances", "differs"),
        ("search", "equal"),
        ("analytics", "differs"),
    ]
    assert found[0]["difference"] == {
        "item": "account A-3",
        "field": "balance_minor",
        "expected": "6",
        "found": "7",
    }


def test_a_model_that_is_late_out_of_reach_or_another_logs_is_told_from_one_that_differs(
    still: Models, new_connections: Callable[[], Connections]
) -> None:
    env = environment(still.connections)
    down = daybook(env | {"DAYBOOK_REDIS_URL": "redis://127.0.0.1:1/0"}, "verify", "models", "--json")
    assert (down[0], down[1][0]["outcome"], down[1][1]["outcome"]) == (4, "failed", "equal")
    other = new_connections()
    apply(other, partitions=PARTITIONS)
    foreign = environment(other, DAYBOOK_REDIS_URL=still.connections.redis())
    code, found = daybook(foreign, "verify", "models", "balances", "--json")
    assert (code, found[0]["outcome"]) == (5, "failed")
    assert "made from another log" in found[0]["error"]
    assert daybook(env, "verify", "models", "ledgers")[0] == 2
    still.append(iter([("A-3", 5, HISTORY[4])]))
    code, found = daybook(env, "verify", "models", "--json", "--timeout", "10")
    assert (code, {verdict["outcome"] for verdict in found}) == (3, {"late"})
    assert "is its projector running" in found[0]["error"]


def daybook(env: dict[str, str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Its exit code, and what it printed as JSON."""
    command = [sys.executable, "-W", "error", "-m", "daybook", *arguments]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]
