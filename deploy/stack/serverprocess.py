"""One server as the supervisor runs it."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from deploy.stack import shim
from deploy.stack.errors import StackError, StartError
from deploy.stack.processes import Identity
from deploy.stack.server import Command, Place, Server

State = Literal["stopped", "starting", "ready", "stopping", "exited"]

# Between two probes of a server that starts; a probe costs about a millisecond.
PROBE_INTERVAL_S = 0.15
# Commands that prepare a server, such as formatting a broker's storage, take a second or two.
PREPARE_TIMEOUT_S = 90.0
# The previous log is kept beside the new one when it has grown beyond this.
ROTATE_BYTES = 16 * 1024 * 1024
TAIL_LINES = 25


class ServerProcess:
    """Starts, watches and stops one server. All methods belong to the event loop's thread.

    That thread must be the process's main one: the kernel kills the servers when the *thread* that
    forked them ends.
    """

    def __init__(self, server: Server, place: Place, changed: Callable[[], None]) -> None:
        self.server = server
        self.state: State = "stopped"
        self.exit_code: int | None = None
        self.since = time.time()
        self.identity: Identity | None = None
        self._place = place
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        # Two operations on one server, such as a stop during its start, follow each other.
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Start and wait until ready; nothing if it runs. StartError leaves it stopped."""
        async with self._lock:
            if self.state == "ready":
                return
            self._enter("starting")
            log = self._place.folder.log(self.server.name)
            _rotate(log)
            begin = log.stat().st_size if log.exists() else 0
            try:
                await self._start(log)
            except TimeoutError as error:
                reason = await self._why_not_ready()
                await self._stop()
                raise StartError(
                    f"{self.server.name} was not ready after {self.server.start_timeout_s:.0f} s ({reason}); "
                    f"{tail(log, begin)}"
                ) from error
            except (StackError, OSError) as error:
                await self._stop()
                raise StartError(f"{self.server.name} could not be started: {error}; {tail(log, begin)}") from error
            except BaseException:
                await self._stop()
                raise
            self._enter("ready")

    async def stop(self) -> str | None:
        """Stop it cleanly, or by force when that takes too long; returns a warning in the latter case."""
        async with self._lock:
            return await self._stop()

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        async with self._lock:
            if self._process and self._process.returncode is None:
                self._process.kill()
                await self._ended()

    async def why_not_ready(self) -> str | None:
        """Probe it now: None if it works."""
        if self.state != "ready":
            ended = f", exit code {self.exit_code}" if self.state == "exited" else ""
            return f"{self.state}{ended}"
        return await self._why_not_ready()

    async def _start(self, log: Path) -> None:
        for command in await asyncio.to_thread(self.server.prepare, self._place):
            process = await self._spawn(command, log)
            try:
                async with asyncio.timeout(PREPARE_TIMEOUT_S):
                    code = await process.wait()
            except TimeoutError as error:
                raise StartError(f"preparing it took longer than {PREPARE_TIMEOUT_S:.0f} s") from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if code != 0:
                raise StartError(f"preparing it failed with exit code {code}")
        self._process = await self._spawn(self.server.command(self._place), log)
        self.identity = Identity.of(self._process.pid)
        self._watcher = asyncio.create_task(self._watch(self._process))
        self._changed()
        async with asyncio.timeout(self.server.start_timeout_s):
            while await self._why_not_ready():
                if self._process.returncode is not None:
                    raise StartError(f"it ended with exit code {self._process.returncode}")
                await asyncio.sleep(PROBE_INTERVAL_S)

    async def _spawn(self, command: Command, log: Path) -> asyncio.subprocess.Process:
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", shim.__file__, str(os.getpid()), command.user or ""),
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL if command.stdin is None else asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(command.env),
                cwd=self._place.folder.temporary,
            )
        if process.stdin is not None and command.stdin is not None:
            # The pipe's buffer takes it at once. A program that is gone by now shows by its exit code.
            process.stdin.write(command.stdin)
        return process

    async def _why_not_ready(self) -> str | None:
        return await asyncio.to_thread(self.server.probe, self._place)

    async def _stop(self) -> str | None:
        warning = None
        if self._process and self._process.returncode is None:
            self._enter("stopping")
            self._process.terminate()
            try:
                async with asyncio.timeout(self.server.stop_timeout_s):
                    await self._ended()
            except TimeoutError:
                warning = f"{self.server.name} did not stop within {self.server.stop_timeout_s:.0f} s and was killed"
                self._process.kill()
                await self._ended()
        self._enter("stopped")
        return warning

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Reap the process and record its end."""
        self.exit_code = await process.wait()
        self.identity = None
        self._enter("exited")

    async def _ended(self) -> None:
        if self._watcher:
            await asyncio.shield(self._watcher)

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = time.time()
        self._changed()


def tail(log: Path, begin: int = 0) -> str:
    """Return the last lines that were written after byte `begin`, introduced by where they stand."""
    if not log.exists():
        return f"{log} is empty"
    with log.open("rb") as file:
        # Enough for the lines even where they are long stack traces.
        file.seek(max(begin, log.stat().st_size - 64 * 1024))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join([f"the end of {log}:", *(f"  {line}" for line in lines[-TAIL_LINES:])])


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > ROTATE_BYTES:
        log.replace(log.with_suffix(".log.1"))
