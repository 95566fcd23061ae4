"""What the command service could not decide: the records of `account.parked`, and sending one again.

Each stands there under the place that it came from (`schemas.topics.parked_key`), with its own key in a header. Where a
tombstone of that place is behind it, it was erased (`daybook.erasure`), and is none any more. Records that earlier
releases parked stand under their own key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, Producer

from daybook import kafka
from daybook import registry as schema_registry
from daybook.audit.records import Records
from daybook.decided import AlreadyDecided, decided
from daybook.errors import DaybookError
from daybook.progress import Progress, Tell
from daybook.timetravel.past import Past
from schemas.codec import Codec, Undecodable
from schemas.commands import FollowUp, ReceiveTransfer, ReturnTransfer
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable
from schemas.topics import ERASED_HEADER, PARKED_KEY_HEADER, PARKED_VALUE_HEADER, Topics, partition_of
from schemas.transfers import return_id

_NO_FOLLOW_UP: Final = "not_a_follow_up"
"""Why a client's command is parked that came on the topic of follow-ups."""

_REASON: Final = "parked-reason"
"""The first of the headers that the service adds."""

_TELL_RECORDS: Final = 5000
"""After how many records the progress is told: some hundredths of a second."""

Headers = Mapping[str, str | bytes | None]


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
    `undecidable`."""
    detail: str
    came_from: str
    """Topic, partition and offset, with a slash between them."""
    key: bytes | None
    value: bytes | None


def parked(message: Message) -> Parked | None:
    """What a record of the topic holds; None of a tombstone, and of what is there only so that a segment is closed."""
    headers = _ours(message)
    if message.value() is None and _REASON not in headers:
        return None
    came_from = "/".join(_text(headers, f"parked-{part}") for part in ("topic", "partition", "offset"))
    key = message.key()
    if key == came_from.encode():
        key = _bytes(headers[PARKED_KEY_HEADER]) if PARKED_KEY_HEADER in headers else None
    return Parked(
        int(message.partition() or 0),
        int(message.offset() or 0),
        datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC),
        _text(headers, _REASON),
        _text(headers, "parked-detail"),
        came_from,
        key,
        None if PARKED_VALUE_HEADER in headers else message.value(),
    )


def erased_account(tombstone: Message) -> str | None:
    """The account whose erasure a tombstone is of."""
    headers = dict(tombstone.headers() or ())
    return _text(headers, ERASED_HEADER) if ERASED_HEADER in headers else None


def read_parked(connections: Connections, *, timeout_s: float) -> Iterator[Parked]:
    """What is parked by now and was not erased, each partition's in order. Nothing is connected before the first is
    taken. Each partition is read twice, since what is erased is said behind it.

    Raises:
        Unreachable: no contact within `timeout_s`, or the topic is missing.
        ReadTimeout: a transaction is open and nothing has come for `timeout_s`.
    """
    topic = connections.topics.parked
    with Records(connections, timeout_s=timeout_s) as records:
        partitions = range(records.partitions(topic))
        for partition, end in records.ends(topic, partitions, IsolationLevel.READ_UNCOMMITTED).items():
            erased = {
                message.key(): message.offset() or 0
                for message in records.read(topic, partition, 0, end)
                if parked(message) is None
            }
            for message in records.read(topic, partition, 0, end):
                found = parked(message)
                if found is not None and found.offset > erased.get(message.key(), -1):
                    yield found


def send_again(
    connections: Connections, partition: int, offset: int, *, anyway: bool, tell: Tell, timeout_s: float
) -> Parked:
    """Give a parked record to the command service once more, byte for byte. It stays where it is.

    It is given on the topic that it belongs on (`belongs_on`), unless the log says that it was decided already. The
    service knows that by itself of what it has read for 24 hours, and at most 200,000 ids a partition, whichever is
    sooner; after that a deposit would be made again, and a `ReceiveTransfer` take its money in twice, or once more when
    it is back already. With `anyway` a client's command is decided again all the same. What left no event, as a refusal
    does, is not told from what was not decided. Blocks until the brokers have the record; reads the accounts'
    partitions of the log, and `tell`s how far it is.

    Raises:
        NotParked: there is no such record.
        AlreadyDecided: it was decided, or is a follow-up of which that cannot be told.
        UnreadableRecord: the account's stream in the log is broken.
        Unreachable, ReadTimeout: as `read_parked` does, of the log as well; or it was not taken within `timeout_s`.
    """
    record = _find(connections, partition, offset, timeout_s)
    _must_be_undecided(connections, record, anyway=anyway, tell=tell, timeout_s=timeout_s)
    _send(connections, record, timeout_s)
    return record


def belongs_on(topics: Topics, record: Parked) -> str:
    """The topic on which a parked record is given again: that of follow-ups for one of them, and else of commands."""
    topic, _, _ = record.came_from.rsplit("/", 2)
    return topics.followups if topic == topics.followups and record.reason != _NO_FOLLOW_UP else topics.commands


def _find(connections: Connections, partition: int, offset: int, timeout_s: float) -> Parked:
    topic = connections.topics.parked
    found: Parked | None = None
    key: bytes | None = None
    with Records(connections, timeout_s=timeout_s) as records:
        if partition < records.partitions(topic):
            end = records.ends(topic, [partition], IsolationLevel.READ_UNCOMMITTED)[partition]
            for message in records.read(topic, partition, offset, end):
                if message.offset() == offset:
                    found, key = parked(message), message.key()
                elif found is not None and message.key() == key and parked(message) is None:
                    raise NotParked(f"{partition}/{offset} of {topic} was erased: it is none any more")
    if found is None:
        raise NotParked(f"{topic} has no record at {partition}/{offset}; `daybook parked list` shows all")
    return found


def _must_be_undecided(connections: Connections, record: Parked, *, anyway: bool, tell: Tell, timeout_s: float) -> None:
    is_follow_up = belongs_on(connections.topics, record) == connections.topics.followups
    with ExitStack() as opened:
        codec = Codec(opened.enter_context(schema_registry.registry(connections)))
        try:
            command = codec.decode_command(record.value)
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(connections, error) from error
        except Undecodable as error:
            if not is_follow_up:
                # The service can read no more of it, and parks it once more.
                return
            raise AlreadyDecided(
                f"what came from {record.came_from} cannot be read here, so that it cannot be told whether it was "
                f"decided: {error}. If its schema is of a later release, send it with that"
            ) from error
        if isinstance(command, FollowUp) and not is_follow_up:
            # A client gave it: the service turns it away, however often.
            return
        if anyway and not is_follow_up:
            return
        past = Past(connections, timeout_s=timeout_s)
        opened.callback(past.close)
        why = decided(command, lambda account_id: past.stream(account_id, scan=True, tell=tell))
        if why is None and isinstance(command, ReceiveTransfer):
            why = _returning(connections, command, codec, tell, timeout_s)
    if why is not None:
        more = "" if is_follow_up else ". --anyway has it decided once more"
        raise AlreadyDecided(f"not sent: {why}{more}")


def _returning(
    connections: Connections, command: ReceiveTransfer, codec: Codec, tell: Tell, timeout_s: float
) -> str | None:
    """Whether a transfer was refused and has yet to come back: the service has asked its source to take it back."""
    topic, wanted = connections.topics.followups, return_id(command.command_id)
    source = command.from_account_id.encode()
    with Records(connections, timeout_s=timeout_s) as records:
        partition = partition_of(command.from_account_id, records.partitions(topic))
        end = records.ends(topic, [partition], IsolationLevel.READ_UNCOMMITTED)[partition]
        for passed, message in enumerate(records.read(topic, partition, 0, end), start=1):
            if passed % _TELL_RECORDS == 0:
                tell(Progress(f"reading {topic}", message.offset() or 0, end))
            if message.key() != source:
                continue
            with suppress(Undecodable):
                found = codec.decode_command(message.value())
                if isinstance(found, ReturnTransfer) and found.command_id == wanted:
                    return f"the money is on its way back, by {topic}/{partition}/{message.offset()}"
    return None


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


def _ours(message: Message) -> Headers:
    """The headers that the service added: from `parked-reason` on. What the sender named alike stands before."""
    found = message.headers() or []
    pairs = list(found.items()) if isinstance(found, dict) else list(found)
    first = max((at for at, (name, _) in enumerate(pairs) if name == _REASON), default=len(pairs))
    return dict(pairs[first:])


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _text(headers: Headers, name: str) -> str:
    return _bytes(headers[name]).decode(errors="replace") if name in headers else "?"
