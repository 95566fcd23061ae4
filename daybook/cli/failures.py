"""What a command says, and its exit code, when it ends with an error. Imported only then: it knows every error."""

from __future__ import annotations

from typing import Final

from daybook.audit.formats import InvalidFile, NoFile
from daybook.audit.keys import InvalidKey
from daybook.audit.proving import LogDiffers, NotCovered, NotProven
from daybook.audit.run import NoSuchAccount
from daybook.audit.taking import CheckpointRefused
from daybook.cli import exits
from daybook.decided import AlreadyDecided
from daybook.erasure.places import NoStack, NotErased
from daybook.errors import (
    AccountUnknown,
    DaybookError,
    InvalidPoint,
    InvalidSearch,
    NotConfigured,
    NothingThen,
    NotTaken,
    ReadTimeout,
    Refused,
    ReplyTimeout,
    TransferUnknown,
    Unreachable,
)
from daybook.evolution.drafts import NoDraft
from daybook.importing import AccountsExist
from daybook.mapping import InvalidMapping
from daybook.parked import NotParked
from daybook.rows import UnreadableFile
from daybook.supervise import NoSuchProgram
from schemas.money import InvalidMoney
from schemas.sealing import SealBroken

_CODES: Final[dict[type, int]] = {
    Refused: exits.REFUSED,
    NotTaken: exits.REFUSED,
    AccountUnknown: exits.REFUSED,
    TransferUnknown: exits.REFUSED,
    NothingThen: exits.REFUSED,
    AccountsExist: exits.REFUSED,
    NotParked: exits.REFUSED,
    AlreadyDecided: exits.REFUSED,
    NotErased: exits.REFUSED,
    NotProven: exits.REFUSED,
    NotCovered: exits.REFUSED,
    NoSuchAccount: exits.REFUSED,
    LogDiffers: exits.REFUSED,
    CheckpointRefused: exits.REFUSED,
    InvalidFile: exits.REFUSED,
    InvalidKey: exits.USAGE,
    NoFile: exits.USAGE,
    NoStack: exits.USAGE,
    InvalidMapping: exits.USAGE,
    NoDraft: exits.USAGE,
    InvalidMoney: exits.USAGE,
    InvalidPoint: exits.USAGE,
    InvalidSearch: exits.USAGE,
    NoSuchProgram: exits.USAGE,
    UnreadableFile: exits.USAGE,
    ReplyTimeout: exits.TIMEOUT,
    ReadTimeout: exits.TIMEOUT,
    Unreachable: exits.UNREACHABLE,
    NotConfigured: exits.UNREACHABLE,
    DaybookError: exits.FAILED,
    SealBroken: exits.FAILED,
}


def exit_code(error: Exception) -> int | None:
    """Say what an expected error says and return its exit code; None, unsaid, for a defect of ours."""
    for kind in type(error).mro():
        if kind in _CODES:
            exits.say(f"{'refused' if isinstance(error, Refused) else 'error'}: {error}")
            return _CODES[kind]
    return None
