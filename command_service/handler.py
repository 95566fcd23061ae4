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
from command_service.domain.account import decide
from command_service.domain.refusals import Code, Rejection
from command_service.domain.transfers import react_to_refusal
from command_service.packing import SnapshotDamaged
from command_service.personal import asks_again, known, remembered_as
from command_service.recording import Recorded, Recorder
from command_service.records import Headers, Outgoing, headers, origin, parked, place
from command_service.spill import SpillFailed
from schemas.codec import Codec, Undecodable
from schemas.commands import (
    AnyCommand,
    ClientCommand,
    CompleteTransfer,
    EraseHolder,
    FollowUp,
    FromLedger,
    ReceiveTransfer,
    ReturnTransfer,
)
from schemas.keys import UnknownKek
from schemas.registry import RegistryUnavailable
from schemas.telemetry.traces import TRACEPARENT, Span, Tracer, parent
from schemas.topics import FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT, REPLAYED_HEADER, Topics, partition_of

_log: Final = logging.getLogger(__name__)

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
        self._recorder = Recorder(codec, topics, partitions)
        self._topics = topics
        self._followups: Final = topics.followups
        self._partitions = partitions
        self._max_command_bytes = max_command_bytes
        self._tracer = tracer

    def handle(self, record: Message, overlay: Overlay, now: int, outcomes: Outcomes) -> None:
        """Add what a record of the commands topic, or of that of follow-ups, leads to.

        `now` is in microseconds since the Unix epoch.

        Raises:
            RegistryUnavailable: its schema is not known here and cannot be asked for; the record is untouched.
            SnapshotDamaged, SpillFailed, UnknownKek: what is held of its account, or its holder's key, cannot be had.
        """
        value = record.value()
        is_follow_up = record.topic() == self._followups
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
        if is_follow_up and not isinstance(command, FromLedger):
            detail = f"{type(command).__name__} is a client's command: it belongs on {self._topics.commands}"
            self._park(record, "not_a_follow_up", detail, outcomes)
            return
        entry = overlay.entry(command.account_id)
        home = self._home(command.account_id, record, entry)
        if home != record.partition():
            self._forward(record, home, outcomes)
            return
        span = None if self._tracer is None else self._traced(self._tracer, record, command, outcomes)
        try:
            if isinstance(command, FromLedger) and not is_follow_up:
                self._turn_away(command, home, entry, now, outcomes, span)
            else:
                self.decide(command, home, entry, overlay, now, outcomes, span)
        except (SnapshotDamaged, SpillFailed, UnknownKek):
            # The state cannot be had, which is no fault of the command.
            raise
        except Exception as error:
            # Whatever goes wrong between decoding and encoding is a defect of ours, of which the record is the
            # witness; or one account's key or sealed text was damaged. The record is kept in full, and the other
            # accounts' commands go on.
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

    def _home(self, account_id: str, record: Message, entry: Entry | None) -> int:
        """The partition that an account lives in."""
        here = record.partition()
        return here if here is not None and entry is not None else partition_of(account_id, self._partitions)

    def decide(
        self,
        command: AnyCommand,
        partition: int,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None = None,
    ) -> None:
        """Add what a command leads to, which is where it belongs, on the account that it is for.

        Raises: as `handle` does of its account, and whatever goes wrong by a defect of ours.
        """
        if not isinstance(command, FromLedger):
            self._answer(command, fingerprint(command), partition, entry, overlay, now, outcomes, span)
        elif isinstance(command, ReceiveTransfer):
            self._answer(command, FOLLOW_UP_FINGERPRINT, partition, entry, overlay, now, outcomes, span)
        else:
            self._settle(command, partition, entry, overlay, now, outcomes, span)

    def _answer(
        self,
        command: ClientCommand | ReceiveTransfer,
        asked: bytes,
        partition: int,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Decide a command, or give its answer again. `asked` is its fingerprint."""
        recorder, outgoing = self._recorder, outcomes.outgoing
        trace = _trace(span)
        key = command_key(command.command_id, asked)
        earlier = overlay.answer(key)
        if earlier is not None and asks_again(command, asked, earlier.fingerprint, overlay.keys):
            again: Headers = [(FINGERPRINT_HEADER, earlier.fingerprint), (REPLAYED_HEADER, b"1"), *trace]
            outgoing.append(recorder.reply(command, partition, earlier.reply, again))
            outcomes.count("replayed")
            _note(span, "replayed")
            return
        outcomes.issued_us.append(command.issued_at)
        if earlier is not None:
            refusal = Rejection(
                Code.COMMAND_ID_REUSED,
                "this command id was used for another command: every new intention needs an id of its own",
            )
            self._refuse_aside(command, partition, entry, refusal, now, outcomes, span)
            return
        now = _not_before(entry, command, now)
        decision = decide(known(command, entry, overlay.keys), command, now)
        recorded: Recorded | None = None
        asks: Sequence[FollowUp] = ()
        if isinstance(decision, Rejection):
            if isinstance(command, ReceiveTransfer):
                asks = (react_to_refusal(command, decision, now),)
        elif decision:
            answered = len(outcomes.issued_us)
            measured = answered <= _MEASURED or answered % _MEASURED_EVERY == 0
            recorded = recorder.record(command, partition, entry, decision, now, trace, overlay.keys, measured=measured)
            entry, asks = recorded.entry, recorded.asks
        follow_ups = [recorder.follow_up(each, trace) for each in asks]
        reply = recorder.encode_reply(command, entry, decision, now)
        asked = remembered_as(command, asked, overlay.keys)
        # Nothing can fail from here on: a command is either recorded and answered, or neither.
        if recorded is not None:
            _take(command.account_id, recorded, overlay, outcomes)
        elif isinstance(command, EraseHolder) and decision == () and overlay.keys.has(command.account_id):
            # The holder is erased and has a key all the same, as when older records were put back on its topic.
            outgoing.extend(recorder.key(command, partition, overlay.keys, now))
        outgoing.extend(follow_ups)
        for each in asks:
            name = type(each).__name__
            outcomes.follow_ups[name] = outcomes.follow_ups.get(name, 0) + 1
        overlay.remember(key, Answer(reply, asked, now))
        outgoing.append(recorder.reply(command, partition, reply, [(FINGERPRINT_HEADER, asked), *trace]))
        if isinstance(decision, Rejection):
            self._refused(command, decision, outcomes, span)
        else:
            outcomes.count("accepted")
            _note(span, "accepted")

    def _settle(
        self,
        command: CompleteTransfer | ReturnTransfer,
        partition: int,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """End a transfer at its source. Given again it finds nothing in transit, so its id need not be remembered."""
        now = _not_before(entry, command, now)
        decision = decide(entry.account if entry else None, command, now)
        if isinstance(decision, Rejection):
            # Money is in transit from an account that cannot have it back: somebody must look.
            raise ValueError(f"{decision.code}: {decision.message}")  # noqa: TRY004 - it is no matter of types
        recorder, trace = self._recorder, _trace(span)
        recorded: Recorded | None = None
        if decision:
            recorded = recorder.record(command, partition, entry, decision, now, trace, overlay.keys, measured=False)
            entry = recorded.entry
        # Whoever waits for the transfer is told that the money is back.
        reply = recorder.encode_reply(command, entry, decision, now) if isinstance(command, ReturnTransfer) else None
        if recorded is not None:
            _take(command.account_id, recorded, overlay, outcomes)
        if reply is not None:
            asked: Headers = [(FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT), *trace]
            outcomes.outgoing.append(recorder.reply(command, partition, reply, asked))
        outcomes.count("accepted")
        _note(span, "accepted")

    def _turn_away(
        self,
        command: FollowUp,
        partition: int,
        entry: Entry | None,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Refuse a follow-up that somebody else gave. It is not remembered, since the real one may have the same id."""
        refusal = Rejection(
            Code.NOT_A_CLIENT_COMMAND,
            f"{type(command).__name__} is for the command service alone to give; Transfer sends money",
        )
        self._refuse_aside(command, partition, entry, refusal, now, outcomes, span)

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
        reply = self._recorder.encode_reply(command, entry, refusal, now)
        # Without a fingerprint, so that a restore does not take it for that either.
        outcomes.outgoing.append(self._recorder.reply(command, partition, reply, _trace(span) or None))
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
        outcomes.outgoing.append(parked(self._topics.parked, record, reason, detail))
        outcomes.parked[reason] = outcomes.parked.get(reason, 0) + 1
        about = place(record) | {"reason": reason, **ids}
        _log.warning("parked %s as %s: %s", origin(record), reason, detail, extra=about)


def _not_before(entry: Entry | None, command: AnyCommand, now: int) -> int:
    """When a command is decided. Clocks differ between instances; neither within an account's stream does time run
    backwards, nor from one account's event to what follows from it on another."""
    if entry is not None:
        now = max(now, entry.recorded_at)
    return max(now, command.issued_at) if isinstance(command, FromLedger) else now


def _take(account_id: str, recorded: Recorded, overlay: Overlay, outcomes: Outcomes) -> None:
    """What was recorded becomes the state, and is to be sent."""
    values = [event.value or b"" for event in recorded.events]
    overlay.put(account_id, recorded.entry, values)
    outcomes.outgoing.extend(recorded.events)
    outcomes.outgoing.extend(recorded.keys)


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
