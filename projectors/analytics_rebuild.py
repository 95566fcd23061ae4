"""Building the analytics table anew on a branch of it, to which the branch that readers see is then set.

The copy is the branch `rebuild`, which begins empty: it shares no snapshot with `main`. The model that was live before
the last switch may be kept as the branch `rebuild-old`. The table's property `daybook.rebuild` has the copy's
fingerprint. What no branch has any more is forgotten, and its files are deleted, by `daybook analytics maintain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from projectors.analytics import AnalyticsProjector
from projectors.analytics_table import SCHEMA, EventsTable
from projectors.rebuilding import REOPENED, CannotRebuild, Comparison, Difference, LiveMoved
from projectors.source import Source
from schemas.iceberg import LeanTransaction, Place

COPY_BRANCH: Final = "rebuild"
OLD_BRANCH: Final = "rebuild-old"
FINGERPRINT_PROPERTY: Final = "daybook.rebuild"

_CHUNK_OFFSETS: Final = 100_000
"""Rows of both models that are compared at once: some hundred megabytes in memory."""

_COLUMNS: Final = tuple(field.name for field in SCHEMA.fields)


class AnalyticsRebuild:
    """See `projectors.rebuilding.Rebuildable`. Both branches change places by a commit that names where they stand."""

    name: Final = "analytics"
    can_be_held: Final = False

    def __init__(self, table: EventsTable, source: Source) -> None:
        self._table = table
        self._log = str(source)
        self.copy: Final = AnalyticsProjector(table, source, commit_interval_s=0.0, branch=COPY_BRANCH)

    def begun(self) -> str | None:
        with self._table.loaded() as table:
            return table.properties.get(FINGERPRINT_PROPERTY, "") if COPY_BRANCH in table.metadata.refs else None

    def kept(self) -> bool:
        with self._table.loaded() as table:
            return OLD_BRANCH in table.metadata.refs

    def begin(self, fingerprint: str) -> None:
        with self._table.loaded() as table:
            self._table.place(table, self._log)
            if table.current_snapshot() is None:
                # A table without any snapshot can have no branch but this one.
                self._begin_branch(table, MAIN_BRANCH, {})
            self._begin_branch(table, COPY_BRANCH, {FINGERPRINT_PROPERTY: fingerprint})

    def discard(self) -> None:
        with self._table.loaded() as table:
            there = [branch for branch in (COPY_BRANCH, OLD_BRANCH) if branch in table.metadata.refs]
            if there:
                self._set_branches(table, there, *(RemoveSnapshotRefUpdate(ref_name=branch) for branch in there))

    def compare(self, only: Collection[str] | None, tell: Callable[[int], None]) -> Comparison:
        result = Comparison()
        with self._table.loaded() as table:
            live, copy = self._heads(table)
            stands = self._table.place(table, self._log).offsets
            built = self._table.place(table, self._log, COPY_BRANCH).offsets
            for partition in sorted(stands.keys() & built.keys()):
                end = min(stands[partition], built[partition])
                for start in range(0, end, _CHUNK_OFFSETS):
                    until = min(start + _CHUNK_OFFSETS, end)
                    rows = f"partition = {partition} and offset >= {start} and offset < {until}"
                    _compare(_read(table, live, rows, only), _read(table, copy, rows, only), result)
                    tell(result.compared)
        return result

    def hold(self) -> None:
        """Nothing: the switch's commit is refused when the live model moved."""

    def release(self) -> None:
        pass

    def live_checkpoints(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        with self._table.loaded() as table:
            stands = self._table.place(table, self._log).offsets
            return {partition: stands.get(partition) for partition in partitions}

    def switch(self, keep_old: bool) -> None:
        with self._table.loaded() as table:
            live, copy = self._heads(table)
            stands = self._table.place(table, self._log).offsets
            built = self._table.place(table, self._log, COPY_BRANCH).offsets
            for partition, offset in stands.items():
                if offset > built.get(partition, 0):
                    raise LiveMoved(
                        f"partition {partition} of {self._table.name} stands at {offset}, its copy at "
                        f"{built.get(partition, 0)}"
                    )
            updates: list[TableUpdate] = [_set(MAIN_BRANCH, copy), RemoveSnapshotRefUpdate(ref_name=COPY_BRANCH)]
            if keep_old:
                updates.append(_set(OLD_BRANCH, live))
            try:
                self._set_branches(table, [MAIN_BRANCH, COPY_BRANCH], *updates)
            except CommitFailedException as error:
                raise LiveMoved(f"{self._table.name}: {error}") from error

    def reopen(self) -> None:
        if self.begun() == REOPENED:
            return
        with self._table.loaded() as table:
            old = table.metadata.refs.get(OLD_BRANCH)
            if old is None:
                raise CannotRebuild(
                    f"no old model of analytics was kept: {self._table.name} has no branch {OLD_BRANCH}. "
                    "`daybook rebuild analytics --keep-old` keeps one"
                )
            self._set_branches(
                table,
                [OLD_BRANCH],
                _set(COPY_BRANCH, old.snapshot_id),
                RemoveSnapshotRefUpdate(ref_name=OLD_BRANCH),
                SetPropertiesUpdate(updates={FINGERPRINT_PROPERTY: REOPENED}),
            )

    def _begin_branch(self, table: Table, branch: str, properties: dict[str, str]) -> None:
        """A branch with one snapshot, which has no rows and says of which log it will be."""
        transaction = LeanTransaction(table)
        if properties:
            transaction.set_properties(properties)
        place = Place(self._log, {})
        transaction.update_snapshot(snapshot_properties=place.summary(), branch=branch).fast_append().commit()
        transaction.commit_transaction()

    def _heads(self, table: Table) -> tuple[int, int]:
        """The newest snapshots of the live model and of the copy."""
        refs = table.metadata.refs
        if COPY_BRANCH not in refs or MAIN_BRANCH not in refs:
            raise CannotRebuild(f"{self._table.name} has no branch {COPY_BRANCH}: the copy was deleted. Begin again")
        return refs[MAIN_BRANCH].snapshot_id, refs[COPY_BRANCH].snapshot_id

    def _set_branches(self, table: Table, unmoved: Collection[str], *updates: TableUpdate) -> None:
        """One commit that is refused unless branches are where they are in `table`.

        It goes to the catalog itself: a transaction of PyIceberg keeps only the first requirement of a kind.
        """
        requirements: list[TableRequirement] = [AssertTableUUID(uuid=table.metadata.table_uuid)]
        for branch in unmoved:
            at = table.metadata.refs[branch].snapshot_id
            requirements.append(AssertRefSnapshotId(ref=branch, snapshot_id=at))
        table.catalog.commit_table(table, tuple(requirements), updates)


def _set(branch: str, snapshot_id: int) -> SetSnapshotRefUpdate:
    return SetSnapshotRefUpdate(
        ref_name=branch,
        type=SnapshotRefType.BRANCH,
        snapshot_id=snapshot_id,
        max_ref_age_ms=None,
        max_snapshot_age_ms=None,
        min_snapshots_to_keep=None,
    )


def _read(table: Table, snapshot_id: int, rows: str, only: Collection[str] | None) -> pa.Table:
    scan = table.scan(row_filter=rows, selected_fields=_COLUMNS, snapshot_id=snapshot_id)
    found = scan.to_arrow().sort_by("offset").combine_chunks()
    if only is None:
        return found
    of_these = pa.array(sorted(only), found.schema.field("account_id").type)
    return found.filter(pc.is_in(found["account_id"], value_set=of_these))


def _compare(live: pa.Table, copy: pa.Table, result: Comparison) -> None:
    """Compare rows of the same partition and offsets, both in order."""
    result.compared += max(len(live), len(copy))
    if live.equals(copy):
        return
    left, right = _by_offset(live), _by_offset(copy)
    for offset in sorted(left.keys() | right.keys()):
        ours, theirs = left.get(offset, []), right.get(offset, [])
        if ours != theirs:
            result.differs(_difference(ours, theirs))


def _by_offset(rows: pa.Table) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["offset"], []).append(row)
    return found


def _difference(live: list[dict[str, Any]], copy: list[dict[str, Any]]) -> Difference:
    row = (live or copy)[0]
    what = f"event {row['account_id']}/{row['sequence']} (partition {row['partition']}, offset {row['offset']})"
    if len(live) == len(copy) == 1:
        columns = [name for name in _COLUMNS if live[0][name] != copy[0][name]]
        return Difference(what, *(", ".join(f"{name} {rows[0][name]}" for name in columns) for rows in (live, copy)))
    return Difference(what, *(f"{len(rows)} rows" if rows else "is missing" for rows in (live, copy)))
