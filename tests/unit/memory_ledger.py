"""A ledger in memory: the real decisions and an endless memory of command ids, without servers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from command_service.domain.account import Account, decide, evolve
from command_service.domain.refusals import Rejection
from command_service.domain.transfers import react, react_to_refusal
from daybook.errors import Refused, TransferInFlight
from daybook.giving import GivesCommands
from daybook.link import Answer
from daybook.log import LoggedEvent
from daybook.transfers import Steps, TransferOutcome, from_log
from schemas.commands import AnyCommand, CommandReply, CommandStatus, FollowUp, ReceiveTransfer, Transfer, now_micros
from schemas.events import CHAIN_START, Event, RecordedEvent, TransferSent, event_id
from schemas.money import Money


class MemoryLedger(GivesCommands):
    """Answers as `daybook.Client` does, `answers` by `window` commands late. Follow-ups are decided at once, unless
    `settles` is off: then they are left in `follow_ups`, as they are where the service is slow.
    """

    def __init__(self, *, window: int = 5, settles: bool = True) -> None:
        super().__init__("memory")
        self.accounts: dict[str, Account] = {}
        self.commands: list[AnyCommand] = []
        self.log: list[RecordedEvent] = []
        self.follow_ups: deque[FollowUp] = deque()
        self._replies: dict[str, tuple[AnyCommand, CommandReply]] = {}
        self._window = window
        self._settles = settles

    @property
    def events(self) -> int:
        return len(self.log)

    def answers(self, commands: Iterable[AnyCommand]) -> Iterator[Answer]:
        owed: list[Answer] = []
        for command in commands:
            owed.append(self._answer(command))
            if len(owed) >= self._window:
                yield owed.pop(0)
        yield from owed

    def execute(self, command: AnyCommand, *, timeout_s: float | None = None) -> CommandReply:  # noqa: ARG002
        reply = self._answer(command).reply
        if not reply.accepted:
            raise Refused(reply)
        return reply

    def settle(self, command: Transfer, *, timeout_s: float | None = None) -> TransferOutcome:  # noqa: ARG002
        reply = self.execute(command)
        sent = [
            recorded.sequence
            for recorded in self.log
            if recorded.account_id == command.account_id
            and isinstance(recorded.event, TransferSent)
            and recorded.event.transfer_id == command.transfer_id
        ]
        steps = Steps.of(command.transfer_id, command.account_id, sent[-1])
        found = from_log(command, reply, steps, self._stream)
        if found is None:
            amount = Money(command.amount_minor, command.currency)
            raise TransferInFlight(command, str(amount), refused=steps.receive in self._replies, timeout_s=0)
        return found

    def forget_commands(self) -> None:
        self._replies.clear()

    def balance(self, account_id: str) -> str:
        account = self.accounts[account_id]
        return str(Money(account.balance_minor, account.currency))

    def decide(self, command: AnyCommand) -> Answer:
        """What the service does with a command, of a client or its own; what follows from it is in `follow_ups`."""
        earlier = self._replies.get(command.command_id)
        if earlier is not None:
            asked, first = earlier
            if _fingerprint(asked) == _fingerprint(command):
                return Answer(first, True)
            refusal = "another command had this id"
            return Answer(self._reply(command, (), "command_id_reused", refusal), False)
        state = self.accounts.get(command.account_id)
        now = now_micros()
        decision = decide(state, command, now)
        if isinstance(decision, Rejection):
            if isinstance(command, ReceiveTransfer):
                self.follow_ups.append(react_to_refusal(command, decision, now))
            reply = self._reply(command, (), decision.code, decision.message)
        else:
            for index, event in enumerate(decision):
                state = evolve(state, event)
                recorded = _recorded(command, state.sequence, index, event, now)
                self.accounts[command.account_id] = state
                self.log.append(recorded)
                follow_up = react(recorded)
                if follow_up is not None:
                    self.follow_ups.append(follow_up)
            reply = self._reply(command, decision)
        self._replies[command.command_id] = command, reply
        return Answer(reply, False)

    def _answer(self, command: AnyCommand) -> Answer:
        self.commands.append(command)
        answer = self.decide(command)
        while self._settles and self.follow_ups:
            self.decide(self.follow_ups.popleft())
        return answer

    def _reply(
        self, command: AnyCommand, events: Sequence[Event], code: str | None = None, message: str | None = None
    ) -> CommandReply:
        state = self.accounts.get(command.account_id)
        return CommandReply(
            command_id=command.command_id,
            account_id=command.account_id,
            status=CommandStatus.ACCEPTED if code is None else CommandStatus.REJECTED,
            sequence=None if state is None else state.sequence,
            event_count=len(events),
            code=code,
            message=message,
            decided_at=now_micros(),
        )

    def _stream(self, account_id: str, first: int) -> Iterator[LoggedEvent]:
        for offset, recorded in enumerate(self.log):
            if recorded.account_id == account_id and recorded.sequence >= first:
                yield LoggedEvent(0, offset, recorded)


def _fingerprint(command: AnyCommand) -> tuple[object, ...]:
    """What a command asks, however often and whenever it is asked."""
    asked = {name: getattr(command, name) for name in command.__struct_fields__ if name != "issued_at"}
    return (type(command), *asked.items())


def _recorded(command: AnyCommand, sequence: int, index: int, event: Event, now: int) -> RecordedEvent:
    return RecordedEvent(
        event_id=event_id(command.command_id, index, now),
        account_id=command.account_id,
        sequence=sequence,
        recorded_at=now,
        effective_at=now if command.effective_at is None else command.effective_at,
        user_id=command.user_id,
        command_id=command.command_id,
        correlation_id=command.correlation_id or command.command_id,
        causation_id=command.causation_id if isinstance(command, FollowUp) else command.command_id,
        reason=command.reason,
        chain_hash=CHAIN_START,
        event=event,
    )
