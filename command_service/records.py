"""Records as the service sends them, and what is said of one wherever it turns up: its place, and its headers."""

from __future__ import annotations

from operator import methodcaller
from typing import Final

from confluent_kafka import Message
from msgspec import Struct

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
