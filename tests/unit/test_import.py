from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import DaybookError
from daybook.importing import AccountsExist, Import, Progress, Tally
from daybook.link import Answer
from daybook.mapping import Accounts, Columns, Kinds, Mapping
from daybook.rows import UnreadableFile
from schemas.commands import AnyCommand, OpenAccount
from tests.unit.memory_ledger import MemoryLedger

HEADER = "id,account,date,amount,type\n"
ROWS = (
    "1,A,2020-01-01,100.00,C\n"
    "2,B,2020-01-01,10.00,C\n"
    "3,A,2020-01-02,30.00,D\n"
    "4,B,2020-01-02,10.01,D\n"
    "5,A,2020-01-03,5.00,?\n"
    "6,B,2020-01-03,1.00,C\n"
)


def mapping(**changes: Any) -> Mapping:
    settings: dict[str, Any] = {
        "name": "bank",
        "columns": Columns(row_id="id", account="account", date="date", amount="amount", kind="type"),
        "kinds": Kinds(deposit=["C"], withdraw=["D"], ignore=["-"]),
        "accounts": Accounts(currency="EUR"),
    }
    return Mapping(**(settings | changes))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + ROWS)
    return path


def rejected(run: Import) -> list[tuple[str, str, str]]:
    """Line, code and the row's own id of each rejected row."""
    with run.rejects.path.open(newline="") as text:
        return [(row["rejected_line"], row["rejected_code"], row["id"]) for row in csv.DictReader(text)]


def test_accounts_are_opened_and_rows_posted(file: Path) -> None:
    ledger = MemoryLedger()

    tally = Import(file, mapping()).run(ledger)

    assert (ledger.balance("A"), ledger.balance("B")) == ("70.00 EUR", "11.00 EUR")
    assert (tally.rows, tally.opened, tally.accepted, tally.unreadable, tally.other) == (6, 2, 4, 1, 0)
    assert dict(tally.refused) == {"insufficient_funds": 1}


def test_all_accounts_are_opened_before_the_first_row(file: Path) -> None:
    ledger = MemoryLedger()

    Import(file, mapping()).run(ledger)

    assert [type(command) is OpenAccount for command in ledger.commands] == [
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]


def test_running_it_again_changes_nothing_and_says_what_was_there(file: Path) -> None:
    ledger = MemoryLedger()
    first = Import(file, mapping()).run(ledger)
    events = ledger.events

    second = Import(file, mapping()).run(ledger)

    assert ledger.events == events
    assert (second.accepted, second.refused, second.opened) == (first.accepted, first.refused, first.opened)
    assert (first.accepted_before, first.opened_before) == (0, 0)
    assert (second.accepted_before, second.opened_before) == (4, 2)


def test_a_file_that_has_grown_says_how_many_rows_are_new(file: Path) -> None:
    ledger = MemoryLedger()
    Import(file, mapping()).run(ledger)
    with file.open("a") as text:
        text.write("7,A,2020-01-04,1.00,C\n8,C,2020-01-04,1.00,C\n")

    tally = Import(file, mapping()).run(ledger)

    assert (tally.accepted, tally.accepted_before, tally.opened, tally.opened_before) == (6, 4, 3, 2)


def test_a_compressed_file_is_the_same_file(file: Path) -> None:
    packed = file.with_name("rows.csv.gz")
    packed.write_bytes(gzip.compress(file.read_bytes()))
    ledger = MemoryLedger()
    Import(file, mapping()).run(ledger)
    events = ledger.events

    Import(packed, mapping()).run(ledger)

    assert ledger.events == events


def test_what_is_not_posted_is_written_down_with_its_reason(file: Path) -> None:
    run = Import(file, mapping())
    run.run(MemoryLedger())

    assert run.rejects.path == file.with_name("rows.csv.rejected.csv")
    assert sorted(rejected(run)) == [("5", "insufficient_funds", "4"), ("6", "unreadable_row", "5")]
    assert '"?", of which' in run.rejects.path.read_text().replace('""', '"')


def test_the_rejected_rows_can_be_read_with_the_same_mapping(file: Path) -> None:
    run = Import(file, mapping())
    ledger = MemoryLedger()
    run.run(ledger)

    tally = Import(run.rejects.path, mapping()).check()

    assert (tally.rows, tally.unreadable) == (2, 1)


def test_nothing_is_written_when_all_is_posted_and_an_earlier_file_is_removed(file: Path) -> None:
    Import(file, mapping()).run(MemoryLedger())
    file.write_text(HEADER + "1,A,2020-01-01,100.00,C\n")

    run = Import(file, mapping())
    run.run(MemoryLedger())

    assert not run.rejects.path.exists()


def test_the_imported_file_is_not_overwritten_by_rejects(file: Path) -> None:
    with pytest.raises(DaybookError, match="is the file to import"):
        Import(file, mapping(), file)

    assert file.exists()


def test_rejects_that_cannot_be_written_are_an_error_that_names_the_place(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DaybookError, match=r"nowhere/r\.csv cannot be written: No such file or directory"):
        Import(file, mapping(), tmp_path / "nowhere" / "r.csv").run(MemoryLedger())


def test_accounts_imported_longer_ago_than_the_ledger_remembers_stop_the_import(file: Path) -> None:
    ledger = MemoryLedger()
    Import(file, mapping()).run(ledger)
    ledger.forget_commands()
    events = ledger.events

    with pytest.raises(AccountsExist, match=r"the ledger has 2 accounts of the file already \(A, B\)"):
        Import(file, mapping()).run(ledger)

    assert ledger.events == events


