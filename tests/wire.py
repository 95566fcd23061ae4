"""A ledger as the wire sees it: commands put on a topic, and whole topics read back."""

from __future__ import annotations

import ctypes
import uuid
from collections import defaultdict
from pathlib import Path
from typing import Self, TypeVar

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.codec import Codec
from schemas.commands import (
    FOLLOW_UP_TYPES,
    AnyCommand,
    CommandReply,
    Deposit,
    OpenAccount,
    Transfer,
    Withdraw,
    now_micros,
)
from schemas.connections import Connections
from schemas.events import RecordedEvent
from schemas.registry import Registry
from schemas.topics import partition_of
from tests.processes import until

C = TypeVar("C")


def make(kind: type[C], account_id: str, **fields: object) -> C:
    """A command with the common fields filled in."""
    common = {"command_id": str(uuid.uuid4()), "user_id": "tester", "issued_at": now_micros(), "account_id": account_id}
    return kind(**(common | fields))


def opening(account_id: str, **fields: object) -> OpenAccount:
    return make(OpenAccount, account_id, **({"currency": "EUR", "holder_name": "Alice"} | fields))


def deposit(account_id: str, amount_minor: int, **fields: object) -> Deposit:
    return make(Deposit, account_id, amount_minor=amount_minor, **({"currency": "EUR"} | fields))


def withdrawal(account_id: str, amount_minor: int, **fields: object) -> Withdraw:
    return make(Withdraw, account_id, amount_minor=amount_minor, **({"currency": "EUR"} | fields))


def transfer(account_id: str, to_account_id: str, amount_minor: int, **fields: object) -> Transfer:
    own = {"transfer_id": str(uuid.uuid4()), "currency": "EUR"}
    return make(Transfer, account_id, to_account_id=to_account_id, amount_minor=amount_minor, **(own | fields))


def read_all(connections: Connections, topic: str, *, isolation: str = "read_committed") -> list[Message]:
    """Every record of a topic as it is now, partition by partition in order."""
    consumer = Consumer(
        connections.kafka(
            group_id=f"test-{uuid.uuid4().hex}",
            enable_auto_commit=False,
            isolation_level=isolation,
            enable_partition_eof=True,
            # At a partition's end there is nothing to wait for.
            fetch_wait_max_ms=10,
            auto_offset_reset="error",
        )
    )
    found: list[Message] = []
    try:
        left = set(consumer.list_topics(topic, 10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in left])
        while left:
            for message in consumer.consume(1000, 0.02):
                error = message.error()
                if error is None:
                    found.append(message)
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition())
    finally:
        consumer.close()
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


class Wire:
    """Puts commands on a ledger's topic and reads what became of them."""

    def __init__(self, connections: Connections, partitions: int) -> None:
        self.connections = connections
        self.topics = connections.topics
        self.partitions = partitions
        self.registry = Registry(connections)
        self.codec = Codec(self.registry)
        self.codec.look_up_commands(self.topics.commands)
        self.codec.look_up_commands(self.topics.followups, FOLLOW_UP_TYPES)
        self._producer = Producer(connections.kafka(enable_idempotence=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.registry.close()

    def send(self, *commands: AnyCommand) -> None:
        """Put commands where a client that knows the partitioner puts them."""
        for command in commands:
            home = partition_of(command.account_id, self.partitions)
            self.put(self.codec.encode_command(command), key=command.account_id.encode(), partition=home)
        self.flush()

    def put_among_follow_ups(self, *commands: AnyCommand) -> None:
        """Put clients' commands where none belong, so that they are parked, whole and readable."""
        for command in commands:
            home = partition_of(command.account_id, self.partitions)
            value = self.codec.encode_command(command)
            self.put(value, key=command.account_id.encode(), partition=home, topic=self.topics.followups)
        self.flush()

    def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int = 0,
        topic: str | None = None,
        **more: object,
    ) -> None:
        self._producer.produce(topic or self.topics.commands, value, key, partition, **more)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def replies(self) -> list[CommandReply]:
        return [self.codec.decode_reply(m.value()) for m in read_all(self.connections, self.topics.replies)]

    def await_replies(self, *commands: AnyCommand, timeout_s: float = 30.0) -> list[CommandReply]:
        """The newest reply to each of these commands, once all have one."""
        wanted = [command.command_id for command in commands]

        def all_there() -> dict[str, CommandReply]:
            found = {reply.command_id: reply for reply in self.replies()}
            return found if all(command_id in found for command_id in wanted) else {}

        found = until(all_there, f"replies to {len(wanted)} commands", timeout_s)
        return [found[command_id] for command_id in wanted]

    def decide(self, *commands: AnyCommand) -> list[CommandReply]:
        """Send commands and wait for their replies."""
        self.send(*commands)
        return self.await_replies(*commands)

    def parked(self) -> list[Message]:
        return read_all(self.connections, self.topics.parked)

    def events(self) -> dict[str, list[RecordedEvent]]:
        """Every account's stream."""
        streams: dict[str, list[RecordedEvent]] = defaultdict(list)
        for message in read_all(self.connections, self.topics.events):
            recorded = self.codec.decode_event(message.value())
            streams[recorded.account_id].append(recorded)
        return dict(streams)


def put_with_raw_header(connections: Connections, topic: str, partition: int, value: bytes, name: bytes) -> None:
    """Produce a record with a header whose name is any bytes, which Kafka takes and confluent's Python API does not:
    through the librdkafka that comes with it."""
    package = Path(confluent_kafka.__file__).parent
    (path,) = (package.parent / "confluent_kafka.libs").glob("librdkafka*.so*")
    library, pointer, text = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.c_char_p
    for function in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_headers_new"):
        getattr(library, function).restype = pointer
    problem = ctypes.create_string_buffer(500)
    conf = pointer(library.rd_kafka_conf_new())
    for setting, it in connections.kafka().items():
        # 0 is RD_KAFKA_CONF_OK.
        done = library.rd_kafka_conf_set(conf, setting.encode(), str(it).encode(), problem, 500)
        assert done == 0, problem.value
    producer = pointer(library.rd_kafka_new(0, conf, problem, 500))
    assert producer, problem.value
    headers = pointer(library.rd_kafka_headers_new(1))
    assert library.rd_kafka_header_add(headers, name, ctypes.c_ssize_t(len(name)), b"v", ctypes.c_ssize_t(1)) == 0
    # The tags of librdkafka's rd_kafka_vtype_t; flag 2 has it copy the value.
    of_topic, of_partition, of_value, of_flags, of_headers, end = 1, 3, 4, 7, 10, 0
    failed = library.rd_kafka_producev(
        *(producer, of_topic, text(topic.encode()), of_partition, ctypes.c_int32(partition)),
        *(of_value, text(value), ctypes.c_size_t(len(value)), of_flags, ctypes.c_int(2)),
        *(of_headers, headers, end),
    )
    assert failed == 0
    assert library.rd_kafka_flush(producer, 10_000) == 0
    library.rd_kafka_destroy(producer)


def configure(admin: AdminClient, topic: str, settings: dict[str, str]) -> None:
    """Change settings of a topic."""
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in settings.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result()
