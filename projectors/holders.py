"""Opening the sealed names of holders with the keys on `subject.keys`: for the one read model that shows them.

A key is committed in one transaction with the first event that it seals, yet partitions learn of a commit one by one.
So before anything is opened, the topic is read up to where it ends with what is still open: behind that no key of an
event that was read can stand. Only then does a missing key mean that the holder was erased.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import Final, Protocol

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from msgspec.structs import replace

from projectors.projector import CannotProject, SinkUnavailable
from projectors.records import is_passing
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections
from schemas.events import AccountCreated, HolderChanged, RecordedEvent
from schemas.keys import KeyEncryption, UnknownKek, WrapBroken, unwrapped
from schemas.offsets import offset_of
from schemas.personal import opened_event
from schemas.registry import Registry, RegistryUnavailable
from schemas.sealing import SealBroken, Unsealer, is_sealed
from schemas.telemetry.quiet import kafka_logger

_ANSWER_S: Final = 5.0
"""One request's bound: brokers that are up answer within milliseconds."""

_SILENCE_S: Final = 30.0
"""How long nothing may come before the end is reached. An open transaction, which ends or is aborted by then, holds
it up."""

_TURN_S: Final = 0.1
_MESSAGES: Final = 10_000


class Holders(Protocol):
    """Opens what events say of holders. One thread calls it; both methods raise `SinkUnavailable`, `CannotProject`."""

    def catch_up(self, partitions: Collection[int]) -> None:
        """Take note of all keys of these partitions that were given or erased until now. Blocks while it reads them."""

    def opened(self, recorded: RecordedEvent) -> RecordedEvent:
        """An event of such a partition with what it says of the holder opened, or `ERASED` where the key is gone."""


def names_holder(recorded: RecordedEvent) -> bool:
    """Whether an event says, sealed, who the holder is."""
    return isinstance(recorded.event, AccountCreated | HolderChanged) and is_sealed(recorded.event.holder_name)


