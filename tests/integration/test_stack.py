"""The local stack's life: up, used, broken, mended, down, up again, wiped. The servers are real."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from elasticsearch import Elasticsearch
from typer.testing import CliRunner

from deploy.stack.cli import NOT_READY, app
from deploy.stack.errors import StackError
from deploy.stack.stack import Stack
from schemas.connections import Connections

pytestmark = pytest.mark.usefixtures("controls_servers")

# Bounds every wait for the brokers; each answers within a second unless the test has found something.
TIMEOUT_S = 30
# So many that a registry which said that it is ready while it still reads them back would be caught.
SCHEMAS = 150


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that these tests may stop and break. Attached: it ends with the test run in any case."""
    # Longer than a Unix socket's path may be, and with what separates or escapes in configuration files: a person's
    # folder may be called so, and the stack must not care.
    stack = Stack(tmp_path_factory.mktemp("stack") / ("Zoë's bank, 100 % mine, " * 5).strip(", "))
    stack.up(free_ports=True, attached=True)
    yield stack
    if stack.folder.is_stack():
        stack.reset()


def pids(stack: Stack) -> dict[str, int | None]:
    return {server.name: server.pid for server in stack.status().servers}


def write_something(env: dict[str, str]) -> None:
    """Leave a record in a topic, a schema in the registry, a value in Redis and a document in Elasticsearch."""
    admin = AdminClient({"bootstrap.servers": env["DAYBOOK_KAFKA_BOOTSTRAP"]})
    admin.create_topics([NewTopic("kept", 1)])["kept"].result(TIMEOUT_S)
    producer = Producer({"bootstrap.servers": env["DAYBOOK_KAFKA_BOOTSTRAP"], "acks": "all"})
    producer.produce("kept", b"record", partition=0)
    assert producer.flush(TIMEOUT_S) == 0
    with SchemaRegistryClient({"url": env["DAYBOOK_REGISTRY_URL"]}) as registry, ThreadPoolExecutor(8) as pool:

        def register(number: int) -> None:
            text = json.dumps({"type": "fixed", "name": f"fixed{number}", "size": 1})
            registry.register_schema(f"kept-{number}", Schema(text, "AVRO"))

        list(pool.map(register, range(SCHEMAS)))
    with redis.Redis.from_url(env["DAYBOOK_REDIS_URL"]) as client:
        client.set("kept", "value")
    with Elasticsearch(env["DAYBOOK_ELASTICSEARCH_URL"]) as search:
        search.index(index="kept", id="1", document={"kept": "document"})


