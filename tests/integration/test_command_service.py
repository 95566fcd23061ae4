"""The command service on real servers: what becomes of commands, good and bad."""

from __future__ import annotations

import io
import json
import signal
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from fastavro import parse_schema, schemaless_writer
from msgspec.structs import asdict, replace

from daybook.parked import parked
from schemas.commands import CommandReply, CommandStatus, Deposit, Refund
from schemas.connections import Connections
from schemas.events import CHAIN_START, AccountCreated, MoneyDeposited, MoneyRefunded, MoneyWithdrawn
from schemas.released import newest, record_name
from schemas.sealing import is_sealed
from schemas.topics import FINGERPRINT_HEADER, REPLAYED_HEADER, partition_of, subject
from tests.conftest import PARTITIONS, Ledger
from tests.processes import Process, environment, until
from tests.wire import Wire, deposit, make, opening, put_with_raw_header, read_all, withdrawal


@pytest.fixture
def wire(ledger: Ledger) -> Iterator[Wire]:
    with Wire(ledger.connections, PARTITIONS) as wire:
        yield wire


@pytest.fixture
def account() -> str:
    return f"A-{uuid.uuid4().hex[:12]}"


def test_commands_are_answered_and_their_events_carry_who_when_and_why(wire: Wire, account: str) -> None:
    first = opening(account, overdraft_limit_minor=500)
    second = deposit(account, 20_000, reason="salary", correlation_id="run-7", effective_at=1_700_000_000_000_000)
    third = withdrawal(account, 20_500)
    fourth = make(Refund, account, amount_minor=500, currency="EUR", withdrawal_sequence=3)

    replies = wire.decide(first, second, third, fourth)

    assert [(r.status, r.sequence, r.event_count) for r in replies] == [
        (CommandStatus.ACCEPTED, n, 1) for n in (1, 2, 3, 4)
    ]
    stream = wire.events()[account]
    created = stream[0].event
    assert isinstance(created, AccountCreated)
    assert is_sealed(created.holder_name)
    assert [recorded.event for recorded in stream] == [
        AccountCreated(currency="EUR", holder_name=created.holder_name, overdraft_limit_minor=500),
        MoneyDeposited(amount_minor=20_000, currency="EUR", balance_minor=20_000),
        MoneyWithdrawn(amount_minor=20_500, currency="EUR", balance_minor=-500),
        MoneyRefunded(amount_minor=500, currency="EUR", balance_minor=0, withdrawal_sequence=3),
    ]
    assert [recorded.sequence for recorded in stream] == [1, 2, 3, 4]
    paid = stream[1]
    assert (paid.user_id, paid.reason, paid.correlation_id) == ("tester", "salary", "run-7")
    assert (paid.command_id, paid.causation_id) == (second.command_id, second.command_id)
    assert paid.effective_at == 1_700_000_000_000_000
    assert paid.recorded_at == replies[1].decided_at > second.issued_at
    assert stream[2].effective_at == stream[2].recorded_at
    assert stream[2].correlation_id == third.command_id


def test_events_are_chained_and_keyed_by_account_and_sequence_on_the_accounts_partition(
    wire: Wire, account: str
) -> None:
    wire.decide(opening(account), deposit(account, 1), deposit(account, 2))

    records = [m for m in read_all(wire.connections, wire.topics.events) if m.key().startswith(f"{account}/".encode())]

    assert [m.key() for m in records] == [f"{account}/{n}".encode() for n in (1, 2, 3)]
    assert {m.partition() for m in records} == {partition_of(account, PARTITIONS)}
    previous = CHAIN_START
    for message in records:
        previous = wire.codec.decode_event(message.value(), previous=previous).chain_hash


def test_a_refusal_is_answered_with_its_code_and_makes_no_event(wire: Wire, account: str) -> None:
    _, poor, unknown = wire.decide(opening(account), withdrawal(account, 1), deposit(account + "x", 1))

    assert (poor.status, poor.code, poor.sequence, poor.event_count) == (
        CommandStatus.REJECTED,
        "insufficient_funds",
        1,
        0,
    )
    assert "0.01 EUR" in (poor.message or "")
    assert (unknown.code, unknown.sequence) == ("account_not_found", None)
    assert len(wire.events()[account]) == 1


