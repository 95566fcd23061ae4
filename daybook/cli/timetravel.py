"""Commands that ask for the ledger as it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daybook.cli.exits import say
from daybook.cli.options import (
    DEFAULT_TIMEOUT_S,
    READER,
    Account,
    AsJson,
    Sealed,
    Timeout,
    currency_code,
    moment,
    print_json,
)
from daybook.cli.tables import Column, print_table, visible
from daybook.wording import counted
from schemas.money import Money, format_amount

if TYPE_CHECKING:
    from daybook.log import LoggedEvent
    from daybook.timetravel.states import Change, Difference, PastAccount

FromLog = Annotated[bool, typer.Option("--from-log", help="Read the log itself instead of the audit index.")]
EffectiveAt = Annotated[
    str | None,
    typer.Option(
        metavar="MOMENT",
        help="What was in force then: by what counts since then or before, back-dated events among it.",
    ),
]

_LISTED: Final = 10
"""Withdrawals that are listed, the newest; --json has all."""

_CHANGES: Final = (Column("what", whole=True), Column("from"), Column("to"))
_EVENTS: Final = (
    Column("#", right=True, whole=True),
    Column("recorded (UTC)", whole=True),
    Column("effective (UTC)", whole=True),
    Column("who"),
    Column("what", least=11),
    Column("why"),
)
_NAMES: Final[Mapping[str, str]] = {
    "holder_name": "holder",
    "holder_email": "e-mail",
    "holder_erased": "holder erased",
    "money": "balance",
    "in_transit": "in transit",
    "overdraft_limit": "overdraft",
    "opened_at": "opened",
    "closed_at": "closed",
}
"""How fields are called on the terminal, where that is not their name."""


def as_of(
    account: Account,
    sequence: Annotated[
        int | None, typer.Option(metavar="SEQUENCE", min=0, help="After this event of the account.")
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="MOMENT", help="By what was recorded until then.")] = None,
    effective_at: EffectiveAt = None,
    from_log: FromLog = False,
    sealed: Sealed = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show an account as it was: after an event, at a time, or as what was in force at a time.

    With --effective-at and --at: what was in force at the one, by what was known at the other. A holder that was erased
    since is [erased] at all times.

    daybook as-of A-1 --at 2026-02-10T11:00Z
    """
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.cli.opening import opening  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415

    if sequence is not None and at is not None:
        raise typer.BadParameter("--sequence and --at both say how far to look: give one of them")
    until = moment(at, "--at") if sequence is None else sequence
    effective = moment(effective_at)
    with Client(user_id=READER, timeout_s=timeout) as client:
        with WorkDisplay() as display:
            found = client.past.as_of(
                account, until, effective_at=effective, from_log=from_log, tell=display.update, note=say
            )
        with opening(client, [account], sealed=sealed) as holders:
            found = holders.account(found)
    if as_json:
        print_json(_state(found))
    else:
        _show(found, in_force=effective is not None)


