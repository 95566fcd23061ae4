"""Reading and writing records as they nearly always are, by Python code that is made from their schemas.

A command that is decided is one record read and two or three written, whose fields are nearly all short texts and
numbers. A general library looks at the schema of each field each time; here that is done once, and what is left is a
straight line of code for each record, at a third of the time or less. Whatever is not as usual (a text of 64 bytes or
more to be read, or of 1024 to be written, a time before 1979 or after 2500, a body that is cut short, a value that does
not fit) is `Unusual` or an error of another kind, which decides nothing: the library then has the last word, as with
`schemas.quick`.

Code is made of released schemas alone, never of what somebody registered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from schemas.quick import Unusual, number, usual_time
from schemas.upcasters import Fields

Read = Callable[[bytes, int], tuple[Fields, int]]
"""The fields that begin at a place in a body, and where they end: behind the body's end where that is cut short."""

Write = Callable[[Any], bytes]

UNUSUAL: Final = (Unusual, IndexError, KeyError, ValueError, TypeError, AttributeError)
"""What is raised for whatever is not for the quick way."""

_INT32_END: Final = 2**31
_INT64_END: Final = 2**63
_TEXT: Final = json.dumps("string")
_OPTIONAL_TEXT: Final = json.dumps(["null", "string"])
_LONG: Final = json.dumps("long")
_OPTIONAL_LONG: Final = json.dumps(["null", "long"])
_TIME: Final = json.dumps({"type": "long", "logicalType": "timestamp-micros"})
_OPTIONAL_TIME: Final = json.dumps(["null", {"type": "long", "logicalType": "timestamp-micros"}])
_INT: Final = json.dumps("int")
_BOOLEAN: Final = json.dumps("boolean")
_BYTES: Final = json.dumps("bytes")
_ENUM: Final = "enum"
_FIXED: Final = "fixed"

_READS: Final[Mapping[str, str]] = {
    _TEXT: """
    length = body[at]; start = at + 1; at = start + (length >> 1); lengths |= length
    {name} = body[start:at].decode()""",
    _OPTIONAL_TEXT: """
    branch = body[at]; at += 1
    if branch == 2:
        length = body[at]; start = at + 1; at = start + (length >> 1); lengths |= length
        {name} = body[start:at].decode()
    elif branch:
        raise Unusual
    else:
        {name} = None""",
    _LONG: """
    {name}, at = number(body, at)""",
    _OPTIONAL_LONG: """
    branch = body[at]; at += 1
    if branch == 2:
        {name}, at = number(body, at)
    elif branch:
        raise Unusual
    else:
        {name} = None""",
    _TIME: """
    {name} = usual_time(body[at:at + 8]); at += 8""",
    _OPTIONAL_TIME: """
    branch = body[at]; at += 1
    if branch == 2:
        {name} = usual_time(body[at:at + 8]); at += 8
    elif branch:
        raise Unusual
    else:
        {name} = None""",
    _INT: """
    {name}, at = number(body, at)""",
    _BOOLEAN: """
    {name} = truths[body[at]]; at += 1""",
    _BYTES: """
    length = body[at]; start = at + 1; at = start + (length >> 1); lengths |= length
    {name} = body[start:at]""",
    _ENUM: """
    {name} = symbols_of{name}[body[at]]; at += 1""",
}
"""How a field is read, by its type. A length of more than one byte shows in `lengths` only at the end: until then what
is read is of no consequence."""

_WRITES: Final[Mapping[str, str]] = {
    _TEXT: """
    {name} = {value}.encode(); add(lengths[len({name})]); add({name})""",
    _OPTIONAL_TEXT: """
    {name} = {value}
    if {name} is None:
        add(b"\\0")
    else:
        {name} = {name}.encode(); add(b"\\2"); add(lengths[len({name})]); add({name})""",
    _LONG: """
    add(long({value}))""",
    _OPTIONAL_LONG: """
    {name} = {value}
    add(b"\\0" if {name} is None else b"\\2" + long({name}))""",
    _INT: """
    add(small({value}))""",
    _BOOLEAN: """
    add(b"\\1" if {value} else b"\\0")""",
    _BYTES: """
    {name} = {value}; add(lengths[len({name})]); add({name})""",
    _ENUM: """
    add(symbols_of{name}[{value}])""",
    _FIXED: """
    {name} = {value}
    if len({name}) != {size}:
        raise Unusual
    add({name})""",
}


