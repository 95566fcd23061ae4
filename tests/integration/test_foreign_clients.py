"""Producers and consumers that share no code with us: Confluent's own serializers, and schemas from the registry."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, StringSerializer

from schemas.sealing import is_sealed
from tests.conftest import Ledger
from tests.processes import until
from tests.wire import read_all

_ACCOUNT = f"foreign-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def registry(ledger: Ledger) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(ledger.connections.registry()) as client:
        yield client


def test_a_foreign_producer_is_answered_and_a_foreign_consumer_reads_the_events(
    ledger: Ledger, registry: SchemaRegistryClient
) -> None:
    topics, kafka = ledger.connections.topics, ledger.connections.kafka()
    now = datetime.now(UTC)
    common = {
        "account_id": _ACCOUNT,
        "user_id": "somebody",
        "issued_at": now,
        "expected_version": None,
        "correlation_id": None,
        "effective_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "reason": "přišlo",
    }
    holder = {"currency": "CZK", "holder_name": "Žofie", "holder_email": None, "overdraft_limit_minor": 0}
    records = [
        ("OpenAccount", common | holder | {"command_id": uuid.uuid4()}),
        ("Deposit", common | {"command_id": uuid.uuid4(), "amount_minor": 12_345, "currency": "CZK"}),
    ]
    # The default partitioner of librdkafka is not murmur2; the key is the account id, as the contract says.
    producer, keys = Producer(kafka), StringSerializer("utf_8")
    for name, record in records:
        latest = registry.get_latest_version(f"{topics.commands}-daybook.account.command.{name}")
        serialize = AvroSerializer(
            registry,
            latest.schema.schema_str,
            conf={"auto.register.schemas": False, "subject.name.strategy": topic_record_subject_name_strategy},
        )
        value = serialize(record, SerializationContext(topics.commands, MessageField.VALUE))
        producer.produce(topics.commands, value, keys(_ACCOUNT))
    assert producer.flush(30) == 0

    deserialize = AvroDeserializer(registry)

    def values(topic: str) -> list[dict[str, object]]:
        context = SerializationContext(topic, MessageField.VALUE)
        found = [deserialize(m.value(), context) for m in read_all(ledger.connections, topic)]
        return [value for value in found if value["account_id"] == _ACCOUNT]

    replies = until(lambda: len(found := values(topics.replies)) == 2 and found, "two replies")
    assert [(r["command_id"], r["status"], r["sequence"]) for r in replies] == [
        (record["command_id"], "ACCEPTED", n) for n, (_, record) in enumerate(records, start=1)
    ]
    created, deposited = values(topics.events)
    # A name is for those who have the keys.
    assert is_sealed(str(created["holder_name"]))
    assert created["currency"] == "CZK"
    assert (deposited["amount_minor"], deposited["balance_minor"]) == (12_345, 12_345)
    assert deposited["effective_at"] == common["effective_at"]
    assert deposited["recorded_at"] >= now.replace(microsecond=0)
    assert deposited["event_id"].version == 7
    assert deposited["reason"] == "přišlo"
    assert len(deposited["chain_hash"]) == 32
