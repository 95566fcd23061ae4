"""One ledger's codec over a registry in memory, and one record of each kind with its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import pytest

from command_service import keys
from command_service.keys import SubjectKeys
from command_service.packing import Packing
from schemas import keyring, sealing
from schemas.alerts import WITHDRAWAL_COUNT, Alert, alert_id
from schemas.codec import Codec
from schemas.commands import FOLLOW_UP_TYPES, CommandReply, CommandStatus
from schemas.events import CHAIN_START
from schemas.keyring import KeyRing
from schemas.keys import DATA_KEY_BYTES
from schemas.topics import Topics
from tests.unit.given import NOW, deposit, deposited
from tests.unit.memory_registry import MemoryRegistry

TOPICS: Final = Topics()
REGISTRY: Final = MemoryRegistry.deployed(TOPICS)


def codec_of(registry: MemoryRegistry) -> Codec:
    codec = Codec(registry)
    codec.look_up_commands(TOPICS.commands)
    codec.look_up_commands(TOPICS.followups, FOLLOW_UP_TYPES)
    codec.look_up_events(TOPICS.events)
    codec.look_up_replies(TOPICS.replies)
    codec.look_up_alerts(TOPICS.alerts)
    codec.look_up_snapshots(TOPICS.snapshots)
    codec.look_up_keys(TOPICS.subject_keys)
    return codec


CODEC: Final = codec_of(REGISTRY)

KEEPER: Final = KeyRing({"kek-1": bytes(range(32))}, "the test")


def no_keys() -> SubjectKeys:
    """The keys of a partition without any accounts."""
    return SubjectKeys(CODEC, KEEPER)


@contextmanager
def sealing_alike() -> Iterator[None]:
    """While it lasts, sealing the same text in the same event gives the same: nothing random is drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "os", SimpleNamespace(urandom=bytes))
        patch.setattr(keyring, "os", SimpleNamespace(urandom=bytes))
        patch.setattr(keys, "new_data_key", lambda: bytes(DATA_KEY_BYTES))
        yield


PACKING: Final = Packing(CODEC, b"\x01\x02\x03\x04\x05\x06\x07\x08", "topic-1")

COMMON: Final[dict[str, Any]] = {
    "event_id": "01977375-f600-7000-8444-555555555555",
    "account_id": "acc-1",
    "sequence": 2,
    "recorded_at": NOW,
    "effective_at": NOW - 1,
    "user_id": "teller",
    "command_id": "11111111-2222-4333-8444-555555555555",
    "correlation_id": "order-7",
    "causation_id": "11111111-2222-4333-8444-555555555555",
    "reason": "výplata",
}
COMMAND: Final = deposit(12345, reason="výplata", effective_at=NOW - 1, expected_version=3)
EVENT: Final = deposited(12345, 20000)
REPLY: Final = CommandReply(
    command_id=COMMAND.command_id,
    account_id="acc-1",
    status=CommandStatus.REJECTED,
    sequence=7,
    event_count=0,
    code="insufficient_funds",
    message="…",
    decided_at=NOW,
)
ALERT: Final = Alert(
    alert_id=alert_id("acc-1", WITHDRAWAL_COUNT, COMMON["event_id"]),
    account_id="acc-1",
    rule=WITHDRAWAL_COUNT,
    event_id=COMMON["event_id"],
    sequence=2,
    raised_at=NOW,
    first_at=NOW - 5,
    window_s=60,
    count=10,
    amount_minor=12345,
    currency="EUR",
    limit=10,
)
COMMAND_BYTES: Final = CODEC.encode_command(COMMAND)
EVENT_BYTES: Final = CODEC.encode_event(EVENT, COMMON, CHAIN_START)[0]
REPLY_BYTES: Final = CODEC.encode_reply(REPLY)
ALERT_BYTES: Final = CODEC.encode_alert(ALERT)


def zigzag(number: int) -> bytes:
    """A number as Avro writes it, from its specification."""
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
