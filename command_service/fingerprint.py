"""What the state of an account was computed with, as eight bytes: a snapshot with others is not for this program.

Hashed are the sources of whatever a state depends on: the state and its fields, `evolve`, the events and how old ones
become new ones, and how a state is put into a snapshot. A comment that changes costs a restore from the log; a change
that went unnoticed would cost the truth.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from types import FunctionType, ModuleType
from typing import Final, cast

from msgspec.structs import fields

from command_service import packing
from command_service.domain import account, transfers, withdrawals
from schemas import upcasters
from schemas.events import EVENT_TYPES
from schemas.released import is_event, released
from schemas.snapshots import FINGERPRINT_BYTES, AccountSnapshot

_CODE: Final[tuple[tuple[str, ModuleType | type | FunctionType], ...]] = (
    ("state", account.Account),
    ("status", account.Status),
    ("evolve", cast(FunctionType, account.evolve)),
    ("withdrawals", withdrawals),
    ("transfers", transfers),
    ("packing", packing),
    ("upcasters", upcasters),
    *((event_type.__name__, event_type) for event_type in EVENT_TYPES),
)


def fingerprint(events_topic_id: str) -> bytes:
    """The fingerprint of this program's states of the accounts whose events are on a topic."""
    return digest([*code(), ("events topic", events_topic_id.encode())])


@cache
def code() -> tuple[tuple[str, bytes], ...]:
    """What is hashed of the program, as names and bytes. The same for every process and every version of Python."""
    return tuple(_code())


def digest(parts: list[tuple[str, bytes]]) -> bytes:
    """The hash of named parts, in which none can pass for another."""
    hashed = blake2b(digest_size=FINGERPRINT_BYTES)
    for name, content in parts:
        for piece in (name.encode(), content):
            hashed.update(len(piece).to_bytes(8, "big"))
            hashed.update(piece)
    return hashed.digest()


def _code() -> Iterator[tuple[str, bytes]]:
    for state in (account.Account, withdrawals.Withdrawals, transfers.Transfers):
        yield f"fields of {state.__name__}", " ".join(field.name for field in fields(state)).encode()
    for name, piece in _CODE:
        yield f"source of {name}", inspect.getsource(piece).encode()
    for schema in released():
        if is_event(schema.name) or schema.name == AccountSnapshot.FULL_NAME:
            yield f"{schema.name} v{schema.version}", schema.text.encode()
