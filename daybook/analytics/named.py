"""The queries that come with Daybook: `queries/<name>.sql`, and the parameters that each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Final

from daybook.errors import DaybookError
from schemas.money import EXPONENTS

Value = str | int | datetime | None

# Beyond both, no event can be recorded; they stand for "no matter when" where a query asks for a time.
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 1, 1, tzinfo=UTC)


class BadParameter(DaybookError):
    """A parameter is missing, or is none that the query takes, or is not of the kind that it must be."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`read` makes of a text what the SQL is given, or raises `ValueError` with what it should be."""

    name: str
    about: str
    read: Callable[[str], Mapping[str, Value]]
    default: Mapping[str, Value] | None = None
    """The values without it; None when it must be given."""


@dataclass(frozen=True, slots=True)
class NamedQuery:
    name: str
    about: str
    parameters: tuple[Parameter, ...]

    @property
    def sql(self) -> str:
        return resources.files("daybook.analytics").joinpath("queries", f"{self.name}.sql").read_text(encoding="utf-8")

    def values(self, given: Mapping[str, str]) -> dict[str, Value]:
        """What the SQL's parameters are, from what a user gives. Raises: `BadParameter`."""
        takes = {parameter.name for parameter in self.parameters}
        for name in given:
            if name not in takes:
                raise BadParameter(f"{self.name} takes no parameter {name}, only {', '.join(sorted(takes))}")
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            text = given.get(parameter.name)
            if text is not None:
                try:
                    values |= parameter.read(text)
                except ValueError as error:
                    raise BadParameter(f'parameter {parameter.name}: "{text}" is not {error}') from None
            elif parameter.default is not None:
                values |= parameter.default
            else:
                raise BadParameter(f"{self.name} needs --param {parameter.name}=...: {parameter.about}")
        return values


def _currency(text: str) -> Mapping[str, Value]:
    if text not in EXPONENTS:
        raise ValueError("a currency: use an ISO 4217 code such as EUR, USD or JPY")
    return {"currency": text}


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a moment: write it as 2026-01-31 or 2026-01-31T12:00+01:00") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _month(text: str) -> Mapping[str, Value]:
    try:
        since = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        until = since.replace(year=since.year + since.month // 12, month=since.month % 12 + 1)
    except ValueError:
        raise ValueError("a month: write it as 2026-03") from None
    return {"since": since, "until": until}


def _count(text: str) -> Mapping[str, Value]:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:7]) <= 100_000:
        raise ValueError("a number from 1 to 100000")
    return {"count": int(text)}


def _day_of(text: str) -> Mapping[str, Value]:
    if text not in ("recorded", "effective"):
        raise ValueError("recorded or effective")
    return {"effective": text == "effective"}


_BY: Final = Parameter("by", "the day: recorded, by default, or effective", _day_of, {"effective": False})
_CURRENCY: Final = Parameter("currency", "only this currency", _currency, {"currency": None})
_SINCE: Final = Parameter("since", "from this moment on", lambda t: {"since": _moment(t)}, {"since": _BEGINNING})
_UNTIL: Final = Parameter("until", "before this moment", lambda t: {"until": _moment(t)}, {"until": _END})

QUERIES: Final[Mapping[str, NamedQuery]] = {
    query.name: query
    for query in (
        NamedQuery("daily-flows", "what went in and out on each day, by currency", (_BY, _CURRENCY, _SINCE, _UNTIL)),
        NamedQuery(
            "monthly-statement",
            "an account's movements in a month, with the balance after each",
            (
                Parameter("account", "the account's id", lambda text: {"account": text}),
                Parameter("month", "the month, such as 2026-03, in UTC", _month),
            ),
        ),
        NamedQuery(
            "top-movers",
            "the accounts whose balance changed most, up or down, by currency",
            (
                Parameter("count", "how many of each currency, 10 by default", _count, {"count": 10}),
                _CURRENCY,
                _SINCE,
                _UNTIL,
            ),
        ),
    )
}
