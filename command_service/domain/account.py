"""The account aggregate: state, evolve, decide. Read it top-down.

Nothing here does I/O, reads a clock or logs. `decide` says what a command leads to, or why it is refused; `evolve`
never refuses, since an event is a fact. The order in which refusals are checked is the order of the code, and is
written as a table in docs/REFUSALS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, assert_never

from msgspec import Struct
from msgspec.structs import replace

from command_service.domain.refusals import Code, Rejection, malformed
from command_service.domain.transfers import Transfers
from command_service.domain.withdrawals import Withdrawals
from schemas.commands import (
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CompleteTransfer,
    Deposit,
    EraseHolder,
    FollowUp,
    Freeze,
    FromLedger,
    OpenAccount,
    ReceiveTransfer,
    Refund,
    ReturnTransfer,
    SetOverdraftLimit,
    Transfer,
    Unfreeze,
    Withdraw,
)
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.money import INT64_MAX, format_amount
from schemas.personal import is_personal
from schemas.sealing import ERASED


class Status(StrEnum):
    ACTIVE = "active"
    FROZEN = "frozen"
    CLOSED = "closed"


class Account(Struct, frozen=True, kw_only=True, gc=False):
    """One account as of its event number `sequence`. There is no state before an account is created.

    `balance_minor` and `overdraft_limit_minor` are in the minor unit of `currency`; the balance may go down to
    `-overdraft_limit_minor`. `in_transit_minor` is what was sent and is not settled: it is not in the balance, and may
    come back, so the two together stay within 64 bits. Who holds the account stands here as in the events: sealed.
    """

    sequence: int
    currency: str
    balance_minor: int
    overdraft_limit_minor: int
    status: Status
    holder_name: str
    holder_email: str | None
    withdrawals: Withdrawals
    in_transit_minor: int
    transfers: Transfers
    holder_erased: bool


Decision = Sequence[Event] | Rejection
"""What a command leads to: events (none, when what it asks for is already so), or a refusal."""

_NOTHING: Final[Sequence[Event]] = ()


def evolve(state: Account | None, event: Event) -> Account:
    """The state after an event. The event is the next one of the account's stream."""
    if state is None:
        if not isinstance(event, AccountCreated):
            raise ValueError(f"{type(event).__name__} came before AccountCreated: the stream has no beginning")
        return Account(
            sequence=1,
            currency=event.currency,
            balance_minor=0,
            overdraft_limit_minor=event.overdraft_limit_minor,
            status=Status.ACTIVE,
            holder_name=event.holder_name,
            holder_email=event.holder_email,
            withdrawals=Withdrawals(),
            in_transit_minor=0,
            transfers=Transfers(),
            holder_erased=False,
        )
    sequence = state.sequence + 1
    # The frequent ones come first: each pattern that does not match costs as much as a method's call.
    match event:
        case MoneyDeposited():
            return replace(state, sequence=sequence, balance_minor=event.balance_minor)
        case TransferSent():
            return replace(
                state,
                sequence=sequence,
                balance_minor=event.balance_minor,
                in_transit_minor=event.in_transit_minor,
                transfers=state.transfers.sent(event.transfer_id, event.amount_minor, event.to_account_id),
            )
        case TransferReceived():
            return replace(state, sequence=sequence, balance_minor=event.balance_minor)
        case TransferCompleted():
            return replace(
                state,
                sequence=sequence,
                in_transit_minor=event.in_transit_minor,
                transfers=state.transfers.settle(event.transfer_id),
            )
        case MoneyWithdrawn():
            return replace(
                state,
                sequence=sequence,
                balance_minor=event.balance_minor,
                withdrawals=state.withdrawals.withdrawn(sequence, event.amount_minor),
            )
        case MoneyRefunded():
            return replace(
                state,
                sequence=sequence,
                balance_minor=event.balance_minor,
                withdrawals=state.withdrawals.refunded(event.withdrawal_sequence, event.amount_minor),
            )
        case OverdraftLimitSet():
            return replace(state, sequence=sequence, overdraft_limit_minor=event.new_limit_minor)
        case HolderChanged():
            return replace(state, sequence=sequence, holder_name=event.holder_name, holder_email=event.holder_email)
        case AccountFrozen():
            return replace(state, sequence=sequence, status=Status.FROZEN)
        case AccountUnfrozen():
            return replace(state, sequence=sequence, status=Status.ACTIVE)
        case AccountClosed():
            return replace(state, sequence=sequence, status=Status.CLOSED)
        case HolderErased():
            return replace(state, sequence=sequence, holder_name=ERASED.value, holder_email=None, holder_erased=True)
        case TransferReturned():
            return replace(
                state,
                sequence=sequence,
                balance_minor=event.balance_minor,
                in_transit_minor=event.in_transit_minor,
                transfers=state.transfers.settle(event.transfer_id),
            )
        case AccountCreated():
            return evolve(None, event)
        case _:
            assert_never(event)


