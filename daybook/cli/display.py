"""How work that takes long shows where it is, on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from daybook.cli.exits import say

if TYPE_CHECKING:
    from daybook import importing, progress

_LINE_EVERY_S: Final = 5.0
"""Without a terminal the output is a log, where a line every few seconds shows that there is life."""


class ImportDisplay:
    """A context manager whose `update` is an import's `on_progress`."""

    def __init__(self, console: Console | None = None, *, line_every_s: float = _LINE_EVERY_S) -> None:
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("reading", total=1.0, detail="")
        self._line_every_s = line_every_s
        self._said_at = time.monotonic()

    def update(self, progress: importing.Progress) -> None:
        tally = progress.tally
        if progress.opening:
            what, detail = "opening accounts", f"{tally.rows:,} rows read"
        else:
            what = "posting rows"
            detail = f"{tally.answered:,} answered, {tally.per_second:,.0f} a second"
        self._bar.update(self._task, completed=progress.done, description=what, detail=detail)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= self._line_every_s:
            self._said_at = now
            self._console.print(f"{what}: {progress.done:.0%}, {detail}", highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


class WorkDisplay:
    """A context manager whose `update` is what tells of progress (`daybook.progress.Tell`); it shows from then on."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("reading", total=None)
        self._shown = False
        self._said_at = time.monotonic()

    def update(self, told: progress.Progress) -> None:
        if not self._shown:
            self._shown = True
            self._bar.start()
        self._bar.update(self._task, description=told.what, completed=told.done, total=told.total)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= _LINE_EVERY_S:
            self._said_at = now
            say(f"{told.what}: {told.done:,} of {told.total:,}")

    def rest(self) -> None:
        """Show nothing until there is more to tell."""
        if self._shown:
            self._bar.stop()
            self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.rest()
