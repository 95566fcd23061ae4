"""Every released version with the real registry, log and read models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import permutations
from typing import Any, Final

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from elasticsearch import Elasticsearch

from daybook.evolution.corpus import RESULTS, Recording, recordings
from daybook.log import LoggedEvent, read_log
from deploy.definitions import apply, plan
from deploy.differences import IndexLacksField, TemplateDiffers
from deploy.indices import PRIORITY, template_definitions
from deploy.wanted import subject_definitions
from projectors.projector import CannotProject
from projectors.search import SearchProjector
from projectors.source import Source
from schemas.codec import HEADER_BYTES
from schemas.connections import Connections
from schemas.events import AccountFrozen, FreezeCause
from schemas.readmodels import checkpoint_id
from schemas.released import released
from schemas.topics import event_key, partition_of, subject
from tests.event_log import Log
from tests.golden import replay
from tests.holders import PLAIN, WithKeys
from tests.recorded import batch, opened, recorded
from tests.search_model import SearchModel

STREAMS: Final = {recording.name: recording for recording in recordings(replay.FOLDER) if recording.stream}
RECORDED: Final[Mapping[str, Any]] = json.loads((replay.FOLDER / RESULTS).read_text(encoding="utf-8"))
SPLIT: Final = "daybook.account.event.OverdraftLimitSet"
NEW_FIELDS: Final = ("previous_limit_minor", "cause", "payout_reference")


@pytest.fixture
def registry(connections: Connections) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient(connections.registry()) as client:
        yield client


def test_the_registry_has_every_version_and_finds_each_compatible_with_all(
    deployed: Connections, registry: SchemaRegistryClient
) -> None:
    for wanted in subject_definitions(deployed.topics):
        assert registry.get_compatibility(wanted.name) == "FULL_TRANSITIVE"
        assert registry.get_versions(wanted.name) == [schema.version for schema in wanted.versions]
        assert registry.test_compatibility_all_versions(wanted.name, Schema(wanted.versions[-1].text, "AVRO"))
    assert plan(deployed) == []
    # The split, which goes within one name no more than the gate lets it, and is there as the next major.
    next_major = next(s for s in released() if s.name == "daybook.account.event.v2.OverdraftLimitSet")
    within = json.loads(next_major.text) | {"namespace": "daybook.account.event"}
    with pytest.raises(SchemaRegistryError) as refused:
        registry.register_schema(subject(deployed.topics.events, SPLIT), Schema(json.dumps(within), "AVRO"))
    assert refused.value.http_status_code == 409
    assert registry.get_versions(subject(deployed.topics.events, next_major.name)) == [1]


@pytest.mark.parametrize("name", ["AccountFrozen", "AccountClosed"])
def test_versions_may_be_registered_in_any_order(
    connections: Connections, registry: SchemaRegistryClient, name: str
) -> None:
    versions = [s for s in released() if s.name == f"daybook.account.event.{name}"]
    for number, order in enumerate(permutations(versions)):
        name_of_subject = f"{connections.namespace}.order-{number}-{name}"
        registry.set_compatibility(name_of_subject, "FULL_TRANSITIVE")
        for schema in order:
            registry.register_schema(name_of_subject, Schema(schema.text, "AVRO"))
        assert len(registry.get_versions(name_of_subject)) == len(versions)


def with_ids_of(registry: SchemaRegistryClient, connections: Connections, recording: Recording) -> Iterator[bytes]:
    """A recording's values with the ids that a registry gave to their schemas. A hash is not over the id."""
    texts = {(s.name, s.version): s.text for s in released()}
    ids = {}
    for number, version in recording.schemas.items():
        of = subject(connections.topics.events, version.name)
        ids[number] = registry.lookup_schema(of, Schema(texts[version], "AVRO")).schema_id
    for value in recording.values:
        header = ids[int.from_bytes(value[1:HEADER_BYTES], "big")]
        assert header is not None
        yield b"\0" + header.to_bytes(4, "big") + value[HEADER_BYTES:]


def test_stored_streams_of_every_version_are_read_from_a_real_log_into_a_real_read_model(
    deployed: Connections, registry: SchemaRegistryClient
) -> None:
    log = Log(deployed)
    for recording in STREAMS.values():
        account_id = f"golden-{recording.name}"
        partition = partition_of(account_id, log.partitions)
        for sequence, value in enumerate(with_ids_of(registry, deployed, recording), 1):
            log.append_bytes(event_key(account_id, sequence), value, partition)
    found: dict[str, list[LoggedEvent]] = {}
    for logged in read_log(deployed, None, follow=False, from_beginning=True, timeout_s=30):
        found.setdefault(logged.recorded.account_id, []).append(logged)
    for recording in STREAMS.values():
        events = [logged.recorded for logged in found[f"golden-{recording.name}"]]
        assert events == replay.decoded(recording)
    with ExitStack() as stack:
        model = stack.enter_context(SearchModel(deployed))
        client_of = stack.enter_context(Elasticsearch(**deployed.elasticsearch()))
        source = Source("cluster-1", "account.events", "topic-1")
        search = SearchProjector(client_of, model.indices, source, WithKeys(replay.DATA_KEYS))
        search.checkpoint(0)
        for partition, recording in enumerate(STREAMS.values()):
            search.apply([batch(replay.decoded(recording), base=None, partition=partition)])
        accounts, trail = model.accounts(), model.events()
    place = ("partition", "offset")
    for recording in STREAMS.values():
        wanted = RECORDED[recording.name]
        account_id = f"golden-{recording.name}"
        assert without(accounts[account_id], *place) == without(wanted["accounts"][-1], *place)
        for sequence, document in enumerate(wanted["account-events"], 1):
            assert without(trail[f"{account_id}/{sequence}"], *place) == without(document, *place)


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}


def test_an_index_of_the_release_before_stops_its_projector_until_the_fields_are_deployed(
    deployed: Connections,
) -> None:
    """Nothing is skipped meanwhile, and what is in it needs no rebuild: older events have no value for the fields."""
    _, trail = template_definitions(deployed.indices)
    older = {name: field for name, field in trail.properties.items() if name not in NEW_FIELDS}
    with SearchModel(deployed) as model, Elasticsearch(**deployed.elasticsearch()) as client:
        client.indices.put_index_template(
            name=trail.name,
            index_patterns=[trail.pattern],
            priority=PRIORITY,
            allow_auto_create=False,
            template={"settings": trail.settings, "mappings": {"dynamic": "strict", "properties": older}},
        )
        search = SearchProjector(client, model.indices, Source("cluster-1", "account.events", "topic-1"), PLAIN)
        search.checkpoint(0)
        search.apply([batch([opened("A-1"), recorded("A-1", 2, AccountFrozen())], base=None)])
        before = model.events()
        later = batch([recorded("A-2", 1, opened("A-2").event), caused("A-1", 3)], base=2)
        with pytest.raises(CannotProject, match=r"strict_dynamic_mapping"):
            search.apply([later])
        assert search.checkpoint(0) == 2

        done = apply(deployed)
        assert [type(one) for one in done] == [TemplateDiffers, *[IndexLacksField] * 3]
        assert {one.field for one in done if isinstance(one, IndexLacksField)} == set(NEW_FIELDS)
        assert plan(deployed) == []
        search.checkpoint(0)
        search.apply([later])
        found = model.events()
        assert found["A-1/3"]["cause"] == "SANCTIONS"
        assert {key: found[key] for key in before} == before
        assert checkpoint_id(0) not in found


def caused(account_id: str, sequence: int) -> Any:
    return recorded(account_id, sequence, AccountFrozen(cause=FreezeCause.SANCTIONS))
