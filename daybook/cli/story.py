"""The story of a transfer across both its accounts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

import typer

from daybook.cli.options import READER, print_json
from daybook.cli.searching import entry_record, second, what
from daybook.cli.tables import Column, print_table, visible
from schemas.money import format_amount

if TYPE_CHECKING:
    from daybook.search import AuditEntry

_COLUMNS: Final = (
    Column("recorded (UTC)", whole=True),
    Column("after", right=True, whole=True),
    Column("account"),
    Column("#", right=True, whole=True),
    Column("who"),
    Column("what", least=11),
    Column("balance", right=True, whole=True),
    Column("in transit", right=True, whole=True),
)


def tell_story(transfer_id: str, account_id: str | None, *, sealed: bool, timeout_s: float, as_json: bool) -> None:
    """Print all events of a transfer, or of those under this id that an account took part in.

    Raises: `TransferUnknown`, `Unreachable`.
    """
    from daybook.cli.opening import opening  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415
    from daybook.errors import TransferUnknown  # noqa: PLC0415

    with Client(user_id=READER, timeout_s=timeout_s) as client, opening(client, None, sealed=sealed) as holders:
        entries = [holders.entry(entry) for entry in client.transfer_history(transfer_id)]
    stories = list(_stories(entries, account_id))
    if not stories:
        raise TransferUnknown(transfer_id, account_id)
    for entries in stories:
        if as_json:
            for entry in entries:
                print_json(entry_record(entry))
        else:
            _print(transfer_id, entries)


def _stories(entries: Sequence[AuditEntry], account_id: str | None) -> Iterator[list[AuditEntry]]:
    """The events of one sending account together: each account may use an id for a transfer of its own."""
    for _, group in groupby(entries, key=lambda entry: entry.from_account_id or entry.account_id):
        found = list(group)
        took_part = {name for entry in found for name in (entry.account_id, entry.to_account_id, entry.from_account_id)}
        if account_id is None or account_id in took_part:
            yield found


def _print(transfer_id: str, entries: Sequence[AuditEntry]) -> None:
    first, last = entries[0], entries[-1]
    source, destination = first.from_account_id or first.account_id, first.to_account_id or first.account_id
    belongs = "" if first.correlation_id == first.command_id else f", part of {first.correlation_id}"
    why = f" ({first.reason})" if first.reason else ""
    typer.echo(visible(f"transfer {transfer_id}: {first.amount} from {source} to {destination}{why}{belongs}"))
    print_table(_COLUMNS, [_row(entry, first) for entry in entries])
    typer.echo(visible(_end(last, destination)))


def _row(entry: AuditEntry, first: AuditEntry) -> Sequence[str]:
    after_s = (entry.recorded_at - first.recorded_at).total_seconds()
    return (
        second(entry.recorded_at),
        "" if entry is first else f"{after_s:.3f} s",
        entry.account_id,
        str(entry.sequence),
        entry.user_id,
        what(entry),
        format_amount(entry.balance.amount_minor, entry.balance.currency),
        "" if entry.in_transit is None else format_amount(entry.in_transit.amount_minor, entry.in_transit.currency),
    )


def _end(last: AuditEntry, destination: str) -> str:
    match last.event_type:
        case "TransferCompleted":
            return "completed"
        case "TransferReturned":
            return f"returned: {last.message} ({last.code})"
        case "TransferReceived":
            return f"in flight: it has arrived at {destination}, and the sending account has yet to hear of it"
        case _:
            return f"in flight: it has neither arrived at {destination} nor come back"
