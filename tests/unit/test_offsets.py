"""What the admin client's answers on offsets mean."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ListOffsetsResultInfo

from schemas.offsets import offset_of


@pytest.mark.parametrize("offset", [0, 7, -1])
def test_an_offset_is_given_on(offset: int) -> None:
    assert offset_of(ListOffsetsResultInfo(offset, -1, -1)) == offset


def test_no_offset_is_not_taken_for_an_empty_log() -> None:
    with pytest.raises(KafkaException) as failed:
        offset_of(ListOffsetsResultInfo(-1001, -1, -1))
    assert failed.value.args[0].code() == KafkaError._TIMED_OUT
