"""Daybook's Python client: give commands to the ledger, read its models and its log."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from daybook.client import Client
    from daybook.errors import (
        AccountUnknown,
        DaybookError,
        InvalidPoint,
        InvalidSearch,
        ModelMissing,
        NotConfigured,
        NothingThen,
        NotTaken,
        ReadTimeout,
        Refused,
        ReplyTimeout,
        TransferInFlight,
        TransferUnknown,
        Unreachable,
        UnreadableRecord,
    )
    from daybook.holders import Holders
    from daybook.link import Answer
    from daybook.log import LoggedEvent
    from daybook.models import Balance
    from daybook.search import AccountPage, AccountView, AuditEntry
    from daybook.timetravel.balances import PastBalance
    from daybook.timetravel.states import Change, Difference, PastAccount
    from daybook.transfers import InFlight, TransferOutcome, TransferStatus
    from schemas.commands import CommandReply
    from schemas.connections import Connections
    from schemas.events import FreezeCause
    from schemas.money import InvalidMoney, Money

__all__ = [
    "AccountPage",
    "AccountUnknown",
    "AccountView",
    "Answer",
    "AuditEntry",
    "Balance",
    "Change",
    "Client",
    "CommandReply",
    "Connections",
    "DaybookError",
    "Difference",
    "FreezeCause",
    "Holders",
    "InFlight",
    "InvalidMoney",
    "InvalidPoint",
    "InvalidSearch",
    "LoggedEvent",
    "ModelMissing",
    "Money",
    "NotConfigured",
    "NotTaken",
    "NothingThen",
    "PastAccount",
    "PastBalance",
    "ReadTimeout",
    "Refused",
    "ReplyTimeout",
    "TransferInFlight",
    "TransferOutcome",
    "TransferStatus",
    "TransferUnknown",
    "Unreachable",
    "UnreadableRecord",
]

_ELSEWHERE: Final = {
    "AccountPage": "daybook.search",
    "AccountView": "daybook.search",
    "Answer": "daybook.link",
    "AuditEntry": "daybook.search",
    "Balance": "daybook.models",
    "Change": "daybook.timetravel.states",
    "Client": "daybook.client",
    "CommandReply": "schemas.commands",
    "Connections": "schemas.connections",
    "FreezeCause": "schemas.events",
    "Difference": "daybook.timetravel.states",
    "Holders": "daybook.holders",
    "InFlight": "daybook.transfers",
    "InvalidMoney": "schemas.money",
    "LoggedEvent": "daybook.log",
    "Money": "schemas.money",
    "PastAccount": "daybook.timetravel.states",
    "PastBalance": "daybook.timetravel.balances",
    "TransferOutcome": "daybook.transfers",
    "TransferStatus": "daybook.transfers",
}


def __getattr__(name: str) -> object:
    # Names are imported when first used: the command line, which is in this package, need not wait for Kafka's and
    # Redis' libraries to say what version it is.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "daybook.errors")), name)
