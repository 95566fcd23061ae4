"""Looking through Kafka's records for what is left of an erased holder: all of them, also what was aborted."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from confluent_kafka import OFFSET_BEGINNING, Message, TopicPartition

from daybook import kafka
from daybook import registry as schema_registry
from daybook.erasure.parked import ParkedSeen
from daybook.erasure.places import Hit
from daybook.erasure.texts import Texts
from daybook.log import read_until
from daybook.models import EPOCH
from daybook.parked import belongs_on, erased_account, parked
from daybook.progress import Progress, Tell
from schemas.codec import ChainBroken, Codec, Undecodable
from schemas.commands import AnyCommand
from schemas.connections import Connections
from schemas.events import HolderErased, RecordedEvent
from schemas.personal import is_personal, personal_texts
from schemas.registry import RegistryUnavailable
from schemas.sealing import ERASED, is_sealed
from schemas.topics import parse_event_key

_TELL_EVERY: Final = 5000


@dataclass(slots=True)
class Seen:
    """What was seen in some topics."""

    hits: dict[str, list[Hit]] = field(default_factory=dict)
    """By topic; each that was read is there."""
    newest: dict[tuple[str, int], tuple[int, datetime]] = field(default_factory=dict)
    """By topic and partition, the offset of the newest record and when it was written."""
    erased: RecordedEvent | None = None
    """The account's last erasure."""
    tombstone_at: datetime | None = None
    """When the tombstone was written that all keys but new ones are before."""
    keyed_again: bool = False
    """There is a key behind the last tombstone. Nothing personal is accepted after an erasure, so it undoes it."""
    events: int = 0
    """How many events the account has."""
    parked: ParkedSeen = field(default_factory=ParkedSeen)


