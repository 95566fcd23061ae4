"""Rebuilding the balances, beside plain pipelined writes of as many accounts' fields to the same server."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from redis import Redis

from benchmarks.workload import codec, producer
from deploy.definitions import apply
from schemas.codec import Codec
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.events import CHAIN_START, AccountCreated, Event, MoneyDeposited, MoneyWithdrawn, event_id
from schemas.readmodels import balance_key
from schemas.topics import event_key, partition_of

_SEED = 1
_PARTITIONS = 4
_DATABASE = 2
"""Its rebuild uses the next one."""
_PIPELINE = 1000
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Rates:
    """Events a second that a rebuild took from the log into Redis, and accounts a second written plainly."""

    rebuilt: float
    plain: float

    @property
    def ratio(self) -> float:
        return self.rebuilt / self.plain


def preload(connections: Connections, count: int, accounts: int, partitions: int) -> None:
    """Put events on the log: accounts that are opened, then deposits and withdrawals over all of them at random."""
    encoder, sender = codec(connections), producer(connections, linger_ms=20)
    topic = connections.topics.events
    for account_id, sequence, value in _events(encoder, count, accounts):
        sender.produce(topic, value, event_key(account_id, sequence), partition_of(account_id, partitions))
        sender.poll(0)
    left = sender.flush(60)
    if left:
        raise RuntimeError(f"{left} of {count} events could not be preloaded within a minute")


def _events(encoder: Codec, count: int, accounts: int) -> Iterator[tuple[str, int, bytes]]:
    dice = random.Random(_SEED)
    now = now_micros()
    sequences, chains = [0] * accounts, [CHAIN_START] * accounts
    for number in range(count):
        account = number if number < accounts else dice.randrange(accounts)
        sequences[account] += 1
        command_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        common = {
            "event_id": event_id(command_id, 0, now + number),
            "account_id": f"A-{account}",
            "sequence": sequences[account],
            "recorded_at": now + number,
            "effective_at": now + number,
            "user_id": "user-42",
            "command_id": command_id,
            "correlation_id": command_id,
            "causation_id": command_id,
            "reason": None,
        }
        event = _event(dice, opening=number < accounts)
        value, chains[account] = encoder.encode_event(event, common, chains[account])
        yield f"A-{account}", sequences[account], value


def _event(dice: random.Random, *, opening: bool) -> Event:
    if opening:
        return AccountCreated(currency="EUR", holder_name="Jane Doe")
    kind = MoneyWithdrawn if dice.random() < 0.4 else MoneyDeposited
    return kind(amount_minor=dice.randrange(1, 10_000), currency="EUR", balance_minor=dice.randrange(10**9))


def rebuild_rates(
    env: Mapping[str, str], count: int, accounts: int, rounds: int, tell: Callable[[str], None]
) -> list[Rates]:
    """Fill a ledger of its own on the stack of this environment, and measure: rebuild and plain writes take turns."""
    connections = Connections(
        kafka_bootstrap=env["DAYBOOK_KAFKA_BOOTSTRAP"],
        registry_url=env["DAYBOOK_REGISTRY_URL"],
        redis_url=env["DAYBOOK_REDIS_URL"].rpartition("/")[0] + f"/{_DATABASE}",
        namespace=f"bench-{uuid.uuid4().hex[:8]}",
    )
    apply(connections, partitions=_PARTITIONS)
    tell(f"putting {count:,} events on the log")
    preload(connections, count, accounts, _PARTITIONS)
    found = []
    for number in range(rounds):
        found.append(Rates(_rebuilt(connections, count), _plain(connections, count, accounts)))
        tell(f"round {number + 1}: rebuilt {found[-1].rebuilt:,.0f} events/s, plain {found[-1].plain:,.0f} accounts/s")
    return found


def _rebuilt(connections: Connections, count: int) -> float:
    """The rate at which the log was read into the copy, as the rebuild tells it: without comparing and switching."""
    env = os.environ | {
        "DAYBOOK_KAFKA_BOOTSTRAP": connections.kafka_bootstrap,
        "DAYBOOK_REGISTRY_URL": connections.registry_url,
        "DAYBOOK_REDIS_URL": connections.redis(),
        "DAYBOOK_NAMESPACE": connections.namespace,
        "DAYBOOK_ENV_FILE": os.devnull,
    }
    command = [sys.executable, "-m", "projectors.rebuild", "build", "balances", "--from-start", "--json"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S)
    outcome = json.loads(done.stdout)
    if outcome["events"] != count or not outcome["switched"]:
        raise RuntimeError(f"the rebuild read {outcome['events']} of {count} events: {outcome}")
    return float(outcome["events_per_s"])


def _plain(connections: Connections, count: int, accounts: int) -> float:
    """As many accounts written as there were events, with the five fields of each, in pipelines and nothing else."""
    with Redis.from_url(connections.redis()) as redis:
        redis.flushdb()
        dice = random.Random(_SEED)
        began = time.perf_counter()
        for start in range(0, count, _PIPELINE):
            pipeline = redis.pipeline(transaction=False)
            for number in range(start, min(start + _PIPELINE, count)):
                fields: dict[bytes | str | int | float, bytes | str | int | float] = {
                    "balance_minor": dice.randrange(10**9),
                    "currency": "EUR",
                    "status": "active",
                    "sequence": number,
                    "updated_at": 1_750_000_000_000_000 + number,
                }
                pipeline.hset(balance_key(f"A-{dice.randrange(accounts)}"), mapping=fields)
            pipeline.execute()
        took = time.perf_counter() - began
        redis.flushdb()
    return count / took
