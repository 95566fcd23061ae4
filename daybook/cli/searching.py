"""Commands that ask the search indices: who, what became of an account, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

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
    print_json,
)
from daybook.cli.phrases import in_words
from daybook.cli.tables import Column, print_table, visible
from schemas.money import Money, format_amount

if TYPE_CHECKING:
    from datetime import datetime

    from daybook.client import Client
    from daybook.search import AccountView, AuditEntry

ACCOUNTS = (
    Column("account", whole=True),
    Column("holder"),
    Column("e-mail"),
    Column("status"),
    Column("balance", right=True, whole=True),
    Column("updated (UTC)", whole=True),
)


def search(
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT",
            help="Words of the holder's name, an account's id, or an e-mail address.",
            show_default=False,
        ),
    ] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="active, frozen or closed.")] = None,
    currency: Annotated[str | None, typer.Option(metavar="CURRENCY", help="Only accounts in this currency.")] = None,
    low: Annotated[str | None, typer.Option("--min", metavar="BALANCE", help="At least this: '100.00 EUR'.")] = None,
    high: Annotated[str | None, typer.Option("--max", metavar="BALANCE", help="At most this: '-0.01 EUR'.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on where a page ended, as it said.")] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Find accounts by their holder, status and balance. All that is given has to fit.

    The last word may be a beginning, and longer words may have a letter or two wrong.

    daybook search "lovelace a" --status active --min "100.00 EUR"
    """
    from daybook.client import Client  # noqa: PLC0415

    code = None if currency is None else currency_code(currency)
    with Client(user_id=READER, timeout_s=timeout) as client:
        page = client.search(
            text,
            status=status,
            currency=code,
            min_balance=low,
            max_balance=high,
            limit=limit,
            after=after,
        )
    if as_json:
        for view in page.accounts:
            print_json(_account_record(view))
    elif page.accounts:
        print_table(ACCOUNTS, [account_row(view) for view in page.accounts])
    else:
        say("no account fits")
    if page.after is not None:
        say(f"there are more: --after {page.after}")


