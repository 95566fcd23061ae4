"""Commands and their reply: frozen types of the newest version of each Avro record.

A command's name and its fields are an interface that outsiders produce to (`schemas/account/*.avsc`); they change
by a new version only. Times are microseconds since the Unix epoch, in UTC; amounts are minor units of a currency.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import ClassVar, Final

from msgspec import Struct

from schemas.events import FreezeCause

COMMAND_NAMESPACE: Final = "daybook.account.command"


def now_micros() -> int:
    """The wall clock, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class Command(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What every command says: which account, who asks, when, and under which identity.

    `command_id` is a UUID in its usual text form. Sending a command again under the same id is always safe: the
    ledger gives its first answer again and changes nothing.
    """

    command_id: str
    account_id: str
    user_id: str
    issued_at: int
    expected_version: int | None = None
    correlation_id: str | None = None
    effective_at: int | None = None
    reason: str | None = None


class FromClient(Command, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What clients may say besides: `reason_is_personal` has the reason sealed, and erased with the holder."""

    reason_is_personal: bool = False


class OpenAccount(FromClient, frozen=True, kw_only=True, gc=False):
    currency: str
    holder_name: str
    holder_email: str | None = None
    overdraft_limit_minor: int = 0


class Deposit(FromClient, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str


class Withdraw(FromClient, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str


class Refund(FromClient, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str
    withdrawal_sequence: int


class SetOverdraftLimit(FromClient, frozen=True, kw_only=True, gc=False):
    limit_minor: int
    currency: str


class ChangeHolder(FromClient, frozen=True, kw_only=True, gc=False):
    holder_name: str
    holder_email: str | None = None


class Freeze(FromClient, frozen=True, kw_only=True, gc=False):
    cause: FreezeCause = FreezeCause.UNSPECIFIED


class Unfreeze(FromClient, frozen=True, kw_only=True, gc=False):
    pass


class CloseAccount(FromClient, frozen=True, kw_only=True, gc=False):
    payout_reference: str | None = None


class Transfer(FromClient, frozen=True, kw_only=True, gc=False):
    """`transfer_id` is a UUID in its usual text form, one for each transfer of the sending account."""

    transfer_id: str
    to_account_id: str
    amount_minor: int
    currency: str


class EraseHolder(Command, frozen=True, kw_only=True, gc=False):
    """Its own reason is kept as it is given, since the key that would seal it is gone: name a request, not a person."""


class FromLedger(Command, frozen=True, kw_only=True, gc=False):
    """What one account's events ask of another account: a step of a transfer."""


class ReceiveTransfer(FromLedger, frozen=True, kw_only=True, gc=False):
    transfer_id: str
    from_account_id: str
    amount_minor: int
    currency: str
    causation_id: str


class CompleteTransfer(FromLedger, frozen=True, kw_only=True, gc=False):
    transfer_id: str
    to_account_id: str
    causation_id: str


class ReturnTransfer(FromLedger, frozen=True, kw_only=True, gc=False):
    """`code` and `message` are those of the refusal by which the money was not taken in."""

    transfer_id: str
    to_account_id: str
    code: str
    message: str
    causation_id: str


ClientCommand = (
    OpenAccount
    | Deposit
    | Withdraw
    | Refund
    | SetOverdraftLimit
    | ChangeHolder
    | Freeze
    | Unfreeze
    | CloseAccount
    | Transfer
    | EraseHolder
)
"""What anybody may ask, on the commands topic."""

FollowUp = ReceiveTransfer | CompleteTransfer | ReturnTransfer
"""What one account's events ask of another account. Only the command service gives them, on a topic of their own, since
money would be made of a `ReceiveTransfer` that nobody sent."""

AnyCommand = ClientCommand | FollowUp
CLIENT_COMMAND_TYPES: Final[tuple[type[ClientCommand], ...]] = (
    OpenAccount,
    Deposit,
    Withdraw,
    Refund,
    SetOverdraftLimit,
    ChangeHolder,
    Freeze,
    Unfreeze,
    CloseAccount,
    Transfer,
    EraseHolder,
)
FOLLOW_UP_TYPES: Final[tuple[type[FollowUp], ...]] = (ReceiveTransfer, CompleteTransfer, ReturnTransfer)
COMMAND_TYPES: Final[tuple[type[AnyCommand], ...]] = (*CLIENT_COMMAND_TYPES, *FOLLOW_UP_TYPES)


class CommandStatus(StrEnum):
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"


class CommandReply(Struct, frozen=True, kw_only=True, gc=False):
    """What became of one command.

    `sequence` is the account's after the command, None where there is no such account; with the account id it is
    the token by which a reader waits for its own write. `code` and `message` say why it was refused.
    """

    FULL_NAME: ClassVar[str] = "daybook.account.CommandReply"

    command_id: str
    account_id: str
    status: CommandStatus
    sequence: int | None
    event_count: int
    code: str | None = None
    message: str | None = None
    decided_at: int

    @property
    def accepted(self) -> bool:
        return self.status is CommandStatus.ACCEPTED
