"""Looking through the Iceberg table for what is left of an erased holder: each data file that any snapshot refers to.

It needs what `daybook[analytics]` installs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.lib import ArrowException
from pyiceberg.table import Table

from daybook.analytics.catalog import account_events, answering
from daybook.erasure.places import Place, State
from daybook.erasure.texts import Texts
from daybook.errors import ModelMissing
from daybook.progress import Progress, Tell
from schemas.connections import Connections

_ROWS: Final = 50_000


def look(connections: Connections, account_id: str, texts: Texts, tell: Tell) -> Place:
    """Raises: `Unreachable`, `NotConfigured`."""
    name = "Iceberg table"
    try:
        with account_events(connections) as table:
            found = _found_in(connections, table, account_id, texts, tell)
    except ModelMissing:
        return Place(name, State.CLEAR, "there is no table")
    if found:
        return Place(name, State.FOUND, f"data files with a text of the holder's: {', '.join(found[:5])}")
    return Place(name, State.CLEAR)


def _found_in(connections: Connections, table: Table, account_id: str, texts: Texts, tell: Tell) -> list[str]:
    found = []
    with answering(connections):
        paths = sorted(set(table.inspect.all_files()["file_path"].to_pylist())) if table.snapshots() else []
        for done, path in enumerate(paths):
            tell(Progress("looking through the Iceberg table's files", done, len(paths)))
            with table.io.new_input(path).open() as opened:
                if in_parquet(opened, account_id, texts):
                    found.append(path)
    return found


def in_parquet(source: Any, account_id: str, texts: Texts) -> bool:
    """Whether one of the texts stands in a column of this account's rows. Those of other accounts are noted as theirs.

    `source` is a path or an open file. Parquet is compressed, so that looking for bytes would find nothing.
    """
    with pq.ParquetFile(source) as file:
        kinds = (pa.types.is_string, pa.types.is_large_string)
        columns = [each.name for each in file.schema_arrow if any(is_kind(each.type) for is_kind in kinds)]
        owned = "account_id" in columns
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            for column in columns:
                for text in texts.texts:
                    has = pc.fill_null(pc.match_substring(batch[column], text), False)
                    if not pc.any(has).as_py():
                        continue
                    owners = set(batch.filter(has)["account_id"].to_pylist()) if owned else {account_id}
                    for owner in owners - {account_id}:
                        texts.also_of(owner, [text])
                    if account_id in owners:
                        return True
    return False


def in_file(path: Path, account_id: str, texts: Texts) -> bool:
    """`in_parquet` for a file that may be half written or gone: then there is nothing to be said of it."""
    try:
        return in_parquet(path, account_id, texts)
    except (OSError, ArrowException):
        return False
