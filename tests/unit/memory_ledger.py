"""A ledger in memory: the real decisions and an endless memory of command ids, without servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from command_service.domain.account import Account, decide, evolve
from command_service.domain.refusals import Rejection
from daybook.link import Answer
from schemas.commands import AnyCommand, CommandReply, CommandStatus, now_micros
from schemas.money import Money


class MemoryLedger:
    """`answers` answers as `daybook.Client` does, `window` commands late."""

    def __init__(self, *, window: int = 5) -> None:
        self.accounts: dict[str, Account] = {}
        self.commands: list[AnyCommand] = []
        self.events = 0
        self._replies: dict[str, CommandReply] = {}
        self._window = window

    def answers(self, commands: Iterable[AnyCommand]) -> Iterator[Answer]:
        owed: list[Answer] = []
        for command in commands:
            self.commands.append(command)
            owed.append(self._answer(command))
            if len(owed) >= self._window:
                yield owed.pop(0)
        yield from owed

    def forget_commands(self) -> None:
        self._replies.clear()

    def balance(self, account_id: str) -> str:
        account = self.accounts[account_id]
        return str(Money(account.balance_minor, account.currency))

    def _answer(self, command: AnyCommand) -> Answer:
        replayed = command.command_id in self._replies
        if not replayed:
            self._replies[command.command_id] = self._decide(command)
        return Answer(self._replies[command.command_id], replayed)

    def _decide(self, command: AnyCommand) -> CommandReply:
        state = self.accounts.get(command.account_id)
        decision = decide(state, command, now_micros())
        refused = isinstance(decision, Rejection)
        if not isinstance(decision, Rejection):
            for event in decision:
                state = evolve(state, event)
                self.accounts[command.account_id] = state
                self.events += 1
        return CommandReply(
            command_id=command.command_id,
            account_id=command.account_id,
            status=CommandStatus.REJECTED if refused else CommandStatus.ACCEPTED,
            sequence=None if state is None else state.sequence,
            event_count=0 if isinstance(decision, Rejection) else len(decision),
            code=decision.code if isinstance(decision, Rejection) else None,
            message=decision.message if isinstance(decision, Rejection) else None,
            decided_at=now_micros(),
        )