def reader(schema: Mapping[str, Any]) -> Read | None:
    """How a record's fields are read; None when there is one that is not read here. Raises, when used: `UNUSUAL`."""
    lines = ["def read(body, at):", "    lengths = 0"]
    known: dict[str, object] = {
        "Unusual": Unusual,
        "number": number,
        "usual_time": usual_time,
        "truths": {0: False, 1: True},
    }
    fields = list(_fields(schema))
    for name, kind, symbols, _ in fields:
        if kind not in _READS:
            return None
        lines.append(_READS[kind].format(name=f"_{name}"))
        known[f"symbols_of_{name}"] = {2 * place: symbol for place, symbol in enumerate(symbols[:64])}
    lines += ["    if lengths & 0x81:", "        raise Unusual"]
    named = ", ".join(f"{name!r}: _{name}" for name, *_ in fields)
    lines.append(f"    return {{{named}}}, at")
    return cast(Read, _function("read", lines, known))


def writer(schema: Mapping[str, Any], *, mappings: bool) -> Write | None:
    """How a record's fields are written, of an object with such attributes or, on request, of a mapping; None when
    there is a field that is not written here. Raises, when used: `UNUSUAL`."""
    lines = ["def write(record):", "    parts = []; add = parts.append"]
    known: dict[str, object] = {"Unusual": Unusual, "lengths": _LENGTHS, "long": _long, "small": _small}
    for name, kind, symbols, size in _fields(schema):
        written = {_TIME: _LONG, _OPTIONAL_TIME: _OPTIONAL_LONG}.get(kind, kind)
        if written not in _WRITES:
            return None
        value = f"record[{name!r}]" if mappings else f"record.{name}"
        lines.append(_WRITES[written].format(name=f"_{name}", value=value, size=size))
        known[f"symbols_of_{name}"] = {symbol: _long(place) for place, symbol in enumerate(symbols)}
    lines.append("    return b''.join(parts)")
    return cast(Write, _function("write", lines, known))


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str], int]]:
    """Each field's name, its type as a key of what is above, its symbols, and its size in bytes where it is fixed."""
    for field in schema["fields"]:
        name, kind = field["name"], _essential(field["type"])
        if not name.isidentifier():
            raise ValueError(f"{name} is no name of a field")
        match kind:
            case {"type": "enum", "symbols": symbols}:
                yield name, _ENUM, symbols, 0
            case {"type": "fixed", "size": size}:
                yield name, _FIXED, [], size
            case _:
                yield name, json.dumps(kind), [], 0


def _essential(kind: Any) -> Any:
    """A type without what matters to nobody here: a UUID is a text."""
    match kind:
        case {"type": "long", "logicalType": "timestamp-micros"}:
            return {"type": "long", "logicalType": "timestamp-micros"}
        case {"type": "string" | "long" | "int" | "boolean" | "bytes" as primitive}:
            return primitive
        case [*branches]:
            return [_essential(branch) for branch in branches]
        case _:
            return kind


def _function(name: str, lines: list[str], known: dict[str, object]) -> object:
    scope = dict(known)
    # What is run is made of the templates above and the names of fields, which were looked at.
    exec("\n".join(lines), scope)  # noqa: S102
    return scope[name]


@lru_cache(maxsize=8192)
def _long(value: int) -> bytes:
    """Zigzag-coded in groups of seven bits. Times repeat within a batch, and so do sequences and small amounts."""
    if not -_INT64_END <= value < _INT64_END:
        raise Unusual
    left = (value << 1) ^ (value >> 63)
    groups = bytearray()
    while left > 0x7F:
        groups.append(left & 0x7F | 0x80)
        left >>= 7
    groups.append(left)
    return bytes(groups)


def _small(value: int) -> bytes:
    if not -_INT32_END <= value < _INT32_END:
        raise Unusual
    return _long(value)


_LENGTHS: Final = tuple(_long(length) for length in range(1024))
"""Lengths of texts and bytes as Avro writes them. A longer one is unusual."""
