"""What the loops tell of themselves, with real clients of a Kafka that is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from prometheus_client import CollectorRegistry

from command_service import assignment
from command_service.assignment import Assignment
from command_service.settings import Settings
from command_service.vitals import Vitals
from projectors.progress import Progress
from projectors.projector import Batch, SinkUnavailable
from projectors.runner import Runner, consumer
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.topics import Topics
from tests.unit.known_records import KEEPER
from tests.unit.memory_registry import MemoryRegistry

TOPICS = Topics()
NOWHERE = Connections(_env_file=None, kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1")


class Lingering:
    """Wants events to be gathered for longer than a loop may stand still."""

    name = "lingering"
    moves_without_events = False
    linger_s = 4.0

    def checkpoint(self, partition: int) -> int | None:
        raise SinkUnavailable(f"Redis: refused, for partition {partition}")

    def apply(self, batches: Sequence[Batch]) -> None:
        raise AssertionError(f"there is nothing to apply, but: {batches}")


@pytest.fixture
def reader() -> Iterator[Consumer]:
    with closing(consumer(NOWHERE, Lingering.name)) as found:
        yield found


def runner(reader: Consumer, progress: Progress) -> Runner:
    codec = Codec(MemoryRegistry.deployed(TOPICS))
    return Runner(Lingering(), reader, TOPICS.events, codec, progress, batch_events=10)


def test_a_projector_that_gathers_events_for_long_is_alive(reader: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projectors.progress._STILL_S", 3.0)
    progress = Progress(Lingering.name, CollectorRegistry())
    one = runner(reader, progress)
    one._gather([], one._places)
    status = progress.health()
    assert status.ok
    assert status.details["doing"] == "gathering events for one commit"


def test_a_projector_that_waited_is_ready_once_its_partitions_went(reader: Consumer) -> None:
    progress = Progress(Lingering.name, CollectorRegistry())
    one = runner(reader, progress)
    taken = [TopicPartition(TOPICS.events, 0)]
    one._on_assign(reader, taken)
    for _ in range(3):
        one._turn()
    assert progress.ready().reason == "Redis: refused, for partition 0"
    one._on_revoke(reader, taken)
    assert not progress.ready().ok
    one._on_assign(reader, [])
    assert progress.ready().ok
    # What is next to be waited for is waited for as briefly as at first.
    assert one._failures == 0


class Recording(Consumer):
    """Notes what it is asked for."""

    asked: list[str]

    def consume(self, *arguments: object, **more: object) -> list[object]:  # type: ignore[override]
        self.asked.append("consume")
        return super().consume(*arguments, **more)  # type: ignore[arg-type, return-value]

    def list_topics(self, *arguments: object, **more: object) -> object:
        self.asked.append("list_topics")
        return super().list_topics(*arguments, **more)  # type: ignore[arg-type]

    def consumer_group_metadata(self) -> object:
        self.asked.append("consumer_group_metadata")
        return super().consumer_group_metadata()


def test_nothing_is_asked_between_taking_commands_and_the_groups_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata of a later moment may belong to another assignment, which would be taken for the batch's."""
    monkeypatch.setattr(assignment, "Consumer", Recording)
    monkeypatch.setattr(Recording, "asked", [], raising=False)
    vitals = Vitals()
    one = Assignment(NOWHERE, Settings(), Codec(MemoryRegistry.deployed(TOPICS)), KEEPER, threading.Event(), vitals)
    with closing(one):
        vitals.brokers.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"))
        one.take(10)
    assert Recording.asked == ["list_topics", "consume", "consumer_group_metadata"]
