"""Every program does its whole work as its own principal: what it needs, it may."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from daybook import Client
from daybook.activity import ActivitySettings
from daybook.audit.keys import generate, public_file
from daybook.status import ProgramStatus, State, status
from deploy.access.principals import (
    ADMIN,
    AUDITOR,
    CLIENT,
    COMMAND_SERVICE,
    OPERATOR,
    PROJECTOR_ACTIVITY,
    PROJECTOR_ANALYTICS,
    PROJECTOR_BALANCES,
    PROJECTOR_SEARCH,
)
from deploy.stack.ports import choose
from deploy.stack.server import Port
from tests.processes import Process, until
from tests.secured import Secured, daybook
from tests.wire import Wire, configure

_PROGRAMS = {
    COMMAND_SERVICE: ("command_service",),
    PROJECTOR_BALANCES: ("projectors", "balances"),
    PROJECTOR_SEARCH: ("projectors", "search"),
    PROJECTOR_ANALYTICS: ("projectors", "analytics"),
    PROJECTOR_ACTIVITY: ("projectors", "activity"),
    AUDITOR: ("daybook", "audit", "checkpoint", "--every", "1"),
}

_WITHDRAWALS = 12


@dataclass(frozen=True)
class Programs:
    """All programs of a ledger, each as its own principal, and an account that money has moved on."""

    secured: Secured
    processes: dict[str, Process]
    port: int
    account_id: str
    audit_public_key: Path

    def environment(self, principal: str) -> dict[str, str]:
        return self.secured.environment(principal, DAYBOOK_ACTIVITY_PORT=str(self.port))


@pytest.fixture(scope="module")
def programs(secured: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    logs = tmp_path_factory.mktemp("programs")
    port = choose([Port("activity", "--activity-port", 0)], {}, {}, free_ports=True)["activity"]
    audit_key = logs / "audit.pem"
    generate(audit_key)
    more = {"DAYBOOK_ACTIVITY_PORT": str(port), "DAYBOOK_ACTIVITY_ALERT_COUNT": "2"}
    processes = {
        principal: Process(
            *program,
            env=secured.environment(
                principal, **more, **({"DAYBOOK_AUDIT_KEY_FILE": str(audit_key)} if principal == AUDITOR else {})
            ),
            log=logs / f"{principal}.log",
        )
        for principal, program in _PROGRAMS.items()
    }
    for process in processes.values():
        process.start()
    account_id = f"S-{uuid.uuid4()}"
    try:
        processes[COMMAND_SERVICE].said("restored ")
        with Client(secured.connections(CLIENT), user_id="ada", timeout_s=60) as client:
            client.open_account(account_id, "EUR", "Ada Lovelace")
            client.deposit(account_id, "100.00 EUR")
            for _ in range(_WITHDRAWALS):
                client.withdraw(account_id, "1.00 EUR")
        yield Programs(secured, processes, port, account_id, public_file(audit_key))
    finally:
        statuses = {name: process.stop() if process.running() else None for name, process in processes.items()}
        for name, process in processes.items():
            print(f"--- {name}\n{process.output[-3000:]}")
    assert set(statuses.values()) == {0}, statuses


def test_a_client_reads_its_writes_from_both_models(programs: Programs) -> None:
    with Client(programs.secured.connections(CLIENT), user_id="ada", timeout_s=60) as client:
        reply = client.deposit(programs.account_id, "3.00 EUR")
        assert reply.sequence is not None
        balance = client.balance(programs.account_id, at_least=reply.sequence)
        view = client.account(programs.account_id, at_least=reply.sequence)
        assert balance.money == view.money
        # A search shows it up to a second later.
        found = until(lambda: client.search("lovelace").accounts, "account that is found by its holder")
        assert [one.account_id for one in found] == [programs.account_id]
        trail = list(client.history(programs.account_id, at_least=reply.sequence))
        assert [entry.sequence for entry in trail] == list(range(1, reply.sequence + 1))
        assert programs.account_id in [one.account_id for one in client.top("EUR")]


def test_the_auditor_signs_what_is_recorded_and_the_operator_verifies_it(programs: Programs, tmp_path: Path) -> None:
    env = programs.environment(OPERATOR) | {"DAYBOOK_AUDIT_PUBLIC_KEY_FILE": str(programs.audit_public_key)}
    programs.processes[AUDITOR].said("checkpoint 1 of ")

    def proof() -> str | None:
        # The event is in a checkpoint a second later at most.
        try:
            return daybook("audit", "prove", programs.account_id, "2", env=env)
        except AssertionError:
            return None

    file = tmp_path / "proof.json"
    printed = until(proof, "proof of the first deposit")
    # Beside it, it may say how far it is.
    file.write_text(printed[printed.index("{") : printed.rindex("}") + 1])
    assert "proven: event" in daybook("audit", "check", str(file), env=env)
    assert "nothing is wrong" in daybook("audit", "verify", env=env)


def test_the_operator_sees_every_program_at_work_and_every_model_equal_to_the_log(programs: Programs) -> None:
    env = programs.environment(OPERATOR)
    connections = programs.secured.connections(OPERATOR)
    activity = ActivitySettings(activity_port=programs.port)

    def not_running() -> dict[str, ProgramStatus]:
        found = status(connections, timeout_s=30, activity=activity)
        return {one.program: one for one in found if one.state is not State.RUNNING or one.problems}

    until(lambda: not not_running(), "status in which all programs run")
    printed = daybook("verify", "models", "--json", env=env)
    # Beside them it may say how far it is.
    verdicts = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert {verdict["model"] for verdict in verdicts} == {"balances", "search", "analytics"}
    assert daybook("tail", "--json", "--no-follow", env=env).count("MoneyWithdrawn") >= _WITHDRAWALS
    assert programs.account_id in daybook("history", programs.account_id, "--json", env=env)


def test_the_past_is_read_by_whoever_may_read_the_model_and_the_log(programs: Programs) -> None:
    operator, client = programs.environment(OPERATOR), programs.environment(CLIENT)
    trail = daybook("history", programs.account_id, "--from-log", env=operator)
    # The audit index and the log's identity could be asked.
    assert "withdrew" in trail
    assert "is of no use" not in trail

    def same(*command: str) -> bool:
        """Whether the operator, from either source, and a client get the same."""
        found = {daybook(*command, *more, env=operator) for more in ((), ("--from-log",))}
        return found == {daybook(*command, env=client)}

    # A search shows up to a second later what the log has.
    until(lambda: same("as-of", programs.account_id, "--json", "--sealed"), "state that all sources agree on")
    # A client may not read the keys of holders.
    whose = [json.loads(daybook("as-of", programs.account_id, "--json", env=env)) for env in (operator, client)]
    assert "[sealed]" not in json.dumps(whose[0])
    assert "[sealed]" in json.dumps(whose[1])
    until(lambda: same("balances", "--json"), "balances that all sources agree on")


def test_the_activity_raises_alerts_and_keeps_its_tables(programs: Programs, secured: Secured) -> None:
    env = programs.environment(OPERATOR)
    until(lambda: programs.account_id in daybook("activity", "--json", env=env), "alert")
    with AdminClient(secured.connections(ADMIN).kafka()) as admin:
        changelogs = [name for name in admin.list_topics(timeout=30).topics if name.endswith("-changelog")]
    assert len(changelogs) == 4


@pytest.mark.parametrize(
    ("principal", "model"),
    [(PROJECTOR_BALANCES, "balances"), (PROJECTOR_SEARCH, "search"), (PROJECTOR_ANALYTICS, "analytics")],
)
def test_a_projector_rebuilds_its_model_and_goes_back(programs: Programs, principal: str, model: str) -> None:
    env = programs.environment(principal)
    daybook("rebuild", model, "--compare-only", env=env)
    daybook("rebuild", model, "--keep-old", env=env)
    daybook("rebuild", "rollback", model, env=env)
    daybook("rebuild", model, "--keep-old", env=env)
    daybook("rebuild", "discard", model, env=env)
    daybook("verify", "models", model, env=programs.environment(OPERATOR))


def test_what_is_deployed_is_as_it_should_be_whoever_has_worked_on_it(programs: Programs, secured: Secured) -> None:
    administrator = secured.environment(ADMIN)
    told = "DAYBOOK_DEPLOY_PASSWORDS is not set: credentials and access rights are left alone\n"
    well = "nothing to do: all is as it should be\n"
    assert daybook("deploy", "apply", "--check", env=administrator) == told + well
    passwords = {"DAYBOOK_DEPLOY_PASSWORDS": str(secured.passwords_file())}
    assert daybook("deploy", "apply", env=administrator | passwords) == well


def test_the_operator_erases_a_holder_and_deletes_what_says_his_name(programs: Programs) -> None:
    """Who deploys shortens how long commands and parked records stay, so that it is due at once."""
    env, account_id = programs.environment(OPERATOR), f"S-{uuid.uuid4()}"
    topics = programs.secured.connections(ADMIN).topics
    with AdminClient(programs.secured.connections(ADMIN).kafka()) as admin:
        configure(admin, topics.commands, {"segment.ms": "1000"})
        configure(admin, topics.parked, {"segment.ms": "1000", "max.compaction.lag.ms": "1000"})
    with Client(programs.secured.connections(CLIENT), user_id="ada", timeout_s=60) as client:
        client.open_account(account_id, "EUR", "Grace Hopper")
        with Wire(programs.secured.connections(CLIENT), 2) as wire:
            wire.put(b"not avro, Grace Hopper", key=account_id.encode())
            wire.flush()
        until(lambda: "Grace Hopper" in daybook("parked", "list", env=env), "parked record")
    erased = daybook("erase", account_id, "--yes", "--no-wait", env=env, exit_code=3)
    assert f"the key of {account_id} is gone" in erased
    assert "Grace Hopper" not in daybook("parked", "list", env=env)

    def deleted() -> str:
        said = daybook("erase", account_id, "--verify", "--text", "Grace Hopper", env=env, exit_code=3)
        assert "may not" not in said
        return said if "OpenAccount in plaintext" not in said and "a text of the holder's" not in said else ""

    said = until(deleted, "deletion of the command and of the parked record")
    assert "found" not in said
