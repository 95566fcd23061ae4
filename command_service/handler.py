"""One command's way: decode, route, dedupe, decide, evolve, encode, react.

Nothing is sent here: what a command leads to is collected, and the transaction sends it. So a batch can be decided
before its transaction begins, and decided again after an abort.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from confluent_kafka import Message

from command_service.accounts import Entry, Overlay
from command_service.answers import Answer, command_key, fingerprint
from command_service.domain.account import Decision, decide, evolve
from command_service.domain.refusals import Code, Rejection
from command_service.domain.transfers import react, react_to_refusal
from command_service.keys import SubjectKeys
from command_service.packing import SnapshotDamaged
from command_service.personal import concerns_holder, is_to_be_sealed, known, sealed
from command_service.records import Headers, Outgoing, headers, origin, place
from command_service.spill import SpillFailed
from schemas.codec import Codec, Undecodable
from schemas.commands import (
    AnyCommand,
    CommandReply,
    CommandStatus,
    CompleteTransfer,
    EraseHolder,
    FollowUp,
    ReceiveTransfer,
    ReturnTransfer,
)
from schemas.events import CHAIN_START, Event, RecordedEvent, TransferReceived, TransferSent, event_id
from schemas.keys import UnknownKek, WrapBroken
from schemas.registry import RegistryUnavailable
from schemas.sealing import SealBroken
from schemas.telemetry.latencies import issued_at_header
from schemas.telemetry.traces import TRACEPARENT, Span, Tracer, parent
from schemas.topics import FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT, REPLAYED_HEADER, Topics, event_key, partition_of

_log: Final = logging.getLogger(__name__)

_CLIENTS_PARTITIONER: Final = -1
_MAX_DETAIL: Final = 1000

_MEASURED: Final = 100
_MEASURED_EVERY: Final = 10
"""Which events bear the time of their command, by which projectors measure: those of so many commands of a batch, and
of every so-manyth after them. In large batches a header on each would cost a twentieth of the throughput."""


@dataclass(slots=True)
class Outcomes:
    """What one batch leads to: the records to send, and the counts to publish once they are committed."""

    outgoing: list[Outgoing] = field(default_factory=list)
    answered: dict[tuple[str, str], int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    forwarded: int = 0
    follow_ups: dict[str, int] = field(default_factory=dict)
    issued_us: list[int] = field(default_factory=list)
    """When the commands were issued that are answered for the first time."""
    spans: list[Span] = field(default_factory=list)
    """Of the commands that are traced, to be ended with the transaction."""

    def count(self, outcome: str, code: str = "") -> None:
        self.answered[outcome, code] = self.answered.get((outcome, code), 0) + 1


class Handler:
    """Decides commands. One thread at a time; the only state it changes is the overlay it is given."""

    def __init__(
        self, codec: Codec, topics: Topics, partitions: int, *, max_command_bytes: int, tracer: Tracer | None = None
    ) -> None:
        self._codec = codec
        self._topics = topics
        self._partitions = partitions
        self._max_command_bytes = max_command_bytes
        self._tracer = tracer

    def handle(self, record: Message, overlay: Overlay, now: int, outcomes: Outcomes) -> None:
        """Add what a record of the commands topic, or of that of follow-ups, leads to.

        `now` is in microseconds since the Unix epoch.

        Raises:
            RegistryUnavailable: its schema is not known here and cannot be asked for; the record is untouched.
            SnapshotDamaged, SpillFailed, UnknownKek, WrapBroken, SealBroken: what is held of its account cannot be had.
        """
        value = record.value()
        is_follow_up = record.topic() == self._topics.followups
        # What follows from a command that was accepted may be longer than it by a little.
        if not is_follow_up and value is not None and len(value) > self._max_command_bytes:
            detail = f"the command has {len(value)} bytes; at most {self._max_command_bytes} are accepted"
            self._park(record, "oversize", detail, outcomes)
            return
        try:
            command = self._codec.decode_command(value)
        except Undecodable as error:
            self._park(record, error.reason, str(error), outcomes)
            return
        if is_follow_up and not isinstance(command, FollowUp):
            detail = f"{type(command).__name__} is a client's command: it belongs on {self._topics.commands}"
            self._park(record, "not_a_follow_up", detail, outcomes)
            return
        home = self._home(command.account_id, record, overlay)
        if home != record.partition():
            self._forward(record, home, outcomes)
            return
        span = None if self._tracer is None else self._traced(self._tracer, record, command, outcomes)
        try:
            if isinstance(command, FollowUp) and not is_follow_up:
                self._turn_away(command, home, overlay, now, outcomes, span)
            elif isinstance(command, CompleteTransfer | ReturnTransfer):
                self._settle(command, home, overlay, now, outcomes, span)
            else:
                self._answer(command, home, overlay, now, outcomes, span)
        except (SnapshotDamaged, SpillFailed, UnknownKek, WrapBroken, SealBroken):
            # The state cannot be had, which is no fault of the command.
            raise
        except Exception as error:
            # Whatever goes wrong between decoding and encoding is a defect of ours, of which the record is the
            # witness. It is kept in full, and the other accounts' commands go on.
            _log.exception("parked %s: deciding it failed", origin(record), extra=place(record) | _ids(command))
            if span is not None:
                span.note(daybook__outcome="parked", daybook__code="undecidable")
            self._park(record, "undecidable", f"{type(error).__name__}: {error}", outcomes, _ids(command))

    def about(self, record: Message) -> dict[str, object]:
        """What a log line about a record says in fields: its place and, where it can be decoded, whose it is."""
        try:
            return place(record) | _ids(self._codec.decode_command(record.value()))
        except (Undecodable, RegistryUnavailable):
            return place(record)

    def _traced(self, tracer: Tracer, record: Message, command: AnyCommand, outcomes: Outcomes) -> Span | None:
        """A span for a command that is traced."""
        above = parent(headers(record))
        if above is None:
            return None
        span = tracer.begin(
            f"decide {type(command).__name__}",
            "CONSUMER",
            above,
            messaging__system="kafka",
            messaging__destination__name=str(record.topic()),
            messaging__destination__partition__id=str(record.partition()),
            messaging__kafka__offset=int(record.offset() or 0),
            daybook__account_id=command.account_id,
            daybook__command_id=command.command_id,
            daybook__correlation_id=command.correlation_id or command.command_id,
        )
        outcomes.spans.append(span)
        return span

    def _home(self, account_id: str, record: Message, overlay: Overlay) -> int:
        """The partition that an account lives in."""
        here = record.partition()
        if here is not None and overlay.entry(account_id) is not None:
            return here
        return partition_of(account_id, self._partitions)

    def _answer(
        self,
        command: AnyCommand,
        partition: int,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        trace = _trace(span)
        asked = FOLLOW_UP_FINGERPRINT if isinstance(command, FollowUp) else fingerprint(command)
        key = command_key(command.command_id, asked)
        earlier = overlay.answer(key)
        if earlier is not None and earlier.fingerprint == asked:
            again: Headers = [(FINGERPRINT_HEADER, asked), (REPLAYED_HEADER, b"1"), *trace]
            outcomes.outgoing.append(self._reply_record(command, partition, earlier.reply, again))
            outcomes.count("replayed")
            _note(span, "replayed")
            return
        outcomes.issued_us.append(command.issued_at)
        entry = overlay.entry(command.account_id)
        if earlier is not None:
            refusal = Rejection(
                Code.COMMAND_ID_REUSED,
                "this command id was used for another command: every new intention needs an id of its own",
            )
            self._refuse_aside(command, partition, entry, refusal, now, outcomes, span)
            return
        # Clocks differ between instances; neither within an account's stream does time run backwards, nor from one
        # account's event to what follows from it on another.
        if entry is not None:
            now = max(now, entry.recorded_at)
        if isinstance(command, ReceiveTransfer):
            now = max(now, command.issued_at)
        decision = decide(known(command, entry, overlay.keys), command, now)
        events: list[Outgoing] = []
        keys: list[Outgoing] = []
        asks: list[FollowUp] = []
        if not isinstance(decision, Rejection) and decision:
            answered = len(outcomes.issued_us)
            measured = answered <= _MEASURED or answered % _MEASURED_EVERY == 0
            entry, events, keys, asks = self._record_with_key(
                command, partition, entry, decision, now, trace, overlay.keys, measured=measured
            )
        elif isinstance(decision, Rejection) and isinstance(command, ReceiveTransfer):
            asks = [react_to_refusal(command, decision, now)]
        follow_ups = [self._follow_up(asked, trace) for asked in asks]
        reply = self._encode_reply(command, entry, decision, now)
        # Nothing can fail from here on: a command is either recorded and answered, or neither.
        if events and entry is not None:
            overlay.put(command.account_id, entry, [event.value or b"" for event in events])
            outcomes.outgoing.extend(events)
        outcomes.outgoing.extend(keys)
        outcomes.outgoing.extend(follow_ups)
        for each in asks:
            outcomes.follow_ups[type(each).__name__] = outcomes.follow_ups.get(type(each).__name__, 0) + 1
        overlay.remember(key, Answer(reply, asked, now))
        outcomes.outgoing.append(self._reply_record(command, partition, reply, [(FINGERPRINT_HEADER, asked), *trace]))
        if isinstance(decision, Rejection):
            self._refused(command, decision, outcomes, span)
        else:
            outcomes.count("accepted")
            _note(span, "accepted")

    def _settle(
        self,
        command: CompleteTransfer | ReturnTransfer,
        partition: int,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """End a transfer at its source. Given again it finds nothing in transit, so its id need not be remembered."""
        entry = overlay.entry(command.account_id)
        now = max(now, command.issued_at, entry.recorded_at if entry else 0)
        decision = decide(entry.account if entry else None, command, now)
        if isinstance(decision, Rejection):
            # Money is in transit from an account that cannot have it back: somebody must look.
            raise ValueError(f"{decision.code}: {decision.message}")  # noqa: TRY004 - it is no matter of types
        trace = _trace(span)
        events: list[Outgoing] = []
        if decision:
            entry, events, _ = self._record(
                command, partition, entry, decision, now, trace, overlay.keys, measured=False
            )
        # Whoever waits for the transfer is told that the money is back.
        reply = self._encode_reply(command, entry, decision, now) if isinstance(command, ReturnTransfer) else None
        if events and entry is not None:
            overlay.put(command.account_id, entry, [event.value or b"" for event in events])
            outcomes.outgoing.extend(events)
        if reply is not None:
            asked: Headers = [(FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT), *trace]
            outcomes.outgoing.append(self._reply_record(command, partition, reply, asked))
        outcomes.count("accepted")
        _note(span, "accepted")

    def _turn_away(
        self,
        command: FollowUp,
        partition: int,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Refuse a follow-up that somebody else gave. It is not remembered, since the real one may have the same id."""
        refusal = Rejection(
            Code.NOT_A_CLIENT_COMMAND,
            f"{type(command).__name__} is for the command service alone to give; Transfer sends money",
        )
        self._refuse_aside(command, partition, overlay.entry(command.account_id), refusal, now, outcomes, span)

    def _refuse_aside(
        self,
        command: AnyCommand,
        partition: int,
        entry: Entry | None,
        refusal: Rejection,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Refuse a command whose id stands, or may stand, for another one: this is not the id's first answer."""
        reply = self._encode_reply(command, entry, refusal, now)
        # Without a fingerprint, so that a restore does not take it for that either.
        outcomes.outgoing.append(self._reply_record(command, partition, reply, _trace(span) or None))
        self._refused(command, refusal, outcomes, span)

    def _refused(self, command: AnyCommand, refusal: Rejection, outcomes: Outcomes, span: Span | None) -> None:
        outcomes.count("refused", refusal.code)
        _note(span, "refused", refusal.code)
        if _log.isEnabledFor(logging.DEBUG):
            about = _ids(command) | {"code": str(refusal.code)}
            _log.debug(
                "refused command %s on account %s as %s: %s",
                *(command.command_id, command.account_id, refusal.code, refusal.message),
                extra=about,
            )

    def _record_with_key(
        self,
        command: AnyCommand,
        partition: int,
        entry: Entry | None,
        events: Sequence[Event],
        now: int,
        trace: Headers,
        keys: SubjectKeys,
        *,
        measured: bool,
    ) -> tuple[Entry, list[Outgoing], list[Outgoing], list[FollowUp]]:
        """As `_record`, and in the third place what becomes of the holder's key, which a failure leaves as it was."""
        if isinstance(command, FollowUp) or not concerns_holder(command):
            after, records, asks = self._record(command, partition, entry, events, now, trace, keys, measured=measured)
            return after, records, [], asks
        undo = keys.undo(command.account_id)
        try:
            key = self._key(command, partition, keys, now)
            after, records, asks = self._record(command, partition, entry, events, now, trace, keys, measured=measured)
        except BaseException:
            undo()
            raise
        return after, records, key, asks

    def _record(
        self,
        command: AnyCommand,
        partition: int,
        entry: Entry | None,
        events: Sequence[Event],
        now: int,
        trace: Headers,
        keys: SubjectKeys,
        *,
        measured: bool,
    ) -> tuple[Entry, list[Outgoing], list[FollowUp]]:
        """The account after the events, the events as records of its stream, and what they ask of other accounts."""
        account, chain_hash = (entry.account, entry.chain_hash) if entry else (None, CHAIN_START)
        cause = command.causation_id if isinstance(command, FollowUp) else command.command_id
        records: list[Outgoing] = []
        asks: list[FollowUp] = []
        with_headers = [*trace, issued_at_header(command.issued_at)] if measured else trace or None
        for index, decided in enumerate(events):
            named = event_id(command.command_id, index, now)
            event = sealed(decided, keys.sealer, command.account_id, named)
            reason = command.reason
            if reason is not None and is_to_be_sealed(command, reason, keys):
                reason = keys.sealer.seal(reason, command.account_id, named, "reason")
            account = evolve(account, event)
            common: dict[str, object] = {
                "event_id": named,
                "account_id": command.account_id,
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
            key = event_key(command.account_id, account.sequence)
            records.append(Outgoing(self._topics.events, partition, key, value, with_headers))
            if isinstance(event, TransferSent | TransferReceived):
                asked = react(RecordedEvent(**common, chain_hash=chain_hash, event=event))  # type: ignore[arg-type]
                if asked is not None:
                    asks.append(asked)
        if account is None:
            raise ValueError("a decision without events changes nothing")
        return Entry(account, chain_hash, now), records, asks

    def _key(self, command: AnyCommand, partition: int, keys: SubjectKeys, now: int) -> list[Outgoing]:
        """The record of what a command that was accepted does to the key of the holder; none where it does nothing."""
        subject = command.account_id
        if isinstance(command, EraseHolder):
            keys.erase(subject)
            value = None
        elif keys.has(subject):
            return []
        else:
            value = keys.create(subject, now)
        return [Outgoing(self._topics.subject_keys, partition, subject.encode(), value)]

    def _follow_up(self, command: FollowUp, trace: Headers) -> Outgoing:
        """A follow-up as a record, on the partition of the account that it is for."""
        return Outgoing(
            self._topics.followups,
            partition_of(command.account_id, self._partitions),
            command.account_id.encode(),
            self._codec.encode_command(command),
            trace or None,
        )

    def _encode_reply(self, command: AnyCommand, entry: Entry | None, decision: Decision, now: int) -> bytes:
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

    def _reply_record(
        self, command: AnyCommand, partition: int, reply: bytes, with_headers: Headers | None
    ) -> Outgoing:
        # Replies stand on the partition of their account, so that whoever takes that partition can restore which
        # command ids were answered.
        return Outgoing(self._topics.replies, partition, command.command_id.encode(), reply, with_headers)

    def _forward(self, record: Message, home: int, outcomes: Outcomes) -> None:
        """Send a command, byte for byte, to the partition of its account, where it will be decided."""
        topic = str(record.topic())
        outcomes.outgoing.append(Outgoing(topic, home, record.key(), record.value(), headers(record)))
        outcomes.forwarded += 1

    def _park(
        self,
        record: Message,
        reason: str,
        detail: str,
        outcomes: Outcomes,
        ids: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Keep a record that cannot be decided, byte for byte, with why and where it came from."""
        why: Headers = [
            *headers(record),
            ("parked-reason", reason.encode()),
            ("parked-detail", detail[:_MAX_DETAIL].encode(errors="replace")),
            ("parked-topic", str(record.topic()).encode()),
            ("parked-partition", str(record.partition()).encode()),
            ("parked-offset", str(record.offset()).encode()),
            ("parked-timestamp-ms", str(record.timestamp()[1]).encode()),
        ]
        outcomes.outgoing.append(Outgoing(self._topics.parked, _CLIENTS_PARTITIONER, record.key(), record.value(), why))
        outcomes.parked[reason] = outcomes.parked.get(reason, 0) + 1
        about = place(record) | {"reason": reason, **ids}
        _log.warning("parked %s as %s: %s", origin(record), reason, detail, extra=about)


def _ids(command: AnyCommand) -> dict[str, object]:
    """Whose a command is, as the fields of a log line."""
    return {
        "account_id": command.account_id,
        "command_id": command.command_id,
        "correlation_id": command.correlation_id or command.command_id,
    }


def _trace(span: Span | None) -> Headers:
    """The header that leads from what a command led to back to it; none where the span is not sampled."""
    above = None if span is None else span.traceparent
    return [] if above is None else [(TRACEPARENT, above)]


def _note(span: Span | None, outcome: str, code: str = "") -> None:
    if span is not None:
        span.note(daybook__outcome=outcome, daybook__code=code)
