"""Why a command can be refused, and the refusals that its own words are enough for.

A code is an interface: clients branch on it, so it is never renamed. docs/REFUSALS.md lists them in their order of
precedence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schemas.commands import (
    ChangeHolder,
    ClientCommand,
    CloseAccount,
    Deposit,
    OpenAccount,
    Refund,
    SetOverdraftLimit,
    Transfer,
    Withdraw,
)
from schemas.money import EXPONENTS

# Account ids stand in keys, file names and URLs; the slash separates them from the sequence in an event's key.
_ACCOUNT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MAX_TEXT: Final = 1000
_MAX_NAME: Final = 200
_YEAR_1: Final = -62_135_596_800_000_000
"""Microseconds from the Unix epoch back to 0001-01-01: an earlier time is none in most consumers' calendars."""


class Code(StrEnum):
    """In order of precedence: the first that applies is the answer."""

    NOT_A_CLIENT_COMMAND = "not_a_client_command"
    COMMAND_ID_REUSED = "command_id_reused"
    INVALID_ACCOUNT_ID = "invalid_account_id"
    INVALID_TRANSFER_ID = "invalid_transfer_id"
    USER_ID_REQUIRED = "user_id_required"
    TEXT_TOO_LONG = "text_too_long"
    EFFECTIVE_AT_IN_FUTURE = "effective_at_in_future"
    EFFECTIVE_AT_TOO_EARLY = "effective_at_too_early"
    UNKNOWN_CURRENCY = "unknown_currency"
    AMOUNT_NOT_POSITIVE = "amount_not_positive"
    ACCOUNTS_MUST_DIFFER = "accounts_must_differ"
    LIMIT_NEGATIVE = "limit_negative"
    HOLDER_NAME_REQUIRED = "holder_name_required"
    ACCOUNT_EXISTS = "account_exists"
    ACCOUNT_NOT_FOUND = "account_not_found"
    TRANSFER_ID_REUSED = "transfer_id_reused"
    VERSION_CONFLICT = "version_conflict"
    ACCOUNT_CLOSED = "account_closed"
    HOLDER_ERASED = "holder_erased"
    CURRENCY_MISMATCH = "currency_mismatch"
    ACCOUNT_FROZEN = "account_frozen"
    WITHDRAWAL_NOT_FOUND = "withdrawal_not_found"
    WITHDRAWAL_TOO_OLD = "withdrawal_too_old"
    REFUND_EXCEEDS_WITHDRAWAL = "refund_exceeds_withdrawal"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    OVERDRAFT_IN_USE = "overdraft_in_use"
    BALANCE_NOT_ZERO = "balance_not_zero"
    TRANSFERS_IN_TRANSIT = "transfers_in_transit"
    BALANCE_OUT_OF_RANGE = "balance_out_of_range"
    TOO_MANY_IN_TRANSIT = "too_many_in_transit"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refusal: a stable code, and a message that says what was wrong and what to do."""

    code: Code
    message: str


def malformed(command: ClientCommand, now: int) -> Rejection | None:
    """The refusal that a client's command earns whatever the account's state, if any."""
    refusal = _misnamed(command.account_id)
    if refusal is None and isinstance(command, Transfer):
        refusal = _misnamed(command.to_account_id) or _no_transfer_id(command.transfer_id)
    if refusal is not None:
        return refusal
    if not command.user_id.strip():
        return Rejection(Code.USER_ID_REQUIRED, "user_id is empty: say who asks")
    refusal = _too_long_in(command) or _mistimed(command.effective_at, now)
    if refusal is not None:
        return refusal
    match command:
        case Deposit() | Transfer() | Withdraw() | Refund():
            if command.currency not in EXPONENTS:
                return _unknown_currency(command.currency)
            if command.amount_minor <= 0:
                return Rejection(
                    Code.AMOUNT_NOT_POSITIVE, f"amount_minor is {command.amount_minor}: it must be above 0"
                )
            if isinstance(command, Transfer) and command.to_account_id == command.account_id:
                return Rejection(Code.ACCOUNTS_MUST_DIFFER, f"account {command.account_id} cannot send money to itself")
        case SetOverdraftLimit():
            if command.currency not in EXPONENTS:
                return _unknown_currency(command.currency)
            return _negative_limit(command.limit_minor)
        case OpenAccount():
            if command.currency not in EXPONENTS:
                return _unknown_currency(command.currency)
            return _negative_limit(command.overdraft_limit_minor) or _nameless(command.holder_name)
        case ChangeHolder():
            return _nameless(command.holder_name)
        case _:
            pass
    return None


def _misnamed(account_id: str) -> Rejection | None:
    if _ACCOUNT_ID.fullmatch(account_id) is not None:
        return None
    return Rejection(
        Code.INVALID_ACCOUNT_ID,
        "an account id is 1 to 128 ASCII letters, digits and . _ : @ + -, beginning with a letter or a digit",
    )


def _no_transfer_id(transfer_id: str) -> Rejection | None:
    if _UUID.fullmatch(transfer_id) is not None:
        return None
    return Rejection(
        Code.INVALID_TRANSFER_ID, f'transfer id "{transfer_id[:_MAX_NAME]}" is not a UUID in its usual text form'
    )


def _too_long_in(command: ClientCommand) -> Rejection | None:
    refusal = _too_long("user_id", command.user_id, _MAX_NAME) or _too_long("reason", command.reason, _MAX_TEXT)
    refusal = refusal or _too_long("correlation_id", command.correlation_id, _MAX_NAME)
    if refusal is None and isinstance(command, OpenAccount | ChangeHolder):
        refusal = _too_long("holder_name", command.holder_name, _MAX_NAME)
        refusal = refusal or _too_long("holder_email", command.holder_email, _MAX_NAME)
    if refusal is None and isinstance(command, CloseAccount):
        refusal = _too_long("payout_reference", command.payout_reference, _MAX_NAME)
    return refusal


def _mistimed(effective_at: int | None, now: int) -> Rejection | None:
    if effective_at is None:
        return None
    if effective_at > now:
        return Rejection(
            Code.EFFECTIVE_AT_IN_FUTURE, "effective_at is later than now: a change can be back-dated, not post-dated"
        )
    if effective_at < _YEAR_1:
        return Rejection(Code.EFFECTIVE_AT_TOO_EARLY, "effective_at is before the year 1: is it in microseconds?")
    return None


def _unknown_currency(currency: str) -> Rejection:
    return Rejection(Code.UNKNOWN_CURRENCY, f'"{currency[:_MAX_NAME]}" is not an ISO 4217 currency code')


def _negative_limit(limit_minor: int) -> Rejection | None:
    if limit_minor >= 0:
        return None
    return Rejection(Code.LIMIT_NEGATIVE, f"the overdraft limit is {limit_minor}: say how far below zero, from 0 up")


def _nameless(holder_name: str) -> Rejection | None:
    return None if holder_name.strip() else Rejection(Code.HOLDER_NAME_REQUIRED, "holder_name is empty")


def _too_long(name: str, text: str | None, most: int) -> Rejection | None:
    if text is None or len(text) <= most:
        return None
    return Rejection(Code.TEXT_TOO_LONG, f"{name} has {len(text)} characters: at most {most} are kept")
