"""What a demonstration runs on: the local stack with its definitions, the services, and a client of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from daybook.errors import DaybookError
from daybook.supervise import PROGRAMS, AlreadyRun, OneOfEach, Supervisor
from deploy import definitions
from deploy.errors import DeployError
from deploy.stack.cli import ConsoleReporter
from deploy.stack.errors import StackError
from deploy.stack.stack import Stack
from schemas.connections import Connections


class DemoFailed(DaybookError):
    """The demonstration could not be shown, or showed a difference."""


@dataclass(frozen=True, slots=True)
class Running:
    """A ledger that is up. `supervisor` is None if its services are run by somebody else."""

    connections: Connections
    supervisor: Supervisor | None
    log: Path


@contextmanager
def running(folder: Path, console: Console) -> Iterator[Running]:
    """Start what is not running in a stack's folder, and stop afterwards what was started. The data stays.

    A stack in `folder` and services that are running already are used, and left alone.

    Raises:
        DemoFailed: the stack, the definitions or the services could not be brought up.
    """
    with ExitStack() as cleanup:
        try:
            connections, environment = _stack(folder, console, cleanup)
            differences = definitions.apply(connections)
        except (StackError, DeployError) as error:
            raise DemoFailed(str(error)) from error
        console.print(
            f"topics and schemas: {len(differences)} created or set" if differences else "topics and schemas: as wanted"
        )
        log = folder / "demo" / "services.log"
        log.parent.mkdir(exist_ok=True)
        yield Running(connections, _services(connections, environment, log, cleanup), log)
        console.print("stopping what was started ...")


def _stack(folder: Path, console: Console, cleanup: ExitStack) -> tuple[Connections, dict[str, str]]:
    stack = Stack(folder, ConsoleReporter())
    if not stack.status().ready:
        console.print("starting the servers (the first time they are downloaded, which takes a few minutes)")
        # A folder of its own keeps its ports, and if others hold the usual ones, the demonstration need not fail.
        stack.up(free_ports=True, attached=True)
        cleanup.callback(stack.down)
    found = stack.env()
    # Nothing of the caller's environment may take part: it could name a ledger that is in earnest.
    connections = Connections(
        _env_file=None,
        kafka_bootstrap=found["DAYBOOK_KAFKA_BOOTSTRAP"],
        kafka_security_protocol="PLAINTEXT",
        registry_url=found["DAYBOOK_REGISTRY_URL"],
        redis_url=found["DAYBOOK_REDIS_URL"],
        namespace="",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return connections, inherited | found


def _services(
    connections: Connections, environment: dict[str, str], log: Path, cleanup: ExitStack
) -> Supervisor | None:
    try:
        cleanup.enter_context(OneOfEach(connections, PROGRAMS))
    except AlreadyRun:
        return None
    out = cleanup.enter_context(log.open("w", encoding="utf-8", buffering=1))
    supervisor = Supervisor(environment=environment, output=lambda name, line: print(f"{name} | {line}", file=out))
    return cleanup.enter_context(supervisor)
