"""Every way of changing the history is named, by what was kept of it: chains, checkpoints, the audit index."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from elasticsearch import Elasticsearch
from prometheus_client import CollectorRegistry

from daybook.audit import run, workers
from daybook.audit.findings import Kind
from daybook.audit.formats import checkpoint_json
from daybook.audit.keys import PublicKeys, SigningKey, generate, public_file
from daybook.audit.row import Named
from daybook.audit.taking import Auditor, CheckpointRefused, Superseded
from daybook.audit.watching import AuditorSettings, watch
from daybook.cli import main
from daybook.errors import Unreachable
from deploy.definitions import apply
from schemas.checkpoints import Checkpoint
from schemas.connections import Connections
from schemas.events import AccountFrozen, MoneyDeposited, MoneyRefunded, MoneyWithdrawn, OverdraftLimitSet
from schemas.topics import partition_of
from tests.audited_ledger import History, Log, Record
from tests.processes import environment, until
from tests.recorded import opened, recorded

PARTITIONS = 8
EVENTS = 6

# An account of each partition.
ACCOUNTS = {
    partition: next(f"T-{n}" for n in range(10_000) if partition_of(f"T-{n}", PARTITIONS) == partition)
    for partition in range(PARTITIONS)
}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("key") / "audit.pem"
    generate(file)
    return file


@pytest.fixture(scope="module")
def key(key_file: Path) -> SigningKey:
    return SigningKey.read(str(key_file))


@dataclass(frozen=True)
class Output:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Output]


@pytest.fixture
def daybook(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line, in this process: starting one for each would take most of the time."""

    def command(*arguments: str, connections: Connections) -> Output:
        for name, value in environment(connections).items():
            if name.startswith("DAYBOOK_"):
                monkeypatch.setenv(name, value)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        stdout, stderr = capfd.readouterr()
        return Output(int(ended.value.code or 0), stdout, stderr)

    return command


def deployed(connections: Connections, *, index: bool = False) -> History:
    """A new ledger; its search indices, which take seconds to make, only where they are asked for."""
    if not index:
        connections = connections.model_copy(update={"elasticsearch_url": None})
    apply(connections, partitions=PARTITIONS)
    return History(connections)


def verified(
    connections: Connections, keys: PublicKeys | None, *, index: bool = False, kept: tuple[Named, ...] = (), **more: Any
) -> run.Report:
    wanted = run.Wanted(more.get("account_id"), more.get("jobs", 1), index, keys, kept, more.get("snapshots", 0.0))
    return run.verify(connections, wanted, lambda *_: None)


def named(report: run.Report) -> set[tuple[Kind, str | None, int | None, int | None]]:
    assert report.more == 0
    return {(one.kind, one.account_id, one.sequence, one.partition) for one in report.findings}


@dataclass(frozen=True)
class Tampered:
    """A ledger whose log was changed after the index was made and two checkpoints were taken."""

    history: History
    honest: Log
    first: Checkpoint
    second: Checkpoint

    @property
    def connections(self) -> Connections:
        return self.history.connections


CHANGED, REMOVED, SWAPPED, CUT, REWRITTEN, DOCUMENT, FULL = 1, 2, 3, 4, 5, 6, 7
FORGED = "A"


