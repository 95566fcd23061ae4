"""Records made up from their schema alone, and whether Avro takes them: what a check of schemas is tried on."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastavro import schemaless_reader, schemaless_writer
from fastavro.validation import validate

from schemas.reading import parsed
from schemas.upcasters import Fields

Schema = dict[str, Any]

_MOMENT: Final = 1_750_000_000_000_000
"""In microseconds since the Unix epoch, in June 2025."""


def samples(schema: Schema) -> Iterator[Fields]:
    """Records that between them have every branch of each union, and every symbol of each enum. The same each time."""
    choices = {field["name"]: _values(field["type"], field["name"]) for field in schema["fields"]}
    for number in range(max(map(len, choices.values()), default=1)):
        yield {name: values[number % len(values)] for name, values in choices.items()}


def misfit(schema: Schema, record: object) -> str | None:
    """Why something is no record of a schema, with each field and no other; None if it is one."""
    if not isinstance(record, dict):
        return f"it is a {type(record).__name__}, not fields by name"
    names = [field["name"] for field in schema["fields"]]
    missing = [name for name in names if name not in record]
    further = [name for name in record if name not in names]
    if missing or further:
        parts = [f"{what} {', '.join(found)}" for what, found in (("lacks", missing), ("has also", further)) if found]
        return f"it {' and '.join(parts)}"
    kinds = parsed(schema)
    for field in kinds["fields"]:
        if not validate(record[field["name"]], field["type"], raise_errors=False):
            return f"{field['name']} is {record[field['name']]!r}"
    return None


def unresolved(written: Schema, read_as: Schema) -> str | None:
    """Why fastavro does not read samples of one schema as another; None if it does."""
    writer, reader = parsed(written), parsed(read_as)
    for record in samples(written):
        data = io.BytesIO()
        schemaless_writer(data, writer, record)
        data.seek(0)
        try:
            schemaless_reader(data, writer, reader)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return None


def _values(kind: Any, name: str) -> Sequence[Any]:
    match kind:
        case [*branches]:
            return [value for branch in branches for value in _values(branch, name)]
        case {"type": "enum", "symbols": symbols}:
            return list(symbols)
        case {"type": "fixed", "size": size}:
            return [bytes(size)]
        case {"type": "array", "items": items}:
            return [[], list(_values(items, name))]
        case {"type": "map", "values": values}:
            return [{}, {"a": _values(values, name)[0]}]
        case {"type": "record"}:
            return list(samples(kind))
        case {"logicalType": "uuid"}:
            return [str(uuid.uuid5(uuid.NAMESPACE_OID, name))]
        case {"logicalType": "timestamp-micros"}:
            return [_MOMENT]
        case {"type": inner}:
            return _values(inner, name)
        case "null":
            return [None]
        case "boolean":
            return [False, True]
        case "int" | "long":
            return [1, 250]
        case "float" | "double":
            return [0.5]
        case "bytes":
            return [b"\x01\x02"]
        case _:
            return [f"{name}-1", f"{name}-2"]