def diff(
    account: Account,
    start: Annotated[
        str,
        typer.Option("--from", metavar="POINT", help="An event's sequence, 0 for before there was any, or a moment."),
    ],
    end: Annotated[str | None, typer.Option("--to", metavar="POINT", help="The same; now, if left out.")] = None,
    effective_at: EffectiveAt = None,
    from_log: FromLog = False,
    sealed: Sealed = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show what changed of an account from one point to another, and through which events.

    With --effective-at: what was in force at that moment, as it was known at the one point and at the other.

    daybook diff A-1 --from 3 --to 9

    daybook diff A-1 --effective-at 2026-03-31T23:59:59.999999Z --from 2026-04-01
    """
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.cli.opening import opening  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415

    first = _point(start, "--from")
    last = None if end is None else _point(end, "--to")
    effective = moment(effective_at)
    with Client(user_id=READER, timeout_s=timeout) as client:
        with WorkDisplay() as display:
            found = client.past.difference(
                account, first, last, effective_at=effective, from_log=from_log, tell=display.update, note=say
            )
        with opening(client, [account], sealed=sealed) as holders:
            found = holders.difference(found)
    if as_json:
        print_json(_difference(account, found))
        return
    if found.changes:
        print_table(_CHANGES, [_change_row(change) for change in found.changes])
    else:
        typer.echo("nothing changed")
    if found.events:
        typer.echo()
        print_table(_EVENTS, [_event_row(logged) for logged in found.events])


def balances(
    at: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="By what was recorded until then; now, if left out.")
    ] = None,
    effective_at: EffectiveAt = None,
    currency: Annotated[str | None, typer.Option(metavar="CURRENCY", help="Only accounts in this currency.")] = None,
    totals: Annotated[bool, typer.Option("--totals", help="Only the total of each currency.")] = False,
    from_log: FromLog = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show the balances of all accounts as of a time, and the total of each currency: a trial balance.

    With --effective-at: what was in force then, by all that is known, or by what was known --at another moment.

    daybook balances --at 2026-03-31T23:59:59.999999Z --currency EUR
    """
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415

    code = None if currency is None else currency_code(currency)
    known, effective = moment(at, "--at"), moment(effective_at)
    accounts: dict[str, int] = defaultdict(int)
    sums: dict[str, int] = defaultdict(int)
    in_transit: dict[str, int] = defaultdict(int)
    listed = []
    with Client(user_id=READER, timeout_s=timeout) as client, WorkDisplay() as display:
        for found in client.past.balances(
            known, effective_at=effective, currency=code, from_log=from_log, tell=display.update
        ):
            accounts[found.money.currency] += 1
            sums[found.money.currency] += found.money.amount_minor
            in_transit[found.money.currency] += found.in_transit.amount_minor
            if not totals:
                listed.append(found)
    for found in listed:
        if as_json:
            record = {"account_id": found.account_id, "currency": found.money.currency, "events": found.events}
            print_json(record | _amount("balance", found.money) | _amount("in_transit", found.in_transit))
        else:
            moving = f", {found.in_transit} in transit" if found.in_transit.amount_minor else ""
            events = f"{counted(found.events, 'event'):>14}{moving}"
            typer.echo(visible(f"{found.account_id:<16}  {found.money!s:>24}  {events}"))
    for code, total_minor in sorted(sums.items()):
        if as_json:
            total = {"total": format_amount(total_minor, code), "total_minor": total_minor}
            also = {"in_transit": format_amount(in_transit[code], code), "in_transit_minor": in_transit[code]}
            print_json({"currency": code, "accounts": accounts[code]} | total | also)
        else:
            amount = f"{format_amount(total_minor, code)} {code}"
            moving = f", {format_amount(in_transit[code], code)} {code} in transit" if in_transit[code] else ""
            typer.echo(f"{'total':<16}  {amount:>24}  {counted(accounts[code], 'account'):>14}{moving}")
    if not sums:
        say("there was no account then" if code is None else f"there was no account in {code} then")


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command("as-of")(as_of)
    app.command()(diff)
    app.command()(balances)


def _point(text: str, option: str) -> int | datetime:
    """A sequence if it is a number, else a moment. A usage error if it is neither."""
    if text.isascii() and text.isdigit():
        # A year alone is no moment in ISO 8601 as Python reads it, so that a number is always a sequence.
        return int(text)
    found = moment(text, option)
    assert found is not None  # noqa: S101 - it is for None alone
    return found


def _show(found: PastAccount, *, in_force: bool) -> None:
    email = f" <{found.holder_email}>" if found.holder_email else ""
    for name, value in (
        ("account", found.account_id),
        ("holder", f"{found.holder_name}{email}"),
        ("status", found.status),
        ("balance", str(found.money)),
        ("in transit", str(found.in_transit) if found.in_transit.amount_minor else ""),
        ("overdraft", str(found.overdraft_limit)),
        ("opened", _text(found.opened_at)),
        ("closed", "" if found.closed_at is None else _text(found.closed_at)),
        # What counts last need not have been recorded last.
        ("updated", _text(found.updated_at) + ("" if in_force else f", by event {found.sequence}")),
        ("newest", f"event {found.sequence}, of those that count" if in_force else ""),
    ):
        if value:
            typer.echo(f"{name:<12}{visible(value)}")
    newest = sorted(found.refundable.items(), reverse=True)
    for number, money in newest[:_LISTED]:
        typer.echo(f"{'refundable':<12}{money} of withdrawal {number}")
    if len(newest) > _LISTED:
        typer.echo(f"{'':<12}and of {len(newest) - _LISTED} older ones, which --json has")


def _change_row(change: Change) -> tuple[str, str, str]:
    before, after = change.before, change.after
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        # An account may have a thousand withdrawals: those that did not change say nothing here.
        same = dict(before.items() & after.items())
        before, after = ({name: at[name] for name in at.keys() - same.keys()} for at in (before, after))
    return _NAMES.get(change.field, change.field), _text(before), _text(after)


def _text(value: Any) -> str:
    """A field's value for the terminal."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{_moment(value)} UTC"
        case Mapping():
            newest = [f"{money} of {number}" for number, money in sorted(value.items())[-_LISTED:]]
            older = len(value) - len(newest)
            return ", ".join([f"{older} older ones", *newest] if older else newest) or "nothing"
        case _:
            return str(value)


def _moment(at: datetime) -> str:
    """To the microsecond where it has any: a moment that is shown can be asked for."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def _event_row(logged: LoggedEvent) -> tuple[str, ...]:
    from daybook.cli.phrases import phrase  # noqa: PLC0415
    from daybook.timetravel.points import moment_of  # noqa: PLC0415

    recorded = logged.recorded
    return (
        str(recorded.sequence),
        _moment(moment_of(recorded.recorded_at)),
        "" if recorded.effective_at == recorded.recorded_at else _moment(moment_of(recorded.effective_at)),
        recorded.user_id,
        phrase(recorded.event),
        recorded.reason or "",
    )


def _difference(account_id: str, found: Difference) -> dict[str, object]:
    from daybook.cli.reading import event_record  # noqa: PLC0415

    return {
        "account_id": account_id,
        "from": None if found.before is None else _state(found.before),
        "to": None if found.after is None else _state(found.after),
        "changed": [change.field for change in found.changes],
        "events": [event_record(logged) for logged in found.events],
    }


def _state(found: PastAccount) -> dict[str, object]:
    return {
        "account_id": found.account_id,
        "holder_name": found.holder_name,
        "holder_email": found.holder_email,
        "holder_erased": found.holder_erased,
        "status": found.status,
        **_amount("balance", found.money),
        **_amount("in_transit", found.in_transit),
        **_amount("overdraft_limit", found.overdraft_limit),
        "currency": found.money.currency,
        "refundable": [
            {"withdrawal_sequence": number} | _amount("amount", money)
            for number, money in sorted(found.refundable.items())
        ],
        "opened_at": found.opened_at.isoformat(),
        "closed_at": None if found.closed_at is None else found.closed_at.isoformat(),
        "updated_at": found.updated_at.isoformat(),
        "sequence": found.sequence,
    }


def _amount(name: str, money: Money) -> dict[str, object]:
    return {name: format_amount(money.amount_minor, money.currency), f"{name}_minor": money.amount_minor}
