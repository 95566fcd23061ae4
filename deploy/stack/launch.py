"""Starting a supervisor and hearing from it until its stack is up."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from deploy.stack.errors import StackError
from deploy.stack.folder import Folder
from deploy.stack.processes import Identity
from deploy.stack.server import LONGEST_STOP_S
from deploy.stack.serverprocess import tail
from deploy.stack.supervisor import STAY, Plan

# Going into the background takes half a second, ten times that on a machine that starts much else.
SPAWN_TIMEOUT_S = 60.0
# The supervisor's silences are bounded by what it waits for itself, of which starting a server, after
# preparing it and before stopping it, is the longest.
SILENCE_TIMEOUT_S = 360.0
# The servers stop in two waves at most; the rest is for the supervisor itself.
STOPPING_TIMEOUT_S = 2 * LONGEST_STOP_S + 10
# A process that was sent SIGKILL is gone at once, unless the kernel holds it in a disk operation.
KILL_TIMEOUT_S = 15.0


def launch(folder: Folder, plan: Plan, *, step: Callable[[str], None], attached: bool) -> int | None:
    """Start the stack and return once it is up.

    If that fails or is interrupted, everything that was started is stopped before the error goes on. The
    descriptor that is returned for an `attached` stack keeps it alive: the stack stops when it is closed.
    """
    log = folder.log("supervisor")
    begin = log.stat().st_size if log.exists() else 0
    supervisors_input, our_end = os.pipe()
    our_input, supervisors_output = os.pipe()
    with FileIO(our_end, "wb") as lifeline, FileIO(our_input, "rb") as reports:
        try:
            _spawn(folder, log, supervisors_input, supervisors_output)
            # A supervisor that failed to begin reads nothing; it is told apart by its reports.
            with contextlib.suppress(BrokenPipeError):
                lifeline.write(json.dumps(asdict(plan)).encode() + b"\n")
            events = _events(reports)
            _await_up(events, step, lambda: tail(log, begin))
            if not attached:
                lifeline.write(STAY)
                next(events, None)
        except BaseException:
            supervisor = supervisor_of(folder)
            lifeline.close()
            _await_end(reports, supervisor)
            raise
        return os.dup(lifeline.fileno()) if attached else None


def _spawn(folder: Folder, log: Path, supervisors_input: int, supervisors_output: int) -> None:
    """Start the supervisor, which puts itself into the background; closes our copies of its pipes' ends."""
    try:
        with log.open("ab") as errors:
            subprocess.run(
                [sys.executable, "-m", "deploy.stack.supervisor", str(folder.root)],
                stdin=supervisors_input,
                stdout=supervisors_output,
                stderr=errors,
                # A Ctrl-C in the terminal is for `up` alone, which then lets the supervisor stop in order.
                start_new_session=True,
                timeout=SPAWN_TIMEOUT_S,
                check=False,
            )
    finally:
        os.close(supervisors_input)
        os.close(supervisors_output)


def _events(reports: FileIO) -> Iterator[dict[str, Any]]:
    """Yield the supervisor's reports until it ends."""
    rest = b""
    while True:
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield json.loads(line)
        if not select.select([reports], [], [], SILENCE_TIMEOUT_S)[0]:
            raise StackError(f"the supervisor has not said anything for {SILENCE_TIMEOUT_S:.0f} s")
        chunk = reports.read(65536)
        if not chunk:
            return
        rest += chunk


def _await_up(events: Iterator[dict[str, Any]], step: Callable[[str], None], trace: Callable[[], str]) -> None:
    """Pass the reports on until the stack is up; StackError if it fails."""
    for event in events:
        match event:
            case {"event": "ready", "server": server, "seconds": seconds}:
                step(f"{server} is ready after {seconds} s")
            case {"event": "failed", "message": message}:
                raise StackError(message)
            case {"event": "up"}:
                return
    raise StackError(f"the supervisor ended before the stack was up; {trace()}")


def _await_end(reports: FileIO, supervisor: Identity | None) -> None:
    """Wait until the supervisor has stopped what it started: returning before would leave servers behind.

    Its lifeline is closed by now, and its end closes `reports`.
    """
    deadline = time.monotonic() + STOPPING_TIMEOUT_S
    # After a second Ctrl-C the rest is done by force.
    with contextlib.suppress(KeyboardInterrupt):
        while select.select([reports], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not reports.read(65536):
                return
    if supervisor:
        # The kernel kills the servers with it.
        supervisor.kill(KILL_TIMEOUT_S)


def supervisor_of(folder: Folder) -> Identity | None:
    """Return who supervises the folder, if somebody does."""
    try:
        identity = Identity(**json.loads(folder.record.read_text())["supervisor"])
    except FileNotFoundError:
        return None
    return identity if identity.process() else None
