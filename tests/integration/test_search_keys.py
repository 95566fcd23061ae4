"""Projecting sealed holders with keys that come late, are erased meanwhile, or do not fit: on real servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer
from elasticsearch import Elasticsearch
from msgspec.structs import replace

from deploy.definitions import apply
from projectors.holders import KeyTopic
from projectors.projector import CannotProject
from projectors.search import SearchProjector
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import AccountCreated, HolderChanged, HolderErased, RecordedEvent
from schemas.keyring import KeyRing, kept_file
from schemas.keys import wrapped
from schemas.personal import opened_event
from schemas.sealing import Sealer, new_data_key
from tests import subject_keys
from tests.recorded import batch, deposited, recorded
from tests.search_model import SearchModel

SOURCE = Source("cluster-1", "account.events", "topic-1")
NAME = "Žofie Nováková"


@pytest.fixture(scope="module")
def ledger_connections(new_connections: Callable[[], Connections]) -> Connections:
    connections = new_connections()
    apply(connections, partitions=1)
    return connections


@pytest.fixture(scope="module")
def ring(ledger_connections: Connections) -> KeyRing:
    return KeyRing.of(ledger_connections)


@pytest.fixture(scope="module")
def keys(ledger_connections: Connections, ring: KeyRing) -> Iterator[subject_keys.KeyTopic]:
    with subject_keys.KeyTopic(ledger_connections, 1, ring) as keys:
        yield keys


@pytest.fixture
def model(ledger_connections: Connections) -> Iterator[SearchModel]:
    """An empty read model."""
    with SearchModel(ledger_connections) as model:
        model.wipe()
        yield model


@pytest.fixture
def search(ledger_connections: Connections, ring: KeyRing, model: SearchModel) -> Iterator[SearchProjector]:
    with closing(KeyTopic(ledger_connections, ring)) as holders:
        search = SearchProjector(model.client, model.indices, SOURCE, holders)
        search.checkpoint(0)
        yield search


def sealed(account_id: str, data_key: bytes) -> list[RecordedEvent]:
    """An account that is opened and given another holder, as the command service writes it."""
    sealer = Sealer({account_id: data_key}.get)

    def seal(item: RecordedEvent) -> RecordedEvent:
        # What opens fields one by one seals them as well.
        event = opened_event(
            item.event, account_id, lambda text, subject, field: sealer.seal(text, subject, item.event_id, field)
        )
        return replace(item, event=event)

    created = AccountCreated(currency="EUR", holder_name="Žofie", holder_email="zofie@example.org")
    changed = HolderChanged(holder_name=NAME, holder_email="nova@example.org")
    return [seal(recorded(account_id, 1, created)), seal(recorded(account_id, 2, changed))]


def view(model: SearchModel, account_id: str) -> tuple[str, str | None, bool]:
    found = model.accounts()[account_id]
    return found["holder_name"], found.get("holder_email"), found.get("holder_erased", False)


def test_the_view_is_opened_and_the_trail_is_not(
    search: SearchProjector, model: SearchModel, keys: subject_keys.KeyTopic
) -> None:
    _, data_key = keys.give("K-1")
    created, changed = sealed("K-1", data_key)
    search.apply([batch([created], base=None)])
    assert view(model, "K-1") == ("Žofie", "zofie@example.org", False)
    # One that came after the first look.
    _, other = keys.give("K-2")
    search.apply([batch([changed, *sealed("K-2", other)], base=1)])
    assert view(model, "K-1") == view(model, "K-2") == (NAME, "nova@example.org", False)
    trail = model.events()
    assert trail["K-1/1"]["holder_name"] == created.event.holder_name  # type: ignore[union-attr]
    assert trail["K-1/2"]["holder_email"] == changed.event.holder_email  # type: ignore[union-attr]
    nothing = model.client.search(index=model.indices.account_events, query={"exists": {"field": "holder_name"}})
    assert nothing["hits"]["hits"] == []


def test_a_key_that_was_erased_opens_nothing_though_it_was_known(
    search: SearchProjector, model: SearchModel, keys: subject_keys.KeyTopic
) -> None:
    _, data_key = keys.give("K-3")
    events = [*sealed("K-3", data_key), deposited("K-3", 3, 5)]
    search.apply([batch(events[:1], base=None)])
    assert view(model, "K-3") == ("Žofie", "zofie@example.org", False)
    keys.erase("K-3")
    # The event of the erasure is yet to come.
    search.apply([batch(events[1:], base=1)])
    assert view(model, "K-3") == ("[erased]", None, True)
    model.wipe()
    search.checkpoint(0)
    search.apply([batch(events[:1], base=None)])
    assert view(model, "K-3") == ("[erased]", None, True)
    search.apply([batch([*events[1:], recorded("K-3", 4, HolderErased()), deposited("K-3", 5, 6)], base=1)])
    assert view(model, "K-3") == ("[erased]", None, True)
    assert model.accounts()["K-3"]["balance_minor"] == 6


def test_an_erasure_takes_the_name_from_what_is_remembered_and_from_plain_events(
    search: SearchProjector, model: SearchModel
) -> None:
    created = AccountCreated(currency="EUR", holder_name=NAME, holder_email="nova@example.org")
    search.apply([batch([recorded("K-4", 1, created)], base=None)])
    assert view(model, "K-4") == (NAME, "nova@example.org", False)
    search.apply([batch([recorded("K-4", 2, HolderErased())], base=1)])
    search.apply([batch([deposited("K-4", 3, 7)], base=2)])
    assert view(model, "K-4") == ("[erased]", None, True)


def test_a_key_whose_transaction_is_still_ending_is_waited_for(
    search: SearchProjector,
    model: SearchModel,
    keys: subject_keys.KeyTopic,
    ledger_connections: Connections,
    ring: KeyRing,
) -> None:
    data_key = new_data_key()
    value = keys.codec.encode_key(wrapped(ring, "K-5", data_key, subject_keys.CREATED_AT))
    topic = ledger_connections.topics.subject_keys
    producer = Producer(ledger_connections.kafka(transactional_id=f"{topic}.late"))
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, value, b"K-5", 0)
    assert producer.flush(30) == 0
    projecting = threading.Thread(target=search.apply, args=([batch(sealed("K-5", data_key), base=None)],))
    projecting.start()
    # It must not take the key for erased: while the transaction is open, nothing comes of the batch.
    projecting.join(0.5)
    assert projecting.is_alive()
    producer.commit_transaction(30)
    projecting.join(30)
    assert view(model, "K-5") == (NAME, "nova@example.org", False)


def test_what_does_not_fit_stops_the_projector_and_is_not_taken_for_erased(
    ledger_connections: Connections,
    search: SearchProjector,
    keys: subject_keys.KeyTopic,
    model: SearchModel,
    tmp_path: Path,
) -> None:
    keys.give("K-6")
    with pytest.raises(CannotProject, match=r"event 1 of account K-6 cannot be opened: holder_name of K-6, sealed in"):
        search.apply([batch(sealed("K-6", new_data_key()), base=None)])
    _, data_key = keys.give("K-7")
    stranger = KeyRing.read(kept_file(tmp_path / "kek", datetime.now(UTC)))
    with closing(KeyTopic(ledger_connections, stranger)) as holders:
        other = SearchProjector(model.client, model.indices, SOURCE, holders)
        base = other.checkpoint(0)
        with pytest.raises(
            CannotProject, match=r"K-7 cannot be opened: the data key of K-7 is wrapped with .* put its"
        ):
            other.apply([batch(sealed("K-7", data_key), base=base)])
    assert model.accounts() == {}


def test_a_topic_that_is_not_there_is_named(new_connections: Callable[[], Connections], model: SearchModel) -> None:
    elsewhere = new_connections()
    with (
        closing(KeyTopic(elsewhere, KeyRing.of(elsewhere))) as holders,
        Elasticsearch(**elsewhere.elasticsearch()) as client,
    ):
        search = SearchProjector(client, model.indices, SOURCE, holders)
        search.checkpoint(0)
        with pytest.raises(CannotProject, match=rf"topic {elsewhere.topics.subject_keys}: Kafka does not tell where"):
            search.apply([batch(sealed("K-8", new_data_key()), base=None)])
