"""Verifying partitions side by side, in processes: hashing and reading bytes is what Python does one core at a time."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Final

from daybook.audit import task
from daybook.audit.task import Done, Task
from daybook.errors import DaybookError, ReadTimeout, Unreachable
from schemas.connections import NotConfigured

_LOOK_S: Final = 0.5
"""How often it is looked whether a worker died without a word."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no outcome, as an error that is made anew where it is raised: most cannot be sent as they are."""

    kind: type[Exception]
    arguments: tuple[str, ...]


_WORTH_IT: Final = 300_000
"""Offsets below which starting processes, up to a second of a core each, costs more than it spares."""

Message = int | Done | Failed
"""How many offsets were passed, a partition's outcome, or why there is none."""


def verify(tasks: Sequence[Task], jobs: int, tell: Callable[[int], None]) -> list[Done]:
    """The outcomes of all tasks, in their order; `tell` is told how many offsets were passed since the last time.

    What is little is done in this process. When one task fails, the others are ended.

    Raises: what `daybook.audit.task.verify` does; `DaybookError` when a worker died.
    """
    if min(len(tasks), jobs) <= 1 or sum(one.end for one in tasks) < _WORTH_IT:
        with ExitStack() as opened:
            return [task.verify(one, using, tell) for one, using in _opened(opened, tasks)]
    # The largest first, so that none is begun last that keeps the others waiting.
    context = multiprocessing.get_context("spawn")
    waiting: Queue[Task | None] = context.Queue()
    told: Queue[Message] = context.Queue()
    count = min(len(tasks), jobs)
    for one in [*sorted(tasks, key=lambda one: -one.end), *[None] * count]:
        waiting.put(one)
    workers = [context.Process(target=_work, args=(waiting, told), daemon=True) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        found = _gather(told, workers, len(tasks), tell)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
            worker.close()
        for channel in (waiting, told):
            channel.cancel_join_thread()
            channel.close()
    return [found[one.partition] for one in tasks]


def _gather(
    told: Queue[Message], workers: Sequence[BaseProcess], wanted: int, tell: Callable[[int], None]
) -> dict[int, Done]:
    found: dict[int, Done] = {}
    while len(found) < wanted:
        try:
            message = told.get(timeout=_LOOK_S)
        except queue.Empty:
            for worker in workers:
                if worker.exitcode:
                    raise DaybookError(
                        f"a process that verified partitions ended with {worker.exitcode}, for want of memory perhaps: "
                        "try again with fewer of them (--jobs)"
                    ) from None
            continue
        match message:
            case int():
                tell(message)
            case Done():
                found[message.partition] = message
            case Failed():
                raise message.kind(*message.arguments)
    return found


def _work(waiting: Queue[Task | None], told: Queue[Message]) -> None:
    """The process: takes tasks until there is none, or one fails."""
    # Ctrl-C reaches every process of the terminal's group: the one that started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ExitStack() as opened:
            for one, using in _opened(opened, iter(waiting.get, None)):
                told.put(task.verify(one, using, told.put))
    except (DaybookError, NotConfigured) as error:
        told.put(_failed(error))


def _opened(opened: ExitStack, tasks: Iterable[Task]) -> Iterator[tuple[Task, task.Reading]]:
    """Each task with what it is read with, which is the same for all of one process."""
    using: task.Reading | None = None
    for one in tasks:
        using = using or opened.enter_context(task.reading(one.connections))
        yield one, using


def _failed(error: Exception) -> Failed:
    if isinstance(error, Unreachable):
        return Failed(Unreachable, (error.server, error.address, error.why))
    kind = next(kind for kind in (ReadTimeout, DaybookError, NotConfigured) if isinstance(error, kind))
    return Failed(kind, (str(error),))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
