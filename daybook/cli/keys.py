"""`daybook keys`: the key-encryption keys, under which the keys of holders' personal fields are kept."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daybook.cli.exits import REFUSED, say
from daybook.cli.options import DEFAULT_TIMEOUT_S, AsJson, Timeout, print_json
from daybook.cli.tables import Column, print_table
from daybook.wording import counted

if TYPE_CHECKING:
    from schemas.keyring import KeyRing

app = typer.Typer(
    no_args_is_help=True,
    help="Key-encryption keys: DAYBOOK_KEK_FILE names their file. docs/ERASURE.md tells how one is replaced.",
)


@app.command()
def new(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The file; by default the one that DAYBOOK_KEK_FILE names."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a new key before all others of the file, which is made if it is missing, and print its id alone.

    Programs that wrap keys do so with it from their next start on. Those that only read find it when they meet it.

    daybook keys new
    """
    from schemas.connections import KekSettings  # noqa: PLC0415
    from schemas.keyring import add_key  # noqa: PLC0415

    if file is None:
        named = KekSettings.from_environment().kek_file
        if named is None:
            raise typer.BadParameter(
                "DAYBOOK_KEK_FILE names no file: set it, or say which one to write", param_hint="FILE"
            )
        file = Path(named)
    kek_id = add_key(file, datetime.now(UTC))
    if as_json:
        print_json({"kek_id": kek_id, "file": str(file)})
    else:
        typer.echo(kek_id)
        say(f"added to {file}: keep a copy elsewhere, since without it nobody reads what is sealed under it")


@app.command()
def show(
    used: Annotated[
        bool, typer.Option("--used", help="Count, in Kafka, the keys of holders that each of them wraps.")
    ] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """List the keys by their ids, the one that wraps first. No key is shown.

    With --used, a key that wraps nothing any more can be taken out of the file. Exits with 1 when a key is in use that
    is not there.

    daybook keys show --used
    """
    from schemas.connections import KekSettings  # noqa: PLC0415
    from schemas.keyring import KeyRing  # noqa: PLC0415

    ring = KeyRing.of(KekSettings.from_environment())
    counts = _used(timeout) if used else None
    missing = [] if counts is None else sorted(counts.keys() - set(ring.ids))
    if as_json:
        for kek_id in (*ring.ids, *missing):
            print_json(
                {
                    "kek_id": kek_id,
                    "here": kek_id in ring.ids,
                    "wraps": kek_id == ring.current_id,
                    "holders": None if counts is None else counts[kek_id],
                }
            )
    else:
        _print(ring, missing, counts)
    if missing:
        say(f"{', '.join(missing)}: in use, and not there. Put the line back, behind the first")
        raise typer.Exit(REFUSED)


def add_to(program: typer.Typer) -> None:
    """Add this module's commands to the program."""
    program.add_typer(app, name="keys")


def _used(timeout_s: float) -> Counter[str]:
    from daybook.cli.auditing import Display  # noqa: PLC0415
    from daybook.keys import SubjectKeys  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    with (
        SubjectKeys(Connections.from_environment(), timeout_s=timeout_s) as keys,
        Display("reading the keys of holders", "records") as display,
    ):
        return Counter(key.kek_id for key in keys.all(display.update))


def _print(ring: KeyRing, missing: list[str], counts: Counter[str] | None) -> None:
    rows = []
    for kek_id in (*ring.ids, *missing):
        does = "missing" if kek_id in missing else "wraps" if kek_id == ring.current_id else "unwraps"
        rows.append((kek_id, does, *(() if counts is None else (f"{counts[kek_id]:,}",))))
    columns = [Column("key", whole=True), Column("does", whole=True)]
    if counts is not None:
        columns.append(Column("holders", right=True, whole=True))
    print_table(tuple(columns), rows)
    if counts is not None:
        say(f"{counted(counts.total(), 'holder')} with a key")
