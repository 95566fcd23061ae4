"""Waiting for servers that are away, until told to stop; and the one thread in which a read model is called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar

from projectors.projector import CheckpointMoved, SinkUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
"""A restarting server is back within seconds; asking it every five does not hinder that."""


class Stopped(Exception):
    """We were told to stop (SIGINT or SIGTERM)."""


class Patience:
    """Waits between attempts, each time longer, and says once what is waited for.

    `waits` is told each time what for, and None when that is over.
    """

    def __init__(
        self,
        stopping: threading.Event,
        say: Callable[[str], None],
        waits: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._stopping = stopping
        self._say = say
        self._waits = waits
        self._failures = 0

    def check(self) -> None:
        """Raises: `Stopped`, when we were told to."""
        if self._stopping.is_set():
            raise Stopped

    def wait(self, error: Exception) -> None:
        """Wait for what hinders us. Raises `Stopped`."""
        if self._failures == 0:
            self._say(f"waiting: {error}")
        self._waits(str(error))
        self._stopping.wait(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(self._failures, 10)))
        self._failures += 1
        self.check()

    def went_on(self) -> None:
        """What was waited for is there."""
        if self._failures:
            self._say("going on")
            self._waits(None)
        self._failures = 0


class SinkThread:
    """Calls a read model, which belongs to one thread, so that its waiting overlaps with the caller's decoding.

    A context manager; leaving it waits for the call that is under way.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sink")

    def begin(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a call made after those that were begun before."""
        return self._thread.submit(call, *args, **kwargs)

    def call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a call, or what it raises."""
        return self.begin(call, *args, **kwargs).result()

    def patiently(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, again and again while the sink is unavailable or is exchanged by others. Raises `Stopped`."""
        while True:
            try:
                result = self.call(call, *args, **kwargs)
            except (SinkUnavailable, CheckpointMoved) as error:
                self._patience.wait(error)
            else:
                self._patience.went_on()
                return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
