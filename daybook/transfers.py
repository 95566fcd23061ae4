"""What became of a transfer: waiting for the replies to its follow-ups, or finding it out from the log.

The replies to the follow-ups of a transfer come on the replies topic like all others, under ids that are derived
(`schemas.transfers`): that to the `ReceiveTransfer` says that the money has arrived, or why not, and that to the
`ReturnTransfer` that it is back. Where they came before anybody listened, as when a transfer is given a second time,
the two accounts' events say the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from daybook.errors import DaybookError, ReadTimeout
from schemas.commands import CommandReply, Transfer
from schemas.events import RecordedEvent, TransferReturned, TransferSent
from schemas.money import Money
from schemas.transfers import receive_id, return_id

if TYPE_CHECKING:
    from daybook.link import Answer, Link, Outcomes
    from daybook.log import LoggedEvent
    from daybook.progress import Progress, Tell
    from daybook.search import AuditEntry

Stream = Callable[[str, int], "Iterator[LoggedEvent]"]
"""An account's events from the log, from a sequence on."""

ToldStream = Callable[[str, int, "Tell"], "Iterator[LoggedEvent]"]
"""The same, and it tells how far it is while it reads other accounts' events."""


class TransferStatus(StrEnum):
    COMPLETED = "completed"
    """The money is in the other account."""
    RETURNED = "returned"
    """The other account did not take it in, and it is back."""


@dataclass(frozen=True, slots=True)
class TransferOutcome:
    """A transfer whose money has arrived, or is back. `reply` is the answer to the `Transfer` itself.

    The two sequences are the tokens for reading this from the models: `client.balance(from_account_id,
    at_least=from_sequence)`, and the same of the other account.
    """

    transfer_id: str
    status: TransferStatus
    from_account_id: str
    to_account_id: str
    reply: CommandReply
    from_sequence: int
    """The event by which the money left, or by which it came back; or a later one."""
    to_sequence: int | None
    """The event by which the money arrived, or a later one; None if it did not."""
    code: str | None = None
    """Why it was returned: the code of the other account's refusal (docs/REFUSALS.md)."""
    message: str | None = None

    @property
    def completed(self) -> bool:
        return self.status is TransferStatus.COMPLETED


@dataclass(frozen=True, slots=True)
class InFlight:
    """A transfer that was sent, and is neither completed nor returned."""

    transfer_id: str
    from_account_id: str
    to_account_id: str
    amount: Money
    sent_at: datetime
    """When the sending was recorded, in UTC."""
    sequence: int
    """The sending account's event."""
    user_id: str
    reason: str | None
    correlation_id: str
    arrived: bool | None
    """It is in the other account already, and the sending one has yet to hear of it. None where that is not known."""


def of_entry(sent: AuditEntry) -> InFlight:
    """A transfer in flight of the audit trail's entry of its sending."""
    if sent.transfer_id is None or sent.to_account_id is None or sent.amount is None:
        raise ValueError(f"event {sent.account_id}/{sent.sequence}, {sent.event_type}, sends nothing")
    return InFlight(
        transfer_id=sent.transfer_id,
        from_account_id=sent.account_id,
        to_account_id=sent.to_account_id,
        amount=sent.amount,
        sent_at=sent.recorded_at,
        sequence=sent.sequence,
        user_id=sent.user_id,
        reason=sent.reason,
        correlation_id=sent.correlation_id,
        arrived=None,
    )


@dataclass(frozen=True, slots=True)
class Steps:
    """A transfer that is event `sent` of its source, and the ids of those of its follow-ups that tell its outcome."""

    sent: int
    receive: str
    give_back: str

    @classmethod
    def of(cls, transfer_id: str, from_account_id: str, sent: int) -> Steps:
        receive = receive_id(transfer_id, from_account_id, sent)
        return cls(sent, receive, return_id(receive))


@dataclass(frozen=True, slots=True)
class Unsettled:
    """A transfer that was sent, and has neither arrived nor come back in time."""

    refused: bool
    """The other account has not taken it in, so that it is on its way back."""


def settled(
    link: Link, command: Transfer, give: Callable[[], Answer], log: ToldStream, deadline: float
) -> TransferOutcome | Unsettled:
    """Give a transfer by `give`, and wait until the money has arrived or is back, or until `deadline`.

    Raises:
        Unreachable, UnreadableRecord: the link or, where it is needed, the log failed.
        ReadTimeout: the log is needed, and was not read by the deadline.
        DaybookError: the ledger contradicts itself.
        Whatever `give` raises.
    """
    outcomes: Outcomes = SimpleQueue()
    stream = in_time(log, command, deadline)
    with ExitStack() as overhearing:
        with link.keeping() as begun:
            answer = give()
            # A transfer id that was given before leads to no event; then the reply does not say where the first is.
            sent = answer.reply.sequence if answer.reply.event_count else _sent(command, stream)
            if sent is None:
                raise _impossible(command, "was accepted, but the log has no TransferSent of it")
            steps = Steps.of(command.transfer_id, command.account_id, sent)
            whole = overhearing.enter_context(link.overhear((steps.receive, steps.give_back), outcomes, begun))
        waiting = _Waiting(command, answer.reply, steps, stream)
        # From here on nothing is missed. What came before is in the log by now: it is recorded with the replies.
        waiting.missed = answer.replayed or answer.reply.event_count == 0 or not whole
        found = waiting.from_log() if waiting.missed else None
        found = found or waiting.until(deadline, outcomes)
        return Unsettled(waiting.refused) if found is None else found


