"""What `daybook audit` prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from daybook.audit.formats import proof_json
from daybook.audit.proving import Proven
from daybook.cli.exits import say
from daybook.cli.options import print_json
from daybook.cli.tables import visible
from daybook.wording import counted

if TYPE_CHECKING:
    from daybook.audit.run import Report
    from schemas.checkpoints import Checkpoint

_LINE_EVERY_S: Final = 5.0
"""Without a terminal the output is a log, where a line every few seconds shows that there is life."""

_TIMES: Final = ("recorded_at", "effective_at")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def say_report(report: Report, account_id: str | None) -> None:
    """What verifying came to, a line for each thing compared, and one for each finding."""
    of = f"{counted(report.accounts, 'account')} in {counted(report.partitions, 'partition')}"
    if account_id is not None:
        of = f"account {account_id}" if report.accounts else f"no account {account_id}"
    rate = report.records / report.seconds if report.seconds else 0.0
    typer.echo(visible(f"log: {counted(report.events, 'event')} of {of} verified ({rate:,.0f} events/s)"))
    if report.checkpoints is not None:
        _say_checkpoints(report)
    if report.indexed is not None:
        behind = f"; {counted(report.unindexed, 'event')} not there yet" if report.unindexed else ""
        typer.echo(f"index: {counted(report.indexed, 'event')} as in the log{behind}")
    elif report.index_error is not None:
        typer.echo(visible(f"index: not compared: {report.index_error}"))
    if report.snapshots is not None:
        typer.echo(f"snapshots: {report.snapshots:,} compared")
    for finding in report.findings:
        typer.echo(visible(f"WRONG {finding.kind}: {finding.message}"))
    if report.more:
        typer.echo(f"and {counted(report.more, 'finding')} more")
    if report.sound:
        typer.echo("nothing is wrong" if report.index_error is None else "nothing is wrong with what was compared")


def _say_checkpoints(report: Report) -> None:
    newest = report.newest
    if newest is None:
        typer.echo("checkpoints: there is none yet: `daybook audit checkpoint` takes one")
        return
    kept = f" and {report.kept} kept elsewhere" if report.kept else ""
    newer = f"; {counted(report.newer, 'event')} newer" if report.newer else ""
    typer.echo(
        f"checkpoints: {report.checkpoints:,}{kept} compared, the newest of {when(newest)} with "
        f"{counted(newest.events, 'event')}{newer}"
    )


def print_report(report: Report) -> None:
    """The same as JSON: an object for what was compared, and one for each finding."""
    newest = report.newest
    print_json(
        {
            "sound": report.sound,
            "log": report.log,
            "events": report.events,
            "accounts": report.accounts,
            "partitions": report.partitions,
            "seconds": round(report.seconds, 3),
            "checkpoints": report.checkpoints,
            "kept_checkpoints": report.kept,
            "newest_checkpoint": None if newest is None else newest.number,
            "newer_events": report.newer,
            "indexed_events": report.indexed,
            "unindexed_events": report.unindexed,
            "index_error": None if report.index_error is None else str(report.index_error),
            "snapshots": report.snapshots,
            "findings": len(report.findings) + report.more,
        }
    )
    for finding in report.findings:
        print_json({**asdict(finding), "kind": finding.kind.value})


def say_checkpoint(checkpoint: Checkpoint, *, as_json: bool) -> None:
    from daybook.audit.formats import checkpoint_json  # noqa: PLC0415

    if as_json:
        print_json(checkpoint_json(checkpoint))
    else:
        typer.echo(
            f"checkpoint {checkpoint.number} of {when(checkpoint)}: {counted(checkpoint.events, 'event')}, root "
            f"{checkpoint.root.hex()}, key {checkpoint.key_id}"
        )


def print_proven(proven: Proven, *, as_json: bool) -> None:
    """What a proof proves: the event, and what it is part of."""
    head, fields = proven.proof.head, readable(proven.fields)
    taken = (_EPOCH + timedelta(microseconds=head.taken_at)).strftime("%Y-%m-%d %H:%M:%S")
    if as_json:
        print_json(
            {
                "proven": True,
                "account_id": proven.account_id,
                "sequence": proven.sequence,
                "event_type": proven.type_name,
                "event": fields,
                "partition": proven.proof.tree.partition,
                "leaf": proven.proof.leaf,
                "checkpoint": proof_json(proven.proof)["checkpoint"],
            }
        )
        return
    width = max(map(len, fields))
    typer.echo(
        visible(
            f"proven: event {proven.account_id}/{proven.sequence} is event {proven.proof.leaf + 1} of "
            f"{proven.proof.tree.size:,} in partition {proven.proof.tree.partition} of checkpoint {head.number}, which "
            f"key {head.key_id} signed {taken} UTC"
        )
    )
    typer.echo(visible(f"  {'log':<{width}}  {head.log}"))
    typer.echo(visible(f"  {'record':<{width}}  {proven.type_name}"))
    for name, value in fields.items():
        typer.echo(visible(f"  {name:<{width}}  {value}"))


def readable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields for people: times and hashes as text, and none that is empty."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if isinstance(value, bytes):
            found[name] = value.hex()
        elif name in _TIMES and isinstance(value, int):
            found[name] = _iso(value)
        else:
            found[name] = value
    return found


def _iso(micros: int) -> str | int:
    try:
        return f"{_EPOCH + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%fZ}"
    except OverflowError:
        return micros


def when(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.taken:%Y-%m-%d %H:%M:%S} UTC"


class Display:
    """Shows how far reading the log is, on stderr: a bar at a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, of: str) -> None:
        """`of` is what is counted, in the plural."""
        self._what = what
        self._of = of
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=None, rate="")
        self._began = self._said_at = time.monotonic()

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        rate = f"{done / max(now - self._began, 0.001):,.0f} {self._of}/s"
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if not self._console.is_terminal and now - self._said_at >= _LINE_EVERY_S:
            self._said_at = now
            say(f"{self._what}: {done:,} of {total:,} {self._of}, {rate}")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._bar.stop()