def decide(state: Account | None, command: AnyCommand, now: int) -> Decision:
    """What a command leads to on an account in a state, at a time in microseconds since the Unix epoch."""
    if isinstance(command, FromLedger):
        return decide_follow_up(state, command)
    refusal = malformed(command, now)
    if refusal is not None:
        return refusal
    if isinstance(command, OpenAccount):
        return _open(state, command)
    if state is None:
        return _not_found(command)
    if isinstance(command, Transfer):
        known = state.transfers.known(command.transfer_id, command.amount_minor, command.to_account_id)
        if known is not None and known and command.currency == state.currency:
            return _NOTHING
        if known is not None:
            return Rejection(
                Code.TRANSFER_ID_REUSED,
                "this transfer id was used for another transfer: every new one needs an id of its own",
            )
    if command.expected_version is not None and command.expected_version != state.sequence:
        return Rejection(
            Code.VERSION_CONFLICT,
            f"the account is at sequence {state.sequence}, not {command.expected_version}: read it again, then decide",
        )
    if isinstance(command, EraseHolder):
        return _NOTHING if state.holder_erased else (HolderErased(),)
    if state.status is Status.CLOSED:
        if isinstance(command, CloseAccount):
            return _NOTHING
        return _closed(command)
    if state.holder_erased and is_personal(command):
        return Rejection(
            Code.HOLDER_ERASED,
            f"the holder of account {command.account_id} was erased: nothing personal can be kept for it any more",
        )
    match command:
        case Deposit():
            return _deposit(state, command)
        case Transfer():
            return _send(state, command)
        case Withdraw():
            return _withdraw(state, command)
        case Refund():
            return _refund(state, command)
        case SetOverdraftLimit():
            return _set_overdraft_limit(state, command)
        case ChangeHolder():
            return _change_holder(state, command)
        case Freeze():
            return _NOTHING if state.status is Status.FROZEN else (AccountFrozen(cause=command.cause),)
        case Unfreeze():
            return _NOTHING if state.status is Status.ACTIVE else (AccountUnfrozen(),)
        case CloseAccount():
            return _close(state, command)
        case _:
            assert_never(command)


def decide_follow_up(state: Account | None, command: FollowUp) -> Decision:
    """As `decide`, for what the ledger itself asks: what it says was looked at when the transfer was sent."""
    if state is None:
        return _not_found(command)
    if not isinstance(command, ReceiveTransfer):
        # Whatever the account has become meanwhile: the money is its own.
        return _settle(state, command)
    if state.status is Status.CLOSED:
        return _closed(command)
    return _receive(state, command)


def _open(state: Account | None, command: OpenAccount) -> Decision:
    if state is not None:
        return Rejection(Code.ACCOUNT_EXISTS, f"account {command.account_id} exists already, or existed")
    if command.expected_version not in (None, 0):
        return Rejection(
            Code.VERSION_CONFLICT, f"there is no account yet: expect version 0, not {command.expected_version}"
        )
    return (
        AccountCreated(
            currency=command.currency,
            holder_name=command.holder_name,
            holder_email=command.holder_email,
            overdraft_limit_minor=command.overdraft_limit_minor,
        ),
    )