def read_it_back(env: dict[str, str]) -> tuple[bytes | None, int, bytes, dict[str, str]]:
    consumer = Consumer(
        {
            "bootstrap.servers": env["DAYBOOK_KAFKA_BOOTSTRAP"],
            "group.id": "reader",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["kept"])
    message = consumer.poll(TIMEOUT_S)
    consumer.close()
    with SchemaRegistryClient({"url": env["DAYBOOK_REGISTRY_URL"]}) as registry:
        schemas = len(registry.get_subjects())
    with redis.Redis.from_url(env["DAYBOOK_REDIS_URL"]) as client:
        value = client.get("kept")
    assert isinstance(value, bytes)
    with Elasticsearch(env["DAYBOOK_ELASTICSEARCH_URL"]) as search:
        document = search.get(index="kept", id="1")["_source"]
    return message.value() if message else None, schemas, value, document


def test_all_is_ready_and_env_says_where(own: Stack) -> None:
    status = own.status()
    assert status.ready
    assert [server.name for server in status.servers] == ["kafka-1", "registry", "redis", "elasticsearch"]
    assert own.env() == dict(status.environment)
    ports = {name: port for server in status.servers for name, port in server.ports.items()}
    assert own.env() == {
        "DAYBOOK_KAFKA_BOOTSTRAP": f"127.0.0.1:{ports['kafka-1']}",
        "DAYBOOK_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}/apis/ccompat/v7",
        "DAYBOOK_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "DAYBOOK_ELASTICSEARCH_URL": f"http://127.0.0.1:{ports['elasticsearch']}",
        "DAYBOOK_ICEBERG_CATALOG": f"sqlite:///{own.folder.root}/warehouse/catalog.db",
        "DAYBOOK_ICEBERG_WAREHOUSE": f"file://{own.folder.root}/warehouse",
        "DAYBOOK_AUDIT_KEY_FILE": f"{own.folder.root}/audit/audit.pem",
        "DAYBOOK_AUDIT_PUBLIC_KEY_FILE": f"{own.folder.root}/audit/audit.pem.pub",
        "DAYBOOK_KEK_FILE": f"{own.folder.root}/kek",
    }
    # A process finds the same in the file, whatever the folder's name has in it.
    assert Connections(_env_file=own.folder.env).iceberg_warehouse == own.env()["DAYBOOK_ICEBERG_WAREHOUSE"]


def test_the_servers_listen_on_the_loopback_and_on_the_given_ports_alone(own: Stack) -> None:
    for server in own.status().servers:
        listening = {
            tuple(connection.laddr)
            for connection in psutil.Process(server.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {host for host, _ in listening} <= {"127.0.0.1", "::ffff:127.0.0.1"}
        assert {port for _, port in listening} == set(server.ports.values())


def test_elasticsearch_is_never_roots_and_can_change_neither_its_programs_nor_its_configuration(own: Stack) -> None:
    (pid,) = (server.pid for server in own.status().servers if server.name == "elasticsearch")
    process = psutil.Process(pid)
    assert process.uids().effective != 0
    if os.geteuid() != 0:
        pytest.skip("as an ordinary user it runs as oneself")
    public = own.folder.public()
    theirs = {path.relative_to(public) for path in public.rglob("*") if path.stat().st_uid == process.uids().effective}
    assert {path.parts[0] for path in theirs} == {"data", "logs", "run"}


def test_topics_are_not_made_by_a_typing_error(own: Stack) -> None:
    settings = {"bootstrap.servers": own.env()["DAYBOOK_KAFKA_BOOTSTRAP"], "topic.metadata.propagation.max.ms": 0}
    producer = Producer(settings)
    outcomes: list[object] = []
    producer.produce("acount.events", b"", on_delivery=lambda error, _: outcomes.append(error))
    producer.flush(TIMEOUT_S)
    assert len(outcomes) == 1
    assert "UNKNOWN_TOPIC_OR_PART" in str(outcomes[0])


def test_up_on_a_running_stack_changes_nothing(own: Stack) -> None:
    before = pids(own)
    result = CliRunner().invoke(app, ["up", "--dir", str(own.folder.root), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ready"]
    assert pids(own) == before


def test_up_refuses_to_move_or_resize_a_running_stack(own: Stack) -> None:
    before = pids(own)
    with pytest.raises(StackError, match="take it `down` first"):
        own.up(ports={"--redis-port": 6379})
    with pytest.raises(StackError, match="made with 1 broker"):
        own.up(brokers=3)
    assert pids(own) == before


def test_status_tells_scripts(own: Stack) -> None:
    result = CliRunner().invoke(app, ["status", "--dir", str(own.folder.root), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["phase"] == "up"
    assert {server["name"]: server["state"] for server in found["servers"]} == dict.fromkeys(pids(own), "ready")


def test_a_killed_server_shows_and_comes_back_on_its_port(own: Stack) -> None:
    address = own.env()["DAYBOOK_REDIS_URL"]
    own.kill("redis")
    broken = own.status()
    assert not broken.ready
    assert {server.name: server.detail for server in broken.servers if not server.ready} == {
        "redis": "exited, exit code -9"
    }
    result = CliRunner().invoke(app, ["status", "--dir", str(own.folder.root)])
    assert result.exit_code == NOT_READY
    assert "exited, exit code -9" in result.stdout
    own.start("redis")
    assert own.status().ready
    with redis.Redis.from_url(address) as client:
        assert client.ping()


def test_up_mends_a_broken_stack_and_leaves_the_rest_alone(own: Stack) -> None:
    before = pids(own)
    own.stop("redis")
    assert own.up().ready
    after = pids(own)
    assert after.pop("redis") != before.pop("redis")
    assert after == before


def test_an_unknown_server_is_named(own: Stack) -> None:
    with pytest.raises(StackError, match="no server 'postgres' in this stack: it has kafka-1, registry, redis, elast"):
        own.start("postgres")


def test_logs_of_one_server_and_of_all(own: Stack) -> None:
    folder = ["--dir", str(own.folder.root)]
    one = CliRunner().invoke(app, ["logs", "redis", "-n", "3", *folder])
    assert one.exit_code == 0
    assert len(one.stdout.splitlines()) == 3
    every = CliRunner().invoke(app, ["logs", "-n", "1", *folder])
    assert {line.split(" | ")[0].strip() for line in every.stdout.splitlines()} >= set(pids(own))
    assert CliRunner().invoke(app, ["logs", "postgres", *folder]).exit_code == 1


def test_a_taken_port_is_told_before_anything_starts(own: Stack, tmp_path: Path) -> None:
    taken = own.env()["DAYBOOK_REDIS_URL"].rsplit(":")[-1].split("/", maxsplit=1)[0]
    result = CliRunner().invoke(app, ["up", "--dir", str(tmp_path / "second"), "--redis-port", taken])
    assert result.exit_code == 1
    assert f"port {taken} for redis is taken by " in result.stderr
    assert "--free-ports" in result.stderr
    assert not (tmp_path / "second" / "logs").exists()


def test_data_and_addresses_survive_down_and_up_and_a_broker_that_was_killed(own: Stack) -> None:
    env = own.env()
    write_something(env)
    own.kill("elasticsearch")
    own.start("elasticsearch")
    own.kill("elasticsearch")
    own.kill("kafka-1")
    # The registry can't say goodbye to a broker that is gone.
    assert own.down() == ["registry did not stop within 5 s and was killed"]
    assert own.status().phase == "down"
    assert CliRunner().invoke(app, ["status", "--dir", str(own.folder.root)]).exit_code == NOT_READY
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": env["DAYBOOK_KAFKA_BOOTSTRAP"], "log_level": 0}).list_topics(timeout=1)
    own.up(attached=True)
    assert own.env() == env
    assert read_it_back(env) == (b"record", SCHEMAS, b"value", {"kept": "document"})


def test_reset_asks_and_then_deletes_a_stack_that_runs(own: Stack) -> None:
    folder = ["--dir", str(own.folder.root)]
    before = pids(own)
    public = own.folder.public() if os.geteuid() == 0 else own.folder.root
    refused = CliRunner().invoke(app, ["reset", *folder], input="n\n")
    assert refused.exit_code == 1
    assert "Delete" in refused.stdout
    assert pids(own) == before
    assert CliRunner().invoke(app, ["reset", "--yes", *folder]).exit_code == 0
    assert not own.folder.root.exists()
    assert not public.exists()
    assert not any(psutil.pid_exists(pid) for pid in before.values() if pid)
