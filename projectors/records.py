"""From what Kafka hands out to what a projector takes."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message

from projectors.projector import Batch, CannotProject
from schemas.codec import Codec, Undecodable
from schemas.events import RecordedEvent
from schemas.registry import RegistryUnavailable


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


def _unreadable(message: Message, error: Undecodable) -> CannotProject:
    return CannotProject(
        f"the record at {message.topic()}, partition {message.partition()}, offset {message.offset()}, key "
        f"{message.key()!r} is not an event that can be read ({error.reason}): {error}. Nothing was skipped: the read "
        "model has everything before it. If a newer release writes events, update this projector; otherwise something "
        "other than the command service wrote to the topic, whose records must not be there"
    )
