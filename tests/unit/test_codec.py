"""Bytes to records and back, and what happens to bytes that are no record."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from hypothesis import given
from hypothesis import strategies as st

from schemas.alerts import Alert
from schemas.codec import HEADER_BYTES, Codec, Undecodable
from schemas.commands import AnyCommand, CommandReply
from schemas.events import Event, RecordedEvent
from schemas.keys import SubjectKey
from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from tests.unit.given import NOW, deposit
from tests.unit.known_records import (
    ALERT,
    ALERT_BYTES,
    CODEC,
    COMMAND,
    COMMAND_BYTES,
    COMMON,
    EVENT,
    EVENT_BYTES,
    REGISTRY,
    REPLY,
    REPLY_BYTES,
    TOPICS,
    codec_of,
    zigzag,
)
from tests.unit.memory_registry import MemoryRegistry
from tests.unit.strategies import ANY_COMMAND, ANY_EVENT, ANY_REPLY, COMMON_FIELDS

FOLDER: Final = Path(__file__).parents[2] / "schemas" / "account"
KINDS: Final = ("command", "event", "reply", "alert")
Decode = Callable[[bytes | None], object]
DECODERS: Final[list[Decode]] = [CODEC.decode_command, CODEC.decode_event, CODEC.decode_reply, CODEC.decode_alert]
VALID: Final[list[tuple[Decode, bytes]]] = list(
    zip(DECODERS, (COMMAND_BYTES, EVENT_BYTES, REPLY_BYTES, ALERT_BYTES), strict=True)
)


class TestRoundTrips:
    @given(ANY_COMMAND)
    def test_commands(self, command: AnyCommand) -> None:
        assert CODEC.decode_command(CODEC.encode_command(command)) == command

    @given(ANY_REPLY)
    def test_replies(self, reply: CommandReply) -> None:
        assert CODEC.decode_reply(CODEC.encode_reply(reply)) == reply

    def test_an_alert(self) -> None:
        assert CODEC.decode_alert(ALERT_BYTES) == ALERT

    @given(ANY_EVENT, COMMON_FIELDS, st.binary(min_size=32, max_size=32))
    def test_events(self, event: Event, common: dict[str, Any], previous: bytes) -> None:
        value, chain_hash = CODEC.encode_event(event, common, previous)
        wanted = RecordedEvent(**common, chain_hash=chain_hash, event=event)
        assert CODEC.decode_event(value) == wanted
        assert CODEC.decode_event(value, previous=previous) == wanted

    def test_a_subjects_key(self) -> None:
        key = SubjectKey(subject_id="A-1", kek_id="kek-1", wrapped=bytes(range(60)), created_at=NOW)
        assert CODEC.decode_key(CODEC.encode_key(key)) == key

    def test_an_alert_is_no_key(self) -> None:
        with pytest.raises(Undecodable, match=r"daybook\.account\.Alert is not a subject's key") as failed:
            CODEC.decode_key(ALERT_BYTES)
        assert failed.value.reason == "not_a_key"

    def test_an_event_knows_its_type(self) -> None:
        assert CODEC.decode_event(EVENT_BYTES).type_name == "MoneyDeposited"

    def test_a_reply_knows_whether_it_accepts(self) -> None:
        assert not CODEC.decode_reply(REPLY_BYTES).accepted


class TestWithoutOurCode:
    """The `.avsc` files and any Avro library are enough to read and to write."""

    @staticmethod
    def files(name: str) -> list[Path]:
        """Those of a record, from its first version to its newest."""
        return sorted(FOLDER.glob(f"{name}.v*.avsc"), key=lambda file: int(file.stem.rpartition(".v")[2]))

    @staticmethod
    def schema(file: Path) -> Any:
        return parse_schema(json.loads(file.read_text(encoding="utf-8")))

    def read(self, name: str, value: bytes) -> dict[str, Any]:
        assert value[0] == 0
        assert json.loads(REGISTRY.schema(int.from_bytes(value[1:5], "big")))["name"] == name
        data = io.BytesIO(value[5:])
        record = schemaless_reader(data, self.schema(self.files(name)[-1]), None)
        assert isinstance(record, dict)
        assert data.read() == b""
        return record

    def test_an_event_is_read(self) -> None:
        moment = datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
        assert int(moment.timestamp()) * 1_000_000 == NOW
        record = self.read("MoneyDeposited", EVENT_BYTES)
        assert record == {
            **COMMON,
            "event_id": UUID(COMMON["event_id"]),
            "command_id": UUID(COMMON["command_id"]),
            "recorded_at": moment,
            "effective_at": moment.replace(second=39, microsecond=999_999),
            "chain_hash": CODEC.decode_event(EVENT_BYTES).chain_hash,
            "amount_minor": 12345,
            "currency": "EUR",
            "balance_minor": 20000,
        }

    def test_a_reply_is_read(self) -> None:
        record = self.read("CommandReply", REPLY_BYTES)
        assert (record["status"], record["code"], record["sequence"]) == ("REJECTED", "insufficient_funds", 7)
        assert record["command_id"] == UUID(REPLY.command_id)

    @pytest.mark.parametrize("file", files("Deposit"), ids=lambda file: file.stem)
    def test_a_command_is_written(self, file: Path) -> None:
        registry = MemoryRegistry()
        out = io.BytesIO()
        out.write(b"\0" + registry.register("x", file.read_text(encoding="utf-8")).to_bytes(4, "big"))
        record = {
            "command_id": UUID(COMMAND.command_id),
            "account_id": "acc-1",
            "user_id": "teller",
            "issued_at": datetime.fromtimestamp(NOW // 1_000_000, UTC),
            "amount_minor": 5,
            "currency": "EUR",
        }
        schemaless_writer(out, self.schema(file), record)
        assert Codec(registry).decode_command(out.getvalue()) == deposit(5)

    def test_a_personal_reason_is_written(self) -> None:
        command = deposit(5, reason="she asked", reason_is_personal=True)
        record = self.read("Deposit", CODEC.encode_command(command))
        assert (record["reason"], record["reason_is_personal"]) == ("she asked", True)


class TestWhatIsNoRecord:
    @pytest.mark.parametrize("decode", DECODERS, ids=KINDS)
    @pytest.mark.parametrize(
        "value", [None, b"", b"\0", b"\0\0\0\0", b"\1\0\0\0\1", b'{"amount": 5}', COMMAND_BYTES[5:]]
    )
    def test_other_formats(self, decode: Decode, value: bytes | None) -> None:
        with pytest.raises(Undecodable, match="not in the wire format") as failed:
            decode(value)
        assert failed.value.reason == "undecodable"

    @pytest.mark.parametrize(("decode", "value"), VALID, ids=KINDS)
    def test_every_truncation(self, decode: Decode, value: bytes) -> None:
        for length in range(len(value)):
            with pytest.raises(Undecodable) as failed:
                decode(value[:length])
            assert failed.value.reason == "undecodable"

    @pytest.mark.parametrize(("decode", "value"), VALID, ids=KINDS)
    def test_bytes_left_over(self, decode: Decode, value: bytes) -> None:
        with pytest.raises(Undecodable, match="2 bytes are left over after a daybook"):
            decode(value + b"\0\0")

    @pytest.mark.parametrize(("decode", "value"), VALID, ids=KINDS)
    def test_every_flipped_bit_gives_a_record_or_is_undecodable(self, decode: Decode, value: bytes) -> None:
        for bit in range(len(value) * 8):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            _record_or_undecodable(decode, bytes(flipped))

    @given(st.sampled_from(VALID), st.binary(max_size=200))
    def test_any_bytes_give_a_record_or_are_undecodable(self, valid: tuple[Decode, bytes], body: bytes) -> None:
        decode, value = valid
        _record_or_undecodable(decode, body)
        _record_or_undecodable(decode, value[:HEADER_BYTES] + body)

    @pytest.mark.parametrize(("decode", "value"), VALID, ids=KINDS)
    @pytest.mark.parametrize("length", [2**31, 2**40, 2**62, -1, -(2**62)])
    def test_a_length_that_lies_takes_no_memory(self, decode: Decode, value: bytes, length: int) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(Undecodable):
                decode(value[:HEADER_BYTES] + zigzag(length) + b"x" * 100)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000

    @pytest.mark.parametrize(
        "command_id", ["", "x", "1" * 36, "11111111-2222-4333-8444-55555555555g", f"{COMMAND.command_id}\n"]
    )
    def test_a_command_id_that_is_no_uuid(self, command_id: str) -> None:
        value = CODEC.encode_command(deposit(command_id=command_id))
        with pytest.raises(Undecodable, match=r"command_id of daybook\.account\.command\.Deposit is not a UUID"):
            CODEC.decode_command(value)

    def test_records_of_another_kind(self) -> None:
        reasons = ("not_a_command", "not_an_event", "not_a_reply", "not_an_alert")
        for decode, own, reason in zip(DECODERS, VALID, reasons, strict=True):
            for _, value in VALID:
                if value != own[1]:
                    with pytest.raises(Undecodable, match="is not a") as failed:
                        decode(value)
                    assert failed.value.reason == reason


class TestTheRegistry:
    @pytest.mark.parametrize("schema_id", [0, 1000, 2**31 - 1, 2**31, 2**32 - 1])
    def test_an_id_that_it_denies(self, schema_id: int) -> None:
        with pytest.raises(Undecodable) as failed:
            CODEC.decode_command(b"\0" + schema_id.to_bytes(4, "big") + COMMAND_BYTES[HEADER_BYTES:])
        assert failed.value.reason == "unknown_schema"
        assert str(schema_id) in str(failed.value)

    def test_ids_that_cannot_be_are_not_asked_for(self) -> None:
        down = MemoryRegistry(down=True)
        for schema_id in (0, 2**31, 2**32 - 1):
            with pytest.raises(Undecodable):
                Codec(down).decode_event(b"\0" + schema_id.to_bytes(4, "big"))
        assert down.asked == 0

    def test_while_it_is_down_records_are_not_given_up(self) -> None:
        registry = MemoryRegistry.deployed(TOPICS)
        codec = Codec(registry)
        registry.down = True
        for decode, value in ((codec.decode_command, COMMAND_BYTES), (codec.decode_event, EVENT_BYTES)):
            with pytest.raises(RegistryUnavailable):
                decode(value)
        registry.down = False
        assert codec.decode_command(COMMAND_BYTES) == COMMAND

    def test_what_was_looked_up_for_writing_is_read_without_asking(self) -> None:
        registry = MemoryRegistry.deployed(TOPICS)
        codec = codec_of(registry)
        registry.down = True
        assert codec.decode_command(COMMAND_BYTES) == COMMAND
        assert codec.decode_event(EVENT_BYTES).event == EVENT

    def test_what_a_reader_met_once_is_not_asked_again(self) -> None:
        registry = MemoryRegistry.deployed(TOPICS)
        reader = Codec(registry)
        assert reader.decode_command(COMMAND_BYTES) == reader.decode_command(COMMAND_BYTES) == COMMAND
        assert registry.asked == 1

    def test_a_denial_is_not_remembered(self) -> None:
        registry = MemoryRegistry()
        codec = Codec(registry)
        with pytest.raises(Undecodable):
            codec.decode_command(b"\0\0\0\0\1" + COMMAND_BYTES[HEADER_BYTES:])
        registry.register("x", REGISTRY.schema(int.from_bytes(COMMAND_BYTES[1:HEADER_BYTES], "big")))
        assert codec.decode_command(b"\0\0\0\0\1" + COMMAND_BYTES[HEADER_BYTES:]) == COMMAND

    def test_writing_needs_what_is_registered(self) -> None:
        codec = Codec(MemoryRegistry())
        for write in (codec.look_up_commands, codec.look_up_events, codec.look_up_replies, codec.look_up_alerts):
            with pytest.raises(SchemaNotRegistered):
                write("account.x")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "syntax = 'proto3';",
            "null",
            "[]",
            '"string"',
            '{"type":"array","items":"int"}',
            '{"type":"record"}',
            '{"type":"record","name":5,"fields":[]}',
            '{"type":"record","name":"A","fields":3}',
            '{"type":"record","name":"A","fields":[{"name":"x","type":"Missing"}]}',
            '{"type":"record","name":"A","fields":[{"name":"x","type":null}]}',
            '{"type":"record","name":"A","fields":[{"name":"x","type":{"type":"fixed","name":"F"}}]}',
            '{"type":"record","name":"daybook.account.event.MoneyDeposited","fields":[{"name":"x","type":"int"}]}',
            '{"type":"array","items":' * 5000 + '"int"' + "}" * 5000,
        ],
    )
    def test_a_schema_that_cannot_be_used(self, text: str) -> None:
        registry = MemoryRegistry()
        header = b"\0" + registry.register("x", text).to_bytes(4, "big")
        with pytest.raises(Undecodable, match="schema id 1 cannot be used") as failed:
            Codec(registry).decode_event(header + b"\0")
        assert failed.value.reason == "unreadable_schema"

    def test_a_foreign_record(self) -> None:
        registry = MemoryRegistry()
        header = b"\0" + registry.register("x", '{"type":"record","name":"a.B","fields":[]}').to_bytes(4, "big")
        with pytest.raises(Undecodable, match=r"a\.B is not a command"):
            Codec(registry).decode_command(header)


def _record_or_undecodable(decode: Decode, value: bytes) -> None:
    try:
        record = decode(value)
    except Undecodable:
        return
    assert isinstance(record, AnyCommand | RecordedEvent | CommandReply | Alert)
