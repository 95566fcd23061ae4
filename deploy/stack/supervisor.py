"""The process that owns a running stack: it starts the servers, answers for them and stops them.

    python -m deploy.stack.supervisor FOLDER

`up` starts it in a session of its own and speaks with it through its standard input and output:

1. `up` writes the plan (one JSON line); the supervisor reports each server's progress (JSON lines).
2. When all are ready it reports `up`, and `up` answers with the line `stay`.
3. If its standard input ends before that line, `up` was interrupted or killed: it stops what it started
   and ends. A caller that never sends the line therefore takes the stack with it when it ends.

The kernel kills the servers if the supervisor is killed (see `shim.py`), so nothing is ever orphaned.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.stack.control import SOCKET
from deploy.stack.errors import StackError
from deploy.stack.folder import Folder, dotenv, write_json, write_text
from deploy.stack.processes import Identity
from deploy.stack.server import Place, Server
from deploy.stack.serverprocess import ServerProcess
from deploy.stack.servers import all_servers, environment

STAY = b"stay\n"
# The last answer, to `down`, is a line over a local socket.
LAST_ANSWER_TIMEOUT_S = 2.0

Phase = Literal["starting", "up", "stopping"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` has decided: which servers, where they listen and what they run from."""

    brokers: int
    cluster_id: str
    ports: Mapping[str, int]
    artifacts: Mapping[str, Sequence[str]]

    def place(self, folder: Folder) -> Place:
        artifacts = {name: tuple(Path(path) for path in paths) for name, paths in self.artifacts.items()}
        return Place(folder, self.ports, self.cluster_id, artifacts)


