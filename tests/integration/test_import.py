"""Importing files into a running ledger, with interruptions."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from daybook import Client
from daybook.demo import month
from daybook.demo.expected import expected_balances
from daybook.importing import Import
from daybook.mapping import Mapping
from daybook.progress import untold
from daybook.verify.books import Books
from daybook.verify.money import read_books
from schemas.connections import Connections
from schemas.money import format_amount
from tests.conftest import Ledger
from tests.processes import environment, until

ROOT = Path(__file__).parents[2]
BERKA = ROOT.parent / "shared" / "data" / "berka" / "transactions.csv.gz"
BERKA_MAPPING = ROOT / "docs" / "tutorials" / "berka.toml"
BERKA_TRANSFERS = ROOT / "docs" / "tutorials" / "berka-transfers.toml"

BANK = """
name = "{name}"
[columns]
row_id = "id"
account = "account"
date = "date"
amount = "amount"
[accounts]
prefix = "{name}-"
currency = "EUR"
"""
ROWS = "id,account,date,amount\n1,A,2020-01-01,100.00\n2,A,2020-01-02,-30.00\n3,A,2020-01-03,-70.01\n4,A,soon,5.00\n"


@pytest.fixture(scope="module")
def client(ledger: Ledger) -> Iterator[Client]:
    with Client(ledger.connections, user_id="test", timeout_s=60) as client:
        yield client


def events(client: Client, prefix: str) -> int:
    return sum(logged.recorded.account_id.startswith(prefix) for logged in client.events())


def run(file: Path, mapping: Path, connections: Connections, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "daybook", "import", str(file), "--mapping", str(mapping), *options],
        env=environment(connections),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not BERKA.exists(), reason="the Berka transactions are not beside the project")
def test_a_real_banks_transactions_add_up_to_the_haller_and_are_posted_once(client: Client, tmp_path: Path) -> None:
    sums: dict[str, Decimal] = {}
    with gzip.open(BERKA, "rt", newline="") as text:
        for row in csv.DictReader(text):
            sign = 1 if row["type"] == "PRIJEM" else -1
            account_id = f"berka-{row['account_id']}"
            sums[account_id] = sums.get(account_id, Decimal(0)) + sign * Decimal(row["amount"])
    mapping = Mapping.load(BERKA_MAPPING)
    reached: dict[str, int] = {}

    tally = Import(BERKA, mapping, tmp_path / "rejects").run(
        client, on_reply=lambda reply: reached.update({reply.account_id: max(reply.sequence or 0, 0)})
    )
    recorded = events(client, "berka-")
    again = Import(BERKA, mapping, tmp_path / "rejects").run(client)

    assert (tally.rows, tally.accepted, tally.opened, tally.unreadable) == (23_932, 23_932, 591, 0)
    assert (tally.accepted_before, tally.opened_before) == (0, 0)
    assert (again.accepted, again.accepted_before, again.opened, again.opened_before) == (23_932, 23_932, 591, 591)
    assert recorded == events(client, "berka-") == 23_932 + 591
    for account_id, sequence in reached.items():
        client.balance(account_id, at_least=sequence)
    found = {b.account_id: Decimal(format_amount(b.money.amount_minor, "CZK")) for b in client.balances(sums)}
    assert len(found) == 591
    assert found == sums


@pytest.mark.skipif(not BERKA.exists(), reason="the Berka transactions are not beside the project")
def test_a_real_bank_s_transfers_are_transfers_and_the_sums_agree(client: Client, tmp_path: Path) -> None:
    sums: dict[str, int] = {}
    transfers = 0
    with gzip.open(BERKA, "rt", newline="") as text:
        for row in csv.DictReader(text):
            amount = int(Decimal(row["amount"]) * 100) * (1 if row["type"] == "PRIJEM" else -1)
            account_id = f"apart-{row['account_id']}"
            sums[account_id] = sums.get(account_id, 0) + amount
            if row["operation"] in ("PREVOD NA UCET", "PREVOD Z UCTU"):
                transfers += 1
                other = f"berka-at-{row['bank']}-{row['account']}"
                sums[other] = sums.get(other, 0) - amount
    mapping = Mapping.load(BERKA_TRANSFERS)
    # The same rows are imported into the same ledger by the other mapping.
    apart = mapping.accounts.model_copy(update={"prefix": "apart-"})
    tally = Import(BERKA, mapping.model_copy(update={"accounts": apart}), tmp_path / "rejects").run(client)
    assert (tally.accepted, tally.transfers, tally.unreadable) == (23_932, transfers, 0)
    assert transfers == 5_106

    def settled() -> Books | None:
        books = Books()
        read_books(client.connections, books, timeout_s=60, tell=untold)
        return None if books.in_flight() else books

    books = until(settled, "all transfers to be settled")
    assert books is not None
    assert (books.completed, books.returned) == (transfers, 0)

    def agree() -> bool:
        found = {b.account_id: b.money.amount_minor for b in client.balances(sums)}
        return found == sums

    until(agree, "the balances to be what the rows add up to")


def test_from_the_command_line(ledger: Ledger, client: Client, tmp_path: Path) -> None:
    file, mapping = tmp_path / "rows.csv", tmp_path / "bank.toml"
    file.write_text(ROWS)
    mapping.write_text(BANK.format(name="cli"))

    dry = run(file, mapping, ledger.connections, "--dry-run")
    first = run(file, mapping, ledger.connections)
    again = run(file, mapping, ledger.connections)
    as_json = run(file, mapping, ledger.connections, "--json", "--strict")

    assert dry.stdout.startswith("4 rows, 1 account to open; 1 cannot be read\n")
    codes = [ended.returncode for ended in (dry, first, again, as_json)]
    assert codes == [0, 0, 0, 1], first.stderr
    assert "2 accepted, 1 refused (1 insufficient_funds), 1 unreadable; 1 account opened\n" in first.stdout
    assert "2 accepted (2 of them before), 1 refused" in again.stdout
    assert "1 account opened (1 of them before)\n" in again.stdout
    summary = json.loads(as_json.stdout)
    assert (summary["accepted_before"], summary["accounts_opened_before"]) == (2, 1)
    assert (summary["accepted"], summary["refused_by_code"]) == (2, {"insufficient_funds": 1})
    with Path(summary["rejects"]).open(newline="") as text:
        rejected = [(row["rejected_line"], row["rejected_code"], row["id"]) for row in csv.DictReader(text)]
    assert sorted(rejected) == [("4", "insufficient_funds", "3"), ("5", "unreadable_row", "4")]
    assert str(client.balance("cli-A", at_least=3).money) == "70.00 EUR"
    assert events(client, "cli-") == 3


def test_killing_the_importing_process_and_running_it_again_posts_every_row_once(
    ledger: Ledger, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "month.csv"
    month.write(file, accounts=300, seed=7)
    mapping = month.mapping(7)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from daybook import Client\n"
        "from daybook.demo import month\n"
        "from daybook.importing import Import\n"
        "with Client(user_id='demo', timeout_s=60) as client:\n"
        "    Import(Path(sys.argv[1]), month.mapping(7)).run(client)\n"
    )
    before = events(client, "demo7-")
    victim = subprocess.Popen([sys.executable, "-c", script, str(file)], env=environment(ledger.connections))
    with victim:
        try:
            until(lambda: events(client, "demo7-") > before + 400, "row of the first run")
        finally:
            victim.kill()

    reached: dict[str, int] = {}
    tally = Import(file, mapping).run(
        client, on_reply=lambda reply: reached.update({reply.account_id: reply.sequence or 0})
    )

    expected = expected_balances(file, mapping)
    assert tally.accepted == sum(entry.posted for entry in expected.values())
    assert tally.refused.total() == sum(entry.refused for entry in expected.values())
    assert events(client, "demo7-") == tally.accepted + tally.opened
    for account_id in expected:
        client.balance(account_id, at_least=max(1, reached[account_id]))
    until(
        lambda: all(
            Decimal(format_amount(b.money.amount_minor, b.money.currency)) == expected[b.account_id].balance
            for b in client.balances(expected)
        ),
        "balances that equal the independent sum",
    )


def test_without_a_command_service_it_says_how_much_is_unanswered(deployed: Connections, tmp_path: Path) -> None:
    file, mapping = tmp_path / "rows.csv", tmp_path / "bank.toml"
    file.write_text(ROWS)
    mapping.write_text(BANK.format(name="silent"))

    ended = run(file, mapping, deployed, "--timeout", "3")

    assert ended.returncode == 3
    assert "no answer to 1 command within 3 s" in ended.stderr
    assert "posts what is missing and nothing twice" in ended.stderr


def test_what_is_wrong_with_the_file_or_the_mapping_is_exit_code_2(connections: Connections, tmp_path: Path) -> None:
    file, mapping = tmp_path / "rows.csv", tmp_path / "bank.toml"
    file.write_text(ROWS.replace("date", "day"))
    mapping.write_text(BANK.format(name="wrong"))

    ended = run(file, mapping, connections)

    assert ended.returncode == 2
    assert "columns.date: " in ended.stderr
    assert 'has no column "date"; its columns are id, account, day, amount' in ended.stderr
