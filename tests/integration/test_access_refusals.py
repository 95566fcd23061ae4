"""What a principal may not is refused, by the servers themselves, and a wrong password gets nowhere and says so."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import requests
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import AuthenticationException, AuthorizationException, Elasticsearch
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from daybook import Client, Unreachable
from daybook.audit.keys import generate
from deploy.access import registry
from deploy.access.kafka import Acl
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
    PROJECTORS,
)
from deploy.brokers import Brokers
from deploy.errors import Refused
from schemas.connections import Connections
from tests.processes import Process, free_port, until
from tests.secured import Secured, daybook

WRITERS = {
    "commands": {COMMAND_SERVICE, CLIENT, OPERATOR},
    "followups": {COMMAND_SERVICE},
    "events": {COMMAND_SERVICE},
    "snapshots": {COMMAND_SERVICE},
    "replies": {COMMAND_SERVICE},
    "parked": {COMMAND_SERVICE, OPERATOR},
    "alerts": {PROJECTOR_ACTIVITY},
    "subject_keys": {COMMAND_SERVICE},
    "checkpoints": {AUDITOR},
}
READERS = {
    "commands": {COMMAND_SERVICE, OPERATOR},
    "followups": {COMMAND_SERVICE, OPERATOR},
    "events": {COMMAND_SERVICE, OPERATOR, AUDITOR, *PROJECTORS},
    "snapshots": {COMMAND_SERVICE, OPERATOR},
    "replies": {COMMAND_SERVICE, OPERATOR, CLIENT},
    "parked": {OPERATOR},
    "alerts": {OPERATOR},
    "subject_keys": {COMMAND_SERVICE, PROJECTOR_SEARCH, OPERATOR},
    "checkpoints": {OPERATOR, AUDITOR},
}
WHO = (COMMAND_SERVICE, *PROJECTORS, AUDITOR, CLIENT, OPERATOR)


def written(connections: Connections, topics: Collection[str]) -> dict[str, KafkaError | None]:
    """What became of records without content, one for each topic."""
    outcomes: dict[str, KafkaError | None] = {}
    producer = Producer({**connections.kafka(message_timeout_ms=90_000), "log_level": 0})
    for topic in topics:
        producer.produce(
            topic,
            b"",
            b"nobody",
            partition=0,
            on_delivery=lambda error, _, topic=topic: outcomes.update({topic: error}),
        )
    producer.flush(100)
    return outcomes


def read(connections: Connections, topics: Collection[str]) -> dict[str, KafkaError | None]:
    """What reading the beginning of each topic comes to: None for a record, or the end."""
    found: dict[str, KafkaError | None] = {}
    config = connections.kafka(
        group_id=connections.topics.client_group,
        enable_partition_eof=True,
        # At a partition's end there is nothing to wait for.
        fetch_wait_max_ms=10,
        auto_offset_reset="earliest",
    )
    consumer = Consumer({**config, "log_level": 0})

    def all_told() -> bool:
        message = consumer.poll(1)
        error = None if message is None else message.error()
        # The group, which is only named here, is another matter.
        if message is not None and (error is None or error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED):
            at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
            found.setdefault(str(message.topic()), None if at_end else error)
        return found.keys() == set(topics)

    try:
        # What may not even be seen is never fetched, and nothing is said of it.
        for topic in topics:
            error = consumer.list_topics(topic, timeout=60).topics[topic].error
            if error is not None:
                found[topic] = error
        consumer.assign([TopicPartition(topic, 0, 0) for topic in topics if topic not in found])
        until(all_told, f"answer from all of {topics}")
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("who", WHO)
def test_nobody_writes_where_only_others_may(secured: Secured, who: str) -> None:
    connections = secured.connections(who)
    refused = {getattr(connections.topics, topic) for topic, writers in WRITERS.items() if who not in writers}
    outcomes = written(connections, refused)
    assert outcomes.keys() == refused
    assert {one and one.code() for one in outcomes.values()} == {KafkaError.TOPIC_AUTHORIZATION_FAILED}


@pytest.mark.parametrize("who", WHO)
def test_everybody_reads_what_he_may_and_nothing_else(secured: Secured, who: str) -> None:
    connections = secured.connections(who)
    found = read(connections, [getattr(connections.topics, topic) for topic in READERS])
    may = {topic for topic in READERS if found[getattr(connections.topics, topic)] is None}
    assert may == {topic for topic, readers in READERS.items() if who in readers}
    refusals = {error.code() for error in found.values() if error is not None}
    assert refusals <= {KafkaError.TOPIC_AUTHORIZATION_FAILED}


@pytest.mark.parametrize("who", [CLIENT, OPERATOR, *PROJECTORS])
def test_nobody_takes_the_command_services_place(secured: Secured, who: str) -> None:
    connections = secured.connections(who)
    fencing = connections.kafka(transactional_id=connections.topics.transactional_id("0"))
    with pytest.raises(KafkaException) as refusal:
        Producer({**fencing, "log_level": 0}).init_transactions(90)
    assert refusal.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    joining = connections.kafka(group_id=connections.topics.command_service_group)
    consumer = Consumer({**joining, "log_level": 0})
    try:
        consumer.subscribe([connections.topics.replies if who == CLIENT else connections.topics.events])
        message = until(lambda: consumer.poll(1), "answer from the group")
        assert message.error() is not None
        assert message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    finally:
        consumer.close()


@pytest.mark.parametrize("who", WHO)
def test_nobody_but_the_administrator_changes_topics_or_rights(secured: Secured, who: str) -> None:
    connections = secured.connections(who)
    mine = Acl(who, "all", "topic", "*")
    brokers = Brokers(connections)
    with pytest.raises(Refused, match="log in as its administrator"):
        brokers.allow([mine])
    with pytest.raises(Refused, match="log in as its administrator"):
        brokers.set_passwords({ADMIN: "mine now"})
    with AdminClient(connections.kafka()) as admin:
        deleted = admin.delete_topics([connections.topics.events], request_timeout=60)
        with pytest.raises(KafkaException) as refusal:
            deleted[connections.topics.events].result()
        assert refusal.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        new = admin.create_topics([NewTopic("mine", 1, 1)], request_timeout=60)
        with pytest.raises(KafkaException, match="uthorization"):
            new["mine"].result()


@pytest.mark.parametrize("who", [CLIENT, OPERATOR, COMMAND_SERVICE])
def test_nobody_but_the_administrator_deletes_records_and_the_operator_commands_alone(
    secured: Secured, who: str
) -> None:
    """Parked records go one by one, by tombstones; what an operator deletes up to an offset goes with all before it."""
    connections = secured.connections(who)
    topics = connections.topics
    places = {topic: TopicPartition(topic, 0, 0) for topic in (topics.parked, topics.events, topics.commands)}
    refused: dict[str, int] = {}
    with AdminClient(connections.kafka()) as admin:
        found = admin.delete_records(list(places.values()), request_timeout=60)
        for place, deleted in found.items():
            try:
                deleted.result()
            except KafkaException as error:
                refused[place.topic] = error.args[0].code()
    may = {topics.commands} if who == OPERATOR else set()
    assert refused == dict.fromkeys(places.keys() - may, KafkaError.TOPIC_AUTHORIZATION_FAILED)


REDIS_WRITES = (
    ("HSET", "balance:A-1", "balance_minor", "1"),
    ("DEL", "balance:A-1"),
    ("ZADD", "balances:EUR", "1", "A-1"),
    ("SET", "daybook:hold:balances", "1"),
    ("FCALL", "daybook_apply_balances_3", "0"),
    ("EVAL", "return redis.call('SET', 'balance:A-1', '1')", "0"),
    ("SWAPDB", "0", "1"),
    ("FLUSHDB",),
    ("FLUSHALL",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "SETUSER", "client", "+@all"),
    ("KEYS", "*"),
    ("SHUTDOWN", "NOSAVE"),
)


@pytest.mark.parametrize("command", REDIS_WRITES, ids=lambda command: command[0])
@pytest.mark.parametrize("who", [CLIENT, OPERATOR])
def test_a_reader_changes_nothing_in_redis(secured: Secured, who: str, command: tuple[str, ...]) -> None:
    with Redis.from_url(secured.connections(who).redis()) as redis, pytest.raises(NoPermissionError):
        redis.execute_command(*command)


@pytest.mark.parametrize("command", [("FLUSHDB",), ("FLUSHALL",), ("GET", "other"), ("CONFIG", "GET", "*")])
def test_the_balances_projector_writes_its_own_keys_alone(secured: Secured, command: tuple[str, ...]) -> None:
    with Redis.from_url(secured.connections(PROJECTOR_BALANCES).redis()) as redis, pytest.raises(NoPermissionError):
        redis.execute_command(*command)


@pytest.mark.parametrize("who", [COMMAND_SERVICE, PROJECTOR_SEARCH, PROJECTOR_ANALYTICS, PROJECTOR_ACTIVITY])
def test_who_has_no_business_in_redis_does_not_get_in(secured: Secured, who: str) -> None:
    with Redis.from_url(secured.connections(who).redis()) as redis, pytest.raises(AuthenticationError):
        redis.ping()


def test_nobody_gets_into_redis_without_a_password(secured: Secured) -> None:
    address = secured.connections(CLIENT).redis().rpartition("@")[2]
    with Redis.from_url(f"redis://{address}") as redis, pytest.raises(AuthenticationError):
        redis.ping()


SEARCH_WRITES: dict[str, Callable[[Elasticsearch, str], Any]] = {
    "a document by the alias": lambda client, alias: client.index(index=alias, id="A-1", document={}),
    "a document of an index": lambda client, alias: client.index(index=f"{alias}-000001", id="A-1", document={}),
    "deleting a document": lambda client, alias: client.delete(index=alias, id="A-1"),
    "deleting an index": lambda client, alias: client.indices.delete(index=f"{alias}-000001"),
    "making an index": lambda client, alias: client.indices.create(index=f"{alias}-000009"),
    "moving the alias": lambda client, alias: client.indices.put_alias(index=f"{alias}-000001", name=alias),
    "a template": lambda client, alias: client.indices.put_index_template(name="mine", index_patterns=[f"{alias}-*"]),
    "closing an index": lambda client, alias: client.indices.close(index=f"{alias}-000001"),
    "merging segments": lambda client, alias: client.indices.forcemerge(index=alias),
    "flushing an index": lambda client, alias: client.indices.flush(index=alias),
    "reading past the alias": lambda client, alias: client.search(index=f"{alias}-000001"),
    "a setting": lambda client, _: client.cluster.put_settings(persistent={"action.auto_create_index": "true"}),
}


ERASES = {"a document of an index", "reading past the alias"}
"""What an erasure takes, in indices that a rebuild keeps."""

REFUSED = [(CLIENT, what) for what in SEARCH_WRITES] + [
    (OPERATOR, what) for what in SEARCH_WRITES if what not in ERASES
]


@pytest.mark.parametrize(("who", "what"), REFUSED)
def test_a_reader_changes_nothing_in_elasticsearch(secured: Secured, who: str, what: str) -> None:
    connections = secured.connections(who)
    with (
        Elasticsearch(**connections.elasticsearch(), request_timeout=60) as client,
        pytest.raises(AuthorizationException),
    ):
        SEARCH_WRITES[what](client, connections.indices.accounts)


@pytest.mark.parametrize("what", ["a template", "closing an index", "a setting"])
def test_the_search_projector_changes_nothing_but_its_indices(secured: Secured, what: str) -> None:
    connections = secured.connections(PROJECTOR_SEARCH)
    with Elasticsearch(**connections.elasticsearch(), request_timeout=60) as client:
        with pytest.raises(AuthorizationException):
            SEARCH_WRITES[what](client, connections.indices.accounts)
        with pytest.raises(AuthorizationException):
            client.index(index="others", document={})


@pytest.mark.parametrize("who", [COMMAND_SERVICE, PROJECTOR_BALANCES, PROJECTOR_ANALYTICS, PROJECTOR_ACTIVITY])
def test_who_has_no_business_in_elasticsearch_does_not_get_in(secured: Secured, who: str) -> None:
    connections = secured.connections(who)
    with (
        Elasticsearch(**connections.elasticsearch(), request_timeout=60) as client,
        pytest.raises(AuthenticationException),
    ):
        client.search(index=connections.indices.accounts)


class Schemas:
    """The registry over plain HTTP, with any token or none."""

    def __init__(self, secured: Secured) -> None:
        self.url = secured.connections(CLIENT).registry_url

    def ask(self, method: str, path: str, token: str | None = None, body: object = None) -> int:
        root = self.url.partition("/apis/")[0]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return requests.request(method, f"{root}{path}", headers=headers, json=body, timeout=60).status_code


_CONFLUENT = "/apis/ccompat/v7"
_APICURIO = "/apis/registry/v3"
_SCHEMA = {"schema": json.dumps({"type": "record", "name": "Mine", "fields": []})}

SCHEMA_WRITES = (
    ("POST", f"{_CONFLUENT}/subjects/mine/versions", _SCHEMA),
    ("PUT", f"{_CONFLUENT}/config", {"compatibility": "NONE"}),
    ("PUT", f"{_CONFLUENT}/config/mine", {"compatibility": "NONE"}),
    ("PUT", f"{_CONFLUENT}/mode", {"mode": "READONLY"}),
    ("DELETE", f"{_CONFLUENT}/subjects/mine", None),
    ("POST", f"{_APICURIO}/groups", {"groupId": "mine"}),
    ("POST", f"{_APICURIO}/groups/default/artifacts", {"artifactId": "mine", "artifactType": "AVRO"}),
    ("POST", f"{_APICURIO}/admin/rules", {"ruleType": "VALIDITY", "config": "FULL"}),
    ("GET", f"{_APICURIO}/admin/export", None),
    ("GET", f"{_APICURIO}/admin/config/properties", None),
    ("POST", "/apis/registry/v2/groups/default/artifacts", {}),
)


@pytest.mark.parametrize(("method", "path", "body"), SCHEMA_WRITES)
def test_nobody_changes_schemas_without_the_administrators_token(
    secured: Secured, method: str, path: str, body: object
) -> None:
    schemas = Schemas(secured)
    foreign_key, _ = registry.new_key()
    assert schemas.ask(method, path, None, body) == 401
    assert schemas.ask(method, path, registry.token(foreign_key, ADMIN), body) == 401
    assert schemas.ask(method, path, registry.token(secured.private_key, ADMIN, lifetime_days=-1), body) == 401
    assert schemas.ask(method, path, registry.token(secured.private_key, CLIENT), body) == 403


def test_everybody_reads_schemas(secured: Secured) -> None:
    schemas = Schemas(secured)
    for token in (None, registry.token(secured.private_key, CLIENT), registry.token(secured.private_key, ADMIN)):
        assert schemas.ask("GET", f"{_CONFLUENT}/subjects", token) == 200
        assert schemas.ask("GET", f"{_CONFLUENT}/schemas/ids/1", token) == 200


def test_deploying_schemas_without_a_token_says_what_is_missing(secured: Secured) -> None:
    env = secured.environment(ADMIN, DAYBOOK_NAMESPACE=f"t{uuid.uuid4().hex[:8]}")
    del env["DAYBOOK_REGISTRY_TOKEN"]
    printed = daybook("deploy", "apply", "--partitions", "1", env=env, exit_code=1)
    assert "the administrator's token: set DAYBOOK_REGISTRY_TOKEN" in printed


# A wrong password, and what each program says of it.

WRONG = SecretStr("wrong-password")


def test_a_client_with_a_wrong_password_is_told_so(secured: Secured) -> None:
    connections = secured.connections(CLIENT, kafka_sasl_password=WRONG)
    with Client(connections, user_id="ada", timeout_s=10) as client, pytest.raises(Unreachable) as refusal:
        client.deposit("A-1", "1.00 EUR")
    assert_clear(str(refusal.value), "DAYBOOK_KAFKA_SASL")


def test_a_reader_with_a_wrong_password_is_told_so(secured: Secured) -> None:
    right = secured.connections(CLIENT)
    redis_url = right.redis().replace(secured.passwords[CLIENT], WRONG.get_secret_value())
    connections = right.model_copy(update={"redis_url": SecretStr(redis_url), "elasticsearch_password": WRONG})
    with Client(connections, user_id="ada", timeout_s=10) as client:
        with pytest.raises(Unreachable) as refusal:
            client.balance("A-1")
        assert_clear(str(refusal.value), "DAYBOOK_REDIS_URL")
        with pytest.raises(Unreachable) as refusal:
            client.account("A-1")
        assert_clear(str(refusal.value), "DAYBOOK_ELASTICSEARCH")


@pytest.mark.parametrize(
    ("who", "program"),
    [
        (COMMAND_SERVICE, ("command_service",)),
        (PROJECTOR_BALANCES, ("projectors", "balances")),
        (PROJECTOR_SEARCH, ("projectors", "search")),
        (PROJECTOR_ACTIVITY, ("projectors", "activity")),
    ],
)
def test_a_program_with_a_wrong_password_for_kafka_ends_and_says_so(
    secured: Secured, tmp_path: Path, who: str, program: tuple[str, ...]
) -> None:
    mine = {"DAYBOOK_KAFKA_SASL_PASSWORD": WRONG.get_secret_value(), "DAYBOOK_ACTIVITY_PORT": str(free_port())}
    env = secured.environment(who, **mine)
    assert_ends(Process(*program, env=env, log=tmp_path / "log"), "DAYBOOK_KAFKA_SASL")


def test_the_auditor_with_a_wrong_password_ends_and_says_so(secured: Secured, tmp_path: Path) -> None:
    generate(tmp_path / "audit.pem")
    more = {"DAYBOOK_KAFKA_SASL_PASSWORD": WRONG.get_secret_value(), "DAYBOOK_AUDIT_KEY_FILE": f"{tmp_path}/audit.pem"}
    env = secured.environment(AUDITOR, **more)
    assert_ends(
        Process("daybook", "audit", "checkpoint", "--watch", env=env, log=tmp_path / "log"), "DAYBOOK_KAFKA_SASL"
    )


def test_a_projector_with_a_wrong_password_for_its_sink_ends_and_says_so(secured: Secured, tmp_path: Path) -> None:
    url = secured.connections(PROJECTOR_BALANCES).redis()
    wrong = url.replace(secured.passwords[PROJECTOR_BALANCES], WRONG.get_secret_value())
    balances = secured.environment(PROJECTOR_BALANCES, DAYBOOK_REDIS_URL=wrong)
    assert_ends(Process("projectors", "balances", env=balances, log=tmp_path / "balances"), "DAYBOOK_REDIS_URL")
    search = secured.environment(PROJECTOR_SEARCH, DAYBOOK_ELASTICSEARCH_PASSWORD=WRONG.get_secret_value())
    assert_ends(Process("projectors", "search", env=search, log=tmp_path / "search"), "DAYBOOK_ELASTICSEARCH")


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (("deposit", "A-1", "1.00 EUR"), 4),
        (("tail", "--no-follow"), 4),
        (("verify", "models", "balances"), 4),
        (("deploy", "apply", "--check"), 1),
        (("deploy", "access", "--check"), 1),
    ],
)
def test_the_command_line_with_a_wrong_password_says_so(
    secured: Secured, arguments: tuple[str, ...], exit_code: int
) -> None:
    env = secured.environment(
        OPERATOR,
        DAYBOOK_KAFKA_SASL_PASSWORD=WRONG.get_secret_value(),
        DAYBOOK_DEPLOY_PASSWORDS=str(secured.passwords_file()),
        DAYBOOK_USER="ada",
    )
    assert_clear(daybook(*arguments, env=env, exit_code=exit_code), "DAYBOOK_KAFKA_SASL")


@pytest.mark.parametrize("model", ["balances", "search"])
def test_a_rebuild_by_somebody_who_may_not_says_who_may(secured: Secured, model: str) -> None:
    said = daybook("rebuild", model, env=secured.environment(OPERATOR), exit_code=5)
    assert f"operator may not read in the consumer group {secured.namespace}.daybook.projector.{model}.rebuild" in said
    assert f"rebuild as the projector of {model}" in said


def assert_ends(process: Process, setting: str) -> None:
    process.start()
    try:
        assert process.wait(120) in (1, 2), process.output
        assert_clear(process.output, setting)
    finally:
        if process.running():
            process.stop()


def assert_clear(message: str, setting: str) -> None:
    """It says that the credentials are at fault and where they are set, and does not show them."""
    assert "uthenticat" in message or "refuses the credentials" in message, message
    assert setting in message, message
    assert WRONG.get_secret_value() not in message
    assert "Traceback" not in message, message
