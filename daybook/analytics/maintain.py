"""Keeping the analytics table's files in order, beside a projector that goes on writing.

1. Small files of a day are written together into one, and take their place in one commit. The commit carries the
   table's place in the log over; if the projector committed meanwhile it is made again on top of that.
2. Snapshots of a certain age are forgotten, but for those that branches, tags and the place need.
3. Files that nothing refers to any more are deleted, once they are so old that no commit under way can mean them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pyarrow.fs import FileInfo, FileSelector, FileType
from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO
from pyiceberg.table import FileScanTask, Table

from daybook.errors import DaybookError
from schemas.iceberg import LeanTransaction, Misplaced, expirable, expire, place, write_days

TARGET_BYTES: Final = 64 * 2**20
"""A file's size when small ones are put together: about half a million events, which are sorted in memory."""

_SMALL_BYTES: Final = TARGET_BYTES * 3 // 4
"""Files below this are small. What has nearly the target's size would be written again for little."""

_COMMIT_ATTEMPTS: Final = 20
"""A commit takes a fraction of the projector's interval, so that two of them rarely meet. Who loses so often competes
with something that commits without pause."""

OLDER_THAN: Final = timedelta(days=1)
ORPHANS_OLDER_THAN: Final = timedelta(days=1)
"""A file is written before the commit that refers to it, seconds before as a rule; a day is what nobody needs."""


class TableBusy(DaybookError):
    """Others commit to the table without pause."""


class TableUnusable(DaybookError):
    """The table is not one that the projector made."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the table's newest snapshot has, and how many snapshots there are."""

    files: int
    bytes: int
    rows: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done or, in a dry run, what would be."""

    before: Shape
    after: Shape
    rewritten_files: int
    written_files: int
    expired_snapshots: int
    deleted_orphans: int
    deleted_bytes: int
    dry_run: bool

    def record(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done, and how far it is, from 0 to 1."""

    what: str
    done: float


