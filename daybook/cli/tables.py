"""Tables on standard output, and text that did not come from us made fit to be shown."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_UNBOUNDED: Final = 100_000
"""The width of what is no terminal. A table is only as wide as it has to be, and a file or a pipe takes it all."""

_JOINERS: Final = "\u200c\u200d"
"""Printed as nothing, and needed to write some scripts."""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    right: bool = False
    whole: bool = False
    """Shown as it is where the terminal is too narrow: the other columns are broken into lines."""
    least: int | None = None
    """How many characters wide it is at least, where its words would be torn apart otherwise."""


def visible(text: str) -> str:
    """A text with every character that is not printed, or that steers a terminal, written as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) else repr(char)[1:-1] for char in text)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of as many cells as there are columns. The cells may hold anything."""
    console().print(table(columns, rows))


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            min_width=column.least,
            overflow="fold",
        )
    for row in rows:
        # As `Text`, so that a name in square brackets is not taken for a style.
        made.add_row(*(Text(visible(cell)) for cell in row))
    return made


def console() -> Console:
    """What prints to standard output as it is now; without a terminal no line is broken."""
    from rich.console import Console  # noqa: PLC0415

    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)


def _is_shown(char: str) -> bool:
    # Spaces other than the common one are part of names in some languages.
    return char.isprintable() or unicodedata.category(char) == "Zs" or char in _JOINERS
