"""The Iceberg table of events: opening it, making it, and telling its failures apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pyarrow.lib import ArrowException
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    ForbiddenError,
    NoSuchTableError,
    OAuthError,
    RESTError,
    TableAlreadyExistsError,
    UnauthorizedError,
    ValidationException,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.sorting import SortField, SortOrder
from pyiceberg.transforms import DayTransform, IdentityTransform
from pyiceberg.types import (
    DecimalType,
    FixedType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestamptzType,
)
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from projectors.projector import CannotProject, CheckpointMoved, SinkUnavailable
from schemas.connections import Connections
from schemas.iceberg import (
    Misplaced,
    Place,
    identifier,
    local_folder,
    must_be_configured,
    open_catalog,
    place,
    sqlite_file,
)

AMOUNT: Final = DecimalType(23, 4)
"""Holds the largest 64-bit number of minor units (19 digits) of any currency, whose decimals are 0 to 4, exactly. A sum
has room for 15 digits more in the 38 that engines have."""

# Names, types and numbers of columns are an interface: what is released is only added to.
_COLUMNS: Final[tuple[tuple[str, IcebergType, bool], ...]] = (
    ("event_id", StringType(), True),
    ("account_id", StringType(), True),
    ("sequence", LongType(), True),
    ("event_type", StringType(), True),
    ("recorded_at", TimestamptzType(), True),
    ("effective_at", TimestamptzType(), True),
    ("user_id", StringType(), True),
    ("command_id", StringType(), True),
    ("correlation_id", StringType(), True),
    ("causation_id", StringType(), True),
    ("reason", StringType(), False),
    ("chain_hash", FixedType(32), True),
    ("currency", StringType(), False),
    ("amount", AMOUNT, False),
    ("amount_minor", LongType(), False),
    ("balance_before", AMOUNT, False),
    ("balance_before_minor", LongType(), False),
    ("balance_after", AMOUNT, False),
    ("balance_after_minor", LongType(), False),
    ("overdraft_limit", AMOUNT, False),
    ("overdraft_limit_minor", LongType(), False),
    ("withdrawal_sequence", LongType(), False),
    ("partition", IntegerType(), True),
    ("offset", LongType(), True),
    # Added in later releases, and therefore last: a column's number is its place.
    ("previous_overdraft_limit", AMOUNT, False),
    ("previous_overdraft_limit_minor", LongType(), False),
    ("cause", StringType(), False),
    ("payout_reference", StringType(), False),
    ("transfer_id", StringType(), False),
    ("to_account_id", StringType(), False),
    ("from_account_id", StringType(), False),
    ("in_transit", AMOUNT, False),
    ("in_transit_minor", LongType(), False),
    ("code", StringType(), False),
)

_ADDED: Final = (
    "previous_overdraft_limit",
    "previous_overdraft_limit_minor",
    "cause",
    "payout_reference",
    "transfer_id",
    "to_account_id",
    "from_account_id",
    "in_transit",
    "in_transit_minor",
    "code",
)
"""Columns that a table of an older release is given. Any other that is missing was taken away."""

SCHEMA: Final = Schema(
    *(NestedField(i, name, kind, required=required) for i, (name, kind, required) in enumerate(_COLUMNS, 1))
)

_SPEC: Final = PartitionSpec(
    PartitionField(SCHEMA.find_field("recorded_at").field_id, 1000, DayTransform(), "recorded_at_day")
)

_ORDER: Final = SortOrder(
    SortField(SCHEMA.find_field("partition").field_id, transform=IdentityTransform()),
    SortField(SCHEMA.find_field("offset").field_id, transform=IdentityTransform()),
)

_NO_RETRIES: Final = {TableProperties.COMMIT_NUM_RETRIES: "0"}
"""PyIceberg repeats a commit that lost against another, on top of that other one and with the summary as it was. A
writer whose place in the log is no longer true would so apply its events a second time."""

_PROPERTIES: Final = _NO_RETRIES | {
    TableProperties.PARQUET_COMPRESSION: "zstd",
    # A commit every few seconds leaves a metadata file and a manifest each.
    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
    TableProperties.METADATA_PREVIOUS_VERSIONS_MAX: "20",
    TableProperties.MANIFEST_MERGE_ENABLED: "true",
}


class EventsTable:
    """One ledger's table in its catalog. One thread uses it; everything may block.

    Methods raise `SinkUnavailable` when the catalog or the storage do not answer, `CheckpointMoved` when somebody else
    committed first, and `CannotProject` when asking again does not help.
    """

    def __init__(self, connections: Connections) -> None:
        """Raises: `NotConfigured`. Nothing is asked of the catalog yet."""
        must_be_configured(connections)
        self._connections = connections
        self._identifier = identifier(connections)
        self._file = sqlite_file(connections)
        self._kept: Catalog | None = None

    @property
    def name(self) -> str:
        return ".".join(self._identifier)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    @contextmanager
    def loaded(self) -> Iterator[Table]:
        """The table as it is now, to be used within the block; it is made when there is none.

        Raises also `CheckpointMoved` and `SinkUnavailable` for what the block's use of the table raises.
        """
        with self._answering(), self._catalog() as catalog:
            table = self._find(catalog)
            if table is None:
                table = self._make(catalog)
            self._add_columns(table)
            self._must_fit(table)
            if table.properties.get(TableProperties.COMMIT_NUM_RETRIES) != "0":
                with table.transaction() as transaction:
                    transaction.set_properties(_NO_RETRIES)
            yield table

    def place(self, table: Table, log: str, branch: str = MAIN_BRANCH) -> Place:
        """Where a branch stands in our log.

        Raises:
            CannotProject: it holds events of another log, or events and no place.
        """
        try:
            found = place(table.metadata, branch)
        except Misplaced as error:
            raise CannotProject(f"{self.name}: {error}. {self._anew()}") from error
        if found is None:
            head = table.metadata.snapshot_by_name(branch)
            if head is not None and (head.summary is None or head.summary.get("total-records") != "0"):
                raise CannotProject(
                    f"{self.name} holds rows, and no snapshot of branch {branch} says up to which offsets: the ones "
                    f"that did were expired by another program than `daybook analytics maintain`. {self._anew()}"
                )
            return Place(log, {})
        if found.log != log:
            raise CannotProject(
                f"{self.name} holds the events of another log: {found.log}, where ours is {log} (cluster id, topic, "
                f"topic id). Use another catalog or DAYBOOK_NAMESPACE or, if this table is of no use any more, drop it"
            )
        return found

    def _anew(self) -> str:
        return f"Dropping the table {self.name} has it made again from the log's start"

    @contextmanager
    def _catalog(self) -> Iterator[Catalog]:
        """An open catalog. A file is opened each time: it may have been deleted, or an older copy put in its place."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open_catalog(self._connections) as catalog:
                yield catalog
            return
        if self._kept is None:
            self._kept = open_catalog(self._connections)
        yield self._kept

    def _find(self, catalog: Catalog) -> Table | None:
        try:
            return catalog.load_table(self._identifier)
        except NoSuchTableError:
            return None
        except FileNotFoundError as error:
            folder = local_folder(self._connections.iceberg_warehouse)
            if folder is not None and not folder.exists():
                # The warehouse was deleted and its catalog, which is elsewhere, was not.
                catalog.drop_table(self._identifier)
                return None
            raise SinkUnavailable(
                f"the catalog has {self.name}, whose metadata is missing ({error}). Put warehouse and catalog back as "
                f"they were at one time. {self._anew()}"
            ) from error

    def _make(self, catalog: Catalog) -> Table:
        catalog.create_namespace_if_not_exists(self._identifier[0])
        try:
            return catalog.create_table(
                self._identifier, schema=SCHEMA, partition_spec=_SPEC, sort_order=_ORDER, properties=_PROPERTIES
            )
        except TableAlreadyExistsError:
            return catalog.load_table(self._identifier)

    def _add_columns(self, table: Table) -> None:
        """Give a table of an older release the optional columns that it lacks; its rows have nothing in them.

        In a commit of its own: the files that are there stay as they are. Other branches of the table get them too.
        """
        has = {field.name for field in table.schema().fields}
        lacking = [SCHEMA.find_field(name) for name in _ADDED if name not in has]
        if lacking:
            with table.update_schema() as update:
                for field in lacking:
                    update.add_column(field.name, field.field_type)

    def _must_fit(self, table: Table) -> None:
        has: Mapping[str, NestedField] = {field.name: field for field in table.schema().fields}
        for wanted in SCHEMA.fields:
            found = has.get(wanted.name)
            if found is None or found.field_type != wanted.field_type:
                is_there = "is missing" if found is None else f"is {found.field_type}"
                raise CannotProject(
                    f"column {wanted.name} of {self.name}, which should be {wanted.field_type}, {is_there}: the table "
                    f"was made or changed by something else. {self._anew()}"
                )
        spec = table.spec()
        if len(spec.fields) != 1 or not isinstance(spec.fields[0].transform, DayTransform):
            raise CannotProject(f"{self.name} is partitioned by {spec}, not by the day of recorded_at. {self._anew()}")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell failures that pass from those that don't."""
        try:
            yield
        except (CommitFailedException, ValidationException) as error:
            raise CheckpointMoved(f"somebody else committed to {self.name} first: {error}") from error
        except NoSuchTableError as error:
            raise CheckpointMoved(f"{self.name} was dropped: {error}") from error
        except (UnauthorizedError, ForbiddenError, OAuthError) as error:
            self.close()
            raise CannotProject(f"the Iceberg catalog refuses our credentials for {self.name}: {error}") from error
        except (RESTError, RequestException, SQLAlchemyError, OSError, ArrowException) as error:
            # Which of these pass cannot be told from their types: a full disk, a locked file, a server that starts.
            self.close()
            raise SinkUnavailable(f"Iceberg: {type(error).__name__}: {error}") from error
