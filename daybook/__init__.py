"""Daybook's Python client: give commands to the ledger, read its balances and its log."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from daybook.client import Client
    from daybook.errors import (
        AccountUnknown,
        DaybookError,
        NotConfigured,
        NotTaken,
        ReadTimeout,
        Refused,
        ReplyTimeout,
        Unreachable,
        UnreadableRecord,
    )
    from daybook.link import Answer
    from daybook.log import LoggedEvent
    from daybook.models import Balance
    from schemas.commands import CommandReply
    from schemas.connections import Connections
    from schemas.money import InvalidMoney, Money

__all__ = [
    "AccountUnknown",
    "Answer",
    "Balance",
    "Client",
    "CommandReply",
    "Connections",
    "DaybookError",
    "InvalidMoney",
    "LoggedEvent",
    "Money",
    "NotConfigured",
    "NotTaken",
    "ReadTimeout",
    "Refused",
    "ReplyTimeout",
    "Unreachable",
    "UnreadableRecord",
]

_ELSEWHERE: Final = {
    "Answer": "daybook.link",
    "Balance": "daybook.models",
    "Client": "daybook.client",
    "CommandReply": "schemas.commands",
    "Connections": "schemas.connections",
    "InvalidMoney": "schemas.money",
    "LoggedEvent": "daybook.log",
    "Money": "schemas.money",
}


def __getattr__(name: str) -> object:
    # Names are imported when first used: the command line, which is in this package, need not wait for Kafka's and
    # Redis' libraries to say what version it is.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "daybook.errors")), name)
