"""What a command says, and its exit code, when it ends with an error. Imported only then: it knows every error."""

from __future__ import annotations

from typing import Final

from daybook.cli import exits
from daybook.errors import (
    AccountUnknown,
    DaybookError,
    InvalidSearch,
    NotConfigured,
    NotTaken,
    ReadTimeout,
    Refused,
    ReplyTimeout,
    Unreachable,
)
from daybook.importing import AccountsExist
from daybook.mapping import InvalidMapping
from daybook.parked import NotParked
from daybook.rows import UnreadableFile
from daybook.supervise import NoSuchProgram
from schemas.money import InvalidMoney

_CODES: Final[dict[type, int]] = {
    Refused: exits.REFUSED,
    NotTaken: exits.REFUSED,
    AccountUnknown: exits.REFUSED,
    AccountsExist: exits.REFUSED,
    NotParked: exits.REFUSED,
    InvalidMapping: exits.USAGE,
    InvalidMoney: exits.USAGE,
    InvalidSearch: exits.USAGE,
    NoSuchProgram: exits.USAGE,
    UnreadableFile: exits.USAGE,
    ReplyTimeout: exits.TIMEOUT,
    ReadTimeout: exits.TIMEOUT,
    Unreachable: exits.UNREACHABLE,
    NotConfigured: exits.UNREACHABLE,
    DaybookError: exits.FAILED,
}


def exit_code(error: Exception) -> int | None:
    """Say what an expected error says and return its exit code; None, unsaid, for a defect of ours."""
    for kind in type(error).mro():
        if kind in _CODES:
            exits.say(f"{'refused' if isinstance(error, Refused) else 'error'}: {error}")
            return _CODES[kind]
    return None
