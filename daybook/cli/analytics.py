"""Commands on the analytics table: ask it, draw it, keep its files in order."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daybook.cli.exits import FAILED, say
from daybook.cli.options import AsJson, age, print_json

if TYPE_CHECKING:
    from daybook.analytics.maintain import Outcome, Progress
    from daybook.analytics.query import Answer

_SHOWN_ROWS: Final = 100
"""How many rows a table at the terminal has, unless more are asked for. JSON and CSV have all."""

_SHORTEST_ORPHAN_AGE: Final = timedelta(minutes=10)
"""A projector refers to a file seconds after it is written, a compaction within a minute or two."""


app = typer.Typer(no_args_is_help=True, help="SQL over all events, as an Apache Iceberg table: docs/ANALYTICS.md.")


def query(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|SQL", help="The name of a query (`daybook analytics queries`), or SQL.", show_default=False
        ),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter: $NAME in own SQL. May be repeated."),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many rows.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME|SNAPSHOT", help="The table as it was then, if that snapshot is still kept."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", dir_okay=False, help="Also draw the answer to a PNG file.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with the columns' names first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the analytics table, which SQL calls account_events.

    daybook analytics query daily-flows --param currency=EUR --plot flows.png

    daybook analytics query "SELECT event_type, count(*) FROM account_events GROUP BY 1"
    """
    if as_csv and as_json:
        raise typer.BadParameter("choose one of --csv and --json")
    with _installed():
        from daybook.analytics.catalog import account_events, answering  # noqa: PLC0415
        from daybook.analytics.named import QUERIES, BadParameter  # noqa: PLC0415
        from daybook.analytics.query import BadQuery, NoSuchSnapshot  # noqa: PLC0415
        from daybook.analytics.query import query as ask  # noqa: PLC0415
        from schemas.connections import Connections  # noqa: PLC0415
    given = _parameters(param or ())
    named = QUERIES.get(what)
    if named is None and " " not in what.strip():
        raise typer.BadParameter(
            f'there is no query "{what}", and it is no SQL; there are {", ".join(QUERIES)}', param_hint="NAME|SQL"
        )
    try:
        sql, values = (what, given) if named is None else (named.sql, named.values(given))
    except BadParameter as error:
        raise typer.BadParameter(str(error), param_hint="--param") from None
    at = _as_of(as_of)
    shown = limit if limit is not None or as_json or as_csv or plot is not None else _SHOWN_ROWS
    connections = Connections.from_environment()
    with account_events(connections) as table, answering(connections):
        try:
            answer = ask(table, sql, values, limit=shown, as_of=at)
        except BadQuery as error:
            raise typer.BadParameter(str(error), param_hint="SQL") from None
        except NoSuchSnapshot as error:
            raise typer.BadParameter(str(error), param_hint="--as-of") from None
    if plot is not None:
        _draw(None if named is None else named.name, answer, given, plot)
    _show(answer, as_json=as_json, as_csv=as_csv, limit=None if as_json or as_csv or limit else _SHOWN_ROWS)


def queries(as_json: AsJson = False) -> None:
    """List the queries that come with Daybook, and their parameters."""
    with _installed():
        from daybook.analytics.named import QUERIES  # noqa: PLC0415
    for named in QUERIES.values():
        if as_json:
            parameters = [{"name": p.name, "about": p.about, "required": p.default is None} for p in named.parameters]
            print_json({"name": named.name, "about": named.about, "parameters": parameters, "sql": named.sql})
            continue
        typer.echo(f"{named.name}: {named.about}")
        for parameter in named.parameters:
            must = " (required)" if parameter.default is None else ""
            typer.echo(f"    --param {parameter.name}=...  {parameter.about}{must}")


