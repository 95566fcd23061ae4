"""Writing record bodies. With `schemas.codec` and `schemas.reading` all that knows Avro."""

from __future__ import annotations

import io
from collections.abc import Mapping

from fastavro import schemaless_writer
from msgspec import Struct
from msgspec.structs import asdict

from schemas import compiled
from schemas.reading import Schema, parsed


class RecordWriter:
    """Writes the bodies of one schema's records, given as structs, or as mappings where `mappings` says so."""

    def __init__(self, schema: Schema, *, mappings: bool = False) -> None:
        self._schema = parsed(schema)
        self._quick = compiled.writer(self._schema, mappings=mappings)

    def __call__(self, record: Struct | Mapping[str, object]) -> bytes:
        """Raises: what fastavro does on a value that does not fit its field."""
        if self._quick is not None:
            try:
                return self._quick(record)
            except compiled.UNUSUAL:
                pass
        out = io.BytesIO()
        schemaless_writer(out, self._schema, record if isinstance(record, Mapping) else asdict(record))
        return out.getvalue()
