"""Rebuilding the balances, as a process, from the real log beside a live model that is read and written meanwhile."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from projectors import rebuild_lock
from projectors.balances_rebuild import MARK_KEY
from projectors.patience import Patience
from projectors.rebuild import MODELS, fingerprint
from projectors.rebuild_lock import OneRebuild
from projectors.rebuilding import CannotRebuild
from projectors.source import identify
from schemas.connections import Connections
from schemas.events import AccountFrozen, MoneyRefunded
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY
from schemas.topics import partition_of
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.readers import Balances, database_of, in_database, polling
from tests.recorded import histories, plain_fold, recorded

Start = Callable[..., Process]


@pytest.fixture
def log(deployed: Connections) -> Log:
    return Log(deployed)


@pytest.fixture
def balances(deployed: Connections) -> Iterator[Balances]:
    with closing(Balances(deployed.redis())) as reader:
        yield reader


@pytest.fixture
def copy(deployed: Connections) -> Iterator[Balances]:
    """The database in which the balances are rebuilt."""
    url = deployed.redis()
    with closing(Balances(in_database(url, database_of(url) + 1))) as reader:
        yield reader


def daybook(connections: Connections, *arguments: str, expect: int = 0) -> tuple[dict[str, Any], str]:
    """Run `daybook rebuild ... --json`: what it printed, and what it said."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "daybook", "rebuild", *arguments, "--json"],
        env=environment(connections),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_readers_notice_nothing_of_a_rebuild_and_a_rollback_under_load(
    log: Log, balances: Balances, copy: Balances, start: Start, deployed: Connections
) -> None:
    accounts = 1000
    events = histories(accounts, 10)
    log.append(events)
    projector = start("projectors", "balances", env=environment(deployed))
    balances.become(events)
    ended = threading.Event()

    def load() -> None:
        sequence = 11
        while not ended.is_set():
            more = histories(accounts, 1, first=sequence)
            log.append(more)
            events.extend(more)
            sequence += 1
            ended.wait(0.2)

    loading = threading.Thread(target=load)
    loading.start()
    try:
        with polling(deployed.redis(), [f"A-{n}" for n in range(0, accounts, 100)]) as seen:
            built, _ = daybook(deployed, "balances", "--keep-old")
            at_switch = seen.reads
            until(lambda: seen.reads > at_switch + 1000, "reads after the switch")
            back, said = daybook(deployed, "rollback", "balances")
    finally:
        ended.set()
        loading.join()
    assert seen.errors == []
    assert seen.reads > 5000
    assert built["switched"] is True
    assert built["kept_old"] is True
    assert (built["differing"], built["not_compared"]) == (0, 0)
    assert built["compared"] >= accounts
    assert back["switched"] is True
    assert back["differing"] == 0
    assert "the old model is in place again" in said
    balances.become(events)
    assert projector.running()
    # What was rolled back from is kept, and nothing else is left.
    assert copy.redis.hget(MARK_KEY, "state") == "kept"
    assert set(copy.model()) == set(balances.model())
    assert not balances.redis.exists(MARK_KEY, BALANCES_HOLD_KEY)
    gone, _ = daybook(deployed, "discard", "balances")
    assert gone == {"model": "balances", "discarded": True}
    assert copy.redis.dbsize() == 0


def test_a_projection_that_was_wrong_is_put_right_and_the_log_stays_as_it_is(
    log: Log, balances: Balances, start: Start, deployed: Connections
) -> None:
    refund = MoneyRefunded(amount_minor=7, currency="EUR", balance_minor=990, withdrawal_sequence=2)
    events = [*histories(50, 4), *(recorded(f"A-{account}", 5, refund) for account in range(0, 50, 5))]
    log.append(events)
    ends = log.ends()
    wrong = start("tests.wrong_balances", "balances", env=environment(deployed))
    until(lambda: balances.checkpoints() == ends, "the wrong projector at the log's end")
    assert balances.model()["A-5"]["balance_minor"] == "405"

    compared, said = daybook(deployed, "balances", "--compare-only", expect=1)
    assert (compared["switched"], compared["compared"], compared["differing"]) == (False, 50, 10)
    assert {"what": "account A-5", "live": WRONG, "rebuilt": RIGHT} in compared["examples"]
    assert "50 compared, 10 differ" in said
    assert balances.model()["A-5"]["balance_minor"] == "405"

    assert wrong.stop() == 0
    built, _ = daybook(deployed, "balances")
    assert (built["switched"], built["kept_old"], built["differing"]) == (True, False, 10)
    assert balances.model() == plain_fold(events)
    assert log.ends() == ends
    right = start("projectors", "balances", env=environment(deployed))
    events.append(recorded("A-5", 6, AccountFrozen()))
    log.append(events[-1:])
    balances.become(events)
    assert right.stop() == 0
    compared, said = daybook(deployed, "balances", "--compare-only")
    assert compared["differing"] == 0
    assert "the live model and the copy are equal" in said


