"""The golden events: whole streams, each event with the version that it is written in. They are only added to.

What a stream has is fixed for ever once it is recorded (`tests.golden.record`): a new version gets a stream of its own.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

_EVENT: Final = "daybook.account.event"

Entry = tuple[str, int, dict[str, Any]]
"""An event's full name, its version, and its own fields as that version has them."""


def _opened(**own: Any) -> Entry:
    fields = {"currency": "EUR", "holder_name": "Ada Lovelace", "holder_email": None, "overdraft_limit_minor": 0}
    return f"{_EVENT}.AccountCreated", 1, fields | own


def _moved(name: str, amount: int, balance: int, currency: str = "EUR", **own: Any) -> Entry:
    return f"{_EVENT}.{name}", 1, {"amount_minor": amount, "currency": currency, "balance_minor": balance} | own


def _deposited(amount: int, balance: int, currency: str = "EUR") -> Entry:
    return _moved("MoneyDeposited", amount, balance, currency)


def _withdrawn(amount: int, balance: int, currency: str = "EUR") -> Entry:
    return _moved("MoneyWithdrawn", amount, balance, currency)


def _frozen(version: int, **own: Any) -> Entry:
    return f"{_EVENT}.AccountFrozen", version, own


_UNFROZEN: Final[Entry] = (f"{_EVENT}.AccountUnfrozen", 1, {})


def _limit(before: int | None, after: int, currency: str = "EUR") -> Entry:
    own = {"previous_limit_minor": before, "new_limit_minor": after, "currency": currency}
    return f"{_EVENT}.v2.OverdraftLimitSet", 1, own


def _transfer(name: str, number: int, amount: int, currency: str = "EUR", **own: Any) -> Entry:
    common = {"transfer_id": str(UUID(int=number)), "amount_minor": amount, "currency": currency}
    return f"{_EVENT}.{name}", 1, common | own


def _sent(number: int, amount: int, balance: int, in_transit: int) -> Entry:
    after = {"balance_minor": balance, "in_transit_minor": in_transit}
    return _transfer("TransferSent", number, amount, to_account_id="golden-elsewhere", **after)


def _completed(number: int, amount: int, in_transit: int) -> Entry:
    return _transfer("TransferCompleted", number, amount, to_account_id="golden-elsewhere", in_transit_minor=in_transit)


def _returned(number: int, amount: int, balance: int, in_transit: int) -> Entry:
    return _transfer(
        "TransferReturned",
        number,
        amount,
        to_account_id="golden-elsewhere",
        balance_minor=balance,
        in_transit_minor=in_transit,
        code="account_closed",
        message="account golden-elsewhere is closed",
    )


def _received(number: int, amount: int, balance: int, currency: str) -> Entry:
    own = {"from_account_id": "golden-elsewhere", "balance_minor": balance}
    return _transfer("TransferReceived", number, amount, currency, **own)


