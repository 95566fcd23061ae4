"""Records written with another version of a schema than the newest."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import pytest
from fastavro import parse_schema, schemaless_writer
from fastavro.schema import to_parsing_canonical_form

from schemas.codec import ChainBroken, Codec, Undecodable
from schemas.commands import CLIENT_COMMAND_TYPES, FromClient
from schemas.events import CHAIN_START
from schemas.released import ReleasedSchema, newest, record_name, released
from schemas.samples import samples
from tests.unit.given import ACCOUNT, NOW, created, open_account
from tests.unit.known_records import COMMON
from tests.unit.memory_registry import MemoryRegistry

OPEN_ACCOUNT: Final = "daybook.account.command.OpenAccount"
ACCOUNT_CREATED: Final = "daybook.account.event.AccountCreated"
OF_CLIENTS: Final = {record_name(each) for each in CLIENT_COMMAND_TYPES if issubclass(each, FromClient)}

Schema = dict[str, Any]
Change = Callable[[Schema], Schema]

COMMAND_RECORD: Final[Schema] = {
    "command_id": "11111111-2222-4333-8444-555555555555",
    "account_id": ACCOUNT,
    "user_id": "teller",
    "issued_at": NOW,
    "currency": "EUR",
    "holder_name": "Ada",
    "holder_email": "ada@example.org",
    "overdraft_limit_minor": 5,
}


def without(*names: str) -> Change:
    return lambda schema: {**schema, "fields": [f for f in schema["fields"] if f["name"] not in names]}


def with_more(schema: Schema) -> Schema:
    return {**schema, "fields": [*schema["fields"], {"name": "branch", "type": "string"}]}


def own_reversed(schema: Schema) -> Schema:
    fields = schema["fields"]
    at = [f["name"] for f in fields].index("currency")
    return {**schema, "fields": [*fields[:at], *reversed(fields[at:])]}


def with_limit(limit: Schema) -> Change:
    return lambda schema: {
        **schema,
        "fields": [
            f if f["name"] != "overdraft_limit_minor" else {"name": f["name"], **limit} for f in schema["fields"]
        ],
    }


with_smaller_limit: Final = with_limit({"type": "int", "default": 0})
with_limit_as_text: Final = with_limit({"type": "string"})


def released_as(name: str, change: Change) -> tuple[Codec, Schema, bytes]:
    """A codec whose registry knows a changed schema, the schema, and the header of its values."""
    schema = change(json.loads(newest()[name].text))
    registry = MemoryRegistry()
    header = b"\0" + registry.register("x", json.dumps(schema)).to_bytes(4, "big")
    return Codec(registry), schema, header


def written(schema: Schema, record: Schema) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, parse_schema(schema), record)
    return out.getvalue()


COMPATIBLE: Final = [
    (without("overdraft_limit_minor"), {"overdraft_limit_minor": 0}),
    (without("holder_email", "overdraft_limit_minor"), {"holder_email": None, "overdraft_limit_minor": 0}),
    (with_more, {}),
    (own_reversed, {}),
    (with_smaller_limit, {}),
]
IDS: Final = ["a field fewer", "two fields fewer", "a field more", "other order", "narrower type"]
WANTED: Final[Schema] = {"holder_email": "ada@example.org", "overdraft_limit_minor": 5}


@pytest.mark.parametrize(("change", "missing"), COMPATIBLE, ids=IDS)
def test_a_command_of_a_compatible_version_is_read_as_the_newest(change: Change, missing: Schema) -> None:
    codec, schema, header = released_as(OPEN_ACCOUNT, change)
    value = header + written(schema, {**COMMAND_RECORD, "branch": "Brno"})
    assert codec.decode_command(value) == open_account("EUR", "Ada", **(WANTED | missing))


@pytest.mark.parametrize(("change", "missing"), COMPATIBLE, ids=IDS)
def test_an_event_of_a_compatible_version_is_read_and_verified(change: Change, missing: Schema) -> None:
    codec, schema, header = released_as(ACCOUNT_CREATED, change)
    record = {**COMMON, "chain_hash": bytes(32), **COMMAND_RECORD, "branch": "Brno"}
    unchained = written(schema, record)
    # The hash is over the bytes as they were written, and over the schema that they were written with.
    at = unchained.index(bytes(32))
    head, tail = unchained[:at], unchained[at + 32 :]
    fingerprint = sha256(to_parsing_canonical_form(schema).encode()).digest()
    chain_hash = sha256(CHAIN_START + fingerprint + head + tail).digest()
    recorded = codec.decode_event(header + head + chain_hash + tail, previous=CHAIN_START)
    assert recorded.event == created("EUR", "Ada", **(WANTED | missing))
    assert recorded.chain_hash == chain_hash
    with pytest.raises(ChainBroken):
        codec.decode_event(header + unchained, previous=CHAIN_START)


@pytest.mark.parametrize(
    "schema",
    [s for s in released() if s.name in OF_CLIENTS and '"reason_is_personal"' not in s.text],
    ids=lambda schema: f"{schema.name.rpartition('.')[2]} v{schema.version}",
)
def test_a_reason_of_before_it_could_be_personal_is_not(schema: ReleasedSchema) -> None:
    registry = MemoryRegistry()
    header = b"\0" + registry.register("x", schema.text).to_bytes(4, "big")
    for record in samples(json.loads(schema.text)):
        command = Codec(registry).decode_command(header + written(json.loads(schema.text), record))
        assert isinstance(command, FromClient)
        assert not command.reason_is_personal
        assert command.reason == record["reason"]


@pytest.mark.parametrize(
    "change", [without("currency"), with_limit_as_text], ids=["a needed field fewer", "other type"]
)
def test_a_version_that_does_not_resolve_is_undecodable(change: Change) -> None:
    codec, schema, header = released_as(OPEN_ACCOUNT, change)
    as_text = {"overdraft_limit_minor": "5"} if change is with_limit_as_text else {}
    with pytest.raises(Undecodable, match=r"is not a daybook\.account\.command\.OpenAccount") as failed:
        codec.decode_command(header + written(schema, {**COMMAND_RECORD, **as_text}))
    assert failed.value.reason == "undecodable"
    codec, schema, header = released_as(ACCOUNT_CREATED, change)
    value = header + written(schema, {**COMMON, "chain_hash": bytes(32), **COMMAND_RECORD, **as_text})
    with pytest.raises(Undecodable, match=r"is not a daybook\.account\.event\.AccountCreated"):
        codec.decode_event(value)
