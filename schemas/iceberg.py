"""The analytics table as its writer and its readers share it: its catalog, its place in the log, its files.

It needs PyIceberg, which `daybook[analytics]` installs: import this module where it is used, not at a program's start.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import BadRequestError, CommitFailedException
from pyiceberg.io.pyarrow import write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction, WriteTask
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import TableUpdate
from pyiceberg.table.update.snapshot import ExpireSnapshots
from pyiceberg.typedef import Identifier

from schemas.connections import Connections, NotConfigured
from schemas.readmodels import EVENTS_TABLE, SUMMARY_LOG, SUMMARY_OFFSET_PREFIX, iceberg_namespace

CATALOG_NAME: Final = "daybook"
"""What a catalog given by URI is called. PyIceberg's own settings for it begin with `PYICEBERG_CATALOG__DAYBOOK__`."""

_SQLITE: Final = "sqlite:///"


class Misplaced(ValueError):
    """A snapshot's summary does not say where the table stands in the log, although it tries to."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a branch of the table stands: in which log, and for each partition the offset to read next."""

    log: str
    offsets: Mapping[int, int]

    def summary(self) -> dict[str, str]:
        """The place as properties of a snapshot's summary, for the commit that reaches it or carries it over."""
        return {SUMMARY_LOG: self.log} | {f"{SUMMARY_OFFSET_PREFIX}{p}": str(at) for p, at in self.offsets.items()}


def identifier(connections: Connections) -> Identifier:
    """The table's name in the catalog, after that of its namespace."""
    return (iceberg_namespace(connections.namespace), EVENTS_TABLE)


def sqlite_file(connections: Connections) -> Path | None:
    """The file of a catalog that is one, else None."""
    where = connections.iceberg_catalog or ""
    return Path(where.removeprefix(_SQLITE).partition("?")[0]) if where.startswith(_SQLITE) else None


def must_be_configured(connections: Connections) -> None:
    """Raises: `NotConfigured`, when it is not said where catalog and warehouse are."""
    where = connections.iceberg_catalog
    if not where:
        raise NotConfigured(
            "DAYBOOK_ICEBERG_CATALOG is not set: it says which catalog has the analytics table, as "
            "sqlite:////FOLDER/catalog.db, as a REST catalog's https:// address, or as a name that PyIceberg is "
            "configured for"
        )
    if where.startswith(_SQLITE) and not connections.iceberg_warehouse:
        raise NotConfigured(
            "DAYBOOK_ICEBERG_WAREHOUSE is not set: it says where the analytics table's files are, as a folder or as "
            "s3://BUCKET/PATH"
        )


def open_catalog(connections: Connections) -> Catalog:
    """The catalog, to be closed by the caller. A SQLite file is made when it is missing, in a folder that is there.

    Blocks while the catalog is asked for its settings. What the catalog's client raises when it cannot be reached
    comes through.

    Raises:
        NotConfigured: it is not said which catalog, or PyIceberg knows none of that name or kind.
    """
    must_be_configured(connections)
    where = connections.iceberg_catalog or ""
    warehouse = connections.iceberg_warehouse
    try:
        if "://" not in where:
            return load_catalog(where)
        # What a REST catalog calls a warehouse may be a name, which is for it to understand.
        return load_catalog(CATALOG_NAME, uri=where, warehouse=_location(warehouse))
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_ICEBERG_CATALOG={catalog_address(connections)}: {error}") from error


def catalog_address(connections: Connections) -> str:
    """Where the catalog is, for a message: without the user, the password and the options that a URI may have."""
    scheme, separator, rest = (connections.iceberg_catalog or "").partition("?")[0].partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def local_folder(warehouse: str | None) -> Path | None:
    """The folder that a warehouse is, else None."""
    if not warehouse:
        return None
    path = warehouse.removeprefix("file://")
    return Path(path) if path.startswith("/") else None


def place(metadata: TableMetadata, branch: str = MAIN_BRANCH) -> Place | None:
    """Where a branch stands: what the newest snapshot says that says anything, from its head back.

    Whoever else commits (a compaction, a deletion) need not know about our offsets: the place does not change by that.

    Raises:
        Misplaced: its summary cannot be read.
    """
    snapshot = placed(metadata, branch)
    if snapshot is None or snapshot.summary is None:
        return None
    properties = snapshot.summary.additional_properties
    offsets: dict[int, int] = {}
    for name, value in properties.items():
        if name.startswith(SUMMARY_OFFSET_PREFIX):
            partition = name.removeprefix(SUMMARY_OFFSET_PREFIX)
            if not (partition.isdecimal() and value.isdecimal()):
                raise Misplaced(
                    f"snapshot {snapshot.snapshot_id} has {name}={value} in its summary, which is no offset"
                )
            offsets[int(partition)] = int(value)
    return Place(properties[SUMMARY_LOG], offsets)


