"""Deploying definitions to a real Kafka, a real registry and a real Elasticsearch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import elasticsearch
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from pydantic import SecretStr

from deploy.definitions import apply, plan
from deploy.differences import (
    CompatibilityDiffers,
    IncompatibleSchema,
    IndexFieldDiffers,
    IndexLacksField,
    MissingSchema,
    MissingSubject,
    MissingTemplate,
    MissingTopic,
    TemplateDiffers,
    TopicConfigDiffers,
)
from deploy.errors import Refused, Unreachable
from deploy.indices import template_definitions
from deploy.wanted import DEFAULT_PARTITIONS, subject_definitions, topic_definitions
from schemas.codec import Codec
from schemas.connections import Connections
from schemas.registry import Registry
from schemas.released import ReleasedSchema, newest, released
from schemas.topics import subject
from tests.conftest import PARTITIONS
from tests.processes import environment, until

UNFREEZE = "daybook.account.command.Unfreeze"
NOBODY_LISTENS = "127.0.0.1:1"
TIMEOUT_S = 30


class Cluster:
    """A ledger's topics, seen with Kafka's own client."""

    def __init__(self, connections: Connections) -> None:
        self._prefix = f"{connections.namespace}."
        self._admin = AdminClient(connections.kafka())

    def partitions(self) -> dict[str, int]:
        topics = self._admin.list_topics(timeout=TIMEOUT_S).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if name.startswith(self._prefix)}

    def configs(self, topic: str) -> dict[str, str | None]:
        (future,) = self._admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
        return {name: entry.value for name, entry in future.result(timeout=TIMEOUT_S).items()}

    def set_config(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        (future,) = self._admin.incremental_alter_configs([resource]).values()
        future.result(timeout=TIMEOUT_S)

    def create(self, topic: str, count: int) -> None:
        (future,) = self._admin.create_topics([NewTopic(topic, count, 1)]).values()
        future.result(timeout=TIMEOUT_S)
        until(lambda: topic in self.partitions(), topic)

    def delete(self, topic: str) -> None:
        (future,) = self._admin.delete_topics([topic]).values()
        future.result(timeout=TIMEOUT_S)
        until(lambda: topic not in self.partitions(), f"end of {topic}")


@pytest.fixture
def cluster(connections: Connections) -> Cluster:
    return Cluster(connections)


@pytest.fixture
def registry(connections: Connections) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(connections.registry()) as client:
        yield client


@pytest.fixture
def search(connections: Connections) -> Iterator[elasticsearch.Elasticsearch]:
    with elasticsearch.Elasticsearch(**connections.elasticsearch(), request_timeout=TIMEOUT_S) as client:
        yield client
        for index in client.indices.get(index=f"{connections.namespace}.*", expand_wildcards="all").body:
            client.indices.delete(index=index)


def avro(schema: ReleasedSchema, *more_fields: dict[str, object]) -> Schema:
    record = json.loads(schema.text)
    return Schema(json.dumps({**record, "fields": [*record["fields"], *more_fields]}), "AVRO")


def deploy(connections: Connections, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "deploy.cli", "apply", *arguments],
        env=environment(connections),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )
    # What it remarks where servers want passwords, to which it is given none here.
    remark = "DAYBOOK_DEPLOY_PASSWORDS is not set: credentials and access rights are left alone\n"
    if connections.kafka_security_protocol.startswith("SASL"):
        done.stderr = done.stderr.replace(remark, "")
    return done


def test_a_new_ledger_gets_all_topics_and_subjects(connections: Connections, cluster: Cluster) -> None:
    wanted = topic_definitions(connections.topics, PARTITIONS)
    found = apply(connections, partitions=PARTITIONS)
    kinds = [MissingTopic] * len(wanted) + [MissingSubject] * len(newest()) + [MissingTemplate] * 2
    assert [type(one) for one in found] == kinds
    assert cluster.partitions() == {topic.name: topic.partitions for topic in wanted}
    assert [topic.name for topic in wanted if topic.partitions != PARTITIONS] == [connections.topics.checkpoints]
    for topic in wanted:
        assert topic.configs.items() <= cluster.configs(topic.name).items()


def test_applying_again_finds_nothing_to_do_whatever_the_count_was(deployed: Connections) -> None:
    assert PARTITIONS != DEFAULT_PARTITIONS
    assert plan(deployed) == []
    assert apply(deployed) == []
    assert apply(deployed, partitions=PARTITIONS) == []


def test_planning_changes_nothing(connections: Connections, cluster: Cluster, registry: SchemaRegistryClient) -> None:
    first = plan(connections)
    assert first
    assert plan(connections) == first
    assert cluster.partitions() == {}
    assert not [name for name in registry.get_subjects() if name.startswith(connections.namespace)]


def test_services_find_every_schema_under_the_id_it_was_registered_with(
    deployed: Connections, registry: SchemaRegistryClient
) -> None:
    with Registry(deployed) as lookups:
        for wanted in subject_definitions(deployed.topics):
            for schema in wanted.versions:
                found = lookups.schema_id(wanted.name, schema.text)
                assert registry.register_schema(wanted.name, avro(schema)) == found
                assert json.loads(lookups.schema(found)) == json.loads(schema.text)
        codec = Codec(lookups)
        codec.look_up_commands(deployed.topics.commands)
        codec.look_up_replies(deployed.topics.replies)
        codec.look_up_events(deployed.topics.events)


def test_settings_that_differ_are_set_and_others_left_alone(deployed: Connections, cluster: Cluster) -> None:
    events = deployed.topics.events
    cluster.set_config(events, "cleanup.policy", "delete")
    cluster.set_config(events, "retention.ms", "1234567890")
    cluster.set_config(events, "segment.bytes", "104857600")
    cluster.set_config(deployed.topics.commands, "max.message.bytes", "2000000")
    # Brokers serve a changed setting a moment after they took it.
    until(lambda: len(plan(deployed)) == 3, "differences that were made")
    assert set(apply(deployed)) == {
        TopicConfigDiffers(deployed.topics.commands, "max.message.bytes", "2000000", "1048576"),
        TopicConfigDiffers(events, "cleanup.policy", "delete", "compact"),
        TopicConfigDiffers(events, "retention.ms", "1234567890", "-1"),
    }
    until(lambda: plan(deployed) == [], "settings as wanted")
    assert cluster.configs(events)["segment.bytes"] == "104857600"


@pytest.mark.parametrize("lost", ["commands", "parked"])
def test_a_lost_topic_comes_back_with_the_ledgers_count(deployed: Connections, cluster: Cluster, lost: str) -> None:
    topic = getattr(deployed.topics, lost)
    cluster.delete(topic)
    (difference,) = apply(deployed)
    assert isinstance(difference, MissingTopic)
    assert cluster.partitions()[topic] == PARTITIONS


def test_a_changed_partition_count_is_refused_and_nothing_else_is_done(deployed: Connections, cluster: Cluster) -> None:
    cluster.set_config(deployed.topics.events, "retention.ms", "1234567890")
    cluster.delete(deployed.topics.parked)
    with pytest.raises(Refused, match=rf"{deployed.topics.events} has {PARTITIONS} partitions, wanted 5"):
        apply(deployed, partitions=5)
    found = cluster.partitions()
    assert found.pop(deployed.topics.checkpoints) == 1
    assert set(found.values()) == {PARTITIONS}
    assert deployed.topics.parked not in cluster.partitions()
    assert cluster.configs(deployed.topics.events)["retention.ms"] == "1234567890"


def test_counts_that_disagree_are_refused_although_none_was_asked_for(
    connections: Connections, cluster: Cluster
) -> None:
    cluster.create(connections.topics.commands, 3)
    cluster.create(connections.topics.events, 2)
    with pytest.raises(Refused, match=r"account\.events has 2 partitions, wanted 3"):
        apply(connections)
    assert cluster.partitions() == {connections.topics.commands: 3, connections.topics.events: 2}


def test_more_replicas_than_brokers_are_refused(connections: Connections, cluster: Cluster) -> None:
    with pytest.raises(Refused, match="replication 9 needs as many brokers"):
        apply(connections, replication=9)
    assert cluster.partitions() == {}


def test_the_registry_refuses_an_incompatible_change_of_any_subject(
    deployed: Connections, registry: SchemaRegistryClient
) -> None:
    for wanted in subject_definitions(deployed.topics):
        changed = avro(wanted.versions[-1], {"name": "mandatory", "type": "string"})
        with pytest.raises(SchemaRegistryError) as caught:
            registry.register_schema(wanted.name, changed)
        assert caught.value.http_status_code == 409


def test_a_lowered_compatibility_is_raised_again(deployed: Connections, registry: SchemaRegistryClient) -> None:
    unfreeze = subject(deployed.topics.commands, UNFREEZE)
    registry.set_compatibility(unfreeze, "BACKWARD")
    assert apply(deployed) == [CompatibilityDiffers(unfreeze, "BACKWARD")]
    assert registry.get_compatibility(unfreeze) == "FULL_TRANSITIVE"
    assert plan(deployed) == []


def test_a_missing_version_joins_those_that_are_there(deployed: Connections, registry: SchemaRegistryClient) -> None:
    unfreeze = subject(deployed.topics.commands, UNFREEZE)
    versions = [schema for schema in released() if schema.name == UNFREEZE]
    registry.delete_subject(unfreeze)
    registry.delete_subject(unfreeze, permanent=True)
    registry.set_compatibility(unfreeze, "FULL_TRANSITIVE")
    theirs = avro(versions[-1], {"name": "until", "type": ["null", "long"], "default": None})
    registry.register_schema(unfreeze, theirs)
    assert apply(deployed) == [MissingSchema(unfreeze, schema) for schema in versions]
    assert registry.get_versions(unfreeze) == list(range(1, len(versions) + 2))
    assert plan(deployed) == []


@pytest.mark.parametrize("level", ["FULL_TRANSITIVE", "NONE"])
def test_a_subject_that_holds_something_else_is_refused(
    connections: Connections, cluster: Cluster, registry: SchemaRegistryClient, level: str
) -> None:
    unfreeze, schema = subject(connections.topics.commands, UNFREEZE), newest()[UNFREEZE]
    registry.set_compatibility(unfreeze, level)
    registry.register_schema(unfreeze, avro(schema, {"name": "mandatory", "type": "string"}))
    if level == "FULL_TRANSITIVE":
        assert IncompatibleSchema(unfreeze, schema) in plan(connections)
        with pytest.raises(Refused, match=r"Unfreeze is not FULL_TRANSITIVE compatible"):
            apply(connections)
        assert cluster.partitions() == {}
    else:
        # Only under its own level does the registry say so, which is set on the way.
        with pytest.raises(Refused, match=r"v1 of daybook\.account\.command\.Unfreeze could not be registered"):
            apply(connections)
    assert registry.get_versions(unfreeze) == [1]


def test_indices_are_made_as_the_templates_say(deployed: Connections, search: elasticsearch.Elasticsearch) -> None:
    for template in template_definitions(deployed.indices):
        index = f"{template.alias}-000001"
        with pytest.raises(elasticsearch.NotFoundError, match="index_not_found"):
            search.index(index=index, document={"account_id": "A-1"})
        search.indices.create(index=index, aliases={template.alias: {}})
        mappings = search.indices.get_mapping(index=index)[index]["mappings"]
        assert (mappings["dynamic"], mappings["properties"]) == ("strict", template.properties)
        search.index(index=index, document={"account_id": "A-1", "checkpoint": {"anything": ["goes", {"here": 1}]}})
        with pytest.raises(elasticsearch.BadRequestError, match="strict_dynamic_mapping"):
            search.index(index=index, document={"account_id": "A-1", "typo": 1})
        # Longer than Lucene's longest term.
        search.index(index=index, document={"account_id": "€" * 20_000, "holder_name": "x" * 300})
        assert search.cluster.health(index=index)["status"] == "green"
    assert plan(deployed) == []


def test_names_are_sorted_as_people_sort_them(deployed: Connections, search: elasticsearch.Elasticsearch) -> None:
    index = f"{deployed.indices.accounts}-000001"
    search.indices.create(index=index)
    for name in ("bob", "Ada", "Émile", "Charles"):
        search.index(index=index, document={"holder_name": name}, refresh=True)
    hits = search.search(index=index, sort=[{"holder_name.sort": "asc"}])["hits"]["hits"]
    assert [hit["_source"]["holder_name"] for hit in hits] == ["Ada", "bob", "Charles", "Émile"]
    found = search.search(index=index, query={"term": {"holder_name.keyword": "Ada"}})
    assert found["hits"]["total"]["value"] == 1


def test_a_template_that_was_changed_is_put_right_and_keeps_an_operators_settings(
    deployed: Connections, search: elasticsearch.Elasticsearch
) -> None:
    accounts, _ = template_definitions(deployed.indices)
    properties = {**accounts.properties, "status": {"type": "text"}}
    search.indices.put_index_template(
        name=accounts.name,
        index_patterns=[accounts.pattern],
        priority=accounts_priority(search, accounts.name),
        allow_auto_create=True,
        template={
            "settings": {"number_of_shards": 2, "codec": "best_compression"},
            "mappings": {"dynamic": "strict", "properties": properties},
        },
    )
    (difference,) = apply(deployed)
    assert isinstance(difference, TemplateDiffers)
    assert difference.problem == (
        f"index template {accounts.name} differs in allow_auto_create, field status, setting "
        "index.auto_expand_replicas, setting index.refresh_interval, setting index.merge.policy.expunge_deletes_allowed"
    )
    assert plan(deployed) == []
    found = search.indices.get_index_template(name=accounts.name, flat_settings=True)["index_templates"][0]
    assert found["index_template"]["template"]["settings"] == {
        **accounts.settings,
        "index.number_of_shards": "2",
        "index.codec": "best_compression",
    }


def accounts_priority(search: elasticsearch.Elasticsearch, name: str) -> int:
    (found,) = search.indices.get_index_template(name=name)["index_templates"]
    priority: int = found["index_template"]["priority"]
    return priority


def test_an_older_index_gets_the_fields_that_it_lacks_and_keeps_those_of_another_kind(
    deployed: Connections, search: elasticsearch.Elasticsearch
) -> None:
    accounts, _ = template_definitions(deployed.indices)
    # A template of higher priority takes the place of the whole other one.
    older = {name: field for name, field in accounts.properties.items() if name != "closed_at"}
    older |= {"holder_name": {"type": "text"}, "balance_minor": {"type": "keyword", "ignore_above": 10}}
    index = f"{accounts.alias}-000001"
    search.indices.put_index_template(
        name=f"{accounts.name}-older",
        index_patterns=[accounts.pattern],
        priority=1000,
        template={"mappings": {"dynamic": "strict", "_meta": {"log": "kept"}, "properties": older}},
    )
    search.indices.create(index=index)
    search.indices.delete_index_template(name=f"{accounts.name}-older")
    # Not one of ours, although it is called so.
    search.indices.create(index=f"{accounts.alias}-by-hand", mappings={"properties": {"theirs": {"type": "long"}}})
    search.indices.delete_index_template(name=accounts.name)

    found = apply(deployed)
    name = accounts.properties["holder_name"]
    differs = IndexFieldDiffers(index, "balance_minor", older["balance_minor"], {"type": "long"})
    assert found == [
        MissingTemplate(accounts),
        IndexLacksField(index, "holder_name.keyword", name),
        IndexLacksField(index, "holder_name.sort", name),
        differs,
        IndexLacksField(index, "closed_at", {"type": "date"}),
    ]
    # What cannot be put right here does not stop the rest: the new index that a rebuild makes needs the template.
    assert plan(deployed) == [differs]
    assert search.indices.get_mapping(index=index)[index]["mappings"]["_meta"] == {"log": "kept"}


def test_a_kafka_that_is_away_is_named(connections: Connections) -> None:
    with pytest.raises(Unreachable, match=rf"Kafka at {NOBODY_LISTENS}.*refused"):
        apply(connections.model_copy(update={"kafka_bootstrap": NOBODY_LISTENS}))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://user:secret@{NOBODY_LISTENS}/apis", rf"{NOBODY_LISTENS}/apis.*refused"),
        ("wrong path", "does not answer as a schema registry"),
    ],
)
def test_a_registry_that_is_away_is_named_before_anything_is_changed(
    connections: Connections, cluster: Cluster, url: str, why: str
) -> None:
    if url == "wrong path":
        url = connections.registry_url.rstrip("/").rsplit("/", 3)[0] + "/elsewhere"
    with pytest.raises(Unreachable, match=why) as caught:
        apply(connections.model_copy(update={"registry_url": url}))
    assert "secret" not in str(caught.value)
    assert cluster.partitions() == {}


def test_an_elasticsearch_that_is_away_or_is_none_is_named_before_anything_is_changed(
    connections: Connections, cluster: Cluster
) -> None:
    registry = connections.registry_url.split("/")[2]
    for address, why in ((NOBODY_LISTENS, "refused"), (registry, "does not answer as Elasticsearch")):
        away = connections.model_copy(update={"elasticsearch_url": SecretStr(f"http://user:secret@{address}")})
        with pytest.raises(Unreachable, match=rf"Elasticsearch at http://{address}: .*{why}") as caught:
            apply(away)
        assert "secret" not in str(caught.value)
    assert cluster.partitions() == {}


def test_a_ledger_may_go_without_elasticsearch(connections: Connections) -> None:
    without = connections.model_copy(update={"elasticsearch_url": None})
    done = deploy(without, "--partitions", "2")
    assert (done.returncode, done.stderr) == (
        0,
        "DAYBOOK_ELASTICSEARCH_URL is not set: the search indices are left out\n",
    )
    assert "index template" not in done.stdout
    assert plan(without) == []


def test_the_command_line_applies_checks_and_refuses(connections: Connections, cluster: Cluster) -> None:
    checked = deploy(connections, "--check")
    assert (checked.returncode, checked.stderr) == (1, "")
    assert f"topic {connections.topics.events} is missing\n" in checked.stdout

    done = deploy(connections, "--partitions", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"topic {connections.topics.events} is missing: created with 2 partitions" in done.stdout

    again = deploy(connections)
    assert (again.returncode, again.stdout) == (0, "nothing to do: all is as it should be\n")

    refused = deploy(connections, "--partitions", "3")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"topic {connections.topics.events} has 2 partitions, wanted 3" in refused.stderr

    cluster.delete(connections.topics.parked)
    drift = json.loads(deploy(connections, "--check", "--json").stdout)
    problem = f"topic {connections.topics.parked} is missing"
    assert drift == {"differences": [{"kind": "missing_topic", "problem": problem, "applied": False}], "left": 1}
    fixed = json.loads(deploy(connections, "--json").stdout)
    assert fixed == {"differences": [{"kind": "missing_topic", "problem": problem, "applied": True}], "left": 0}


def test_the_command_line_says_what_cannot_be_reached(connections: Connections) -> None:
    away = deploy(connections.model_copy(update={"kafka_bootstrap": NOBODY_LISTENS}))
    assert (away.returncode, away.stdout) == (4, "")
    assert away.stderr.startswith(f"error: Kafka at {NOBODY_LISTENS}: ")
    assert "Traceback" not in away.stderr
