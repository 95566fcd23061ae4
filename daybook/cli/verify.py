"""`daybook verify`: are the read models what the log says, and does the log's money add up?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daybook.cli import exits
from daybook.cli.display import WorkDisplay
from daybook.cli.exits import say
from daybook.cli.options import AsJson, print_json
from daybook.cli.tables import visible

if TYPE_CHECKING:
    from daybook.verify.run import Verdict

_TIMEOUT_S: Final = 60.0
"""A projector that was started again has caught up with a day's events by then; a rebuilt one may take longer."""

verifying = typer.Typer(help="Compare what Daybook keeps with the log, and the log with itself.", no_args_is_help=True)


@verifying.callback()
def _verify() -> None:
    pass


@verifying.command()
def models(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="balances, search, analytics; all that are configured without one."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for models that lag, all together.")
    ] = _TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Compare the read models with the log, account by account and event by event, while the ledger goes on.

    Says of each model that it is equal, or names the first difference. The exit code is 1 when one differs, 4 when one
    could not be read, and 3 when one did not catch up in time.

    daybook verify models balances search
    """
    from daybook.positions import MODELS  # noqa: PLC0415
    from daybook.supervise import PROGRAMS, idle  # noqa: PLC0415
    from daybook.verify.run import verify  # noqa: PLC0415
    from schemas.connections import Connections, NotConfigured  # noqa: PLC0415

    for model in chosen or ():
        if model not in MODELS:
            raise typer.BadParameter(f'there is no model "{model}": choose from {", ".join(MODELS)}')
    connections = Connections.from_environment()
    without = idle(PROGRAMS, connections)
    asked = chosen or [model for model in MODELS if model not in without]
    if not asked:
        raise NotConfigured("nothing says where a read model is: set DAYBOOK_REDIS_URL, for one")
    for model in MODELS:
        if not chosen and model not in asked:
            say(f"without {model}: it is not configured, or not installed here")
    with WorkDisplay() as display:
        verdicts = verify(connections, asked, timeout_s=timeout, tell=display.update)
    for verdict in verdicts:
        if as_json:
            print_json(_record(verdict))
        else:
            typer.echo(visible(wording(verdict)))
    code = exit_code(verdicts)
    if code:
        raise typer.Exit(code)


@verifying.command()
def money(
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for a transaction that is still open.")
    ] = _TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Hold all money of the log together, from the log alone, while the ledger goes on.

    Every balance must follow from the account's events before it, and every transfer that arrived or came back from one
    that was sent, once. Then, in every currency, deposits + refunds - withdrawals = balances + in transit. The exit
    code is 1 when something is wrong, and the first of it is named.
    """
    from daybook.cli.reckoning import line_of, print_sums, record  # noqa: PLC0415
    from daybook.verify.money import verify_money  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    with WorkDisplay() as display:
        found = verify_money(Connections.from_environment(), timeout_s=timeout, tell=display.update)
    if as_json:
        print_json(record(found))
    else:
        print_sums(found)
        typer.echo(visible(line_of(found)))
    if found.wrong is not None:
        raise typer.Exit(exits.REFUSED)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.add_typer(verifying, name="verify")


def wording(verdict: Verdict) -> str:
    from daybook.verify.run import Outcome  # noqa: PLC0415
    from daybook.wording import counted  # noqa: PLC0415

    match verdict.outcome:
        case Outcome.EQUAL:
            parts = [(verdict.accounts, "account"), (verdict.events, "event")]
            compared = " and ".join(counted(number, noun) for number, noun in parts if number is not None)
            return f"{verdict.model}: equal ({compared})" + (f", without {verdict.without}" if verdict.without else "")
        case Outcome.DIFFERS:
            return f"{verdict.model}: differs: {verdict.difference}"
        case _:
            return f"{verdict.model}: {verdict.outcome.value}: {verdict.error}"


def exit_code(verdicts: list[Verdict]) -> int:
    """The code for the worst verdict: a difference is worse than what is not known."""
    from daybook.errors import Unreachable  # noqa: PLC0415
    from daybook.verify.run import Outcome  # noqa: PLC0415

    outcomes = {verdict.outcome for verdict in verdicts}
    if Outcome.DIFFERS in outcomes:
        return exits.REFUSED
    if any(verdict.outcome is Outcome.FAILED and not isinstance(verdict.error, Unreachable) for verdict in verdicts):
        return exits.FAILED
    if Outcome.FAILED in outcomes:
        return exits.UNREACHABLE
    return exits.TIMEOUT if Outcome.LATE in outcomes else 0


def _record(verdict: Verdict) -> dict[str, object]:
    return {
        "model": verdict.model,
        "outcome": verdict.outcome.value,
        "accounts": verdict.accounts,
        "events": verdict.events,
        "difference": None if verdict.difference is None else asdict(verdict.difference),
        "error": None if verdict.error is None else str(verdict.error),
        "without": verdict.without,
    }
