"""The `daybook` command. docs/CLI.md describes it, with its exit codes.

What a command needs is imported when it runs: `daybook --help` should not wait for Kafka's and Redis' libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit the process with its code. `arguments` are those after the program's name."""
    from daybook.cli.app import app  # noqa: PLC0415
    from daybook.cli.exits import USAGE, say  # noqa: PLC0415
    from daybook.cli.options import is_text  # noqa: PLC0415

    for number, argument in enumerate(sys.argv[1:] if arguments is None else arguments, start=1):
        if not is_text(argument):
            say(f"error: argument {number}, {argument!r}, is not UTF-8: is the terminal set to another encoding?")
            raise SystemExit(USAGE)
    try:
        app(args=arguments, prog_name="daybook")
    except Exception as error:
        from daybook.cli.failures import exit_code  # noqa: PLC0415

        code = exit_code(error)
        if code is None:
            raise
        raise SystemExit(code) from error
