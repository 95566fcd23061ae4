"""The transactional producer by itself, where the command service cannot be brought to what is tested."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer

from command_service.producer import TransactionalProducer
from command_service.records import Outgoing
from command_service.vitals import Vitals
from schemas.connections import Connections
from tests.wire import read_all


def test_records_that_cannot_be_made_undo_those_before_and_hold_nobody_up(deployed: Connections) -> None:
    replies = deployed.topics.replies

    def failing() -> Iterator[Outgoing]:
        yield Outgoing(replies, 0, b"first", b"of the one that fails")
        raise ZeroDivisionError("planted")

    with closing(Consumer(deployed.kafka(group_id=deployed.topics.command_service_group))) as consumer:
        group = consumer.consumer_group_metadata()
        producer = TransactionalProducer(deployed, "test", threading.Event(), Vitals())
        with closing(producer):
            producer.open()
            with pytest.raises(ZeroDivisionError):
                producer.transact(failing(), dict, group)
            producer.transact([Outgoing(replies, 0, b"second", b"of the one after it")], dict, group)
            # While a transaction is open, nothing behind its first record is given out.
            assert [record.key() for record in read_all(deployed, replies)] == [b"second"]
