"""Arguments and options that several commands have."""

from __future__ import annotations

import getpass
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from schemas.money import EXPONENTS, InvalidMoney, Money

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's id.", show_default=False)]
Amount = Annotated[
    list[str],
    typer.Argument(metavar="AMOUNT", help="An amount as people write it, such as 200.00 EUR.", show_default=False),
]
User = Annotated[
    str | None,
    typer.Option(metavar="NAME", envvar="DAYBOOK_USER", help="Who does it; by default your user name here."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]
Sealed = Annotated[
    bool, typer.Option("--sealed", help="Leave what is sealed as it stands in the log, without asking for keys.")
]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for an answer.")]

DEFAULT_TIMEOUT_S = 10.0

READER = "reader"
"""A client has a user, for the commands it gives. Those that only read give none, so the name goes nowhere."""

_AGE: Final = re.compile(r"([0-9]{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

# A negative amount begins with a dash. It is to be read as an amount, and refused as one, not as a strange option.
TAKES_AMOUNT = {"ignore_unknown_options": True}


def money(words: list[str] | str) -> Money:
    """The amount typed as one argument or as two. A usage error unless it is one."""
    text = words if isinstance(words, str) else " ".join(words)
    try:
        return Money.parse(text)
    except InvalidMoney as error:
        raise typer.BadParameter(str(error)) from None


def currency_code(text: str) -> str:
    """A currency as typed. A usage error unless it is one."""
    if text not in EXPONENTS:
        raise typer.BadParameter(f'"{text}" is not a currency: use an ISO 4217 code such as EUR, USD or JPY')
    return text


def moment(text: str | None, option: str = "--effective-at") -> datetime | None:
    """A moment in ISO 8601, in UTC unless it says otherwise. A usage error, about the option, if it is none."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f'"{text}" is not a moment: write it as 2026-01-31 or 2026-01-31T12:00+01:00',
            param_hint=option,
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def age(text: str, option: str = "--older-than") -> timedelta:
    """An age as people write it. A usage error, about the option, unless it is one."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f'"{text}" is not an age: write 30s, 5m, 12h or 7d', param_hint=option)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def user_name(given: str | None) -> str:
    """Who gives a command: `given`, which includes DAYBOOK_USER, or the operating system's user."""
    try:
        name = given or getpass.getuser()
    except (OSError, KeyError):
        raise typer.BadParameter(
            "the operating system has no name for you: say --user or set DAYBOOK_USER", param_hint="--user"
        ) from None
    if not is_text(name):
        raise typer.BadParameter(f"{name!r}, from DAYBOOK_USER or the system, is not UTF-8", param_hint="--user")
    return name


def is_text(given: str) -> bool:
    """Whether what the operating system handed over is text: what is not UTF-8 comes as halves of surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in given)


def print_json(record: dict[str, object]) -> None:
    text = json.dumps(record, ensure_ascii=False)
    if not text.isprintable():
        # Names may hold characters that steer a terminal, and JSON has a way to write each.
        text = "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
    typer.echo(text)
