"""Every refusal, the order in which they are checked, and the table in the documentation that says so."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Final, Unpack
from uuid import UUID

import pytest

from command_service.domain.refusals import Code, Rejection
from command_service.domain.transfers import Transfers
from command_service.domain.withdrawals import Withdrawals
from schemas.commands import CLIENT_COMMAND_TYPES, COMMAND_TYPES, FOLLOW_UP_TYPES, AnyCommand
from schemas.events import AccountClosed, AccountFrozen, Event, HolderErased
from schemas.money import INT64_MAX
from tests.unit.given import (
    ACCOUNT,
    NOW,
    TRANSFER_ID,
    Common,
    OfClients,
    change_holder,
    close_account,
    completed,
    created,
    deposit,
    deposited,
    erase_holder,
    freeze,
    given,
    open_account,
    receive,
    refund,
    refunded,
    returned,
    sent,
    set_overdraft_limit,
    transfer,
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
ERASED: Final[History] = (*ACTIVE, HolderErased())
FULL: Final[History] = (created(overdraft_limit_minor=9), withdrawn(9, -9), deposited(INT64_MAX, INT64_MAX - 9))
FORGOTTEN: Final[History] = (
    created(overdraft_limit_minor=INT64_MAX),
    *(withdrawn(1, -n) for n in range(1, Withdrawals.REMEMBERED + 2)),
)
"""One withdrawal more than is remembered: event 2 is no longer."""

SENT: Final[History] = (*ACTIVE, sent(10, 50, 10))
STRETCHED: Final[History] = (created(overdraft_limit_minor=INT64_MAX), sent(INT64_MAX, -INT64_MAX, INT64_MAX))
"""Nothing more can be taken out, and nothing more be in transit."""


def most_in_transit(in_transit_minor: int) -> History:
    """As many transfers in transit as there may be, which together are of an amount."""
    first = in_transit_minor - Transfers.MOST_OPEN + 1
    sums = range(first, in_transit_minor + 1)
    transfers = (
        sent(total if n == 0 else 1, -total, total, transfer_id=str(UUID(int=n))) for n, total in enumerate(sums)
    )
    return (created(overdraft_limit_minor=INT64_MAX), *transfers, deposited(1, 1 - in_transit_minor))


TOO_EARLY: Final = -62_135_596_800_000_001
LONG: Final = "x" * 201
NEW_ID: Final = "00000000-0000-4000-8000-000000000001"
NO_UUIDS: Final = ("", "1", NEW_ID[1:], NEW_ID.replace("-", ""), f"{{{NEW_ID}}}", f"{NEW_ID}\n", f"urn:uuid:{NEW_ID}")


def movements(currency: str, **common: Unpack[OfClients]) -> tuple[AnyCommand, ...]:
    """The commands on an existing account that name a currency."""
    return (
        deposit(1, currency, **common),
        withdraw(1, currency, **common),
        refund(3, 1, currency, **common),
        set_overdraft_limit(1, currency, **common),
        transfer(1, currency, **common),
    )


def with_a_reason(**common: Unpack[OfClients]) -> tuple[AnyCommand, ...]:
    """The commands on an existing account whose reason may be personal."""
    others = change_holder("Grace", **common), freeze(**common), unfreeze(**common), close_account(**common)
    return (*movements("EUR", **common), *others)


def to_an_account(**common: Unpack[Common]) -> tuple[AnyCommand, ...]:
    """Every command of clients but the one that opens an account."""
    return (*with_a_reason(**common), erase_holder(**common))


def all_commands(**common: Unpack[Common]) -> tuple[AnyCommand, ...]:
    return (open_account(**common), *to_an_account(**common))


def other_transfers() -> tuple[AnyCommand, ...]:
    """Other ones than that of `SENT`, under its id."""
    upper = TRANSFER_ID.upper()
    return (transfer(11), transfer(10, "CZK"), transfer(10, to_account_id="acc-3"), transfer(11, transfer_id=upper))


def refusals() -> list[Case]:
    return [
        *((Code.INVALID_ACCOUNT_ID, ACTIVE, c) for c in all_commands(account_id="a/1")),
        (Code.INVALID_ACCOUNT_ID, ACTIVE, transfer(to_account_id="a/1")),
        *((Code.INVALID_TRANSFER_ID, ACTIVE, transfer(transfer_id=text)) for text in NO_UUIDS),
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
        *((Code.AMOUNT_NOT_POSITIVE, ACTIVE, transfer(n)) for n in (0, -1)),
        *((Code.ACCOUNTS_MUST_DIFFER, history, transfer(to_account_id=ACCOUNT)) for history in (NO_ACCOUNT, ACTIVE)),
        (Code.LIMIT_NEGATIVE, NO_ACCOUNT, open_account(overdraft_limit_minor=-1)),
        (Code.LIMIT_NEGATIVE, ACTIVE, set_overdraft_limit(-1)),
        (Code.HOLDER_NAME_REQUIRED, NO_ACCOUNT, open_account("EUR", "")),
        (Code.HOLDER_NAME_REQUIRED, ACTIVE, change_holder(" \t")),
        *((Code.ACCOUNT_EXISTS, history, open_account()) for history in (ACTIVE, FROZEN, CLOSED)),
        *((Code.ACCOUNT_NOT_FOUND, NO_ACCOUNT, c) for c in (*to_an_account(), receive())),
        *((Code.TRANSFER_ID_REUSED, SENT, c) for c in other_transfers()),
        *((Code.TRANSFER_ID_REUSED, (*SENT, completed(10)), c) for c in other_transfers()),
        *((Code.TRANSFER_ID_REUSED, (*SENT, returned(10, 60)), c) for c in other_transfers()),
        (Code.TRANSFER_ID_REUSED, (*SENT, AccountFrozen()), transfer(11)),
        (Code.TRANSFER_ID_REUSED, (*SENT, completed(10), withdrawn(50, 0), AccountClosed()), transfer(11)),
        *((Code.VERSION_CONFLICT, ACTIVE, c) for n in (2, 4, 0, -1) for c in to_an_account(expected_version=n)),
        (Code.VERSION_CONFLICT, NO_ACCOUNT, open_account(expected_version=1)),
        *((Code.ACCOUNT_CLOSED, CLOSED, c) for c in (*movements("EUR"), change_holder("Grace"), freeze(), unfreeze())),
        (Code.ACCOUNT_CLOSED, CLOSED, receive()),
        *(
            (Code.HOLDER_ERASED, (*history, HolderErased()), c)
            for history in (ACTIVE, FROZEN)
            for c in (
                *with_a_reason(reason="", reason_is_personal=True),
                change_holder("Grace"),
                close_account("SEPA 7"),
            )
        ),
        *((Code.HOLDER_ERASED, ERASED, c) for c in (change_holder("Ada"), change_holder("[erased]"))),
        *((Code.CURRENCY_MISMATCH, ACTIVE, c) for c in (*movements("CZK"), receive(1, "CZK"))),
        *((Code.ACCOUNT_FROZEN, FROZEN, c) for c in (*movements("EUR"), close_account(), receive())),
        *((Code.WITHDRAWAL_NOT_FOUND, ACTIVE, refund(n)) for n in (-(2**63), -3, 0, 1, 2, 4, INT64_MAX)),
        *((Code.WITHDRAWAL_TOO_OLD, FORGOTTEN, refund(n, 1)) for n in (1, 2)),
        (Code.REFUND_EXCEEDS_WITHDRAWAL, ACTIVE, refund(3, 41)),
        (Code.REFUND_EXCEEDS_WITHDRAWAL, (*ACTIVE, refunded(3, 30, 90)), refund(3, 11)),
        (Code.INSUFFICIENT_FUNDS, ACTIVE, withdraw(61)),
        (Code.INSUFFICIENT_FUNDS, FORGOTTEN, withdraw(INT64_MAX)),
        (Code.INSUFFICIENT_FUNDS, ACTIVE, transfer(61)),
        (Code.INSUFFICIENT_FUNDS, (*ACTIVE, sent(60, 0, 60, transfer_id=NEW_ID)), transfer(1)),
        (Code.OVERDRAFT_IN_USE, (created(overdraft_limit_minor=50), withdrawn(50, -50)), set_overdraft_limit(49)),
        (Code.BALANCE_NOT_ZERO, ACTIVE, close_account()),
        (Code.BALANCE_NOT_ZERO, (created(overdraft_limit_minor=50), withdrawn(1, -1)), close_account()),
        (Code.TRANSFERS_IN_TRANSIT, (created(), deposited(5, 5), sent(5, 0, 5)), close_account()),
        (Code.BALANCE_OUT_OF_RANGE, FULL, deposit(10)),
        (Code.BALANCE_OUT_OF_RANGE, FULL, receive(10)),
        *((Code.BALANCE_OUT_OF_RANGE, (*FULL, sent(5, INT64_MAX - 14, 5)), c) for c in (deposit(10), receive(10))),
        (Code.BALANCE_OUT_OF_RANGE, (*FULL, sent(9, INT64_MAX - 18, 9), deposited(9, INT64_MAX - 9)), refund(2, 1)),
        (Code.BALANCE_OUT_OF_RANGE, (*STRETCHED, deposited(1, 1 - INT64_MAX)), transfer(1, transfer_id=NEW_ID)),
        (Code.TOO_MANY_IN_TRANSIT, most_in_transit(Transfers.MOST_OPEN), transfer(1)),
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
        (ACTIVE, transfer(transfer_id="Z" * 9999), f'"{"Z" * 200}" is not a UUID'),
        (ACTIVE, transfer(10_000), "100.00 EUR is more than the balance of 0.60 EUR and an overdraft of 0.00 EUR"),
        ((created(), deposited(5, 5), sent(5, 0, 5)), close_account(), "0.05 EUR of the account are in transit"),
        (FROZEN, receive(), f"account {ACCOUNT} is frozen"),
        (ERASED, change_holder("Grace"), f"the holder of account {ACCOUNT} was erased"),
    ],
)
def test_a_refusal_says_what_was_wrong(history: History, command: AnyCommand, saying: str) -> None:
    decision = given(*history).when(command).decision
    assert isinstance(decision, Rejection)
    assert saying in decision.message


# Two histories or commands to which both codes of a pair apply, and what is left when the first is cured.
TOGETHER: Final[dict[tuple[Code, Code], tuple[tuple[History, AnyCommand], tuple[History, AnyCommand]]]] = {
    (Code.INVALID_ACCOUNT_ID, Code.INVALID_TRANSFER_ID): (
        (ACTIVE, transfer(to_account_id="", transfer_id="")),
        (ACTIVE, transfer(transfer_id="")),
    ),
    (Code.INVALID_TRANSFER_ID, Code.USER_ID_REQUIRED): (
        (ACTIVE, transfer(transfer_id="", user_id="")),
        (ACTIVE, transfer(user_id="")),
    ),
    (Code.AMOUNT_NOT_POSITIVE, Code.ACCOUNTS_MUST_DIFFER): (
        (ACTIVE, transfer(0, to_account_id=ACCOUNT)),
        (ACTIVE, transfer(to_account_id=ACCOUNT)),
    ),
    (Code.ACCOUNTS_MUST_DIFFER, Code.ACCOUNT_NOT_FOUND): (
        (NO_ACCOUNT, transfer(to_account_id=ACCOUNT)),
        (NO_ACCOUNT, transfer()),
    ),
    (Code.TRANSFER_ID_REUSED, Code.VERSION_CONFLICT): (
        (SENT, transfer(11, expected_version=7)),
        (SENT, transfer(11, transfer_id=NEW_ID, expected_version=7)),
    ),
    (Code.INSUFFICIENT_FUNDS, Code.BALANCE_OUT_OF_RANGE): (
        (STRETCHED, transfer(1, transfer_id=NEW_ID)),
        ((*STRETCHED, deposited(1, 1 - INT64_MAX)), transfer(1, transfer_id=NEW_ID)),
    ),
    (Code.BALANCE_NOT_ZERO, Code.TRANSFERS_IN_TRANSIT): (
        ((created(), deposited(9, 9), sent(5, 4, 5)), close_account()),
        ((created(), deposited(9, 9), sent(5, 4, 5), withdrawn(4, 0)), close_account()),
    ),
    (Code.BALANCE_OUT_OF_RANGE, Code.TOO_MANY_IN_TRANSIT): (
        (most_in_transit(INT64_MAX), transfer(1)),
        (most_in_transit(INT64_MAX - 1), transfer(1)),
    ),
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
    (Code.ACCOUNT_CLOSED, Code.HOLDER_ERASED): (
        ((*CLOSED, HolderErased()), change_holder("Grace")),
        (ERASED, change_holder("Grace")),
    ),
    (Code.HOLDER_ERASED, Code.CURRENCY_MISMATCH): (
        (ERASED, deposit(1, "CZK", reason="for Ada", reason_is_personal=True)),
        (ERASED, deposit(1, "CZK", reason="a gift")),
    ),
    (Code.HOLDER_ERASED, Code.ACCOUNT_FROZEN): (
        ((*FROZEN, HolderErased()), close_account("SEPA 7")),
        ((*FROZEN, HolderErased()), close_account()),
    ),
    (Code.ACCOUNT_CLOSED, Code.CURRENCY_MISMATCH): ((CLOSED, deposit(1, "CZK")), (ACTIVE, deposit(1, "CZK"))),
    (Code.CURRENCY_MISMATCH, Code.ACCOUNT_FROZEN): ((FROZEN, deposit(1, "CZK")), (FROZEN, deposit(1))),
    (Code.ACCOUNT_FROZEN, Code.WITHDRAWAL_NOT_FOUND): ((FROZEN, refund(2)), (ACTIVE, refund(2))),
}
NEVER_TOGETHER: Final[dict[tuple[Code, Code], str]] = {
    (
        Code.NOT_A_CLIENT_COMMAND,
        Code.COMMAND_ID_REUSED,
    ): "the command service's both: `test_handler_transfers` has them",
    (Code.ACCOUNTS_MUST_DIFFER, Code.LIMIT_NEGATIVE): "different commands",
    (Code.ACCOUNT_NOT_FOUND, Code.TRANSFER_ID_REUSED): "without an account nothing was sent",
    (Code.TRANSFERS_IN_TRANSIT, Code.BALANCE_OUT_OF_RANGE): "different commands",
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
    codes = list(Code)
    pairs = [*TOGETHER, *NEVER_TOGETHER]
    assert set(pairwise(codes)) <= set(pairs)
    assert len(set(pairs)) == len(pairs)
    assert all(codes.index(earlier) < codes.index(later) for earlier, later in pairs)


def documented() -> list[tuple[str, str, str]]:
    """Number, code and commands of each row of the table in the documentation."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|.*\| ([^|]+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [(number, code, commands) for number, code, commands in rows]


def test_the_documentation_lists_every_code_in_order() -> None:
    assert [(n, code) for n, code, _ in documented()] == [(str(n), code.value) for n, code in enumerate(Code, start=1)]


def test_the_documentation_names_the_commands_of_every_code() -> None:
    refused = {code: {type(c) for of, _, c in refusals() if of is code} for code in Code}
    refused[Code.NOT_A_CLIENT_COMMAND] = set(FOLLOW_UP_TYPES)
    refused[Code.COMMAND_ID_REUSED] = set(CLIENT_COMMAND_TYPES)
    found = {code: commands for _, code, commands in documented()}
    wanted = {
        code.value: "all"
        if types == set(CLIENT_COMMAND_TYPES)
        else ", ".join(t.__name__ for t in COMMAND_TYPES if t in types)
        for code, types in refused.items()
    }
    assert found == wanted
