"""What the stack refuses, asked by real clients of this machine with the credentials that the stack has made.

`tests/integration/test_access_refusals.py` has every principal and every right; here it is shown that the compose
stack's servers are set up so, with their own images, listeners and files.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from elasticsearch import AuthenticationException, AuthorizationException, Elasticsearch
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from daybook import Client, Refused
from deploy.access import registry
from schemas.connections import Connections
from tests.compose.composed import Composed
from tests.processes import until

PROJECTORS = ("projector-balances", "projector-search", "projector-analytics", "projector-activity")
WRONG = "not-the-password"


def outcomes_of_writing(connections: Connections, topics: Iterable[str]) -> dict[str, KafkaError | None]:
    """What became of a record without content on each of these topics."""
    found: dict[str, KafkaError | None] = {}
    producer = Producer({**connections.kafka(message_timeout_ms=60_000), "log_level": 0})
    for topic in topics:
        producer.produce(topic, b"", b"nobody", on_delivery=lambda error, _, topic=topic: found.update({topic: error}))
    producer.flush(90)
    return found


def outcomes_of_reading(connections: Connections, topics: Iterable[str]) -> dict[str, KafkaError | None]:
    """What reading the beginning of each topic comes to: None for a record, or the end."""
    principal = str(connections.kafka_sasl_username)
    # A group that it may name. It neither joins it nor commits anything to it.
    group = connections.topics.client_group
    if principal in PROJECTORS:
        group = connections.topics.projector_group(principal.removeprefix("projector-"))
    config = connections.kafka(group_id=group, enable_auto_commit=False, enable_partition_eof=True)
    consumer = Consumer({**config, "log_level": 0})
    try:
        return {topic: outcome_of_reading(consumer, topic) for topic in topics}
    finally:
        consumer.close()


def outcome_of_reading(consumer: Consumer, topic: str) -> KafkaError | None:
    # Of a topic that may not even be seen, a consumer does not always tell; the broker does.
    unseen: KafkaError | None = consumer.list_topics(topic, timeout=60).topics[topic].error
    if unseen is not None:
        return unseen
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Message] = []

    def told() -> bool:
        message = consumer.poll(1)
        if message is not None and message.topic() == topic:
            found.append(message)
        return bool(found)

    until(told, f"answer from {topic}", 120)
    error = found[0].error()
    return None if error is None or error.code() == KafkaError._PARTITION_EOF else error


@pytest.mark.parametrize("who", ["client", "operator", *PROJECTORS])
def test_nobody_but_the_command_service_writes_facts(stack: Composed, who: str) -> None:
    connections = stack.connections(who)
    topics = connections.topics
    refused = {topics.events, topics.followups, topics.snapshots, topics.replies, topics.parked}
    if who == "operator":
        # Who erases a holder writes tombstones of what is parked of him.
        refused.discard(topics.parked)
    found = outcomes_of_writing(connections, refused)
    assert found.keys() == refused
    assert {error and error.code() for error in found.values()} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}


def test_a_client_reads_replies_and_no_events(stack: Composed) -> None:
    connections = stack.connections("client")
    topics = connections.topics
    found = outcomes_of_reading(connections, [topics.replies, topics.events, topics.snapshots, topics.commands])
    assert found.pop(topics.replies) is None
    assert {error and error.code() for error in found.values()} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}


def test_projectors_read_events_and_nothing_else(stack: Composed) -> None:
    for who in PROJECTORS:
        connections = stack.connections(who)
        topics = connections.topics
        found = outcomes_of_reading(connections, [topics.events, topics.replies, topics.snapshots])
        assert found.pop(topics.events) is None
        assert {error and error.code() for error in found.values()} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}
        (refusal,) = outcomes_of_writing(connections, [topics.commands]).values()
        assert refusal is not None
        assert refusal.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


def test_a_client_deletes_no_topic_and_grants_itself_nothing(stack: Composed) -> None:
    connections = stack.connections("client")
    with AdminClient(connections.kafka()) as admin:
        deleted = admin.delete_topics([connections.topics.commands], request_timeout=30)
        with pytest.raises(KafkaException) as refusal:
            deleted[connections.topics.commands].result()
    assert refusal.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize("who", ["client", "operator"])
def test_a_reader_changes_no_balance(stack: Composed, who: str) -> None:
    with Redis.from_url(stack.connections(who).redis()) as redis:
        assert redis.ping()
        for command in (
            ("HSET", "balance:A-1", "balance_minor", "1"),
            ("DEL", "balance:A-1"),
            ("ZADD", "balances:EUR", "1", "A-1"),
            ("FCALL", "daybook_apply_balances_3", "0"),
            ("EVAL", "return redis.call('SET', 'balance:A-1', '1')", "0"),
            ("FLUSHALL",),
            ("CONFIG", "SET", "maxmemory", "1"),
        ):
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command)


WRITES: tuple[Callable[[Elasticsearch, str], Any], ...] = (
    lambda client, alias: client.index(index=alias, id="A-1", document={}),
    lambda client, alias: client.delete(index=alias, id="A-1"),
    lambda client, alias: client.indices.delete(index=f"{alias}-000001"),
    lambda client, alias: client.indices.create(index=f"{alias}-000009"),
    lambda client, _: client.cluster.put_settings(persistent={"action.auto_create_index": "true"}),
)


@pytest.mark.parametrize("who", ["client", "operator"])
def test_a_reader_changes_nothing_in_the_search_index(stack: Composed, who: str) -> None:
    connections = stack.connections(who)
    with Elasticsearch(**connections.elasticsearch()) as client:
        client.search(index=connections.indices.accounts)
        for write in WRITES:
            with pytest.raises(AuthorizationException):
                write(client, connections.indices.accounts)


def test_everybody_reads_schemas_and_nobody_registers_one_without_the_token(stack: Composed) -> None:
    url = stack.connections("client").registry_url
    found = requests.get(f"{url}/subjects", timeout=30)
    assert found.status_code == 200
    assert any("Deposit" in subject for subject in found.json())
    foreign_key, _ = registry.new_key()
    schema = {"schema": json.dumps({"type": "record", "name": "Mine", "fields": []})}
    for token in (None, "no-token", registry.token(foreign_key, "admin")):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        for method, path, body in (
            ("POST", "subjects/mine/versions", schema),
            ("PUT", "config", {"compatibility": "NONE"}),
            ("DELETE", f"subjects/{found.json()[0]}", None),
        ):
            answer = requests.request(method, f"{url}/{path}", headers=headers, json=body, timeout=30)
            assert answer.status_code == 401, (method, path, answer.text)
    token = stack.connections("admin").registry_token
    assert token is not None
    subject = f"test-{uuid.uuid4().hex}"
    granted = requests.post(
        f"{url}/subjects/{subject}/versions",
        headers={"Authorization": f"Bearer {token.get_secret_value()}"},
        json=schema,
        timeout=30,
    )
    assert granted.status_code == 200, granted.text


# Wrong passwords, and none.


def altered(stack: Composed, tmp_path: Path, *, password: str | None) -> Path:
    """The client's dotenv file with another password, or with no credentials at all."""
    own = stack.env_file("client").read_text()
    right = str(stack.connections("client").kafka()["sasl.password"])
    assert right in own
    path = tmp_path / "env"
    if password is None:
        lines = [line for line in own.splitlines() if "USERNAME" not in line and "PASSWORD" not in line]
        kept = [line for line in lines if "SASL" not in line and "SECURITY_PROTOCOL" not in line]
        path.write_text("\n".join(kept).replace(f"client:{right}@", ""))
    else:
        path.write_text(own.replace(right, password))
    assert right not in path.read_text()
    return path


