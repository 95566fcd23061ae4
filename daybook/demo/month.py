"""A made-up but realistic month of a bank, always the same for a seed: as the CSV file that a bank would export.

Every account's month depends on the seed and its number alone, so a smaller demonstration is the beginning of a
larger one, and both can be run in one ledger.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Final

from daybook.mapping import Accounts, Columns, Kinds, Mapping

_FIRST_DAY: Final = datetime(2026, 3, 1, tzinfo=UTC)
_DAYS: Final = 31

_FIRST_NAMES: Final = (
    "Ada",
    "Amir",
    "Bea",
    "Chen",
    "Dora",
    "Emil",
    "Femi",
    "Gita",
    "Hana",
    "Ivo",
    "Jana",
    "Kofi",
    "Lena",
)
_LAST_NAMES: Final = (
    "Abebe",
    "Bauer",
    "Costa",
    "Dvořák",
    "Eriksen",
    "Fischer",
    "Grau",
    "Haas",
    "Ito",
    "Jansen",
    "Novák",
)

# Currency, share of the accounts, what an amount in euros is multiplied by, and the currency's smallest step.
_CURRENCIES: Final = (
    ("EUR", 0.8, Decimal(1), Decimal("0.01")),
    ("CZK", 0.1, Decimal(25), Decimal("0.01")),
    ("JPY", 0.06, Decimal(160), Decimal(1)),
    ("KWD", 0.04, Decimal("0.33"), Decimal("0.001")),
)

COLUMNS: Final = ("id", "account", "booked", "kind", "amount", "currency", "text", "holder", "overdraft")


@dataclass(frozen=True, slots=True, order=True)
class _Booking:
    at: datetime
    number: int
    kind: str
    euros: Decimal
    text: str


def mapping(seed: int) -> Mapping:
    """How a made-up month is to be imported."""
    return Mapping(
        name=f"demo-{seed}",
        user="demo",
        date_format="%Y-%m-%dT%H:%M:%S",
        reason="{text}",
        columns=Columns(
            row_id="id",
            account="account",
            date="booked",
            amount="amount",
            kind="kind",
            currency="currency",
            overdraft="overdraft",
        ),
        kinds=Kinds(deposit=["credit"], withdraw=["debit"], open=["open"]),
        accounts=Accounts(prefix=f"demo{seed}-", open="rows", holder="{holder}"),
    )


def write(path: Path, *, accounts: int, seed: int) -> int:
    """Write the month to a CSV file, in the order in which it was booked. Returns the number of rows."""
    rows: list[tuple[datetime, int, tuple[str, ...]]] = []
    for number in range(1, accounts + 1):
        # A text seeds the same everywhere; a hash of a tuple would not.
        rows += _account(number, Random(f"{seed}/{number}"))  # noqa: S311 - play money
    rows.sort(key=lambda row: row[:2])
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows(row for _, _, row in rows)
    return len(rows)


def _account(number: int, random: Random) -> list[tuple[datetime, int, tuple[str, ...]]]:
    account = f"{number:04d}"
    (currency, _, rate, step) = random.choices(_CURRENCIES, [share for _, share, _, _ in _CURRENCIES])[0]
    holder = f"{random.choice(_FIRST_NAMES)} {random.choice(_LAST_NAMES)}"
    overdraft = random.choices([Decimal(0), Decimal(200), Decimal(1000)], [6, 3, 1])[0]

    def amount(euros: Decimal) -> str:
        return str((euros * rate).quantize(step))

    opening = (f"{account}-0", account, _written(_FIRST_DAY), "open", "", currency, "", holder, amount(overdraft))
    rows: list[tuple[datetime, int, tuple[str, ...]]] = [(_FIRST_DAY, number, opening)]
    for booking in sorted(_bookings(random)):
        row = (
            f"{account}-{booking.number}",
            account,
            _written(booking.at),
            booking.kind,
            amount(booking.euros),
            currency,
            booking.text,
            "",
            "",
        )
        rows.append((booking.at, number, row))
    return rows


def _bookings(random: Random) -> list[_Booking]:
    """A month's bookings of one household. Nobody looks at the balance, so some of them will be refused."""
    income = random.lognormvariate(7.6, 0.35)
    carried_over = Decimal(round(random.uniform(40, 180) * income)) / 100
    bookings = [_Booking(_FIRST_DAY, 1, "credit", carried_over, "carried over")]

    def book(day: int, kind: str, euros: float, text: str) -> None:
        at = _FIRST_DAY + timedelta(days=day - 1, seconds=random.randrange(7 * 3600, 20 * 3600))
        cents = Decimal(round(euros * 100))
        bookings.append(_Booking(at, len(bookings) + 1, kind, cents / 100, text))

    book(random.choice((1, 5, 10, 15, 28)), "credit", income, "salary")
    book(random.randint(1, 5), "debit", random.uniform(0.25, 0.4) * income, "rent")
    book(random.randint(8, 20), "debit", random.uniform(40, 180), "electricity and water")
    book(random.randint(3, 25), "debit", random.uniform(15, 45), "telephone")
    for _ in range(random.randint(8, 28)):
        shop = random.choice(("groceries", "restaurant", "fuel", "pharmacy", "clothes", "books", "train"))
        book(random.randint(1, _DAYS), "debit", random.lognormvariate(3.3, 0.8), f"card: {shop}")
    for _ in range(random.randint(1, 4)):
        book(random.randint(1, _DAYS), "debit", 20 * random.randint(1, 10), "cash withdrawal")
    if random.random() < 0.3:
        book(random.randint(2, _DAYS), "credit", 50 * random.randint(1, 12), "cash deposit")
    if random.random() < 0.25:
        book(random.randint(5, _DAYS), "debit", random.uniform(200, 1500), "card: holiday")
    return bookings


def _written(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}"
