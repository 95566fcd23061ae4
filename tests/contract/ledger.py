"""What an import, and whoever sends money, relies on in a ledger: held against the double in memory and against a real
ledger's client alike."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from itertools import pairwise

import pytest
from msgspec.structs import replace

from daybook.errors import Refused
from daybook.giving import GivesCommands
from daybook.importing import Ledger
from daybook.link import Answer
from daybook.transfers import TransferStatus
from schemas.commands import AnyCommand, Transfer
from tests.wire import deposit, make, opening, withdrawal


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
        commands: list[AnyCommand] = [deposit(account, 1), opening(account), opening(account), withdrawal(account, 1)]
        found = answered(answering, commands)
        assert [(a.reply.code, a.reply.sequence, a.reply.event_count) for a in found] == [
            ("account_not_found", None, 0),
            (None, 1, 1),
            ("account_exists", 1, 0),
            ("insufficient_funds", 1, 0),
        ]

    def test_what_was_answered_before_is_answered_alike_and_says_so(self, answering: Ledger, account: str) -> None:
        commands: list[AnyCommand] = [opening(account), deposit(account, 5), withdrawal(account, 9)]
        first = answered(answering, commands)
        again = answered(answering, [replace(command, issued_at=command.issued_at + 1) for command in commands])
        assert [a.replayed for a in first] == [False] * 3
        assert again == [Answer(a.reply, replayed=True) for a in first]

    def test_commands_may_come_from_a_generator_that_is_read_once(self, answering: Ledger, account: str) -> None:
        """As those of an import do, which reads its file as they are taken."""
        assert list(answering.answers(iter(()))) == []
        commands: list[AnyCommand] = [opening(account), deposit(account, 1)]
        taken = iter(commands)
        answers = answering.answers(taken)
        assert next(answers).reply.account_id == account
        assert len(list(answers)) == 1


class TransferContract:
    """Subclass it, and override the fixture `giving`."""

    @pytest.fixture
    def giving(self) -> GivesCommands:
        raise NotImplementedError("the subclass says which ledger is tested")

    @pytest.fixture
    def source(self, giving: GivesCommands) -> str:
        """An account with 100.00 EUR."""
        source = f"S-{uuid.uuid4().hex[:12]}"
        giving.open_account(source, "EUR", "Ada")
        giving.deposit(source, "100.00 EUR")
        return source

    @pytest.fixture
    def destination(self, giving: GivesCommands) -> str:
        destination = f"D-{uuid.uuid4().hex[:12]}"
        giving.open_account(destination, "EUR", "Bob")
        return destination

    def test_a_transfer_s_reply_is_the_source_s(self, giving: GivesCommands, source: str, destination: str) -> None:
        reply = giving.transfer(source, destination, "40.00 EUR")
        assert (reply.account_id, reply.sequence, reply.event_count, reply.accepted) == (source, 3, 1, True)

    def test_a_transfer_arrives(self, giving: GivesCommands, source: str, destination: str) -> None:
        outcome = giving.transfer(source, destination, "40.00 EUR", wait=True)
        assert (outcome.status, outcome.completed) == (TransferStatus.COMPLETED, True)
        assert (outcome.from_account_id, outcome.to_account_id) == (source, destination)
        assert (outcome.reply.sequence, outcome.from_sequence, outcome.to_sequence) == (3, 3, 2)
        assert (outcome.code, outcome.message) == (None, None)
        assert outcome.reply.command_id == outcome.transfer_id
        with pytest.raises(Refused, match="insufficient_funds"):
            giving.withdraw(source, "60.01 EUR")
        assert giving.withdraw(source, "60.00 EUR").accepted
        assert giving.withdraw(destination, "40.00 EUR").sequence == 3

    @pytest.mark.parametrize("why", ["account_not_found", "account_closed", "account_frozen", "currency_mismatch"])
    def test_what_cannot_be_taken_in_comes_back(
        self, giving: GivesCommands, source: str, destination: str, why: str
    ) -> None:
        match why:
            case "account_not_found":
                destination = f"nobody-{destination}"
            case "account_closed":
                giving.close_account(destination)
            case "account_frozen":
                giving.freeze(destination)
            case _:
                destination = f"{destination}-yen"
                giving.open_account(destination, "JPY", "Bob")
        outcome = giving.transfer(source, destination, "100.00 EUR", wait=True)
        assert (outcome.status, outcome.code, outcome.completed) == (TransferStatus.RETURNED, why, False)
        assert outcome.message
        assert (outcome.reply.sequence, outcome.from_sequence, outcome.to_sequence) == (3, 4, None)
        assert giving.withdraw(source, "100.00 EUR").sequence == 5

    def test_a_transfer_that_is_refused_sends_nothing(
        self, giving: GivesCommands, source: str, destination: str
    ) -> None:
        for wait in (False, True):
            with pytest.raises(Refused) as caught:
                giving.transfer(source, destination, "100.01 EUR", wait=wait)
            assert (caught.value.code, caught.value.reply.sequence) == ("insufficient_funds", 2)
        with pytest.raises(Refused, match="accounts_must_differ"):
            giving.transfer(source, source, "1.00 EUR", wait=True)

    def test_a_transfer_given_again_has_the_same_outcome(
        self, giving: GivesCommands, source: str, destination: str
    ) -> None:
        identity = str(uuid.uuid4())
        first = giving.transfer(source, destination, "40.00 EUR", transfer_id=identity, wait=True)
        assert giving.transfer(source, destination, "40.00 EUR", transfer_id=identity, wait=True) == first
        assert giving.transfer(source, destination, "40.00 EUR", transfer_id=identity.upper()) == first.reply
        assert giving.withdraw(source, "60.00 EUR").accepted
        lost = str(uuid.uuid4())
        back = giving.transfer(destination, f"nobody-{source}", "5.00 EUR", transfer_id=lost, wait=True)
        assert giving.transfer(destination, f"nobody-{source}", "5.00 EUR", transfer_id=lost, wait=True) == back

    def test_a_transfer_id_given_again_by_another_command_is_the_same_transfer(
        self, giving: GivesCommands, source: str, destination: str
    ) -> None:
        identity = str(uuid.uuid4())
        first = giving.transfer(source, destination, "40.00 EUR", transfer_id=identity, wait=True)
        other = str(uuid.uuid4())
        again = giving.transfer(source, destination, "40.00 EUR", transfer_id=identity, command_id=other, wait=True)
        assert (again.reply.command_id, again.reply.event_count) == (other, 0)
        assert (again.status, again.from_sequence, again.to_sequence) == (first.status, 3, 2)
        with pytest.raises(Refused, match="transfer_id_reused"):
            giving.transfer(source, destination, "40.01 EUR", transfer_id=identity, command_id=str(uuid.uuid4()))

    def test_money_goes_round(self, giving: GivesCommands, source: str, destination: str) -> None:
        third = f"T-{uuid.uuid4().hex[:12]}"
        giving.open_account(third, "EUR", "Cyd")
        ring = [source, destination, third, source]
        for _ in range(3):
            for one, next_ in pairwise(ring):
                assert giving.transfer(one, next_, "100.00 EUR", wait=True).completed
        assert giving.withdraw(source, "100.00 EUR").accepted

    def test_transfers_are_answered_among_others(self, giving: Ledger, source: str, destination: str) -> None:
        transfer = make(
            Transfer,
            source,
            transfer_id=str(uuid.uuid4()),
            to_account_id=destination,
            amount_minor=100,
            currency="EUR",
        )
        found = answered(giving, [deposit(source, 1), transfer, deposit(source, 1)])
        assert [a.reply.event_count for a in found] == [1, 1, 1]
        assert [a.reply.command_id for a in found][1] == transfer.command_id


def answered(ledger: Ledger, commands: Iterable[AnyCommand]) -> list[Answer]:
    """The answers, in the order of the commands."""
    wanted = list(commands)
    found = {answer.reply.command_id: answer for answer in ledger.answers(wanted)}
    return [found[command.command_id] for command in wanted]
