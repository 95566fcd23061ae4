"""Commands that run things here: `daybook run` and `daybook demo`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from daybook.cli.exits import say


def run(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Run only this one; may be given several times."),
    ] = None,
) -> None:
    """Run the command service and all projectors on this machine, until Ctrl-C.

    A projector whose sink is not configured, or whose packages are not installed, is left out, and that is said. A
    program that crashes is started again; when one keeps failing, all are stopped and the exit code is 5.

    daybook run --only command-service
    """
    from daybook.supervise import (  # noqa: PLC0415
        OneOfEach,
        Supervisor,
        idle,
        programs,
        to_stderr,
        to_stderr_as_json,
    )
    from schemas.connections import Connections  # noqa: PLC0415
    from schemas.telemetry.logs import LogSettings  # noqa: PLC0415

    group = programs(only or ())
    connections = Connections.from_environment()
    log_format = LogSettings.from_environment().log_format
    if not only:
        without = idle(group, connections)
        for name, why in without.items():
            say(f"without {name}: {why}")
        group = tuple(program for program in group if program.name not in without)
    with OneOfEach(connections, group):
        supervisor = Supervisor(
            group,
            # So that what a program logs before it has read its settings has the same form.
            environment=os.environ | {"DAYBOOK_LOG_FORMAT": log_format},
            output=to_stderr_as_json if log_format == "json" else to_stderr,
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: supervisor.end())
        with supervisor:
            say(f"running {', '.join(program.name for program in group)}; Ctrl-C stops them")
            supervisor.wait()


def demo(
    file: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A file of your own, with --mapping.", dir_okay=False)
    ] = None,
    mapping: Annotated[Path | None, typer.Option(metavar="TOML", help="What its columns mean.", dir_okay=False)] = None,
    accounts: Annotated[int, typer.Option(metavar="N", min=1, max=9999, help="How many accounts to make up.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes up another month.")] = 1,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="FOLDER", help="The stack's folder.", envvar="DAYBOOK_STACK_DIR")
    ] = Path(".daybook"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    attach: Annotated[
        bool, typer.Option("--attach", help="Use the servers and services that the environment names; start nothing.")
    ] = False,
) -> None:
    """Send a bank's month through real servers, and check every balance against an independent sum.

    daybook demo --accounts 200 --keep
    """
    if (file is None) != (mapping is None):
        raise typer.BadParameter("--file and --mapping go together: give both or neither")
    if attach and keep:
        raise typer.BadParameter("--attach starts nothing, so there is nothing for --keep")
    from daybook.demo.show import Demo  # noqa: PLC0415

    Demo(directory, keep=keep, attach=attach).run(file, mapping, accounts=accounts, seed=seed)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command()(run)
    app.command()(demo)
