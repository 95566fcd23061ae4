"""Commands that send money from one account to another, and show what is under way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID, uuid4

import typer
from msgspec.structs import asdict

from daybook.cli.accounts import Giving, gives
from daybook.cli.exits import REFUSED, say
from daybook.cli.options import (
    DEFAULT_TIMEOUT_S,
    READER,
    TAKES_AMOUNT,
    Amount,
    AsJson,
    Timeout,
    age,
    money,
    print_json,
)
from daybook.cli.status import duration
from daybook.cli.tables import Column, print_table, visible
from schemas.money import Money, format_amount

if TYPE_CHECKING:
    from daybook.errors import TransferInFlight
    from daybook.transfers import InFlight, TransferOutcome
    from schemas.connections import Connections

_COLUMNS: Final = (
    Column("sent (UTC)", whole=True),
    Column("age", right=True, whole=True),
    Column("from"),
    Column("to"),
    Column("amount", right=True, whole=True),
    Column("who"),
    Column("why"),
    Column("transfer", whole=True),
)


@gives
def transfer(
    giving: Giving,
    source: Annotated[str, typer.Argument(metavar="FROM", help="The account that sends.", show_default=False)],
    destination: Annotated[str, typer.Argument(metavar="TO", help="The account that receives.", show_default=False)],
    amount: Amount,
    transfer_id: Annotated[
        UUID | None,
        typer.Option(metavar="UUID", help="Repeating a transfer under the same id is always safe; a fresh one if not."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until it has arrived or is back, or only until it is sent.")
    ] = True,
) -> None:
    """Send money to another account, and say what became of it: it arrives there, or comes back with the reason.

    The exit code is 1 as well when it came back, and 3 when it was still in flight at the end of the time.

    daybook transfer A-1 B-2 50.00 EUR --reason "rent"
    """
    value = money(amount)
    chosen = str(transfer_id or giving.command_id or uuid4())
    with giving.asking() as (client, common):
        if not wait:
            reply = client.transfer(source, destination, value, transfer_id=chosen, **common)
            if giving.as_json:
                print_json({"transfer_id": chosen, **asdict(reply)})
            else:
                again = "" if reply.event_count else " before"
                typer.echo(f"sent{again}: {value} for {destination} have left {source}, transfer {chosen}")
            return
        from daybook.errors import TransferInFlight  # noqa: PLC0415

        try:
            outcome = client.transfer(source, destination, value, transfer_id=chosen, wait=True, **common)
        except TransferInFlight as flying:
            if giving.as_json:
                print_json(_unsettled(flying, source, destination, value))
            raise
    if giving.as_json:
        print_json(_outcome(outcome, value))
    elif outcome.completed:
        here, there = f"at sequence {outcome.from_sequence}", f"at sequence {outcome.to_sequence}"
        typer.echo(f"completed: {value} went from {source} ({here}) to {destination} ({there}), transfer {chosen}")
    else:
        why = visible(f"{outcome.message} ({outcome.code})")
        typer.echo(f"returned: {value} are back in {source} (at sequence {outcome.from_sequence}): {why}")
    if not outcome.completed:
        raise typer.Exit(REFUSED)


def transfers(
    in_flight: Annotated[
        bool, typer.Option("--in-flight", help="Those whose sender has not heard how they ended.")
    ] = False,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only those sent at least so long ago, such as 30s, 5m or 1h.")
    ] = "0s",
    from_log: Annotated[
        bool,
        typer.Option(
            "--from-log",
            help="Read all of the log instead of the audit trail, which may be behind and cannot tell what arrived.",
        ),
    ] = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """List transfers that are not settled: between which accounts, how much, since when, who and why.

    They are under way, or have arrived without the sender having heard of it; only --from-log tells which. Most are
    settled within a fraction of a second. One that stays tells of a service that does not run.

    daybook transfers --in-flight --older-than 30s
    """
    if not in_flight:
        raise typer.BadParameter(
            "say --in-flight; what became of one transfer is told by `daybook history --transfer UUID`"
        )
    oldest = age(older_than)
    found = _from_log(oldest, timeout) if from_log else _from_index(oldest, timeout)
    now = datetime.now(UTC)
    if as_json:
        for one in found:
            print_json(_flying(one, now))
    elif found:
        print_table(_COLUMNS, [_row(one, now) for one in found])
    else:
        say("no transfer is in flight" if not oldest else f"no transfer is in flight for {older_than} or longer")


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command("transfer", context_settings=TAKES_AMOUNT)(transfer)
    app.command("transfers")(transfers)


def _from_index(oldest: timedelta, timeout_s: float) -> list[InFlight]:
    from daybook.client import Client  # noqa: PLC0415

    with Client(user_id=READER, timeout_s=timeout_s) as client:
        return _opened(client.connections, client.in_flight(oldest), timeout_s)


def _from_log(oldest: timedelta, timeout_s: float) -> list[InFlight]:
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.errors import UnreadableRecord  # noqa: PLC0415
    from daybook.verify.books import Books, Wrong  # noqa: PLC0415
    from daybook.verify.money import read_books  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    books, connections = Books(), Connections.from_environment()
    with WorkDisplay() as display:
        try:
            read_books(connections, books, timeout_s=timeout_s, tell=display.update)
        except Wrong as wrong:
            raise UnreadableRecord(wrong.where, f"{wrong.what} (`daybook verify money`)") from wrong
    latest = datetime.now(UTC) - oldest
    return _opened(connections, [one for one in books.in_flight() if one.sent_at <= latest], timeout_s)


def _opened(connections: Connections, found: list[InFlight], timeout_s: float) -> list[InFlight]:
    """With their reasons, where those are personal."""
    from daybook.holders import Holders  # noqa: PLC0415

    accounts = {one.from_account_id for one in found}
    with Holders(connections, timeout_s=timeout_s, account_ids=accounts) as holders:
        return [holders.in_flight(one) for one in found]


def _row(one: InFlight, now: datetime) -> tuple[str, ...]:
    arrived = " (arrived)" if one.arrived else ""
    return (
        f"{one.sent_at:%Y-%m-%d %H:%M:%S}",
        duration((now - one.sent_at).total_seconds()),
        one.from_account_id,
        f"{one.to_account_id}{arrived}",
        str(one.amount),
        one.user_id,
        one.reason or "",
        one.transfer_id,
    )


def _amount(value: Money) -> dict[str, object]:
    text = format_amount(value.amount_minor, value.currency)
    return {"amount": text, "amount_minor": value.amount_minor, "currency": value.currency}


def _flying(one: InFlight, now: datetime) -> dict[str, object]:
    return {
        "transfer_id": one.transfer_id,
        "from_account_id": one.from_account_id,
        "to_account_id": one.to_account_id,
        **_amount(one.amount),
        "sent_at": one.sent_at.isoformat(),
        "age_s": round((now - one.sent_at).total_seconds(), 3),
        "sequence": one.sequence,
        "arrived": one.arrived,
        "user_id": one.user_id,
        "reason": one.reason,
        "correlation_id": one.correlation_id,
    }


def _outcome(outcome: TransferOutcome, value: Money) -> dict[str, object]:
    return {
        "transfer_id": outcome.transfer_id,
        "status": outcome.status.value,
        "from_account_id": outcome.from_account_id,
        "to_account_id": outcome.to_account_id,
        **_amount(value),
        "from_sequence": outcome.from_sequence,
        "to_sequence": outcome.to_sequence,
        "code": outcome.code,
        "message": outcome.message,
        "command_id": outcome.reply.command_id,
    }


def _unsettled(flying: TransferInFlight, source: str, destination: str, value: Money) -> dict[str, object]:
    return {
        "transfer_id": flying.transfer_id,
        "status": "in_flight",
        "from_account_id": source,
        "to_account_id": destination,
        **_amount(value),
        "refused": flying.refused,
    }
