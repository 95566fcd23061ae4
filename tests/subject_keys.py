"""Keys of subjects, put on their topic as the command service puts them, for tests without one."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.connections import Connections
from schemas.keys import KeyEncryption, SubjectKey, wrapped
from schemas.registry import Registry
from schemas.sealing import new_data_key
from schemas.topics import partition_of

CREATED_AT = 1_750_000_000_000_000


class KeyTopic:
    """Gives subjects their keys and erases them, in a transaction each; a context manager."""

    def __init__(self, connections: Connections, partitions: int, keeper: KeyEncryption) -> None:
        self._topic = connections.topics.subject_keys
        self._partitions = partitions
        self._keeper = keeper
        self._registry = Registry(connections)
        self.codec = Codec(self._registry)
        self.codec.look_up_keys(self._topic)
        self._producer = Producer(connections.kafka(transactional_id=f"{self._topic}.test"))
        self._producer.init_transactions(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._registry.close()

    def give(self, subject_id: str) -> tuple[SubjectKey, bytes]:
        """A new key: its record, which is on the topic now, and the data key."""
        data_key = new_data_key()
        key = wrapped(self._keeper, subject_id, data_key, CREATED_AT)
        self.put(subject_id.encode(), self.codec.encode_key(key), partition_of(subject_id, self._partitions))
        return key, data_key

    def erase(self, subject_id: str) -> None:
        self.put(subject_id.encode(), None, partition_of(subject_id, self._partitions))

    def put(self, key: bytes, value: bytes | None, partition: int) -> None:
        self._producer.begin_transaction()
        self._producer.produce(self._topic, value, key, partition)
        self._producer.commit_transaction(30)
