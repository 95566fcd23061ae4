"""Exit codes: an interface, since scripts branch on them (docs/CLI.md). And how a command speaks to its user."""

from __future__ import annotations

import sys
from typing import Final

REFUSED: Final = 1
USAGE: Final = 2
TIMEOUT: Final = 3
UNREACHABLE: Final = 4
FAILED: Final = 5
INTERRUPTED: Final = 130


def say(message: str) -> None:
    """One message to the person at the terminal, never mixed into a command's output."""
    print(message, file=sys.stderr, flush=True)
