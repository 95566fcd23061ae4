"""Every refusal, the order in which they are checked, and the table in the documentation that says so."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final, Unpack

import pytest

from command_service.domain.refusals import Code, Rejection
from command_service.domain.withdrawals import Withdrawals
from schemas.commands import COMMAND_TYPES, AnyCommand
from schemas.events import AccountClosed, AccountFrozen, Event
from schemas.money import INT64_MAX
from tests.unit.given import (
    NOW,
    Common,
    change_holder,
    close_account,
    created,
    deposit,
    deposited,
    freeze,
    given,
    open_account,
    refund,
    refunded,
    set_overdraft_limit,
    unfreeze,
    withdraw,
    withdrawn,
)

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "REFUSALS.md"

History = tuple[Event, ...]
Case = tuple[Code, History, AnyCommand]

NO_ACCOUNT: Final[History] = ()
ACTIVE: Final[History] = (created(), deposited(100, 100), withdrawn(40, 60))
FROZEN: Final[History] = (*ACTIVE, AccountFrozen())
CLOSED: Final[History] = (created(), AccountClosed())
FULL: Final[History] = (created(overdraft_limit_minor=9), withdrawn(9, -9), deposited(INT64_MAX, INT64_MAX - 9))
FORGOTTEN: Final[History] = (
    created(overdraft_limit_minor=INT64_MAX),
    *(withdrawn(1, -n) for n in range(1, Withdrawals.REMEMBERED + 2)),
)
"""One withdrawal more than is remembered: event 2 is no longer."""

TOO_EARLY: Final = -62_135_596_800_000_001
LONG: Final = "x" * 201


def movements(currency: str, **common: Unpack[Common]) -> tuple[AnyCommand, ...]:
    """The commands on an existing account that name a currency."""
    return (
        deposit(1, currency, **common),
        withdraw(1, currency, **common),
        refund(3, 1, currency, **common),
        set_overdraft_limit(1, currency, **common),
    )


def to_an_account(**common: Unpack[Common]) -> tuple[AnyCommand, ...]:
    """Every command but the one that opens an account."""
    others = change_holder("Grace", **common), freeze(**common), unfreeze(**common), close_account(**common)
    return (*movements("EUR", **common), *others)


def all_commands(**common: Unpack[Common]) -> tuple[AnyCommand, ...]:
    return (open_account(**common), *to_an_account(**common))


def refusals() -> list[Case]:
    return [
        *((Code.INVALID_ACCOUNT_ID, ACTIVE, c) for c in all_commands(account_id="a/1")),
        *((Code.USER_ID_REQUIRED, ACTIVE, c) for c in all_commands(user_id=" ")),
        *((Code.TEXT_TOO_LONG, ACTIVE, c) for c in all_commands(user_id=LONG)),
        *((Code.TEXT_TOO_LONG, ACTIVE, c) for c in all_commands(correlation_id=LONG)),
        *((Code.TEXT_TOO_LONG, ACTIVE, c) for c in all_commands(reason="x" * 1001)),
        *((Code.TEXT_TOO_LONG, NO_ACCOUNT, c) for c in (open_account("EUR", LONG), open_account("EUR", "A", LONG))),
        *((Code.TEXT_TOO_LONG, ACTIVE, c) for c in (change_holder(LONG), change_holder("Ada", LONG))),
        *((Code.EFFECTIVE_AT_IN_FUTURE, ACTIVE, c) for c in all_commands(effective_at=NOW + 1)),
        *((Code.EFFECTIVE_AT_TOO_EARLY, ACTIVE, c) for c in all_commands(effective_at=TOO_EARLY)),
        *((Code.UNKNOWN_CURRENCY, ACTIVE, c) for c in (open_account("eur"), *movements("XXX"))),
        *((Code.AMOUNT_NOT_POSITIVE, ACTIVE, c) for n in (0, -1) for c in (deposit(n), withdraw(n), refund(3, n))),
        (Code.LIMIT_NEGATIVE, NO_ACCOUNT, open_account(overdraft_limit_minor=-1)),
        (Code.LIMIT_NEGATIVE, ACTIVE, set_overdraft_limit(-1)),
        (Code.HOLDER_NAME_REQUIRED, NO_ACCOUNT, open_account("EUR", "")),
        (Code.HOLDER_NAME_REQUIRED, ACTIVE, change_holder(" \t")),
        *((Code.ACCOUNT_EXISTS, history, open_account()) for history in (ACTIVE, FROZEN, CLOSED)),
        *((Code.ACCOUNT_NOT_FOUND, NO_ACCOUNT, c) for c in to_an_account()),
        *((Code.VERSION_CONFLICT, ACTIVE, c) for n in (2, 4, 0, -1) for c in to_an_account(expected_version=n)),
        (Code.VERSION_CONFLICT, NO_ACCOUNT, open_account(expected_version=1)),
        *((Code.ACCOUNT_CLOSED, CLOSED, c) for c in (*movements("EUR"), change_holder("Grace"), freeze(), unfreeze())),
        *((Code.CURRENCY_MISMATCH, ACTIVE, c) for c in movements("CZK")),
        *((Code.ACCOUNT_FROZEN, FROZEN, c) for c in (*movements("EUR"), close_account())),
        *((Code.WITHDRAWAL_NOT_FOUND, ACTIVE, refund(n)) for n in (-(2**63), -3, 0, 1, 2, 4, INT64_MAX)),
        *((Code.WITHDRAWAL_TOO_OLD, FORGOTTEN, refund(n, 1)) for n in (1, 2)),
        (Code.REFUND_EXCEEDS_WITHDRAWAL, ACTIVE, refund(3, 41)),
        (Code.REFUND_EXCEEDS_WITHDRAWAL, (*ACTIVE, refunded(3, 30, 90)), refund(3, 11)),
        (Code.INSUFFICIENT_FUNDS, ACTIVE, withdraw(61)),
        (Code.INSUFFICIENT_FUNDS, FORGOTTEN, withdraw(INT64_MAX)),
        (Code.OVERDRAFT_IN_USE, (created(overdraft_limit_minor=50), withdrawn(50, -50)), set_overdraft_limit(49)),
        (Code.BALANCE_NOT_ZERO, ACTIVE, close_account()),
        (Code.BALANCE_NOT_ZERO, (created(overdraft_limit_minor=50), withdrawn(1, -1)), close_account()),
        (Code.BALANCE_OUT_OF_RANGE, FULL, deposit(10)),
        (Code.BALANCE_OUT_OF_RANGE, (*FULL, deposited(9, INT64_MAX)), refund(2, 1)),
    ]


def _name(value: object) -> str | None:
    if isinstance(value, Code):
        return value.value
    return None if isinstance(value, tuple) else type(value).__name__


@pytest.mark.parametrize(("code", "history", "command"), refusals(), ids=_name)
def test_a_refusal_has_its_code(code: Code, history: History, command: AnyCommand) -> None:
    given(*history).when(command).then_refused(code)


@pytest.mark.parametrize(
    "account_id", ["", "-a", ".a", "a b", "a/b", "a\n", "ä", "a" * 129, "\N{ARABIC-INDIC DIGIT ONE}"]
)
def test_what_cannot_be_an_account_id(account_id: str) -> None:
    given().when(open_account(account_id=account_id)).then_refused(Code.INVALID_ACCOUNT_ID)


@pytest.mark.parametrize("account_id", ["a", "7", "CZ65:0800@bank.example+x_y-z", "a" * 128])
def test_what_can_be_an_account_id(account_id: str) -> None:
    given().when(open_account(account_id=account_id)).then(created())


def test_texts_may_be_as_long_as_the_documentation_says() -> None:
    command = open_account("EUR", "x" * 200, "y" * 200, user_id="u" * 200, correlation_id="c" * 200, reason="r" * 1000)
    given().when(command).then(created("EUR", "x" * 200, "y" * 200))


@pytest.mark.parametrize(
    ("history", "command", "saying"),
    [
        (ACTIVE, withdraw(10_000), "100.00 EUR is more than the balance of 0.60 EUR and an overdraft of 0.00 EUR"),
        (ACTIVE, refund(3, 41), "of withdrawal 3 at most 0.40 EUR can still be refunded, not 0.41 EUR"),
        (ACTIVE, deposit(1, expected_version=7), "the account is at sequence 3, not 7"),
        (ACTIVE, deposit(1, "CZK"), "the account is in EUR, not CZK"),
        (ACTIVE, deposit(1, "Z" * 9999), f'"{"Z" * 200}" is not'),
        (NO_ACCOUNT, deposit(1), "OpenAccount opens one"),
        (ACTIVE, deposit(1, reason="x" * 1001), "reason has 1001 characters: at most 1000"),
    ],
)
def test_a_refusal_says_what_was_wrong(history: History, command: AnyCommand, saying: str) -> None:
    decision = given(*history).when(command).decision
    assert isinstance(decision, Rejection)
    assert saying in decision.message


# Two histories or commands to which both codes of an adjacent pair apply, and what is left when the first is cured.
TOGETHER: Final[dict[tuple[Code, Code], tuple[tuple[History, AnyCommand], tuple[History, AnyCommand]]]] = {
    (Code.INVALID_ACCOUNT_ID, Code.USER_ID_REQUIRED): (
        (ACTIVE, deposit(account_id="", user_id="")),
        (ACTIVE, deposit(user_id="")),
    ),
    (Code.USER_ID_REQUIRED, Code.TEXT_TOO_LONG): (
        (ACTIVE, deposit(user_id="", correlation_id=LONG)),
        (ACTIVE, deposit(correlation_id=LONG)),
    ),
    (Code.TEXT_TOO_LONG, Code.EFFECTIVE_AT_IN_FUTURE): (
        (ACTIVE, change_holder("Ada", LONG, effective_at=NOW + 1)),
        (ACTIVE, change_holder("Ada", effective_at=NOW + 1)),
    ),
    (Code.EFFECTIVE_AT_TOO_EARLY, Code.UNKNOWN_CURRENCY): (
        (ACTIVE, deposit(1, "", effective_at=TOO_EARLY)),
        (ACTIVE, deposit(1, "")),
    ),
    (Code.UNKNOWN_CURRENCY, Code.AMOUNT_NOT_POSITIVE): ((ACTIVE, deposit(0, "")), (ACTIVE, deposit(0))),
    (Code.LIMIT_NEGATIVE, Code.HOLDER_NAME_REQUIRED): (
        (NO_ACCOUNT, open_account("EUR", "", overdraft_limit_minor=-1)),
        (NO_ACCOUNT, open_account("EUR", "")),
    ),
    (Code.HOLDER_NAME_REQUIRED, Code.ACCOUNT_EXISTS): ((ACTIVE, open_account("EUR", "")), (ACTIVE, open_account())),
    (Code.ACCOUNT_NOT_FOUND, Code.VERSION_CONFLICT): (
        (NO_ACCOUNT, deposit(expected_version=7)),
        (ACTIVE, deposit(expected_version=7)),
    ),
    (Code.VERSION_CONFLICT, Code.ACCOUNT_CLOSED): ((CLOSED, deposit(expected_version=7)), (CLOSED, deposit())),
    (Code.ACCOUNT_CLOSED, Code.CURRENCY_MISMATCH): ((CLOSED, deposit(1, "CZK")), (ACTIVE, deposit(1, "CZK"))),
    (Code.CURRENCY_MISMATCH, Code.ACCOUNT_FROZEN): ((FROZEN, deposit(1, "CZK")), (FROZEN, deposit(1))),
    (Code.ACCOUNT_FROZEN, Code.WITHDRAWAL_NOT_FOUND): ((FROZEN, refund(2)), (ACTIVE, refund(2))),
}
NEVER_TOGETHER: Final[dict[tuple[Code, Code], str]] = {
    (Code.COMMAND_ID_REUSED, Code.INVALID_ACCOUNT_ID): "the command service refuses the first without deciding",
    (Code.EFFECTIVE_AT_IN_FUTURE, Code.EFFECTIVE_AT_TOO_EARLY): "a time is not both",
    (Code.AMOUNT_NOT_POSITIVE, Code.LIMIT_NEGATIVE): "no command has an amount and a limit",
    (Code.ACCOUNT_EXISTS, Code.ACCOUNT_NOT_FOUND): "an account exists or does not",
    (Code.WITHDRAWAL_NOT_FOUND, Code.WITHDRAWAL_TOO_OLD): "which of them it was is forgotten with the withdrawal",
    (Code.WITHDRAWAL_TOO_OLD, Code.REFUND_EXCEEDS_WITHDRAWAL): "what was left of it is forgotten",
    (Code.REFUND_EXCEEDS_WITHDRAWAL, Code.INSUFFICIENT_FUNDS): "a refund takes nothing out",
    (Code.INSUFFICIENT_FUNDS, Code.OVERDRAFT_IN_USE): "different commands",
    (Code.OVERDRAFT_IN_USE, Code.BALANCE_NOT_ZERO): "different commands",
    (Code.BALANCE_NOT_ZERO, Code.BALANCE_OUT_OF_RANGE): "different commands",
}


@pytest.mark.parametrize(
    ("pair", "cases"), TOGETHER.items(), ids=lambda v: "-".join(v) if isinstance(v[0], Code) else ""
)
def test_the_earlier_code_wins(
    pair: tuple[Code, Code], cases: tuple[tuple[History, AnyCommand], tuple[History, AnyCommand]]
) -> None:
    (history, command), (cured_history, cured_command) = cases
    given(*history).when(command).then_refused(pair[0])
    given(*cured_history).when(cured_command).then_refused(pair[1])


def test_every_adjacent_pair_of_codes_is_tested_or_cannot_meet() -> None:
    codes = tuple(Code)
    assert sorted([*TOGETHER, *NEVER_TOGETHER]) == sorted(pairwise(codes))


def documented() -> list[tuple[str, str, str]]:
    """Number, code and commands of each row of the table in the documentation."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|.*\| ([^|]+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [(number, code, commands) for number, code, commands in rows]


def test_the_documentation_lists_every_code_in_order() -> None:
    assert [(n, code) for n, code, _ in documented()] == [(str(n), code.value) for n, code in enumerate(Code, start=1)]


def test_the_documentation_names_the_commands_of_every_code() -> None:
    refused = {code: {type(c) for of, _, c in refusals() if of is code} for code in Code}
    refused[Code.COMMAND_ID_REUSED] = set(COMMAND_TYPES)
    found = {code: commands for _, code, commands in documented()}
    wanted = {
        code.value: "all" if types == set(COMMAND_TYPES) else ", ".join(t.__name__ for t in COMMAND_TYPES if t in types)
        for code, types in refused.items()
    }
    assert found == wanted
