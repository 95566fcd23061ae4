"""How a rebuild shows where it is, on stderr: a bar at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from projectors.rebuild_telemetry import RebuildTelemetry
from projectors.rebuilding import Comparison

_LINE_EVERY_S: Final = 5.0
"""Without a terminal the output is a log, where a line every few seconds shows that there is life."""


class RebuildDisplay:
    """A context manager; `reading` and `comparing` may be called by any thread, as often as one likes.

    What is shown is told to `telemetry` as well.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        line_every_s: float = _LINE_EVERY_S,
        telemetry: RebuildTelemetry | None = None,
    ) -> None:
        self._telemetry = telemetry
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
        self._task: TaskID | None = None
        self._line_every_s = line_every_s
        self._said_at = time.monotonic()
        self._began_at = self._said_at

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, what: str) -> None:
        """A new bar, in place of the last."""
        self.end()
        if self._telemetry is not None:
            self._telemetry.step("comparing" if what == "comparing" else "reading")
        self._task = self._bar.add_task(what, total=None, detail="")
        self._said_at = self._began_at = time.monotonic()

    def end(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def switching(self) -> None:
        """The live model is about to be held, and replaced. What is read and compared until then has bars again."""
        if self._telemetry is not None:
            self._telemetry.step("switching")

    def reading(self, done: int, total: int, events: int) -> None:
        """How many of so many offsets were read, and how many events that were since the bar began."""
        if self._telemetry is not None:
            self._telemetry.reading(done, total, events)
        rate = events / max(time.monotonic() - self._began_at, 0.001)
        self._update(done, total, f"{events:,} events, {rate:,.0f} a second")

    def comparing(self, compared: int) -> None:
        if self._telemetry is not None:
            self._telemetry.comparing(compared)
        self._update(0, None, f"{compared:,} compared")

    def _update(self, done: int, total: int | None, detail: str) -> None:
        if self._task is None:
            return
        self._bar.update(self._task, completed=done, total=total, detail=detail)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._said_at >= self._line_every_s:
            self._said_at = now
            share = f"{done / total:.0%}, " if total else ""
            self.say(f"{self._bar.tasks[0].description}: {share}{detail}")

    def difference(self, comparison: Comparison) -> None:
        """What the comparison found: in a sentence, and with examples in a table."""
        if self._telemetry is not None:
            self._telemetry.compared(comparison.compared, comparison.differing)
        if comparison.moving:
            self.say(f"{len(comparison.moving):,} were changing all the time and were not compared")
        if comparison.differing == 0:
            self.say(f"{comparison.compared:,} compared: the live model and the copy are equal")
            return
        self.say(f"{comparison.compared:,} compared, {comparison.differing:,} differ")
        table = Table("what", "live", "rebuilt")
        for example in comparison.examples:
            table.add_row(example.what, example.live, example.rebuilt)
        self._console.print(table)
        if comparison.differing > len(comparison.examples):
            self.say(f"and {comparison.differing - len(comparison.examples):,} more")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.end()
        self._bar.stop()
