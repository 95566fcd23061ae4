"""How fast `daybook audit verify` goes through the log: chains, and trees against a checkpoint, by real reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from confluent_kafka import Producer

from daybook.audit.keys import PublicKeys, generate
from daybook.audit.run import Wanted, verify
from daybook.audit.taking import Auditor
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.events import CHAIN_START, AccountCreated, Event, MoneyDeposited
from schemas.registry import Registry
from schemas.topics import event_key, partition_of

_RECORDED_AT: Final = 1_764_000_000_000_000
_POLL_EVERY: Final = 1000


@dataclass(frozen=True, slots=True)
class AuditRates:
    """Of one reading of the whole log. `a_core`: events for each second of a processor, Kafka's client included."""

    jobs: int
    events: int
    seconds: float
    cpu_s: float | None
    """None where it was spent in other processes."""

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def a_core(self) -> float | None:
        return None if self.cpu_s is None else self.events / self.cpu_s


def audit_rates(
    connections: Connections, partitions: int, events: int, accounts: int, jobs: int, say: Callable[[str], None]
) -> list[AuditRates]:
    """One process, then `jobs`, over a log of so many events, with its chains and one checkpoint."""
    say(f"writing {events:,} events")
    _write(connections, partitions, events, accounts)
    with TemporaryDirectory() as folder:
        key = generate(Path(folder) / "audit.pem")
    with Auditor(connections, key, PublicKeys([])) as auditor:
        began, cpu = time.monotonic(), time.process_time()
        auditor.take(lambda *_: None)
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        say(f"checkpoint taken: {events / seconds:,.0f} events/s, {events / cpu_s:,.0f} a core")
    found: list[AuditRates] = []
    for count in dict.fromkeys((1, jobs)):
        began, cpu = time.monotonic(), time.process_time()
        report = verify(connections, Wanted(None, count, False, key.public), lambda *_: None)
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        assert report.sound, report.findings
        assert report.events == events
        found.append(AuditRates(count, events, seconds, cpu_s if count == 1 else None))
    return found


def _write(connections: Connections, partitions: int, events: int, accounts: int) -> None:
    """Deposits in turn on so many accounts, each chained to the account's event before."""
    topic = connections.topics.events
    with ExitStack() as opened:
        registry = opened.enter_context(closing(Registry(connections)))
        codec = Codec(registry)
        codec.look_up_events(topic)
        producer = Producer(connections.kafka(enable_idempotence=True, linger_ms=50, compression_type="lz4"))
        chains = [CHAIN_START] * accounts
        homes = [partition_of(f"account-{number}", partitions) for number in range(accounts)]
        for at in range(events):
            number, sequence = at % accounts, at // accounts + 1
            account_id = f"account-{number}"
            event: Event = (
                AccountCreated(currency="EUR", holder_name="Ada Lovelace")
                if sequence == 1
                else MoneyDeposited(amount_minor=100, currency="EUR", balance_minor=100 * (sequence - 1))
            )
            command_id = f"01977375-f600-7000-8444-{at:012x}"
            common = {
                "event_id": command_id,
                "account_id": account_id,
                "sequence": sequence,
                "recorded_at": _RECORDED_AT + at,
                "effective_at": _RECORDED_AT + at,
                "user_id": "teller",
                "command_id": command_id,
                "correlation_id": command_id,
                "causation_id": command_id,
                "reason": None,
            }
            value, chains[number] = codec.encode_event(event, common, chains[number])
            while True:
                try:
                    producer.produce(topic, value, event_key(account_id, sequence), homes[number])
                    break
                except BufferError:
                    producer.poll(0.1)
            if at % _POLL_EVERY == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
