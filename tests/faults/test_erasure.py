"""An erased holder is off the disks: of every topic, index, table and log, as whoever has the disks would look."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from confluent_kafka.admin import AdminClient
from elasticsearch import Elasticsearch

from daybook.audit.keys import generate, public_file
from daybook.client import Client
from daybook.keys import SubjectKeys
from deploy.stack.stack import Stack
from schemas.connections import Connections
from schemas.iceberg import local_folder
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, until
from tests.wire import Wire, configure, opening, read_all

pytestmark = pytest.mark.faults

Start = Callable[..., Process]

_SEGMENT_S = 2.0
_SHORT = {"segment.ms": str(int(_SEGMENT_S * 1000)), "file.delete.delay.ms": "1000"}


class Person:
    """A holder whom nobody else is called like."""

    def __init__(self) -> None:
        # Apart from the id's: repeated in one batch, it would be compressed, and not be found byte for byte.
        mark = uuid.uuid4().hex[:12]
        self.account_id = f"E-{uuid.uuid4()}"
        self.name = f"Brunhilde Sorgenfrei{mark}"
        self.email = f"w.{mark}@example.org"
        self.reason = f"her dog Waldi{mark} is ill"

    @property
    def texts(self) -> tuple[str, ...]:
        # Terms of an index are in lower case.
        return (self.name, self.name.lower(), self.email, self.reason)


@pytest.fixture
def folders(stack: Stack, deployed: Connections, tmp_path: Path) -> tuple[Path, ...]:
    """Where the servers, the table and our own processes write."""
    warehouse = local_folder(deployed.iceberg_warehouse)
    assert warehouse is not None
    return (stack.folder.root, stack.folder.public(), warehouse, tmp_path)


@pytest.fixture
def running(start: Start, deployed: Connections) -> None:
    """A ledger whose topics close their segments quickly, with its service and its projectors."""
    topics = deployed.topics
    with AdminClient(deployed.kafka()) as admin:
        configure(admin, topics.commands, _SHORT)
        for topic in (topics.parked, topics.subject_keys):
            configure(admin, topic, _SHORT | {"max.compaction.lag.ms": "1000"})
    env = environment(deployed, DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S="0.2")
    service = start("command_service", env=env)
    projectors = [start("projectors", name, env=env) for name in ("search", "balances", "analytics")]
    service.said("restored ")
    for projector in projectors:
        projector.said("reads on from")


def files_with(texts: tuple[str, ...], folders: tuple[Path, ...], *secrets: bytes) -> set[str]:
    """Every file that has one of these, byte for byte; and tables' files, which are compressed, by their columns."""
    needles = [text.encode() for text in texts] + list(secrets)
    found = set()
    for folder in folders:
        for path in folder.rglob("*"):
            if not path.is_file() or path.suffix in (".index", ".timeindex", ".jar"):
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if path.suffix == ".parquet":
                data += json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
            if any(needle in data for needle in needles):
                found.add(str(path))
    return found


def test_an_erased_holder_is_off_the_disks(
    deployed: Connections, stack: Stack, folders: tuple[Path, ...], running: None, tmp_path: Path
) -> None:
    person = Person()
    key_file = tmp_path / "audit.pem"
    generate(key_file)
    neighbours = (name for n in range(10_000) if on_one_partition(name := f"N-{n}", person.account_id))
    with Client(deployed, user_id="ada") as client:
        client.open_account(person.account_id, "EUR", person.name, holder_email=person.email)
        client.deposit(person.account_id, "5.00 EUR", reason=person.reason, reason_is_personal=True)
        last = client.deposit(person.account_id, "5.00 EUR").sequence
        # A client that hashes otherwise: the command is forwarded, so that it stands in two partitions.
        with Wire(deployed, PARTITIONS) as wire:
            value = wire.codec.encode_command(opening(person.account_id, holder_name=person.name))
            home = partition_of(person.account_id, PARTITIONS)
            elsewhere = (home + 1) % PARTITIONS
            wire.put(value, key=person.account_id.encode(), partition=elsewhere)
            # And one that cannot be decided, which is kept byte for byte.
            wire.put(f"not avro, {person.name}".encode(), key=person.account_id.encode(), partition=home)
            wire.flush()
        assert client.account(person.account_id, at_least=last).holder_name == person.name
        until(lambda: rows_of(deployed, person.account_id) == last, "rows of the account in the table")
        with SubjectKeys(deployed, timeout_s=30) as keys:
            key = keys.key(person.account_id)
        assert key is not None

        # It finds what is there, or it would prove nothing below.
        with closing(Elasticsearch(**deployed.elasticsearch())) as indices:
            indices.indices.flush(index=deployed.indices.accounts)
        until(lambda: read_all(deployed, deployed.topics.parked), "parked record")
        before = files_with(person.texts, folders)
        assert {place_of(file) for file in before} >= {"account.commands", "account.parked", "elasticsearch"}
        assert len({Path(file).parent for file in before if place_of(file) == "account.commands"}) == 2
        assert {place_of(file) for file in files_with((), folders, key.wrapped)} >= {"subject.keys"}

        def daybook(*arguments: str) -> tuple[int, dict[str, Any]]:
            ended = subprocess.run(
                [sys.executable, "-W", "error", "-m", "daybook", "erase", person.account_id, *arguments, "--json"],
                env=environment(
                    deployed, DAYBOOK_AUDIT_KEY_FILE=str(key_file), DAYBOOK_STACK_DIR=str(stack.folder.root)
                ),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert ended.stdout, ended.stderr
            return ended.returncode, json.loads(ended.stdout)

        code, receipt = daybook("--yes", "--no-wait", "--reason", "request 117")
        assert code == 3
        pending = {place["place"] for place in receipt["places"] if place["state"] == "pending"}
        assert f"topic {deployed.topics.subject_keys}" in pending
        assert all(place["state"] != "found" for place in receipt["places"])
        assert receipt["until"] is not None

        # Kafka closes a segment only when it appends: here another holder's key does what the service's echo does.
        time.sleep(_SEGMENT_S + 0.5)
        client.open_account(next(neighbours), "EUR", "Ada Lovelace")

    kept = tmp_path / "receipt.json"
    texts = [part for text in (person.name, person.email, person.reason) for part in ("--text", text)]
    code, receipt = daybook("--verify", "--wait", *texts, "--receipt", str(kept))
    assert (code, receipt["state"]) == (0, "clear"), receipt
    assert receipt["texts"] == 3
    with redis.Redis.from_url(deployed.redis()) as client_of_redis:
        client_of_redis.save()
    assert files_with(person.texts, folders, key.wrapped) == set()
    assert not any(text in kept.read_text() for text in person.texts)

    code, checked = daybook("--check", str(kept), "--public-key", str(public_file(key_file)))
    assert (code, checked["state"]) == (0, "clear")


def on_one_partition(one: str, other: str) -> bool:
    return partition_of(one, PARTITIONS) == partition_of(other, PARTITIONS)


def rows_of(connections: Connections, account_id: str) -> int:
    from daybook.analytics.catalog import account_events  # noqa: PLC0415
    from daybook.errors import Unreachable  # noqa: PLC0415

    try:
        with account_events(connections) as table:
            return sum(row["account_id"] == account_id for row in table.scan().to_arrow().to_pylist())
    except Unreachable:
        return 0


def place_of(file: str) -> str:
    """The topic of a partition's file, or the server."""
    parts = Path(file).parts
    if "elasticsearch" in parts:
        return "elasticsearch"
    return ".".join(parts[-2].rpartition("-")[0].split(".")[1:])
