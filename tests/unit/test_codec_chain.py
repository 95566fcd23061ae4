"""The chain of hashes: computed by hand, and broken by whatever is changed."""

import json
from hashlib import sha256
from typing import Any, Final

import pytest
from fastavro.schema import to_parsing_canonical_form

from schemas.codec import HEADER_BYTES, ChainBroken, Undecodable
from schemas.events import (
    CHAIN_START,
    EVENT_TYPES,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    MoneyDeposited,
    MoneyWithdrawn,
)
from schemas.released import record_name, released
from schemas.topics import subject
from tests.unit.given import withdrawn
from tests.unit.known_records import CODEC, COMMON, EVENT, EVENT_BYTES, REGISTRY, TOPICS, zigzag

CHAIN_HASH: Final = CODEC.decode_event(EVENT_BYTES).chain_hash

CANONICAL_ACCOUNT_UNFROZEN: Final = (
    '{"name":"daybook.account.event.AccountUnfrozen","type":"record","fields":['
    '{"name":"event_id","type":"string"},'
    '{"name":"account_id","type":"string"},'
    '{"name":"sequence","type":"long"},'
    '{"name":"recorded_at","type":"long"},'
    '{"name":"effective_at","type":"long"},'
    '{"name":"user_id","type":"string"},'
    '{"name":"command_id","type":"string"},'
    '{"name":"correlation_id","type":"string"},'
    '{"name":"causation_id","type":"string"},'
    '{"name":"reason","type":["null","string"]},'
    '{"name":"chain_hash","type":{"name":"daybook.account.event.ChainHash","type":"fixed","size":32}}]}'
)


def header(event_type: type[Event]) -> bytes:
    name = record_name(event_type)
    text = next(s.text for s in released() if s.name == name)
    return b"\0" + REGISTRY.schema_id(subject(TOPICS.events, name), text).to_bytes(4, "big")


def string(text: str) -> bytes:
    return zigzag(len(text.encode())) + text.encode()


def test_a_hash_computed_by_hand() -> None:
    head = b"".join(
        [
            string(COMMON["event_id"]),
            string("acc-1"),
            zigzag(2),
            zigzag(COMMON["recorded_at"]),
            zigzag(COMMON["effective_at"]),
            string("teller"),
            string(COMMON["command_id"]),
            string("order-7"),
            string(COMMON["causation_id"]),
            zigzag(1) + string("výplata"),
        ]
    )
    previous = bytes(range(32))
    wanted = sha256(previous + sha256(CANONICAL_ACCOUNT_UNFROZEN.encode()).digest() + head).digest()
    value, chain_hash = CODEC.encode_event(AccountUnfrozen(), COMMON, previous)
    assert chain_hash == wanted
    assert value == header(AccountUnfrozen) + head + wanted


def test_a_hash_written_down() -> None:
    """Stored hashes must verify for ever: if this fails, what is hashed has changed."""
    assert (
        CODEC.encode_event(AccountUnfrozen(), COMMON, CHAIN_START)[1].hex()
        == "f20af069ee2de45131df6dd7d8b6e8bc43b4ce656d50b5d02812f5c79b7af0e4"
    )
    assert (
        CODEC.encode_event(EVENT, COMMON, CHAIN_START)[1].hex()
        == "582b3696fd8ebfd0fb73292425ec70d582a6c97bd3a7df9b0021a7f4f71732ab"
    )


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_canonical_form_leaves_out_what_may_be_reworded(event_type: type[Event]) -> None:
    schema: dict[str, Any] = json.loads(next(s.text for s in released() if s.name == record_name(event_type)))
    canonical = to_parsing_canonical_form(schema)
    assert "doc" not in canonical
    assert "logicalType" not in canonical
    assert to_parsing_canonical_form(json.loads(canonical)) == canonical


def test_each_event_follows_from_the_one_before() -> None:
    previous = CHAIN_START
    history: list[Event] = [EVENT, AccountFrozen(), AccountUnfrozen(), EVENT]
    for sequence, event in enumerate(history, start=1):
        value, chain_hash = CODEC.encode_event(event, COMMON | {"sequence": sequence}, previous)
        assert CODEC.decode_event(value, previous=previous).chain_hash == chain_hash
        previous = chain_hash


def test_a_wrong_predecessor() -> None:
    with pytest.raises(ChainBroken, match="event acc-1/2 does not follow from the event before it"):
        CODEC.decode_event(EVENT_BYTES, previous=CHAIN_HASH)


def test_without_a_predecessor_nothing_is_verified() -> None:
    forged = EVENT_BYTES.replace(CHAIN_HASH, bytes(32))
    assert CODEC.decode_event(forged).event == EVENT
    with pytest.raises(ChainBroken):
        CODEC.decode_event(forged, previous=CHAIN_START)


def test_no_bit_can_be_changed() -> None:
    assert CODEC.decode_event(EVENT_BYTES, previous=CHAIN_START).event == EVENT
    for bit in range(len(EVENT_BYTES) * 8):
        changed = bytearray(EVENT_BYTES)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ChainBroken, Undecodable)):
            CODEC.decode_event(bytes(changed), previous=CHAIN_START)


@pytest.mark.parametrize(
    ("event", "passed_off_as"),
    [(EVENT, MoneyWithdrawn), (withdrawn(1, -1), MoneyDeposited)],
)
def test_an_event_cannot_be_passed_off_as_another(event: Event, passed_off_as: type[Event]) -> None:
    value, _ = CODEC.encode_event(event, COMMON, CHAIN_START)
    swapped = header(passed_off_as) + value[HEADER_BYTES:]
    assert isinstance(CODEC.decode_event(swapped).event, passed_off_as)
    with pytest.raises(ChainBroken):
        CODEC.decode_event(swapped, previous=CHAIN_START)