@pytest.fixture(scope="module")
def tampered(new_connections: Callable[[], Connections], key: SigningKey) -> Tampered:
    history = deployed(new_connections(), index=True)
    honest = {partition: history.account(account, EVENTS) for partition, account in ACCOUNTS.items()}
    now: dict[int, list[Record]] = {partition: list(records) for partition, records in honest.items()}
    third = honest[CHANGED][2]
    # The balance that an event says it led to is its last byte or two.
    now[CHANGED][2] = replace(third, value=third.value[:-1] + bytes([third.value[-1] ^ 1]))
    del now[REMOVED][2]
    now[SWAPPED][2], now[SWAPPED][3] = now[SWAPPED][3], now[SWAPPED][2]
    del now[CUT][4:]
    now[REWRITTEN] = history.account(ACCOUNTS[REWRITTEN], EVENTS, odd=3)
    history.write(now)
    history.index(honest)
    with closing(Elasticsearch(**history.connections.elasticsearch(), request_timeout=30)) as client:
        client.update(
            index=history.connections.indices.account_events,
            id=f"{ACCOUNTS[DOCUMENT]}/3",
            doc={"amount_minor": 5},
            refresh=True,
        )
        # It says that it stands where another does, and comes before that one.
        forged = {"account_id": FORGED, "sequence": 9, "partition": FULL, "offset": 2}
        client.index(index=history.connections.indices.account_events, id=f"{FORGED}/9", document=forged, refresh=True)
    first = history.checkpoint(key, {partition: records[:2] for partition, records in honest.items()}, PARTITIONS)
    second = history.checkpoint(key, honest, PARTITIONS, first)
    history.keep(first, second)
    return Tampered(history, honest, first, second)


