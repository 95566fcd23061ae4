"""Verifying a ledger: the log with itself, with its checkpoints, and with the audit index. Read `verify`.

1. Read the checkpoints and look at them by themselves: signatures, and whether each follows from the one before.
2. Take where the log's committed events end, and how far the index is: what comes later is not looked at.
3. Read every partition once, side by side: verify its chains, hash its tree, comparing it with what every checkpoint
   said of it, and compare each event with its document.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from daybook import registry as schema_registry
from daybook.audit import row, workers
from daybook.audit.findings import Finding, Kind
from daybook.audit.keys import PublicKeys
from daybook.audit.partition import Mark
from daybook.audit.records import Records, identity
from daybook.audit.row import Named
from daybook.audit.task import Done, Sample, Task
from daybook.errors import DaybookError
from daybook.positions import SEARCH, position
from schemas.checkpoints import Checkpoint
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.topics import partition_of

_REQUEST_TIMEOUT_S: Final = 30.0

Tell = Callable[[int, int], None]
"""Told how many offsets were passed, and of how many."""


class NoSuchAccount(DaybookError):
    """The log has nothing of the account that is to be verified."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be verified. `keys` are None to leave the checkpoints out, `kept` those that are kept elsewhere."""

    account_id: str | None
    jobs: int
    index: bool
    keys: PublicKeys | None
    kept: Sequence[Named] = ()
    snapshots: float = 0.0
    """The share of the snapshots that are compared, from 0 to 1."""


@dataclass(slots=True)
class Report:
    """What verifying came to. `more` counts the findings that are not listed; it is sound when there is none at all."""

    log: str
    events: int = 0
    accounts: int = 0
    partitions: int = 0
    records: int = 0
    """How many events were read and hashed, of whatever account."""
    seconds: float = 0.0
    checkpoints: int | None = None
    """How many of the ledger's were compared; None when they were left out."""
    newest: Checkpoint | None = None
    newer: int = 0
    """How many events are in no checkpoint yet."""
    kept: int = 0
    indexed: int | None = None
    """How many events were compared with the index; None when that was left out or failed."""
    unindexed: int = 0
    """How many events are newer than what the index has, and were not looked for there."""
    index_error: DaybookError | NotConfigured | None = None
    """Why the index could not be compared."""
    snapshots: int | None = None
    """How many snapshots were compared; None when they were left out."""
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    @property
    def sound(self) -> bool:
        return not self.findings


def verify(connections: Connections, wanted: Wanted, tell: Tell) -> Report:
    """Blocks until all of the log is read.

    Raises: `Unreachable`, `ReadTimeout`, `UnreadableRecord`, `NotConfigured`, when the log or the checkpoints could not
        be read. Of the index that is in the report.
        NoSuchAccount: the log has no event of the account, and nothing says that it should have.
    """
    topic = connections.topics.events
    with ExitStack() as opened:
        records = opened.enter_context(Records(connections, timeout_s=_REQUEST_TIMEOUT_S))
        count = records.partitions(topic)
        report = Report(identity(connections, timeout_s=_REQUEST_TIMEOUT_S))
        marks = _checkpoints(connections, records, opened, wanted, report)  # 1
        chosen = range(count) if wanted.account_id is None else [partition_of(wanted.account_id, count)]
        # Before the events', so that the log has whatever is in a snapshot.
        samples = _samples(connections, records, wanted, chosen, report.log)
        ends = records.ends(topic, chosen)  # 2
    index_ends = _index(connections, wanted, count, ends, report)
    tasks = [
        Task(
            connections,
            partition,
            count,
            end,
            tuple(marks.get(partition, ())),
            index_ends.get(partition),
            wanted.account_id,
            samples.get(partition),
        )
        for partition, end in ends.items()
    ]
    if samples:
        report.snapshots = 0
    total, passed, began = sum(ends.values()), 0, time.monotonic()

    def told(offsets: int) -> None:
        nonlocal passed
        passed += offsets
        tell(passed, total)

    _add(report, workers.verify(tasks, wanted.jobs, told))  # 3
    if wanted.account_id is not None and not report.events and report.sound:
        raise NoSuchAccount(f"there is no event of account {wanted.account_id} in the log, {report.log}")
    report.seconds = time.monotonic() - began
    if report.newest is not None:
        covered = sum(tree.size for tree in report.newest.partitions if tree.partition in ends)
        report.newer = max(0, report.records - covered)
    return report


def _samples(
    connections: Connections, records: Records, wanted: Wanted, partitions: Iterable[int], log: str
) -> dict[int, Sample]:
    if not wanted.snapshots:
        return {}
    # A topic id may have slashes in it.
    salt, topic_id = os.urandom(16), log.split("/", 2)[2]
    ends = records.ends(connections.topics.snapshots, list(partitions))
    return {partition: Sample(wanted.snapshots, salt, end, topic_id) for partition, end in ends.items()}


