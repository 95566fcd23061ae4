"""What every test can ask for: the real servers, a ledger of its own on them, and the ledger's processes.

`DAYBOOK_TEST_STACK=FOLDER` runs the tests on a local stack that is already up, and leaves it up.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import pytest
import redis

from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections
from tests.processes import Process, environment

PARTITIONS = 4
# Each ledger has an even one, and its rebuilt balances the odd one above. The stack's server has 64, of which the
# first two are left to people.
_REDIS_DATABASES = range(2, 64, 2)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The real servers, up."""
    given = os.environ.get("DAYBOOK_TEST_STACK")
    if given is not None:
        yield Stack(Path(given))
        return
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.up(free_ports=True, attached=True)
    try:
        yield stack
    finally:
        stack.reset()


@pytest.fixture(scope="session")
def stack_env(stack: Stack) -> dict[str, str]:
    return stack.env()


@pytest.fixture(scope="session")
def new_connections(stack_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Connections]:
    """Makes connections to a ledger that nobody else uses.

    It has a namespace, two empty Redis databases, an empty catalog and an empty warehouse of its own.
    """
    databases = cycle(_REDIS_DATABASES)

    def make() -> Connections:
        server = stack_env["DAYBOOK_REDIS_URL"].rpartition("/")[0]
        database = next(databases)
        for number in (database, database + 1):
            with redis.Redis.from_url(f"{server}/{number}") as client:
                client.flushdb()
        warehouse = tmp_path_factory.mktemp("warehouse")
        return Connections(
            kafka_bootstrap=stack_env["DAYBOOK_KAFKA_BOOTSTRAP"],
            registry_url=stack_env["DAYBOOK_REGISTRY_URL"],
            redis_url=f"{server}/{database}",
            elasticsearch_url=stack_env["DAYBOOK_ELASTICSEARCH_URL"],
            iceberg_catalog=f"sqlite:///{warehouse}/catalog.db",
            iceberg_warehouse=f"file://{warehouse}",
            namespace=f"t{uuid.uuid4().hex[:8]}",
        )

    return make


@pytest.fixture
def connections(new_connections: Callable[[], Connections]) -> Connections:
    """A ledger of one's own, with nothing deployed."""
    return new_connections()


@pytest.fixture
def deployed(connections: Connections) -> Connections:
    """A ledger of one's own, with topics, schemas and index templates."""
    apply(connections, partitions=PARTITIONS)
    return connections


@dataclass(frozen=True)
class Ledger:
    """A ledger with its processes."""

    connections: Connections
    service: Process
    balances: Process


@pytest.fixture(scope="module")
def ledger(new_connections: Callable[[], Connections], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One running ledger for a module's tests, which use accounts of their own."""
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    logs = tmp_path_factory.mktemp("ledger")
    env = environment(connections)
    service = Process("command_service", env=env, log=logs / "service.log")
    balances = Process("projectors", "balances", env=env, log=logs / "balances.log")
    service.start()
    balances.start()
    try:
        service.said("restored ")
        yield Ledger(connections, service, balances)
    finally:
        statuses = [process.stop() for process in (service, balances) if process.running()]
    assert statuses == [0, 0], f"{service.output}\n{balances.output}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes, and stops those that still run at the end."""
    started: list[Process] = []

    def begin(module: str, *arguments: str, env: dict[str, str]) -> Process:
        process = Process(module, *arguments, env=env, log=tmp_path / f"{len(started)}.log")
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.running():
            process.stop()
        # Shown by pytest where the test failed.
        print(process.output)
