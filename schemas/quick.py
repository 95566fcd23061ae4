"""Reading events as they nearly always are, several times faster than a general Avro library does.

Replaying a log is mostly decoding, and most of that is the fields that every event has. Here they are read byte by
byte as Avro lays them down: a text is its length and its UTF-8 bytes, a number is zigzag-coded in groups of seven bits,
a union is the number of its branch and then that branch's value. Whatever is not as usual (a text of 64 bytes or more,
a time before 1979 or after 2500, a body that is cut short) is `Unusual`, which decides nothing: `schemas.codec` then
reads the same bytes with the library, whose word is the last.
"""

from __future__ import annotations

from typing import Final

Common = tuple[str, str, int, int, int, str, str, str, str, str | None, bytes]
"""The fields that every event has, in the order in which they are written."""

COMMON_FIELDS: Final = (
    ("event_id", "string"),
    ("account_id", "string"),
    ("sequence", "long"),
    ("recorded_at", "long"),
    ("effective_at", "long"),
    ("user_id", "string"),
    ("command_id", "string"),
    ("correlation_id", "string"),
    ("causation_id", "string"),
    ("reason", ["null", "string"]),
    ("chain_hash", "fixed 32"),
)
"""The layout that `common` reads: a schema that begins otherwise is not for it."""

_SHORT: Final = 0x81
"""A length that has neither of these bits is a single byte, and not negative."""

_GROUP: Final = 0x7F
_MORE: Final = 0x80


class Unusual(Exception):
    """Not for the quick way, for whatever reason."""


def number(body: bytes, at: int) -> tuple[int, int]:
    """A number of any length, and where the next value begins. Raises `IndexError` at the body's end."""
    byte = body[at]
    at += 1
    if byte < _MORE:
        return (byte >> 1) ^ -(byte & 1), at
    found, shift = byte & _GROUP, 7
    while byte & _MORE:
        byte = body[at]
        at += 1
        found |= (byte & _GROUP) << shift
        shift += 7
        if shift > 63:
            # More than nine groups may be more than 64 bits.
            raise Unusual
    return (found >> 1) ^ -(found & 1), at


def text(body: bytes, at: int) -> tuple[str, int]:
    """A text, and where the next value begins: behind the body's end, if the body is cut short within the text."""
    length = body[at]
    if length & _SHORT:
        raise Unusual
    at += 1
    end = at + (length >> 1)
    return body[at:end].decode(), end


def optional_text(body: bytes, at: int) -> tuple[str | None, int]:
    """A text or none, by a union whose first branch is null."""
    branch = body[at]
    if branch == 0:
        return None, at + 1
    if branch != 2:
        raise Unusual
    return text(body, at + 1)


def common(body: bytes) -> tuple[Common, int]:
    """What every event begins with, and where its own fields begin.

    This is `text` and `number` written out, since a call costs as much as what it does: half of a replay's time goes
    by in here.

    Raises:
        Unusual, IndexError, UnicodeDecodeError: it is not as usual. A body that ends too early may go unnoticed: then
            the place given back lies behind its end.
    """
    length_1 = body[0]
    at = 1 + (length_1 >> 1)
    event_id = body[1:at].decode()

    length_2 = body[at]
    start = at + 1
    at = start + (length_2 >> 1)
    account_id = body[start:at].decode()

    sequence, at = number(body, at)
    recorded, effective = body[at : at + 8], body[at + 8 : at + 16]
    recorded_at = usual_time(recorded)
    effective_at = recorded_at if effective == recorded else usual_time(effective)
    at += 16

    length_3 = body[at]
    start = at + 1
    at = start + (length_3 >> 1)
    user_id = body[start:at].decode()

    length_4 = body[at]
    start = at + 1
    at = start + (length_4 >> 1)
    command_id = body[start:at].decode()

    length_5 = body[at]
    start = at + 1
    at = start + (length_5 >> 1)
    correlation_id = body[start:at].decode()

    length_6 = body[at]
    start = at + 1
    at = start + (length_6 >> 1)
    causation_id = body[start:at].decode()

    if (length_1 | length_2 | length_3 | length_4 | length_5 | length_6) & _SHORT:
        raise Unusual
    reason, at = optional_text(body, at)
    end = at + 32
    return (
        event_id,
        account_id,
        sequence,
        recorded_at,
        effective_at,
        user_id,
        command_id,
        correlation_id,
        causation_id,
        reason,
        body[at:end],
    ), end


def chain_cut(body: bytes) -> tuple[bytes, int, int]:
    """Whose event it is, its sequence, and where its own fields begin, which is right behind the chain hash.

    For whoever verifies chains and reads nothing else: it steps over what `common` decodes.

    Raises:
        Unusual, IndexError: it is not as usual.
    """
    lengths = body[0]
    at = 1 + (lengths >> 1)
    length = body[at]
    lengths |= length
    start = at + 1
    at = start + (length >> 1)
    account_id = body[start:at]

    byte = body[at]
    at += 1
    sequence, shift = byte & _GROUP, 7
    while byte & _MORE:
        byte = body[at]
        at += 1
        sequence |= (byte & _GROUP) << shift
        shift += 7
        if shift > 63:
            raise Unusual

    # Two times, of eight groups each as `usual_time` has it: the eighth is the last.
    if body[at + 7] & _MORE or not body[at + 6] & _MORE or body[at + 15] & _MORE or not body[at + 14] & _MORE:
        raise Unusual
    at += 16
    for _ in range(4):
        length = body[at]
        lengths |= length
        at += 1 + (length >> 1)
    branch = body[at]
    at += 1
    if branch == 2:
        length = body[at]
        lengths |= length
        at += 1 + (length >> 1)
    elif branch:
        raise Unusual
    at += 32
    if lengths & _SHORT or sequence & 1 or at > len(body):
        raise Unusual
    return account_id, sequence >> 1, at


def usual_time(eight: bytes) -> int:
    """A time: a number of exactly eight groups, as times are from 1978 to 2540 in microseconds."""
    a, b, c, d, e, f, g, h = eight
    if not a & b & c & d & e & f & g & _MORE or h & _MORE or a & 1:
        raise Unusual
    return (
        (a & 0x7E) >> 1
        | (b & _GROUP) << 6
        | (c & _GROUP) << 13
        | (d & _GROUP) << 20
        | (e & _GROUP) << 27
        | (f & _GROUP) << 34
        | (g & _GROUP) << 41
        | h << 48
    )
