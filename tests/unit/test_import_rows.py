from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daybook.mapping import Accounts, Columns, FileFormat, InvalidMapping, Kinds, Mapping
from daybook.rows import Entry, Kind, RowFile, RowReader, UnreadableFile, UnreadableRow
from schemas.commands import Deposit, OpenAccount, Withdraw

HEADER = "id,account,date,amount,type,text"
COLUMNS = {"row_id": "id", "account": "account", "date": "date", "amount": "amount"}

PACKED = gzip.compress(b"a,b\n1,2\n")
DAMAGED = PACKED[:10] + b"\xff" * 8 + PACKED[18:]
"""A compressed file whose first block is of a type that there is not."""


def mapping(**changes: Any) -> Mapping:
    settings: dict[str, Any] = {
        "name": "bank",
        "columns": Columns(**COLUMNS, kind="type"),
        "kinds": Kinds(deposit=["C"], withdraw=["D"], ignore=["-"]),
        "accounts": Accounts(prefix="b-", currency="EUR", overdraft="50.00"),
        "reason": "{text}",
    }
    return Mapping(**(settings | changes))


SIGNED = mapping(columns=Columns(**COLUMNS), kinds=Kinds())


def read(tmp_path: Path, row: str, by: Mapping | None = None, header: str = HEADER) -> tuple[RowReader, Entry]:
    by = by or mapping()
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\n{row}\n")
    file = RowFile(path, by.file)
    reader = RowReader(by, path, file.header)
    return reader, reader.read(next(file.rows()))


class TestFiles:
    TEXT = 'a,b\n1,ž\n\n2,"x\ny"\n3,z\n'
    ROWS = ((2, ["1", "ž"]), (4, ["2", "x\ny"]), (6, ["3", "z"]))

    @pytest.mark.parametrize(
        "content",
        [
            TEXT.encode(),
            b"\xef\xbb\xbf" + TEXT.encode(),
            gzip.compress(TEXT.encode()),
            TEXT.replace("\n", "\r\n").encode(),
        ],
        ids=["plain", "with a mark", "gzip", "CRLF"],
    )
    def test_rows_come_with_the_line_they_begin_on(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "rows"
        path.write_bytes(content)
        file = RowFile(path, FileFormat())

        rows = [(row.line, [value.replace("\r\n", "\n") for value in row.values]) for row in file.rows()]

        assert file.header == ("a", "b")
        assert rows == list(self.ROWS)
        assert file.fraction_read == 1.0

    def test_it_is_read_anew_each_time(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(self.TEXT)
        file = RowFile(path, FileFormat())

        assert list(file.rows()) == list(file.rows())

    def test_another_encoding_and_delimiter(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_bytes("a;b\n1;ž\n".encode("cp1250"))

        assert next(RowFile(path, FileFormat(encoding="cp1250", delimiter=";")).rows()).values == ["1", "ž"]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableFile, match=r"none\.csv cannot be read: No such file"):
            RowFile(tmp_path / "none.csv", FileFormat())

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "rows.csv").touch()
        with pytest.raises(UnreadableFile, match="is empty"):
            RowFile(tmp_path / "rows.csv", FileFormat())

    def test_a_pipe_is_refused_since_it_can_be_read_once_only(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UnreadableFile, match="is not a regular file"):
            RowFile(tmp_path / "pipe", FileFormat())

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a,b\n1,2\n3,\xff\n", "not utf-8-sig text"),
            (b'a,b\n1,2\n3,"4"5\n', "line 3: not CSV"),
            (gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)[:-20], "damaged or incomplete after line"),
            (DAMAGED, "damaged or incomplete after line 1"),
            (b"a,b\n1," + b"x" * 200_000 + b"\n", "line 2: not CSV as the mapping says: field larger"),
        ],
        ids=["encoding", "quotes", "truncated", "damaged", "endless field"],
    )
    def test_where_it_stops_being_csv_is_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_bytes(content)

        with pytest.raises(UnreadableFile, match=message):
            list(RowFile(path, FileFormat()).rows())


