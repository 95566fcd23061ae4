"""A ledger whose services are killed: the real handler, state and replay, over a log in memory that keeps transactions
whole. What brokers and processes do is in the soak and in tests/faults."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Final

from confluent_kafka import Message

from command_service.accounts import Overlays, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.handler import Handler
from command_service.records import was_decided
from command_service.replay import Replay
from schemas.commands import AnyCommand
from schemas.events import RecordedEvent
from schemas.topics import partition_of
from tests.unit.given import NOW
from tests.unit.known_records import CODEC, PACKING, TOPICS, no_keys

PARTITIONS: Final = 4
_SERVICES: Final = 2
_MOST: Final = 5
"""Records of a batch, at most."""

Place = tuple[str, int]


class KilledLedger:
    """Two services over the partitions, driven by `step`: which decides, and what becomes of it, is by chance."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = NOW
        self._records: defaultdict[Place, list[Message]] = defaultdict(list)
        self._next: defaultdict[Place, int] = defaultdict(int)
        """Where to go on reading, as it was committed."""
        self._handler = Handler(CODEC, TOPICS, PARTITIONS, max_command_bytes=64 * 1024)
        self._owners = [rng.randrange(_SERVICES) for _ in range(PARTITIONS)]
        self._states = {partition: self._restored(partition) for partition in range(PARTITIONS)}
        self.log: list[RecordedEvent] = []
        """The events in the order in which they were committed."""

    def put(self, command: AnyCommand) -> None:
        """A client's command, where its account is."""
        home = partition_of(command.account_id, PARTITIONS)
        self._append(TOPICS.commands, home, command.account_id.encode(), CODEC.encode_command(command), None)

    def step(self) -> None:
        """Have a service decide what is there of its partitions. That may be lost, or the service be killed, before
        the commit or after it."""
        self._decide(self._rng.randrange(_SERVICES), calm=False)

    def settle(self) -> None:
        """Go on without kills until all that was asked for is decided."""
        while sum(self._decide(service, calm=True) for service in range(_SERVICES)):
            pass

    def _decide(self, service: int, *, calm: bool) -> bool:
        """Whether there was anything."""
        ours = [partition for partition, owner in enumerate(self._owners) if owner == service]
        batch, ends = self._taken(ours)
        outcomes, overlays = Outcomes(), Overlays({partition: self._states[partition] for partition in ours})
        self._now += 1_000
        for message in batch:
            self._handler.handle(message, overlays[int(message.partition() or 0)], self._now, outcomes)
        while outcomes.asked:
            # Now and then the time within the transaction is up.
            until = float("-inf") if not calm and self._rng.random() < 0.2 else float("inf")
            self._handler.follow(overlays, self._now, outcomes, until)
        chance = 1.0 if calm else self._rng.random()
        if chance > 0.2:
            self._commit(outcomes, ends)
        if chance > 0.3:
            for overlay in overlays.values():
                overlay.commit(self._now)
        elif chance > 0.1:
            # It does not know whether it was committed, or has lost its partitions.
            self._kill(ours)
        return bool(ends)

    def in_transit_minor(self) -> int:
        """What the services hold for sent and not settled, of all accounts."""
        entries = (state.get(account_id) for state in self._states.values() for account_id in state.ids())
        return sum(entry.account.in_transit_minor for entry in entries if entry is not None)

    def parked(self) -> int:
        return sum(len(found) for (topic, _), found in self._records.items() if topic == TOPICS.parked)

    def _taken(self, partitions: list[int]) -> tuple[list[Message], dict[Place, int]]:
        """Records to be decided, and where to go on after them: those that were decided already are passed over."""
        places = [(topic, p) for p in partitions for topic in (TOPICS.commands, TOPICS.followups)]
        self._rng.shuffle(places)
        batch: list[Message] = []
        ends: dict[Place, int] = {}
        for place in places:
            begin = self._next[place]
            for message in self._records[place][begin : begin + self._rng.randint(1, _MOST)]:
                ends[place] = int(message.offset() or 0) + 1
                if not (place[0] == TOPICS.followups and was_decided(message)):
                    batch.append(message)
        return batch, ends

    def _commit(self, outcomes: Outcomes, ends: dict[Place, int]) -> None:
        for each in outcomes.outgoing:
            self._append(each.topic, max(each.partition, 0), each.key, each.value, each.headers)
            if each.topic == TOPICS.events:
                self.log.append(CODEC.decode_event(each.value))
        self._next.update(ends)

    def _append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, str | bytes | None]] | None,
    ) -> None:
        here = self._records[topic, partition]
        time = 1, self._now // 1000
        here.append(Message(topic, partition, len(here), key, value, headers=headers or [], timestamp=time))

    def _kill(self, partitions: list[int]) -> None:
        """What the service held is gone, and whoever gets its partitions reads them anew."""
        for partition in partitions:
            self._owners[partition] = self._rng.randrange(_SERVICES)
            self._states[partition] = self._restored(partition)

    def _restored(self, partition: int) -> PartitionState:
        state = PartitionState(Answers(capacity=10_000, window=3_600_000_000), PACKING, no_keys())
        replay = Replay(TOPICS, PACKING, {partition: state})
        replay.begin_events({partition: (0, len(self._records[TOPICS.events, partition]))})
        for topic in (TOPICS.subject_keys, TOPICS.events, TOPICS.replies):
            for message in self._records[topic, partition]:
                replay.read(message)
        replay.end()
        return state
