"""`python -m benchmarks restore`: how long a cold start takes, from the snapshots, and what the accounts held take.

The log is generated: events that continue each other's chain hashes, with holders' keys and sealed names, the accounts'
snapshots and marks as the service writes them, then events after the mark. Twice: the second time with as much history
again behind the same accounts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from confluent_kafka import Producer, TopicCollection
from confluent_kafka.admin import AdminClient

from benchmarks.processes import running
from benchmarks.workload import codec, producer
from command_service.domain.account import evolve
from command_service.fingerprint import fingerprint
from command_service.keys import SubjectKeys
from command_service.packing import Entry, Packing
from command_service.personal import sealed
from deploy.definitions import apply
from schemas.codec import Codec
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.events import CHAIN_START, AccountCreated, Event, MoneyDeposited, MoneyWithdrawn, event_id
from schemas.keyring import KeyRing
from schemas.snapshots import MARK_KEY, RestoreMark
from schemas.topics import event_key, partition_of

_SEED = 1
_WORKERS = 2
_STARTS = 3
_WITHDRAWALS = 0.4
_TIMEOUT_S = 1_200
_FLUSH_TIMEOUT_S = 300
_RESTORED = re.compile(r"restored (\d+) accounts from (\d+) snapshots and (\d+) events.* in ([0-9.]+) s")


@dataclass(frozen=True)
class Restored:
    """One cold start: seconds from the start of the process until its state was restored, all of it included; those of
    them in which the log was read; the processor's time until then; what was read; and how much memory each account
    took."""

    history: int
    seconds: float
    reading_s: float
    cpu_s: float
    accounts: int
    snapshots: int
    events: int
    bytes_an_account: float


class _Writer:
    """Some partitions' accounts, and the log that makes them."""

    def __init__(self, connections: Connections, events_id: str, homes: dict[int, list[str]], seed: int) -> None:
        self._topics = connections.topics
        self._codec: Codec = codec(connections)
        self._codec.look_up_snapshots(self._topics.snapshots)
        self._codec.look_up_keys(self._topics.subject_keys)
        self._keys = SubjectKeys(self._codec, KeyRing.of(connections))
        self._packing = Packing(self._codec, fingerprint(events_id), events_id)
        self._sender: Producer = producer(connections, linger_ms=20)
        self._homes = homes
        self._dice = random.Random(seed)
        self._entries: dict[str, Entry] = {}
        self._offsets = dict.fromkeys(homes, 0)

    def history(self, events_an_account: int) -> None:
        for _ in range(events_an_account):
            for partition, account_ids in self._homes.items():
                for account_id in account_ids:
                    self._write(partition, account_id)
        self._flush()

    def snapshots(self) -> None:
        for partition, account_ids in self._homes.items():
            for account_id in account_ids:
                self._put(self._topics.snapshots, partition, account_id.encode(), self._packed(account_id))
            mark = RestoreMark(
                fingerprint=self._packing.fingerprint,
                partition=partition,
                events_topic_id=self._packing.events_topic_id,
                events_offset=self._offsets[partition],
                accounts=len(account_ids),
                taken_at=now_micros(),
            )
            self._put(self._topics.snapshots, partition, MARK_KEY, self._codec.encode_snapshot(mark))
        self._flush()

    def tail(self, events: int) -> None:
        """Events after the mark, a partition."""
        for partition, account_ids in self._homes.items():
            for _ in range(events):
                self._write(partition, self._dice.choice(account_ids))
        self._flush()

    def _packed(self, account_id: str) -> bytes:
        return self._packing.pack(account_id, self._entries[account_id])

    def _write(self, partition: int, account_id: str) -> None:
        entry = self._entries.get(account_id)
        event = self._event(entry)
        now = now_micros()
        command_id = str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
        named = event_id(command_id, 0, now)
        if entry is None:
            self._put(self._topics.subject_keys, partition, account_id.encode(), self._keys.create(account_id, now))
            event = sealed(event, self._keys.sealer, account_id, named)
        account = evolve(entry.account if entry else None, event)
        common: dict[str, object] = {
            "event_id": named,
            "account_id": account_id,
            "sequence": account.sequence,
            "recorded_at": now,
            "effective_at": now,
            "user_id": "user-42",
            "command_id": command_id,
            "correlation_id": command_id,
            "causation_id": command_id,
            "reason": None,
        }
        value, chain_hash = self._codec.encode_event(event, common, entry.chain_hash if entry else CHAIN_START)
        self._entries[account_id] = Entry(account, chain_hash, now)
        self._put(self._topics.events, partition, event_key(account_id, account.sequence), value)
        self._offsets[partition] += 1

    def _event(self, entry: Entry | None) -> Event:
        if entry is None:
            return AccountCreated(currency="EUR", holder_name="Jane Doe", holder_email="jane.doe@example.org")
        amount, balance = self._dice.randrange(1, 10_000), entry.account.balance_minor
        if amount <= balance and self._dice.random() < _WITHDRAWALS:
            return MoneyWithdrawn(amount_minor=amount, currency="EUR", balance_minor=balance - amount)
        return MoneyDeposited(amount_minor=amount, currency="EUR", balance_minor=balance + amount)

    def _put(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._sender.produce(topic, value, key, partition)
            except BufferError:
                self._sender.poll(0.1)
            else:
                return

    def _flush(self) -> None:
        if left := self._sender.flush(_FLUSH_TIMEOUT_S):
            raise RuntimeError(f"{left} records could not be written within {_FLUSH_TIMEOUT_S} s")


def restore_times(
    connections: Connections,
    partitions: int,
    accounts: int,
    events: int,
    tail: int,
    folder: Path,
    tell: Callable[[str], None],
) -> list[Restored]:
    """Cold starts over `events` of history and over twice as many; `tail` events come after the mark of each.

    Each is the fastest of some, since other work on the machine only ever makes it slower.

    `connections` are to a deployed ledger with nothing in it.
    """
    _, empty = _cold_start(connections, folder / "empty.log")
    found = []
    with _workers(connections, _homes(accounts, partitions)) as ask:
        for times in (1, 2):
            tell(f"writing {events:,} events of {accounts:,} accounts, and their snapshots")
            ask("history", events // accounts)
            if times == 2:
                _empty_snapshots(connections, partitions)
            ask("snapshots")
            ask("tail", tail // partitions)
            tell("starting the service")
            started, rss = min(_cold_start(connections, folder / f"{times}.{n}.log") for n in range(_STARTS))
            found.append(Restored(times * events, *started, bytes_an_account=(rss - empty) / accounts))
            tell(json.dumps(asdict(found[-1])))
    return found


def _cold_start(connections: Connections, log: Path) -> tuple[tuple[float, float, float, int, int, int], int]:
    """A service's start as in `Restored`, from its seconds to its events; and its memory afterwards, in bytes."""
    began = time.monotonic()
    # So that it writes no snapshots before it stops, and the next start finds the same log.
    never = {"DAYBOOK_COMMAND_SERVICE_SNAPSHOT_EVERY": str(10**12)}
    with running("command_service", connections, log, **never) as process:
        while (said := _RESTORED.search(log.read_text())) is None:
            if process.poll() is not None or time.monotonic() - began > _TIMEOUT_S:
                raise RuntimeError(f"the service did not restore its state; see {log}")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        status = Path(f"/proc/{process.pid}/status").read_text()
        user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert resident is not None
    accounts, snapshots, events = map(int, said.groups()[:3])
    cpu_s = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return (seconds, float(said[4]), cpu_s, accounts, snapshots, events), int(resident[1]) * 1024


def _homes(accounts: int, partitions: int) -> dict[int, list[str]]:
    homes: dict[int, list[str]] = {partition: [] for partition in range(partitions)}
    for number in range(accounts):
        homes[partition_of(f"A-{number:09}", partitions)].append(f"A-{number:09}")
    return homes


@contextmanager
def _workers(connections: Connections, homes: dict[int, list[str]]) -> Iterator[Callable[..., None]]:
    """Processes that write the log, each some partitions. What is given does one thing in all of them, and waits."""
    events_id = _topic_id(connections)
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    for number in range(_WORKERS):
        ours, theirs = context.Pipe()
        mine = {partition: ids for partition, ids in homes.items() if partition % _WORKERS == number}
        process = context.Process(target=_work, args=(theirs, connections, events_id, mine, number), daemon=True)
        process.start()
        # So that its end is noticed here.
        theirs.close()
        pipes.append(ours)
        processes.append(process)

    def ask(what: str, *arguments: int) -> None:
        for pipe in pipes:
            pipe.send((what, arguments))
        for pipe in pipes:
            pipe.recv()

    try:
        yield ask
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


def _work(pipe: Connection, connections: Connections, events_id: str, homes: dict[int, list[str]], seed: int) -> None:
    writer = _Writer(connections, events_id, homes, seed)
    while True:
        try:
            what, arguments = pipe.recv()
        except EOFError:
            return
        getattr(writer, what)(*arguments)
        pipe.send(None)


def _topic_id(connections: Connections) -> str:
    name = connections.topics.events
    with AdminClient(connections.kafka()) as admin:
        return str(admin.describe_topics(TopicCollection([name]))[name].result().topic_id)


def _empty_snapshots(connections: Connections, partitions: int) -> None:
    """As the log cleaner leaves the topic, which removes what is superseded: it would take its time."""
    with AdminClient(connections.kafka()) as admin:
        name = connections.topics.snapshots
        admin.delete_topics([name])[name].result()
        deadline = time.monotonic() + _FLUSH_TIMEOUT_S
        while name in admin.list_topics(timeout=30).topics and time.monotonic() < deadline:
            time.sleep(0.2)
    apply(connections, partitions=partitions)
