"""One partition verified from its beginning to where it ended: what a worker does, in whatever process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from daybook import registry as schema_registry
from daybook.audit.findings import Finding
from daybook.audit.partition import Check, Findings, Mark
from daybook.audit.records import Records
from daybook.audit.snapshots import Snapshots
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections
from schemas.registry import RegistryUnavailable

if TYPE_CHECKING:
    from daybook.audit.trail import Trail

_REQUEST_TIMEOUT_S: Final = 30.0

_TELL_EVENTS: Final = 10_000
"""After how many records the progress is told: a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Which snapshots are compared (`daybook.audit.snapshots`), and where their partition ended."""

    share: float
    salt: bytes
    end: int
    topic_id: str
    """That of the events, which a restore mark names."""


@dataclass(frozen=True, slots=True)
class Task:
    """`end` is where the partition's committed events ended; `index_end` up to where the index has them, None to leave
    the index out."""

    connections: Connections
    partition: int
    partitions: int
    end: int
    marks: tuple[Mark, ...]
    index_end: int | None
    account_id: str | None
    snapshots: Sample | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What verifying a partition came to. `more` counts the findings that are not listed."""

    partition: int
    events: int
    accounts: int
    records: int
    indexed: int
    """How many events were found equal in the index."""
    unindexed: int
    """How many were not looked for there, since they are newer than what it has."""
    snapshots: int
    """How many snapshots were compared."""
    findings: list[Finding] = field(default_factory=list)
    more: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What partitions are read with, one after the other: connecting anew for each would cost a tenth of a second."""

    records: Records
    codec: Codec


@contextmanager
def reading(connections: Connections) -> Iterator[Reading]:
    """Raises: `NotConfigured`."""
    with (
        Records(connections, timeout_s=_REQUEST_TIMEOUT_S) as records,
        schema_registry.registry(connections) as registry,
    ):
        yield Reading(records, Codec(registry))


def verify(task: Task, using: Reading, tell: Callable[[int], None]) -> Done:
    """Blocks until all is read; `tell` is told how many offsets were passed since it was told last.

    Raises: `Unreachable`, `ReadTimeout`, `NotConfigured`.
    """
    connections, topic = task.connections, task.connections.topics.events
    in_log, in_index, in_snapshots = Findings(), Findings(), Findings()
    records, codec = using.records, using.codec
    with ExitStack() as opened:
        trail: Trail | None = None
        if task.index_end is not None:
            # Slow to import, in each process, and often left out.
            from daybook.audit.trail import Trail  # noqa: PLC0415

            trail = opened.enter_context(
                Trail(connections, in_index, task.partition, task.account_id, timeout_s=_REQUEST_TIMEOUT_S)
            )
            trail.begin(task.index_end)
        check = Check(codec, in_log, task.partition, task.partitions, task.marks, task.account_id)
        read, told, unindexed = 0, 0, 0
        own = f"{task.account_id}/".encode()
        sample: Snapshots | None = None
        try:
            if task.snapshots is not None:
                drawn = task.snapshots
                sample = Snapshots(codec, in_snapshots, task.partition, drawn.share, drawn.salt, drawn.topic_id)
                sample.read(records, connections.topics.snapshots, drawn.end)
            for message in records.read(topic, task.partition, 0, task.end):
                key, value, offset = message.key() or b"", message.value() or b"", message.offset() or 0
                check.event(key, value, offset)
                if trail is not None:
                    if offset < (task.index_end or 0):
                        _compare(codec, trail, value, offset, task.account_id)
                    elif task.account_id is None or key.startswith(own):
                        unindexed += 1
                if sample is not None:
                    sample.event(key, value, offset)
                read += 1
                if read % _TELL_EVENTS == 0:
                    tell(offset - told)
                    told = offset
            if sample is not None:
                sample.finish(records, topic, task.end)
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(connections, error) from error
        check.finish(task.end)
        if trail is not None:
            trail.finish()
            _beyond(records, trail, topic, task)
        tell(task.end - told)
    return Done(
        task.partition,
        check.events,
        check.accounts,
        check.records,
        0 if trail is None else trail.events,
        unindexed,
        0 if sample is None else sample.compared,
        [*in_log.listed, *in_index.listed, *in_snapshots.listed],
        in_log.more + in_index.more + in_snapshots.more,
    )


def _compare(codec: Codec, trail: Trail, value: bytes, offset: int, account_id: str | None) -> None:
    try:
        recorded = codec.decode_event(value)
    except Undecodable:
        # Told by the check of the log, or hidden behind a chain hash that does not fit.
        return
    if account_id is None or recorded.account_id == account_id:
        trail.event(recorded, offset)


def _beyond(records: Records, trail: Trail, topic: str, task: Task) -> None:
    """What the index has that is past the log's end: events that came meanwhile, or some that the log no longer has."""
    last = trail.beyond(task.end)
    if last is not None:
        # Asked after the index, so that the log has whatever the index has.
        end = records.ends(topic, [task.partition])[task.partition]
        if last >= end:
            trail.too_far(last, end)
