"""`daybook status`: how far each program has come, and whether it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from daybook.cli.exits import REFUSED
from daybook.cli.options import AsJson, Timeout, print_json
from daybook.cli.tables import Column, console, table, visible

if TYPE_CHECKING:
    from rich.console import Group

    from daybook.status import ProgramStatus

_COLUMNS = (
    Column("program", whole=True),
    Column("partition", right=True),
    Column("position", right=True, whole=True),
    Column("end", right=True, whole=True),
    Column("lag", right=True, whole=True),
    Column("behind", right=True, whole=True),
    Column("state", whole=True),
    Column("run by"),
)

_TIMEOUT_S: Final = 5.0
"""Servers that are up answer within a fraction of a second."""

_WATCH_S: Final = 2.0


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
    check: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Exit with 1 when a program does not run, is further behind, or its server is out of reach.",
        ),
    ] = None,
    timeout: Timeout = _TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show how far the command service and each projector have come, partition by partition.

    Position and end are offsets, and the lag is what lies between them; the marks of transactions count as well, so
    that a lag need not reach zero. Behind is how old the oldest record is that was not read yet, 0 when there is none.

    daybook status --check 60
    """
    from daybook.status import status as ask  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    connections = Connections.from_environment()
    if watch:
        _watch(lambda: ask(connections, timeout_s=timeout), as_json)
    found = ask(connections, timeout_s=timeout)
    _show(found, as_json)
    if check is not None and not all(program.is_well(check) for program in found):
        raise typer.Exit(REFUSED)


def add_to(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command()(status)


def _watch(ask: Callable[[], Sequence[ProgramStatus]], as_json: bool) -> NoReturn:
    """Show it for ever: at a terminal in place of what was shown before."""
    from rich.live import Live  # noqa: PLC0415

    if as_json or not sys.stdout.isatty():
        while True:
            _show(ask(), as_json)
            time.sleep(_WATCH_S)
    with Live(console=console(), auto_refresh=False, screen=True) as live:
        while True:
            live.update(_shown(ask()), refresh=True)
            time.sleep(_WATCH_S)


def _show(found: Sequence[ProgramStatus], as_json: bool) -> None:
    if not as_json:
        console().print(_shown(found))
        return
    from daybook.status import Reached  # noqa: PLC0415

    for program in found:
        common = {"program": program.program, "topic": program.topic}
        state = {"state": program.state.value, "problems": program.problems}
        for reached in program.partitions:
            print_json({**common, **asdict(reached), **state})
        if not program.partitions:
            print_json({**common, **dict.fromkeys(field.name for field in fields(Reached)), **state})


def _shown(found: Sequence[ProgramStatus]) -> Group:
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [row for program in found for row in _rows(program)]
    # A server that several programs need is named once.
    whose: dict[str, list[str]] = {}
    for program in found:
        for problem in program.problems:
            whose.setdefault(problem, []).append(program.program)
    problems = [f"{', '.join(programs)}: {problem}" for problem, programs in whose.items()]
    return Group(table(_COLUMNS, rows), *(Text(visible(problem)) for problem in problems))


def _rows(program: ProgramStatus) -> Iterator[Sequence[str]]:
    state = program.state.value + (" (!)" if program.problems else "")
    for reached in program.partitions:
        yield (
            program.program,
            str(reached.partition),
            _count(reached.position),
            _count(reached.end),
            _count(reached.lag),
            "?" if reached.behind_s is None else duration(reached.behind_s),
            state,
            reached.member or "-",
        )
    if not program.partitions:
        yield (program.program, "-", "-", "-", "-", "-", state, "-")


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def duration(seconds: float) -> str:
    """A time as people say it: `0 s`, `3.2 s`, `4 min 10 s`, `3 h 5 min`, `12 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // part_s} {part}"
    raise AssertionError(seconds)
