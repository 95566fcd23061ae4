"""A local stack in a folder: start it, stop it, ask it, wipe it."""

import base64
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deploy.stack import control
from deploy.stack.downloads import cache_folder, fetch
from deploy.stack.errors import NotRunningError, StackError
from deploy.stack.folder import Folder, Settings, variables_of
from deploy.stack.launch import KILL_TIMEOUT_S, STOPPING_TIMEOUT_S, launch, supervisor_of
from deploy.stack.ports import choose
from deploy.stack.processes import Identity
from deploy.stack.servers import all_servers
from deploy.stack.supervisor import Plan

BROKER_COUNTS = (1, 3)


class Reporter(Protocol):
    """Hears how a start goes on. Downloads report from several threads."""

    def download(self, name: str, size_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """A download begins; the function given takes the bytes as they come."""

    def step(self, message: str) -> None:
        """Something was done."""


class Silent:
    """A reporter that says nothing."""

    @contextmanager
    def download(self, name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _: None

    def step(self, message: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """How one server is. `detail` says why it is not ready; `since` is when its state began (epoch seconds)."""

    name: str
    state: str
    ready: bool
    detail: str | None
    pid: int | None
    since: float
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Status:
    """How the stack is. `phase`: down, starting, up or stopping."""

    phase: str
    servers: tuple[ServerStatus, ...]
    environment: Mapping[str, str]

    @property
    def ready(self) -> bool:
        return self.phase == "up" and all(server.ready for server in self.servers)


class Stack:
    """The stack in one folder. Any process may make one; the folder is what they share."""

    def __init__(self, directory: Path | str, reporter: Reporter | None = None) -> None:
        self.folder = Folder(Path(directory).expanduser().resolve())
        self._reporter: Reporter = reporter or Silent()
        # Open while the stack is attached to this process; the supervisor ends when it closes.
        self._lifeline: int | None = None

    def up(
        self,
        *,
        brokers: int | None = None,
        ports: Mapping[str, int] | None = None,
        free_ports: bool = False,
        attached: bool = False,
    ) -> Status:
        """Start what doesn't run and wait until all is ready; a stack that runs stays as it is.

        `brokers` and `ports` (option to number, as in `{"--redis-port": 6379}`) default to what the folder
        was started with before. An `attached` stack stops when this process ends, however it ends. If the
        start fails or is interrupted, everything that it started is stopped before this returns.
        """
        with self._locked():
            self._await_abandoned()
            if supervisor_of(self.folder):
                return self._already_up(brokers, ports or {})
            self.folder.check()
            self._clean()
            settings = self._settle(brokers, ports or {}, free_ports=free_ports)
            self.folder.create(settings)
            servers = all_servers(settings.brokers)
            sets = {wanted.name: wanted for server in servers for wanted in server.artifacts}
            artifacts = fetch(tuple(sets.values()), cache_folder(), self._reporter.download)
            paths = {name: [str(path) for path in found] for name, found in artifacts.items()}
            self._let_go()
            plan = Plan(settings.brokers, settings.cluster_id, settings.ports, paths)
            self._lifeline = launch(self.folder, plan, step=self._reporter.step, attached=attached)
            return self.status()

    def down(self) -> list[str]:
        """Stop everything cleanly and keep the data. Returns warnings; nothing to do is none."""
        if not self.folder.root.is_dir():
            return []
        with self._locked():
            return self._down()

    def reset(self) -> list[str]:
        """Stop everything and delete the folder, data and all. Refuses a folder without a stack's marker."""
        if not self.folder.is_stack():
            raise StackError(f"{self.folder.root} holds no stack (no stack.json in it): nothing was deleted")
        with self._locked():
            warnings = self._down()
            self.folder.delete()
            # The marker goes last, so that an interrupted reset can be repeated; the lock is still held.
            for path in (self.folder.marker, self.folder.lock):
                path.unlink()
            try:
                self.folder.root.rmdir()
            except OSError as error:
                # Whoever waited for the lock has begun anew in the folder, which is then theirs.
                if error.errno != errno.ENOTEMPTY:
                    raise
            return warnings

    def status(self) -> Status:
        """Ask each server now. A folder without a running stack has the phase `down` and no servers."""
        try:
            found = control.ask(self.folder, "status")
        except NotRunningError:
            return Status("down", (), {})
        servers = tuple(ServerStatus(**server) for server in found["servers"])
        return Status(found["phase"], servers, found["environment"])

    def env(self) -> dict[str, str]:
        """Return the addresses that the last start wrote to the folder's `env`."""
        if not self.folder.env.is_file():
            raise NotRunningError(f"no stack was started in {self.folder.root} yet: start it with `up`")
        return variables_of(self.folder.env.read_text())

    def start(self, server: str) -> None:
        """Start one server of a running stack and wait until it is ready; on the same ports, with its data."""
        control.ask(self.folder, "start", server)

    def stop(self, server: str) -> list[str]:
        """Stop one server cleanly; returns warnings."""
        warnings: list[str] = control.ask(self.folder, "stop", server)["warnings"]
        return warnings

    def kill(self, server: str) -> None:
        """End one server with SIGKILL, as a crash would."""
        control.ask(self.folder, "kill", server)

    def _locked(self) -> AbstractContextManager[None]:
        return self.folder.locked(lambda: self._reporter.step("another command is at work on this stack; waiting"))

    def _record(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.folder.record.read_text())
        except FileNotFoundError:
            return None
        return found

    def _await_abandoned(self) -> None:
        """Wait for the end of a supervisor whose `up` was killed half-way: it is stopping its servers."""
        record, identity = self._record(), supervisor_of(self.folder)
        if record and identity and record["phase"] != "up":
            self._reporter.step("an interrupted start is being cleaned up")
            if not identity.wait(STOPPING_TIMEOUT_S):
                identity.kill(KILL_TIMEOUT_S)

    def _already_up(self, brokers: int | None, ports: Mapping[str, int]) -> Status:
        settings = self.folder.settings()
        if settings is None:
            raise StackError(f"a stack runs in {self.folder.root}, but its stack.json is gone: take it `down`")
        self._check_brokers(settings, brokers)
        wanted = {
            port.name: ports[port.option] + port.offset
            for server in all_servers(settings.brokers)
            for port in server.ports
            if port.option in ports
        }
        for name, number in wanted.items():
            if settings.ports[name] != number:
                raise StackError(
                    f"{self.folder.root} runs with {name} on port {settings.ports[name]}, not {number}: "
                    "take it `down` first to move it"
                )
        status = self.status()
        if status.ready:
            return status
        for server in status.servers:
            if not server.ready:
                self._reporter.step(f"{server.name} is {server.detail}; starting it")
        control.ask(self.folder, "start")
        return self.status()

    def _settle(self, brokers: int | None, ports: Mapping[str, int], *, free_ports: bool) -> Settings:
        """Decide on the settings of this start."""
        before = self.folder.settings()
        if before:
            self._check_brokers(before, brokers)
        count = before.brokers if before else (brokers or BROKER_COUNTS[0])
        if count not in BROKER_COUNTS:
            raise StackError(f"a stack has {' or '.join(map(str, BROKER_COUNTS))} brokers, not {count}")
        wanted = [port for server in all_servers(count) for port in server.ports]
        chosen = choose(wanted, ports, before.ports if before else {}, free_ports=free_ports)
        return Settings(count, before.cluster_id if before else new_cluster_id(), chosen)

    def _check_brokers(self, settings: Settings, brokers: int | None) -> None:
        if brokers is not None and brokers != settings.brokers:
            raise StackError(
                f"the stack in {self.folder.root} was made with {settings.brokers} broker(s), which cannot be changed "
                f"to {brokers}: `reset` it or use another folder"
            )

    def _clean(self) -> None:
        """Make sure that nothing of an earlier run is left, as after a power cut or a killed supervisor."""
        record = self._record()
        for name, identity in (record["servers"] if record else {}).items():
            # Its supervisor's end has killed it; this waits until it has gone, ports and all.
            if not Identity(**identity).kill(KILL_TIMEOUT_S):
                raise StackError(f"{name} (process {identity['pid']}) of an earlier run cannot be ended: see to it")
        self.folder.record.unlink(missing_ok=True)
        shutil.rmtree(self.folder.temporary, ignore_errors=True)

    def _down(self) -> list[str]:
        identity = supervisor_of(self.folder)
        if identity is None:
            self._let_go()
            return []
        try:
            warnings: list[str] = control.ask(self.folder, "down", timeout_s=STOPPING_TIMEOUT_S)["warnings"]
        except StackError as error:
            warnings = [str(error)]
        if not identity.wait(KILL_TIMEOUT_S):
            # The kernel kills the servers with it.
            identity.kill(KILL_TIMEOUT_S)
            warnings.append(f"the supervisor (process {identity.pid}) did not end and was killed, servers and all")
        self._let_go()
        return warnings

    def _let_go(self) -> None:
        """Close our end of a stack that was attached to us and has ended."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def new_cluster_id() -> str:
    """Return an id as Kafka's own tool makes them: a random UUID in URL-safe base 64."""
    while True:
        drawn = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # The tool that formats the storage would take a dash at the front for an option, as one in 64 has it.
        if not drawn.startswith("-"):
            return drawn