def test_the_chains_name_what_was_changed_removed_and_swapped(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So little would be read in this process.
    monkeypatch.setattr(workers, "_WORTH_IT", 0)
    report = verified(tampered.connections, None, jobs=2)
    assert named(report) == {
        (Kind.CHAIN, ACCOUNTS[CHANGED], 3, CHANGED),
        (Kind.MISSING, ACCOUNTS[REMOVED], 3, REMOVED),
        (Kind.ORDER, ACCOUNTS[SWAPPED], 3, SWAPPED),
    }
    assert report.records == sum(map(len, tampered.honest.values())) - 3


def test_what_fails_in_a_process_of_its_own_is_told_as_here(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_WORTH_IT", 0)
    nowhere = tampered.connections.model_copy(update={"registry_url": "http://127.0.0.1:1"})
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        verified(nowhere, None, jobs=2)


def test_the_checkpoints_name_the_cut_tail_and_the_rewritten_account_too(tampered: Tampered, key: SigningKey) -> None:
    report = verified(tampered.connections, key.public)
    assert named(report) == {
        (Kind.CHAIN, ACCOUNTS[CHANGED], 3, CHANGED),
        (Kind.CHECKPOINT, None, None, CHANGED),
        (Kind.MISSING, ACCOUNTS[REMOVED], 3, REMOVED),
        (Kind.CUT, None, None, REMOVED),
        (Kind.ORDER, ACCOUNTS[SWAPPED], 3, SWAPPED),
        (Kind.CHECKPOINT, None, None, SWAPPED),
        (Kind.CUT, None, None, CUT),
        (Kind.CHECKPOINT, None, None, REWRITTEN),
    }
    rewritten = next(one for one in report.findings if one.partition == REWRITTEN)
    # The first checkpoint, of two events, is as it was.
    account = ACCOUNTS[REWRITTEN]
    assert f"among its events 3 to 6, between {account}/3 at offset 2 and {account}/6 at offset 5" in rewritten.message


def test_the_index_names_them_as_well_and_a_document_that_was_changed(tampered: Tampered) -> None:
    report = verified(tampered.connections, None, index=True)
    found = {(one.account_id, one.sequence) for one in report.findings if one.kind is Kind.INDEX}
    assert found == {
        (ACCOUNTS[CHANGED], 3),
        (ACCOUNTS[REMOVED], 3),
        (ACCOUNTS[SWAPPED], 3),
        (ACCOUNTS[CUT], 5),
        (ACCOUNTS[REWRITTEN], 3),
        (ACCOUNTS[DOCUMENT], 3),
        (FORGED, 9),
    }
    # The accounts 0 and 7 in full; of the others, up to what differs and after it.
    assert report.indexed is not None
    assert report.indexed < report.events
    document = next(one for one in report.findings if one.account_id == ACCOUNTS[DOCUMENT])
    assert "amount_minor is 5, and 1 in the log" in document.message


def test_one_account_is_verified_alone(tampered: Tampered) -> None:
    found = verified(tampered.connections, None, index=True, account_id=ACCOUNTS[DOCUMENT])
    assert named(found) == {(Kind.INDEX, ACCOUNTS[DOCUMENT], 3, DOCUMENT)}
    assert (found.events, found.partitions) == (EVENTS, 1)
    sound = verified(tampered.connections, None, index=True, account_id=ACCOUNTS[0])
    assert sound.sound
    assert sound.indexed == EVENTS
    with pytest.raises(run.NoSuchAccount, match="nobody"):
        verified(tampered.connections, None, account_id="nobody")


def test_no_event_is_proven_from_a_log_that_is_another(tampered: Tampered, daybook: Command) -> None:
    output = daybook("audit", "prove", ACCOUNTS[REWRITTEN], "2", connections=tampered.connections)
    assert output.returncode == 1
    assert "is not what checkpoint 2 was taken of" in output.stderr


def test_the_command_says_what_is_wrong_and_fails(tampered: Tampered, key_file: Path, daybook: Command) -> None:
    public = str(public_file(key_file))
    output = daybook("audit", "verify", "--public-key", public, connections=tampered.connections)
    assert output.returncode == 1
    assert f"WRONG chain: event {ACCOUNTS[CHANGED]}/3 at partition {CHANGED}, offset 2" in output.stdout
    lines = daybook("audit", "verify", "--public-key", public, "--json", connections=tampered.connections).stdout
    summary, *findings = map(json.loads, lines.splitlines())
    assert (summary["sound"], summary["checkpoints"], summary["findings"]) == (False, 2, len(findings))
    assert {one["kind"] for one in findings} == {"chain", "missing", "order", "cut", "checkpoint", "index"}


def test_forged_checkpoints_and_those_of_another_log_are_named(
    new_connections: Callable[[], Connections], key: SigningKey, tmp_path: Path
) -> None:
    history = deployed(new_connections())
    honest = {partition: history.account(account, 3) for partition, account in ACCOUNTS.items()}
    rewritten = honest | {REWRITTEN: history.account(ACCOUNTS[REWRITTEN], 3, odd=2)}
    # Who rewrites the log and the checkpoints, and has not the key, signs with one of his own.
    history.write(rewritten)
    forger = generate(tmp_path / "forger.pem")
    kept = Named("the one kept", history.checkpoint(key, honest, PARTITIONS))
    history.keep(history.checkpoint(forger, rewritten, PARTITIONS))
    connections = history.connections
    assert verified(connections, None).sound
    assert verified(connections, forger.public).sound
    assert [one.kind for one in verified(connections, key.public).findings] == [Kind.SIGNATURE]
    # With the key, he is found by what was kept elsewhere.
    report = verified(connections, key.public | forger.public, kept=(kept,))
    assert [(one.kind, one.partition) for one in report.findings] == [(Kind.ROW, None), (Kind.CHECKPOINT, REWRITTEN)]
    assert "the one kept" in report.findings[0].message
    # A checkpoint of another log says nothing of this one.
    other = Named("other", history.checkpoint(key, rewritten, PARTITIONS, source="cluster/topic/another"))
    report = verified(connections, key.public | forger.public, kept=(other,))
    assert Kind.OTHER_LOG in {one.kind for one in report.findings}
    # And no other may follow.
    with (
        Auditor(connections, key, PublicKeys([])) as auditor,
        pytest.raises(CheckpointRefused, match="was signed with"),
    ):
        auditor.take(lambda *_: None)


def test_checkpoints_follow_one_another_and_prove_each_event(
    new_connections: Callable[[], Connections], key_file: Path, tmp_path: Path, daybook: Command
) -> None:
    history = deployed(new_connections())
    connections = history.connections
    accounts = {partition: history.account(account, 5) for partition, account in ACCOUNTS.items()}
    early = {partition: records[:3] for partition, records in accounts.items()}
    late = {partition: records[3:] for partition, records in accounts.items()}
    key, public = str(key_file), str(public_file(key_file))
    history.write(early)
    first = daybook("audit", "checkpoint", "--key", key, connections=connections)
    assert first.stdout.startswith("checkpoint 1 of ")
    again = daybook("audit", "checkpoint", "--key", key, "--json", connections=connections)
    assert "nothing is new since checkpoint 1" in again.stderr
    written = json.loads(again.stdout)
    assert written == checkpoint_json(
        replace_signature(history.checkpoint(SigningKey.read(key), early, PARTITIONS), written)
    )
    history.write(late)
    newer = daybook("audit", "prove", ACCOUNTS[0], "4", connections=connections)
    assert newer.returncode == 1
    assert "is newer than checkpoint 1" in newer.stderr
    with Auditor(connections, SigningKey.read(key), PublicKeys([])) as auditor:
        second, is_new = auditor.take(lambda *_: None)
    assert is_new
    assert second.partitions == history.trees(accounts, PARTITIONS)
    proofs = {}
    for sequence in (1, 4):
        proof = daybook("audit", "prove", ACCOUNTS[0], str(sequence), connections=connections)
        assert proof.returncode == 0, proof.stderr
        proofs[sequence] = tmp_path / f"{sequence}.json"
        proofs[sequence].write_text(proof.stdout)
        checked = daybook("audit", "check", str(proofs[sequence]), "--public-key", public, connections=connections)
        assert checked.returncode == 0, checked.stderr
        assert f"proven: event {ACCOUNTS[0]}/{sequence} is event {sequence} of 5 in partition 0" in checked.stdout
    # Nothing of the environment: no server is known.
    away = offline("audit", "check", str(proofs[4]), "--public-key", public, folder=tmp_path)
    assert (away.returncode, away.stdout) == (0, checked.stdout), away.stderr
    forged = proofs[4].read_text().replace('"size": 5', '"size": 6')
    proofs[4].write_text(forged)
    checked = daybook("audit", "check", str(proofs[4]), "--public-key", public, connections=connections)
    assert checked.returncode == 1
    assert "not proven: tree:" in checked.stderr
    # What was exported before the second still holds, and the whole is sound.
    exported = tmp_path / "first.json"
    daybook("audit", "checkpoints", "--export", str(exported), "--number", "1", connections=connections)
    output = daybook(
        *("audit", "verify", "--no-index", "--public-key", public, "--checkpoint", str(exported)),
        connections=connections,
    )
    assert output.returncode == 0, output.stdout + output.stderr
    assert "checkpoints: 2 and 1 kept elsewhere compared" in output.stdout
    listed = daybook("audit", "checkpoints", connections=connections).stdout
    assert second.root.hex() in listed


def replace_signature(checkpoint: Checkpoint, written: dict[str, Any]) -> Checkpoint:
    """A checkpoint as it would be if it had been taken when another was."""
    taken = datetime.fromisoformat(written["taken_at"]) - datetime(1970, 1, 1, tzinfo=UTC)
    signature = base64.b64decode(written["signature"])
    return msgspec.structs.replace(checkpoint, taken_at=taken // timedelta(microseconds=1), signature=signature)


def test_the_index_may_lag_and_is_said_to(new_connections: Callable[[], Connections]) -> None:
    history = deployed(new_connections(), index=True)
    log = {0: history.account(ACCOUNTS[0], 5)}
    history.write(log)
    missing = verified(history.connections, None, index=True)
    assert missing.sound
    assert "there is no index" in str(missing.index_error)
    history.index({0: log[0][:3]})
    report = verified(history.connections, None, index=True)
    assert report.sound
    assert (report.indexed, report.unindexed) == (3, 2)


def test_a_snapshot_that_is_not_what_the_events_lead_to_is_named(
    new_connections: Callable[[], Connections],
) -> None:
    history = deployed(new_connections())
    connections = history.connections
    moving = [
        MoneyDeposited(amount_minor=900, currency="EUR", balance_minor=900),
        MoneyWithdrawn(amount_minor=300, currency="EUR", balance_minor=600),
        MoneyWithdrawn(amount_minor=200, currency="EUR", balance_minor=400),
        MoneyRefunded(amount_minor=50, currency="EUR", balance_minor=450, withdrawal_sequence=3),
        OverdraftLimitSet(previous_limit_minor=0, new_limit_minor=70, currency="EUR"),
        AccountFrozen(),
    ]
    log = {
        partition: history.chained(
            [
                opened(ACCOUNTS[partition]),
                *(recorded(ACCOUNTS[partition], 2 + at, one) for at, one in enumerate(moving)),
            ]
        )
        for partition in (0, 1, 2)
    }
    history.write(log)
    history.snapshot(0, log[0])
    # Of before the last event: what came after it is no difference.
    history.snapshot(1, log[1][:-2])
    report = verified(connections, None, snapshots=1.0)
    assert report.sound
    assert report.snapshots == 2
    history.snapshot(1, log[1], balance_minor=1_000_000)
    history.snapshot(2, log[2], withdrawals=b"")
    report = verified(connections, None, snapshots=1.0)
    assert named(report) == {(Kind.SNAPSHOT, ACCOUNTS[1], 7, 1), (Kind.SNAPSHOT, ACCOUNTS[2], 7, 2)}
    assert "balance_minor is 1000000, and 450 by the log" in report.findings[0].message
    # Of an event that the log never had.
    history.snapshot(0, log[0], sequence=99)
    found = next(one for one in verified(connections, None, snapshots=1.0).findings if one.partition == 0)
    assert (found.kind, found.account_id, found.sequence) == (Kind.SNAPSHOT, ACCOUNTS[0], 99)
    assert "the account's last is 7" in found.message
    assert verified(connections, None, snapshots=1e-9).snapshots == 0


def test_a_second_auditor_takes_over_and_aborted_events_are_no_leaves(
    new_connections: Callable[[], Connections], key: SigningKey
) -> None:
    history = deployed(new_connections())
    connections = history.connections
    log = {0: history.account(ACCOUNTS[0], 3)}
    history.write({0: log[0][:2]})
    with Auditor(connections, key, PublicKeys([])) as first:
        first.take(lambda *_: None)
        made: list[Checkpoint] = []
        stopping = threading.Event()
        watcher = threading.Thread(
            target=watch,
            args=(connections, key, PublicKeys([]), 0.1, stopping, made.append, AuditorSettings(_env_file=None)),
            kwargs={"registry": CollectorRegistry()},
        )
        watcher.start()
        try:
            # The second has taken over once it has looked: a moment, and nothing is new for it to say so.
            abort(connections, log[0][2])
            history.write({0: log[0][2:]})
            (second,) = until(lambda: list(made), "the second auditor's checkpoint", 30)
        finally:
            stopping.set()
            watcher.join()
        assert (second.number, second.events) == (2, 3)
        assert second.partitions[0].root == history.trees(log, 1)[0].root
        history.write({1: history.account(ACCOUNTS[1], 1)})
        with pytest.raises(Superseded, match="another auditor"):
            first.take(lambda *_: None)
    assert verified(connections, key.public).sound


def abort(connections: Connections, record: Record) -> None:
    producer = Producer(connections.kafka(transactional_id=f"{connections.topics.events}.aborted"))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(connections.topics.events, record.value, record.key, 0)
    assert producer.flush(30) == 0
    producer.abort_transaction(30)


def offline(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Where nothing says where a server is, and no file does."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "daybook", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
