"""`daybook activity`: what moves now, as the activity program counts it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from daybook.cli.options import DEFAULT_TIMEOUT_S, AsJson, Timeout, print_json
from daybook.cli.tables import Column, print_table

VOLUMES = (
    Column("from (UTC)", whole=True),
    Column("to", whole=True),
    Column("what"),
    Column("events", right=True, whole=True),
    Column("sum", right=True, whole=True),
)
_ALERTS = (
    Column("raised (UTC)", whole=True),
    Column("account", whole=True),
    Column("rule"),
    Column("withdrawals", right=True, whole=True),
    Column("sum", right=True, whole=True),
    Column("within", right=True, whole=True),
)


def activity(
    hour: Annotated[bool, typer.Option("--hour", help="Volumes by the hour instead of the minute.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many windows, and alerts.")] = 5,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where it is served, if not here on the port of DAYBOOK_ACTIVITY_PORT."),
    ] = None,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Show what moved in the last minutes or hours, and the newest alerts.

    daybook activity --hour --limit 3
    """
    from daybook.activity import ActivitySettings, ask  # noqa: PLC0415
    from daybook.errors import Unreachable  # noqa: PLC0415

    where = (url or ActivitySettings.from_environment().url).rstrip("/")
    volumes = ask(where, f"/volume/{'hour' if hour else 'minute'}?limit={limit}", timeout_s=timeout)
    alerts = ask(where, f"/alerts/recent?limit={limit}", timeout_s=timeout)
    if as_json:
        print_json({"volumes": volumes, "alerts": alerts})
        return
    try:
        rows = volume_rows(volumes)
        raised = [_alert(alert) for alert in alerts["alerts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable("the activity program", where, f"its answer lacks {error}: another release?") from error
    if rows:
        print_table(VOLUMES, rows)
    else:
        typer.echo("nothing has moved lately")
    if raised:
        typer.echo()
        print_table(_ALERTS, raised)


def add_to(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command()(activity)


def volume_rows(volumes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The program's answer as rows of a table. Raises `KeyError`, `TypeError` or `ValueError` if it is none."""
    return [_volume(window, volume) for window in volumes["windows"] for volume in window["volumes"]]


def _volume(window: Mapping[str, Any], volume: Mapping[str, Any]) -> tuple[str, ...]:
    start, end = datetime.fromisoformat(window["start"]), datetime.fromisoformat(window["end"])
    amount = f"{volume['amount']} {volume['currency']}"
    return (f"{start:%Y-%m-%d %H:%M}", f"{end:%H:%M}", str(volume["event_type"]), f"{volume['count']:,}", amount)


def _alert(alert: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{datetime.fromisoformat(alert['raised_at']):%Y-%m-%d %H:%M:%S}",
        str(alert["account_id"]),
        str(alert["rule"]),
        f"{alert['count']:,}",
        f"{alert['amount']} {alert['currency']}",
        f"{alert['window_s']} s",
    )