def _deposit(state: Account, command: Deposit) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    balance = state.balance_minor + command.amount_minor
    if balance + state.in_transit_minor > INT64_MAX:
        return _out_of_range(state)
    return (MoneyDeposited(amount_minor=command.amount_minor, currency=state.currency, balance_minor=balance),)


def _withdraw(state: Account, command: Withdraw) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    balance = state.balance_minor - command.amount_minor
    if balance < -state.overdraft_limit_minor:
        return _insufficient(state, command)
    return (MoneyWithdrawn(amount_minor=command.amount_minor, currency=state.currency, balance_minor=balance),)


def _refund(state: Account, command: Refund) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    named = command.withdrawal_sequence
    if named > state.sequence:
        return Rejection(
            Code.WITHDRAWAL_NOT_FOUND, f"there is no event {named} yet: the account is at {state.sequence}"
        )
    refundable = state.withdrawals.refundable(named)
    if refundable is None:
        if 0 < named <= state.withdrawals.forgotten:
            return Rejection(
                Code.WITHDRAWAL_TOO_OLD,
                f"event {named} is older than the {Withdrawals.REMEMBERED} newest withdrawals, which alone can be "
                "refunded: deposit the amount with a reason instead",
            )
        return Rejection(Code.WITHDRAWAL_NOT_FOUND, f"event {named} of the account is not a withdrawal")
    if command.amount_minor > refundable:
        return Rejection(
            Code.REFUND_EXCEEDS_WITHDRAWAL,
            f"of withdrawal {named} at most {_text(refundable, state)} can still be refunded, "
            f"not {_text(command.amount_minor, state)}",
        )
    balance = state.balance_minor + command.amount_minor
    if balance + state.in_transit_minor > INT64_MAX:
        return _out_of_range(state)
    return (
        MoneyRefunded(
            amount_minor=command.amount_minor,
            currency=state.currency,
            balance_minor=balance,
            withdrawal_sequence=named,
        ),
    )


def _set_overdraft_limit(state: Account, command: SetOverdraftLimit) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    if state.balance_minor < -command.limit_minor:
        return Rejection(
            Code.OVERDRAFT_IN_USE,
            f"the balance is {_text(state.balance_minor, state)}: the overdraft limit cannot be lowered to "
            f"{_text(command.limit_minor, state)}",
        )
    if command.limit_minor == state.overdraft_limit_minor:
        return _NOTHING
    return (
        OverdraftLimitSet(
            previous_limit_minor=state.overdraft_limit_minor,
            new_limit_minor=command.limit_minor,
            currency=state.currency,
        ),
    )


def _change_holder(state: Account, command: ChangeHolder) -> Decision:
    if (command.holder_name, command.holder_email) == (state.holder_name, state.holder_email):
        return _NOTHING
    return (HolderChanged(holder_name=command.holder_name, holder_email=command.holder_email),)


def _close(state: Account, command: CloseAccount) -> Decision:
    if state.status is Status.FROZEN:
        return _frozen(command)
    if state.balance_minor != 0:
        return Rejection(
            Code.BALANCE_NOT_ZERO,
            f"the balance is {_text(state.balance_minor, state)}: an account is closed when nothing is left or owed",
        )
    if state.transfers.open:
        return Rejection(
            Code.TRANSFERS_IN_TRANSIT,
            f"{_text(state.in_transit_minor, state)} of the account are in transit and may come back: close it when "
            "they have arrived",
        )
    return (AccountClosed(payout_reference=command.payout_reference),)