def _add(report: Report, done: Iterable[Done]) -> None:
    for one in done:
        report.partitions += 1
        report.events += one.events
        report.accounts += one.accounts
        report.records += one.records
        report.findings += one.findings
        report.more += one.more
        if report.snapshots is not None:
            report.snapshots += one.snapshots
        if report.indexed is not None:
            report.indexed += one.indexed
            report.unindexed += one.unindexed


def _checkpoints(
    connections: Connections, records: Records, opened: ExitStack, wanted: Wanted, report: Report
) -> dict[int, list[Mark]]:
    """What the checkpoints say of each partition; what is wrong with themselves goes into the report."""
    if wanted.keys is None:
        return {}
    codec = Codec(opened.enter_context(schema_registry.registry(connections)))
    marks: dict[int, list[Mark]] = {}
    checked, count = row.Row(), 0
    # Of all that were ever taken, those that are compared with others are held.
    asked_for = {named.checkpoint.number for named in wanted.kept}
    there: dict[int, Checkpoint] = {}
    for checkpoint in row.checkpoints(connections, records, codec):
        count += 1
        if checkpoint.number in asked_for:
            there.setdefault(checkpoint.number, checkpoint)
        out_of_row = checked.follows(checkpoint)
        if out_of_row is not None:
            _say(report, [out_of_row])
        named = Named(row.name_of(checkpoint), checkpoint)
        found = list(row.wrong_alone(named, wanted.keys, report.log))
        _say(report, found)
        if not _is_forged(found):
            _mark(marks, named, keep_frontier=False)
    for named in wanted.kept:
        found = list(row.wrong_alone(named, wanted.keys, report.log))
        report.findings += found
        if not _is_forged(found):
            _mark(marks, named, keep_frontier=True)
            report.findings += row.wrong_elsewhere([named], there, count)
    report.checkpoints, report.kept, report.newest = count, len(wanted.kept), checked.newest
    return marks


def _say(report: Report, found: Iterable[Finding]) -> None:
    """Take up what is wrong with the ledger's checkpoints: the first of each kind, which the others likely follow."""
    for finding in found:
        if any(one.kind is finding.kind for one in report.findings):
            report.more += 1
        else:
            report.findings.append(finding)


def _is_forged(found: Iterable[Finding]) -> bool:
    """Whether a checkpoint says nothing about the log, since it is not by whom it says."""
    return any(finding.kind is Kind.SIGNATURE for finding in found)


def _mark(marks: dict[int, list[Mark]], named: Named, *, keep_frontier: bool) -> None:
    for tree in named.checkpoint.partitions:
        of_partition = marks.setdefault(tree.partition, [])
        if (
            not of_partition
            or keep_frontier
            or of_partition[-1].size != tree.size
            or of_partition[-1].root != tree.root
        ):
            # Frontiers of all that were ever taken would fill the memory, and a neighbour narrows down as well.
            frontier = tree.frontier if keep_frontier else b""
            of_partition.append(Mark(named.name, tree.size, tree.offset, tree.root, frontier))


def _index(
    connections: Connections, wanted: Wanted, partitions: int, ends: dict[int, int], report: Report
) -> dict[int, int]:
    """Up to which offset each partition is to be compared with the index; empty when it is left out."""
    if not wanted.index:
        return {}
    from daybook.audit import trail  # noqa: PLC0415 - slow to import

    try:
        stands = position(connections, SEARCH, list(range(partitions)), timeout_s=_REQUEST_TIMEOUT_S)
        trail.refresh(connections, timeout_s=_REQUEST_TIMEOUT_S)
        lost = trail.nowhere(connections, partitions, timeout_s=_REQUEST_TIMEOUT_S)
    except (DaybookError, NotConfigured) as error:
        report.index_error = error
        return {}
    report.indexed = 0
    if stands.log not in (None, report.log):
        report.findings.append(
            Finding(
                Kind.OTHER_LOG,
                f"the audit index was made of the log {stands.log}, and this is {report.log} (cluster id, topic, "
                "topic id)",
                expected=report.log,
                found=stands.log,
            )
        )
    if lost is not None:
        account_id, _, sequence = lost.rpartition("/")
        report.findings.append(
            Finding(
                Kind.INDEX,
                f"the audit index has event {lost} at no place of the log",
                account_id,
                int(sequence) if sequence.isdecimal() else None,
                found=lost,
            )
        )
    return {partition: min(stands.offsets.get(partition, 0), end) for partition, end in ends.items()}
