"""The commands that a client gives, as methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload
from uuid import uuid4

from daybook.models import EPOCH
from daybook.transfers import TransferOutcome
from schemas.commands import (
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CommandReply,
    Deposit,
    EraseHolder,
    Freeze,
    OpenAccount,
    Refund,
    SetOverdraftLimit,
    Transfer,
    Unfreeze,
    Withdraw,
    now_micros,
)
from schemas.events import FreezeCause
from schemas.money import InvalidMoney, Money

C = TypeVar("C", bound=AnyCommand)


class Common(TypedDict, total=False):
    """What any command may be given besides its own fields, and how long its reply is waited for."""

    command_id: str
    """A UUID; a fresh one unless given. Giving the same command again under the same id is always safe."""
    expected_version: int | None
    """Refuse unless this is the account's sequence."""
    correlation_id: str | None
    effective_at: datetime | int | None
    """Since when it counts: an aware datetime, or microseconds since the Unix epoch. Not in the future."""
    reason: str | None
    reason_is_personal: bool
    """The reason says something of a person: it is sealed in the log, and erased with the account's holder."""
    timeout_s: float | None


class GivesCommands(ABC):
    """Builds commands in a user's name and gives them, one after the other (`Client`)."""

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id

    @abstractmethod
    def execute(self, command: AnyCommand, *, timeout_s: float | None = None) -> CommandReply:
        """Give one command and wait for its reply."""

    @abstractmethod
    def settle(self, command: Transfer, *, timeout_s: float | None = None) -> TransferOutcome:
        """Give a transfer and wait until it is settled."""

    def command(
        self,
        kind: type[C],
        account_id: str,
        *,
        command_id: str | None = None,
        effective_at: datetime | int | None = None,
        **fields: Any,
    ) -> C:
        """Build a command of a kind from its own fields, with the common ones filled in; for `send_many`.

        Raises: `TypeError`, when the kind has no such field, or one is missing.
        """
        return kind(
            command_id=str(uuid4()) if command_id is None else command_id,
            account_id=account_id,
            user_id=self._user_id,
            issued_at=now_micros(),
            effective_at=_micros(effective_at),
            **fields,
        )

    def open_account(
        self,
        account_id: str,
        currency: str,
        holder_name: str,
        *,
        holder_email: str | None = None,
        overdraft: Money | str | None = None,
        **common: Unpack[Common],
    ) -> CommandReply:
        """Open an account whose balance may go down to `-overdraft`, which is nothing unless given.

        Raises: `InvalidMoney`, when the overdraft is no amount or in another currency.
        """
        limit = Money(0, currency) if overdraft is None else _money(overdraft)
        if limit.currency != currency:
            raise InvalidMoney(f"the overdraft is in {limit.currency}, but the account in {currency}")
        return self._give(
            OpenAccount,
            account_id,
            common,
            currency=currency,
            holder_name=holder_name,
            holder_email=holder_email,
            overdraft_limit_minor=limit.amount_minor,
        )

    def deposit(self, account_id: str, amount: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Pay money in. `amount` is `Money`, or as people write it: `"200.00 EUR"`. Raises: `InvalidMoney`."""
        return self._give(Deposit, account_id, common, **_fields(amount))

    def withdraw(self, account_id: str, amount: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Take money out. Raises: `InvalidMoney`."""
        return self._give(Withdraw, account_id, common, **_fields(amount))

    def refund(
        self, account_id: str, withdrawal_sequence: int, amount: Money | str, **common: Unpack[Common]
    ) -> CommandReply:
        """Give money back for the withdrawal that is event `withdrawal_sequence` of the account.

        Raises: `InvalidMoney`.
        """
        fields = _fields(amount)
        return self._give(Refund, account_id, common, withdrawal_sequence=withdrawal_sequence, **fields)

    @overload
    def transfer(
        self,
        from_account_id: str,
        to_account_id: str,
        amount: Money | str,
        *,
        transfer_id: str | None = None,
        wait: Literal[False] = False,
        **common: Unpack[Common],
    ) -> CommandReply: ...

    @overload
    def transfer(
        self,
        from_account_id: str,
        to_account_id: str,
        amount: Money | str,
        *,
        transfer_id: str | None = None,
        wait: Literal[True],
        **common: Unpack[Common],
    ) -> TransferOutcome: ...

    def transfer(
        self,
        from_account_id: str,
        to_account_id: str,
        amount: Money | str,
        *,
        transfer_id: str | None = None,
        wait: bool = False,
        **common: Unpack[Common],
    ) -> CommandReply | TransferOutcome:
        """Send money to another account: it leaves this one at once, and arrives there or comes back a little later.

        Returns the reply of the sending account; with `wait`, what became of the transfer, which may be that it was
        returned. `transfer_id` is a UUID, a fresh one unless given, and the command's id as well unless that is given:
        giving the same transfer again under its id is always safe. `timeout_s` bounds the wait, also where the outcome
        has to be looked for in the log; see `Client.settle`.

        Raises: `InvalidMoney`; with `wait` also `TransferInFlight`, when it was sent and is not settled in time, and
        `ReadTimeout`, when the log was not read in time.
        """
        given: dict[str, Any] = dict(common)
        timeout_s = given.pop("timeout_s", None)
        command_id = given.pop("command_id", None)
        # In one way of writing it, by which its events are found.
        chosen = (transfer_id or command_id or str(uuid4())).lower()
        command = self.command(
            Transfer,
            from_account_id,
            command_id=command_id or chosen,
            transfer_id=chosen,
            to_account_id=to_account_id,
            **_fields(amount),
            **given,
        )
        return self.settle(command, timeout_s=timeout_s) if wait else self.execute(command, timeout_s=timeout_s)

    def set_overdraft_limit(self, account_id: str, limit: Money | str, **common: Unpack[Common]) -> CommandReply:
        """Let the balance go down to `-limit`. Raises: `InvalidMoney`."""
        money = _money(limit)
        fields = {"limit_minor": money.amount_minor, "currency": money.currency}
        return self._give(SetOverdraftLimit, account_id, common, **fields)

    def change_holder(
        self, account_id: str, holder_name: str, *, holder_email: str | None = None, **common: Unpack[Common]
    ) -> CommandReply:
        """Replace both the name and the e-mail address of the account's holder."""
        return self._give(ChangeHolder, account_id, common, holder_name=holder_name, holder_email=holder_email)

    def freeze(
        self, account_id: str, *, cause: FreezeCause = FreezeCause.UNSPECIFIED, **common: Unpack[Common]
    ) -> CommandReply:
        """Let no money move until `unfreeze`. An account that is frozen stays so, with the cause that it has."""
        return self._give(Freeze, account_id, common, cause=cause)

    def unfreeze(self, account_id: str, **common: Unpack[Common]) -> CommandReply:
        return self._give(Unfreeze, account_id, common)

    def close_account(
        self, account_id: str, *, payout_reference: str | None = None, **common: Unpack[Common]
    ) -> CommandReply:
        """Close an account, whose balance must be zero, for good. `payout_reference` says where the last of it went."""
        return self._give(CloseAccount, account_id, common, payout_reference=payout_reference)

    def erase_holder(
        self,
        account_id: str,
        *,
        command_id: str | None = None,
        expected_version: int | None = None,
        correlation_id: str | None = None,
        reason: str | None = None,
        timeout_s: float | None = None,
    ) -> CommandReply:
        """Erase the account's holder for good: nobody can read any more what is sealed of the name, the e-mail address,
        payout references and personal reasons. The account stays, and its money.

        `reason` stays readable, since the key that would seal it is gone: name a request, not a person. What is kept
        of the holder elsewhere, and for how long, is for `daybook erase` (docs/ERASURE.md).
        """
        command = self.command(
            EraseHolder,
            account_id,
            command_id=command_id,
            expected_version=expected_version,
            correlation_id=correlation_id,
            reason=reason,
        )
        return self.execute(command, timeout_s=timeout_s)

    def _give(self, kind: type[AnyCommand], account_id: str, common: Common, **fields: Any) -> CommandReply:
        given: dict[str, Any] = dict(common)
        timeout_s = given.pop("timeout_s", None)
        return self.execute(self.command(kind, account_id, **given, **fields), timeout_s=timeout_s)


def _money(amount: Money | str) -> Money:
    return Money.parse(amount) if isinstance(amount, str) else amount


def _fields(amount: Money | str) -> dict[str, Any]:
    money = _money(amount)
    return {"amount_minor": money.amount_minor, "currency": money.currency}


def _micros(moment: datetime | int | None) -> int | None:
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone: say which, such as datetime(..., tzinfo=UTC)")
    return (moment - EPOCH) // timedelta(microseconds=1)
