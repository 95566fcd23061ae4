"""Rows that move money between two accounts of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from daybook.importing import Import
from daybook.mapping import Accounts, Columns, InvalidMapping, Kinds, Mapping, Transfers
from daybook.rows import RowFile, RowReader, UnreadableRow
from schemas.commands import Deposit, OpenAccount, Transfer
from tests.unit.memory_ledger import MemoryLedger

HEADER = "id,account,date,amount,type,how,bank,other\n"
OUT = "1,A,2020-01-01,30.00,D,transfer,YZ,7\n"
IN = "2,A,2020-01-02,10.00,C,transfer,YZ,7\n"


def mapping(**changes: Any) -> Mapping:
    settings: dict[str, Any] = {
        "name": "bank",
        "columns": Columns(row_id="id", account="account", date="date", amount="amount", kind="type"),
        "kinds": Kinds(deposit=["C"], withdraw=["D"], ignore=["-"]),
        "accounts": Accounts(prefix="b-", currency="EUR", overdraft="50.00"),
        "transfers": Transfers(
            column="how", values=("transfer",), counterparty=("bank", "other"), prefix="at-", overdraft="20.00"
        ),
    }
    return Mapping(**(settings | changes))


def commands(tmp_path: Path, row: str, by: Mapping | None = None) -> tuple[object, OpenAccount | None]:
    """What a row sends, and how its counterparty is opened."""
    by = by or mapping()
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + row)
    file = RowFile(path, by.file)
    reader = RowReader(by, path, file.header)
    entry = reader.read(next(file.rows()))
    return reader.movement(entry), reader.counterparty_opening(entry)


@pytest.mark.parametrize(("row", "source", "destination"), [(OUT, "b-A", "at-YZ-7"), (IN, "at-YZ-7", "b-A")])
def test_money_goes_the_way_that_the_row_says(tmp_path: Path, row: str, source: str, destination: str) -> None:
    command, opening = commands(tmp_path, row)
    assert isinstance(command, Transfer)
    assert (command.account_id, command.to_account_id, command.currency) == (source, destination, "EUR")
    assert command.amount_minor == (3000 if row is OUT else 1000)
    assert (command.transfer_id, command.correlation_id) == (command.command_id, "bank")
    assert opening is not None
    assert (opening.account_id, opening.overdraft_limit_minor, opening.holder_name) == (
        *("at-YZ-7", 2000),
        "Holder of at-YZ-7",
    )
    again, _ = commands(tmp_path, row)
    assert isinstance(again, Transfer)
    assert again.command_id == command.command_id


def test_without_kinds_the_sign_says_which_way(tmp_path: Path) -> None:
    signed = mapping(columns=Columns(row_id="id", account="account", date="date", amount="amount"), kinds=Kinds())
    command, _ = commands(tmp_path, "1,A,2020-01-01,-30.00,,transfer,YZ,7\n", signed)
    assert isinstance(command, Transfer)
    assert (command.account_id, command.amount_minor) == ("b-A", 3000)


def test_other_rows_are_what_they_were(tmp_path: Path) -> None:
    command, opening = commands(tmp_path, "2,A,2020-01-02,10.00,C,cash,,\n")
    assert isinstance(command, Deposit)
    assert opening is None


def test_a_transfer_without_a_counterparty_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRow, match="bank, other is empty: a transfer needs a counterparty"):
        commands(tmp_path, "2,A,2020-01-02,10.00,C,transfer,YZ,\n")


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    by = mapping(transfers=Transfers(column="hoe", values=("transfer",), counterparty="other"))
    with pytest.raises(InvalidMapping, match=r'transfers\.column: .*has no column "hoe"'):
        commands(tmp_path, OUT, by)


def test_an_overdraft_that_is_none() -> None:
    with pytest.raises(ValidationError, match=r"transfers\.overdraft: .* has 3 decimals"):
        mapping(transfers=Transfers(column="how", values=("t",), counterparty="other", overdraft="1.005"))


def test_an_import_with_transfers_adds_up_and_is_safe_to_repeat(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(HEADER + OUT + IN + "3,A,2020-01-03,5.00,C,cash,,\n4,B,2020-01-03,20.01,C,transfer,XX,1\n")
    ledger = MemoryLedger()
    tally = Import(file, mapping()).run(ledger)
    # The last is more than its counterparty's overdraft allows.
    assert (tally.opened, tally.accepted, tally.transfers, dict(tally.refused)) == (
        *(4, 3, 2),
        {"insufficient_funds": 1},
    )
    balances = {account_id: ledger.balance(account_id) for account_id in ledger.accounts}
    assert balances == {"b-A": "-15.00 EUR", "at-YZ-7": "20.00 EUR", "b-B": "0.00 EUR", "at-XX-1": "0.00 EUR"}
    events = ledger.events
    again = Import(file, mapping()).run(ledger)
    assert (again.accepted_before, again.opened_before, ledger.events) == (3, 4, events)


def openings(tmp_path: Path, rows: str, by: Mapping, header: str = HEADER) -> dict[str, OpenAccount]:
    """How an import opens the accounts, in that order."""
    file = tmp_path / "rows.csv"
    file.write_text(header + rows)
    ledger = MemoryLedger()
    Import(file, by).run(ledger)
    found = [command for command in ledger.commands if isinstance(command, OpenAccount)]
    assert len({command.account_id for command in found}) == len(found)
    return {command.account_id: command for command in found}


def test_an_account_of_the_file_is_opened_by_its_own_row_though_another_named_it_before(tmp_path: Path) -> None:
    by = mapping(
        columns=Columns(row_id="id", account="account", date="date", amount="amount", kind="type", overdraft="limit"),
        accounts=Accounts(currency="EUR", holder="{name}"),
        transfers=Transfers(column="how", values=("transfer",), counterparty="other", overdraft="20.00"),
    )
    rows = (
        "1,A,2020-01-01,3.00,D,transfer,X,5.00,Ada\n"
        "2,A,2020-01-02,1.00,D,transfer,B,5.00,Ada\n"
        "3,B,2020-01-03,1.00,C,cash,,7.00,Bob\n"
    )
    found = openings(tmp_path, rows, by, "id,account,date,amount,type,how,other,limit,name\n")
    assert [(one.account_id, one.holder_name, one.overdraft_limit_minor) for one in found.values()] == [
        ("A", "Ada", 500),
        ("B", "Bob", 700),
        ("X", "Holder of X", 2000),
    ]
    assert len({found["B"].effective_at, found["X"].effective_at, found["A"].effective_at}) == 2


def test_an_account_of_the_file_that_cannot_be_opened_is_not_opened_as_a_counterparty(tmp_path: Path) -> None:
    by = mapping(
        columns=Columns(row_id="id", account="account", date="date", amount="amount", kind="type", overdraft="limit"),
        accounts=Accounts(currency="EUR"),
        transfers=Transfers(column="how", values=("transfer",), counterparty="other"),
    )
    rows = "1,A,2020-01-01,3.00,C,transfer,B,5.00\n2,B,2020-01-03,1.00,C,cash,,none\n"
    assert list(openings(tmp_path, rows, by, "id,account,date,amount,type,how,other,limit\n")) == ["A"]
    rejected = (tmp_path / "rows.csv.rejected.csv").read_text()
    assert rejected.count("the account was not opened: limit:") == 1


def test_the_holder_of_a_counterparty_has_a_template_of_its_own(tmp_path: Path) -> None:
    by = mapping(
        accounts=Accounts(prefix="b-", currency="EUR", overdraft="50.00", holder="{account} of {how}"),
        transfers=Transfers(
            column="how", values=("transfer",), counterparty=("bank", "other"), prefix="at-", holder="{other} at {bank}"
        ),
    )
    found = openings(tmp_path, OUT, by)
    assert {one.account_id: one.holder_name for one in found.values()} == {
        "b-A": "b-A of transfer",
        "at-YZ-7": "7 at YZ",
    }
    misspelt = mapping(transfers=Transfers(column="how", values=("transfer",), counterparty="other", holder="{ohter}"))
    with pytest.raises(InvalidMapping, match=r'transfers\.holder: .*has no column "ohter"'):
        commands(tmp_path, OUT, misspelt)


def test_a_rehearsal_keeps_nothing_of_what_it_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(HEADER + OUT + IN)
    rehearsed = Import(file, mapping())
    tally = rehearsed.check()
    assert (tally.opened, tally.transfers, rehearsed.waiting) == (2, 0, 0)


def test_accounts_that_are_never_opened_are_not_opened_as_counterparties(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(HEADER + OUT)
    ledger = MemoryLedger()
    tally = Import(file, mapping(accounts=Accounts(currency="EUR", open="never"))).run(ledger)
    assert (tally.opened, dict(tally.refused)) == (0, {"account_not_found": 1})


def test_the_documented_mapping_is_one() -> None:
    documented = Path(__file__).parents[2] / "docs" / "tutorials" / "berka-transfers.toml"
    found = Mapping.load(documented)
    assert found.transfers is not None
    assert found.transfers.counterparty_columns == ("bank", "account")
