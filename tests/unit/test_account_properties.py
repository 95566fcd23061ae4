"""What holds for any commands in any order."""

from dataclasses import dataclass, field

from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from command_service.domain.account import Account, Status, decide, evolve
from command_service.domain.refusals import Code, Rejection
from schemas.commands import (
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CompleteTransfer,
    Deposit,
    EraseHolder,
    FollowUp,
    OpenAccount,
    ReceiveTransfer,
    Refund,
    ReturnTransfer,
    SetOverdraftLimit,
    Transfer,
    Withdraw,
)
from schemas.events import (
    Event,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.money import EXPONENTS, INT64_MAX, INT64_MIN
from tests.unit.given import ACCOUNT, NOW, close_account, erase_holder, fold, open_account
from tests.unit.strategies import ANY_COMMAND, MEETING_COMMANDS

# Rare among the others, and there is something to be seen after them.
AFTER_OPENING: list[list[AnyCommand]] = [[], [], [], [erase_holder()], [erase_holder()], [close_account()]]

HISTORIES = st.tuples(
    st.integers(0, 60).map(lambda limit: open_account(overdraft_limit_minor=limit)),
    st.sampled_from(AFTER_OPENING),
    # Short lists are all that is drawn by default, and on them little happens.
    st.lists(MEETING_COMMANDS, min_size=12, max_size=40),
).map(lambda drawn: [drawn[0], *drawn[1], *drawn[2]])

AFTER_THE_TRANSFER_ID = list(Code)[list(Code).index(Code.TRANSFER_ID_REUSED) :]
OF_FOLLOW_UPS = (
    Code.ACCOUNT_NOT_FOUND,
    Code.ACCOUNT_CLOSED,
    Code.CURRENCY_MISMATCH,
    Code.ACCOUNT_FROZEN,
    Code.BALANCE_OUT_OF_RANGE,
)


@dataclass(slots=True)
class Book:
    """The account kept by hand, from the events alone: a plain sum, what each withdrawal still allows, and what each
    transfer in transit is of."""

    events: list[Event] = field(default_factory=list)
    balance_minor: int = 0
    refundable: dict[int, int] = field(default_factory=dict)
    in_transit: dict[str, int] = field(default_factory=dict)

    def write(self, happened: Event) -> None:
        self.events.append(happened)
        match happened:
            case MoneyDeposited():
                self.balance_minor += happened.amount_minor
            case MoneyWithdrawn():
                self.balance_minor -= happened.amount_minor
                self.refundable[len(self.events)] = happened.amount_minor
            case MoneyRefunded():
                self.balance_minor += happened.amount_minor
                self.refundable[happened.withdrawal_sequence] -= happened.amount_minor
            case TransferSent():
                assert happened.transfer_id not in self.in_transit
                self.balance_minor -= happened.amount_minor
                self.in_transit[happened.transfer_id] = happened.amount_minor
            case TransferReceived():
                self.balance_minor += happened.amount_minor
            case TransferCompleted():
                assert self.in_transit.pop(happened.transfer_id) == happened.amount_minor
            case TransferReturned():
                assert self.in_transit.pop(happened.transfer_id) == happened.amount_minor
                self.balance_minor += happened.amount_minor
            case _:
                pass


@given(HISTORIES)
def test_money_is_conserved_and_sequences_have_no_gap(commands: list[AnyCommand]) -> None:
    book, state = Book(), None
    for command in commands:
        decision = decide(state, command, NOW)
        if isinstance(decision, Rejection):
            continue
        for happened in decision:
            state = evolve(state, happened)
            book.write(happened)
            assert state.sequence == len(book.events)
            assert state.balance_minor == book.balance_minor
            assert getattr(happened, "balance_minor", state.balance_minor) == state.balance_minor
            assert state.in_transit_minor == sum(book.in_transit.values())
            assert getattr(happened, "in_transit_minor", state.in_transit_minor) == state.in_transit_minor
            assert all(state.transfers.in_transit_minor(t) == amount for t, amount in book.in_transit.items())
            assert state.transfers.open_count == len(book.in_transit)
            assert -state.overdraft_limit_minor <= state.balance_minor
            assert state.balance_minor + state.in_transit_minor <= INT64_MAX
            assert 0 <= state.in_transit_minor <= INT64_MAX
            event(type(happened).__name__)
            assert all(left >= 0 for left in book.refundable.values())
            assert all(state.withdrawals.refundable(s) == left for s, left in book.refundable.items())
    assert state == fold(tuple(book.events))


@given(HISTORIES)
def test_a_command_given_twice_changes_nothing_the_second_time_unless_it_moves_money(
    commands: list[AnyCommand],
) -> None:
    state: Account | None = None
    for command in commands:
        decision = decide(state, command, NOW)
        if isinstance(decision, Rejection):
            continue
        for happened in decision:
            state = evolve(state, happened)
        if not isinstance(command, Deposit | Withdraw | Refund | ReceiveTransfer):
            again = decide(state, command, NOW)
            assert isinstance(again, Rejection) or not again


@given(HISTORIES, st.integers(1, 10))
def test_once_a_holder_is_erased_nothing_personal_is_kept_and_money_moves_as_before(
    commands: list[AnyCommand], at: int
) -> None:
    state: Account | None = None
    for number, command in enumerate(commands):
        if number == at and state is not None:
            state = evolve(state, HolderErased())
        decision = decide(state, command, NOW)
        if state is not None and state.holder_erased and not isinstance(command, EraseHolder):
            if says_something_personal(command):
                assert isinstance(decision, Rejection) or not decision
            else:
                assert decision == decide(replace(state, holder_erased=False, holder_name="Ada"), command, NOW)
                event(f"{type(command).__name__} as before")
        for happened in () if isinstance(decision, Rejection) else decision:
            state = evolve(state, happened)
        if state is not None and state.holder_erased:
            assert (state.holder_name, state.holder_email) == ("[erased]", None)


@given(st.lists(MEETING_COMMANDS | ANY_COMMAND, max_size=10), st.integers(INT64_MIN, INT64_MAX))
def test_any_command_that_can_be_decoded_is_decided(commands: list[AnyCommand], now: int) -> None:
    state: Account | None = None
    for command in [open_account(), *commands]:
        decision = decide(state, command, now)
        if isinstance(decision, Rejection):
            assert decision.message
            assert len(decision.message) < 1000
            continue
        for happened in decision:
            state = evolve(state, happened)


@settings(max_examples=200)
@given(HISTORIES, st.sampled_from([True, True, True, False]))
def test_the_first_code_that_applies_is_the_answer(commands: list[AnyCommand], opened: bool) -> None:
    state: Account | None = None
    for command in commands if opened else commands[1:]:
        decision = decide(state, command, NOW)
        wanted = next((code for code in Code if applies(code, state, command)), None)
        found = decision.code if isinstance(decision, Rejection) else None
        assert found == wanted
        event(f"answered {wanted}")
        for happened in () if isinstance(decision, Rejection) else decision:
            state = evolve(state, happened)


def applies(code: Code, state: Account | None, command: AnyCommand) -> bool:
    """Whether one refusal applies, without a thought for any other: each line says what the documentation says."""
    if isinstance(command, FollowUp) and code not in OF_FOLLOW_UPS:
        return False
    if state is not None and code in AFTER_THE_TRANSFER_ID and sent_before(state, command):
        return False
    currency = getattr(command, "currency", "EUR")
    amount = getattr(command, "amount_minor", 1)
    limit = getattr(command, "overdraft_limit_minor", getattr(command, "limit_minor", 0))
    name = getattr(command, "holder_name", "Ada")
    match code:
        case Code.NOT_A_CLIENT_COMMAND | Code.COMMAND_ID_REUSED:
            return False
        case Code.INVALID_ACCOUNT_ID:
            return "/" in command.account_id or "/" in getattr(command, "to_account_id", "")
        case Code.INVALID_TRANSFER_ID:
            return isinstance(command, Transfer) and len(command.transfer_id) != 36
        case Code.USER_ID_REQUIRED:
            return not command.user_id
        case Code.TEXT_TOO_LONG:
            payout = getattr(command, "payout_reference", None) or ""
            return max(len(name), len(command.correlation_id or ""), len(payout)) > 200
        case Code.EFFECTIVE_AT_IN_FUTURE:
            return command.effective_at == NOW + 1
        case Code.EFFECTIVE_AT_TOO_EARLY:
            return command.effective_at == INT64_MIN
        case Code.UNKNOWN_CURRENCY:
            return currency not in EXPONENTS
        case Code.AMOUNT_NOT_POSITIVE:
            return amount <= 0
        case Code.ACCOUNTS_MUST_DIFFER:
            return isinstance(command, Transfer) and command.to_account_id == ACCOUNT == command.account_id
        case Code.LIMIT_NEGATIVE:
            return limit < 0
        case Code.HOLDER_NAME_REQUIRED:
            return name == " "
        case Code.ACCOUNT_EXISTS:
            return isinstance(command, OpenAccount) and state is not None
        case Code.ACCOUNT_NOT_FOUND:
            return not isinstance(command, OpenAccount) and state is None
        case Code.TRANSFER_ID_REUSED:
            return state is not None and sent_before(state, command) is False
        case Code.VERSION_CONFLICT:
            return command.expected_version not in (None, state.sequence if state else 0)
        case _:
            return state is not None and applies_to_account(code, state, command)


def applies_to_account(code: Code, state: Account, command: AnyCommand) -> bool:
    amount = getattr(command, "amount_minor", 0)
    moves = isinstance(command, Deposit | Withdraw | Refund | SetOverdraftLimit | Transfer | ReceiveTransfer)
    takes = isinstance(command, Withdraw | Transfer)
    gives = isinstance(command, Deposit | Refund | ReceiveTransfer)
    named = command.withdrawal_sequence if isinstance(command, Refund) else None
    left = None if named is None else state.withdrawals.refundable(named)
    match code:
        case Code.ACCOUNT_CLOSED:
            return state.status is Status.CLOSED and not isinstance(
                command, CloseAccount | CompleteTransfer | ReturnTransfer | EraseHolder
            )
        case Code.HOLDER_ERASED:
            return state.holder_erased and says_something_personal(command)
        case Code.CURRENCY_MISMATCH:
            return moves and getattr(command, "currency", None) != state.currency
        case Code.ACCOUNT_FROZEN:
            return state.status is Status.FROZEN and (moves or isinstance(command, CloseAccount))
        case Code.WITHDRAWAL_NOT_FOUND:
            return named is not None and left is None
        case Code.REFUND_EXCEEDS_WITHDRAWAL:
            return left is not None and amount > left
        case Code.INSUFFICIENT_FUNDS:
            return takes and state.balance_minor - amount < -state.overdraft_limit_minor
        case Code.OVERDRAFT_IN_USE:
            return isinstance(command, SetOverdraftLimit) and state.balance_minor + command.limit_minor < 0
        case Code.BALANCE_NOT_ZERO:
            return isinstance(command, CloseAccount) and state.balance_minor != 0
        case Code.TRANSFERS_IN_TRANSIT:
            return isinstance(command, CloseAccount) and state.in_transit_minor != 0
        case Code.BALANCE_OUT_OF_RANGE:
            if isinstance(command, Transfer):
                return state.in_transit_minor + amount > INT64_MAX
            return gives and state.balance_minor + state.in_transit_minor + amount > INT64_MAX
        case Code.WITHDRAWAL_TOO_OLD | Code.TOO_MANY_IN_TRANSIT:
            return False  # They take more events than are drawn here; `test_refusals` has them.
        case _:
            raise AssertionError(f"{code} is not about an account")


def says_something_personal(command: AnyCommand) -> bool:
    of_the_holder = isinstance(command, OpenAccount | ChangeHolder)
    paid_to = getattr(command, "payout_reference", None)
    reason = command.reason if getattr(command, "reason_is_personal", False) else None
    return of_the_holder or paid_to is not None or reason is not None


def sent_before(state: Account, command: AnyCommand) -> bool | None:
    """Whether a transfer was sent before just so; None if its id is new."""
    if not isinstance(command, Transfer):
        return None
    alike = state.transfers.known(command.transfer_id, command.amount_minor, command.to_account_id)
    return None if alike is None else alike and command.currency == state.currency