def _send(state: Account, command: Transfer) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    balance = state.balance_minor - command.amount_minor
    if balance < -state.overdraft_limit_minor:
        return _insufficient(state, command)
    in_transit = state.in_transit_minor + command.amount_minor
    if in_transit > INT64_MAX:
        return Rejection(Code.BALANCE_OUT_OF_RANGE, f"what is in transit would exceed {_text(INT64_MAX, state)}")
    if state.transfers.open_count >= Transfers.MOST_OPEN:
        return Rejection(
            Code.TOO_MANY_IN_TRANSIT,
            f"{state.transfers.open_count} transfers of the account are in transit: wait until some have arrived",
        )
    return (
        TransferSent(
            transfer_id=command.transfer_id,
            to_account_id=command.to_account_id,
            amount_minor=command.amount_minor,
            currency=state.currency,
            balance_minor=balance,
            in_transit_minor=in_transit,
        ),
    )


def _receive(state: Account, command: ReceiveTransfer) -> Decision:
    refusal = _no_movement(state, command)
    if refusal is not None:
        return refusal
    balance = state.balance_minor + command.amount_minor
    if balance + state.in_transit_minor > INT64_MAX:
        return _out_of_range(state)
    return (
        TransferReceived(
            transfer_id=command.transfer_id,
            from_account_id=command.from_account_id,
            amount_minor=command.amount_minor,
            currency=state.currency,
            balance_minor=balance,
        ),
    )


def _settle(state: Account, command: CompleteTransfer | ReturnTransfer) -> Decision:
    amount = state.transfers.in_transit_minor(command.transfer_id)
    if amount is None:
        return _NOTHING
    in_transit = state.in_transit_minor - amount
    match command:
        case CompleteTransfer():
            return (
                TransferCompleted(
                    transfer_id=command.transfer_id,
                    to_account_id=command.to_account_id,
                    amount_minor=amount,
                    currency=state.currency,
                    in_transit_minor=in_transit,
                ),
            )
        case ReturnTransfer():
            return (
                TransferReturned(
                    transfer_id=command.transfer_id,
                    to_account_id=command.to_account_id,
                    amount_minor=amount,
                    currency=state.currency,
                    balance_minor=state.balance_minor + amount,
                    in_transit_minor=in_transit,
                    code=command.code,
                    message=command.message,
                ),
            )
        case _:
            assert_never(command)


def _insufficient(state: Account, command: Withdraw | Transfer) -> Rejection:
    return Rejection(
        Code.INSUFFICIENT_FUNDS,
        f"{_text(command.amount_minor, state)} is more than the balance of {_text(state.balance_minor, state)} "
        f"and an overdraft of {_text(state.overdraft_limit_minor, state)} allow",
    )


def _no_movement(
    state: Account, command: Deposit | Withdraw | Refund | SetOverdraftLimit | Transfer | ReceiveTransfer
) -> Rejection | None:
    """Why money of an open account cannot move at all, whatever the amount."""
    if command.currency != state.currency:
        return Rejection(Code.CURRENCY_MISMATCH, f"the account is in {state.currency}, not {command.currency}")
    if state.status is Status.FROZEN:
        return _frozen(command)
    return None


def _not_found(command: AnyCommand) -> Rejection:
    return Rejection(Code.ACCOUNT_NOT_FOUND, f"there is no account {command.account_id}; OpenAccount opens one")


def _closed(command: AnyCommand) -> Rejection:
    return Rejection(Code.ACCOUNT_CLOSED, f"account {command.account_id} is closed")


def _frozen(command: AnyCommand) -> Rejection:
    return Rejection(Code.ACCOUNT_FROZEN, f"account {command.account_id} is frozen; Unfreeze releases it")


def _out_of_range(state: Account) -> Rejection:
    return Rejection(
        Code.BALANCE_OUT_OF_RANGE, f"the balance, with what is in transit, would exceed {_text(INT64_MAX, state)}"
    )


def _text(amount_minor: int, state: Account) -> str:
    return f"{format_amount(amount_minor, state.currency)} {state.currency}"
