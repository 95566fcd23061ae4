"""Commands that change an account: each gives one command to the ledger and waits for its reply."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Literal, ParamSpec
from uuid import UUID

import typer
from msgspec.structs import asdict

from daybook.cli.options import (
    DEFAULT_TIMEOUT_S,
    TAKES_AMOUNT,
    Account,
    Amount,
    AsJson,
    Timeout,
    User,
    currency_code,
    moment,
    money,
    print_json,
    user_name,
)
from schemas.commands import CommandReply
from schemas.events import FreezeCause

if TYPE_CHECKING:
    from daybook.client import Client
    from daybook.giving import Common

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Giving:
    """The options that every command to the ledger has, and how it is given."""

    user: User = None
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept with the event.")] = None
    personal_reason: Annotated[
        bool,
        typer.Option(
            "--personal-reason", help="The reason says something of a person: it is sealed, and erased with the holder."
        ),
    ] = False
    command_id: Annotated[
        UUID | None, typer.Option(metavar="UUID", help="Repeating a command under the same id is always safe.")
    ] = None
    expect: Annotated[
        int | None, typer.Option(metavar="SEQUENCE", help="Refuse unless the account is at this sequence.")
    ] = None
    effective_at: Annotated[
        str | None, typer.Option(metavar="MOMENT", help="Since when it counts, if not since now: 2026-01-31T12:00Z.")
    ] = None
    correlation_id: Annotated[
        str | None, typer.Option(metavar="ID", help="What the command belongs to; kept with the event.")
    ] = None
    timeout: Timeout = DEFAULT_TIMEOUT_S
    as_json: AsJson = False

    @contextmanager
    def asking(self) -> Iterator[tuple[Client, Common]]:
        """A client, and what to give it with every command. A refusal is printed as JSON if asked for, and raised."""
        from daybook.client import Client  # noqa: PLC0415
        from daybook.errors import Refused  # noqa: PLC0415
        from daybook.giving import Common  # noqa: PLC0415

        if self.personal_reason and self.reason is None:
            raise typer.BadParameter("it says what --reason is: give that too", param_hint="--personal-reason")
        common = Common(
            expected_version=self.expect,
            correlation_id=self.correlation_id,
            effective_at=moment(self.effective_at),
            reason=self.reason,
            reason_is_personal=self.personal_reason,
        )
        if self.command_id is not None:
            common["command_id"] = str(self.command_id)
        with Client(user_id=user_name(self.user), timeout_s=self.timeout) as client:
            try:
                yield client, common
            except Refused as refused:
                if self.as_json:
                    print_json(asdict(refused.reply))
                raise

    def give(self, call: Callable[[Client, Common], CommandReply]) -> None:
        """Give a command and print the reply."""
        with self.asking() as (client, common):
            reply = call(client, common)
        if self.as_json:
            print_json(asdict(reply))
        else:
            nothing = "" if reply.event_count else ", where nothing was left to do"
            typer.echo(f"done: {reply.account_id} is at sequence {reply.sequence}{nothing}")


def gives(command: Callable[Concatenate[Giving, P], None]) -> Callable[..., None]:
    """A function for Typer that has a command's parameters and after them those of `Giving`."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    common = list(inspect.signature(Giving, eval_str=True).parameters.values())

    def given(**values: Any) -> None:
        giving = Giving(**{parameter.name: values.pop(parameter.name) for parameter in common})
        command(giving, **values)  # type: ignore[call-arg]

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *common)]
    given.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    given.__annotations__ = {}
    given.__name__ = command.__name__
    given.__doc__ = command.__doc__
    return given


@gives
def open_(
    giving: Giving,
    account: Account,
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="Its currency, such as EUR.", show_default=False)],
    holder: Annotated[str, typer.Option(metavar="NAME", help="Whose account it is.")],
    email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="The holder's e-mail address.")] = None,
    overdraft: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="How far below zero the balance may go: '100.00 EUR'.")
    ] = None,
) -> None:
    """Open an account.

    daybook open A-1 EUR --holder "Ada Lovelace" --overdraft "100.00 EUR"
    """
    limit = None if overdraft is None else money(overdraft)
    code = currency_code(currency)
    if limit is not None and limit.currency != code:
        raise typer.BadParameter(f"is in {limit.currency}, but the account in {code}", param_hint="--overdraft")
    giving.give(
        lambda client, common: client.open_account(account, code, holder, holder_email=email, overdraft=limit, **common)
    )


@gives
def deposit(giving: Giving, account: Account, amount: Amount) -> None:
    """Pay money in.

    daybook deposit A-1 200.00 EUR --reason "salary"
    """
    value = money(amount)
    giving.give(lambda client, common: client.deposit(account, value, **common))


@gives
def withdraw(giving: Giving, account: Account, amount: Amount) -> None:
    """Take money out.

    daybook withdraw A-1 49.90 EUR
    """
    value = money(amount)
    giving.give(lambda client, common: client.withdraw(account, value, **common))


@gives
def refund(
    giving: Giving,
    account: Account,
    amount: Amount,
    withdrawal: Annotated[
        int, typer.Option(metavar="SEQUENCE", min=1, help="The account's event that is the withdrawal.")
    ],
) -> None:
    """Give money back for a withdrawal, all of it or a part.

    daybook refund A-1 10.00 EUR --withdrawal 3
    """
    value = money(amount)
    giving.give(lambda client, common: client.refund(account, withdrawal, value, **common))


@gives
def overdraft(giving: Giving, account: Account, amount: Amount) -> None:
    """Set how far below zero the balance may go.

    daybook overdraft A-1 500.00 EUR
    """
    value = money(amount)
    giving.give(lambda client, common: client.set_overdraft_limit(account, value, **common))


@gives
def freeze(
    giving: Giving,
    account: Account,
    cause: Annotated[
        Literal["customer-request", "court-order", "fraud-suspicion", "sanctions"] | None,
        typer.Option(help="Why, as a kind that can be searched for; --reason has room for more."),
    ] = None,
) -> None:
    """Let no money move until the account is unfrozen.

    daybook freeze A-1 --cause customer-request --reason "card stolen"
    """
    chosen = FreezeCause.UNSPECIFIED if cause is None else FreezeCause(cause.replace("-", "_").upper())
    giving.give(lambda client, common: client.freeze(account, cause=chosen, **common))


@gives
def unfreeze(giving: Giving, account: Account) -> None:
    """Let money move again.

    daybook unfreeze A-1
    """
    giving.give(lambda client, common: client.unfreeze(account, **common))


@gives
def holder(
    giving: Giving,
    account: Account,
    name: Annotated[str, typer.Option(metavar="NAME", help="The holder's name.")],
    email: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The holder's e-mail address; without it there is none.")
    ] = None,
) -> None:
    """Change the holder's name and e-mail address.

    daybook holder A-1 --name "Ada King" --email ada@example.com
    """
    giving.give(lambda client, common: client.change_holder(account, name, holder_email=email, **common))


@gives
def close(
    giving: Giving,
    account: Account,
    payout_reference: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Where the last of the money went; kept with the event.")
    ] = None,
) -> None:
    """Close an account for good. Its balance must be zero.

    daybook close A-1 --payout-reference "SEPA 2026-0042"
    """
    giving.give(lambda client, common: client.close_account(account, payout_reference=payout_reference, **common))


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.command("open")(open_)
    for takes_amount in (deposit, withdraw, refund, overdraft):
        app.command(takes_amount.__name__, context_settings=TAKES_AMOUNT)(takes_amount)
    for command in (freeze, unfreeze, holder, close):
        app.command(command.__name__)(command)
