"""`daybook import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daybook.cli.exits import REFUSED, TIMEOUT, say
from daybook.cli.options import AsJson, print_json
from daybook.wording import counted

if TYPE_CHECKING:
    from daybook.importing import Import, Tally

_TIMEOUT_S = 60.0
"""An import outlives a broker's restart or a command service's, and its user has no one waiting."""


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV, plain or gzip.", show_default=False, dir_okay=False)
    ],
    mapping: Annotated[
        Path, typer.Option(metavar="TOML", help="What the columns mean: docs/tutorials/import.md.", dir_okay=False)
    ],
    rejects: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Where rows go that are not posted; by default FILE.rejected.csv."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read the file and send nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any row was not posted.")] = False,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Post rows to accounts that the ledger had before, too.")
    ] = False,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who does it, in place of the mapping's `user`.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Give up when nothing is answered for so long.")
    ] = _TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Post the rows of a CSV file to the ledger. Running it again posts nothing twice.

    daybook import transactions.csv.gz --mapping bank.toml
    """
    from daybook.cli.display import ImportDisplay  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415
    from daybook.errors import ReplyTimeout  # noqa: PLC0415
    from daybook.importing import Import  # noqa: PLC0415
    from daybook.mapping import Mapping  # noqa: PLC0415

    chosen = Mapping.load(mapping)
    if user:
        chosen = chosen.model_copy(update={"user": user})
    run = Import(file, chosen, rejects)
    if dry_run:
        with ImportDisplay() as display:
            tally = run.check(on_progress=display.update)
    else:
        with Client(user_id=chosen.user, timeout_s=timeout) as client, ImportDisplay() as display:
            try:
                tally = run.run(client, into_existing=into_existing, on_progress=display.update)
            except ReplyTimeout as error:
                say(
                    f"error: no answer to {counted(len(error.command_ids), 'command')} within {error.timeout_s:g} s, "
                    f"after answers to {counted(run.tally.answered, 'row')}: is the command service running "
                    "(`daybook run`)? "
                    "Running the same import again posts what is missing and nothing twice"
                )
                raise typer.Exit(TIMEOUT) from None
            except KeyboardInterrupt:
                say("interrupted: running the same import again posts what is missing and nothing twice")
                raise
    _summarise(run, tally, dry_run=dry_run, as_json=as_json)
    if strict and run.rejects.count:
        raise typer.Exit(REFUSED)


def add_to(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command("import")(import_)


def _summarise(run: Import, tally: Tally, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "rows": tally.rows,
                "accepted": tally.accepted,
                "accepted_before": tally.accepted_before,
                "refused": tally.refused.total(),
                "refused_by_code": dict(tally.refused),
                "unreadable": tally.unreadable,
                "other": tally.other,
                "transfers": tally.transfers,
                "accounts_opened": tally.opened,
                "accounts_opened_before": tally.opened_before,
                "seconds": round(tally.seconds, 3),
                "per_second": round(tally.per_second),
                "rejects": str(run.rejects.path) if run.rejects.count else None,
                "dry_run": dry_run,
            }
        )
        return
    rows = counted(tally.rows, "row")
    if dry_run:
        typer.echo(f"{rows}, {counted(tally.opened, 'account')} to open; {tally.unreadable:,} cannot be read")
    else:
        refused = ", ".join(f"{count:,} {code}" for code, count in tally.refused.most_common())
        typer.echo(
            f"{rows} in {tally.seconds:.1f} s ({tally.per_second:,.0f} a second): "
            f"{tally.accepted:,} accepted{_before(tally.accepted_before)}, "
            f"{tally.refused.total():,} refused{f' ({refused})' if refused else ''}, "
            f"{tally.unreadable:,} unreadable; "
            f"{counted(tally.opened, 'account')} opened{_before(tally.opened_before)}"
        )
        if tally.transfers:
            typer.echo(
                f"{counted(tally.transfers, 'row')} sent money to another account: `daybook verify money` says how "
                "many of all transfers have arrived, came back, or are still in flight"
            )
    if run.rejects.count:
        typer.echo(f"What was not posted, and why, is in {run.rejects.path}")


def _before(count: int) -> str:
    """What of a number an earlier run had done; the ledger repeated its answers and changed nothing."""
    return f" ({count:,} of them before)" if count else ""
