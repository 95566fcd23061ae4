"""The Faust application: its tables, and the agent that feeds them. Read `Activity._take`: its steps are the numbers.

1. Decode a batch of events, which follow in order on those that are in. One that cannot be decoded ends the
   application; what came before it is in.
2. Give the alerts that the batch sets off, and wait until Kafka has them.
3. Set the tables, once for each key, and wait until Kafka has the changes (the tables' changelogs).
4. Say how far it is, so that the group's offsets may move there.

After a crash between any two steps the same events come again, to tables that hold some of the changes. Every value has
the offset that it has reached, by which it knows what is in already; an alert that was given before is given again,
the same under the same key.

Faust keeps the tables in memory and their changes in changelog topics, from which they are restored at a start.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import faust
from faust.types import TP, EventT, FutureMessage, StreamT
from faust.windows import HoppingWindow, TumblingWindow
from mode import CrashingSupervisor
from msgspec.structs import asdict

from projectors.activity.settings import ActivitySettings
from projectors.activity.taken import Taken
from projectors.activity.transport import FOLLOWS, Consumer, Transport
from projectors.activity.velocity import Recent, withdrew
from projectors.activity.volumes import Range, Volume, VolumeKey, by_window
from projectors.progress import Progress, State
from projectors.projector import CannotProject
from projectors.source import Source
from projectors.tracing import show
from schemas.alerts import Alert
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable
from schemas.telemetry.latencies import ISSUED_AT, issued_at
from schemas.telemetry.traces import Tracer, parent

_log = logging.getLogger(__package__)

MINUTE_S: Final = 60
HOUR_S: Final = 3600

MINUTES_KEPT_S: Final = 2 * HOUR_S
HOURS_KEPT_S: Final = 24 * HOUR_S
"""How long windows are kept after they began. For each partition, currency and event type that is a hundred minutes or
so and, at five minutes a step, three hundred hours, of a few hundred bytes each."""

ALERTS_KEPT: Final = 25
"""The newest alerts of each partition, to show. All are on their topic."""

_BATCH_EVENTS: Final = 1000
_LINGER_S: Final = 0.1
"""A table's key is set once for each batch, and Kafka is waited for once. A tenth of a second is not noticed."""

_SWEEP_S: Final = 30
"""How often windows that are over are dropped."""

_REPLAY_S: Final = 3600
"""Older events are read again, or late for another reason than the ledger's speed: they say nothing of it."""

_REGISTRY_RETRY_S: Final = 1.0

_SESSION_TIMEOUT_S: Final = 6
"""How long the partitions of a killed instance stay orphaned, as for the other projectors."""
_HEARTBEAT_S: Final = 2

_COMMIT_S: Final = 1.0
"""How often the group's offsets are moved, which is also how stale they look to tools."""

