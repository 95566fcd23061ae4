"""What any such service costs at least: decode, a dict of balances, an event and a reply, one transaction a batch.

It validates nothing, remembers no command, restores nothing, and has no sequences, hashes or overlays. It reads and
writes records of the same schemas in batches of the same size, with the same settings of the clients.
"""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
import uuid

from confluent_kafka import Consumer, Producer, TopicPartition
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from command_service.settings import Settings
from schemas.commands import Deposit, OpenAccount, Withdraw
from schemas.connections import Connections
from schemas.events import MoneyDeposited
from schemas.registry import Registry
from schemas.released import newest, record_name
from schemas.topics import subject


def main() -> None:
    connections = Connections.from_environment()
    topics, batch = connections.topics, Settings().batch
    registry = Registry(connections)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    decoders, signs = {}, {}
    for kind, sign in ((OpenAccount, 0), (Deposit, 1), (Withdraw, -1)):
        text = newest()[record_name(kind)].text
        header = b"\0" + registry.schema_id(subject(topics.commands, record_name(kind)), text).to_bytes(4, "big")
        decoders[header], signs[header] = _plain(text), sign
    event_text, reply_text = newest()[record_name(MoneyDeposited)].text, newest()["daybook.account.CommandReply"].text
    event_id = registry.schema_id(subject(topics.events, record_name(MoneyDeposited)), event_text)
    reply_id = registry.schema_id(subject(topics.replies, "daybook.account.CommandReply"), reply_text)
    event_head, reply_head = b"\0" + event_id.to_bytes(4, "big"), b"\0" + reply_id.to_bytes(4, "big")
    event_schema, reply_schema = _plain(event_text), _plain(reply_text)
    consumer = Consumer(
        connections.kafka(
            group_id=topics.command_service_group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            queued_min_messages=20_000,
            fetch_queue_backoff_ms=10,
        )
    )
    consumer.subscribe([topics.commands])
    producer = Producer(
        connections.kafka(
            transactional_id=topics.transactional_id("plain"),
            compression_type="lz4",
            linger_ms=5,
            batch_size=1_000_000,
            queue_buffering_max_messages=1_000_000,
            delivery_report_only_error=True,
            retry_backoff_ms=1,
            retry_backoff_max_ms=10,
        )
    )
    producer.init_transactions()
    balances: dict[str, int] = {}
    no_hash = bytes(32)
    while not stop.is_set():
        messages = consumer.consume(1, 0.5)
        if not messages:
            continue
        messages += consumer.consume(batch - 1, 0)
        now = time.time_ns() // 1000
        offsets: dict[int, int] = {}
        producer.begin_transaction()
        for message in messages:
            value, partition = message.value(), message.partition()
            command = schemaless_reader(io.BytesIO(value[5:]), decoders[value[:5]], None)
            account_id, command_id = command["account_id"], command["command_id"]
            amount = command.get("amount_minor", 0)
            balance = balances.get(account_id, 0) + signs[value[:5]] * amount
            balances[account_id] = balance
            event = {
                "event_id": str(uuid.uuid4()),
                "account_id": account_id,
                "sequence": 1,
                "recorded_at": now,
                "effective_at": now,
                "user_id": command["user_id"],
                "command_id": command_id,
                "correlation_id": command_id,
                "causation_id": command_id,
                "reason": None,
                "chain_hash": no_hash,
                "amount_minor": amount,
                "currency": command["currency"],
                "balance_minor": balance,
            }
            out = io.BytesIO()
            out.write(event_head)
            schemaless_writer(out, event_schema, event)
            producer.produce(topics.events, out.getvalue(), f"{account_id}/1".encode(), partition)
            reply = {
                "command_id": command_id,
                "account_id": account_id,
                "status": "ACCEPTED",
                "sequence": 1,
                "event_count": 1,
                "code": None,
                "message": None,
                "decided_at": now,
            }
            out = io.BytesIO()
            out.write(reply_head)
            schemaless_writer(out, reply_schema, reply)
            producer.produce(topics.replies, out.getvalue(), command_id.encode(), partition)
            offsets[partition] = message.offset() + 1
        places = [TopicPartition(topics.commands, partition, offset) for partition, offset in offsets.items()]
        producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata())
        producer.commit_transaction()
    consumer.close()


def _plain(text: str) -> dict:
    """The schema without logical types, as the ledger's codec has it too."""

    def strip(schema: object) -> object:
        if isinstance(schema, dict):
            return {key: strip(value) for key, value in schema.items() if key != "logicalType"}
        return [strip(branch) for branch in schema] if isinstance(schema, list) else schema

    return parse_schema(strip(json.loads(text)))


if __name__ == "__main__":
    sys.exit(main())
