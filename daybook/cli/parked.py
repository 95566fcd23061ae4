"""`daybook parked`: what could not be decided, and giving it to the command service again."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daybook.cli.options import DEFAULT_TIMEOUT_S, AsJson, Timeout, print_json
from daybook.cli.tables import Column, print_table

if TYPE_CHECKING:
    from daybook.parked import Parked

app = typer.Typer(no_args_is_help=True, help="Records that the command service could not decide, kept byte for byte.")

_SHOWN_BYTES: Final = 40
_PLACE: Final = re.compile(r"([0-9]+)/([0-9]+)", re.ASCII)


@app.command("list")
def list_(
    reason: Annotated[str | None, typer.Option(metavar="CODE", help="Only those parked for this reason.")] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """List what is parked: when, why, where it came from, and how it begins.

    docs/OPERATIONS.md says what to do about each reason. With --json, key and value are in Base64.

    daybook parked list --reason undecodable
    """
    from daybook.parked import read_parked  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    found = read_parked(Connections.from_environment(), timeout_s=timeout)
    wanted = (record for record in found if reason is None or record.reason == reason)
    if as_json:
        for record in wanted:
            print_json(_record(record))
        return
    rows = [_row(record) for record in wanted]
    if rows:
        print_table((Column("place", whole=True), Column("parked (UTC)", whole=True), *map(Column, _COLUMNS)), rows)
    else:
        typer.echo("nothing is parked" if reason is None else f"nothing is parked as {reason}")


@app.command()
def send(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="As `list` shows it: 4/0.", show_default=False)],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also a client's command that was decided already: it is decided again.")
    ] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Give a parked record to the command service again, as it came. It stays parked as well.

    What the log says was decided already is not sent, and the exit code is 1. What was refused before leaves no event,
    and is decided anew. A transfer's follow-up that is settled is never sent, since money would move twice.

    daybook parked send 4/0
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        raise typer.BadParameter(f'"{place}" is no place: write partition/offset, such as 4/0', param_hint="PLACE")
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.parked import send_again  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    with WorkDisplay() as display:
        sent = send_again(
            Connections.from_environment(),
            int(match[1]),
            int(match[2]),
            anyway=anyway,
            tell=display.update,
            timeout_s=timeout,
        )
    typer.echo(f"sent again: {place}, which was parked as {sent.reason}. If it is parked once more, `list` shows it")


def add_to(program: typer.Typer) -> None:
    """Add this module's commands to the program."""
    program.add_typer(app, name="parked")


_COLUMNS: Final = ("reason", "detail", "came from", "key", "value")


def _row(record: Parked) -> tuple[str, ...]:
    return (
        f"{record.partition}/{record.offset}",
        f"{record.parked_at:%Y-%m-%d %H:%M:%S}",
        record.reason,
        record.detail,
        record.came_from,
        _beginning(record.key),
        _beginning(record.value),
    )


def _beginning(data: bytes | None) -> str:
    if data is None:
        return "none"
    return data[:_SHOWN_BYTES].decode(errors="backslashreplace") + ("..." if len(data) > _SHOWN_BYTES else "")


def _record(record: Parked) -> dict[str, object]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "parked_at": record.parked_at.isoformat(),
        "reason": record.reason,
        "detail": record.detail,
        "came_from": record.came_from,
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "value": None if record.value is None else base64.b64encode(record.value).decode(),
    }
