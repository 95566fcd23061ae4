"""The mapping file of an import: what the columns of somebody's CSV file mean to the ledger.

It is TOML, described in docs/tutorials/import.md. Whatever can be wrong with it is said before a row is read.
"""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from daybook.errors import DaybookError
from schemas.money import EXPONENTS, InvalidMoney, parse_amount

ACCOUNT_FIELD: Final = "account"
"""What templates call the account id, prefix included. It hides a column of that name."""


_SOME_DAY: Final = datetime(2024, 2, 29, tzinfo=UTC)


class InvalidMapping(DaybookError):
    """The mapping file cannot be used; the message names the file, the setting and what is wrong with it."""


def _is_template(text: str) -> str:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f'"{text}" is not a template: {error}') from None
    for _, name, spec, conversion in parsed:
        if name == "" or spec or conversion:
            raise ValueError(f'"{text}" is not a template: write a column\'s name in braces and nothing else in them')
    return text


def _is_date_format(text: str) -> str:
    try:
        found = datetime.strptime(_SOME_DAY.strftime(text), text)
    except (ValueError, re.error) as error:
        raise ValueError(f'"{text}" is not a date format that Python can read: {error}') from None
    if found.date() != _SOME_DAY.date():
        # What a format leaves out is taken to be 1 January 1900, which nobody means.
        raise ValueError(f'"{text}" does not say year, month and day')
    return text


def _is_currency(text: str) -> str:
    if text not in EXPONENTS:
        raise ValueError(f'"{text}" is not a currency: use an ISO 4217 code such as EUR')
    return text


Template = Annotated[str, AfterValidator(_is_template)]
Currency = Annotated[str, AfterValidator(_is_currency)]
DateFormat = Annotated[str, AfterValidator(_is_date_format)]
ColumnName = Annotated[str, Field(min_length=1)]


class _Section(BaseModel):
    # An unknown setting is an error: a misspelt one would otherwise be a default that nobody chose.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileFormat(_Section):
    """How the file is written."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: Literal["", ".", ",", " ", "'"] = ""

    @model_validator(mode="after")
    def _separators_differ(self) -> Self:
        if self.decimal_separator == self.thousands_separator:
            raise ValueError("decimal_separator and thousands_separator are the same")
        return self

    @model_validator(mode="after")
    def _encoding_exists(self) -> Self:
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(f'encoding "{self.encoding}" is not known to Python') from None
        return self


class Columns(_Section):
    """Which column says what. Several columns may make up the row's id."""

    row_id: ColumnName | Annotated[tuple[ColumnName, ...], Field(min_length=1, strict=False)]
    account: ColumnName
    date: ColumnName
    amount: ColumnName
    kind: ColumnName | None = None
    currency: ColumnName | None = None
    overdraft: ColumnName | None = None

    @property
    def row_ids(self) -> tuple[str, ...]:
        return (self.row_id,) if isinstance(self.row_id, str) else self.row_id


class Kinds(_Section):
    """What the values of the `kind` column mean. A value in none of the lists makes its row unreadable."""

    deposit: list[str] = []
    withdraw: list[str] = []
    open: list[str] = []
    ignore: list[str] = []

    @model_validator(mode="after")
    def _each_means_one_thing(self) -> Self:
        values = [*self.deposit, *self.withdraw, *self.open, *self.ignore]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"in more than one list, or twice in one: {', '.join(twice)}")
        return self


class Accounts(_Section):
    """Which accounts there are and how they are opened."""

    prefix: str = ""
    open: Literal["first_row", "rows", "never"] = "first_row"
    currency: Currency | None = None
    overdraft: str = "0"
    holder: Template = "Holder of {account}"


