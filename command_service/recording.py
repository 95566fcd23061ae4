"""How what was decided is written: as events, holders' keys, follow-ups and replies.

Encoding alone can fail in here. Nothing is changed by it but the keys that a transaction is to write, which a failure
puts back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from command_service.accounts import Entry, Overlay
from command_service.domain.account import Decision, evolve
from command_service.domain.refusals import Rejection
from command_service.domain.transfers import REACTED_TO, react
from command_service.personal import concerns_holder, is_to_be_sealed, sealed
from command_service.records import Headers, Outgoing
from schemas.codec import Codec
from schemas.commands import AnyCommand, ClientCommand, CommandReply, CommandStatus, EraseHolder, FollowUp
from schemas.events import CHAIN_START, Event, RecordedEvent, event_id
from schemas.telemetry.latencies import issued_at_header
from schemas.topics import DECIDED_HEADER, Topics, event_key, partition_of

_DECIDED: Final = (DECIDED_HEADER, b"")


class Asked(Struct, frozen=True, gc=False):
    """What is asked of another account, encoded, and the partition of that account."""

    command: FollowUp
    partition: int
    value: bytes
    trace: Headers


class Recorded(Struct, frozen=True, gc=False):
    """A decision as it is to be written."""

    entry: Entry
    """The account after it."""
    events: list[Outgoing]
    keys: list[Outgoing]
    """What becomes of the key of the holder."""
    asks: list[Asked]
    """What the events ask of other accounts."""


class Recorder:
    """Makes records of decisions. One thread uses it."""

    def __init__(self, codec: Codec, topics: Topics, partitions: int) -> None:
        self._codec = codec
        self._partitions = partitions
        self._events: Final = topics.events
        self._followups: Final = topics.followups
        self._replies: Final = topics.replies
        self._subject_keys: Final = topics.subject_keys

    def record(
        self,
        command: ClientCommand,
        entry: Entry | None,
        events: Sequence[Event],
        overlay: Overlay,
        now: int,
        trace: Headers,
        *,
        measured: bool,
    ) -> Recorded:
        """The events that a client's command led to, at least one, at a time in microseconds since the Unix epoch.

        `measured` events bear the time of their command.
        """
        cause = command.command_id
        if not concerns_holder(command, entry):
            return self._record(command, cause, entry, events, overlay, now, trace, None, measured=measured)
        undo = overlay.keys.undo(command.account_id)
        try:
            key = self.key(command, overlay, now)
            return self._record(command, cause, entry, events, overlay, now, trace, key, measured=measured)
        except BaseException:
            undo()
            raise

    def record_follow_up(
        self,
        command: FollowUp,
        entry: Entry | None,
        events: Sequence[Event],
        overlay: Overlay,
        now: int,
        trace: Headers,
    ) -> Recorded:
        """As `record`, what a follow-up led to, in which nothing is personal."""
        return self._record(command, command.causation_id, entry, events, overlay, now, trace, None, measured=False)

    def _record(
        self,
        command: AnyCommand,
        cause: str,
        entry: Entry | None,
        events: Sequence[Event],
        overlay: Overlay,
        now: int,
        trace: Headers,
        key: list[Outgoing] | None,
        *,
        measured: bool,
    ) -> Recorded:
        """`key` is what becomes of the holder's key; None where the command does not concern it."""
        partition, keys = overlay.partition, overlay.keys
        account, chain_hash = (entry.account, entry.chain_hash) if entry else (None, CHAIN_START)
        subject = command.account_id
        records: list[Outgoing] = []
        asks: list[Asked] = []
        with_headers = [*trace, issued_at_header(command.issued_at)] if measured else trace or None
        for index, decided in enumerate(events):
            named = event_id(command.command_id, index, now)
            event = decided if key is None else sealed(decided, keys.sealer, subject, named)
            reason = command.reason
            if reason is not None and is_to_be_sealed(command, reason, keys):
                reason = keys.sealer.seal(reason, subject, named, "reason")
            account = evolve(account, event)
            # In the order of the fields of `RecordedEvent`.
            common: dict[str, object] = {
                "event_id": named,
                "account_id": subject,
                "sequence": account.sequence,
                "recorded_at": now,
                "effective_at": now if command.effective_at is None else command.effective_at,
                "user_id": command.user_id,
                "command_id": command.command_id,
                "correlation_id": command.correlation_id or command.command_id,
                "causation_id": cause,
                "reason": reason,
            }
            value, chain_hash = self._codec.encode_event(event, common, chain_hash)
            records.append(Outgoing(self._events, partition, event_key(subject, account.sequence), value, with_headers))
            if type(event) in REACTED_TO:
                # By place: by name costs twice as much, which transfers would feel.
                asked = react(RecordedEvent(*common.values(), chain_hash, event))  # type: ignore[arg-type, call-arg]
                if asked is not None:
                    asks.append(self.asked(asked, trace))
        if account is None:
            raise ValueError("a decision without events changes nothing")
        return Recorded(Entry(account, chain_hash, now), records, key or [], asks)

    def key(self, command: ClientCommand, overlay: Overlay, now: int) -> list[Outgoing]:
        """The record of what a command that was accepted does to the key of the holder; none where it does nothing."""
        subject, keys = command.account_id, overlay.keys
        if isinstance(command, EraseHolder):
            keys.erase(subject)
            value = None
        elif keys.has(subject):
            return []
        else:
            value = keys.create(subject, now)
        return [Outgoing(self._subject_keys, overlay.partition, subject.encode(), value)]

    def asked(self, command: FollowUp, trace: Headers) -> Asked:
        """A follow-up as it is to be written."""
        value = self._codec.encode_command(command)
        return Asked(command, partition_of(command.account_id, self._partitions), value, trace)

    def follow_up(self, asked: Asked, *, decided: bool) -> Outgoing:
        """The record of a follow-up, on the partition of the account that it is for.

        With `decided`, its outcome is written in the same transaction, and whoever reads it passes over it.
        """
        key = asked.command.account_id.encode()
        with_headers = [_DECIDED, *asked.trace] if decided else asked.trace or None
        return Outgoing(self._followups, asked.partition, key, asked.value, with_headers)

    def encode_reply(self, command: AnyCommand, entry: Entry | None, decision: Decision, now: int) -> bytes:
        """The reply to a command, given its account afterwards."""
        refusal = decision if isinstance(decision, Rejection) else None
        return self._codec.encode_reply(
            CommandReply(
                command_id=command.command_id,
                account_id=command.account_id,
                status=CommandStatus.ACCEPTED if refusal is None else CommandStatus.REJECTED,
                sequence=None if entry is None else entry.account.sequence,
                event_count=0 if isinstance(decision, Rejection) else len(decision),
                code=None if refusal is None else str(refusal.code),
                message=None if refusal is None else refusal.message,
                decided_at=now,
            )
        )

    def reply(self, command: AnyCommand, partition: int, reply: bytes, with_headers: Headers | None) -> Outgoing:
        """An encoded reply, on the partition of its account, so that whoever takes that partition can restore which
        command ids were answered."""
        return Outgoing(self._replies, partition, command.command_id.encode(), reply, with_headers)
