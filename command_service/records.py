"""Records as the service sends them, and what is said of one wherever it turns up: its place, and its headers."""

from __future__ import annotations

from operator import methodcaller
from typing import Final

from confluent_kafka import Message
from msgspec import Struct

from schemas.topics import DECIDED_HEADER, PARKED_KEY_HEADER, PARKED_VALUE_HEADER, parked_key

_ANY_PARTITION: Final = -1
"""Kafka's library chooses by the key."""

_MAX_DETAIL: Final = 1000

Headers = list[tuple[str, str | bytes | None]]


class Outgoing(Struct, frozen=True, gc=False):
    """A record to be sent by the transaction."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


# Kafka takes any bytes for a name, the client library only UTF-8: for others it returns with an exception set, which a
# plain call may let pass until it surfaces in whatever is called next. A call through `methodcaller` is always checked.
_read_headers: Final = methodcaller("headers")


def origin(record: Message) -> str:
    """Topic, partition and offset in words."""
    return f"{record.topic()} partition {record.partition()} offset {record.offset()}"


def place(record: Message) -> dict[str, object]:
    """Topic, partition and offset as the fields of a log line."""
    return {"topic": record.topic(), "partition": record.partition(), "offset": record.offset()}


def headers(record: Message) -> Headers:
    """A record's headers; in place of those whose names cannot be read, one that says so."""
    try:
        found = _read_headers(record) or []
    except (SystemError, UnicodeDecodeError):
        return [("unreadable-headers", b"names are not UTF-8")]
    return list(found.items()) if isinstance(found, dict) else list(found)


def was_decided(follow_up: Message) -> bool:
    """Whether a follow-up is marked as decided in the transaction that wrote it."""
    return DECIDED_HEADER in dict(headers(follow_up))


def parked(topic: str, record: Message, reason: str, detail: str) -> Outgoing:
    """A record as it is kept on the topic of parked ones, with why, as a code and in words, and where it came from.

    Its key and its value go into a header where they would make of it what it is not: on a compacted topic the key says
    what supersedes it, and a record without a value is a tombstone. The partition is chosen by its place, so that a
    record that is parked once more supersedes itself.
    """
    key, value = record.key(), record.value()
    why: Headers = [
        *headers(record),
        # The first of ours: what the sender named alike stands before it.
        ("parked-reason", reason.encode()),
        ("parked-detail", detail[:_MAX_DETAIL].encode(errors="replace")),
        ("parked-topic", str(record.topic()).encode()),
        ("parked-partition", str(record.partition()).encode()),
        ("parked-offset", str(record.offset()).encode()),
        ("parked-timestamp-ms", str(record.timestamp()[1]).encode()),
    ]
    if key is not None:
        why.append((PARKED_KEY_HEADER, key))
    if value is None:
        why.append((PARKED_VALUE_HEADER, b"none"))
    own_key = parked_key(str(record.topic()), int(record.partition() or 0), int(record.offset() or 0))
    return Outgoing(topic, _ANY_PARTITION, own_key, value or b"", why)
