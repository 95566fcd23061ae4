"""Alerts: what a rule over the stream of events noticed about an account. Analytics, which no decision depends on.

An alert's name and its fields are a storage format (`schemas/account/Alert.v1.avsc`); they change by a new version
only. Times are microseconds since the Unix epoch, in UTC; amounts are minor units of a currency.
"""

from __future__ import annotations

import uuid
from typing import ClassVar, Final

from msgspec import Struct

WITHDRAWAL_COUNT: Final = "withdrawal_count"
"""The rule that an account had so many withdrawals within a time."""

WITHDRAWAL_SUM: Final = "withdrawal_sum"
"""The rule that an account's withdrawals within a time came to so much."""

_NAMESPACE: Final = uuid.UUID("6f0c3b6e-5d0a-5c43-9f2e-1d8a7c54b1e0")


class Alert(Struct, frozen=True, kw_only=True, gc=False):
    """One alert. All of it follows from the events, so giving it again gives the same record under the same key.

    `limit` is what was reached: a number of withdrawals, or minor units, as the rule says. `count` and `amount_minor`
    are the withdrawals from `first_at` to `raised_at`, which is when the event that set it off was recorded.
    """

    FULL_NAME: ClassVar[str] = "daybook.account.Alert"

    alert_id: str
    account_id: str
    rule: str
    event_id: str
    sequence: int
    raised_at: int
    first_at: int
    window_s: int
    count: int
    amount_minor: int
    currency: str
    limit: int


def alert_id(account_id: str, rule: str, event_id: str) -> str:
    """The UUIDv5 of the alert that an event of an account sets off by a rule."""
    return str(uuid.uuid5(_NAMESPACE, f"{account_id}/{rule}/{event_id}"))
