"""The activity as a process, from the real log to its tables over HTTP and to the alerts' topic."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.alerts import Alert, alert_id
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.events import Event, MoneyDeposited, MoneyWithdrawn, RecordedEvent
from schemas.registry import Registry
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.processes import Process, asked, environment, until
from tests.recorded import recorded
from tests.relay import Relay

Start = Callable[..., Process]
Volumes = dict[tuple[str, str], tuple[int, int]]
"""Number of events and minor units, by currency and event type."""


WINDOW_S = 3600
"""Longer than any test, so that how fast the machine is does not decide which withdrawals count together."""


class Activity:
    """One process, and what it serves."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self._port = port

    def get(self, path: str) -> tuple[int, Any]:
        return asked(self._port, path)

    def volumes(self, path: str = "/volume/minute") -> Volumes:
        """All windows together, which for minutes is every event once."""
        _, answer = self.get(f"{path}?limit=1000")
        totals: Volumes = {}
        for window in answer.get("windows", ()):
            for one in window["volumes"]:
                key = (one["currency"], one["event_type"])
                events, amount = totals.get(key, (0, 0))
                totals[key] = (events + one["count"], amount + one["amount_minor"])
        return totals

    def become(self, events: Sequence[RecordedEvent], timeout_s: float = 90) -> None:
        expected = summed(events)
        try:
            until(lambda: self.volumes() == expected, "right volumes", timeout_s)
        except AssertionError:
            assert self.volumes() == expected
            raise


def summed(events: Sequence[RecordedEvent]) -> Volumes:
    totals: Volumes = {}
    for item in events:
        event = item.event
        if isinstance(event, MoneyDeposited | MoneyWithdrawn):
            key = (event.currency, item.type_name)
            number, amount = totals.get(key, (0, 0))
            totals[key] = (number + 1, amount + event.amount_minor)
    return totals


def moved(account_id: str, sequence: int, event: Event, at: int) -> RecordedEvent:
    """An event recorded now, as volumes show it. What it does to the balance is of no interest here."""
    return msgspec.structs.replace(recorded(account_id, sequence, event), recorded_at=at)


def traffic(accounts: int, events: int, first: int = 1) -> list[RecordedEvent]:
    """As many events of each account, recorded now: deposits, and every fourth one a withdrawal."""
    now = time.time_ns() // 1000
    log = []
    for sequence in range(first, first + events):
        for account in range(accounts):
            currency = ("EUR", "JPY")[account % 2]
            amount = 100 * sequence + account
            kind = MoneyWithdrawn if sequence % 4 == 0 else MoneyDeposited
            event = kind(amount_minor=amount, currency=currency, balance_minor=10**9)
            log.append(moved(f"A-{account}", sequence, event, now))
    return log


@pytest.fixture
def log(deployed: Connections) -> Log:
    return Log(deployed)


@pytest.fixture
def activity(start: Start, deployed: Connections) -> Callable[..., Activity]:
    def begin(*command: str, **more: str) -> Activity:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port: int = free.getsockname()[1]
        mine = {"DAYBOOK_ACTIVITY_PORT": str(port), "DAYBOOK_ACTIVITY_ALERT_WINDOW_S": str(WINDOW_S)}
        env = environment(deployed, **mine, **more)
        return Activity(start(*(command or ("projectors", "activity")), env=env), port)

    return begin


def committed(connections: Connections) -> dict[int, int]:
    topic = connections.topics.events
    group = connections.topics.projector_group("activity")
    with closing(Consumer(connections.kafka(group_id=group))) as consumer:
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        found = consumer.committed([TopicPartition(topic, partition) for partition in partitions], 10)
        return {one.partition: max(one.offset, 0) for one in found}


def raised(connections: Connections) -> dict[str, list[Alert]]:
    """What the alerts' topic has, by key."""
    topic = connections.topics.alerts
    found: dict[str, list[Alert]] = {}
    with (
        closing(Consumer(connections.kafka(group_id="x", enable_partition_eof=True, fetch_wait_max_ms=10))) as consumer,
        Registry(connections) as registry,
    ):
        codec = Codec(registry)
        waiting = set(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in waiting])
        while waiting:
            message = consumer.poll(60)
            assert message is not None
            if message.error() is not None:
                waiting.discard(message.partition())
                continue
            alert = codec.decode_alert(message.value())
            assert message.partition() == partition_of(alert.account_id, PARTITIONS)
            found.setdefault(message.key().decode(), []).append(alert)
    return found


def expected_alerts(events: Sequence[RecordedEvent], count: int, sums: dict[str, int]) -> dict[str, Alert]:
    """The alerts of withdrawals that all lie within one window, account by account."""
    alerts: dict[str, Alert] = {}
    runs: dict[str, list[RecordedEvent]] = {}
    for item in events:
        if not isinstance(item.event, MoneyWithdrawn):
            continue
        run = runs.setdefault(item.account_id, [])
        run.append(item)
        amounts = [one.event.amount_minor for one in run if isinstance(one.event, MoneyWithdrawn)]
        limits = {"withdrawal_count": (len(run), count)}
        if item.event.currency in sums:
            limits["withdrawal_sum"] = (sum(amounts), sums[item.event.currency])
        for rule, (reached, limit) in limits.items():
            if reached >= limit:
                alert = Alert(
                    alert_id=alert_id(item.account_id, rule, item.event_id),
                    account_id=item.account_id,
                    rule=rule,
                    event_id=item.event_id,
                    sequence=item.sequence,
                    raised_at=item.recorded_at,
                    first_at=run[0].recorded_at,
                    window_s=WINDOW_S,
                    count=len(run),
                    amount_minor=sum(amounts),
                    currency=item.event.currency,
                    limit=limit,
                )
                alerts[alert.alert_id] = alert
                runs[item.account_id] = []
    return alerts


