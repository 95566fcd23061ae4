"""What each record that a restore reads does to the state of its partition: a snapshot, a mark, an event, a reply."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from confluent_kafka import Message

from command_service import metrics
from command_service.accounts import Entry, PartitionState
from command_service.answers import Answer, Answers, command_key
from command_service.domain.account import evolve
from command_service.packing import Packing
from command_service.records import headers, origin
from schemas.codec import ChainBroken, Undecodable
from schemas.commands import now_micros
from schemas.events import CHAIN_START, RecordedEvent
from schemas.snapshots import MARK_KEY, RestoreMark
from schemas.topics import FINGERPRINT_HEADER, Topics, parse_event_key

_log: Final = logging.getLogger(__name__)


class LogDamaged(Exception):
    """The log is not the unbroken history that it must be. Nothing is decided on top of it."""


class Replay:
    """Fills the states of some partitions, and holds every event against the one before it."""

    def __init__(self, topics: Topics, packing: Packing, states: Mapping[int, PartitionState]) -> None:
        self._topics = topics
        self._packing = packing
        self._states = states
        self._marks: dict[int, RestoreMark] = {}
        self._stale: set[int] = set()
        self._deleted: set[int] = set()
        """Partitions of which a snapshot was deleted, and not all were written anew since."""
        self._read: Counter[int] = Counter()
        self._behind: dict[str, tuple[int, str]] = {}
        """Accounts whose snapshots are newer than the events seen so far, with the last of these and its place."""
        self.events = 0
        self.snapshots = 0
        """How many snapshots the states were taken from. Those that were read and not used do not count."""

    def read(self, message: Message) -> None:
        """Take one record. Raises `LogDamaged`, `SnapshotDamaged` or `RegistryUnavailable`."""
        state = self._states[int(message.partition() or 0)]
        topic = message.topic()
        if topic == self._topics.snapshots:
            self._snapshot(message, state)
        elif topic == self._topics.events:
            self._event(message, state)
        elif topic == self._topics.subject_keys:
            self._key(message, state)
        else:
            _reply(message, state.answers)

    def _key(self, message: Message, state: PartitionState) -> None:
        try:
            state.keys.take(message.key() or b"", message.value(), message.timestamp()[1])
        except Undecodable as error:
            raise LogDamaged(f"{origin(message)}, which should be the key of a holder: {error}") from error

    def settle(self) -> None:
        """Keep the states within their bounds. Called now and then."""
        now = now_micros()
        for state in self._states.values():
            state.settle()
            state.answers.forget_old(now)

    def _snapshot(self, message: Message, state: PartitionState) -> None:
        partition = int(message.partition() or 0)
        key, value = message.key() or b"", message.value()
        if value is None or not self._packing.is_ours(value):
            # A service with another fingerprint wrote after us, or somebody deleted: what was marked may be no more.
            self._marks.pop(partition, None)
            self._stale.add(partition)
            if value is None and key == MARK_KEY:
                # All snapshots follow it, until the next mark.
                self._deleted.discard(partition)
            elif value is None:
                # A service that runs does not see it, and its next mark does not speak of this account.
                self._deleted.add(partition)
        elif key != MARK_KEY:
            state.put_snapshot(key.decode(errors="replace"), value)
            self._read[partition] += 1
        else:
            try:
                self._marks[partition] = self._packing.codec.decode_mark(value)
            except Undecodable as error:
                _log.warning("passed over %s, which is no restore mark: %s", origin(message), error)
                self._marks.pop(partition, None)

    def begin_events(self, log: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Where to begin with each partition's events: at its mark, or at the beginning, without any snapshot.

        `log` is where the events of each partition begin and end.
        """
        starts = {}
        for partition, state in self._states.items():
            mark, (begin, end) = self._marks.get(partition), log[partition]
            why = None
            if mark is None:
                why = "they are another program's, or no round of them was finished"
            elif partition in self._deleted:
                why = "one was deleted before the mark"
            elif state.count < mark.accounts:
                why = f"there are {state.count} of {mark.accounts}"
            elif not begin <= mark.events_offset <= end:
                why = f"the events up to offset {mark.events_offset} are in them, but the log ends at {end}"
            if mark is not None and why is None:
                starts[partition] = mark.events_offset
                self.snapshots += self._read[partition]
                continue
            if state.count or partition in self._stale:
                _log.warning(
                    "partition %d: the snapshots are not used, since %s: the state is restored from the events, and "
                    "the snapshots are written anew",
                    *(partition, why),
                )
                state.due = True
            state.forget_accounts()
            state.covered = False
            starts[partition] = begin
        metrics.RESTORED_SNAPSHOTS.inc(self.snapshots)
        return starts

    def _event(self, message: Message, state: PartitionState) -> None:
        where = origin(message)
        try:
            account_id, sequence = parse_event_key(message.key() or b"")
            entry = state.get(account_id)
            account, previous, expected = (
                (entry.account, entry.chain_hash, entry.account.sequence + 1) if entry else (None, CHAIN_START, 1)
            )
            if entry is not None and 0 < sequence < expected:
                if account_id in state.changed:
                    raise LogDamaged(f"{where}: event {sequence} of account {account_id} stands in the log twice")
                self._pass_over(message, account_id, sequence, entry)
            elif sequence != expected:
                raise LogDamaged(
                    f"{where}: account {account_id} goes on with event {sequence} where {expected} is due. "
                    "Events are missing or doubled; nothing is decided on this partition until that is explained"
                )
            else:
                recorded = self._packing.codec.decode_event(message.value(), previous=previous)
                _hold_against_key(recorded, account_id, sequence, where)
                state.put(account_id, Entry(evolve(account, recorded.event), recorded.chain_hash, recorded.recorded_at))
        except (ChainBroken, Undecodable, ValueError) as error:
            raise LogDamaged(f"{where}: {error}") from error
        state.events += 1
        self.events += 1
        metrics.RESTORED.inc()

    def _pass_over(self, message: Message, account_id: str, sequence: int, entry: Entry) -> None:
        """An event after the mark that the account's snapshot has already. The newest of them must be the very one."""
        where = origin(message)
        before = self._behind.pop(account_id, None)
        if before is not None and sequence != before[0] + 1:
            raise LogDamaged(
                f"{where}: account {account_id} goes on with event {sequence} where {before[0] + 1} is due. "
                "Events are missing or doubled; nothing is decided on this partition until that is explained"
            )
        if sequence < entry.account.sequence:
            self._behind[account_id] = sequence, where
            return
        recorded = self._packing.codec.decode_event(message.value())
        _hold_against_key(recorded, account_id, sequence, where)
        if recorded.chain_hash != entry.chain_hash:
            raise LogDamaged(
                f"{where}: event {sequence} of account {account_id} is not the one that its snapshot was taken at: "
                "its chain hash differs. One of the two was changed"
            )

    def end(self) -> None:
        """All was read.

        Raises:
            LogDamaged: a snapshot is newer than the events.
            UnknownKek, WrapBroken: keys of holders cannot be unwrapped.
        """
        for state in self._states.values():
            state.keys.check()
        for account_id, (sequence, where) in self._behind.items():
            raise LogDamaged(
                f"{where}: the log ends with event {sequence} of account {account_id}, whose snapshot is newer: events "
                "were lost. Nothing is decided on this partition until that is explained"
            )


def _hold_against_key(recorded: RecordedEvent, account_id: str, sequence: int, where: str) -> None:
    if (recorded.account_id, recorded.sequence) != (account_id, sequence):
        raise LogDamaged(f"{where}: the key {account_id}/{sequence} is not that of the event under it")


def _reply(message: Message, answers: Answers) -> None:
    """Remember an answer. A reply without a fingerprint is not the first answer to its command id, and stands aside."""
    value, key = message.value(), message.key()
    asked = dict(headers(message)).get(FINGERPRINT_HEADER)
    if not isinstance(asked, bytes) or value is None or key is None:
        return
    try:
        remembered = command_key(key.decode(), asked)
    except ValueError as error:
        _log.warning("passed over %s, which is no reply: its key is not a command's UUID: %s", origin(message), error)
        return
    _, timestamp_ms = message.timestamp()
    answers.remember(remembered, Answer(value, asked, timestamp_ms * 1000))
