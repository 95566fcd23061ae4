"""What the command service could not decide: the records of `account.parked`, and sending one again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, Producer, TopicPartition

from daybook import kafka
from daybook.errors import DaybookError
from daybook.log import read_until
from schemas.connections import Connections
from schemas.topics import Topics

_NO_FOLLOW_UP: Final = "not_a_follow_up"
"""Why a client's command is parked that came on the topic of follow-ups."""

ERASED_REASON: Final = "erased"
"""What a note says instead of why it was parked: an erasure has deleted what was before it (`daybook.erasure`)."""


class NotParked(DaybookError):
    """There is no such record."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A record as it came, why it was parked, and where it is and was."""

    partition: int
    offset: int
    parked_at: datetime
    reason: str
    """A code: `undecodable`, `not_a_command`, `not_a_follow_up`, `oversize`, `unknown_schema`, `unreadable_schema` or
    `undecidable`; of a note `erased`."""
    detail: str
    came_from: str
    """Topic, partition and offset, with a slash between them."""
    key: bytes | None
    value: bytes | None


def read_parked(connections: Connections, *, timeout_s: float) -> Iterator[Parked]:
    """What is parked by now, each partition's in order. Nothing is connected before the first is taken.

    Raises:
        Unreachable: no contact within `timeout_s`, or the topic is missing.
        ReadTimeout: a transaction is open and nothing has come for `timeout_s`.
    """
    topic = connections.topics.parked
    health = kafka.Health()
    deadline = time.monotonic() + timeout_s
    source = kafka.consumer(
        connections,
        health,
        auto_offset_reset="earliest",
        enable_partition_eof=True,
        # The end is known to be met once the broker has waited this long in vain, by default half a second.
        fetch_wait_max_ms=20,
    )
    with closing(source):
        (count,) = kafka.partitions(source, [topic], connections, health, deadline)
        ends = kafka.ends(connections, [(topic, partition) for partition in range(count)], deadline)
        source.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(count)])
        for message in read_until(source, connections, health, topic, ends, timeout_s):
            yield _parked(message)


def send_again(connections: Connections, partition: int, offset: int, *, timeout_s: float) -> Parked:
    """Give a parked record to the command service once more, byte for byte. It stays where it is.

    It is given on the topic that it belongs on (`belongs_on`). A command that was decided meanwhile is not decided
    twice as long as the service remembers its id: for 24 hours, and at most 200,000 ids a partition, whichever is
    sooner. After that a deposit is made again, and a `ReceiveTransfer` takes its money in twice, or once more after it
    came back: look first whether it was decided (docs/OPERATIONS.md). Blocks until the brokers have it.

    Raises:
        NotParked: there is no such record.
        Unreachable, ReadTimeout: as `read_parked` does; or it was not taken within `timeout_s`.
    """
    for found in read_parked(connections, timeout_s=timeout_s):
        if (found.partition, found.offset) == (partition, offset):
            if found.reason == ERASED_REASON:
                raise NotParked(
                    f"{partition}/{offset} is a note that what was parked before it was deleted: no command"
                )
            _send(connections, found, timeout_s)
            return found
    raise NotParked(
        f"{connections.topics.parked} has no record at {partition}/{offset}; `daybook parked list` shows all"
    )


def belongs_on(topics: Topics, record: Parked) -> str:
    """The topic on which a parked record is given again: that of follow-ups for one of them, and else of commands."""
    topic, _, _ = record.came_from.rsplit("/", 2)
    return topics.followups if topic == topics.followups and record.reason != _NO_FOLLOW_UP else topics.commands


def _send(connections: Connections, record: Parked, timeout_s: float) -> None:
    topic = belongs_on(connections.topics, record)
    failed: list[KafkaError] = []
    health = kafka.Health()
    config = connections.kafka(
        enable_idempotence=True,
        # As Java's clients hash keys; the command service passes on what lands elsewhere.
        partitioner="murmur2_random",
        message_timeout_ms=int(timeout_s * 1000),
    )
    with Producer({**config, "error_cb": health.on_error}, logger=kafka.LOG) as producer:
        try:
            producer.produce(
                topic,
                record.value,
                record.key,
                on_delivery=lambda error, _: failed.append(error) if error is not None else None,
            )
            left = producer.flush(timeout_s + 1)
        except KafkaException as error:
            raise kafka.unreachable(connections, f"it was not sent: {error.args[0].str()}") from error
    if left or failed:
        why = health.down or (failed[0].str() if failed else "no answer")
        if (
            failed
            and failed[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            and topic != connections.topics.commands
        ):
            why += f" ({topic} is for the command service and the administrator alone to write to)"
        raise kafka.unreachable(connections, f"it was not sent: {why}")


def _parked(message: Message) -> Parked:
    headers = dict(message.headers() or ())
    origin = "/".join(_text(headers, f"parked-{part}") for part in ("topic", "partition", "offset"))
    return Parked(
        int(message.partition() or 0),
        int(message.offset() or 0),
        datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
        _text(headers, "parked-reason"),
        _text(headers, "parked-detail"),
        origin,
        message.key(),
        message.value(),
    )


def _text(headers: Mapping[str, str | bytes | None], name: str) -> str:
    value = headers.get(name)
    return value.decode(errors="replace") if isinstance(value, bytes) else value or "?"
