"""Where a partition begins and ends, as librdkafka's admin client tells it."""

from __future__ import annotations

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException
from confluent_kafka.admin import ListOffsetsResultInfo


def offset_of(answer: ListOffsetsResultInfo) -> int:
    """The offset that was asked for: at least 0, or -1 (`OFFSET_END`) when no record is as new as the time asked for.

    Raises:
        KafkaException: there is none (`_TIMED_OUT`). A request whose time runs out after the leaders were found, but
            before they answered, comes back as a success with `OFFSET_INVALID` in place of each offset (seen in 8 of
            60 requests at 0.3 s on a busy machine, librdkafka 2.16). Taken for an end, it would make a log look empty.
    """
    if answer.offset == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the request's time ran out before its answer came"))
    return int(answer.offset)