class RecordSearch:
    """Reads topics from where they begin to where they end; a context manager. One thread uses it."""

    def __init__(self, connections: Connections, account_id: str, texts: Texts, *, timeout_s: float) -> None:
        """`timeout_s` bounds each request, and how long nothing may come. Raises: `NotConfigured`."""
        self._connections = connections
        self._topics = connections.topics
        self._account_id = account_id
        self._texts = texts
        self._timeout_s = timeout_s
        self._opened = ExitStack()
        self._codec = Codec(self._opened.enter_context(schema_registry.registry(connections)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def all_topics(self) -> tuple[str, ...]:
        """Every topic of the ledger. That of the events tells of the erasure, and is the first."""
        topics = self._topics
        return (
            *(topics.events, topics.subject_keys, topics.commands, topics.followups, topics.snapshots, topics.replies),
            *(topics.parked, topics.alerts, topics.checkpoints),
        )

    @property
    def known_without_texts(self) -> frozenset[str]:
        """The topics whose records tell by themselves what they have of the holder. In others texts are looked for."""
        topics = self._topics
        return frozenset({topics.events, topics.subject_keys, topics.commands, topics.parked})

    def look(self, topics: Collection[str], tell: Tell) -> Seen:
        """Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`."""
        seen = Seen()
        for topic in topics:
            seen.hits[topic] = []
            if topic == self._topics.subject_keys:
                self._look_for_keys(topic, seen, tell)
                continue
            if topic == self._topics.parked:
                self._look_in_parked(topic, seen, tell)
                continue
            for message in self._records(topic, seen, tell):
                what = self._what(topic, message, seen)
                if what is not None:
                    seen.hits[topic].append(_hit(topic, message, what))
        return seen

    def _records(self, topic: str, seen: Seen, tell: Tell) -> Iterator[Message]:
        health = kafka.Health()
        deadline = time.monotonic() + self._timeout_s
        source = kafka.consumer(
            self._connections,
            health,
            uncommitted=True,
            auto_offset_reset="earliest",
            enable_partition_eof=True,
            fetch_wait_max_ms=20,
        )
        with closing(source):
            (count,) = kafka.partitions(source, [topic], self._connections, health, deadline)
            ends = kafka.ends(self._connections, [(topic, partition) for partition in range(count)], deadline)
            total = sum(end.offset for end in ends)
            source.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(count)])
            records = read_until(source, self._connections, health, topic, ends, self._timeout_s)
            for done, message in enumerate(records, start=1):
                if done % _TELL_EVERY == 0:
                    tell(Progress(f"looking through {topic}", done, total))
                seen.newest[topic, message.partition() or 0] = message.offset() or 0, _written_at(message)
                yield message

    def _look_for_keys(self, topic: str, seen: Seen, tell: Tell) -> None:
        """A key before the subject's last tombstone can still be read by whoever reads the topic's files."""
        subject = self._account_id.encode()
        keys: list[Hit] = []
        tombstones: list[Hit] = []
        for message in self._records(topic, seen, tell):
            if message.key() == subject:
                kind = tombstones if message.value() is None else keys
                kind.append(_hit(topic, message, "the holder's data key"))
        last = tombstones[-1].offset if tombstones else None
        left = [key for key in keys if last is None or key.offset < last]
        seen.hits[topic] = left
        seen.keyed_again = last is not None and len(keys) > len(left)
        # The first that supersedes all of them: each later one is an echo.
        after = (stone for stone in tombstones if not left or stone.offset > left[-1].offset)
        first = next(after, None)
        seen.tombstone_at = None if first is None else first.written_at

    def _look_in_parked(self, topic: str, seen: Seen, tell: Tell) -> None:
        for message in self._records(topic, seen, tell):
            partition, at = int(message.partition() or 0), _written_at(message)
            record = parked(message)
            if record is None:
                of = erased_account(message)
                seen.parked.take_tombstone(partition, message.key(), at, is_own=of == self._account_id)
                continue
            what = self._in_command(topic, message, record.key, record.value)
            hit = None if what is None else _hit(topic, message, what)
            is_follow_up = belongs_on(self._topics, record) == self._topics.followups
            seen.parked.take(partition, message.key(), at, hit, is_follow_up=is_follow_up)
        seen.hits[topic] = [*seen.parked.going, *seen.parked.kept]

    def _what(self, topic: str, message: Message, seen: Seen) -> str | None:
        """What of the holder is in a record, if anything."""
        if topic == self._topics.events:
            return self._in_event(message, seen)
        return self._in_command(topic, message, message.key(), message.value())

    def _in_command(self, topic: str, message: Message, key: bytes | None, value: bytes | None) -> str | None:
        """The same of all but an event, given the key and the value that it was sent with."""
        command = self._command(value) if topic in (self._topics.commands, self._topics.parked) else None
        found = self._texts.found(value) or self._in_headers(message)
        owner = command.account_id if command is not None else _text(key)
        if owner == self._account_id:
            if command is not None and is_personal(command):
                return f"{type(command).__name__} in plaintext"
            return "a text of the holder's" if found else None
        if found and command is None and (topic == self._topics.replies or not key):
            # Whose it is, is not known.
            return "a text of the holder's"
        self._texts.also_of(owner, found)
        return None

    def _in_event(self, message: Message, seen: Seen) -> str | None:
        found = self._texts.found(message.value())
        try:
            owner, _ = parse_event_key(message.key() or b"")
        except ValueError:
            owner = ""
        if owner != self._account_id:
            self._texts.also_of(owner or "?", found)
            return None
        seen.events += 1
        try:
            recorded = self._codec.decode_event(message.value())
        except (Undecodable, ChainBroken):
            return "an event that cannot be read" if found else None
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(self._connections, error) from error
        if isinstance(recorded.event, HolderErased):
            seen.erased = recorded
        if _has_plaintext(recorded):
            return f"{recorded.type_name} from before sealing"
        return "a text of the holder's" if found else None

    def _in_headers(self, message: Message) -> list[str]:
        found: list[str] = []
        headers = message.headers() or ()
        # A name may stand there several times.
        for _, value in headers.items() if isinstance(headers, dict) else headers:
            found += self._texts.found(value.encode() if isinstance(value, str) else value)
        return found

    def _command(self, value: bytes | None) -> AnyCommand | None:
        try:
            return self._codec.decode_command(value)
        except Undecodable:
            return None
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(self._connections, error) from error


def _has_plaintext(recorded: RecordedEvent) -> bool:
    texts = personal_texts(recorded.event).values()
    return any(text != ERASED.value and not is_sealed(text) for text in texts)


def _hit(topic: str, message: Message, what: str) -> Hit:
    return Hit(topic, int(message.partition() or 0), int(message.offset() or 0), _written_at(message), what)


def _written_at(message: Message) -> datetime:
    return datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)


def _text(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace")


def erased_at(event: RecordedEvent) -> datetime:
    """When the erasure was recorded."""
    return EPOCH + timedelta(microseconds=event.recorded_at)
