"""The command service, the projectors and the auditor as one group of processes on one machine (`daybook run`).

Each program has a thread that starts it, passes on what it prints, and starts it again when it ends. The group ends
when it is told to, or when one program keeps failing: half a ledger that looks alive would be worse than none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from daybook.errors import DaybookError
from schemas.connections import Connections

_INSTANCE: Final = "DAYBOOK_COMMAND_SERVICE_INSTANCE"

_FAILURES_IN_A_ROW: Final = 5
"""One more start rarely mends what four did not; with the pauses between, this gives a server half a minute."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
_HEALTHY_AFTER_S: Final = 60.0
"""A program that ran this long was working, so what ends it counts as a first failure again."""
_STOP_S: Final = 20.0
"""A service finishes its transaction, whose timeout is 10 s, and leaves its group; then it is killed."""
_WRONG_USAGE: Final = 2
"""The exit code by which a program says that starting it the same way again is useless."""


class GroupFailed(DaybookError):
    """The group of services could not be started, or one of them kept failing."""


class AlreadyRun(GroupFailed):
    """Another process of this machine runs the program on the same ledger."""


class NoSuchProgram(DaybookError):
    """A program was named that is none of the group's."""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    arguments: tuple[str, ...]
    """After the name of this Python interpreter."""
    setting: str | None = None
    """The field of `Connections` without which it has nowhere to write to."""
    extra: tuple[str, str] | None = None
    """A module that it needs and not every installation has, and the extra of `daybook` that brings it."""

    def idle(self, connections: Connections) -> str | None:
        """Why it could not do anything here; None when it could."""
        if self.setting is not None and not getattr(connections, self.setting):
            return f"DAYBOOK_{self.setting.upper()} is not set"
        if self.extra is not None and not is_importable(self.extra[0]):
            return f"pip install 'daybook[{self.extra[1]}]' installs what it needs"
        return None


PROGRAMS: Final = (
    Program("command-service", ("-m", "command_service")),
    Program("balances", ("-m", "projectors", "balances"), setting="redis_url"),
    Program("search", ("-m", "projectors", "search"), setting="elasticsearch_url"),
    Program(
        "analytics",
        ("-m", "projectors", "analytics"),
        setting="iceberg_catalog",
        extra=("pyiceberg", "analytics"),
    ),
    Program("activity", ("-m", "projectors", "activity"), extra=("faust", "activity")),
    Program("auditor", ("-m", "daybook", "audit", "checkpoint", "--watch"), setting="audit_key_file"),
)


def is_importable(module: str) -> bool:
    """Whether a module is installed. Nothing is imported for that, and a module that was is not asked for its origin,
    which Faust's has not."""
    return module in sys.modules or find_spec(module) is not None


def idle(group: Collection[Program], connections: Connections) -> dict[str, str]:
    """The programs of a group that could do nothing here, by name, and why."""
    return {program.name: why for program in group if (why := program.idle(connections)) is not None}


def programs(only: Collection[str]) -> tuple[Program, ...]:
    """The programs of these names; all, if none is named. Raises `NoSuchProgram`."""
    unknown = sorted(set(only) - {program.name for program in PROGRAMS})
    if unknown:
        names = ", ".join(program.name for program in PROGRAMS)
        raise NoSuchProgram(f'there is no "{unknown[0]}": choose from {names}')
    return tuple(program for program in PROGRAMS if not only or program.name in only)


def to_stderr(name: str, line: str) -> None:
    """Show a program's line, under its name."""
    print(f"{name:<15} | {line}", file=sys.stderr, flush=True)


def to_stderr_as_json(name: str, line: str) -> None:
    """Show a program's line as JSON, whoever printed it."""
    if line.startswith("{"):
        # It says itself which service it is from.
        shown = line
    else:
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"timestamp": at, "level": "info", "logger": "daybook.run", "event": line, "service": name}
        shown = json.dumps(about, ensure_ascii=False)
    print(shown, file=sys.stderr, flush=True)


