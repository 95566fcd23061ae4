"""Rounds of snapshots: which accounts of a partition are written when, and when that is marked.

A round begins between two transactions: it notes where the partition's events end, and which accounts changed since the
round before. Each transaction that follows writes some of these accounts as they are then, and the last one writes the
mark, which says that all events before the place that was noted are in the snapshots. An account may be snapshotted
later than that place; who restores passes over the events that a snapshot has already.

Whoever begins a round of all accounts, since there was no mark that it could use, first takes back the mark that is
there: from then on the snapshots are no longer those that it speaks of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from command_service import metrics
from command_service.records import Outgoing
from schemas.commands import now_micros
from schemas.snapshots import MARK_KEY, RestoreMark

if TYPE_CHECKING:
    from command_service.accounts import PartitionState

_log: Final = logging.getLogger(__name__)

_COMMANDS_A_SNAPSHOT: Final = 10
"""Beside commands, a snapshot is written for so many of them: it costs less than a command does, so a round takes a few
in a hundred from the throughput, however many accounts it has."""

_LEAST: Final = 20
"""Snapshots in a transaction at least: less than a millisecond's work."""

_IDLE: Final = 1_000
"""Snapshots in a transaction without commands. The next command waits for some tens of milliseconds."""


@dataclass(slots=True)
class Round:
    """A round that is under way."""

    events_offset: int
    account_ids: list[str]
    accounts: int
    """How many accounts the snapshots will hold at the least. Those opened during the round may not be among them."""
    whole: bool
    """Whether it is of all accounts, so that the mark is taken back first."""
    written: int = 0


@dataclass(slots=True)
class _Part:
    """What one transaction writes of a partition's round."""

    state: PartitionState
    round: Round
    snapshots: list[tuple[str, bytes]]
    is_last: bool


@dataclass(slots=True)
class Due:
    """What one transaction writes of all rounds. Nothing has happened until `committed` is called."""

    records: list[Outgoing] = field(default_factory=list)
    parts: dict[int, _Part] = field(default_factory=dict)

    def committed(self) -> None:
        """The transaction is committed. To be called before its overlays are, which may change the same accounts."""
        for partition, part in self.parts.items():
            state = part.state
            part.round.written += len(part.snapshots)
            metrics.SNAPSHOTS.inc(len(part.snapshots))
            if state.samples is not None:
                for account_id, snapshot in part.snapshots:
                    if state.samples.wants(account_id):
                        state.samples.snapshotted(account_id, snapshot)
            if part.is_last:
                state.round, state.covered = None, True
                metrics.ROUNDS.inc()
                _log.info(
                    "partition %d: wrote %d snapshots; a restore reads the events from offset %d on",
                    *(partition, part.round.written, part.round.events_offset),
                )


class Rounds:
    """Begins rounds and gives out their parts. All methods are called by the loop's thread, between transactions."""

    def __init__(self, topic: str, every: int) -> None:
        """A partition's round begins when `every` events were added to it since the last one began."""
        self._topic = topic
        self._every = every

    def begin(
        self, states: Mapping[int, PartitionState], events_end: Callable[[int], int], least: int | None = None
    ) -> None:
        """Begin the rounds that are due.

        `events_end` gives the offset up to which a partition's events are committed, every one of them by us or
        restored by us. `least` is how many events make a round due, if not as many as usual.
        """
        for partition, state in states.items():
            if state.round is not None or not (state.due or state.events >= (least or self._every)):
                continue
            end = events_end(partition)
            whole = not state.covered
            state.round = Round(end, state.ids() if whole else list(state.changed), state.count, whole)
            state.changed.clear()
            state.events, state.due = 0, False

    def running(self, states: Mapping[int, PartitionState]) -> bool:
        return any(state.round is not None for state in states.values())

    def due(self, states: Mapping[int, PartitionState], commands: int) -> Due:
        """What the next transaction, with so many commands, is to write of the rounds that are under way.

        Raises:
            SnapshotDiffers: a sampled account is not what its events say.
        """
        running = {partition: state for partition, state in states.items() if state.round is not None}
        due = Due()
        if running:
            most = max(_LEAST, commands // _COMMANDS_A_SNAPSHOT) if commands else _IDLE
            for partition, state in running.items():
                self._add(partition, state, max(1, most // len(running)), due)
        return due

    def _add(self, partition: int, state: PartitionState, most: int, due: Due) -> None:
        now = state.round
        assert now is not None  # noqa: S101 - only running rounds are asked
        at, topic = now.written, self._topic
        ids = now.account_ids[at : at + most]
        snapshots = [(account_id, state.snapshot(account_id)) for account_id in ids]
        if state.samples is not None:
            for account_id, snapshot in snapshots:
                if state.samples.wants(account_id):
                    state.samples.check(account_id, snapshot)
        if at == 0 and now.whole:
            due.records.append(Outgoing(topic, partition, MARK_KEY, None))
        due.records += [Outgoing(topic, partition, account_id.encode(), value) for account_id, value in snapshots]
        is_last = at + len(ids) == len(now.account_ids)
        if is_last:
            mark = RestoreMark(
                fingerprint=state.packing.fingerprint,
                partition=partition,
                events_topic_id=state.packing.events_topic_id,
                events_offset=now.events_offset,
                accounts=now.accounts,
                taken_at=now_micros(),
            )
            due.records.append(Outgoing(topic, partition, MARK_KEY, state.packing.codec.encode_snapshot(mark)))
        due.parts[partition] = _Part(state, now, snapshots, is_last)