def test_unless_the_rows_are_to_go_to_existing_accounts(file: Path) -> None:
    ledger = MemoryLedger()
    Import(file, mapping()).run(ledger)

    tally = Import(file, mapping(name="another")).run(ledger, into_existing=True)

    assert tally.opened == 0
    assert ledger.balance("A") == "140.00 EUR"


def test_a_row_id_that_comes_twice_is_posted_once(file: Path) -> None:
    file.write_text(HEADER + "1,A,2020-01-01,100.00,C\n1,A,2020-01-01,100.00,C\n")
    ledger = MemoryLedger()
    run = Import(file, mapping())

    tally = run.run(ledger)

    assert ledger.balance("A") == "100.00 EUR"
    assert (tally.accepted, tally.unreadable) == (1, 1)
    assert rejected(run) == [("3", "duplicate_row", "1")]


def test_accounts_can_be_opened_by_rows_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "id,account,date,amount,type,limit\n"
        "1,A,2020-01-01,,O,50.00\n"
        "2,A,2020-01-02,50.00,D,\n"
        "3,B,2020-01-02,50.00,D,\n"
        "4,C,2020-01-02,,O,lots\n"
        "5,C,2020-01-02,,-,\n"
    )
    columns = Columns(row_id="id", account="account", date="date", amount="amount", kind="type", overdraft="limit")
    by = mapping(
        columns=columns,
        kinds=Kinds(deposit=["C"], withdraw=["D"], open=["O"], ignore=["-"]),
        accounts=Accounts(currency="EUR", open="rows"),
    )
    ledger = MemoryLedger()
    run = Import(path, by)

    tally = run.run(ledger)

    assert ledger.balance("A") == "-50.00 EUR"
    assert list(ledger.accounts) == ["A"]
    assert (tally.opened, tally.accepted, tally.other, dict(tally.refused)) == (1, 1, 3, {"account_not_found": 1})
    assert sorted(rejected(run)) == [("4", "account_not_found", "3"), ("5", "unreadable_row", "4")]


def test_accounts_can_be_there_already(file: Path) -> None:
    ledger = MemoryLedger()
    Import(file, mapping()).run(ledger)
    by = mapping(name="next month", accounts=Accounts(currency="EUR", open="never"))

    tally = Import(file, by).run(ledger)

    assert tally.opened == 0
    assert ledger.balance("A") == "140.00 EUR"


def test_checking_sends_nothing_and_finds_what_cannot_be_read(file: Path) -> None:
    run = Import(file, mapping())

    tally = run.check()

    assert (tally.rows, tally.opened, tally.unreadable, tally.accepted) == (6, 2, 1, 0)
    assert rejected(run) == [("6", "unreadable_row", "5")]


def test_memory_does_not_grow_with_the_rows(file: Path) -> None:
    with file.open("w") as text:
        text.write(HEADER)
        text.writelines(f"{n},A,2020-01-01,1.00,C\n" for n in range(5_000))
    ledger = MemoryLedger(window=10)
    run = Import(file, mapping())

    run.run(ledger, on_reply=lambda _: _at_most(10, run))

    assert ledger.balance("A") == "5000.00 EUR"


def _at_most(window: int, run: Import) -> None:
    assert run.waiting <= window


def test_progress_goes_from_opening_to_posting_to_the_end(file: Path) -> None:
    with file.open("w") as text:
        text.write(HEADER)
        text.writelines(f"{n},{n % 7},2020-01-01,1.00,C\n" for n in range(5_000))
    seen: list[Progress] = []

    Import(file, mapping()).run(MemoryLedger(), on_progress=seen.append)

    phases = [progress.opening for progress in seen]
    posting = [progress.done for progress in seen if not progress.opening]
    assert phases == sorted(phases, reverse=True)
    assert posting == sorted(posting)
    assert posting[-1] == 1.0
    assert seen[-1].tally.accepted == 5_000


def test_a_file_that_is_broken_at_its_end_posts_nothing(file: Path) -> None:
    file.write_bytes((HEADER + ROWS).encode() + b"7,A,2020-01-04,\xff,C\n")
    ledger = MemoryLedger()

    with pytest.raises(UnreadableFile):
        Import(file, mapping()).run(ledger)

    assert all(type(command) is OpenAccount for command in ledger.commands)


class Interrupted(Exception):
    pass


class InterruptedLedger(MemoryLedger):
    """Ends the import after so many replies, as a crash of the importing program would."""

    def __init__(self, replies: int) -> None:
        super().__init__(window=3)
        self.replies_left = replies

    def answers(self, commands: Iterable[AnyCommand]) -> Iterator[Answer]:
        for answer in super().answers(commands):
            if self.replies_left == 0:
                raise Interrupted
            self.replies_left -= 1
            yield answer


@pytest.mark.parametrize("replies", range(8))
def test_an_interrupted_import_is_completed_by_running_it_again(file: Path, replies: int) -> None:
    ledger = InterruptedLedger(replies)
    tally: Tally | None = None
    try:
        tally = Import(file, mapping()).run(ledger)
    except Interrupted:
        ledger.replies_left = 1_000
        tally = Import(file, mapping()).run(ledger)

    assert (ledger.balance("A"), ledger.balance("B")) == ("70.00 EUR", "11.00 EUR")
    assert (tally.accepted, tally.refused.total()) == (4, 1)