STREAMS: Final[dict[str, list[Entry]]] = {
    # All that the first release wrote.
    "first-release": [
        _opened(holder_email="ada@example.org", overdraft_limit_minor=5000),
        _deposited(20_000, 20_000),
        _withdrawn(22_500, -2_500),
        _moved("MoneyRefunded", 2_500, 0, withdrawal_sequence=3),
        (f"{_EVENT}.OverdraftLimitSet", 1, {"limit_minor": 0, "currency": "EUR"}),
        (f"{_EVENT}.HolderChanged", 1, {"holder_name": "Ada King", "holder_email": None}),
        _frozen(1),
        _UNFROZEN,
        _deposited(1, 1),
        _withdrawn(1, 0),
        (f"{_EVENT}.AccountClosed", 1, {}),
    ],
    # An account that went on from the first release to the versions after it.
    "across-versions": [
        _opened(currency="KWD"),
        (f"{_EVENT}.OverdraftLimitSet", 1, {"limit_minor": 700, "currency": "KWD"}),
        _frozen(1),
        _UNFROZEN,
        _limit(700, 900, "KWD"),
        _frozen(2, cause="COURT_ORDER"),
        _UNFROZEN,
        _frozen(3, cause="SANCTIONS"),
        _UNFROZEN,
        _deposited(5, 5, "KWD"),
        _withdrawn(5, 0, "KWD"),
        (f"{_EVENT}.AccountClosed", 2, {"payout_reference": "SEPA 2026-0042"}),
    ],
    "freeze-causes": [
        _opened(currency="JPY"),
        *(
            entry
            for version, causes in (
                (2, ("UNSPECIFIED", "CUSTOMER_REQUEST", "COURT_ORDER", "FRAUD_SUSPICION")),
                (3, ("UNSPECIFIED", "CUSTOMER_REQUEST", "COURT_ORDER", "FRAUD_SUSPICION", "SANCTIONS")),
            )
            for cause in causes
            for entry in (_frozen(version, cause=cause), _UNFROZEN)
        ),
        (f"{_EVENT}.AccountClosed", 2, {"payout_reference": None}),
    ],
    # Sealed with the key of `tests.golden.replay`, whose holder is there; and with a key that is nowhere any more.
    "sealed": [
        _opened(
            holder_name="daybook-sealed:"
            "AQGXdCHGYHAAgAAAAAAAAAYBAQEBAQEBAQEBAQGyfopTAeBIKLsipLlzCCQbanUImQdr9I_4znIXnv1-JjM"
        ),
        _limit(0, 5),
        (
            f"{_EVENT}.AccountClosed",
            2,
            {
                "payout_reference": "daybook-sealed:"
                "AQGXdCObIHAAgAAAAAAAAAYCAgICAgICAgICAgLIbUn6mesBaf2oksgHStz1UvVFvoLvvJD-Vd-6aVQ"
            },
        ),
    ],
    "erased": [
        _opened(
            holder_name="daybook-sealed:AQGXdCHGYHAAgAAAAAAAAAYBAQEBAQEBAQEBAQE2p4QVJOoeA7g1BH0b5lqadLD8A5QjzEpx6rK3",
            holder_email="daybook-sealed:"
            "AQGXdCHGYHAAgAAAAAAAAAYCAgICAgICAgICAgL6THj73KFQNrvpx9ZcC71C7R2qCBWOlt0Jq-exnecw",
        ),
        (
            f"{_EVENT}.HolderChanged",
            1,
            {
                "holder_name": "daybook-sealed:AQGXdCKwwHAAgAAAAAAAAAYDAwMDAwMDAwMDAwOvL132QPs8cWUmm3V7p1i_r6DiuXicqaM",
                "holder_email": None,
            },
        ),
        (f"{_EVENT}.HolderErased", 1, {}),
        _deposited(1, 1),
    ],
    "limits": [_opened(overdraft_limit_minor=7), _limit(7, 0), _limit(0, 2**63 - 1), _limit(None, 1)],
    # The second is settled before the first, and the last is in transit at the end.
    "transfers-sent": [
        _opened(overdraft_limit_minor=500),
        _deposited(1_000, 1_000),
        _sent(1, 700, 300, 700),
        _sent(2, 800, -500, 1_500),
        _completed(2, 800, 700),
        _returned(1, 700, 200, 0),
        _withdrawn(50, 150),
        _sent(3, 1, 149, 1),
        _completed(3, 1, 0),
        _frozen(3, cause="UNSPECIFIED"),
        _UNFROZEN,
        _sent(4, 2**62, 149 - 2**62, 2**62),
        _sent(5, 149, -(2**62), 2**62 + 149),
        _returned(4, 2**62, 0, 149),
    ],
    "transfers-received": [
        _opened(currency="KWD"),
        _received(1, 2**63 - 1, 2**63 - 1, "KWD"),
        _withdrawn(2**63 - 1, 0, "KWD"),
        _received(1, 5, 5, "KWD"),
        _withdrawn(5, 0, "KWD"),
        (f"{_EVENT}.AccountClosed", 2, {"payout_reference": None}),
    ],
}
