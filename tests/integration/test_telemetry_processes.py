"""What real processes say of themselves: their logs as JSON, and at `/health` and `/ready` the truth."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing

import pytest

from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections
from tests.conftest import PARTITIONS
from tests.processes import Process, asked, environment, free_port, free_ports, until
from tests.relay import Relay
from tests.wire import Wire, opening

Start = Callable[..., Process]

SERVICE_PORT = "DAYBOOK_COMMAND_SERVICE_METRICS_PORT"
PROJECTOR_PORT = "DAYBOOK_PROJECTOR_METRICS_PORT"


def until_ready(port: int) -> None:
    until(lambda: asked(port, "/ready")[0] == 200, lambda: f"readiness, but: {asked(port, '/ready')}", 180)


def until_not_ready(port: int, reason: str) -> None:
    def told() -> bool:
        code, answer = asked(port, "/ready")
        return code == 503 and reason in answer.get("reason", "")

    until(told, lambda: f'"{reason}" at /ready, but: {asked(port, "/ready")}', 180)


def test_a_command_service_logs_json_with_ids(deployed: Connections, start: Start) -> None:
    service = start("command_service", env=environment(deployed, DAYBOOK_LOG_FORMAT="json", DAYBOOK_LOG_LEVEL="DEBUG"))
    service.said("restored ")
    with Wire(deployed, PARTITIONS) as wire:
        command = opening("A-1", currency="XXX", correlation_id="c-1")
        wire.decide(command)
        wire.put(b"nonsense", key=b"A-1", partition=1)
        wire.flush()
        service.said("parked ")
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert {(line["service"], line["instance"]) for line in lines} == {("command-service", "0")}
    assert lines[-1]["event"] == "stopped"
    (parked,) = (line for line in lines if "reason" in line)
    assert (parked["topic"], parked["partition"], parked["offset"]) == (deployed.topics.commands, 1, 0)
    (refused,) = (line for line in lines if "code" in line)
    assert (refused["level"], refused["account_id"]) == ("debug", "A-1")
    assert (refused["command_id"], refused["correlation_id"]) == (command.command_id, "c-1")


def test_clients_of_kafka_log_in_the_same_form(deployed: Connections, start: Start) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    more = {"DAYBOOK_LOG_FORMAT": "json", "DAYBOOK_KAFKA_BOOTSTRAP": nobody}
    projector = start("projectors", "balances", env=environment(deployed, **more))
    projector.said('"logger": "kafka"')
    assert projector.stop() == 0
    lines = [json.loads(line) for line in projector.output.splitlines()]
    assert {line["service"] for line in lines} == {"projector-balances"}


def test_what_keeps_a_command_service_from_its_work_is_told(deployed: Connections, start: Start) -> None:
    port = free_port()
    host, _, registry = deployed.registry_url.removeprefix("http://").partition("/")[0].rpartition(":")
    with closing(Relay(host, int(registry))) as relay:
        url = deployed.registry_url.replace(f"{host}:{registry}", f"127.0.0.1:{relay.port}")
        start("command_service", env=environment(deployed, DAYBOOK_REGISTRY_URL=url, **{SERVICE_PORT: str(port)}))
        until_not_ready(port, "waiting for the registry")
        assert asked(port, "/health")[0] == 200
        relay.open()
        until_ready(port)
    details = asked(port, "/ready")[1]["details"]
    assert (details["partitions"], details["restored"]) == ([0, 1, 2, 3], True)


def test_what_keeps_a_rebuild_from_its_work_is_told(deployed: Connections, start: Start) -> None:
    port = free_port()
    host, _, registry = deployed.registry_url.removeprefix("http://").partition("/")[0].rpartition(":")
    with closing(Relay(host, int(registry))) as relay:
        url = deployed.registry_url.replace(f"{host}:{registry}", f"127.0.0.1:{relay.port}")
        more = {"DAYBOOK_REGISTRY_URL": url, "DAYBOOK_PROJECTOR_REBUILD_METRICS_PORT": str(port)}
        rebuild = start("projectors.rebuild", "build", "balances", env=environment(deployed, **more))
        until_not_ready(port, "waiting for the registry")
        # A look-up is a sign of life, so that this lasts however long the registry is away.
        until(
            lambda: asked(port, "/health")[1].get("details", {}).get("doing") == "looking up the schemas",
            lambda: f"look-up, but: {asked(port, '/health')}",
        )
        relay.open()
        assert rebuild.wait(180) == 0, rebuild.output


def test_what_keeps_a_projector_from_its_work_is_told(deployed: Connections, start: Start) -> None:
    port = free_port()
    url = deployed.redis()
    host, _, redis = url.partition("://")[2].rpartition("@")[2].partition("/")[0].rpartition(":")
    relay = Relay(host, int(redis))
    with closing(relay):
        through = url.replace(f"{host}:{redis}", f"127.0.0.1:{relay.port}")
        start(
            "projectors",
            "balances",
            env=environment(deployed, DAYBOOK_REDIS_URL=through, **{PROJECTOR_PORT: str(port)}),
        )
        until_not_ready(port, "Redis")
        assert asked(port, "/health")[0] == 200
        assert 'daybook_projector_waiting{projector="balances",reason_class="redis"} 1.0' in metrics(port)
        relay.open()
        until_ready(port)
        assert 'daybook_projector_waiting{projector="balances",reason_class="redis"} 0.0' in metrics(port)
    until_not_ready(port, "Redis")


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_an_instance_without_partitions_is_ready(connections: Connections, start: Start) -> None:
    apply(connections, partitions=1)
    services, projectors = [free_port(), free_port()], [free_port(), free_port()]
    for instance, port in enumerate(services):
        more = {SERVICE_PORT: str(port), "DAYBOOK_COMMAND_SERVICE_INSTANCE": str(instance)}
        start("command_service", env=environment(connections, **more))
    for port in projectors:
        start("projectors", "balances", env=environment(connections, **{PROJECTOR_PORT: str(port)}))

    def shared_out(ports: list[int], field: str) -> bool:
        answers = [asked(port, "/ready") for port in ports]
        given = [answer.get("details", {}).get(field) for _, answer in answers]
        return sorted(map(str, given)) == ["[0]", "[]"] and all(code == 200 for code, _ in answers)

    until(lambda: shared_out(services, "partitions"), "two command services that are ready", 180)
    until(lambda: shared_out(projectors, "assigned"), "two projectors that are ready", 180)


@pytest.mark.faults
def test_nobody_is_ready_while_kafka_is_down(stack: Stack, connections: Connections, start: Start) -> None:
    apply(connections, partitions=1)
    service, projector, activity = free_port(), free_port(), free_ports(4) + 3
    start("command_service", env=environment(connections, **{SERVICE_PORT: str(service)}))
    start("projectors", "balances", env=environment(connections, **{PROJECTOR_PORT: str(projector)}))
    # It takes the fourth port from the one that is named.
    more = {PROJECTOR_PORT: str(activity - 3), "DAYBOOK_ACTIVITY_PORT": str(free_port())}
    start("projectors", "activity", env=environment(connections, **more))
    for port in (service, projector, activity):
        until_ready(port)
    stack.stop("kafka-1")
    try:
        for port in (service, projector, activity):
            until_not_ready(port, "Kafka cannot be reached")
    finally:
        stack.start("kafka-1")
    for port in (service, projector, activity):
        until_ready(port)
