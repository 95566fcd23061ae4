"""The local stack for a demonstration, with its definitions and the services."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console

from daybook.activity import DEFAULT_PORT, ActivitySettings
from daybook.demo.ledger import DemoFailed, Running
from daybook.supervise import PROGRAMS, AlreadyRun, OneOfEach, Program, Supervisor, idle
from deploy import definitions
from deploy.errors import DeployError
from deploy.stack.cli import ConsoleReporter
from deploy.stack.errors import StackError
from deploy.stack.stack import Stack
from schemas.connections import Connections


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
            f"topics, schemas and search indices: {len(differences)} created or set"
            if differences
            else "topics, schemas and search indices: as wanted"
        )
        log = folder / "demo" / "services.log"
        log.parent.mkdir(exist_ok=True)
        without = idle(PROGRAMS, connections)
        group = [program for program in PROGRAMS if program.name not in without]
        activity = ActivitySettings(_env_file=None, activity_port=_free(DEFAULT_PORT))
        environment |= {"DAYBOOK_ACTIVITY_PORT": str(activity.activity_port)}
        supervisor = _services(group, connections, environment, log, cleanup)
        yield Running(connections, supervisor, str(log), without, activity if supervisor else ActivitySettings())
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
        elasticsearch_url=found["DAYBOOK_ELASTICSEARCH_URL"],
        iceberg_catalog=found["DAYBOOK_ICEBERG_CATALOG"],
        iceberg_warehouse=found["DAYBOOK_ICEBERG_WAREHOUSE"],
        # A stack that an earlier release made has no key.
        audit_key_file=found.get("DAYBOOK_AUDIT_KEY_FILE"),
        kek_file=found.get("DAYBOOK_KEK_FILE"),
        kek=None,
        namespace="",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return connections, inherited | found


def _services(
    group: Sequence[Program], connections: Connections, environment: dict[str, str], log: Path, cleanup: ExitStack
) -> Supervisor | None:
    try:
        cleanup.enter_context(OneOfEach(connections, group))
    except AlreadyRun:
        return None
    out = cleanup.enter_context(log.open("w", encoding="utf-8", buffering=1))
    supervisor = Supervisor(
        group, environment=environment, output=lambda name, line: print(f"{name} | {line}", file=out)
    )
    return cleanup.enter_context(supervisor)


def _free(port: int) -> int:
    """That port of this machine if nothing listens there, else another."""
    with socket.socket() as asked:
        # A connection that was closed a minute ago still has the port, and hinders nobody who asks for it this way.
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asked.bind(("127.0.0.1", port))
        except OSError:
            asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])
