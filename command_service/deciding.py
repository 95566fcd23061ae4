"""What a command leads to on its account, once both are at hand: dedupe, decide, evolve, encode, react.

Nothing is sent here: what a command leads to is collected, and the transaction takes it out to send it. After an abort
a batch can be decided again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from command_service.accounts import Entry, Overlay
from command_service.answers import Answer, command_key, fingerprint
from command_service.domain.account import Decision, decide, decide_follow_up
from command_service.domain.refusals import Code, Rejection
from command_service.domain.transfers import react_to_refusal
from command_service.personal import asks_again, known, remembered_as
from command_service.recording import Asked, Recorded, Recorder
from command_service.records import Headers, Outgoing
from schemas.commands import (
    AnyCommand,
    ClientCommand,
    CompleteTransfer,
    EraseHolder,
    FollowUp,
    FromLedger,
    ReceiveTransfer,
)
from schemas.telemetry.traces import TRACEPARENT, Span
from schemas.topics import FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT, REPLAYED_HEADER

_log: Final = logging.getLogger(__name__)

_MEASURED: Final = 100
_MEASURED_EVERY: Final = 10
"""Which events bear the time of their command, by which projectors measure: those of so many commands of a batch, and
of every so-manyth after them. In large batches a header on each would cost a twentieth of the throughput."""


@dataclass(slots=True)
class Outcomes:
    """What one batch leads to: records to send, and the counts to publish once all are committed."""

    outgoing: list[Outgoing] = field(default_factory=list)
    answered: dict[tuple[str, str], int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    forwarded: int = 0
    asked: list[Asked] = field(default_factory=list)
    """Follow-ups that are neither decided nor among the records to send yet."""
    follow_ups: Counter[str] = field(default_factory=Counter)
    issued_us: list[int] = field(default_factory=list)
    """When the clients' commands were issued that are answered for the first time."""
    spans: list[Span] = field(default_factory=list)
    """Of the commands that are traced, to be ended with the transaction."""

    def taken_out(self) -> list[Outgoing]:
        """The records to send that were not taken out before."""
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def count(self, outcome: str, code: str = "") -> None:
        self.answered[outcome, code] = self.answered.get((outcome, code), 0) + 1


class RefusedAtOnce(Exception):
    """A follow-up that is not to be refused before it is read would be."""


