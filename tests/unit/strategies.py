"""What Hypothesis draws: any record of the contract, and commands that meet on one account."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st
from msgspec.structs import fields

from schemas.commands import (
    COMMAND_TYPES,
    AnyCommand,
    ChangeHolder,
    CloseAccount,
    CommandReply,
    CommandStatus,
    CompleteTransfer,
    Deposit,
    EraseHolder,
    FollowUp,
    Freeze,
    FromClient,
    OpenAccount,
    ReceiveTransfer,
    Refund,
    ReturnTransfer,
    SetOverdraftLimit,
    Transfer,
    Unfreeze,
    Withdraw,
)
from schemas.events import EVENT_TYPES, Event, FreezeCause, RecordedEvent
from schemas.money import INT64_MAX, INT64_MIN
from schemas.snapshots import AccountSnapshot
from tests.unit.given import ACCOUNT, NOW

LONGS: Final = st.integers(INT64_MIN, INT64_MAX)
TEXTS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
UUIDS: Final = st.uuids().map(str)
ANY_UUIDS: Final = st.integers(0, 2**128 - 1).map(lambda number: str(UUID(int=number)))

_BY_ANNOTATION: Final[dict[Any, st.SearchStrategy[Any]]] = {
    str: TEXTS,
    int: LONGS,
    bool: st.booleans(),
    bytes: st.binary(max_size=100),
    CommandStatus: st.sampled_from(CommandStatus),
    str | None: st.none() | TEXTS,
    int | None: st.none() | LONGS,
    FreezeCause: st.sampled_from(FreezeCause),
}
_BY_NAME: Final[dict[str, st.SearchStrategy[Any]]] = {
    "command_id": ANY_UUIDS,
    "event_id": ANY_UUIDS,
    "transfer_id": ANY_UUIDS,
    "event_count": st.integers(-(2**31), 2**31 - 1),
    "fingerprint": st.binary(min_size=8, max_size=8),
    "chain_hash": st.binary(min_size=32, max_size=32),
}


def _values(record_type: type, *but: str) -> dict[str, st.SearchStrategy[Any]]:
    return {
        f.name: _BY_NAME[f.name] if f.name in _BY_NAME else _BY_ANNOTATION[f.type]
        for f in fields(record_type)
        if f.name not in but
    }


def _any(record_type: type) -> st.SearchStrategy[Any]:
    """Any value of a record's type, whether it makes sense or not."""
    return st.fixed_dictionaries(_values(record_type)).map(lambda drawn: record_type(**drawn))


ANY_COMMAND: Final[st.SearchStrategy[AnyCommand]] = st.one_of(*map(_any, COMMAND_TYPES))
ANY_EVENT: Final[st.SearchStrategy[Event]] = st.one_of(*map(_any, EVENT_TYPES))
ANY_REPLY: Final[st.SearchStrategy[CommandReply]] = _any(CommandReply)
ANY_SNAPSHOT: Final[st.SearchStrategy[AccountSnapshot]] = _any(AccountSnapshot)
COMMON_FIELDS: Final[st.SearchStrategy[dict[str, Any]]] = st.fixed_dictionaries(
    _values(RecordedEvent, "event", "chain_hash")
)
"""What `Codec.encode_event` is given besides the event."""


def _mostly(usual: st.SearchStrategy[Any], times: int, *others: object) -> st.SearchStrategy[Any]:
    """A usual value `times` as often as each of the others. (`one_of` gives each of its branches the same share.)"""
    return st.integers(0, times + len(others) - 1).flatmap(
        lambda drawn: usual if drawn < times else st.just(others[drawn - times])
    )


# Few and small values, with some at the edges, so that commands on one account run into each other.
_AMOUNTS: Final = _mostly(st.integers(1, 50), 20, -1, 0, INT64_MAX - 20, INT64_MAX)
_LIMITS: Final = _mostly(st.integers(0, 60), 20, -1, INT64_MAX)
_CURRENCIES: Final = _mostly(st.just("EUR"), 30, "CZK", "eur")
_NAMES: Final = _mostly(st.sampled_from(["Ada", "Grace"]), 20, " ", "x" * 201)
_COMMON: Final = {
    "command_id": UUIDS,
    "account_id": _mostly(st.just(ACCOUNT), 60, "a/1"),
    "user_id": _mostly(st.just("teller"), 60, ""),
    "issued_at": st.just(NOW),
    "expected_version": _mostly(st.none(), 100, 0, 1, 2, 3, 4, 5),
    "correlation_id": _mostly(st.none(), 60, "x" * 201),
    "effective_at": _mostly(st.none(), 60, NOW, NOW + 1, 0, INT64_MIN),
    "reason": _mostly(st.none(), 3, "Ada asked for it"),
}
_OF_CLIENTS: Final = {"reason_is_personal": _mostly(st.just(False), 3, True)}


