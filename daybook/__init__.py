"""Daybook's Python client: give commands to the ledger, read its models and its log."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from daybook.client import Client
    from daybook.errors import (
        AccountUnknown,
        DaybookError,
        InvalidSearch,
        ModelMissing,
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
    from daybook.search import AccountPage, AccountView, AuditEntry
    from schemas.commands import CommandReply
    from schemas.connections import Connections
    from schemas.money import InvalidMoney, Money

__all__ = [
    "AccountPage",
    "AccountUnknown",
    "AccountView",
    "Answer",
    "AuditEntry",
    "Balance",
    "Client",
    "CommandReply",
    "Connections",
    "DaybookError",
    "InvalidMoney",
    "InvalidSearch",
    "LoggedEvent",
    "ModelMissing",
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
    "AccountPage": "daybook.search",
    "AccountView": "daybook.search",
    "Answer": "daybook.link",
    "AuditEntry": "daybook.search",
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
