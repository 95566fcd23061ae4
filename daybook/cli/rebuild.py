"""`daybook rebuild`: building a read model anew beside the live one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Annotated, Final

import typer

from daybook.cli.options import AsJson

_FromStart = Annotated[
    bool, typer.Option("--from-start", help="Delete what an interrupted rebuild has built, and begin anew.")
]
_KeepOld = Annotated[bool, typer.Option("--keep-old", help="Keep the old model, for `daybook rebuild rollback`.")]
_CompareOnly = Annotated[
    bool, typer.Option("--compare-only", help="Compare and leave the live model; exit code 1 if they differ.")
]
_Keep = Annotated[
    bool, typer.Option("--keep", help="With --compare-only: keep the copy, which the next rebuild then goes on with.")
]
_Model = Annotated[str, typer.Argument(metavar="MODEL", help="balances, search or analytics.", show_default=False)]

_MODELS: Final = {
    "balances": "Rebuild the balances in Redis.\n\n"
    "The copy is made in the next database of the same server, or in DAYBOOK_PROJECTOR_REBUILD_DATABASE.\n\n"
    "daybook rebuild balances --keep-old",
    "search": "Rebuild the search indices in Elasticsearch.\n\ndaybook rebuild search --compare-only",
    "analytics": "Rebuild the analytics table.\n\ndaybook rebuild analytics --from-start",
}
"""Each model with its command's help, which ends with an example."""

app = typer.Typer(
    no_args_is_help=True,
    help="Build a read model anew from the log beside the live one, compare, and put it in its place in one step.",
    epilog="Readers notice nothing. Interrupted, the same command goes on where it was.",
)


def _run(*arguments: str) -> None:
    """Run the rebuild, which is a program of its own, at this terminal; end with its exit code."""
    command = [sys.executable, "-m", "projectors.rebuild", *arguments]
    # Ctrl-C reaches both: the rebuild ends in good order, and this waits for it. When this is killed, so is that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen([sys.executable, "-m", "daybook.tied", str(os.getpid()), *command])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    if code:
        raise typer.Exit(code if code > 0 else 128 - code)


def _flags(**given: bool) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name, wanted in given.items() if wanted]


def _add(model: str, about: str) -> None:
    """Add the command that rebuilds a model, with the options that all of them take."""

    @app.command(model, help=about)
    def build(
        from_start: _FromStart = False,
        keep_old: _KeepOld = False,
        compare_only: _CompareOnly = False,
        keep: _Keep = False,
        as_json: AsJson = False,
    ) -> None:
        if compare_only and keep_old:
            raise typer.BadParameter("--compare-only leaves the live model, so there is no old one for --keep-old")
        if keep and not compare_only:
            raise typer.BadParameter(
                "--keep goes with --compare-only: a copy that takes the live model's place is kept"
            )
        flags = _flags(from_start=from_start, keep_old=keep_old, compare_only=compare_only, keep=keep, json=as_json)
        _run("build", model, *flags)


for _model, _about in _MODELS.items():
    _add(_model, _about)


@app.command()
def rollback(model: _Model, as_json: AsJson = False) -> None:
    """Go back to the old model that a rebuild with --keep-old kept, brought up to date.

    daybook rebuild rollback balances
    """
    _run("rollback", _known(model), *_flags(json=as_json))


@app.command()
def discard(model: _Model, as_json: AsJson = False) -> None:
    """Delete the old model that was kept, or the copy that an interrupted rebuild left.

    daybook rebuild discard balances
    """
    _run("discard", _known(model), *_flags(json=as_json))


def _known(model: str) -> str:
    if model not in _MODELS:
        raise typer.BadParameter(f'"{model}" is no model that is rebuilt: choose from {", ".join(_MODELS)}')
    return model


def add_to(program: typer.Typer) -> None:
    """Add this module's commands to the program."""
    program.add_typer(app, name="rebuild")
