"""Three brokers: what is written survives the loss of any one of them."""

from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from deploy.stack.stack import Stack

pytestmark = pytest.mark.usefixtures("controls_servers")

# An election after a broker's loss takes up to its session's 9 s; this allows for a busy machine.
TIMEOUT_S = 60


@pytest.fixture
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("three"))
    stack.up(brokers=3, free_ports=True, attached=True)
    yield stack
    stack.reset()


def write(bootstrap: str) -> int:
    """Write one record that every in-sync replica acknowledges; return its offset."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "log_level": 0})
    outcomes: list[tuple[object, int | None]] = []
    producer.produce("kept", b"record", partition=0, on_delivery=lambda e, m: outcomes.append((e, m.offset())))
    producer.flush(TIMEOUT_S)
    ((error, offset),) = outcomes
    assert error is None
    assert offset is not None
    return offset


def test_one_broker_may_be_lost_and_comes_back(three: Stack) -> None:
    bootstrap = three.env()["DAYBOOK_KAFKA_BOOTSTRAP"]
    assert len(bootstrap.split(",")) == 3
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(TIMEOUT_S)
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    assert {len(partition.replicas) for topic in topics.values() for partition in topic.partitions.values()} == {3}
    assert write(bootstrap) == 0
    leader = admin.list_topics("kept", timeout=TIMEOUT_S).topics["kept"].partitions[0].leader
    three.kill(f"kafka-{leader}")
    assert {server.name for server in three.status().servers if not server.ready} == {f"kafka-{leader}"}
    assert write(bootstrap) == 1

    three.start(f"kafka-{leader}")
    assert three.status().ready
    topic = ConfigResource(ConfigResource.Type.TOPIC, "kept")
    config = admin.describe_configs([topic])[topic].result(TIMEOUT_S)
    assert config["min.insync.replicas"].value == "2"
    # Two replicas must acknowledge, so with another broker lost the one that came back is among them.
    three.kill(f"kafka-{leader % 3 + 1}")
    assert write(bootstrap) == 2
