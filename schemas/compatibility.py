"""Whether versions of a record go together: the registry's `FULL_TRANSITIVE`, and what a ledger demands beyond it.

Avro lets a version leave out a field that has a default, and an enum drop a symbol if it has one; and it looks at no
logical type. What is stored would then be read as if it had never been said, or as something else, so here fields and
symbols are only added. Everything is told as text, since
it is for the person who adds a version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]

_PROMOTED: Final[Mapping[str, frozenset[str]]] = {
    "int": frozenset({"long", "float", "double"}),
    "long": frozenset({"float", "double"}),
    "float": frozenset({"double"}),
    "string": frozenset({"bytes"}),
    "bytes": frozenset({"string"}),
}
"""What a primitive may be read as, besides itself."""


def unreadable(written: Schema, read_as: Schema) -> Iterator[str]:
    """Why records written with one schema of a name cannot be read as another, by Avro's rules; nothing if they can."""
    there = {field["name"]: field for field in written["fields"]}
    for field in read_as["fields"]:
        found = there.get(field["name"])
        if found is not None:
            yield from (f"field {field['name']}: {why}" for why in _mismatch(found["type"], field["type"]))
        elif "default" not in field:
            yield f"field {field['name']} is not in what was written, and has no default"


def lost(older: Schema, newer: Schema) -> Iterator[str]:
    """What a later version would have read otherwise than it was meant, although Avro lets it."""
    there = {field["name"]: field for field in newer["fields"]}
    for field in older["fields"]:
        name, now = field["name"], there.get(field["name"])
        if now is None:
            yield f"field {name} is gone: what is stored in it would not be read any more"
            continue
        if field.get("default", _NONE) != now.get("default", _NONE):
            before = _default(field)
            yield f"field {name} had {before} and has {_default(now)}: older records would be read otherwise"
        yield from (f"field {name} {why}" for why in _altered(field["type"], now["type"]))


_NONE: Final = object()


def _altered(older: Any, newer: Any) -> Iterator[str]:
    """What a field's later type would make of its values. Logical types count: they say in which unit a number is."""
    match older, newer:
        case [*before], [*after] if len(before) == len(after):
            for pair in zip(before, after, strict=True):
                yield from _altered(*pair)
        case {"type": "array", "items": before}, {"type": "array", "items": after}:
            yield from _altered(before, after)
        case {"type": "map", "values": before}, {"type": "map", "values": after}:
            yield from _altered(before, after)
        case {"type": "record"}, {"type": "record"}:
            yield from (f"has records whose {why}" for why in lost(older, newer))
        case {"type": "enum"}, {"type": "enum"}:
            gone = [symbol for symbol in older["symbols"] if symbol not in newer["symbols"]]
            if gone:
                yield f"has no symbol {', '.join(gone)} any more: what is stored with it would lose it"
            before, after = older.get("default"), newer.get("default")
            if before is not None and before != after:
                yield f"has an enum that read unknown symbols as {before}, and would read them as {after or 'none'}"
        case _ if _undocumented(older) != _undocumented(newer):
            yield f"was {_said(older)} and is {_said(newer)}: what is stored in it would be read otherwise"


def _undocumented(schema: Any) -> Any:
    return {k: v for k, v in schema.items() if k != "doc"} if isinstance(schema, Mapping) else schema


def _said(schema: Any) -> str:
    logical = schema.get("logicalType") if isinstance(schema, Mapping) else None
    if isinstance(schema, list):
        return " or ".join(map(_said, schema))
    return f"{_kind(schema)} ({logical})" if logical else _kind(schema)


def _default(field: Schema) -> str:
    return f"the default {field['default']!r}" if "default" in field else "no default"


def _mismatch(written: Any, read_as: Any) -> Iterator[str]:
    if isinstance(written, list):
        for branch in written:
            yield from _mismatch(branch, read_as)
        return
    if isinstance(read_as, list):
        if all(any(_mismatch(written, branch)) for branch in read_as):
            yield f"{_kind(written)} is none of {', '.join(map(_kind, read_as))}"
        return
    was, wanted = _kind(written), _kind(read_as)
    if was != wanted:
        if wanted not in _PROMOTED.get(was, ()):
            yield f"{was} cannot be read as {wanted}"
        return
    if was == "array":
        yield from _mismatch(written["items"], read_as["items"])
    elif was.startswith("record"):
        yield from unreadable(written, read_as)
    elif was.startswith("enum"):
        unknown = [symbol for symbol in written["symbols"] if symbol not in read_as["symbols"]]
        if unknown and "default" not in read_as:
            yield f"symbol {', '.join(unknown)} is unknown, and the enum has no default to read it as"


def _kind(schema: Any) -> str:
    """A type in a word: what must be the same for one to be read as the other."""
    match schema:
        case {"type": "enum" | "record" as kind, "name": name}:
            return f"{kind} {name}"
        case {"type": "fixed", "name": name, "size": size}:
            return f"fixed {name} of {size} bytes"
        case {"type": kind}:
            return _kind(kind)
        case _:
            return str(schema)