class Decider:
    """Decides commands. One thread at a time; the only state it changes is the overlay it is given."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def decide(
        self,
        command: AnyCommand,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None = None,
    ) -> None:
        """Add what a command that was read leads to, which is where it belongs, on the account that it is for.

        `now` is in microseconds since the Unix epoch.

        Raises:
            SnapshotDamaged, SpillFailed, UnknownKek: the account, or its holder's key, cannot be had.
            Exception: whatever goes wrong by a defect of ours. Nothing was added, whatever is raised.
        """
        if not isinstance(command, FromLedger):
            self._answer(command, entry, overlay, now, outcomes, span)
            return
        now = not_before(entry, now, command.issued_at)
        if not isinstance(command, ReceiveTransfer):
            # Given again it finds nothing in transit, so its id need not be remembered.
            self.decide_follow_up(command, entry, overlay, now, outcomes, span)
            return
        key = command_key(command.command_id, FOLLOW_UP_FINGERPRINT)
        earlier = overlay.answer(key)
        if earlier is not None:
            self._answer_again(command, overlay, earlier, outcomes, span)
            return
        reply = self.decide_follow_up(command, entry, overlay, now, outcomes, span)
        if reply is not None:
            overlay.remember(key, Answer(reply, FOLLOW_UP_FINGERPRINT, now))

    def decide_follow_up(
        self,
        command: FollowUp,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None = None,
        *,
        at_once: bool = False,
    ) -> bytes | None:
        """Add what a follow-up leads to that was not decided before, and return the reply to it, if there is one.

        Only of a `ReceiveTransfer` must it be known that it was not. The others find nothing in transit then.

        Raises:
            RefusedAtOnce: it would be refused, and is decided `at_once`, before it is read.
            Exception: as `decide`.
        """
        recorder, trace = self._recorder, _trace(span)
        decision = decide_follow_up(None if entry is None else entry.account, command)
        recorded: Recorded | None = None
        asks: Sequence[Asked] = ()
        if isinstance(decision, Rejection):
            if not isinstance(command, ReceiveTransfer):
                # Money is in transit from an account that cannot have it back: somebody must look.
                raise ValueError(f"{decision.code}: {decision.message}")  # noqa: TRY004 - it is no matter of types
            if at_once:
                raise RefusedAtOnce
            asks = (recorder.asked(react_to_refusal(command, decision, now), trace),)
        elif decision:
            recorded = recorder.record_follow_up(command, entry, decision, overlay, now, trace)
            entry, asks = recorded.entry, recorded.asks
        # Whoever waits for the transfer is told by the other two.
        is_told = not isinstance(command, CompleteTransfer)
        reply = recorder.encode_reply(command, entry, decision, now) if is_told else None
        # Nothing can fail from here on: a command is either recorded and answered, or neither.
        if recorded is not None:
            _take(command.account_id, recorded, overlay, outcomes)
        outcomes.asked.extend(asks)
        if reply is not None:
            told: Headers = [(FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT), *trace]
            outcomes.outgoing.append(recorder.reply(command, overlay.partition, reply, told))
        self._count(command, decision, outcomes, span)
        return reply

    def _answer(
        self,
        command: ClientCommand,
        entry: Entry | None,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Decide a client's command, or give its answer again."""
        recorder, outgoing, keys = self._recorder, outcomes.outgoing, overlay.keys
        trace = _trace(span)
        asked = fingerprint(command)
        key = command_key(command.command_id, asked)
        earlier = overlay.answer(key)
        if earlier is not None and asks_again(command, asked, earlier.fingerprint, keys):
            self._answer_again(command, overlay, earlier, outcomes, span)
            return
        outcomes.issued_us.append(command.issued_at)
        if earlier is not None:
            refusal = Rejection(
                Code.COMMAND_ID_REUSED,
                "this command id was used for another command: every new intention needs an id of its own",
            )
            self._refuse_aside(command, entry, refusal, overlay, now, outcomes, span)
            return
        now = not_before(entry, now)
        decision = decide(known(command, entry, keys), command, now)
        recorded: Recorded | None = None
        if decision and not isinstance(decision, Rejection):
            answered = len(outcomes.issued_us)
            measured = answered <= _MEASURED or answered % _MEASURED_EVERY == 0
            recorded = recorder.record(command, entry, decision, overlay, now, trace, measured=measured)
            entry = recorded.entry
        reply = recorder.encode_reply(command, entry, decision, now)
        asked = remembered_as(command, asked, keys)
        # Nothing can fail from here on: a command is either recorded and answered, or neither.
        if recorded is not None:
            _take(command.account_id, recorded, overlay, outcomes)
            outcomes.asked.extend(recorded.asks)
        elif isinstance(command, EraseHolder) and decision == () and keys.has(command.account_id):
            # The holder is erased and has a key all the same, as when older records were put back on its topic.
            outgoing.extend(recorder.key(command, overlay, now))
        overlay.remember(key, Answer(reply, asked, now))
        outgoing.append(recorder.reply(command, overlay.partition, reply, [(FINGERPRINT_HEADER, asked), *trace]))
        self._count(command, decision, outcomes, span)

    def _answer_again(
        self, command: AnyCommand, overlay: Overlay, earlier: Answer, outcomes: Outcomes, span: Span | None
    ) -> None:
        again: Headers = [(FINGERPRINT_HEADER, earlier.fingerprint), (REPLAYED_HEADER, b"1"), *_trace(span)]
        outcomes.outgoing.append(self._recorder.reply(command, overlay.partition, earlier.reply, again))
        outcomes.count("replayed")
        note(span, "replayed")

    def _count(self, command: AnyCommand, decision: Decision, outcomes: Outcomes, span: Span | None) -> None:
        if isinstance(decision, Rejection):
            self._refused(command, decision, outcomes, span)
        else:
            outcomes.count("accepted")
            note(span, "accepted")

    def turn_away(
        self,
        command: FollowUp,
        entry: Entry | None,
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
        self._refuse_aside(command, entry, refusal, overlay, now, outcomes, span)

    def _refuse_aside(
        self,
        command: AnyCommand,
        entry: Entry | None,
        refusal: Rejection,
        overlay: Overlay,
        now: int,
        outcomes: Outcomes,
        span: Span | None,
    ) -> None:
        """Refuse a command whose id stands, or may stand, for another one: this is not the id's first answer."""
        reply = self._recorder.encode_reply(command, entry, refusal, now)
        # Without a fingerprint, so that a restore does not take it for that either.
        outcomes.outgoing.append(self._recorder.reply(command, overlay.partition, reply, _trace(span) or None))
        self._refused(command, refusal, outcomes, span)

    def _refused(self, command: AnyCommand, refusal: Rejection, outcomes: Outcomes, span: Span | None) -> None:
        outcomes.count("refused", refusal.code)
        note(span, "refused", refusal.code)
        if _log.isEnabledFor(logging.DEBUG):
            about = ids_of(command) | {"code": str(refusal.code)}
            _log.debug(
                "refused command %s on account %s as %s: %s",
                *(command.command_id, command.account_id, refusal.code, refusal.message),
                extra=about,
            )


def not_before(entry: Entry | None, now: int, asked_at: int = 0) -> int:
    """When a command is decided, given when the service says it is, and of a follow-up when it was asked for.

    Clocks differ between instances; neither within an account's stream does time run backwards, nor from one account's
    event to what follows from it on another.
    """
    if entry is not None and entry.recorded_at > now:
        now = entry.recorded_at
    return asked_at if asked_at > now else now


def _take(account_id: str, recorded: Recorded, overlay: Overlay, outcomes: Outcomes) -> None:
    """What was recorded becomes the state, and is to be sent."""
    values = [event.value or b"" for event in recorded.events]
    overlay.put(account_id, recorded.entry, values)
    outcomes.outgoing.extend(recorded.events)
    outcomes.outgoing.extend(recorded.keys)


def ids_of(command: AnyCommand) -> dict[str, object]:
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


def note(span: Span | None, outcome: str, code: str = "") -> None:
    if span is not None:
        span.note(daybook__outcome=outcome, daybook__code=code)