def test_an_expected_version_that_is_not_met_is_refused(wire: Wire, account: str) -> None:
    wire.decide(opening(account))

    stale, right = wire.decide(deposit(account, 1, expected_version=0), deposit(account, 1, expected_version=1))

    assert (stale.code, stale.sequence) == ("version_conflict", 1)
    assert right.accepted


def test_a_command_sent_again_gets_its_first_answer_byte_for_byte(wire: Wire, account: str) -> None:
    paid, poor = deposit(account, 100), withdrawal(account, 500)
    wire.decide(opening(account), paid, poor)
    # By now the withdrawal could be met; its answer stays what it was.
    wire.decide(deposit(account, 10_000))

    wire.send(replace(paid, issued_at=paid.issued_at + 1), replace(poor, issued_at=poor.issued_at + 1))
    wire.decide(deposit(account, 1))

    for command in (paid, poor):
        key = command.command_id.encode()
        first, again = (m for m in read_all(wire.connections, wire.topics.replies) if m.key() == key)
        assert first.value() == again.value()
        assert FINGERPRINT_HEADER in dict(first.headers())
        assert REPLAYED_HEADER not in dict(first.headers())
        assert REPLAYED_HEADER in dict(again.headers())
    assert [e.sequence for e in wire.events()[account]] == [1, 2, 3, 4]


def test_a_command_repeated_within_one_batch_is_done_once(wire: Wire, account: str) -> None:
    paid = deposit(account, 100)
    wire.send(opening(account), *([paid] * 50))
    wire.decide(deposit(account, 1))

    assert [e.sequence for e in wire.events()[account]] == [1, 2, 3]


def test_a_command_id_used_for_something_else_is_refused(wire: Wire, account: str) -> None:
    paid = deposit(account, 100)
    wire.decide(opening(account), paid)

    wire.send(replace(paid, amount_minor=101))
    until(lambda: any(r.code == "command_id_reused" for r in wire.replies()), "refusal of the reused id")
    wire.send(paid)
    wire.decide(deposit(account, 1))

    answers = [r for r in wire.replies() if r.command_id == paid.command_id]
    assert [r.code for r in answers] == [None, "command_id_reused", None]
    assert [e.sequence for e in wire.events()[account]] == [1, 2, 3]


def test_answers_and_state_outlive_a_restart(wire: Wire, ledger: Ledger, account: str) -> None:
    paid, poor = deposit(account, 100), withdrawal(account, 500)
    wire.decide(opening(account), paid, poor)
    restored = ledger.service.output.count("restored ")

    assert ledger.service.stop() == 0
    ledger.service.start()
    ledger.service.said("restored ", times=restored + 1)
    wire.send(paid, poor, replace(paid, amount_minor=5))
    (reply,) = wire.decide(withdrawal(account, 40))

    assert reply.sequence == 3
    answers = [(r.code, r.sequence) for r in wire.replies() if r.command_id == paid.command_id]
    assert answers == [(None, 2), (None, 2), ("command_id_reused", 2)]
    assert [r.code for r in wire.replies() if r.command_id == poor.command_id] == ["insufficient_funds"] * 2
    assert [e.event.balance_minor for e in wire.events()[account][1:]] == [100, 60]


