"""What an import relies on in a ledger: held against the double in memory and against a real ledger's client alike."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from daybook.importing import Ledger
from daybook.link import Answer
from schemas.commands import AnyCommand
from tests.wire import deposit, opening, withdrawal


class LedgerContract:
    """Subclass it, and override the fixture `answering`."""

    @pytest.fixture
    def answering(self) -> Ledger:
        raise NotImplementedError("the subclass says which ledger is tested")

    @pytest.fixture
    def account(self) -> str:
        return f"K-{uuid.uuid4().hex[:12]}"

    def test_every_command_is_answered_once_and_an_accounts_in_order(self, answering: Ledger, account: str) -> None:
        accounts = [f"{account}-{number}" for number in range(7)]
        commands = [opening(a) for a in accounts] + [deposit(a, n) for n in range(1, 6) for a in accounts]
        answers = list(answering.answers(iter(commands)))
        assert sorted(a.reply.command_id for a in answers) == sorted(c.command_id for c in commands)
        for one in accounts:
            assert [a.reply.sequence for a in answers if a.reply.account_id == one] == [1, 2, 3, 4, 5, 6]

    def test_a_refusal_is_an_answer(self, answering: Ledger, account: str) -> None:
        commands = [deposit(account, 1), opening(account), opening(account), withdrawal(account, 1)]
        found = answered(answering, commands)
        assert [(a.reply.code, a.reply.sequence, a.reply.event_count) for a in found] == [
            ("account_not_found", None, 0),
            (None, 1, 1),
            ("account_exists", 1, 0),
            ("insufficient_funds", 1, 0),
        ]

    def test_what_was_answered_before_is_answered_alike_and_says_so(self, answering: Ledger, account: str) -> None:
        commands = [opening(account), deposit(account, 5), withdrawal(account, 9)]
        first = answered(answering, commands)
        again = answered(answering, [replace(command, issued_at=command.issued_at + 1) for command in commands])
        assert [a.replayed for a in first] == [False] * 3
        assert again == [Answer(a.reply, replayed=True) for a in first]

    def test_commands_may_come_from_a_generator_that_is_read_once(self, answering: Ledger, account: str) -> None:
        """As those of an import do, which reads its file as they are taken."""
        assert list(answering.answers(iter(()))) == []
        taken = iter([opening(account), deposit(account, 1)])
        answers = answering.answers(taken)
        assert next(answers).reply.account_id == account
        assert len(list(answers)) == 1


def answered(ledger: Ledger, commands: Iterable[AnyCommand]) -> list[Answer]:
    """The answers, in the order of the commands."""
    wanted = list(commands)
    found = {answer.reply.command_id: answer for answer in ledger.answers(wanted)}
    return [found[command.command_id] for command in wanted]
