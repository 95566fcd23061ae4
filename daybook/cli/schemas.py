"""`daybook schemas`: the versions of all records, the gate that a next one has to pass, and its draft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daybook.cli.exits import REFUSED, say
from daybook.cli.options import AsJson, print_json
from daybook.wording import counted

app = typer.Typer(no_args_is_help=True, help="Versions of the records on Kafka: docs/SCHEMAS.md. Needs no server.")


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check that the schemas, upcasters and golden bytes that are here may be released.

    Exits with 1 if anything is wrong, each thing with where it is and what to do. With --json, one object a check.

    daybook schemas check
    """
    from importlib import resources  # noqa: PLC0415

    from daybook.evolution.checkout import here  # noqa: PLC0415
    from daybook.evolution.gate import gate  # noqa: PLC0415

    checkout = here()
    with resources.as_file(resources.files("schemas").joinpath("account")) as folder:
        versions, checks = gate(Path(folder), None if checkout is None else checkout.golden)
        failed = 0
        for name, run in checks:
            problems = list(run())
            failed += len(problems)
            if as_json:
                found = [{"where": p.where, "what": p.what, "remedy": p.remedy} for p in problems]
                print_json({"check": name, "ok": not problems, "problems": found})
            else:
                typer.echo(f"{'ok  ' if not problems else 'WRONG'}  {name}")
                for problem in problems:
                    typer.echo(f"  {problem}")
    if checkout is None:
        say("there is no golden corpus here: it is in the source checkout")
    if failed:
        say(f"{counted(failed, 'problem')} with {counted(versions, 'version')}")
        raise typer.Exit(REFUSED)
    say(f"{counted(versions, 'version')}: nothing is wrong")


@app.command("new-version")
def new_version(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="Its name: AccountClosed.", show_default=False)],
    major: Annotated[
        bool, typer.Option("--major", help="Begin the next major: a new name, with an upcaster from the old one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a draft of a record's next version, in a source checkout, and say what is left to do.

    daybook schemas new-version AccountClosed
    """
    from daybook.evolution.checkout import must_be_here  # noqa: PLC0415
    from daybook.evolution.drafts import new_version as draft  # noqa: PLC0415

    made = draft(must_be_here(), record, major=major)
    if as_json:
        version = {"name": made.version.name, "version": made.version.number}
        print_json({"file": str(made.file), **version, "steps": list(made.steps)})
        return
    typer.echo(f"written: {made.file}, a copy to be changed into {made.version}\n")
    for number, step in enumerate(made.steps, 1):
        typer.echo(f"{number}. {step}")


@app.command()
def graph(
    as_dot: Annotated[bool, typer.Option("--dot", help="Print it for Graphviz.")] = False, as_json: AsJson = False
) -> None:
    """Print all versions, and how each is read: `->` is Avro's resolution, `=>` an upcaster.

    daybook schemas graph --dot | dot -Tsvg -o schemas.svg
    """
    from daybook.evolution.graph import dot, lines, nodes  # noqa: PLC0415

    try:
        found = nodes()
    except (ValueError, KeyError, TypeError) as error:
        say(f"error: the schemas cannot be read: {error}. `daybook schemas check` says where")
        raise typer.Exit(REFUSED) from error
    if as_json:
        for node in found:
            print_json(node.record())
        return
    for line in dot(found) if as_dot else lines(found):
        typer.echo(line)


def add_to(program: typer.Typer) -> None:
    """Add this module's commands to the program."""
    program.add_typer(app, name="schemas")
