"""`python -m benchmarks spill`: throughput with a tenth of the accounts in memory, beside all of them, on skewed load.

What is measured is the service's own work, without servers: commands decided in batches, rounds of snapshots included.
Both ways decide the same commands in turns, and what they would write is compared by its hash.
"""

from __future__ import annotations

import random
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

from confluent_kafka import Message

from command_service.accounts import Bounds, Overlay, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.fingerprint import fingerprint
from command_service.handler import Handler
from command_service.keys import SubjectKeys
from command_service.packing import Packing
from command_service.rounds import Rounds
from command_service.samples import Samples
from command_service.settings import Settings
from command_service.spill import SpillFolder
from schemas.codec import Codec
from schemas.commands import AnyCommand, Deposit, OpenAccount, Withdraw
from schemas.connections import Connections
from schemas.keyring import KEK_BYTES, KeyRing
from schemas.registry import Registry
from schemas.topics import Topics

_SEED = 1
_NOW = 1_800_000_000_000_000
_WITHDRAWALS = 0.4
_SKEW = 1.0
"""Zipf's exponent: the n-th busiest account gets 1/n of what the busiest gets."""
_BATCH = 5_000
_TOPIC_ID = "benchmark"


@dataclass(frozen=True)
class SpillRates:
    """Commands a second, with all accounts in memory and with a part of them; and how many were on the disk then."""

    in_memory: float
    spilling: float
    spilled: int

    @property
    def ratio(self) -> float:
        return self.spilling / self.in_memory


def spill_rates(
    connections: Connections, count: int, accounts: int, held: int, rounds: int, tell: Callable[[str], None]
) -> list[SpillRates]:
    """`count` commands on so many accounts, of which `held` are in memory the second way; `rounds` times.

    `connections` are to a deployed ledger, of whose registry the schemas' ids are asked.

    Raises:
        RuntimeError: the two ways led to different records.
    """
    found = []
    with Registry(connections) as registry:
        codec = Codec(registry)
        codec.look_up_commands(connections.topics.commands)
        codec.look_up_events(connections.topics.events)
        codec.look_up_replies(connections.topics.replies)
        codec.look_up_snapshots(connections.topics.snapshots)
        codec.look_up_keys(connections.topics.subject_keys)
        opening = [codec.encode_command(command) for command in _openings(accounts)]
        values = [codec.encode_command(command) for command in _commands(count, accounts)]
        for number in range(rounds):
            with _way(codec, connections.topics, accounts) as whole, _way(codec, connections.topics, held) as part:
                for batch in _batched(opening):
                    whole.decide(batch)
                    part.decide(batch)
                for each in (whole, part):
                    each.seconds, each.hashed = 0.0, blake2b()
                # In turns, batch by batch, so that both have the same of whatever else the machine does.
                for batch in _batched(values):
                    whole.decide(batch)
                    part.decide(batch)
                if whole.hashed.digest() != part.hashed.digest():
                    raise RuntimeError("with spilling, the same commands led to other records")
                spilled = part.state.held()["spilled"]
            found.append(SpillRates(count / whole.seconds, count / part.seconds, spilled))
            tell(f"round {number + 1}: {found[-1].in_memory:,.0f} in memory, {found[-1].spilling:,.0f} spilling")
    return found


def _batched(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for begin in range(0, len(values), _BATCH):
        yield values[begin : begin + _BATCH]


class _Way:
    """A service on one partition. What it would write is hashed, but for snapshots, which need not come in order."""

    def __init__(self, codec: Codec, topics: Topics, handler: Handler, state: PartitionState, every: int) -> None:
        self._codec = codec
        self.state = state
        self.seconds = 0.0
        self.hashed = blake2b()
        self._topics = topics
        self._handler = handler
        self._rounds = Rounds(topics.snapshots, every)
        self._offset = 0

    def decide(self, batch: Sequence[bytes]) -> None:
        began = time.perf_counter()
        self._rounds.begin({0: self.state}, lambda _: self._offset)
        overlay, outcomes = Overlay(self.state, 0), Outcomes()
        for value in batch:
            record = Message(topic=self._topics.commands, partition=0, offset=self._offset, key=b"", value=value)
            self._handler.handle(record, overlay, _NOW, outcomes)
            self._offset += 1
        self._rounds.due({0: self.state}, len(batch)).committed()
        overlay.commit(_NOW)
        self.seconds += time.perf_counter() - began
        for outgoing in outcomes.outgoing:
            value = outgoing.value or b""
            if outgoing.topic == self._topics.events:
                # But for the chain hash: names are sealed with random numbers.
                cut = self._codec.chain_cut(value)[2]
                value = value[: cut - 32] + value[cut:]
            self.hashed.update(value)


@contextmanager
def _way(codec: Codec, topics: Topics, held: int) -> Iterator[_Way]:
    settings = Settings()
    packing = Packing(codec, fingerprint(_TOPIC_ID), _TOPIC_ID)
    with tempfile.TemporaryDirectory() as folder:
        spill = SpillFolder(Path(folder))
        state = PartitionState(
            Answers(settings.remembered_per_partition, 24 * 3_600_000_000),
            packing,
            SubjectKeys(codec, KeyRing({"kek": bytes(KEK_BYTES)}, "the benchmark")),
            Bounds(decoded=min(held, settings.decoded_accounts), held=held),
            new_store=spill.store,
            samples=Samples(packing, settings.snapshots_checked),
        )
        handler = Handler(codec, topics, 1, max_command_bytes=settings.max_command_bytes)
        yield _Way(codec, topics, handler, state, settings.snapshot_every)
        state.close()
        spill.close()


def _openings(accounts: int) -> list[AnyCommand]:
    return [
        OpenAccount(account_id=f"A-{n}", currency="EUR", holder_name="Jane Doe", **_common(n)) for n in range(accounts)
    ]


def _commands(count: int, accounts: int) -> list[AnyCommand]:
    dice = random.Random(_SEED)
    weights = list(accumulate(1 / (rank + 1) ** _SKEW for rank in range(accounts)))
    # Which accounts are the busy ones has nothing to do with when they were opened.
    order = dice.sample(range(accounts), accounts)
    made: list[AnyCommand] = []
    for number, rank in enumerate(dice.choices(range(accounts), cum_weights=weights, k=count)):
        kind = Withdraw if dice.random() < _WITHDRAWALS else Deposit
        made.append(
            kind(
                account_id=f"A-{order[rank]}",
                amount_minor=dice.randrange(1, 10_000),
                currency="EUR",
                **_common(accounts + number),
            )
        )
    return made


def _common(number: int) -> dict[str, object]:
    return {"command_id": str(uuid.UUID(int=number, version=4)), "user_id": "user-42", "issued_at": _NOW}