def test_poison_is_parked_byte_for_byte_with_reason_and_origin_and_the_rest_goes_on(wire: Wire, account: str) -> None:
    home = partition_of(account, PARTITIONS)
    good = wire.codec.encode_command(opening(account))
    reply_name = record_name(CommandReply)
    reply_id = wire.registry.schema_id(subject(wire.topics.replies, reply_name), newest()[reply_name].text)
    poison = {
        "undecodable": [b"", b"hello", b"\x00\x00", None, good[:-1], good + b"!", b"\x01" + good[1:]],
        "unknown_schema": [b"\x00\x00\xff\xff\xff" + good[5:], b"\x00\xff\xff\xff\xff" + good[5:]],
        "not_a_command": [b"\x00" + reply_id.to_bytes(4, "big") + good[5:]],
        "oversize": [b"\x00" * 900_000],
    }
    before = len(wire.parked())
    for values in poison.values():
        for value in values:
            wire.put(value, key=b"\xff not UTF-8", partition=home, headers=[("trace", b"\x00\x01")])
    wire.flush()
    wire.decide(opening(account), deposit(account, 1))

    messages = wire.parked()[before:]

    records = [parked(message) for message in messages]
    found = sorted((r.reason, r.value or b"", r.key) for r in records if r is not None)
    assert found == sorted((why, v or b"", b"\xff not UTF-8") for why, values in poison.items() for v in values)
    assert sum(r is not None and r.value is None for r in records) == 1
    # Each is a record of its own, none of which is a tombstone.
    assert len({m.key() for m in messages if m.value() is not None}) == len(records)
    for message in messages:
        headers = dict(message.headers())
        assert headers["trace"] == b"\x00\x01"
        assert headers["parked-topic"].decode() == wire.topics.commands
        assert headers["parked-partition"].decode() == str(home)
        assert headers["parked-detail"]
        assert message.key() == f"{wire.topics.commands}/{home}/{headers['parked-offset'].decode()}".encode()
    originals = {(m.partition(), m.offset()): m for m in read_all(wire.connections, wire.topics.commands)}
    for message, record in zip(messages, records, strict=True):
        headers = dict(message.headers())
        original = originals[int(headers["parked-partition"]), int(headers["parked-offset"])]
        assert record is not None
        assert (original.key(), original.value()) == (record.key, record.value)
        assert int(headers["parked-timestamp-ms"]) == original.timestamp()[1]


@pytest.mark.parametrize("compression", ["zstd", "gzip", "lz4"])
def test_a_record_that_is_huge_once_unpacked_is_refused_to_its_sender(wire: Wire, compression: str) -> None:
    """Brokers measure batches as they store them, and commands are stored uncompressed."""
    failed: list[KafkaError | None] = []
    sender = Producer(wire.connections.kafka(compression_type=compression, message_max_bytes=100_000_000))
    sender.produce(wire.topics.commands, bytes(30_000_000), b"k", 0, on_delivery=lambda error, _: failed.append(error))
    assert sender.flush(30) == 0

    (error,) = failed
    assert error is not None
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE


def test_a_header_whose_name_is_not_utf_8_does_not_stop_anything(wire: Wire, account: str) -> None:
    home = partition_of(account, PARTITIONS)
    put_with_raw_header(wire.connections, wire.topics.commands, home, b"rubbish " + account.encode(), b"\xff\xfe")

    assert wire.decide(opening(account))[0].accepted

    (message,) = [m for m in wire.parked() if m.value() == b"rubbish " + account.encode()]
    headers = dict(message.headers())
    assert headers["parked-reason"] == b"undecodable"
    assert "unreadable-headers" in headers


def test_a_nested_schema_that_somebody_registered_is_not_read_with(wire: Wire, account: str) -> None:
    """Reading recurses in C: ten thousands of nested records in as many bytes would end the process."""
    nested = json.loads(newest()[record_name(Deposit)].text)
    nested["fields"].append({"name": "more", "type": ["null", "daybook.account.command.Deposit"], "default": None})
    with SchemaRegistryClient(wire.connections.registry()) as registry:
        schema_id = registry.register_schema(f"{wire.topics.commands}-nested", Schema(json.dumps(nested), "AVRO"))
    value = b"\x00" + schema_id.to_bytes(4, "big") + b"\x02" * 60_000
    wire.put(value, key=account.encode(), partition=partition_of(account, PARTITIONS))
    wire.flush()

    assert wire.decide(opening(account))[0].accepted

    (record,) = [r for m in wire.parked() if (r := parked(m)) is not None and r.key == account.encode()]
    assert (record.reason, record.value) == ("unreadable_schema", value)


