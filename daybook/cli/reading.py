"""Commands that read: balances from Redis, events from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import asdict

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
from daybook.cli.tables import visible
from schemas.money import format_amount

if TYPE_CHECKING:
    from daybook.log import LoggedEvent
    from daybook.models import Balance


def balance(
    account: Account,
    at_least: Annotated[
        int | None,
        typer.Option(metavar="SEQUENCE", min=1, help="Wait until the balance includes this event of the account."),
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show an account's balance.

    daybook balance A-1 --at-least 3
    """
    from daybook.client import Client  # noqa: PLC0415

    with Client(user_id=READER, timeout_s=timeout) as client:
        _show(client.balance(account, at_least=at_least), as_json)


def top(
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", show_default=False)],
    count: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="How many.")] = 10,
    lowest: Annotated[bool, typer.Option("--lowest", help="The lowest balances instead of the highest.")] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show the accounts with the highest balances in a currency, or the lowest.

    daybook top EUR --count 3 --lowest
    """
    from daybook.client import Client  # noqa: PLC0415

    code = currency_code(currency)
    with Client(user_id=READER, timeout_s=timeout) as client:
        for found in client.top(code, count, lowest=lowest):
            _show(found, as_json)


def tail(
    account: Annotated[
        str | None, typer.Argument(metavar="ACCOUNT", help="Only this account's events.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with new events, or end.")] = True,
    new: Annotated[bool, typer.Option("--new", help="Begin with what comes from now on.")] = False,
    sealed: Sealed = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Print events from the log: from its beginning, and then as they come.

    What is sealed of holders is opened where the key-encryption keys are configured.

    daybook tail A-1 --no-follow
    """
    from daybook.cli.opening import opening  # noqa: PLC0415
    from daybook.cli.phrases import line  # noqa: PLC0415
    from daybook.client import Client  # noqa: PLC0415

    account_ids = None if account is None else [account]
    with (
        Client(user_id=READER, timeout_s=timeout) as client,
        opening(client, account_ids, sealed=sealed) as holders,
    ):
        for logged in map(holders.event, client.events(account, follow=follow, from_beginning=not new)):
            if as_json:
                print_json(event_record(logged))
            else:
                typer.echo(visible(line(logged.recorded)))


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    for command in (balance, top, tail):
        app.command(command.__name__)(command)


def _show(found: Balance, as_json: bool) -> None:
    if not as_json:
        in_transit = f", {found.in_transit} in transit" if found.in_transit.amount_minor else ""
        typer.echo(
            f"{found.account_id:<16}  {found.money!s:>20}  {found.status:<6}  at sequence {found.sequence}, "
            f"{found.updated_at:%Y-%m-%d %H:%M:%S} UTC{in_transit}"
        )
        return
    print_json(
        {
            "account_id": found.account_id,
            "balance": format_amount(found.money.amount_minor, found.money.currency),
            "balance_minor": found.money.amount_minor,
            "in_transit": format_amount(found.in_transit.amount_minor, found.in_transit.currency),
            "in_transit_minor": found.in_transit.amount_minor,
            "currency": found.money.currency,
            "status": found.status,
            "sequence": found.sequence,
            "updated_at": found.updated_at.isoformat(),
        }
    )


def event_record(logged: LoggedEvent) -> dict[str, object]:
    """An event as its Avro record has it, its own fields after the common ones, with its type and place."""
    recorded = asdict(logged.recorded)
    own = asdict(recorded.pop("event"))
    recorded["chain_hash"] = logged.recorded.chain_hash.hex()
    return {
        "event_type": logged.recorded.type_name,
        "partition": logged.partition,
        "offset": logged.offset,
        **recorded,
        **own,
    }
