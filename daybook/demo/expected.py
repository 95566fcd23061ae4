"""The balances that a file should lead to, computed by itself: `csv`, `decimal` and a few lines of rules.

On purpose nothing here is imported from the ledger, so that a mistake in one is not repeated in the other. Only the
mapping's settings are read, since they say what the file means. Amounts are taken to have no more decimals than their
currency has: a row with more is one that the import calls unreadable.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daybook.mapping import Mapping


@dataclass(slots=True)
class Expected:
    """One account: what should be on it, and how its rows should have fared."""

    currency: str
    overdraft: Decimal
    balance: Decimal = Decimal(0)
    posted: int = 0
    refused: int = 0


def expected_balances(file: Path, mapping: Mapping) -> dict[str, Expected]:
    """Every account that the file opens, by its id. A withdrawal beyond balance and overdraft changes nothing."""
    columns, kinds, accounts = mapping.columns, mapping.kinds, mapping.accounts
    ids = [columns.row_id] if isinstance(columns.row_id, str) else list(columns.row_id)
    found: dict[str, Expected] = {}
    movements: list[tuple[str, tuple[str, ...], Decimal]] = []
    for row in _rows(file, mapping):
        kind = row[columns.kind] if columns.kind else None
        moves = kind is None or kind in kinds.deposit + kinds.withdraw
        account = accounts.prefix + row[columns.account]
        try:
            datetime.strptime(row[columns.date], mapping.date_format)
            amount = _number(row[columns.amount], mapping) if moves else Decimal(0)
            if kind is not None and amount < 0:
                continue
            if account not in found and (kind in kinds.open if accounts.open == "rows" else moves):
                limit = row[columns.overdraft] if columns.overdraft else accounts.overdraft
                currency = row[columns.currency] if columns.currency else str(accounts.currency)
                found[account] = Expected(currency, _number(limit, mapping))
        except ValueError:
            continue
        if moves:
            row_id = tuple(row[column] for column in ids)
            movements.append((account, row_id, -amount if kind in kinds.withdraw else amount))
    # An import opens all accounts before it posts any row, so this comes after.
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for account, row_id, amount in movements:
        if account not in found or (account, row_id) in seen:
            continue
        seen.add((account, row_id))
        entry = found[account]
        if amount == 0 or (amount < 0 and entry.balance + amount < -entry.overdraft):
            entry.refused += 1
        else:
            entry.balance += amount
            entry.posted += 1
    return found


def _rows(file: Path, mapping: Mapping) -> Iterator[dict[str, str]]:
    """The rows that have as many fields as the header."""
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with (gzip.open if packed else open)(file, "rt", encoding=mapping.file.encoding, newline="") as text:
        for row in csv.DictReader(text, delimiter=mapping.file.delimiter):
            if None not in row and None not in row.values():
                yield row


def _number(text: str, mapping: Mapping) -> Decimal:
    plain = text.strip().replace(mapping.file.thousands_separator or "\0", "")
    plain = plain.replace(mapping.file.decimal_separator, ".")
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", plain) is None:
        raise ValueError(f"{text} is not a plain decimal number")
    return Decimal(plain)
