"""What the client says when there is no reply to be had, on real servers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from daybook import Client, NotTaken, ReadTimeout, ReplyTimeout, Unreachable, UnreadableRecord, kafka
from schemas.commands import Deposit, Freeze, OpenAccount
from schemas.connections import Connections
from schemas.topics import event_key, partition_of
from tests.conftest import PARTITIONS
from tests.processes import Process, environment


def create_topics(connections: Connections, *names: str) -> None:
    admin = AdminClient(connections.kafka())
    for created in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
        created.result(timeout=30)


def produce(connections: Connections, topic: str, key: bytes, value: bytes, partition: int) -> None:
    producer = Producer(connections.kafka())
    producer.produce(topic, value, key, partition)
    assert producer.flush(30) == 0


def test_missing_topics_are_named(connections: Connections) -> None:
    with Client(connections, user_id="ada") as client:
        with pytest.raises(Unreachable, match=r"account\.commands.*daybook deploy apply"):
            client.freeze("A-1")
        create_topics(connections, client.topics.commands)
        with pytest.raises(Unreachable, match=r"account\.replies.*daybook deploy apply"):
            client.freeze("A-1")
        with pytest.raises(Unreachable, match=r"account\.events.*daybook deploy apply"):
            list(client.events())


def test_missing_schemas_are_named(connections: Connections) -> None:
    create_topics(connections, connections.topics.commands, connections.topics.replies)
    with (
        Client(connections, user_id="ada") as client,
        pytest.raises(Unreachable, match="daybook deploy apply") as caught,
    ):
        client.freeze("A-1")
    assert caught.value.address == connections.registry_url


def test_a_registry_that_is_down_is_named(deployed: Connections) -> None:
    away = deployed.model_copy(update={"registry_url": "http://user:secret@127.0.0.1:1"})
    with Client(away, user_id="ada") as client, pytest.raises(Unreachable, match="registry") as caught:
        client.freeze("A-1")
    assert caught.value.address == "127.0.0.1:1"


def test_without_a_service_commands_time_out_and_may_be_given_again(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    with Client(deployed, user_id="ada") as client:
        opening = client.command(OpenAccount, "A-1", currency="EUR", holder_name="Ada")
        began = time.monotonic()
        with pytest.raises(ReplyTimeout, match="daybook run") as one:
            client.execute(opening, timeout_s=1)
        assert 0.9 < time.monotonic() - began < 5
        assert one.value.command_ids == (opening.command_id,)
        deposits = [client.command(Deposit, "A-1", amount_minor=1, currency="EUR") for _ in range(20)]
        with pytest.raises(ReplyTimeout, match="20 commands") as many:
            list(client.send_many(deposits, timeout_s=1))
        assert many.value.command_ids == tuple(deposit.command_id for deposit in deposits)

        start("command_service", env=environment(deployed))
        again = list(client.send_many([opening, *deposits], timeout_s=60))
        assert len(again) == 21
        assert all(reply.accepted for reply in again)
        assert [entry.recorded.sequence for entry in client.events("A-1")] == list(range(1, 22))


def test_a_command_id_is_a_uuid(deployed: Connections) -> None:
    with Client(deployed, user_id="ada") as client, pytest.raises(ValueError, match='"row-7" is not a UUID'):
        client.freeze("A-1", command_id="row-7")


def test_a_command_that_is_too_large_is_not_taken(deployed: Connections) -> None:
    with Client(deployed, user_id="ada") as client:
        with pytest.raises(NotTaken, match="size"):
            client.freeze("A-1", reason="x" * 2_000_000)
        # Just what the producer lets pass and the broker does not.
        with pytest.raises(NotTaken, match="too large"):
            client.freeze("A-1", reason=uuid.uuid4().hex * 31_249)


def test_a_reply_that_cannot_be_read_is_reported(deployed: Connections) -> None:
    with Client(deployed, user_id="ada", timeout_s=30) as client, ThreadPoolExecutor(1) as other:
        command = client.command(Freeze, "A-1")
        with pytest.raises(ReplyTimeout):
            client.execute(command, timeout_s=0.5)
        waiting = other.submit(client.execute, command)
        # Until the command waits, its reply would be no one's.
        while not waiting.done():
            produce(deployed, client.topics.replies, command.command_id.encode(), b"nonsense", 0)
        with pytest.raises(UnreadableRecord, match=r"account\.replies, partition 0, offset \d+"):
            waiting.result()


def test_closing_tells_those_who_wait(deployed: Connections) -> None:
    client = Client(deployed, user_id="ada", timeout_s=30)
    with pytest.raises(ReplyTimeout):
        client.freeze("A-1", timeout_s=0.5)
    replies = client.send_many([client.command(Freeze, "A-1")])
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(next, replies)
        time.sleep(0.2)  # Whether it waits already or begins later, it must not wait in vain.
        client.close()
        with pytest.raises((Unreachable, RuntimeError), match="closed"):
            waiting.result(timeout=10)


def test_an_event_that_cannot_be_read_is_named(deployed: Connections) -> None:
    partition = partition_of("A-1", PARTITIONS)
    produce(deployed, deployed.topics.events, event_key("A-1", 1), b"nonsense", partition)
    with Client(deployed, user_id="ada") as client:
        with pytest.raises(UnreadableRecord, match=rf"account\.events, partition {partition}, offset 0, key b'A-1/1'"):
            list(client.events("A-1"))
        # Another account's events are none of a statement's business.
        same_partition = next(f"A-{n}" for n in range(2, 100) if partition_of(f"A-{n}", PARTITIONS) == partition)
        assert list(client.events(same_partition)) == []


def test_the_log_is_read_to_its_end_past_open_and_aborted_transactions(deployed: Connections) -> None:
    options = {"transactional.id": f"{deployed.namespace}.test", "transaction.timeout.ms": 60_000}
    producer = Producer({**deployed.kafka(), **options})
    producer.init_transactions(30)
    with Client(deployed, user_id="ada", timeout_s=1.5) as client:
        producer.begin_transaction()
        producer.produce(client.topics.events, b"never committed", event_key("A-1", 1), 0)
        assert producer.flush(30) == 0
        with pytest.raises(ReadTimeout, match="transaction is still open"):
            list(client.events())
        producer.abort_transaction(30)
        assert list(client.events()) == []


def test_the_ends_of_a_topic_are_had_as_soon_as_it_has_leaders(connections: Connections) -> None:
    """librdkafka itself finds none, or looks for them again after three seconds."""
    topic = f"{connections.namespace}.late"
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(kafka.ends, connections, [(topic, p) for p in range(PARTITIONS)], time.monotonic() + 2.5)
        time.sleep(0.2)
        create_topics(connections, topic)

        assert [end.offset for end in asked.result()] == [0] * PARTITIONS


def test_a_request_for_ends_that_ran_out_of_time_is_no_answer(
    deployed: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka gives it as a success with -1001 for each offset, about once in 15 times at these bounds."""
    places = [(deployed.topics.commands, p) for p in range(PARTITIONS)]
    for attempt in range(60):
        monkeypatch.setattr(kafka, "_FIRST_ATTEMPT_S", 0.008 + 0.0005 * attempt)
        found = kafka.ends(deployed, places, time.monotonic() + 30)
        assert [end.offset for end in found] == [0] * PARTITIONS
