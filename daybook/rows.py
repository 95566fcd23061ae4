"""From a row of somebody's CSV file to what it asks of the ledger.

Everything in a command is derived from the row and the mapping alone, except the time of sending, which the ledger
does not compare. So the same row gives the same command in every run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID, uuid5

from daybook.errors import DaybookError
from daybook.mapping import ACCOUNT_FIELD, FileFormat, InvalidMapping, Mapping, parts
from schemas.commands import Deposit, OpenAccount, Transfer, Withdraw, now_micros
from schemas.money import InvalidMoney, parse_amount

_NAMESPACE: Final = UUID("0cfe3b4b-f86d-43b6-8041-33b17f4400d2")
"""What command ids of imports are derived in. Changing it would let everything be imported once more."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST_TEXT: Final = 10_000
"""Characters of a row's account, reason and holder together. Beyond its limits the ledger refuses a text and says so;
but a command far beyond them (64 KB) it puts aside without an answer, for which an import would wait in vain."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


class UnreadableFile(DaybookError):
    """The file is not CSV as its mapping says; the message names the file, the line and the problem."""


class UnreadableRow(ValueError):
    """One row does not say what the mapping expects; the rest of the file may be fine."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row's fields, and the line of the file that it begins on (the header is line 1)."""

    line: int
    values: Sequence[str]


