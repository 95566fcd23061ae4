"""`daybook deploy access` on a Kafka that knows its administrator alone: bringing, checking, rotating, repairing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from deploy.access.kafka import Acl, wanted_acls
from deploy.access.principals import ADMIN, CLIENT, OPERATOR, SCRAM_PRINCIPALS
from deploy.brokers import Brokers
from schemas.connections import Connections
from tests.secured import Secured, daybook, new_passwords, running

NOTHING_TO_DO = "nothing to do: all is as it should be\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with running(tmp_path_factory.mktemp("bare") / "servers") as run:
        run.start("kafka")
        yield run.secured


@pytest.fixture
def secured(bare: Secured) -> Secured:
    """With everybody's credentials and rights as they should be."""
    access(bare)
    return bare


def access(secured: Secured, *options: str, exit_code: int = 0, **more: str) -> str:
    file = str(secured.passwords_file())
    printed = daybook(
        "deploy", "access", "--passwords", file, *options, env=secured.environment(ADMIN, **more), exit_code=exit_code
    )
    assert not any(password in printed for password in secured.passwords.values()), printed
    return printed


def logs_in(connections: Connections) -> bool:
    """Whether Kafka lets somebody in; silence is neither, and fails the test."""
    assert connections.kafka_sasl_username is not None
    assert connections.kafka_sasl_password is not None
    name = connections.kafka_sasl_username
    return name not in Brokers(connections).refused({name: connections.kafka_sasl_password.get_secret_value()})


def test_from_nothing_everybody_gets_a_credential_and_rights_once(bare: Secured) -> None:
    others = [name for name in SCRAM_PRINCIPALS if name != ADMIN]
    checked = access(bare, "--check", exit_code=1)
    for name in others:
        assert f"principal {name} has no credential in Kafka\n" in checked
        assert f"principal {name} lacks rights in Kafka: " in checked
    assert not logs_in(bare.connections(CLIENT))
    done = access(bare)
    assert done.endswith(f"{2 * len(others)} put right\n")
    assert all(logs_in(bare.connections(name)) for name in SCRAM_PRINCIPALS)
    assert access(bare) == NOTHING_TO_DO
    assert access(bare, "--check") == NOTHING_TO_DO


def test_a_changed_password_is_noticed_and_set(secured: Secured) -> None:
    changed = replace(secured, passwords={**secured.passwords, CLIENT: new_passwords()[CLIENT]})
    assert access(changed, "--check", exit_code=1) == "principal client has another password in Kafka\n1 differ\n"
    assert logs_in(secured.connections(CLIENT))
    assert access(changed) == "principal client has another password in Kafka: changed\n1 put right\n"
    assert not logs_in(secured.connections(CLIENT))
    assert logs_in(changed.connections(CLIENT))
    assert access(secured) == "principal client has another password in Kafka: changed\n1 put right\n"


def test_the_administrators_own_password_is_changed_by_logging_in_with_the_old_one(secured: Secured) -> None:
    old, new = secured.passwords[ADMIN], new_passwords()[ADMIN]
    changed = replace(secured, passwords={**secured.passwords, ADMIN: new})
    refusal = access(changed, exit_code=1)
    assert "DAYBOOK_KAFKA_SASL" in refusal
    done = access(changed, DAYBOOK_KAFKA_SASL_PASSWORD=old)
    assert done == "principal admin has another password in Kafka: changed\n1 put right\n"
    assert access(changed) == NOTHING_TO_DO
    access(secured, DAYBOOK_KAFKA_SASL_PASSWORD=new)


def test_rights_too_many_and_too_few_are_put_right(secured: Secured) -> None:
    brokers = Brokers(secured.connections(ADMIN))
    topics = secured.connections(ADMIN).topics
    extra, lacking = Acl(CLIENT, "read", "topic", topics.events), Acl(OPERATOR, "read", "topic", topics.events)
    brokers.allow([extra])
    brokers.disallow([lacking])
    problems = [
        f"principal client has rights in Kafka that it should not have: {extra}",
        f"principal operator lacks rights in Kafka: {lacking}",
    ]
    assert access(secured, "--check", exit_code=1).splitlines() == [*problems, "2 differ"]
    assert access(secured).splitlines() == [
        f"{problems[0]}: taken away",
        f"{problems[1]}: given",
        "2 put right",
    ]
    assert brokers.acls() == wanted_acls(topics)


def test_a_denial_is_left_and_told_each_time(secured: Secured) -> None:
    brokers = Brokers(secured.connections(ADMIN))
    denial = Acl(CLIENT, "write", "topic", secured.connections(ADMIN).topics.commands, allows=False)
    brokers.allow([denial])
    try:
        found = json.loads(access(secured, "--json"))
        assert [one["kind"] for one in found["differences"]] == ["denying_acl"]
        assert found["left"] == 1
        assert denial in brokers.acls()
    finally:
        brokers.disallow([denial])


def test_without_a_file_it_says_what_is_missing(secured: Secured) -> None:
    printed = daybook("deploy", "access", env=secured.environment(ADMIN), exit_code=4)
    assert "Give --passwords, or set DAYBOOK_DEPLOY_PASSWORDS" in printed


def test_where_nobody_logs_in_passwords_are_refused(secured: Secured) -> None:
    printed = access(secured, exit_code=1, DAYBOOK_KAFKA_SECURITY_PROTOCOL="PLAINTEXT")
    assert "where nobody logs in with one" in printed
