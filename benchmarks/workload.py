"""The commands that the benchmarks preload: accounts that are opened, then deposits and withdrawals over them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.commands import AnyCommand, Deposit, OpenAccount, Withdraw, now_micros
from schemas.connections import Connections
from schemas.registry import Registry

_SEED = 1
_WITHDRAWALS = 0.4


def commands(count: int, accounts: int) -> Iterator[AnyCommand]:
    """`count` commands, of which the first `accounts` open the accounts that the others use."""
    dice = random.Random(_SEED)
    issued_at = now_micros()
    for number in range(count):
        common = {
            "command_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "user_id": "user-42",
            "issued_at": issued_at,
        }
        if number < accounts:
            yield OpenAccount(account_id=f"A-{number}", currency="EUR", holder_name="Jane Doe", **common)
            continue
        kind = Withdraw if dice.random() < _WITHDRAWALS else Deposit
        account_id = f"A-{dice.randrange(accounts)}"
        yield kind(account_id=account_id, amount_minor=dice.randrange(1, 10_000), currency="EUR", **common)


def codec(connections: Connections) -> Codec:
    """A codec that can write what the ledger's topics hold."""
    made = Codec(Registry(connections))
    made.look_up_commands(connections.topics.commands)
    made.look_up_events(connections.topics.events)
    made.look_up_replies(connections.topics.replies)
    return made


def producer(connections: Connections, *, linger_ms: int) -> Producer:
    return Producer(
        connections.kafka(
            linger_ms=linger_ms,
            compression_type="lz4",
            partitioner="murmur2",
            enable_idempotence=True,
            queue_buffering_max_messages=2_000_000,
        )
    )


def preload(connections: Connections, count: int, accounts: int) -> None:
    """Put the workload on the commands topic."""
    put(connections, commands(count, accounts))


def put(connections: Connections, these: Iterable[AnyCommand]) -> None:
    """Put commands on their topic, and wait until all are there."""
    encoder, sender = codec(connections), producer(connections, linger_ms=20)
    count = 0
    for command in these:
        sender.produce(connections.topics.commands, encoder.encode_command(command), command.account_id.encode())
        sender.poll(0)
        count += 1
    left = sender.flush(60)
    if left:
        raise RuntimeError(f"{left} of {count} commands could not be preloaded within a minute")