def placed(metadata: TableMetadata, branch: str = MAIN_BRANCH) -> Snapshot | None:
    """The newest snapshot of a branch whose summary says where it stands."""
    for snapshot in ancestors_of(metadata.snapshot_by_name(branch), metadata):
        if snapshot.summary is not None and SUMMARY_LOG in snapshot.summary.additional_properties:
            return snapshot
    return None


class LeanTransaction(Transaction):
    """A transaction on a table that computes its metadata once for each change.

    PyIceberg's own copies the whole metadata, all snapshots with it, each of the fifteen times that a commit asks for
    it: over a millisecond a commit for every snapshot that the table has (apache/iceberg-python#2673).
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._computed: tuple[TableMetadata, tuple[TableUpdate, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        base, updates = self._table.metadata, self._updates
        if not updates:
            return base
        if self._computed is None or self._computed[0] is not base or self._computed[1] is not updates:
            self._computed = (base, updates, super().table_metadata)
        return self._computed[2]

    def commit_transaction(self) -> Table:
        """Commit. Raises `CommitFailedException` when another commit came first, of whichever branch that is.

        One to another branch breaks no requirement of ours, but has taken the sequence number of our snapshot. That is
        refused as if it was a mistake of ours.
        """
        try:
            return super().commit_transaction()
        except (ValueError, BadRequestError) as error:
            now = self._table.catalog.load_table(self._table.name()).metadata
            if now.next_sequence_number() == self._table.metadata.next_sequence_number():
                raise
            raise CommitFailedException(f"another branch was committed to first: {error}") from error


def expirable(metadata: TableMetadata) -> list[Snapshot]:
    """The snapshots that the table can do without, oldest first: neither branches nor tags nor places need them.

    From each branch's head back to where its place is, all are kept: without one between, the place is not found.
    """
    needed = {ref.snapshot_id for ref in metadata.refs.values()}
    for branch in metadata.refs:
        until = placed(metadata, branch)
        if until is None:
            continue
        for snapshot in ancestors_of(metadata.snapshot_by_name(branch), metadata):
            needed.add(snapshot.snapshot_id)
            if snapshot.snapshot_id == until.snapshot_id:
                break
    unneeded = [snapshot for snapshot in metadata.snapshots if snapshot.snapshot_id not in needed]
    return sorted(unneeded, key=lambda snapshot: snapshot.timestamp_ms)


def expire(table: Table, snapshots: Sequence[Snapshot]) -> None:
    """Forget snapshots, of which none may be one that is needed. Their files stay until they are removed as orphans."""
    transaction = LeanTransaction(table)
    ExpireSnapshots(transaction).by_ids([snapshot.snapshot_id for snapshot in snapshots]).commit()
    transaction.commit_transaction()


def write_days(table: Table, rows: pa.Table) -> Sequence[DataFile]:
    """Write rows to new data files, one for each day of `recorded_at`. They belong to nothing until they are committed.

    PyIceberg's own way of splitting rows by partition needs its Rust library, which is a large dependency for this.
    """
    schema, spec = table.schema(), table.spec()
    names = set(rows.column_names)
    written = Schema(*(field for field in schema.fields if field.name in names))
    days = rows["recorded_at"].cast(pa.date32()).cast(pa.int32())
    found = pc.unique(days).to_pylist()
    write_uuid = uuid.uuid4()

    def task(number: int, day: int) -> WriteTask:
        part = rows if len(found) == 1 else rows.filter(pc.equal(days, day))
        key = PartitionKey([PartitionFieldValue(spec.fields[0], day)], spec, schema)
        batches = part.combine_chunks().to_batches()
        return WriteTask(write_uuid, number, schema=written, record_batches=batches, partition_key=key)

    return list(write_file(table.io, table.metadata, (task(i, day) for i, day in enumerate(found))))


def _location(warehouse: str | None) -> str | None:
    if warehouse and warehouse.startswith(("/", "./", "../")):
        # Other programs read these names too, from folders of their own.
        return Path(warehouse).absolute().as_uri()
    return warehouse