class Supervisor:
    """Runs the servers of one folder until told to stop."""

    def __init__(self, folder: Folder, servers: Sequence[Server], place: Place) -> None:
        self._folder = folder
        self._place = place
        self._environment = environment(servers, place)
        self._processes = {server.name: ServerProcess(server, place, self._record) for server in servers}
        self._identity = Identity.of(os.getpid())
        self._phase: Phase = "starting"
        self._stop = asyncio.Event()
        self._stopped: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._answering: set[asyncio.Task[Any]] = set()

    async def run(self, lifeline: asyncio.StreamReader, report: Callable[..., None]) -> bool:
        """Start everything, stay until told to stop, stop everything. Says whether the start succeeded."""
        self._record()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        watching = asyncio.create_task(self._watch(lifeline, report))
        starting = asyncio.create_task(self._start_all(self._processes.values(), report))
        stopping = asyncio.create_task(self._stop.wait())
        control = await asyncio.start_unix_server(self._serve, SOCKET)
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        started = starting.done()
        if not started:
            starting.cancel()
        try:
            await starting
        except asyncio.CancelledError:
            pass
        except StackError as error:
            started = False
            report(event="failed", message=str(error))
        if started:
            # Before `up` may be told, so that who finds the stack up finds its addresses too.
            write_text(self._folder.env, dotenv(self._environment))
            self._enter("up")
            report(event="up")
            await stopping
        self._stopped.set_result(await self._stop_all())
        control.close()
        if self._answering:
            await asyncio.wait(self._answering, timeout=LAST_ANSWER_TIMEOUT_S)
        watching.cancel()
        Path(SOCKET).unlink(missing_ok=True)
        self._folder.record.unlink(missing_ok=True)
        return started

    async def _watch(self, lifeline: asyncio.StreamReader, report: Callable[..., None]) -> None:
        if await lifeline.readline() == STAY:
            report(event="staying")
        else:
            self._stop.set()

    async def _start_all(self, processes: Collection[ServerProcess], report: Callable[..., None]) -> None:
        """Start side by side; the first failure cancels the others and is raised.

        A server that needs several others waits until all of them are ready: the registry replicates its topics to as
        many brokers as it finds, and would be content with those that were there first.
        """
        ready = {process.server.name: asyncio.Event() for process in processes}

        async def start(process: ServerProcess) -> None:
            if len(process.server.needs) > 1:
                for name in process.server.needs:
                    await ready[name].wait()
            begin = time.monotonic()
            report(event="starting", server=process.server.name)
            await process.start()
            ready[process.server.name].set()
            report(event="ready", server=process.server.name, seconds=round(time.monotonic() - begin, 1))

        try:
            async with asyncio.TaskGroup() as group:
                for process in processes:
                    group.create_task(start(process))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _stop_all(self) -> list[str]:
        """Stop in waves, each server before those that it needs; returns warnings."""
        self._enter("stopping")
        warnings: list[str] = []
        remaining = dict(self._processes)
        while remaining:
            needed = {name for process in remaining.values() for name in process.server.needs}
            wave = [remaining.pop(name) for name in tuple(remaining) if name not in needed]
            results = await asyncio.gather(*(process.stop() for process in wave))
            warnings += [warning for warning in results if warning]
        return warnings

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of `control.ask`."""
        task = asyncio.current_task()
        if task:
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        # Whoever asked may have gone before the answer.
        with contextlib.suppress(ConnectionError):
            try:
                request = json.loads(await reader.readline())
                answer = await self._do(request["action"], request["server"])
            except (ValueError, KeyError, TypeError) as error:
                answer = {
                    "error": f"the supervisor did not understand a request ({error!r}): is it of another version?"
                }
            except StackError as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _do(self, action: str | None, server: str | None) -> dict[str, Any]:
        if server is not None and server not in self._processes:
            raise StackError(f"no server {server!r} in this stack: it has {', '.join(self._processes)}")
        chosen = [self._processes[server]] if server else list(self._processes.values())
        match action:
            case "status":
                return await self._status()
            case "start":
                if self._stop.is_set():
                    raise StackError("the stack is being stopped: start it with `up` once it is down")
                await self._start_all(chosen, lambda **_: None)
                return {}
            case "stop":
                return {"warnings": [warning for process in chosen if (warning := await process.stop())]}
            case "kill":
                for process in chosen:
                    await process.kill()
                return {}
            case "down":
                self._stop.set()
                return {"warnings": await asyncio.shield(self._stopped)}
            case _:
                raise StackError(f"the supervisor knows no action {action!r}: is it of another version?")

    async def _status(self) -> dict[str, Any]:
        processes = list(self._processes.values())
        reasons = await asyncio.gather(*(process.why_not_ready() for process in processes))
        servers = [
            {
                "name": process.server.name,
                "state": process.state,
                "ready": reason is None,
                "detail": reason,
                "pid": process.identity.pid if process.identity else None,
                "since": process.since,
                "ports": {port.name: self._place.ports[port.name] for port in process.server.ports},
            }
            for process, reason in zip(processes, reasons, strict=True)
        ]
        return {"phase": self._phase, "servers": servers, "environment": dict(self._environment)}

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._record()

    def _record(self) -> None:
        """Write down which processes are ours, for the one who must clean up after a killed supervisor."""
        running = {name: process.identity for name, process in self._processes.items() if process.identity}
        write_json(
            self._folder.record,
            {
                "phase": self._phase,
                "supervisor": asdict(self._identity),
                "servers": {name: asdict(identity) for name, identity in running.items()},
            },
        )


async def supervise(folder: Folder) -> bool:
    """Read the plan from standard input and run it."""
    loop = asyncio.get_running_loop()
    lifeline = asyncio.StreamReader(limit=1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lifeline), sys.stdin)
    line = await lifeline.readline()
    if not line:
        return False  # `up` ended before it had said what to do.
    plan = Plan(**json.loads(line))
    supervisor = Supervisor(folder, all_servers(plan.brokers), plan.place(folder))
    return await supervisor.run(lifeline, _report)


def _report(**event: Any) -> None:
    """Tell `up`; once it has gone, nobody listens, and its going is seen on the lifeline."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Go into the background and run until the stack is stopped. Exit code 1 if it never came up."""
    # Whoever started this need not wait for its end, and the init process will reap it.
    # No thread runs yet; the servers are forked by the thread that goes on here.
    if os.fork():
        os._exit(0)
    folder = Folder(Path(sys.argv[1]))
    # So that the control socket's path is short, whatever the folder's is.
    os.chdir(folder.run)
    sys.exit(0 if asyncio.run(supervise(folder)) else 1)


if __name__ == "__main__":
    main()
