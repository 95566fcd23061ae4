"""What `daybook verify money` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from daybook.cli.tables import Column, print_table
from daybook.wording import counted
from schemas.money import format_amount

if TYPE_CHECKING:
    from daybook.verify.books import Sums
    from daybook.verify.money import Reckoning

_COLUMNS: Final = (
    Column("currency", whole=True),
    Column("deposits", right=True, whole=True),
    Column("+ refunds", right=True, whole=True),
    Column("- withdrawals", right=True, whole=True),
    Column("= balances", right=True, whole=True),
    Column("+ in transit", right=True, whole=True),
)

_OLDEST: Final = 3
"""How many transfers in flight a sentence names; `daybook transfers --in-flight --from-log` lists all."""


def print_sums(found: Reckoning) -> None:
    """A line for each currency, which can be added up."""
    if found.sums:
        print_table(_COLUMNS, [(currency, *_texts(currency, sums)) for currency, sums in found.sums.items()])


def line_of(found: Reckoning) -> str:
    """The verdict in a sentence."""
    read = f"{counted(found.accounts, 'account')} and {counted(found.events, 'event')}"
    if found.wrong is not None:
        return f"money: wrong after {read}: {found.wrong}"
    ended = f"{found.completed:,} completed, {found.returned:,} returned, {len(found.in_flight):,} in flight"
    oldest = ", ".join(f"{one.transfer_id} since {one.sent_at:%Y-%m-%d %H:%M:%S}" for one in found.in_flight[:_OLDEST])
    return f"money: adds up ({read}; transfers: {ended}{f', the oldest {oldest}' if oldest else ''})"


def record(found: Reckoning) -> dict[str, object]:
    """The verdict for scripts."""
    return {
        "outcome": "equal" if found.wrong is None else "differs",
        "accounts": found.accounts,
        "events": found.events,
        "transfers_completed": found.completed,
        "transfers_returned": found.returned,
        "transfers_in_flight": len(found.in_flight),
        "in_flight_since": found.in_flight[0].sent_at.isoformat() if found.in_flight else None,
        "currencies": [_sums_record(currency, sums) for currency, sums in found.sums.items()],
        "wrong": None if found.wrong is None else {"where": found.wrong.where, "what": found.wrong.what},
    }


def _amounts(sums: Sums) -> dict[str, int]:
    return {
        "deposited": sums.deposited_minor,
        "refunded": sums.refunded_minor,
        "withdrawn": sums.withdrawn_minor,
        "balances": sums.balances_minor,
        "in_transit": sums.in_transit_minor,
    }


def _texts(currency: str, sums: Sums) -> list[str]:
    return [format_amount(amount_minor, currency) for amount_minor in _amounts(sums).values()]


def _sums_record(currency: str, sums: Sums) -> dict[str, Any]:
    amounts = _amounts(sums) | {"arrived_unsettled": sums.arrived_minor}
    made: dict[str, Any] = {"currency": currency, "accounts": sums.accounts}
    for name, amount_minor in amounts.items():
        made |= {name: format_amount(amount_minor, currency), f"{name}_minor": amount_minor}
    return made
