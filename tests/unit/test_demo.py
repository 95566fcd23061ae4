from __future__ import annotations

import ast
import inspect
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daybook.demo import expected, month
from daybook.demo.expected import expected_balances
from daybook.importing import Import
from daybook.mapping import Accounts, Columns, FileFormat, Kinds, Mapping
from schemas.money import format_amount
from tests.unit.memory_ledger import MemoryLedger


def balances(ledger: MemoryLedger) -> dict[str, tuple[Decimal, str]]:
    return {
        account_id: (Decimal(format_amount(account.balance_minor, account.currency)), account.currency)
        for account_id, account in ledger.accounts.items()
    }


def summed(file: Path, mapping: Mapping) -> dict[str, tuple[Decimal, str]]:
    return {
        account_id: (entry.balance, entry.currency) for account_id, entry in expected_balances(file, mapping).items()
    }


class TestMonth:
    def test_it_is_the_same_for_a_seed_and_another_for_another(self, tmp_path: Path) -> None:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            month.write(tmp_path / name, accounts=20, seed=seed)

        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()

    def test_fewer_accounts_are_the_first_of_more(self, tmp_path: Path) -> None:
        month.write(tmp_path / "few", accounts=5, seed=1)
        month.write(tmp_path / "more", accounts=50, seed=1)

        few, more = (set((tmp_path / name).read_text().splitlines()) for name in ("few", "more"))
        assert few < more

    def test_it_is_a_month_as_a_bank_has_it(self, tmp_path: Path) -> None:
        path = tmp_path / "month.csv"
        rows = month.write(path, accounts=1000, seed=1)

        entries = expected_balances(path, month.mapping(1))

        refused = sum(entry.refused for entry in entries.values())
        assert len(entries) == 1000
        assert 20_000 < rows < 40_000
        assert 0.005 < refused / rows < 0.05
        assert {entry.currency for entry in entries.values()} == {"EUR", "CZK", "JPY", "KWD"}
        assert any(entry.balance < 0 for entry in entries.values())

    def test_the_ledger_and_the_independent_sum_agree_on_it(self, tmp_path: Path) -> None:
        path = tmp_path / "month.csv"
        month.write(path, accounts=150, seed=3)
        ledger = MemoryLedger(window=100)

        tally = Import(path, month.mapping(3)).run(ledger)

        assert balances(ledger) == summed(path, month.mapping(3))
        assert tally.unreadable == 0
        assert tally.refused.total() == sum(e.refused for e in expected_balances(path, month.mapping(3)).values())


class TestExpected:
    def test_it_shares_no_code_with_the_ledger(self) -> None:
        imported = [
            node
            for node in ast.walk(ast.parse(inspect.getsource(expected)))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("daybook", "schemas")
        ]

        # The mapping's type alone, and that only for the type checker.
        assert [(node.module, node.col_offset) for node in imported] == [("daybook.mapping", 4)]

    @pytest.mark.parametrize("case", ["first row opens", "rows open", "signed amounts"])
    @settings(max_examples=100, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                st.integers(1, 12),
                st.sampled_from("ABC"),
                st.sampled_from(["2020-01-01", "2020-02-30", "2020-03-01"]),
                st.sampled_from(["0", "1", "10.5", "100", "1e2", "x", "-5", "7.50"]),
                st.sampled_from(["C", "C", "D", "D", "O", "-", "?"]),
            ),
            max_size=30,
        )
    )
    def test_it_agrees_with_the_ledger_on_any_file(
        self, tmp_path_factory: pytest.TempPathFactory, case: str, rows: list[tuple[object, ...]]
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"{case}.csv"
        path.write_text("".join(f"{';'.join(map(str, row))}\n" for row in [("id", "acc", "day", "sum", "type"), *rows]))
        signed, opens = case == "signed amounts", case == "rows open"
        mapping = Mapping(
            name="any",
            file=FileFormat(delimiter=";"),
            columns=Columns(row_id="id", account="acc", date="day", amount="sum", kind=None if signed else "type"),
            kinds=Kinds()
            if signed
            else Kinds(deposit=["C"], withdraw=["D"], ignore=["-"], open=["O"] if opens else []),
            accounts=Accounts(prefix="x", currency="EUR", overdraft="20.00", open="rows" if opens else "first_row"),
        )
        ledger = MemoryLedger()

        Import(path, mapping).run(ledger)

        assert balances(ledger) == summed(path, mapping)