WRONG = "balance_minor 405, score in the ranking 405"
RIGHT = "balance_minor 990, score in the ranking 990"


def test_interrupted_it_goes_on_where_it_was_and_other_code_begins_anew(
    log: Log, balances: Balances, copy: Balances, start: Start, deployed: Connections
) -> None:
    events = histories(100, 5)
    log.append(events)
    # A live model that never catches up keeps the rebuild waiting for it, at a place where it can be interrupted.
    ends = log.ends()
    with AdminClient(deployed.kafka()) as admin:
        source = identify(admin, deployed.topics.events)
    far = {"log": str(source)} | {str(partition): end for partition, end in ends.items()}
    copy.redis.hset(BALANCES_CHECKPOINT_KEY, mapping=far)
    number = str(database_of(deployed.redis()))
    ours = fingerprint(MODELS["balances"].sources)
    copy.redis.hset(MARK_KEY, mapping={"state": "building", "fingerprint": ours, "log": str(source), "live": number})
    balances.redis.hset(BALANCES_CHECKPOINT_KEY, mapping={"log": str(source)} | dict.fromkeys(map(str, ends), 0))

    process = start("daybook", "rebuild", "balances", env=environment(deployed))
    process.said("going on with the copy of balances that an earlier rebuild left")
    process.send(signal.SIGTERM)
    assert process.wait() == 130
    assert "running the same again goes on with the copy" in process.output
    assert "Traceback" not in process.output
    assert copy.redis.hget(MARK_KEY, "fingerprint") == ours

    copy.redis.hset(MARK_KEY, "fingerprint", "another")
    balances.redis.flushdb()
    built, said = daybook(deployed, "balances")
    assert "deleting an unfinished copy that other code built" in said
    assert (built["resumed"], built["switched"], built["events"]) == (False, True, len(events))
    assert balances.model() == plain_fold(events)
    assert balances.checkpoints() == ends
    assert copy.redis.dbsize() == 0
    _, said = daybook(deployed, "rollback", "balances", expect=5)
    assert "no old balances were kept" in said


def test_a_record_that_cannot_be_read_is_named_and_nothing_is_switched(
    log: Log, balances: Balances, deployed: Connections
) -> None:
    log.append(histories(1, 3))
    partition = partition_of("A-0", log.partitions)
    log.append_bytes(b"A-0/4", b"what is this", partition)
    _, said = daybook(deployed, "balances", expect=5)
    assert f"partition {partition}, offset 3, key b'A-0/4' is not an event" in said
    assert balances.model() == {}


def test_only_one_at_a_time(deployed: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    patience = Patience(threading.Event(), said.append)
    monkeypatch.setattr(rebuild_lock, "_WAIT_S", 3.0)
    with OneRebuild(deployed, "balances", patience, said.append):
        with OneRebuild(deployed, "search", patience, said.append):
            pass
        with (
            pytest.raises(CannotRebuild, match=r"another rebuild of balances is running .daybook-rebuild-balances at "),
            OneRebuild(deployed, "balances", patience, said.append),
        ):
            pass
    with OneRebuild(deployed, "balances", patience, said.append):
        pass
    assert len(said) == 1


def test_what_cannot_be_asked_for_is_named(connections: Connections, start: Start) -> None:
    for arguments, message in {
        ("balances", "--compare-only", "--keep-old"): "--compare-only leaves the live model",
        ("balances", "--keep"): "--keep goes with --compare-only",
        ("rollback", "activity"): "choose from balances, search, analytics",
    }.items():
        process = start("daybook", "rebuild", *arguments, env=environment(connections))
        assert process.wait() == 2
        assert message in " ".join(process.output.replace("│", " ").split())
    process = start("daybook", "rebuild", "balances", env=environment(connections, DAYBOOK_REDIS_URL="here"))
    assert process.wait() == 4
    assert "error: DAYBOOK_REDIS_URL: " in process.output
