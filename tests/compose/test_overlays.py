"""The overlays: TLS for what leaves the compose network, and three brokers. Each is a stack of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from daybook import Client
from schemas.connections import Connections
from tests.compose.composed import ROOT, Composed, docker
from tests.compose.conftest import Stacks
from tests.compose.test_base import PARTITIONS, on_each_partition
from tests.processes import until

BASE = "docker-compose.yml"
TLS = "deploy/compose/tls.yml"
CLUSTER = "deploy/compose/cluster.yml"
CLUSTER_TLS = "deploy/compose/cluster-tls.yml"
# Valkey's image is built without TLS where it is not the official one; this shows Redis itself as well.
REDIS_IMAGE = "redis:7.0-bookworm"


@pytest.mark.parametrize(
    "files", [(BASE,), (BASE, TLS), (BASE, CLUSTER), (BASE, CLUSTER, TLS, CLUSTER_TLS)], ids=lambda f: f[-1]
)
def test_compose_finds_nothing_wrong(engine: None, files: tuple[str, ...]) -> None:
    stack = Composed(ROOT, "daybooktestconfig", files)
    for profiles in ((), ("--profile", "tools", "--profile", "observability")):
        assert stack.run(*profiles, "config", "--quiet").stdout == ""


def post(connections: Connections, accounts: list[str], *, opened: bool = False) -> None:
    """Deposit on each account, and read it back from both read models."""
    with Client(connections, user_id="ada", timeout_s=120) as client:
        for account in accounts:
            if not opened:
                client.open_account(account, "EUR", "Ada Lovelace")
            reply = client.deposit(account, "1.00 EUR")
            assert client.balance(account, at_least=reply.sequence).sequence == reply.sequence
            assert client.account(account, at_least=reply.sequence).sequence == reply.sequence


@pytest.fixture
def tls(stacks: Stacks, need_image: Callable[[str], None]) -> Composed:
    need_image(REDIS_IMAGE)
    return stacks.up("TLS and Redis 7.0", (BASE, TLS), DAYBOOK_REDIS_IMAGE=REDIS_IMAGE)


def test_programs_on_this_machine_use_tls(tls: Composed) -> None:
    connections = tls.connections("client")
    assert connections.kafka_security_protocol == "SASL_SSL"
    assert connections.registry_url.startswith("https://")
    assert connections.redis().startswith("rediss://")
    assert str(connections.elasticsearch()["hosts"]).startswith("https://")
    post(connections, on_each_partition())
    tls.verify_models()


@pytest.mark.parametrize(
    "arguments",
    [("deposit", "A-1", "1.00 EUR"), ("balance", "A-1"), ("account", "A-1")],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("trust", ["nobody", "another authority"])
def test_who_does_not_trust_the_authority_is_told_so(
    tls: Composed, tmp_path: Path, arguments: tuple[str, ...], trust: str
) -> None:
    lines = tls.env_file("client").read_text().splitlines()
    if trust == "nobody":
        changed = [line for line in lines if "_SSL_CA=" not in line]
    else:
        foreign = tls.folder / ".secrets" / "redis" / "server.crt"
        changed = [f"{line.partition('=')[0]}={foreign}" if "_SSL_CA=" in line else line for line in lines]
    assert changed != lines
    env_file = tmp_path / "env"
    env_file.write_text("\n".join(changed))
    said = tls.daybook(env_file, *arguments, exit_code=4)
    assert "certificate" in said.lower(), said
    assert "Traceback" not in said, said


def test_nothing_is_served_unencrypted_outside(tls: Composed) -> None:
    assert len([at for one in tls.containers() for at in one.described["NetworkSettings"]["Ports"].values() if at]) == 5
    for name in ("REGISTRY", "ELASTICSEARCH"):
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(f"http://127.0.0.1:{tls.port(name)}/", timeout=30)
        answer = requests.get(
            f"https://127.0.0.1:{tls.port(name)}/", timeout=30, verify=str(tls.folder / ".secrets/client/ca.crt")
        )
        assert answer.status_code < 500


@pytest.fixture
def cluster(stacks: Stacks) -> Composed:
    return stacks.up("three brokers", (BASE, CLUSTER))


def test_deposits_go_on_without_any_one_broker(cluster: Composed) -> None:
    connections = cluster.connections("client")
    accounts = on_each_partition()
    post(connections, accounts)
    with AdminClient(cluster.connections("admin").kafka()) as admin:
        topics = connections.topics
        found = admin.list_topics(timeout=30).topics
        for topic in (topics.commands, topics.events, topics.snapshots, topics.replies, "__transaction_state"):
            replicas = {len(partition.replicas) for partition in found[topic].partitions.values()}
            assert replicas == {3}, topic
        assert len(found[topics.events].partitions) == PARTITIONS
        resource = ConfigResource(ResourceType.TOPIC, topics.events)
        settings = admin.describe_configs([resource], request_timeout=30)[resource].result()
        assert settings["min.insync.replicas"].value == "2"
        # The first is the one whose name every program was given.
        for broker in ("kafka", "kafka-3"):
            # Somebody's wish, as far as the engine knows, so that it stays away.
            docker("kill", cluster.container(broker).id)
            post(connections, accounts, opened=True)
            # A program that starts finds the cluster by the brokers that are left.
            docker("restart", cluster.container("command-service").id)
            post(connections, [f"C-{uuid.uuid4().hex[:12]}"])
            docker("start", *(one.id for one in cluster.containers(broker, stopped=True)))
            until(lambda: in_sync(admin), "all replicas in sync", 300)
    cluster.wait_healthy()
    cluster.verify_models()


def in_sync(admin: AdminClient) -> bool:
    topics = admin.list_topics(timeout=30).topics.values()
    partitions = [partition for topic in topics for partition in topic.partitions.values()]
    return all(sorted(partition.isrs) == sorted(partition.replicas) for partition in partitions)