_CHANGELOG: Final = {
    # Kafka keeps the newest value of each key; what is over is deleted by a tombstone. Deleting by age as well could
    # take values that were last set long ago and are still needed.
    "cleanup.policy": "compact",
    "retention.ms": "-1",
    # A start reads all of it, so what is superseded should not make up most.
    "min.cleanable.dirty.ratio": "0.2",
    "segment.ms": str(HOUR_S * 1000),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """How the events topic is laid out, which the tables' changelogs have to match."""

    partitions: int
    replication: int


class Table(faust.Table[Any, Any]):
    """A table whose keys begin with the partition of the events that they are made of.

    Faust would ask the event that is being processed for the partition, of which a batch has many. It also lets a
    change be lost without saying so; here it is waited for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unsettled: list[FutureMessage] = []

    def partition_for_key(self, key: Any) -> int:
        while isinstance(key, tuple):
            key = key[0]
        return int(key)

    def send_changelog(self, *args: Any, **kwargs: Any) -> FutureMessage:
        sent = super().send_changelog(*args, **kwargs)
        self._unsettled.append(sent)
        return sent

    async def settled(self) -> None:
        """Wait until Kafka has all changes made so far. Raises what kept it from taking one."""
        unsettled, self._unsettled = self._unsettled, []
        if unsettled:
            await asyncio.gather(*unsettled)


class App(faust.App):
    """Keeps nothing on disk."""

    started_up: bool = False
    """Its tables were restored once."""

    def _create_directories(self) -> None:
        pass

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)


def application(connections: Connections, placement: Placement) -> App:
    """A Faust app without tables or agents. Its settings are given here, not taken from the environment."""
    brokers = [f"kafka://{address.strip()}" for address in connections.kafka_bootstrap.split(",")]
    return App(
        connections.topics.projector_group("activity"),
        broker=brokers,
        broker_credentials=credentials(connections),
        broker_client_id="daybook-projector-activity",
        broker_session_timeout=_SESSION_TIMEOUT_S,
        broker_heartbeat_interval=_HEARTBEAT_S,
        broker_commit_interval=_COMMIT_S,
        consumer_auto_offset_reset="earliest",
        processing_guarantee="at_least_once",
        # Before partitions go, what was begun is finished: else a table could be restored to before it, while the
        # group's offset is moved past it.
        stream_wait_empty=True,
        stream_recovery_delay=0.0,
        store="memory://",
        Table=Table,
        topic_partitions=placement.partitions,
        topic_replication_factor=placement.replication,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        producer_acks=-1,
    )


def credentials(connections: Connections) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """How to connect to Kafka, as Faust has it; None for neither encryption nor authentication."""
    protocol = connections.kafka_security_protocol
    context = ssl.create_default_context(cafile=connections.kafka_ssl_ca) if protocol.endswith("SSL") else None
    if protocol.startswith("SASL"):
        password = connections.kafka_sasl_password
        return faust.SASLCredentials(
            mechanism=connections.kafka_sasl_mechanism or "PLAIN",
            username=connections.kafka_sasl_username,
            password=None if password is None else password.get_secret_value(),
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


class Activity:
    """The tables of one log, and what feeds them. All of it runs in the app's event loop.

    The tables' names end with a hash that stands for the log: a topic that was deleted and created anew is another one,
    whose offsets have nothing to do with those in the old tables.
    """

    def __init__(
        self,
        app: App,
        connections: Connections,
        settings: ActivitySettings,
        source: Source,
        codec: Codec,
        progress: Progress,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._tracer = tracer
        self._rule = settings.rule
        self._codec = codec
        self._progress = progress
        self._events = app.topic(connections.topics.events, key_serializer="raw", value_serializer="raw")
        self._alerts_topic = app.topic(connections.topics.alerts, key_serializer="raw", value_serializer="raw")
        self.hour_step_s = settings.hour_step_min * 60
        self.minutes = self._table(source, "volume-minute")
        self.hours = self._table(source, "volume-hour")
        self._volumes = (
            (self.minutes, TumblingWindow(MINUTE_S), MINUTES_KEPT_S),
            (self.hours, HoppingWindow(HOUR_S, self.hour_step_s), HOURS_KEPT_S),
        )
        self._recent = self._table(source, "withdrawals")
        self._recent.on_recover(self._recovered)
        self.alerts = self._table(source, "alerts")
        # By partition, the accounts in `_recent` with their newest withdrawal and their offset, the oldest first.
        self._aging: dict[int, deque[tuple[int, int, str]]] = {}
        app.agent(self._events, name="activity", supervisor_strategy=CrashingSupervisor)(self._agent)
        app.timer(_SWEEP_S)(self._sweep)

    def _table(self, source: Source, name: str) -> Table:
        log = hashlib.sha256(str(source).encode()).hexdigest()[:8]
        return cast(Table, self._app.Table(f"{name}-{log}", extra_topic_configs=_CHANGELOG))

    @property
    def _tables(self) -> tuple[Table, ...]:
        return self.minutes, self.hours, self._recent, self.alerts

    @property
    def _consumer(self) -> Consumer:
        return cast(Consumer, self._app.consumer)

    def partitions(self) -> set[int]:
        """The partitions of the log that this instance has."""
        topic = self._events.get_topic_name()
        return {tp.partition for tp in self._consumer.assignment() if tp.topic == topic}

    async def _agent(self, streamed: StreamT[Any]) -> None:
        stream = cast(faust.Stream[Any], streamed)
        async for events in stream.noack_take(_BATCH_EVENTS, within=_LINGER_S):
            began = time.time()
            self._consumer.busy = True
            try:
                taken = await self._take(self._in_order(events))
            finally:
                self._consumer.busy = False
                # Faust waits for these before it gives partitions up or stops. What is committed is another matter.
                for event in events:
                    await stream.ack(event)
            self._reached(taken, began)

    def _in_order(self, events: Sequence[EventT[Any]]) -> Sequence[EventT[Any]]:
        """The events that follow what is in already: none that are in, and none behind a hole."""
        if self._app.rebalancing:
            # Tables are about to be restored, perhaps by another instance. What is left out is handed out again.
            return ()
        mine = self.partitions()
        reached = dict(self._consumer.applied)
        following = []
        for event in events:
            tp, offset = event.message.tp, event.message.offset
            at = reached.get(tp, 0)
            if tp.partition not in mine or offset < at:
                continue
            if int(dict(event.message.headers or ())[FOLLOWS]) > at:
                self._consumer.behind_holes.add(tp)
                continue
            reached[tp] = offset + 1
            following.append(event)
        return following

    async def _take(self, events: Sequence[EventT[Any]]) -> Sequence[Taken]:
        taken, failure = await self._decode(events)  # 1
        recent, alerts = self._withdrawals(taken)
        await self._give(alerts)  # 2
        self._set_volumes(taken)  # 3
        self._set_recent(recent)
        self._set_alerts(alerts)
        await self._settled()
        if failure is not None:
            raise failure
        return taken  # 4

    async def _decode(self, events: Sequence[EventT[Any]]) -> tuple[list[Taken], CannotProject | None]:
        """The events up to the first that cannot be decoded, and why not. Waits for a registry that is down."""
        taken: list[Taken] = []
        while True:
            try:
                # A schema not met before is asked for, which may block.
                failure = await asyncio.to_thread(_decode, self._codec, events[len(taken) :], taken)
            except RegistryUnavailable as error:
                if self._progress.state is not State.WAITING:
                    _log.warning("activity stops for now: %s", error)
                self._progress.entered(State.WAITING, str(error), "registry")
                await asyncio.sleep(_REGISTRY_RETRY_S)
            else:
                return taken, failure

    def _withdrawals(
        self, taken: Iterable[Taken]
    ) -> tuple[Mapping[tuple[int, str], Recent], list[tuple[Taken, Alert]]]:
        """What the events make of their accounts' recent withdrawals, and the alerts."""
        changed: dict[tuple[int, str], Recent] = {}
        alerts: list[tuple[Taken, Alert]] = []
        for item in taken:
            key = (item.partition, item.recorded.account_id)
            before = changed.get(key) or Recent.stored(self._recent.get(key))
            after, given = withdrew(before, item, self._rule)
            if after is not before:
                changed[key] = after
            alerts += ((item, alert) for alert in given)
        return changed, alerts

    async def _give(self, alerts: Sequence[tuple[Taken, Alert]]) -> None:
        sent = [
            await self._alerts_topic.send(
                key=alert.alert_id.encode(),
                value=self._codec.encode_alert(alert),
                partition=item.partition,
                # The event's time: alerts given anew while the log is read again are not younger than they were.
                timestamp=alert.raised_at / 1_000_000,
            )
            for item, alert in alerts
        ]
        if sent:
            await asyncio.gather(*sent)

    def _set_volumes(self, taken: Sequence[Taken]) -> None:
        now = time.time()
        for table, window, kept_s in self._volumes:
            for key, moved in by_window(taken, window.ranges, now - kept_s).items():
                before = Volume.stored(table.get(key))
                after = before.plus(moved)
                if after != before:
                    table[key] = after.to_store()

    def _set_recent(self, changed: Mapping[tuple[int, str], Recent]) -> None:
        for key, recent in changed.items():
            self._recent[key] = recent.to_store()
            partition, account_id = key
            self._aging.setdefault(partition, deque()).append((recent.newest_at, recent.next_offset, account_id))
        for partition in {partition for partition, _ in changed}:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        """Drop the accounts of a partition whose withdrawals no longer count at its newest one.

        Not before the group's offset is past them: an account that came again from before that would be counted anew.
        """
        aging = self._aging[partition]
        over_at = aging[-1][0] - self._rule.window_s * 1_000_000
        committed = self._consumer.committed.get(TP(self._events.get_topic_name(), partition), 0)
        while aging and aging[0][0] <= over_at and aging[0][1] <= committed:
            _, next_offset, account_id = aging.popleft()
            key = (partition, account_id)
            if Recent.stored(self._recent.get(key)).next_offset == next_offset:
                del self._recent[key]

    async def _recovered(self) -> None:
        by_age = sorted(
            (recent.next_offset, recent.newest_at, partition, account_id)
            for (partition, account_id), recent in (
                (key, Recent.stored(value)) for key, value in self._recent.data.items()
            )
        )
        self._aging = {}
        for next_offset, newest_at, partition, account_id in by_age:
            self._aging.setdefault(partition, deque()).append((newest_at, next_offset, account_id))

    def _set_alerts(self, alerts: Sequence[tuple[Taken, Alert]]) -> None:
        by_partition: dict[int, list[Alert]] = {}
        for item, alert in alerts:
            by_partition.setdefault(item.partition, []).append(alert)
        for partition, given in by_partition.items():
            known = {alert["alert_id"]: alert for alert in self.alerts.get((partition,)) or ()}
            known |= {alert.alert_id: asdict(alert) for alert in given}
            self.alerts[(partition,)] = list(known.values())[-ALERTS_KEPT:]

    async def _settled(self) -> None:
        for table in self._tables:
            await table.settled()

    def _reached(self, taken: Sequence[Taken], began: float) -> None:
        topic = self._events.get_topic_name()
        for item in taken:
            self._consumer.applied[TP(topic, item.partition)] = item.offset + 1
        for partition, recorded_at in {item.partition: item.recorded.recorded_at for item in taken}.items():
            tp = TP(topic, partition)
            position = self._consumer.applied[tp]
            self._progress.reached(partition, position, max(self._consumer.highwater(tp) or 0, position), recorded_at)
        if taken:
            self._progress.applied(len(taken), time.time() - began)
            self._show(taken, began)
        if self._progress.state is not State.RUNNING:
            self._progress.entered(State.RUNNING)

    def _show(self, taken: Sequence[Taken], began: float) -> None:
        """Tell how long it took until these events were visible, and end their traces here."""
        young = [item for item in taken if time.time() - item.recorded.recorded_at / 1_000_000 < _REPLAY_S]
        if self._tracer is not None:
            for item in young:
                if item.trace is not None:
                    began_us = int(began * 1_000_000)
                    show(self._tracer, "activity", item.recorded, item.partition, item.offset, item.trace, began_us)
        self._progress.visible(
            [item.recorded.recorded_at for item in young],
            [item.issued_at for item in young if item.issued_at is not None],
        )

    async def _sweep(self) -> None:
        """Drop the windows that are over."""
        now = time.time()
        for table, _, kept_s in self._volumes:
            over = [key for key in table.data if key[1][0] < now - kept_s]
            for key in over:
                del table[key]
        await self._settled()

    def volumes(self, table: Table) -> Iterator[tuple[VolumeKey, Range, Volume]]:
        """The volumes of a table in the partitions of this instance."""
        mine = self.partitions()
        for (key, span), value in table.data.items():
            if key[0] in mine:
                yield VolumeKey(*key), span, Volume.stored(value)

    def recent_alerts(self) -> list[Mapping[str, Any]]:
        """The alerts that are kept, the newest first."""
        mine = self.partitions()
        kept = (alert for (partition,), alerts in self.alerts.data.items() if partition in mine for alert in alerts)
        return sorted(kept, key=lambda alert: (-alert["raised_at"], alert["alert_id"]))


def _decode(codec: Codec, events: Sequence[EventT[Any]], taken: list[Taken]) -> CannotProject | None:
    """Decode events one after the other onto `taken`. Raises `RegistryUnavailable`, where it can be called again."""
    for event in events:
        message = event.message
        try:
            recorded = codec.decode_event(message.value)
        except Undecodable as error:
            return CannotProject(
                f"the record at {message.topic}, partition {message.partition}, offset {message.offset}, key "
                f"{message.key!r} is not an event that can be read ({error.reason}): {error}. Nothing was skipped. If "
                "a newer release writes events, update this projector; otherwise something other than the command "
                "service wrote to the topic, whose records must not be there"
            )
        found = dict(message.headers or ())
        taken.append(Taken(message.partition, message.offset, recorded, issued_at(found.get(ISSUED_AT)), parent(found)))
    return None