class Supervisor:
    """Runs programs until `stop`, or until one keeps failing; a context manager that starts and stops them.

    When this process is killed, the programs are stopped by the kernel (`daybook.tied`). `output` is called with a
    program's name and a line, from one thread per program; lines about the program come under its name as well.
    """

    def __init__(
        self,
        group: Collection[Program] = PROGRAMS,
        *,
        environment: Mapping[str, str] | None = None,
        output: Callable[[str, str], None] = to_stderr,
    ) -> None:
        """`environment` is what the programs get in place of this process's, `os.environ`."""
        self._group = tuple(group)
        self._environment = dict(os.environ if environment is None else environment)
        self._output = output
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: GroupFailed | None = None
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the programs and return at once."""
        self._threads = [
            threading.Thread(target=self._keep, args=(program,), name=f"keeper of {program.name}")
            for program in self._group
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Block until the group is told to stop or fails. Raises `GroupFailed`; `stop` is still to be called."""
        self._ended.wait()
        self.check()

    def check(self) -> None:
        """Raises `GroupFailed` if a program kept failing."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Let `wait` return. May be called by a signal handler."""
        self._ended.set()

    def stop(self) -> None:
        """Ask every program to stop and wait until all have, killing those that take too long."""
        with self._lock:
            self._stopping.set()
            for process in self._running.values():
                process.terminate()
        self._ended.set()
        deadline = time.monotonic() + _STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            left = dict(self._running)
        for name, process in left.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._output(name, f"did not stop within {_STOP_S:g} s and is killed")
                process.kill()
        for thread in self._threads:
            thread.join()

    def kill(self, name: str) -> None:
        """Kill a program without warning, as a crash would; it is started again. For tests of just that."""
        with self._lock:
            self._running[name].kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _keep(self, program: Program) -> None:
        try:
            self._start_again_and_again(program)
        except Exception as error:
            # It could not be started, or nobody takes what it prints. A thread's error would go unheard.
            self._failure = GroupFailed(f"{program.name} cannot be kept running: {error}")
            self._ended.set()

    def _start_again_and_again(self, program: Program) -> None:
        failures = 0
        while (process := self._begin(program)) is not None:
            started_at = time.monotonic()
            self._pass_on(program, process)
            code = process.wait()
            with self._lock:
                del self._running[program.name]
                if self._stopping.is_set():
                    return
            failures = 1 if time.monotonic() - started_at >= _HEALTHY_AFTER_S else failures + 1
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if failures >= _FAILURES_IN_A_ROW or code == _WRONG_USAGE:
                times = f", and failed {failures} times in a row" if failures > 1 else ""
                self._failure = GroupFailed(f"{program.name} {how}{times}: see above for what it said")
                self._ended.set()
                return
            pause_s = min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S)
            self._output(program.name, f"{how}; it is started again in {pause_s:g} s")
            self._stopping.wait(pause_s)

    def _begin(self, program: Program) -> subprocess.Popen[str] | None:
        # Under the lock, so that a program is either not started or known to `stop`.
        with self._lock:
            if self._stopping.is_set():
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "daybook.tied", str(os.getpid()), sys.executable, *program.arguments],
                env=self._environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C goes to every process of the terminal's group. This one receives it and stops the others.
                process_group=0,
            )
            self._running[program.name] = process
            return process

    def _pass_on(self, program: Program, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe, as asked for
        with process.stdout:
            for line in process.stdout:
                self._output(program.name, line.rstrip("\n"))


class OneOfEach:
    """Keeps two groups on one machine from running the same program on the same ledger.

    They would not corrupt anything, but two command services of one identity fence each other for ever. The kernel
    releases the locks when the process ends. A context manager; entering it raises `AlreadyRun`,
    or `GroupFailed` where there is no place for locks.
    """

    def __init__(self, connections: Connections, group: Collection[Program]) -> None:
        # Instances that were given different ordinals may run side by side, so each has locks of its own.
        instance = os.environ.get(_INSTANCE, "0")
        ledger = f"{connections.kafka_bootstrap} {connections.namespace} {instance}"
        self._ledger = hashlib.sha256(ledger.encode()).hexdigest()[:16]
        self._group = tuple(group)
        self._locks = ExitStack()

    def __enter__(self) -> Self:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "daybook" / "run"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as locks:
                for program in self._group:
                    lock = locks.enter_context((folder / f"{self._ledger}.{program.name}.lock").open("a+"))
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        lock.seek(0)
                        raise AlreadyRun(
                            f"{program.name} is already run on this ledger by process {lock.read().strip() or '?'} of "
                            f"this machine: stop that one first, or give this one another {_INSTANCE}"
                        ) from None
                    lock.truncate(0)
                    lock.write(f"{os.getpid()}\n")
                    lock.flush()
                self._locks = locks.pop_all()
        except OSError as error:
            raise GroupFailed(f"{folder} cannot be used for locks: {error}") from None
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._locks.close()