def test_the_log_becomes_volumes_which_survive_a_restart_and_a_stop_is_clean(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    earlier, later = traffic(20, 12), traffic(20, 5, first=13)
    log.append(earlier)
    first = activity()
    first.become(earlier)
    until(lambda: committed(deployed) == log.ends(), "offsets of the group at the log's ends")
    assert first.process.stop() == 0, first.process.output
    assert "did not stop within" not in first.process.output
    log.append(later)
    second = activity()
    second.become(earlier + later)
    assert second.get("/health")[0] == 200


def test_what_was_aborted_or_is_open_is_not_counted(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    before, after, never = traffic(8, 3), traffic(8, 3, first=4), traffic(8, 40, first=50)
    log.append(before)
    log.append_and_abort(never)
    with closing(
        Producer(deployed.kafka(transactional_id=f"{deployed.namespace}.open", transaction_timeout_ms=600_000))
    ) as producer:
        producer.init_transactions(30)
        producer.begin_transaction()
        log._send(producer, after)
        assert producer.flush(30) == 0
        served = activity()
        served.become(before)
        # The group is past what was aborted, though no event follows it; the open transaction is not read.
        until(
            lambda: sum(committed(deployed).values()) > len(before) + len(never),
            "offsets behind the aborted transaction",
        )
        assert served.volumes() == summed(before)
        producer.commit_transaction(30)
        served.become(before + after)
    until(lambda: committed(deployed) == log.ends(), "offsets of the group at the log's ends")


def test_killed_at_random_times_every_event_counts_once_and_every_alert_is_the_same(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    chance = random.Random(11)
    rule = {"DAYBOOK_ACTIVITY_ALERT_COUNT": "3", "DAYBOOK_ACTIVITY_ALERT_SUMS": "100.00 EUR"}
    events = traffic(40, 24)
    log.append(events)
    served = activity(**rule)
    for round_ in range(3):
        seen = served.volumes()
        until(lambda seen=seen: served.volumes() not in ({}, seen), "progress")
        time.sleep(chance.random() * 0.4)
        served.process.kill()
        more = traffic(40, 12, first=25 + 12 * round_)
        log.append(more)
        events += more
        served.process.start()
    served.become(events)
    until(lambda: committed(deployed) == log.ends(), "offsets of the group at the log's ends")
    given = raised(deployed)
    assert all(len(set(alerts)) == 1 for alerts in given.values())
    assert {key: alerts[0] for key, alerts in given.items()} == expected_alerts(events, 3, {"EUR": 10_000})
    newest = served.get("/alerts/recent?limit=1000")[1]["alerts"]
    assert newest
    assert {alert["alert_id"] for alert in newest} <= given.keys()


def test_what_is_lost_on_the_way_to_the_agent_is_read_again_in_order(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    events = traffic(8, 4)
    log.append(events)
    served = activity("tests.losing_activity")
    # Lost whole, with nothing after it and no offset committed.
    served.process.said("is read again from 0")
    served.become(events)
    for round_ in range(4):
        # Several batches, some of which are lost: those behind them have to wait for them.
        more = traffic(8, 150, first=5 + 150 * round_)
        log.append(more)
        events += more
    served.become(events)
    until(lambda: committed(deployed) == log.ends(), "offsets of the group at the log's ends")
    given = raised(deployed)
    assert {key: alerts[0] for key, alerts in given.items()} == expected_alerts(events, 10, {})
    assert served.process.stop() == 0


def test_a_record_that_is_no_event_stops_it_and_is_never_skipped(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    before = traffic(8, 2)
    log.append(before)
    ends = log.ends()
    log.append_bytes(b"A-1/99", b"nonsense", 2)
    log.append(traffic(8, 2, first=3))
    for _ in range(2):
        served = activity()
        assert served.process.wait(60) == 1
        assert f"{deployed.topics.events}, partition 2, offset {ends[2]}, key b'A-1/99'" in served.process.output
        assert "Traceback" not in served.process.output
    assert committed(deployed)[2] <= ends[2]


def test_it_waits_for_kafka_and_can_be_stopped_meanwhile(
    log: Log, activity: Callable[..., Activity], deployed: Connections
) -> None:
    events = traffic(4, 4)
    log.append(events)
    host, _, port = deployed.kafka_bootstrap.rpartition(":")
    with closing(Relay(host, int(port))) as relay:
        down = {"DAYBOOK_KAFKA_BOOTSTRAP": f"127.0.0.1:{relay.port}"}
        stopped, served = activity(**down), activity(**down)
        for one in (stopped, served):
            one.process.said("waiting for Kafka")
            assert one.get("/health")[0] == 503
        assert stopped.process.stop() == 0
        relay.open()
        served.become(events)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DAYBOOK_ACTIVITY_ALERT_SUMS", "ten EUR"),
        ("DAYBOOK_ACTIVITY_HOUR_STEP_MIN", "7"),
        ("DAYBOOK_ACTIVITY_PORT", "0"),
    ],
)
def test_a_wrong_setting_is_wrong_usage(
    activity: Callable[..., Activity], connections: Connections, start: Start, variable: str, value: str
) -> None:
    process = start("projectors", "activity", env=environment(connections, **{variable: value}))
    assert process.wait() == 2
    assert variable in process.output