class Transfers(_Section):
    """Which rows move money between two accounts of the ledger, and which the other one is.

    Whether money came in or went out is said as of all rows: by the kind, or by the amount's sign.
    """

    column: ColumnName
    values: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """What `column` says on such a row."""
    counterparty: ColumnName | Annotated[tuple[ColumnName, ...], Field(min_length=1, strict=False)]
    prefix: str = ""
    overdraft: str = "0"
    holder: Template = "Holder of {account}"
    """Apart from `accounts.holder`, whose columns say who has the row's own account."""

    @property
    def counterparty_columns(self) -> tuple[str, ...]:
        return (self.counterparty,) if isinstance(self.counterparty, str) else self.counterparty


class Mapping(_Section):
    """A whole mapping file.

    `name` goes into the id of every command, so that a row keeps its id while name and row id stay the same: that is
    what makes running an import again safe.
    """

    name: str = Field(min_length=1, max_length=100)
    user: str = Field(default="import", min_length=1, max_length=200)
    date_format: DateFormat = "%Y-%m-%d"
    reason: Template | None = None
    file: FileFormat = FileFormat()
    columns: Columns
    kinds: Kinds = Kinds()
    accounts: Accounts = Accounts()
    transfers: Transfers | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        columns, kinds, accounts = self.columns, self.kinds, self.accounts
        if (columns.currency is None) == (accounts.currency is None):
            raise ValueError("say either columns.currency or accounts.currency, and not both")
        if columns.kind is None and kinds != Kinds():
            raise ValueError("[kinds] says what values of a column mean, so columns.kind must name that column")
        if columns.kind is not None and not (kinds.deposit or kinds.withdraw):
            raise ValueError("columns.kind is given, so kinds.deposit and kinds.withdraw must say what its values mean")
        if (accounts.open == "rows") != bool(kinds.open):
            raise ValueError('accounts.open = "rows" and kinds.open go together: both or neither')
        if accounts.currency is not None and columns.overdraft is None:
            _must_be_amount("accounts.overdraft", accounts.overdraft, accounts.currency)
        if accounts.currency is not None and self.transfers is not None:
            _must_be_amount("transfers.overdraft", self.transfers.overdraft, accounts.currency)
        return self

    @classmethod
    def load(cls, path: Path) -> Mapping:
        """Read a mapping file.

        Raises:
            InvalidMapping: naming every setting that is missing, unknown or wrong.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InvalidMapping(f"mapping {path} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidMapping(f"mapping {path} is not TOML: {error}") from None
        except ValidationError as error:
            raise InvalidMapping(f"mapping {path}: {'; '.join(_said(error))}") from None

    def named_columns(self) -> list[tuple[str, str]]:
        """Every column that the mapping needs, each after the setting that names it."""
        columns = self.columns
        named = [("columns.row_id", name) for name in columns.row_ids]
        for setting in ("account", "date", "amount", "kind", "currency", "overdraft"):
            name = getattr(columns, setting)
            if name is not None:
                named.append((f"columns.{setting}", name))
        templates = [("reason", self.reason or ""), ("accounts.holder", self.accounts.holder)]
        if self.transfers is not None:
            named.append(("transfers.column", self.transfers.column))
            named += [("transfers.counterparty", name) for name in self.transfers.counterparty_columns]
            templates.append(("transfers.holder", self.transfers.holder))
        for setting, template in templates:
            named += [(setting, name) for _, name in parts(template) if name is not None and name != ACCOUNT_FIELD]
        return named


def _must_be_amount(setting: str, text: str, currency: str) -> None:
    try:
        parse_amount(text, currency)
    except InvalidMoney as error:
        raise ValueError(f"{setting}: {error}") from None


def parts(template: str) -> list[tuple[str, str | None]]:
    """A template as pairs of literal text and the name of the field that follows it, if one does."""
    return [(literal, name) for literal, name, _, _ in Formatter().parse(template)]


def _said(error: ValidationError) -> list[str]:
    said = []
    for problem in error.errors():
        where = ".".join(str(step) for step in problem["loc"] if not str(step).startswith(("constrained", "function")))
        what = problem["msg"].removeprefix("Value error, ")
        said.append(f"{where}: {what}" if where else what)
    return said