def _meeting(record_type: type[AnyCommand], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[AnyCommand]:
    said = _COMMON | _OF_CLIENTS if issubclass(record_type, FromClient) else _COMMON
    return st.fixed_dictionaries(said | own).map(lambda drawn: record_type(**drawn))


_DEPOSITS: Final = _meeting(Deposit, amount_minor=_AMOUNTS, currency=_CURRENCIES)
_WITHDRAWALS: Final = _meeting(Withdraw, amount_minor=_AMOUNTS, currency=_CURRENCIES)
_REFUNDS: Final = _meeting(Refund, amount_minor=_AMOUNTS, currency=_CURRENCIES, withdrawal_sequence=st.integers(-1, 12))
# Few, so that a transfer is sent again, and settled after it was sent, before, or twice.
_TRANSFER_IDS: Final = _mostly(st.integers(1, 6).map(lambda number: str(UUID(int=number))), 30, "1", "")
_OTHER_ACCOUNTS: Final = _mostly(st.sampled_from(["acc-2", "acc-3"]), 30, ACCOUNT, "a/1")
_FOLLOW_UP: Final = _COMMON | {
    "account_id": st.just(ACCOUNT),
    "expected_version": st.none(),
    "transfer_id": st.integers(1, 6).map(lambda number: str(UUID(int=number))),
    "causation_id": UUIDS,
}


def _following(record_type: type[FollowUp], **own: st.SearchStrategy[Any]) -> st.SearchStrategy[AnyCommand]:
    """As the service gives them: of what was accepted before."""
    return st.fixed_dictionaries(_FOLLOW_UP | own).map(lambda drawn: record_type(**drawn))


_TRANSFERS: Final = _meeting(
    Transfer,
    transfer_id=_TRANSFER_IDS,
    to_account_id=_OTHER_ACCOUNTS,
    amount_minor=_AMOUNTS,
    currency=_CURRENCIES,
)
_SETTLING: Final = st.one_of(
    _following(CompleteTransfer, to_account_id=st.just("acc-2")),
    _following(
        ReturnTransfer,
        to_account_id=st.just("acc-2"),
        code=st.just("account_closed"),
        message=st.just("account acc-2 is closed"),
    ),
)
_RECEIVING: Final = _following(
    ReceiveTransfer,
    from_account_id=st.just("acc-2"),
    amount_minor=_mostly(st.integers(1, 50), 20, INT64_MAX - 20, INT64_MAX),
    currency=_CURRENCIES,
)
_OTHERS: Final = st.one_of(
    _meeting(
        OpenAccount, currency=_CURRENCIES, holder_name=_NAMES, holder_email=st.none(), overdraft_limit_minor=_LIMITS
    ),
    _meeting(ChangeHolder, holder_name=_NAMES, holder_email=st.none()),
    _meeting(EraseHolder),
    _meeting(Freeze, cause=st.sampled_from(FreezeCause)),
    _meeting(Unfreeze),
    _meeting(CloseAccount, payout_reference=_mostly(st.none(), 20, "SEPA 7", "x" * 201)),
)
MEETING_COMMANDS: Final[st.SearchStrategy[AnyCommand]] = st.one_of(
    _DEPOSITS,
    _WITHDRAWALS,
    _REFUNDS,
    _meeting(SetOverdraftLimit, limit_minor=_LIMITS, currency=_CURRENCIES),
    _TRANSFERS,
    _SETTLING,
    _RECEIVING,
    st.integers(0, 3).flatmap(lambda drawn: _OTHERS if drawn == 0 else _meeting(Unfreeze)),
)
"""Commands to one account that are often accepted, and are refused for every reason there is."""