def test_misrouted_commands_are_forwarded_unchanged_and_decided_at_home(wire: Wire) -> None:
    accounts = [f"M-{uuid.uuid4().hex[:8]}" for _ in range(24)]
    commands = [command for a in accounts for command in (opening(a), deposit(a, 5))]
    for command in commands:
        # librdkafka's default partitioner hashes keys by CRC32.
        elsewhere = zlib.crc32(command.account_id.encode()) % PARTITIONS
        headers = [("trace", b"abc")]
        wire.put(
            wire.codec.encode_command(command), key=command.account_id.encode(), partition=elsewhere, headers=headers
        )
    wire.flush()

    assert all(reply.accepted for reply in wire.await_replies(*commands))

    streams = wire.events()
    assert all([e.sequence for e in streams[a]] == [1, 2] for a in accounts)
    strays = {
        m.key(): (m.value(), m.headers())
        for m in read_all(wire.connections, wire.topics.commands)
        if m.key() and m.key().startswith(b"M-") and partition_of(m.key().decode(), PARTITIONS) != m.partition()
    }
    assert strays, "none of 24 accounts hashes differently: the test does not show anything"
    at_home = [
        (m.value(), m.headers())
        for m in read_all(wire.connections, wire.topics.commands)
        if m.key() in strays and partition_of(m.key().decode(), PARTITIONS) == m.partition()
    ]
    assert all(stray in at_home for stray in strays.values())


def test_the_account_id_in_the_command_decides_where_it_belongs_whatever_the_key(wire: Wire, account: str) -> None:
    commands = [opening(account), deposit(account, 5)]
    for command, key in zip(commands, (None, b"somebody else"), strict=True):
        for partition in range(PARTITIONS):
            wire.put(wire.codec.encode_command(command), key=key, partition=partition)
        wire.flush()
        assert wire.await_replies(command)[0].accepted

    assert [e.sequence for e in wire.events()[account]] == [1, 2]


def test_it_stops_in_order_on_sigterm_and_leaves_the_group(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    service = start("command_service", env=environment(deployed))
    service.said("restored ")

    service.send(signal.SIGTERM)

    assert service.wait(10) == 0
    with AdminClient(deployed.kafka()) as admin:
        group = deployed.topics.command_service_group
        described = admin.describe_consumer_groups([group])[group].result()
    assert described.members == []


def test_it_refuses_topics_with_different_numbers_of_partitions(
    connections: Connections, start: Callable[..., Process]
) -> None:
    topics = connections.topics
    names = [topics.commands, topics.followups, topics.events, topics.snapshots, topics.replies, topics.subject_keys]
    with AdminClient(connections.kafka()) as admin:
        for answer in admin.create_topics([NewTopic(name, 2 + (name == topics.events), 1) for name in names]).values():
            answer.result()

    service = start("command_service", env=environment(connections))

    assert service.wait() == 1
    assert "equal numbers of partitions" in service.output
    assert topics.events in service.output


@pytest.mark.parametrize(
    ("missing", "says"),
    [("DAYBOOK_KAFKA_BOOTSTRAP", "DAYBOOK_KAFKA_BOOTSTRAP"), ("DAYBOOK_REGISTRY_URL", "DAYBOOK_REGISTRY_URL")],
)
def test_it_says_what_is_not_configured(
    connections: Connections, start: Callable[..., Process], missing: str, says: str
) -> None:
    env = environment(connections)
    del env[missing]

    service = start("command_service", env=env)

    assert service.wait() == 2
    assert says in service.output


def test_it_says_when_nothing_is_deployed(connections: Connections, start: Callable[..., Process]) -> None:
    service = start("command_service", env=environment(connections))

    assert service.wait() == 1
    assert "daybook deploy apply" in service.output


def test_a_command_written_with_a_schema_that_is_registered_later_is_understood(wire: Wire, account: str) -> None:
    """A producer that is a version ahead: its fields that we do not know are left out."""
    wire.decide(opening(account))
    ahead = json.loads(newest()[record_name(Deposit)].text)
    ahead["fields"].append({"name": "channel", "type": "string", "default": "web"})
    with SchemaRegistryClient(wire.connections.registry()) as registry:
        schema_id = registry.register_schema(
            subject(wire.topics.commands, record_name(Deposit)), Schema(json.dumps(ahead), "AVRO")
        )
    command = deposit(account, 7)
    body = io.BytesIO()
    record = asdict(command) | {"channel": "app", "issued_at": datetime.fromtimestamp(command.issued_at / 1e6, UTC)}
    schemaless_writer(body, parse_schema(ahead), record)
    value = b"\x00" + schema_id.to_bytes(4, "big") + body.getvalue()
    wire.put(value, key=account.encode(), partition=partition_of(account, PARTITIONS))
    wire.flush()

    assert wire.await_replies(command)[0].accepted
    assert [e.event.amount_minor for e in wire.events()[account][1:]] == [7]
