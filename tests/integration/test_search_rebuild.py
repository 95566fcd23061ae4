"""Building the search documents anew beside the live ones, on a real Elasticsearch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from elasticsearch import Elasticsearch

from deploy.definitions import apply
from projectors.elasticsearch import connect
from projectors.projector import CheckpointMoved, SinkUnavailable
from projectors.rebuilding import REOPENED, CannotRebuild, LiveMoved
from projectors.search import SearchProjector
from projectors.search_rebuild import SearchRebuild
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import AccountFrozen, RecordedEvent
from schemas.readmodels import SEARCH_HOLD_ID
from tests.holders import PLAIN
from tests.recorded import batch, deposited, opened, recorded
from tests.search_model import SearchModel, plain_documents

SOURCE = Source("cluster-1", "account.events", "topic-1")
EVENTS = [opened(f"A-{i}") for i in range(5)] + [deposited(f"A-{i}", 2, 100 * i) for i in range(5)]
LATER = [recorded("A-1", 3, AccountFrozen()), opened("A-9")]


@pytest.fixture(scope="module")
def ledger_connections(new_connections: Callable[[], Connections]) -> Connections:
    connections = new_connections()
    apply(connections, partitions=1)
    return connections


@pytest.fixture
def model(ledger_connections: Connections) -> Iterator[SearchModel]:
    """An empty read model."""
    with SearchModel(ledger_connections) as model:
        model.wipe()
        yield model


@pytest.fixture
def client(ledger_connections: Connections) -> Iterator[Elasticsearch]:
    with connect(ledger_connections.elasticsearch()) as client:
        yield client


@pytest.fixture
def live(client: Elasticsearch, model: SearchModel) -> SearchProjector:
    """The live model, which has `EVENTS`."""
    live = SearchProjector(client, model.indices, SOURCE, PLAIN)
    live.checkpoint(0)
    live.apply([batch(EVENTS, base=None)])
    return live


@pytest.fixture
def rebuild(client: Elasticsearch, model: SearchModel, live: SearchProjector) -> SearchRebuild:
    return SearchRebuild(client, model.indices, SOURCE, PLAIN)


def fill(rebuild: SearchRebuild, events: list[RecordedEvent]) -> None:
    """Bring the copy to the end of these events, which are the log."""
    at = rebuild.copy.checkpoint(0)
    rebuild.copy.apply([batch(events[at or 0 :], base=at)])


def no_tell(_: int) -> None:
    """Nobody watches."""


def documents(log: list[RecordedEvent]) -> object:
    return plain_documents((event, 0, offset) for offset, event in enumerate(log))


def test_a_copy_takes_the_live_models_place_and_the_old_one_comes_back(
    model: SearchModel, live: SearchProjector, rebuild: SearchRebuild
) -> None:
    assert rebuild.begun() is None
    assert not rebuild.kept()
    rebuild.begin("code-1")
    assert rebuild.begun() == "code-1"
    fill(rebuild, EVENTS)
    # A projection that was wrong until now, and a document that should not be.
    model.client.update(index=model.indices.accounts, id="A-3", doc={"balance_minor": 1})
    model.client.delete(index=model.indices.account_events, id="A-2/2")
    model.client.index(
        index=model.indices.account_events, id="A-2/7", document={**model.events()["A-2/1"], "sequence": 7}
    )
    compared = rebuild.compare(None, no_tell)
    assert (compared.differing, compared.moving) == (3, set())
    assert {(d.what, d.live, d.rebuilt) for d in compared.examples} == {
        ("account A-3", "balance_minor 1", "balance_minor 300"),
        ("event A-2/2", "missing", "there"),
        ("event A-2/7", "there", "missing"),
    }
    assert rebuild.live_checkpoints([0, 1]) == {0: 10, 1: None}
    rebuild.hold()
    rebuild.switch(keep_old=True)
    assert (model.accounts(), model.events()) == documents(EVENTS)
    assert model.concrete(model.indices.accounts).endswith("-000002")
    assert (rebuild.begun(), rebuild.kept()) == (None, True)
    with pytest.raises(CheckpointMoved, match="a rebuilt model took the place of"):
        live.apply([batch(LATER, base=10)])
    assert live.checkpoint(0) == 10
    live.apply([batch(LATER, base=10)])
    assert (model.accounts(), model.events()) == documents(EVENTS + LATER)

    # A rebuild that was killed in the middle of this has reopened one of the two.
    half, mark = model.client.indices, {"state": "building", "fingerprint": REOPENED}
    half.put_mapping(index=f"{model.indices.accounts}-000001", meta={"log": str(SOURCE), "rebuild": mark})
    assert rebuild.begun() == ""
    for _ in range(2):
        rebuild.reopen()
        assert (rebuild.begun(), rebuild.kept()) == (REOPENED, False)
    fill(rebuild, EVENTS + LATER)
    rebuild.hold()
    rebuild.switch(keep_old=True)
    assert model.accounts()["A-3"]["balance_minor"] == 1
    assert model.accounts()["A-9"] == documents(EVENTS + LATER)[0]["A-9"]  # type: ignore[index]
    # The old model was held when it was left; it is not any more.
    assert live.checkpoint(0) == 12
    live.apply([batch([deposited("A-9", 2, 1)], base=12)])
    rebuild.discard()
    assert (rebuild.begun(), rebuild.kept()) == (None, False)
    assert [*model.client.indices.get(index=f"{model.indices.accounts}-*")] == [f"{model.indices.accounts}-000001"]


def test_without_keeping_it_the_old_model_is_gone(model: SearchModel, rebuild: SearchRebuild) -> None:
    rebuild.begin("code-1")
    fill(rebuild, EVENTS)
    rebuild.hold()
    rebuild.switch(keep_old=False)
    assert not rebuild.kept()
    assert [*model.client.indices.get(index=f"{model.indices.accounts}-*")] == [f"{model.indices.accounts}-000002"]
    with pytest.raises(CannotRebuild, match="no old search indices were kept"):
        rebuild.reopen()
    with pytest.raises(CannotRebuild, match="no unfinished copy"):
        rebuild.switch(keep_old=False)
    # What the next rebuild makes is not taken for what this one made.
    rebuild.begin("code-2")
    assert rebuild.begun() == "code-2"
    rebuild.discard()
    assert (model.accounts(), model.events()) == documents(EVENTS)


def test_a_live_model_that_goes_on_is_told_from_one_that_is_wrong(
    model: SearchModel, live: SearchProjector, rebuild: SearchRebuild
) -> None:
    rebuild.begin("code-1")
    fill(rebuild, EVENTS)
    live.apply([batch(LATER, base=10)])
    compared = rebuild.compare(None, no_tell)
    assert (compared.differing, compared.moving) == (0, {"A-1", "A-9"})
    rebuild.hold()
    with pytest.raises(LiveMoved, match="stand at 12 of partition 0, the copy at 10"):
        rebuild.switch(keep_old=False)
    rebuild.release()
    fill(rebuild, EVENTS + LATER)
    # As the whole comparison: the two accounts with their events.
    assert rebuild.compare(compared.moving, no_tell).compared == 2 + 4
    # The copy may be further than the live model is, too.
    fill(rebuild, [*EVENTS, *LATER, deposited("A-9", 2, 7)])
    compared = rebuild.compare(None, no_tell)
    assert (compared.differing, compared.moving) == (0, set())


def test_a_holder_who_is_erased_meanwhile_is_compared_again_and_one_who_was_not_differs(
    model: SearchModel, rebuild: SearchRebuild
) -> None:
    rebuild.begin("code-1")
    fill(rebuild, EVENTS)
    # As the live model has it that was told, by the missing key, before the event of the erasure.
    erased = {"holder_name": "[erased]", "holder_erased": True}
    model.client.update(index=model.concrete(model.indices.accounts), id="A-1", doc=erased)
    compared = rebuild.compare(None, no_tell)
    assert (compared.differing, compared.moving) == (0, {"A-1"})
    # Had the event come, the copy would have it as well.
    compared = rebuild.compare(compared.moving, no_tell)
    assert [str(example.live) for example in compared.examples] == ["holder_erased True, holder_name [erased]"]
    assert (compared.differing, compared.moving) == (1, set())


def test_a_held_model_waits_until_it_is_released_by_who_holds_it(
    client: Elasticsearch, model: SearchModel, live: SearchProjector, rebuild: SearchRebuild
) -> None:
    rebuild.begin("code-1")
    fill(rebuild, EVENTS)
    with pytest.raises(LiveMoved, match="not on hold"):
        rebuild.switch(keep_old=False)
    rebuild.hold()
    with pytest.raises(SinkUnavailable, match="held"):
        live.apply([batch(LATER, base=10)])
    SearchRebuild(client, model.indices, SOURCE, PLAIN).release()
    with pytest.raises(SinkUnavailable, match="held"):
        live.apply([batch(LATER, base=10)])
    rebuild.release()
    live.apply([batch(LATER, base=10)])
    assert not model.client.exists(index=model.indices.accounts, id=SEARCH_HOLD_ID)


def test_what_is_half_deleted_is_no_copy(model: SearchModel, rebuild: SearchRebuild) -> None:
    rebuild.begin("code-1")
    model.client.indices.delete(index=f"{model.indices.account_events}-000002")
    assert rebuild.begun() == ""
    with pytest.raises(CannotRebuild, match="no unfinished copy"):
        rebuild.copy.checkpoint(0)
    rebuild.begin("code-2")
    assert rebuild.begun() == "code-2"
    rebuild.discard()
    assert rebuild.begun() is None
    assert (model.accounts(), model.events()) == documents(EVENTS)


def test_a_model_that_is_gone_is_replaced_by_its_copy(model: SearchModel, rebuild: SearchRebuild) -> None:
    rebuild.begin("code-1")
    fill(rebuild, EVENTS)
    for alias in model.aliases:
        model.client.indices.delete(index=model.concrete(alias))
    assert rebuild.live_checkpoints([0]) == {0: None}
    assert rebuild.compare(None, no_tell).compared == 0
    rebuild.hold()
    rebuild.switch(keep_old=True)
    assert (model.accounts(), model.events()) == documents(EVENTS)
    assert not rebuild.kept()


def test_readers_see_neither_an_error_nor_an_older_document_while_models_change_places(
    model: SearchModel, live: SearchProjector, rebuild: SearchRebuild
) -> None:
    stopping = threading.Event()
    wrong: list[object] = []
    asked = 0

    def poll() -> None:
        nonlocal asked
        while not stopping.is_set():
            try:
                found = model.client.search(index=model.indices.accounts, size=100, sort="account_id")
                count = model.client.count(index=model.indices.account_events)["count"]
            except Exception as error:
                wrong.append(error)
                return
            seen = {hit["_id"]: hit["_source"]["sequence"] for hit in found["hits"]["hits"]}
            asked += 1
            if seen != {f"A-{i}": 2 for i in range(5)} or count != 10:
                wrong.append((seen, count))

    model.client.indices.refresh(index=list(model.aliases))
    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for number in range(2):
            rebuild.begin(f"code-{number}")
            fill(rebuild, EVENTS)
            rebuild.hold()
            rebuild.switch(keep_old=number == 0)
            rebuild.discard()
    finally:
        stopping.set()
        reader.join()
    assert wrong == []
    assert asked > 10
