"""From what Kafka hands out to what a projector takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from operator import methodcaller
from typing import Final

from confluent_kafka import KafkaError, Message

from projectors.projector import Batch, CannotProject
from schemas.codec import Codec, Undecodable
from schemas.events import RecordedEvent
from schemas.registry import RegistryUnavailable

_log = logging.getLogger(__name__)

_PASSING: Final = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
}
"""What brokers that start, stop or hand over say, and what librdkafka goes on after by itself. All else stops us."""

# Kafka takes any bytes for a header's name, its client only UTF-8. For others the client returns with an error set that
# a plain call may let pass; a call through this is always checked.
_read_headers: Final = methodcaller("headers")

_OUT_OF_RANGE: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


def read(
    messages: Sequence[Message], partition: int, base: int | None, codec: Codec
) -> tuple[Batch | None, Exception | None]:
    """The batch that messages of one partition make, up to the first that does not become an event, and why not.

    What comes before a record that cannot be read is worth having, and the record itself is never skipped: so the
    failure is handed back beside the batch, to be raised once that is applied. It is `CannotProject`, or
    `RegistryUnavailable` when the record is of a schema not seen yet and the registry is down.
    """
    events: list[RecordedEvent] = []
    offsets: list[int] = []
    failure: Exception | None = None
    for message in messages:
        try:
            events.append(codec.decode_event(message.value()))
        except RegistryUnavailable as error:
            failure = error
            break
        except Undecodable as error:
            failure = _unreadable(message, error)
            break
        offsets.append(message.offset())  # type: ignore[arg-type]
    if not events:
        return None, failure
    return Batch(partition, base, events, offsets, offsets[-1] + 1), failure


def headers(message: Message) -> Mapping[str, object]:
    """A record's headers by name; none when their names cannot be read."""
    try:
        return dict(_read_headers(message) or ())
    except (SystemError, UnicodeDecodeError):
        return {}


def _unreadable(message: Message, error: Undecodable) -> CannotProject:
    return CannotProject(
        f"the record at {message.topic()}, partition {message.partition()}, offset {message.offset()}, key "
        f"{message.key()!r} is not an event that can be read ({error.reason}): {error}. Nothing was skipped: the read "
        "model has everything before it. If a newer release writes events, update this projector; otherwise something "
        "other than the command service wrote to the topic, whose records must not be there"
    )


def is_passing(error: KafkaError) -> bool:
    """Whether Kafka's client goes on by itself after an error."""
    return error.code() in _PASSING or (error.retriable() and not error.fatal())


def passes(message: Message, error: KafkaError, topic: str, projector: str) -> None:
    """Log what Kafka's client reports instead of a record, where it passes by itself.

    Raises:
        CannotProject: it does not.
    """
    if error.code() == KafkaError._PARTITION_EOF:
        return
    where = f"{message.topic() or topic}, partition {message.partition()}, offset {message.offset()}"
    if error.code() in _OUT_OF_RANGE:
        raise CannotProject(
            f"the sink of {projector} stands at an offset that the log does not have ({where}): {error.str()}. The log "
            "was cut or set back, or is not the one that the sink was made from. Once the log is as it should be, "
            "empty the sink and it is filled again from the start"
        )
    if is_passing(error):
        place = {"topic": message.topic() or topic, "partition": message.partition(), "offset": message.offset()}
        _log.warning("Kafka: %s (%s)", error.str(), where, extra=place)
        return
    raise CannotProject(f"Kafka refuses to hand out events ({where}): {error.name()}: {error.str()}")