def maintain(
    table: Table,
    *,
    older_than: timedelta = OLDER_THAN,
    orphans_older_than: timedelta = ORPHANS_OLDER_THAN,
    target_bytes: int = TARGET_BYTES,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Do all three. Blocks for as long as it takes; stopped at any moment, what was committed stays and is right.

    What the catalog and the storage raise comes through, for `catalog.answering` to tell.

    Args:
        older_than: snapshots younger than this stay.
        orphans_older_than: files younger than this stay. It must be longer than anything takes that writes.

    Raises:
        TableBusy: others committed first, each of many times.
        TableUnusable: the table's place in the log cannot be read.
    """
    before = shape(table)
    rewritten, written = 0, 0
    groups = list(_groups(table, target_bytes))
    for i, group in enumerate(groups):
        on_progress(Progress("putting small files together", i / len(groups)))
        new = 1 if dry_run else _rewrite(table, group)
        if new:
            rewritten, written = rewritten + len(group), written + new
    on_progress(Progress("forgetting old snapshots", 0.0))
    now = datetime.now(UTC)
    expired = _expire(table, now - older_than, dry_run=dry_run)
    on_progress(Progress("looking for files that nothing refers to", 0.0))
    orphans = _orphans(table, now - orphans_older_than)
    if not dry_run:
        for i, orphan in enumerate(orphans):
            if i % 100 == 0:
                on_progress(Progress("deleting files that nothing refers to", i / len(orphans)))
            table.io.delete(orphan.location)
    return Outcome(
        before=before,
        after=before if dry_run else shape(table),
        rewritten_files=rewritten,
        written_files=written,
        expired_snapshots=expired,
        deleted_orphans=len(orphans),
        deleted_bytes=sum(orphan.bytes for orphan in orphans),
        dry_run=dry_run,
    )


def shape(table: Table) -> Shape:
    files = [task.file for task in table.scan().plan_files()]
    return Shape(
        len(files),
        sum(file.file_size_in_bytes for file in files),
        sum(file.record_count for file in files),
        len(table.metadata.snapshots),
    )


def _groups(table: Table, target_bytes: int) -> Iterator[list[FileScanTask]]:
    """Small files that belong together: of one day, and of the target's size in sum."""
    days: dict[object, list[FileScanTask]] = {}
    for task in table.scan().plan_files():
        # Rows that another program deleted from a file must not come back, so that such files are left to it.
        small = task.file.file_size_in_bytes < target_bytes * _SMALL_BYTES // TARGET_BYTES
        if small and not task.delete_files and task.file.spec_id == table.spec().spec_id:
            days.setdefault(task.file.partition[0], []).append(task)
    for tasks in days.values():
        group: list[FileScanTask] = []
        size = 0
        # The smallest first: what was put together before is written again only with enough that is new.
        for task in sorted(tasks, key=lambda task: task.file.file_size_in_bytes):
            if group and size + task.file.file_size_in_bytes > target_bytes:
                if len(group) > 1:
                    yield group
                group, size = [], 0
            group.append(task)
            size += task.file.file_size_in_bytes
        if len(group) > 1:
            yield group


def _rewrite(table: Table, group: Sequence[FileScanTask]) -> int:
    """Put files together; 0 when some of them have meanwhile gone, else the number of files that were written."""
    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    rows = scan.to_table(group).sort_by([("partition", "ascending"), ("offset", "ascending")])
    expected = sum(task.file.record_count for task in group)
    if len(rows) != expected:
        raise TableUnusable(f"files of {table.name()} hold {len(rows)} rows, where their manifest says {expected}")
    new = write_days(table, rows)

    def replace() -> None:
        stands = place(table.metadata)
        transaction = LeanTransaction(table)
        carried = {} if stands is None else stands.summary()
        with transaction.update_snapshot(snapshot_properties=carried).overwrite() as overwrite:
            for task in group:
                overwrite.delete_data_file(task.file)
            for file in new:
                overwrite.append_data_file(file)
        transaction.commit_transaction()

    try:
        _commit(table, replace)
    except ValidationException:
        # A file of the group is no longer in the table: somebody else put it together, or a rebuild was switched in.
        for file in new:
            table.io.delete(file.file_path)
        table.refresh()
        return 0
    return len(new)


def _expire(table: Table, until: datetime, *, dry_run: bool) -> int:
    until_ms = int(until.timestamp() * 1000)
    count = 0

    def forget() -> None:
        nonlocal count
        old = [snapshot for snapshot in expirable(table.metadata) if snapshot.timestamp_ms < until_ms]
        count = len(old)
        if old and not dry_run:
            expire(table, old)

    _commit(table, forget)
    return count


def _commit(table: Table, attempt: Callable[[], None]) -> None:
    """Make a commit on top of whatever is the newest snapshot."""
    for _ in range(_COMMIT_ATTEMPTS):
        try:
            return attempt()
        except CommitFailedException:
            table.refresh()
        except Misplaced as error:
            raise TableUnusable(f"{'.'.join(table.name())}: {error}") from error
    raise TableBusy(
        f"others committed to {'.'.join(table.name())} first, {_COMMIT_ATTEMPTS} times in a row: try again later, or "
        "let the projector commit less often (DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S)"
    )


@dataclass(frozen=True, slots=True)
class _Orphan:
    location: str
    bytes: int


def _orphans(table: Table, until: datetime) -> list[_Orphan]:
    """Files under the table's own folders that no snapshot refers to, written before a time."""
    if not isinstance(table.io, PyArrowFileIO):
        return []
    found: list[tuple[str, FileInfo]] = []
    locations = table.location_provider()
    for folder in sorted({locations.data_path, locations.metadata_path}):
        scheme, netloc, path = table.io.parse_location(folder)
        filesystem = table.io.fs_by_scheme(scheme, netloc)
        found += [
            (folder + info.path.removeprefix(path), info)
            for info in filesystem.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
            if info.type == FileType.File and info.mtime is not None and info.mtime < until
        ]
    # Looked up after the folders were listed: what was committed in between is among the files that are referred to.
    table.refresh()
    needed = {table.io.parse_location(location)[2] for location in _referred_to(table)}
    return [_Orphan(location, info.size or 0) for location, info in found if info.path not in needed]


def _referred_to(table: Table) -> Iterable[str]:
    metadata = table.metadata
    yield table.metadata_location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics))
    read: set[str] = set()
    for snapshot in metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path in read:
                continue
            read.add(manifest.manifest_path)
            yield manifest.manifest_path
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
                yield entry.data_file.file_path