def maintain(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Forget snapshots older than this, such as 30m, 12h or 7d.")
    ] = "1d",
    orphans_older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Delete files that nothing refers to when they are older than this.")
    ] = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put the table's small files together, forget old snapshots, delete what nothing refers to.

    It may run at any time, beside the projector; once an hour is a good habit.
    """
    with _installed():
        from daybook.analytics.catalog import account_events, answering  # noqa: PLC0415
        from daybook.analytics.maintain import maintain as put_in_order  # noqa: PLC0415
        from schemas.connections import Connections  # noqa: PLC0415
    snapshots, orphans = age(older_than, "--older-than"), age(orphans_older_than, "--orphans-older-than")
    if orphans < _SHORTEST_ORPHAN_AGE:
        raise typer.BadParameter(
            "at least 10m: younger files may be those of a commit that is under way", param_hint="--orphans-older-than"
        )
    connections = Connections.from_environment()
    with account_events(connections) as table, answering(connections), _Display() as display:
        outcome = put_in_order(
            table,
            older_than=snapshots,
            orphans_older_than=orphans,
            dry_run=dry_run,
            on_progress=display.update,
        )
    if as_json:
        print_json(outcome.record())
    else:
        _tell(outcome)


def add_to(parent: typer.Typer) -> None:
    """Add this module's commands to the program."""
    for command in (query, queries, maintain):
        app.command(command.__name__)(command)
    parent.add_typer(app, name="analytics")


@contextmanager
def _installed() -> Iterator[None]:
    """Imports of what `daybook[analytics]` installs, and `daybook[plots]`."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("daybook", "schemas"):
            raise
        extra = "plots" if missing == "matplotlib" else "analytics"
        say(f"error: this command needs {missing}, which is not installed: pip install 'daybook[{extra}]'")
        raise typer.Exit(FAILED) from None


def _draw(name: str | None, answer: Answer, given: Mapping[str, str], file: Path) -> None:
    with _installed():
        from daybook.analytics.plot import draw  # noqa: PLC0415
    try:
        draw(name, answer, given, file)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}", param_hint="--plot") from None
    say(f"drawn to {file}")


def _parameters(texts: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f'"{text}" is not NAME=VALUE', param_hint="--param")
        if name in given:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--param")
        given[name] = value
    return given


def _as_of(text: str | None) -> datetime | int | None:
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f'"{text}" is neither a moment, such as 2026-01-31T12:00+01:00, nor a snapshot\'s id', param_hint="--as-of"
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _show(answer: Answer, *, as_json: bool, as_csv: bool, limit: int | None) -> None:
    from daybook.analytics.query import records  # noqa: PLC0415

    if as_json:
        for record in records(answer):
            print_json(record)
        return
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.columns)
        writer.writerows(record.values() for record in records(answer))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, kind in zip(answer.columns, answer.types, strict=True):
        numeric = kind.startswith(("DECIMAL", "DOUBLE", "FLOAT")) or kind.endswith("INT") or kind == "INTEGER"
        table.add_column(Text(_printable(name)), justify="right" if numeric else "left", overflow="fold")
    for row in answer.rows if limit is None else answer.rows[:limit]:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        # In a file or a pipe there is no width to keep to.
        console.width = 10_000
    console.print(table)
    if answer.more or (limit is not None and len(answer.rows) > limit):
        say(f"only the first {len(answer.rows) if limit is None else limit} rows are shown; --limit N shows more")


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case Decimal():
            return _trimmed(value)
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S") + (f".{value:%f}" if value.microsecond else "")
        case bytes():
            return value.hex()
        case float():
            return f"{value:g}"
        case _:
            return _printable(str(value))


def _trimmed(value: Decimal) -> str:
    """A decimal without the zeros that only its column's type gives it, but with cents."""
    text = f"{value:f}"
    whole, point, fraction = text.partition(".")
    return whole + point + fraction.rstrip("0").ljust(2, "0") if len(fraction) > 2 else text


def _printable(text: str) -> str:
    """Text without what would control a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _tell(outcome: Outcome) -> None:
    before, after = outcome.before, outcome.after
    would = "would be " if outcome.dry_run else ""
    typer.echo(f"{outcome.rewritten_files} small files {would}put together into {outcome.written_files}")
    typer.echo(f"{outcome.expired_snapshots} snapshots {would}forgotten")
    typer.echo(
        f"{outcome.deleted_orphans} files that nothing refers to {would}deleted, {outcome.deleted_bytes / 1e6:,.1f} MB"
    )
    for name, is_now, was in (
        ("files", after.files, before.files),
        ("bytes", after.bytes, before.bytes),
        ("rows", after.rows, before.rows),
        ("snapshots", after.snapshots, before.snapshots),
    ):
        typer.echo(f"{name:>10}  {was:>15,}" + ("" if outcome.dry_run else f"  ->  {is_now:>15,}"))


class _Display:
    """Where maintenance is: a bar at a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("reading the table", total=1.0)

    def update(self, progress: Progress) -> None:
        self._bar.update(self._task, description=progress.what, completed=progress.done)

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