class KeyTopic:
    """The `Holders` of a ledger; to be closed. Connects when first asked.

    Keys are held wrapped, some 300 bytes a subject of the partitions that were asked for.
    """

    def __init__(self, connections: Connections, keeper: KeyEncryption) -> None:
        self._connections = connections
        self._topic = connections.topics.subject_keys
        self._keeper = keeper
        self._clients = ExitStack()
        self._connected: tuple[Consumer, AdminClient, Codec] | None = None
        self._values: dict[bytes, bytes] = {}
        self._read_to: dict[int, int] = {}
        """By partition, the offset of the next record to read."""
        self._assigned: set[int] = set()
        """The partitions that the consumer reads."""
        self._unsealer = Unsealer(self._data_key)

    def close(self) -> None:
        """Close the clients. What was read is kept, and read on from by new ones when asked again."""
        self._connected = None
        self._assigned.clear()
        self._clients.close()

    def catch_up(self, partitions: Collection[int]) -> None:
        try:
            self._read_on(partitions)
        except SinkUnavailable:
            # Those that there are may go on asking a broker that is away for minutes, until they look for leaders anew.
            self.close()
            raise

    def _read_on(self, partitions: Collection[int]) -> None:
        source, admin, _ = self._connect()
        ends = self._ends(admin, partitions)
        for partition, end in ends.items():
            if end < self._read_to.get(partition, 0):
                raise CannotProject(
                    f"partition {partition} of topic {self._topic} ends at {end}, before the offset "
                    f"{self._read_to[partition]} that was read: the topic was deleted and made anew. Start again, "
                    "once it has the keys of all holders"
                )
        if not self._assigned >= ends.keys():
            self._read_to = dict.fromkeys(ends, 0) | self._read_to
            self._assigned = set(self._read_to)
            source.assign([TopicPartition(self._topic, partition, at) for partition, at in self._read_to.items()])
        heard = time.monotonic()
        while any(self._read_to[partition] < end for partition, end in ends.items()):
            messages = self._poll(source)
            now = time.monotonic()
            if messages:
                heard = now
            elif now - heard > _SILENCE_S:
                raise SinkUnavailable(
                    f"topic {self._topic} was not read to its end, since nothing has come for {_SILENCE_S:.0f} s: "
                    "Kafka is away, or a transaction stays open"
                )
            for message in messages:
                self._take(message)

    def opened(self, recorded: RecordedEvent) -> RecordedEvent:
        if not names_holder(recorded):
            return recorded
        try:
            return replace(recorded, event=opened_event(recorded.event, recorded.account_id, self._unsealer.open))
        except RegistryUnavailable as error:
            raise SinkUnavailable(f"the schema of a holder's key cannot be had: {error}") from error
        except (SealBroken, UnknownKek, WrapBroken, Undecodable) as error:
            raise CannotProject(
                f"event {recorded.sequence} of account {recorded.account_id} cannot be opened: {error}"
            ) from error

    def _connect(self) -> tuple[Consumer, AdminClient, Codec]:
        if self._connected is None:
            config = self._connections.kafka(
                # It joins no group; the name only serves access rights.
                group_id=self._connections.topics.projector_group("search"),
                client_id="daybook-projector-search-keys",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                # Compaction may take the first records away.
                auto_offset_reset="earliest",
                enable_partition_eof=True,
                # Whoever asks waits: a pause follows an error or a full queue, and new keys come at once anyway.
                fetch_error_backoff_ms=50,
                fetch_queue_backoff_ms=10,
                queued_max_messages_kbytes=16 * 1024,
            )
            source = Consumer(config, logger=kafka_logger())
            self._clients.callback(source.close)
            admin = self._clients.enter_context(AdminClient(self._connections.kafka(), logger=kafka_logger()))
            codec = Codec(self._clients.enter_context(Registry(self._connections)))
            self._connected = source, admin, codec
        return self._connected

    def _ends(self, admin: AdminClient, partitions: Collection[int]) -> Mapping[int, int]:
        """Where partitions end now, with what is in transactions that are still open."""
        asked = {TopicPartition(self._topic, partition): OffsetSpec.latest() for partition in partitions}
        try:
            answers = admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=_ANSWER_S
            )
            return {place.partition: offset_of(answer.result(_ANSWER_S)) for place, answer in answers.items()}
        except KafkaException as error:
            raise self._told_apart(error.args[0], "Kafka does not tell where it ends") from error
        except TimeoutError as error:
            raise SinkUnavailable(f"topic {self._topic}: Kafka did not tell where it ends in time") from error

    def _poll(self, source: Consumer) -> list[Message]:
        # Asked for many at once, `consume` waits out its time for the last of them.
        first = source.poll(_TURN_S)
        return [] if first is None else [first, *source.consume(_MESSAGES, 0)]

    def _take(self, message: Message) -> None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if not is_passing(error):
                raise self._told_apart(error, "Kafka refuses to hand out keys")
            return
        if partition is None or offset is None:
            return
        if error is not None:
            # Past the marks of transactions, which are no records.
            self._read_to[partition] = max(self._read_to[partition], offset)
            return
        self._read_to[partition] = offset + 1
        key, value = message.key() or b"", message.value()
        self._unsealer.forget(key.decode(errors="replace"))
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _told_apart(self, error: KafkaError, what: str) -> SinkUnavailable | CannotProject:
        said = f"topic {self._topic}: {what}: {error.str()}"
        if is_passing(error):
            return SinkUnavailable(said)
        return CannotProject(f"{said}. `daybook deploy apply` makes it, and gives this projector the right to read it")

    def _data_key(self, subject_id: str) -> bytes | None:
        value = self._values.get(subject_id.encode())
        if value is None:
            return None
        _, _, codec = self._connect()
        key = codec.decode_key(value)
        if key.subject_id != subject_id:
            raise WrapBroken(
                f"topic {self._topic} has the key of {key.subject_id} under {subject_id}: somebody else wrote it"
            )
        return unwrapped(self._keeper, key)
