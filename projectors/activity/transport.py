"""What Faust's Kafka client has to do differently, so that events come in order and none is lost.

* Faust reads uncommitted records unless it writes in transactions itself. Events of open or aborted transactions have
  not happened, so they must not be handed out.
* Faust may lose records between its consumer and its agents: those that come while tables are being restored are
  cleared from the agents' queues, and what comes after them is handed out. Committed offsets stay before the hole, so
  that the next start would read them again, but out of order. Here each record bears the offset that it follows
  (`FOLLOWS`), by which the agent sees a hole; it takes nothing behind one, and the consumer is set back.
* Faust commits what was acknowledged, up to the first hole in the offsets, and ends the worker when Kafka does not take
  a commit. Here the agent says how far it is (`Consumer.applied`). When it has all that was handed out, the position
  is committed, which is behind the markers that transactions leave: else the group would seem to lag for ever. A
  commit that fails is made up for by the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final, cast

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from aiokafka.errors import IllegalStateError, KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from faust.types.transports import ConsumerT, TPorTopicSet
from mode import Service

_log = logging.getLogger(__package__)

FOLLOWS: Final = "daybook-follows"
"""The header put on records: every record of its partition before this offset was handed out before it. 0 where reading
began anew, which it does at a committed offset or where the agent is."""

_UNCOMMITTED: Final = "read_uncommitted"
_COMMITTED: Final = "read_committed"

_WATCH_S: Final = 1.0
"""How often offsets are committed and holes are looked for; so stale do the offsets look to tools, at most."""

_STALLED_S: Final = 2.0
"""After an agent had nothing to do for so long, what was handed out is taken for lost. It waits a tenth of a second for
a batch to fill; and handing out again what was not lost changes nothing."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to Kafka. Its methods run there, but for those that the base class calls across."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._handed_out: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust leaves no way to say so, and aiokafka reads this field when the consumer starts. Were it renamed, events
        # that never happened would be counted, silently: then it is better not to start.
        if consumer._isolation_level not in (_UNCOMMITTED, _COMMITTED):
            raise RuntimeError("this release of aiokafka keeps its isolation level elsewhere: use another one")
        consumer._isolation_level = _COMMITTED
        return consumer

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> RecordMap:
        records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        for tp, batch in records.items():
            next_offset = self._handed_out.get(tp)
            for record in batch:
                set_back = next_offset is None or record.offset < next_offset
                follows = 0 if set_back else next_offset
                record.headers = (*record.headers, (FOLLOWS, str(follows).encode()))
                next_offset = record.offset + 1
            if next_offset is not None:
                self._handed_out[tp] = next_offset
        return records

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # Reading begins anew, at committed offsets.
        self._handed_out.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        mine = self.assignment()
        try:
            await self._ensure_consumer().commit(
                {driver.ensure_aiokafka_TP(tp): OffsetAndMetadata(at, "") for tp, at in offsets.items() if tp in mine}
            )
        except (KafkaError, IllegalStateError) as error:
            _log.warning("the group's offsets were not updated, which the next time will do: %s", error)
            return False
        return True

    async def standing(self, tps: list[TP]) -> Mapping[TP, tuple[int | None, int]]:
        """For each partition, the offset after what was handed out of it (None: nothing was), and the position.

        Called from the other thread. Both are of the same moment, or what was handed out is of a later one.
        """
        return cast(Mapping[TP, tuple[int | None, int]], await self.call_thread(self._standing, tps))

    async def _standing(self, tps: list[TP]) -> Mapping[TP, tuple[int | None, int]]:
        found = {}
        for tp in tps:
            position = await self._ensure_consumer().position(driver.ensure_aiokafka_TP(tp))
            found[tp] = (self._handed_out.get(tp), position)
        return found


class _NothingRead(dict[TP, int | None]):
    """Faust drops what lies before the offsets that it has read, which is wrong when it was set back."""

    def __getitem__(self, tp: TP) -> int | None:
        return None


class Consumer(driver.Consumer):
    """The agent keeps `applied`, the offset to read next by partition, and `behind_holes`, those that it met a hole in.

    It says when it is `busy` with a batch, which may take long while Kafka or the registry is down.
    `committed` says what the group was seen to have as the offset to read next.
    """

    _thread: ConsumerThread

    def __post_init__(self) -> None:
        super().__post_init__()
        self.applied: dict[TP, int] = {}
        self.behind_holes: set[TP] = set()
        self.busy = False
        self.committed: dict[TP, int] = {}
        self._read_offset = _NothingRead()
        self._seen: dict[TP, tuple[int | None, float]] = {}

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # What another instance did to them meanwhile is in the restored tables and in the group's offsets.
        for known in (self.applied, self.committed, self._seen):
            known.clear()
        self.behind_holes.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    def ack(self, message: Message) -> bool:
        """The message is done with, in whatever way. What is committed is another matter."""
        self._unacked_messages.discard(message)
        first, message.acked = not message.acked, True
        return first

    async def wait_empty(self) -> None:
        # A failed agent will not finish what it was given.
        if not self.app.crashed:
            await super().wait_empty()

    async def force_commit(
        self,
        topics: TPorTopicSet | None = None,  # noqa: ARG002 - the signature is the base class's
        start_new_transaction: bool = True,  # noqa: ARG002
    ) -> bool:
        standing = await self._standing()
        offsets = {}
        for tp, (handed_out, position) in standing.items():
            applied = self.applied.get(tp)
            reached = position if handed_out == applied else applied
            if reached is not None and reached > (self.committed.get(tp) or self._committed_offset[tp] or 0):
                offsets[tp] = reached
        if offsets and await self._commit_offsets(offsets):
            self.committed.update(offsets)
            return True
        return False

    @Service.task
    async def _watch(self) -> None:
        async for _ in self.itertimer(_WATCH_S, name="watch"):
            if not self.app.rebalancing and self.flow_active:
                await self._set_back(await self._standing())

    async def _set_back(self, standing: Mapping[TP, tuple[int | None, int]]) -> None:
        """Have read again what was handed out but lost on its way to the agent."""
        now = time.monotonic()
        for tp, (handed_out, _) in standing.items():
            applied = self.applied.get(tp)
            seen, since = self._seen.get(tp, (None, now))
            if self.busy or handed_out == applied or seen != applied or tp not in self._seen:
                self._seen[tp] = (applied, now)
            stalled = not self.busy and handed_out != applied and seen == applied and now - since > _STALLED_S
            if not stalled and tp not in self.behind_holes:
                continue
            self.behind_holes.discard(tp)
            self._seen[tp] = (applied, now)
            back_to = applied if applied is not None else self._committed_offset[tp]
            if back_to is None:
                # Not `seek_to_beginning`: aiokafka fails if it is asked for records or positions meanwhile.
                back_to = (await self.earliest_offsets(tp))[tp]
            _log.info("partition %d is read again from %d: what was read did not arrive", tp.partition, back_to)
            await self.seek_wait({tp: back_to})

    async def _standing(self) -> Mapping[TP, tuple[int | None, int]]:
        """Nothing while partitions come or go, or after this was stopped."""
        try:
            tps = [tp for tp in self.assignment() if self.app.topics.acks_enabled_for(tp.topic)]
            return await self._thread.standing(tps) if tps else {}
        except (KafkaError, IllegalStateError):
            return {}


class Transport(driver.Transport):
    """To be given to a Faust app before it starts."""

    Consumer: ClassVar[type[ConsumerT]] = cast(Any, Consumer)
