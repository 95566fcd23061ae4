"""The tree of commands."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from daybook.cli import (
    accounts,
    activity,
    analytics,
    audit,
    erasing,
    imports,
    keys,
    parked,
    reading,
    rebuild,
    schemas,
    searching,
    services,
    status,
    timetravel,
    transfers,
    verify,
)
from daybook.cli.exits import FAILED, say

DEPLOY: Final = {
    "stack": "deploy.stack.cli",
    "deploy": "deploy.cli",
}
"""Commands of the package `deploy`, which are imported when they are used: a production host need not have them."""


class _Commands(TyperGroup):
    # The types are Typer's own, which has moved them between releases.
    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *DEPLOY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in DEPLOY:
            command = _deploy_command(cmd_name)
            command.name = cmd_name
            return command
        return super().get_command(ctx, cmd_name)


def _deploy_command(name: str) -> Any:
    try:
        return get_group(import_module(DEPLOY[name]).app)
    except ModuleNotFoundError as error:
        return get_command(_not_installed(error.name or str(error)))


def _not_installed(module: str) -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command(
        help=r"Not installed here: pip install 'daybook\[stack]'.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def _explain() -> None:
        say(f"error: this command needs {module}, which is not installed: pip install 'daybook[stack]'")
        raise typer.Exit(FAILED)

    return app


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An event-sourced account ledger on Kafka: give it commands, read balances and the log.",
    epilog="Exit codes: 0 done, 1 refused, 2 wrong usage, 3 no answer in time, 4 a server is out of reach, "
    "5 something failed here, 130 interrupted.",
)
accounts.add_to(app)
transfers.add_to(app)
erasing.add_to(app)
reading.add_to(app)
searching.add_to(app)
timetravel.add_to(app)
activity.add_to(app)
status.add_to(app)
verify.add_to(app)
audit.add_to(app)
analytics.add_to(app)
imports.add_to(app)
services.add_to(app)
rebuild.add_to(app)
parked.add_to(app)
schemas.add_to(app)
keys.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    pass


@app.command()
def version() -> None:
    """Print Daybook's version."""
    from importlib.metadata import version as installed  # noqa: PLC0415 - slow, and rarely wanted

    typer.echo(f"daybook {installed('daybook')}")