def account(
    account: Account,
    at_least: Annotated[
        int | None,
        typer.Option(metavar="SEQUENCE", min=1, help="Wait until the view includes this event of the account."),
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show an account: its holder, status, balance, limit and times.

    daybook account A-1
    """
    from daybook.client import Client  # noqa: PLC0415

    with Client(user_id=READER, timeout_s=timeout) as client:
        view = client.account(account, at_least=at_least)
    if as_json:
        print_json(_account_record(view))
        return
    email = f" <{view.holder_email}>" if view.holder_email else ""
    for name, value in (
        ("account", view.account_id),
        ("holder", f"{view.holder_name}{email}"),
        ("status", view.status),
        ("balance", str(view.money)),
        ("in transit", str(view.in_transit) if view.in_transit.amount_minor else ""),
        ("overdraft", str(view.overdraft_limit)),
        ("opened", f"{second(view.opened_at)} UTC"),
        ("closed", "" if view.closed_at is None else f"{second(view.closed_at)} UTC"),
        ("updated", f"{second(view.updated_at)} UTC, by event {view.sequence}"),
    ):
        if value:
            typer.echo(f"{name:<11}{visible(value)}")


def history(
    account: Annotated[
        str | None, typer.Argument(metavar="ACCOUNT", help="The account's id.", show_default=False)
    ] = None,
    transfer: Annotated[
        UUID | None,
        typer.Option(metavar="UUID", help="The story of this transfer, on both accounts, instead of an account's."),
    ] = None,
    newest: Annotated[bool, typer.Option("--newest", help="The newest event first.")] = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="How many events; all without it.")] = None,
    after: Annotated[
        int | None, typer.Option(metavar="SEQUENCE", min=0, help="Begin behind this event of the account.")
    ] = None,
    at_least: Annotated[
        int | None,
        typer.Option(metavar="SEQUENCE", min=1, help="Wait until this event of the account is in the trail."),
    ] = None,
    from_log: Annotated[
        bool, typer.Option("--from-log", help="Read the account's events from the log, and verify them on the way.")
    ] = False,
    scan: Annotated[
        bool, typer.Option("--scan", help="With --from-log: all of the account's partition, without the audit index.")
    ] = False,
    sealed: Sealed = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show an account's audit trail: when, who, what, how much, the balance after it, and why.

    An event that counts since another time than it was recorded at says so. What is sealed of the holder is opened
    where the key-encryption keys are configured, and says [sealed] elsewhere; once the holder is erased, [erased].

    daybook history A-1 --newest --limit 20

    daybook history --transfer 5f0c8d1e-93a4-4a57-8b2f-3f5d3b7f6a10
    """
    from daybook.client import Client  # noqa: PLC0415

    if transfer is not None:
        if newest or limit is not None or after is not None or at_least is not None or from_log:
            raise typer.BadParameter("a transfer's story is told whole, from the audit trail", param_hint="--transfer")
        from daybook.cli.story import tell_story  # noqa: PLC0415 - it tells what is told here, of two accounts

        tell_story(str(transfer), account, sealed=sealed, timeout_s=timeout, as_json=as_json)
        return
    if account is None:
        raise typer.BadParameter("say which account's history, or --transfer", param_hint="ACCOUNT")
    if scan and not from_log:
        raise typer.BadParameter("--scan is about reading the log: say --from-log too")
    if from_log and at_least is not None:
        raise typer.BadParameter("the log has all that was replied to: --at-least is for the audit index")
    from daybook.cli.opening import opening  # noqa: PLC0415

    with Client(user_id=READER, timeout_s=timeout) as client, opening(client, [account], sealed=sealed) as holders:
        if from_log:
            found_events = _from_log(client, account, scan, after, newest)
        else:
            found_events = client.history(account, at_least=at_least, newest_first=newest, after=after)
        entries = map(holders.entry, islice(found_events, limit))
        if as_json:
            for entry in entries:
                print_json(entry_record(entry))
            return
        found = list(entries)
    if found:
        print_table(trail(found[0].balance.currency), [entry_row(entry) for entry in found])
    else:
        say("no event is behind that one")


def _from_log(client: Client, account_id: str, scan: bool, after: int | None, newest: bool) -> Iterator[AuditEntry]:
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.errors import AccountUnknown  # noqa: PLC0415
    from daybook.timetravel.trail import entries  # noqa: PLC0415

    with WorkDisplay() as display:
        # From the first on, since that is what all the others follow from.
        events = list(client.past.stream(account_id, scan=scan, tell=display.update, note=say))
    if not events:
        raise AccountUnknown(account_id, None)
    found = list(entries(events))
    if newest:
        found.reverse()
    if after is None:
        return iter(found)
    return (entry for entry in found if (entry.sequence < after if newest else entry.sequence > after))


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    for command in (search, account, history):
        app.command(command.__name__)(command)


def what(entry: AuditEntry) -> str:
    """What an event was, in words; its amount has a column of its own."""
    match entry.event_type:
        case "AccountCreated":
            said = f"opened for {entry.holder_name}, overdraft {entry.overdraft_limit}"
        case "MoneyDeposited":
            said = "deposited"
        case "MoneyWithdrawn":
            said = "withdrew"
        case "MoneyRefunded":
            said = f"refunded of withdrawal {entry.withdrawal_sequence}"
        case "TransferSent":
            said = f"sent to {entry.to_account_id}"
        case "TransferReceived":
            said = f"received from {entry.from_account_id}"
        case "TransferCompleted":
            said = f"{entry.amount} arrived at {entry.to_account_id}"
        case "TransferReturned":
            said = f"came back from {entry.to_account_id}: {entry.message} ({entry.code})"
        case "OverdraftLimitSet":
            said = f"overdraft set to {entry.overdraft_limit}" + (
                "" if entry.previous_overdraft_limit is None else f" from {entry.previous_overdraft_limit}"
            )
        case "HolderChanged":
            said = f"holder is now {entry.holder_name}" + (f" <{entry.holder_email}>" if entry.holder_email else "")
        case "HolderErased":
            said = "erased the holder"
        case "AccountFrozen":
            said = "frozen" if entry.cause is None else f"frozen: {in_words(entry.cause)}"
        case "AccountUnfrozen":
            said = "unfrozen"
        case "AccountClosed":
            said = "closed" if entry.payout_reference is None else f"closed, paid out by {entry.payout_reference}"
        case newer:
            said = newer
    effective, recorded = entry.effective_at, entry.recorded_at
    if effective.date() != recorded.date():
        return f"{said}, since {effective:%Y-%m-%d}"
    return said if effective == recorded else f"{said}, since {effective:%H:%M:%S}"


def trail(currency: str) -> Sequence[Column]:
    """The columns of an account's trail, whose amounts are all in its currency."""
    return (
        Column("#", right=True, whole=True),
        Column("recorded (UTC)", whole=True),
        Column("who"),
        Column("what", least=11),
        Column(f"amount {currency}", right=True, whole=True),
        Column(f"balance {currency}", right=True, whole=True),
        Column("why"),
    )


def entry_row(entry: AuditEntry) -> Sequence[str]:
    """An event as a row of `trail`."""
    moved = entry.amount
    if moved is not None and entry.balance.amount_minor < entry.balance_before.amount_minor:
        moved = Money(-moved.amount_minor, moved.currency)
    elif entry.event_type == "TransferCompleted":
        # It moves nothing here any more.
        moved = None
    return (
        str(entry.sequence),
        second(entry.recorded_at),
        entry.user_id,
        what(entry),
        "" if moved is None else format_amount(moved.amount_minor, moved.currency),
        format_amount(entry.balance.amount_minor, entry.balance.currency),
        entry.reason or "",
    )


def account_row(view: AccountView) -> Sequence[str]:
    return (
        view.account_id,
        view.holder_name,
        view.holder_email or "",
        view.status,
        str(view.money),
        second(view.updated_at),
    )


def _account_record(view: AccountView) -> dict[str, object]:
    return {
        "account_id": view.account_id,
        "holder_name": view.holder_name,
        "holder_email": view.holder_email,
        "holder_erased": view.holder_erased,
        "status": view.status,
        **_amounts("balance", view.money),
        **_amounts("in_transit", view.in_transit),
        **_amounts("overdraft_limit", view.overdraft_limit),
        "currency": view.money.currency,
        "opened_at": view.opened_at.isoformat(),
        "closed_at": None if view.closed_at is None else view.closed_at.isoformat(),
        "updated_at": view.updated_at.isoformat(),
        "sequence": view.sequence,
    }


def entry_record(entry: AuditEntry) -> dict[str, object]:
    return {
        "account_id": entry.account_id,
        "sequence": entry.sequence,
        "event_type": entry.event_type,
        "recorded_at": entry.recorded_at.isoformat(),
        "effective_at": entry.effective_at.isoformat(),
        "user_id": entry.user_id,
        "reason": entry.reason,
        "currency": entry.balance.currency,
        **_amounts("amount", entry.amount),
        **_amounts("balance_before", entry.balance_before),
        **_amounts("balance", entry.balance),
        **_amounts("in_transit", entry.in_transit),
        **_amounts("overdraft_limit", entry.overdraft_limit),
        **_amounts("previous_overdraft_limit", entry.previous_overdraft_limit),
        "cause": entry.cause,
        "payout_reference": entry.payout_reference,
        "holder_name": entry.holder_name,
        "holder_email": entry.holder_email,
        "withdrawal_sequence": entry.withdrawal_sequence,
        "transfer_id": entry.transfer_id,
        "to_account_id": entry.to_account_id,
        "from_account_id": entry.from_account_id,
        "code": entry.code,
        "message": entry.message,
        "event_id": entry.event_id,
        "command_id": entry.command_id,
        "correlation_id": entry.correlation_id,
        "causation_id": entry.causation_id,
        "chain_hash": entry.chain_hash,
        "partition": entry.partition,
        "offset": entry.offset,
    }


def _amounts(name: str, money: Money | None) -> dict[str, Any]:
    """An amount as a decimal number and in minor units, as every command prints it."""
    if money is None:
        return {name: None, f"{name}_minor": None}
    return {name: format_amount(money.amount_minor, money.currency), f"{name}_minor": money.amount_minor}


def second(at: datetime) -> str:
    """To the second. The year is written out, since a change may be back-dated to the year 1."""
    return at.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