class _Waiting:
    def __init__(self, command: Transfer, reply: CommandReply, steps: Steps, stream: Stream) -> None:
        self._command = command
        self._reply = reply
        self._steps = steps
        self._stream = stream
        self._received: CommandReply | None = None
        self._back: CommandReply | None = None
        self.missed = False
        """A reply may have come before it was listened for."""

    @property
    def refused(self) -> bool:
        return self._received is not None and not self._received.accepted

    def until(self, deadline: float, outcomes: Outcomes) -> TransferOutcome | None:
        """What the replies say; None when they have not said it by then."""
        while (found := self._outcome()) is None and not (self.missed and self._back is not None):
            try:
                outcome = outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            if isinstance(outcome, DaybookError):
                raise outcome
            # Whoever foretold the id may have given a command of its own under it.
            if outcome.to_follow_up:
                self._take(outcome.reply)
        if found is None and self._back is not None:
            # It is back, and the reply that says why is late, or was missed.
            return self.from_log()
        return found

    def from_log(self) -> TransferOutcome | None:
        return from_log(self._command, self._reply, self._steps, self._stream)

    def _take(self, reply: CommandReply) -> None:
        if reply.command_id == self._steps.receive:
            self._received = reply
        elif not reply.accepted or reply.sequence is None:
            raise _impossible(self._command, f"was not taken back: {reply.code}: {reply.message}")
        else:
            self._back = reply

    def _outcome(self) -> TransferOutcome | None:
        received, back = self._received, self._back
        if received is not None and received.accepted:
            return _outcome(self._command, self._reply, self._steps.sent, to_sequence=received.sequence)
        if received is None or back is None or back.sequence is None:
            return None
        return _outcome(self._command, self._reply, back.sequence, code=received.code, message=received.message)


def in_time(log: ToldStream, command: Transfer, deadline: float) -> Stream:
    """The same stream, which raises `ReadTimeout` once it is read after `deadline`, of `time.monotonic`."""

    def check(_: Progress | None = None) -> None:
        if time.monotonic() >= deadline:
            raise ReadTimeout(
                f"transfer {command.transfer_id} was sent from {command.account_id}; what became of it stands in the "
                "log, which was not read in time. Give it again under the same transfer id and allow more time "
                f"(`timeout_s`, `--timeout`), or see `daybook history --transfer {command.transfer_id}`"
            )

    def stream(account_id: str, first: int) -> Iterator[LoggedEvent]:
        for logged in log(account_id, first, check):
            check()
            yield logged

    return stream


def from_log(command: Transfer, reply: CommandReply, steps: Steps, stream: Stream) -> TransferOutcome | None:
    """What the two accounts' events say of a transfer; None if it has neither arrived nor come back."""
    returned = _first(stream, command.account_id, steps.sent, steps.give_back)
    if returned is not None and isinstance(returned.event, TransferReturned):
        event = returned.event
        return _outcome(command, reply, returned.sequence, code=event.code, message=event.message)
    received = _first(stream, command.to_account_id, 1, steps.receive)
    return None if received is None else _outcome(command, reply, steps.sent, to_sequence=received.sequence)


def _outcome(
    command: Transfer,
    reply: CommandReply,
    from_sequence: int,
    *,
    to_sequence: int | None = None,
    code: str | None = None,
    message: str | None = None,
) -> TransferOutcome:
    return TransferOutcome(
        transfer_id=command.transfer_id,
        status=TransferStatus.RETURNED if to_sequence is None else TransferStatus.COMPLETED,
        from_account_id=command.account_id,
        to_account_id=command.to_account_id,
        reply=reply,
        from_sequence=from_sequence,
        to_sequence=to_sequence,
        code=code,
        message=message,
    )


def _first(stream: Stream, account_id: str, first: int, command_id: str) -> RecordedEvent | None:
    events = (logged.recorded for logged in stream(account_id, first))
    return next((recorded for recorded in events if recorded.command_id == command_id), None)


def _sent(command: Transfer, stream: Stream) -> int | None:
    """The sequence of the newest `TransferSent` with the transfer's id; None if there is none."""
    found: int | None = None
    for logged in stream(command.account_id, 1):
        event = logged.recorded.event
        if isinstance(event, TransferSent) and event.transfer_id.lower() == command.transfer_id.lower():
            found = logged.recorded.sequence
    return found


_VERIFY: Final = "`daybook verify money` says whether the log adds up"


def _impossible(command: Transfer, what: str) -> DaybookError:
    return DaybookError(f"transfer {command.transfer_id} of account {command.account_id} {what}; {_VERIFY}")
