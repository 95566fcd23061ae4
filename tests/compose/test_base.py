"""The stack as it comes up: healthy, shut off from other machines, small enough, and of use."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from daybook import Client, Refused
from schemas.topics import partition_of
from tests.compose.composed import OURS, SERVERS, Composed, docker
from tests.processes import until

GIB = 1024**3
USER = 10001
START_S = 240
PARTITIONS = 6

# Compose knows the images' own check only once they run.
ONE_SHOT = {"secrets", "access", "deploy"}
BY_HAND = {"daybook"}


def new_account() -> str:
    return f"C-{uuid.uuid4().hex[:12]}"


def on_each_partition() -> list[str]:
    """An account on each partition of a topic."""
    found: dict[int, str] = {}
    while len(found) < PARTITIONS:
        account = new_account()
        found.setdefault(partition_of(account, PARTITIONS), account)
    return list(found.values())


def test_it_comes_up_from_nothing_with_every_service_healthy(stack: Composed) -> None:
    found = stack.containers()
    assert {one.service for one in found} == {*SERVERS, *OURS}
    assert all(one.healthy for one in found), stack.health()
    done = {one.service: one.state["ExitCode"] for one in stack.containers(*ONE_SHOT, stopped=True)}
    assert done == dict.fromkeys(ONE_SHOT, 0)


def test_it_is_up_in_less_than_four_minutes(
    stack: Composed, record_testsuite_property: Callable[[str, object], None]
) -> None:
    record_testsuite_property("compose_up_s", round(stack.started_in_s))
    if stack.busy_before > 2 * (os.cpu_count() or 1):
        pytest.skip(
            f"up after {stack.started_in_s:.0f} s, which says nothing: others kept the machine busy (load "
            f"{stack.busy_before:.0f})"
        )
    assert stack.started_in_s < START_S


def test_nothing_listens_elsewhere_than_on_the_loopback(stack: Composed) -> None:
    for service, published in stack.config("tools", "observability")["services"].items():
        assert published.get("network_mode") != "host"
        assert {port["host_ip"] for port in published.get("ports", ())} <= {"127.0.0.1"}, service
    bindings = [
        binding
        for one in stack.containers()
        for at in one.described["NetworkSettings"]["Ports"].values()
        for binding in at or ()
    ]
    assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
    # The three servers, the broker and the live activity.
    assert len(bindings) == 5


def test_our_containers_can_change_nothing_but_their_own_data(stack: Composed) -> None:
    for one in stack.containers(*OURS):
        host = one.described["HostConfig"]
        assert host["ReadonlyRootfs"], one.service
        assert host["CapDrop"] == ["ALL"], one.service
        assert not host["Privileged"], one.service
        assert "no-new-privileges:true" in host["SecurityOpt"], one.service
        assert docker("exec", one.id, "id", "-u").strip() == str(USER)
        writing = docker("exec", one.id, "sh", "-c", "touch /opt/daybook/new /run/daybook/env 2>/dev/null; echo $?")
        assert writing.strip() != "0", one.service
        mounts = {mount["Destination"]: mount for mount in one.described["Mounts"]}
        assert not mounts["/run/daybook"]["RW"], one.service


def test_every_service_is_bounded_watched_and_brought_back(stack: Composed) -> None:
    services = stack.config("tools", "observability")["services"]
    lasting = services.keys() - ONE_SHOT - BY_HAND
    assert {*SERVERS, *OURS} <= lasting
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"]["max-size"], name
    assert sum(int(services[name]["mem_limit"]) for name in lasting | BY_HAND) <= 8 * GIB
    for name in lasting:
        assert services[name]["restart"] == "unless-stopped", name
        assert "healthcheck" in services[name] or name in OURS, name
    for one in stack.containers(*SERVERS, *OURS):
        assert one.described["HostConfig"]["Memory"] == int(services[one.service]["mem_limit"])
        assert one.described["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert one.described["Config"]["Healthcheck"]["Test"][0] != "NONE", one.service


def test_the_demonstration_runs_on_it_and_finds_everything_equal(stack: Composed) -> None:
    said = stack.in_container("demo", "--attach", "--accounts", "100")
    assert "All 100 balances equal the independent sum, to the last digit." in said
    for model in ("balances: equal", "search: equal", "analytics: equal"):
        assert model in said
    # The command line's other half works there as well.
    assert '"state": "running"' in stack.in_container("status", "--json")


def test_a_program_on_this_machine_deposits_and_reads(stack: Composed) -> None:
    account = new_account()
    env_file = stack.env_file("client")
    stack.daybook(env_file, "open", account, "EUR", "--holder", "Ada Lovelace")
    stack.daybook(env_file, "deposit", account, "200.00 EUR")
    stack.daybook(env_file, "withdraw", account, "49.90 EUR")
    refused = stack.daybook(env_file, "withdraw", account, "1000 EUR", exit_code=1)
    assert "insufficient_funds" in refused
    assert "150.10 EUR" in stack.daybook(env_file, "balance", account, "--at-least", "3", "--timeout", "60")
    assert "Ada Lovelace" in stack.daybook(env_file, "account", account, "--at-least", "3", "--timeout", "60")
    # The events themselves are not for a client, whose trail is the search index.
    assert "150.10" in stack.daybook(env_file, "history", account, "--at-least", "3", "--timeout", "60")
    assert "150.10" in stack.daybook(stack.env_file("operator"), "tail", account, "--no-follow")
    activity = stack.daybook(env_file, "activity", "--json")
    assert json.loads(activity.splitlines()[0])


@contextmanager
def talkative(stack: Composed, *options: str) -> Iterator[None]:
    """The command service logs what it does with each command, which it keeps to itself otherwise."""
    stack.up("--no-deps", *options, "command-service", DAYBOOK_LOG_LEVEL="DEBUG")
    try:
        yield
    finally:
        stack.up("--no-deps", "--scale", "command-service=1", "command-service")


def test_logs_are_json_and_say_what_a_command_belongs_to(stack: Composed) -> None:
    account, command_id, correlation_id = new_account(), str(uuid.uuid4()), f"order-{uuid.uuid4().hex}"
    with talkative(stack):
        with Client(stack.connections("client"), user_id="ada", timeout_s=90) as client:
            with pytest.raises(Refused, match="account_not_found"):
                client.deposit(account, "1.00 EUR", command_id=command_id, correlation_id=correlation_id)
            producer = Producer(client.connections.kafka(message_timeout_ms=60_000))
            producer.produce(client.topics.commands, b"no command", account.encode())
            assert producer.flush(60) == 0
        service = stack.container("command-service")
        until(lambda: any("parked" in line for line in stack.logs(service)), "line about the parked record", 60)
        lines = [json.loads(line) for line in stack.logs(service)]
    for line in lines:
        assert {"timestamp", "level", "logger", "event", "service"} <= line.keys(), line
        assert line["service"] == "command-service"
    (refused,) = [line for line in lines if line.get("correlation_id") == correlation_id]
    assert refused["account_id"] == account
    assert refused["command_id"] == command_id
    assert refused["code"] == "account_not_found"
    (parked,) = [line for line in lines if line["event"].startswith("parked")]
    assert parked["level"] == "warning"
    assert parked["topic"] == "account.commands"
    assert parked["partition"] in range(PARTITIONS)
    assert parked["offset"] >= 0


def test_the_other_services_log_json_too(stack: Composed) -> None:
    for one in stack.containers(*OURS):
        lines = stack.logs(one)
        assert lines, one.service
        for line in lines:
            assert json.loads(line)["service"] == one.service


def members(stack: Composed, group: str) -> list[set[int]]:
    """The partitions of the events or commands that each member of a consumer group has."""
    with AdminClient(stack.connections("operator").kafka()) as admin:
        described = admin.describe_consumer_groups([group], request_timeout=30)[group].result()
    return [{place.partition for place in member.assignment.topic_partitions} for member in described.members]


def shared(stack: Composed, group: str, by: int) -> bool:
    """Whether so many members share all partitions."""
    found = members(stack, group)
    return len(found) == by and all(found) and sorted(p for one in found for p in one) == list(range(PARTITIONS))


def test_a_service_and_a_projector_are_scaled_out_and_back(stack: Composed) -> None:
    topics = stack.connections("operator").topics
    groups = (topics.command_service_group, topics.projector_group("search"))
    scaled = ("command-service", "projector-search")
    stack.up("--no-deps", "--scale", "command-service=2", "--scale", "projector-search=2", *scaled)
    try:
        for group in groups:
            until(lambda group=group: shared(stack, group, 2), f"two members of {group}", 120)
        services = stack.containers("command-service")
        assert len(services) == 2
        numbers = {json.loads(stack.logs(one)[-1])["instance"] for one in services}
        assert numbers == {"0", "1"}
        wanted = {topics.transactional_id(number) for number in numbers}
        accounts = on_each_partition()
        deposit_on(stack, accounts)
        assert transactional_ids(stack) >= wanted
    finally:
        stack.up("--no-deps", "--scale", "command-service=1", "--scale", "projector-search=1", *scaled)
    for group in groups:
        until(lambda group=group: shared(stack, group, 1), f"one member of {group}", 120)
    assert [len(stack.containers(name)) for name in scaled] == [1, 1]
    deposit_on(stack, on_each_partition())


def deposit_on(stack: Composed, accounts: list[str]) -> None:
    with Client(stack.connections("client"), user_id="ada", timeout_s=120) as client:
        for account in accounts:
            client.open_account(account, "EUR", "Ada Lovelace")
            reply = client.deposit(account, "1.00 EUR")
            assert client.balance(account, at_least=reply.sequence).money.amount_minor == 100
            assert client.account(account, at_least=reply.sequence).money.amount_minor == 100


def transactional_ids(stack: Composed) -> set[str]:
    """Those that the broker knows."""
    return {row[0] for row in stack.kafka_transactions("list")}