ASKED = (("deposit", "A-1", "1.00 EUR"), ("balance", "A-1"), ("account", "A-1"), ("search", "ada"))


@pytest.mark.parametrize("arguments", ASKED, ids=lambda arguments: arguments[0])
def test_a_wrong_password_gets_nowhere_and_is_told_so(
    stack: Composed, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    said = stack.daybook(altered(stack, tmp_path, password=WRONG), *arguments, exit_code=4)
    assert "uthenticat" in said or "refuses the credentials" in said, said
    assert "DAYBOOK_" in said, said
    assert WRONG not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", ASKED, ids=lambda arguments: arguments[0])
def test_no_password_gets_nowhere_either(stack: Composed, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    said = stack.daybook(altered(stack, tmp_path, password=None), *arguments, exit_code=4)
    assert "Traceback" not in said
    assert "DAYBOOK_" in said, said


def test_servers_let_nobody_in_who_does_not_log_in(stack: Composed) -> None:
    connections = stack.connections("client")
    address = connections.redis().rpartition("@")[2]
    with Redis.from_url(f"redis://{address}") as redis, pytest.raises(AuthenticationError):
        redis.ping()
    with (
        Elasticsearch(connections.elasticsearch()["hosts"]) as client,
        pytest.raises((AuthenticationException, AuthorizationException)),
    ):
        client.search(index=connections.indices.accounts)
    plain = Producer({"bootstrap.servers": connections.kafka_bootstrap, "log_level": 0})
    with pytest.raises(KafkaException):
        plain.list_topics(timeout=5)


def test_the_right_password_works(stack: Composed) -> None:
    """With the same clients: the refusals above are not for want of a connection."""
    account = f"C-{uuid.uuid4().hex[:12]}"
    with Client(stack.connections("client"), user_id="ada", timeout_s=90) as client:
        reply = client.open_account(account, "EUR", "Ada Lovelace")
        assert client.balance(account, at_least=reply.sequence).money.amount_minor == 0
        assert client.account(account, at_least=reply.sequence).account_id == account
        with pytest.raises(Refused, match="insufficient_funds"):
            client.withdraw(account, "1.00 EUR")