class TestRows:
    def test_a_deposit(self, tmp_path: Path) -> None:
        reader, entry = read(tmp_path, "7,1,1993-01-02,700.50,C,  cash\t desk ")

        command = reader.movement(entry)

        assert isinstance(command, Deposit)
        assert (command.account_id, command.amount_minor, command.currency) == ("b-1", 70050, "EUR")
        assert (command.user_id, command.correlation_id, command.reason) == ("import", "bank", "cash desk")
        assert command.effective_at == datetime(1993, 1, 2, tzinfo=UTC).timestamp() * 1_000_000

    def test_a_withdrawal(self, tmp_path: Path) -> None:
        reader, entry = read(tmp_path, "7,1,1993-01-02,700.50,D,")

        command = reader.movement(entry)

        assert isinstance(command, Withdraw)
        assert command.reason is None

    @pytest.mark.parametrize(
        ("amount", "kind", "minor"), [("5", Kind.DEPOSIT, 500), ("-5", Kind.WITHDRAW, 500), ("0", Kind.DEPOSIT, 0)]
    )
    def test_the_sign_says_which_it_is_where_no_column_does(
        self, tmp_path: Path, amount: str, kind: Kind, minor: int
    ) -> None:
        _, entry = read(tmp_path, f"7,1,1993-01-02,{amount},x,", SIGNED)

        assert (entry.kind, entry.amount_minor) == (kind, minor)

    def test_an_ignored_row_needs_no_amount(self, tmp_path: Path) -> None:
        assert read(tmp_path, "7,1,1993-01-02,,-,")[1].kind is Kind.IGNORE

    def test_the_account_is_opened_with_what_its_row_says(self, tmp_path: Path) -> None:
        by = mapping(accounts=Accounts(prefix="b-", currency="EUR", overdraft="50.00", holder="{text} of {account}"))
        reader, entry = read(tmp_path, "7,1,1993-01-02,5,C,Ada", by)

        opening = reader.opening(entry)

        assert isinstance(opening, OpenAccount)
        assert (opening.account_id, opening.holder_name, opening.overdraft_limit_minor) == ("b-1", "Ada of b-1", 5000)
        assert opening.effective_at == entry.effective_at

    def test_a_row_gives_the_same_command_in_every_run(self, tmp_path: Path) -> None:
        first, second = (read(tmp_path, "7,1,1993-01-02,700.50,C,x") for _ in range(2))

        assert replace(first[0].movement(first[1]), issued_at=0) == replace(second[0].movement(second[1]), issued_at=0)

    def test_ids_are_what_they_have_always_been(self, tmp_path: Path) -> None:
        reader, entry = read(tmp_path, "7,1,1993-01-02,700.50,C,x")

        assert entry.command_id == "a95d6c1e-8be3-53b3-a3c8-b44f4ef9585c"
        assert reader.opening(entry).command_id == "5807dd5c-6b1a-59e5-9bd4-50f1c346328a"

    def test_other_names_and_other_rows_give_other_ids(self, tmp_path: Path) -> None:
        composite = mapping(columns=Columns(**COLUMNS | {"row_id": ("id", "text")}, kind="type"))
        ids = {
            read(tmp_path, "7,1,1993-01-02,5,C,")[1].command_id,
            read(tmp_path, "8,1,1993-01-02,5,C,")[1].command_id,
            read(tmp_path, "7,1,1993-01-02,5,C,", mapping(name="other"))[1].command_id,
            read(tmp_path, "7,1,1993-01-02,5,C,8", composite)[1].command_id,
            read(tmp_path, "78,1,1993-01-02,5,C,", composite)[1].command_id,
        }

        assert len(ids) == 5

    @pytest.mark.parametrize(
        ("text", "minor"), [("1.234.567,89", 123456789), ("5", 500), ("0,5", 50), ("-1.000,00", -100000)]
    )
    def test_separators_of_other_countries(self, tmp_path: Path, text: str, minor: int) -> None:
        by = mapping(
            columns=Columns(**COLUMNS),
            kinds=Kinds(),
            file=FileFormat(delimiter=";", decimal_separator=",", thousands_separator="."),
        )
        _, entry = read(tmp_path, f"7;1;1993-01-02;{text};;", by, HEADER.replace(",", ";"))

        assert entry.amount_minor * (1 if entry.kind is Kind.DEPOSIT else -1) == minor

    def test_times_with_a_zone_count_in_utc(self, tmp_path: Path) -> None:
        _, entry = read(tmp_path, "7,1,1993-01-02T01:00+0200,5,C,", mapping(date_format="%Y-%m-%dT%H:%M%z"))

        assert entry.effective_at == datetime(1993, 1, 1, 23, tzinfo=UTC).timestamp() * 1_000_000

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("7,1,1993-01-02,5,C", "the row has 5 fields and the header 6"),
            ("7,1,1993-01-02,5,X,", 'type is "X", of which'),
            (",1,1993-01-02,5,C,", "id is empty"),
            ("7,,1993-01-02,5,C,", "account is empty"),
            ("7,1,1993-02-30,5,C,", "date: day is out of range"),
            ("7,1,2.1.1993,5,C,", "date: time data"),
            ("7,1,1993-01-02,5.001,C,", 'amount: "5.001 EUR" has 3 decimals'),
            ("7,1,1993-01-02,1e3,C,", 'amount: "1e3" is not an amount'),
            ("7,1,1993-01-02,NaN,C,", 'amount: "NaN" is not an amount'),
            ("7,1,1993-01-02,-5,C,", "negative"),
            (f"7,1,1993-01-02,5,C,{'x' * 10_000}", "texts of the row have 10,003 characters"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, tmp_path: Path, row: str, message: str) -> None:
        with pytest.raises(UnreadableRow, match=message):
            read(tmp_path, row)

    def test_a_point_is_no_comma(self, tmp_path: Path) -> None:
        by = mapping(file=FileFormat(delimiter=";", decimal_separator=","))
        with pytest.raises(UnreadableRow, match=r'has a point, but file\.decimal_separator is ","'):
            read(tmp_path, "7;1;1993-01-02;5.00;C;", by, HEADER.replace(",", ";"))

    def test_a_missing_column_is_named_with_those_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidMapping, match=r'columns\.kind: .* has no column "type"; its columns are id,'):
            read(tmp_path, "7,1,1993-01-02,5", header="id,account,date,amount,text")

    def test_a_column_that_is_there_twice_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidMapping, match='has two columns "text"'):
            read(tmp_path, "7,1,1993-01-02,5,C,,", header=f"{HEADER},text")
