"""The rule about withdrawals in a hurry: so many of an account, or so much, within a window of time.

What an account sends to another counts as a withdrawal: who empties an account sends the money on. It counts when it is
sent, and still does when it comes back.

The window ends with each withdrawal in turn and slides with it. An alert starts the account's count anew, so that the
next one takes as many again: one for each such run, not one for each withdrawal after the first run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from projectors.activity.taken import Taken
from schemas.alerts import WITHDRAWAL_COUNT, WITHDRAWAL_SUM, Alert, alert_id
from schemas.events import MoneyWithdrawn, TransferSent
from schemas.money import INT64_MAX


@dataclass(frozen=True, slots=True)
class Rule:
    """`count` withdrawals, or withdrawals that come to the currency's sum in minor units, within `window_s`."""

    window_s: int
    count: int
    sums: Mapping[str, int]


class Recent(NamedTuple):
    """An account's withdrawals since its last alert, as far as they still count: time in microseconds and minor units.

    There are fewer than the rule's count of them. `newest_at` is when the last one was recorded, whether it is among
    them or not; `next_offset` is the offset to read next.
    """

    next_offset: int = 0
    newest_at: int = 0
    withdrawals: tuple[tuple[int, int], ...] = ()

    @classmethod
    def stored(cls, value: Any) -> Self:
        """From what a table holds, of which None stands for nothing yet."""
        return cls() if value is None else cls(value[0], value[1], tuple((at, amount) for at, amount in value[2]))

    def to_store(self) -> list[Any]:
        return [self.next_offset, self.newest_at, [list(one) for one in self.withdrawals]]


def withdrew(recent: Recent, taken: Taken, rule: Rule) -> tuple[Recent, list[Alert]]:
    """What an account's event does to its recent withdrawals, and the alerts that it sets off.

    An event that is in already changes nothing and sets off nothing: whoever keeps `Recent` gives the alerts first.
    """
    event = taken.recorded.event
    if not isinstance(event, MoneyWithdrawn | TransferSent) or taken.offset < recent.next_offset:
        return recent, []
    at = taken.recorded.recorded_at
    since = at - rule.window_s * 1_000_000
    counted = (*(one for one in recent.withdrawals if one[0] > since), (at, event.amount_minor))
    total = sum(amount for _, amount in counted)
    reached = [(WITHDRAWAL_COUNT, rule.count)] if len(counted) >= rule.count else []
    limit = rule.sums.get(event.currency)
    if limit is not None and total >= limit:
        reached.append((WITHDRAWAL_SUM, limit))
    alerts = [
        Alert(
            alert_id=alert_id(taken.recorded.account_id, name, taken.recorded.event_id),
            account_id=taken.recorded.account_id,
            rule=name,
            event_id=taken.recorded.event_id,
            sequence=taken.recorded.sequence,
            raised_at=at,
            first_at=counted[0][0],
            window_s=rule.window_s,
            count=len(counted),
            # Each amount fits in 64 bits; many of them need not.
            amount_minor=min(total, INT64_MAX),
            currency=event.currency,
            limit=bound,
        )
        for name, bound in reached
    ]
    return Recent(taken.offset + 1, at, () if alerts else counted), alerts
