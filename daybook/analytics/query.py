"""SQL over the analytics table: DuckDB, over the files that PyIceberg plans for a snapshot.

DuckDB hands the columns and the filters of a query down to Arrow, which reads no other columns, no row group whose
statistics exclude the filter, and no file whose bounds in the table's manifests do: those bounds are given to Arrow as
what is known of each file. Nothing is derived from the SQL's text, so whatever DuckDB hands down is right, and what it
does not is filtered afterwards. DuckDB's own Iceberg extension would have to be downloaded.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import and_
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyiceberg.conversions import from_bytes
from pyiceberg.io.pyarrow import PyArrowFileIO, schema_to_pyarrow
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.types import PrimitiveType

from daybook.errors import DaybookError
from schemas.readmodels import EVENTS_TABLE

_BOUNDED: Final = (
    "account_id",
    "sequence",
    "event_type",
    "recorded_at",
    "effective_at",
    "currency",
    "partition",
    "offset",
)
"""The columns whose bounds are told of each file: those that queries filter by. The other columns' only cost time."""

_CONFIGURATION: Final[Mapping[str, str | bool | int | float | list[str]]] = {
    # What is wanted is in the wheel; a query should not end in an attempt to download an extension.
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

Value = str | int | decimal.Decimal | datetime | None


class BadQuery(DaybookError):
    """DuckDB does not take the SQL, or it cannot be carried out; the message is DuckDB's."""


class NoSuchSnapshot(DaybookError):
    """The table has no such snapshot, or no longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query came to: names of columns, their DuckDB types, rows, and whether there would be more of them."""

    columns: Sequence[str]
    types: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    more: bool = False


def query(
    table: Table,
    sql: str,
    parameters: Mapping[str, Value] | None = None,
    *,
    limit: int | None = None,
    as_of: datetime | int | None = None,
) -> Answer:
    """The rows that SQL makes of the table, which it calls `account_events`; at most `limit`. Blocks.

    `$name` in the SQL stands for a parameter. Times are in UTC. What the catalog and the storage raise comes through,
    for `catalog.answering` to tell.

    Args:
        as_of: the table as its snapshot of that id has it, or as it was at that time.

    Raises:
        BadQuery, NoSuchSnapshot.
    """
    source = arrow_source(table, _snapshot_id(table, as_of))
    with duckdb.connect(config=dict(_CONFIGURATION)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register(EVENTS_TABLE, source)
        try:
            cursor = connection.execute(sql, dict(parameters)) if parameters else connection.execute(sql)
            columns = cursor.description or []
            rows = cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)
        except (duckdb.Error, UnicodeDecodeError) as error:
            raise BadQuery(str(error)) from error
    return Answer(
        columns=[column[0] for column in columns],
        types=[str(column[1]) for column in columns],
        rows=rows if limit is None else rows[:limit],
        more=limit is not None and len(rows) > limit,
    )


def arrow_source(table: Table, snapshot_id: int | None = None) -> ds.Dataset | pa.Table:
    """The table as Arrow, into which a reader can push columns and filters.

    Where the files cannot be read as they are (rows deleted from them, columns renamed since, storage that Arrow does
    not know), PyIceberg reads the whole table into memory instead, which knows of all that.
    """
    scan = table.scan(snapshot_id=snapshot_id)
    tasks = list(scan.plan_files())
    if not isinstance(table.io, PyArrowFileIO) or not _plain(table.metadata, tasks):
        return scan.to_arrow()
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    parquet = ds.ParquetFileFormat()
    fragments = []
    filesystem = None
    for task in tasks:
        scheme, netloc, path = table.io.parse_location(task.file.file_path)
        filesystem = table.io.fs_by_scheme(scheme, netloc)
        fragments.append(parquet.make_fragment(path, filesystem, partition_expression=_known(task.file, table, schema)))
    return ds.FileSystemDataset(fragments, schema, parquet, filesystem)


def _plain(metadata: TableMetadata, tasks: Sequence[FileScanTask]) -> bool:
    """Whether the files hold the rows of the snapshot, all of them and under the names that their columns have now."""
    if any(task.delete_files or task.file.file_format != FileFormat.PARQUET for task in tasks):
        return False
    columns = {(field.field_id, field.name, str(field.field_type)) for field in metadata.schema().fields}
    ids, names = {number for number, _, _ in columns}, {name for _, name, _ in columns}
    return all(
        (field.field_id, field.name, str(field.field_type)) in columns
        for schema in metadata.schemas
        for field in schema.fields
        if field.field_id in ids or field.name in names
    )


def _known(file: DataFile, table: Table, schema: pa.Schema) -> pc.Expression:
    """What is known of all rows of a file."""
    known = []
    for name in _BOUNDED:
        field = table.schema().find_field(name)
        lower, upper = (bounds.get(field.field_id) for bounds in (file.lower_bounds or {}, file.upper_bounds or {}))
        nulls = (file.null_value_counts or {}).get(field.field_id)
        if lower is None or upper is None or nulls != 0 or not isinstance(field.field_type, PrimitiveType):
            continue
        kind = schema.field(name).type
        known += [
            pc.field(name) >= pa.scalar(from_bytes(field.field_type, lower), kind),
            pc.field(name) <= pa.scalar(from_bytes(field.field_type, upper), kind),
        ]
    return reduce(and_, known, pc.scalar(True))


def _snapshot_id(table: Table, as_of: datetime | int | None) -> int | None:
    if as_of is None:
        return None
    if isinstance(as_of, int):
        found = table.snapshot_by_id(as_of)
    else:
        found = table.snapshot_as_of_timestamp(int(as_of.timestamp() * 1000))
    if found is None:
        raise NoSuchSnapshot(
            f"{'.'.join(table.name())} has no snapshot {'' if isinstance(as_of, int) else 'as of '}{as_of}, or no "
            "longer: old ones are forgotten. What was recorded up to a moment can always be asked for with "
            "WHERE recorded_at <= ..."
        )
    return found.snapshot_id


def records(answer: Answer) -> Iterator[dict[str, object]]:
    """Rows as JSON can hold them: decimals and times as text, bytes in hexadecimal."""
    for row in answer.rows:
        yield {name: _plain_value(value) for name, value in zip(answer.columns, row, strict=True)}


def _plain_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain_value(item) for key, item in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
