"""The analytics table as a program that reads it gets it. Needs what `daybook[analytics]` installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow.lib import ArrowException
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, RESTError
from pyiceberg.table import Table
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from daybook.errors import ModelMissing, Unreachable
from schemas.connections import Connections
from schemas.iceberg import catalog_address, identifier, open_catalog, sqlite_file

SERVER = "Iceberg"


@contextmanager
def account_events(connections: Connections) -> Iterator[Table]:
    """The table as it is now, usable within the block; `table.refresh()` shows what came later. Blocks.

    Where it stands in the log: `schemas.iceberg.place(table.metadata)`.

    Raises:
        Unreachable: there is no such table yet, or the catalog or the files cannot be read.
        NotConfigured: it is not said which catalog.
    """
    file = sqlite_file(connections)
    if file is not None and not file.exists():
        # Opening it would make an empty one.
        raise _missing(connections, f"there is no file {file}")
    with answering(connections), open_catalog(connections) as catalog:
        try:
            table = catalog.load_table(identifier(connections))
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            raise _missing(connections, str(error)) from error
        yield table


@contextmanager
def answering(connections: Connections) -> Iterator[None]:
    """Tell what a catalog or a storage raises that does not answer as `Unreachable`."""
    try:
        yield
    except (RequestException, SQLAlchemyError, RESTError, OSError, ArrowException) as error:
        raise Unreachable(SERVER, catalog_address(connections), f"{type(error).__name__}: {error}") from error


def _missing(connections: Connections, why: str) -> ModelMissing:
    return ModelMissing(
        SERVER,
        catalog_address(connections),
        f"{why}. The analytics projector makes the table: is it running (`daybook-projector analytics`)?",
    )