class Kind(Enum):
    DEPOSIT = auto()
    WITHDRAW = auto()
    OPEN = auto()
    IGNORE = auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a row says. Account ids have their prefix; times are microseconds since the Unix epoch."""

    row: Row
    kind: Kind
    command_id: str
    account_id: str
    effective_at: int
    currency: str
    amount_minor: int
    reason: str | None
    counterparty: str | None
    """The account that the money comes from or goes to, where the row is a transfer."""


class RowFile:
    """A CSV file, plain or gzip, told apart by its first bytes. It is read as a stream, once per call of `rows`."""

    def __init__(self, path: Path, file_format: FileFormat) -> None:
        """Read the header.

        Raises:
            UnreadableFile: there is no such file, or no header in it.
        """
        self._path = path
        self._format = file_format
        self._raw: BinaryIO | None = None
        try:
            found = path.stat()
        except OSError as error:
            raise UnreadableFile(f"{path} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            # What went through a pipe once is gone, and its rows would be missing without a word.
            raise UnreadableFile(f"{path} is not a regular file: it is read more than once, so save it as one first")
        self._size = found.st_size
        header = next(self._records(), None)
        if header is None:
            raise UnreadableFile(f"{path} is empty: its first line should name the columns")
        self.header: tuple[str, ...] = tuple(header.values)

    def rows(self) -> Iterator[Row]:
        """The rows after the header; blank lines are passed over.

        Raises:
            UnreadableFile: at the line where the file stops being CSV in the mapping's encoding.
        """
        records = self._records()
        next(records, None)
        for row in records:
            if row.values:
                yield row

    @property
    def fraction_read(self) -> float:
        """How far the current pass has come, from 0 to 1, in bytes of the file as it lies on disk."""
        if self._raw is None or self._raw.closed or self._size == 0:
            return 1.0 if self._raw is not None else 0.0
        return min(1.0, self._raw.tell() / self._size)

    def _records(self) -> Iterator[Row]:
        line = 1
        try:
            with self._path.open("rb") as raw:
                self._raw = raw
                packed = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
                raw.seek(0)
                unpacked: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
                with io.TextIOWrapper(unpacked, encoding=self._format.encoding, newline="") as text:
                    reader = csv.reader(text, delimiter=self._format.delimiter, strict=True)
                    for values in reader:
                        yield Row(line, values)
                        line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise UnreadableFile(
                f"{self._path}, after line {line}: not {self._format.encoding} text ({error.reason}); "
                "file.encoding of the mapping says how the file is encoded"
            ) from None
        except csv.Error as error:
            raise UnreadableFile(f"{self._path}, line {line}: not CSV as the mapping says: {error}") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnreadableFile(
                f"{self._path}: the compressed file is damaged or incomplete after line {line} ({error}): "
                "get a complete copy"
            ) from None
        except OSError as error:
            raise UnreadableFile(f"{self._path}, after line {line}: {error.strerror or error}") from None


class RowReader:
    """Reads the rows of one file by its mapping."""

    def __init__(self, mapping: Mapping, file: Path, header: Sequence[str]) -> None:
        """Find the columns.

        Raises:
            InvalidMapping: the mapping names a column that the file has not, or has twice.
        """
        for setting, name in mapping.named_columns():
            if header.count(name) != 1:
                found = "has two columns" if name in header else "has no column"
                raise InvalidMapping(
                    f'{setting}: {file} {found} "{name}"; its columns are {", ".join(header)} (separated by '
                    f'"{mapping.file.delimiter}", as file.delimiter says)'
                )
        self._mapping = mapping
        self._width = len(header)
        columns = mapping.columns
        self._row_ids = [header.index(name) for name in columns.row_ids]
        self._account = header.index(columns.account)
        self._date = header.index(columns.date)
        self._amount = header.index(columns.amount)
        self._kind = None if columns.kind is None else header.index(columns.kind)
        self._currency = None if columns.currency is None else header.index(columns.currency)
        self._overdraft = None if columns.overdraft is None else header.index(columns.overdraft)
        transfers = mapping.transfers
        self._is_transfer = None if transfers is None else header.index(transfers.column)
        self._transfers = frozenset(() if transfers is None else transfers.values)
        self._counterparty = [header.index(name) for name in transfers.counterparty_columns] if transfers else []
        self._reason = None if mapping.reason is None else _Template(mapping.reason, header)
        self._holder = _Template(mapping.accounts.holder, header)
        self._other_holder = None if transfers is None else _Template(transfers.holder, header)
        kinds = mapping.kinds
        self._kinds = (
            dict.fromkeys(kinds.deposit, Kind.DEPOSIT)
            | dict.fromkeys(kinds.withdraw, Kind.WITHDRAW)
            | dict.fromkeys(kinds.open, Kind.OPEN)
            | dict.fromkeys(kinds.ignore, Kind.IGNORE)
        )
        # Days repeat from row to row, and reading a date costs more than the rest of a row.
        self._micros = lru_cache(maxsize=4096)(self._read_date)

    def read(self, row: Row) -> Entry:
        """What a row says. Raises `UnreadableRow` with the column, its value and what is wrong."""
        values = row.values
        if len(values) != self._width:
            raise UnreadableRow(f"the row has {len(values)} fields and the header {self._width}")
        kind = Kind.DEPOSIT
        if self._kind is not None:
            found = self._kinds.get(values[self._kind])
            if found is None:
                column = self._mapping.columns.kind
                raise UnreadableRow(f'{column} is "{values[self._kind]}", of which [kinds] says nothing')
            kind = found
        row_id = [values[index] for index in self._row_ids]
        if not any(row_id):
            raise UnreadableRow(f"{', '.join(self._mapping.columns.row_ids)} is empty: every row needs an id")
        account = values[self._account]
        if not account:
            raise UnreadableRow(f"{self._mapping.columns.account} is empty")
        account_id = self._mapping.accounts.prefix + account
        reason = None if self._reason is None else self._reason.filled(values, account_id) or None
        _must_fit(account_id, reason or "")
        currency = self._row_currency(values)
        amount_minor = 0
        if kind in (Kind.DEPOSIT, Kind.WITHDRAW):
            amount_minor = self._money(self._mapping.columns.amount, values[self._amount], currency, self._kind is None)
        if amount_minor < 0:
            kind, amount_minor = Kind.WITHDRAW, -amount_minor
        counterparty = None
        if kind in (Kind.DEPOSIT, Kind.WITHDRAW):
            counterparty = self._other_account(values)
        return Entry(
            row=row,
            kind=kind,
            command_id=self._derived("row", account_id, *row_id),
            account_id=account_id,
            effective_at=self._micros(values[self._date]),
            currency=currency,
            amount_minor=amount_minor,
            reason=reason,
            counterparty=counterparty,
        )

    def movement(self, entry: Entry) -> Deposit | Withdraw | Transfer:
        """The command that a deposit's, a withdrawal's or a transfer's row stands for."""
        if entry.counterparty is not None:
            return self._transfer(entry, entry.counterparty)
        return (Deposit if entry.kind is Kind.DEPOSIT else Withdraw)(
            command_id=entry.command_id,
            account_id=entry.account_id,
            user_id=self._mapping.user,
            issued_at=now_micros(),
            correlation_id=self._mapping.name,
            effective_at=entry.effective_at,
            reason=entry.reason,
            amount_minor=entry.amount_minor,
            currency=entry.currency,
        )

    def _transfer(self, entry: Entry, counterparty: str) -> Transfer:
        comes_in = entry.kind is Kind.DEPOSIT
        return Transfer(
            command_id=entry.command_id,
            account_id=counterparty if comes_in else entry.account_id,
            user_id=self._mapping.user,
            issued_at=now_micros(),
            correlation_id=self._mapping.name,
            effective_at=entry.effective_at,
            reason=entry.reason,
            transfer_id=entry.command_id,
            to_account_id=entry.account_id if comes_in else counterparty,
            amount_minor=entry.amount_minor,
            currency=entry.currency,
        )

    def opening(self, entry: Entry) -> OpenAccount:
        """The command that opens a row's account. Raises `UnreadableRow` as `read` does."""
        column, limit = "accounts.overdraft", self._mapping.accounts.overdraft
        if self._overdraft is not None and self._mapping.columns.overdraft is not None:
            column, limit = self._mapping.columns.overdraft, entry.row.values[self._overdraft]
        return self._opening(entry, entry.account_id, self._holder, column, limit)

    def counterparty_opening(self, entry: Entry) -> OpenAccount | None:
        """The command that opens the other account of a transfer. Raises `UnreadableRow` as `read` does."""
        transfers = self._mapping.transfers
        if entry.counterparty is None or transfers is None or self._other_holder is None:
            return None
        return self._opening(entry, entry.counterparty, self._other_holder, "transfers.overdraft", transfers.overdraft)

    def _opening(self, entry: Entry, account_id: str, template: _Template, column: str, limit: str) -> OpenAccount:
        holder = template.filled(entry.row.values, account_id)
        _must_fit(account_id, holder)
        return OpenAccount(
            command_id=self._derived("open", account_id),
            account_id=account_id,
            user_id=self._mapping.user,
            issued_at=now_micros(),
            correlation_id=self._mapping.name,
            effective_at=entry.effective_at,
            currency=entry.currency,
            holder_name=holder,
            overdraft_limit_minor=self._money(column, limit, entry.currency, signed=False),
        )

    def _other_account(self, values: Sequence[str]) -> str | None:
        if self._mapping.transfers is None or self._is_transfer is None:
            return None
        if values[self._is_transfer] not in self._transfers:
            return None
        said = [values[index] for index in self._counterparty]
        if not all(said):
            columns = ", ".join(self._mapping.transfers.counterparty_columns)
            raise UnreadableRow(f"{columns} is empty: a transfer needs a counterparty")
        counterparty = self._mapping.transfers.prefix + "-".join(said)
        _must_fit(counterparty)
        return counterparty

    def _row_currency(self, values: Sequence[str]) -> str:
        if self._currency is not None:
            return values[self._currency]
        return self._mapping.accounts.currency or ""

    def _money(self, column: str, text: str, currency: str, signed: bool) -> int:
        decimal, thousands = self._mapping.file.decimal_separator, self._mapping.file.thousands_separator
        plain = text.strip()
        if thousands:
            plain = plain.replace(thousands, "")
        if decimal != ".":
            if "." in plain:
                raise UnreadableRow(f'{column}: "{text}" has a point, but file.decimal_separator is "{decimal}"')
            plain = plain.replace(decimal, ".")
        try:
            return parse_amount(plain, currency, signed=signed)
        except InvalidMoney as error:
            raise UnreadableRow(f"{column}: {error}") from None

    def _read_date(self, text: str) -> int:
        try:
            moment = datetime.strptime(text, self._mapping.date_format)
        except ValueError as error:
            raise UnreadableRow(f"{self._mapping.columns.date}: {error}") from None
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return (moment - _EPOCH) // _MICROSECOND

    def _derived(self, *name: str) -> str:
        # JSON keeps the parts apart, whatever characters they are made of. A row's account is one of them: the two
        # legs of one transaction may share its id, and the ledger remembers ids by account.
        return str(uuid5(_NAMESPACE, json.dumps([self._mapping.name, *name], ensure_ascii=False)))


def _must_fit(*texts: str) -> None:
    length = sum(map(len, texts))
    if length > _MOST_TEXT:
        raise UnreadableRow(f"the texts of the row have {length:,} characters, which is more than the ledger takes")


class _Template:
    """Literal text and fields of a row, in turns."""

    def __init__(self, template: str, header: Sequence[str]) -> None:
        self._parts = [
            (literal, None if name is None or name == ACCOUNT_FIELD else header.index(name), name == ACCOUNT_FIELD)
            for literal, name in parts(template)
        ]

    def filled(self, values: Sequence[str], account_id: str) -> str:
        text = "".join(
            literal + (account_id if is_account else "" if index is None else values[index])
            for literal, index, is_account in self._parts
        )
        return " ".join(text.split())
