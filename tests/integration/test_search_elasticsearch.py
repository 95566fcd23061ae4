"""What the search projector does to a real Elasticsearch. Each test has indices of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from elasticsearch import ConnectionError as ElasticsearchConnectionError
from elasticsearch import Elasticsearch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from deploy.definitions import apply
from projectors.elasticsearch import Document, Documents, connect
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.search import READERS_FILTER, SearchProjector
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import AccountClosed, AccountFrozen, HolderChanged, OverdraftLimitSet, RecordedEvent
from schemas.readmodels import SEARCH_HOLD_ID, checkpoint_id
from tests.holders import PLAIN
from tests.recorded import batch, deposited, logs, opened, recorded
from tests.search_model import SearchModel, plain_documents

SOURCE = Source("cluster-1", "account.events", "topic-1")
LAST_MOMENT = 253_402_300_799_999_999


class Breaking(Elasticsearch):
    """A client whose connection breaks before the bulk request after the first `bulks`, unless there is something to
    do `instead`."""

    bulks = 1_000_000
    instead: Callable[[], None] | None = None

    def bulk(self, **options: Any) -> Any:
        if self.bulks == 0:
            if self.instead is None:
                raise ElasticsearchConnectionError("the connection broke")
            self.instead, do = None, self.instead
            do()
            self.bulks = Breaking.bulks
        self.bulks -= 1
        return super().bulk(**options)


@pytest.fixture(scope="module")
def ledger_connections(new_connections: Callable[[], Connections]) -> Connections:
    connections = new_connections()
    apply(connections, partitions=1)
    return connections


@pytest.fixture(scope="module")
def client(ledger_connections: Connections) -> Iterator[Breaking]:
    with Breaking(**ledger_connections.elasticsearch()) as client:
        yield client


@pytest.fixture
def model(ledger_connections: Connections, client: Breaking) -> Iterator[SearchModel]:
    """An empty read model."""
    client.bulks = Breaking.bulks
    with SearchModel(ledger_connections) as model:
        model.wipe()
        yield model


@pytest.fixture
def search(client: Breaking, model: SearchModel) -> SearchProjector:
    return SearchProjector(client, model.indices, SOURCE, PLAIN)


def placed(events: list[RecordedEvent]) -> list[tuple[RecordedEvent, int, int]]:
    """Events at the offsets from 0 on of partition 0, as `batch` has them."""
    return [(event, 0, offset) for offset, event in enumerate(events)]


def test_the_first_batch_makes_indices_documents_and_checkpoints(search: SearchProjector, model: SearchModel) -> None:
    events = [
        replace(opened("A-1"), chain_hash=bytes(range(32)), user_id="ada", causation_id="why", reason="just because"),
        deposited("A-1", 2, 250),
        opened("A-2", "JPY"),
        recorded("A-1", 3, HolderChanged(holder_name="Grace Hopper", holder_email="g@example.org")),
        recorded("A-1", 4, OverdraftLimitSet(previous_limit_minor=0, new_limit_minor=7, currency="EUR")),
        recorded("A-1", 5, AccountFrozen()),
        recorded("A-2", 2, AccountClosed()),
    ]
    assert search.checkpoint(0) is None
    search.apply([batch(events, base=None)])
    assert search.checkpoint(0) == 7
    assert search.checkpoint(1) is None
    assert (model.accounts(), model.events()) == plain_documents(placed(events))
    assert [model.concrete(alias) for alias in model.aliases] == [f"{alias}-000001" for alias in model.aliases]
    found = model.client.search(index=model.indices.accounts, query={"match": {"holder_name": "hopper"}})
    assert [hit["_id"] for hit in found["hits"]["hits"]] == ["A-1"]
    assert model.events()["A-1/5"]["balance_before_minor"] == model.events()["A-1/5"]["balance_minor"] == 250


def test_partitions_go_in_together(search: SearchProjector, model: SearchModel) -> None:
    search.checkpoint(0)
    batches = [batch([opened(f"P-{p}"), deposited(f"P-{p}", 2, p)], base=None, partition=p) for p in range(4)]
    search.apply(batches)
    assert model.checkpoints(4) == {p: dict.fromkeys(model.aliases, 2) for p in range(4)}
    assert {i: account["partition"] for i, account in model.accounts().items()} == {f"P-{p}": p for p in range(4)}


def test_times_and_texts_are_taken_up_to_what_the_domain_lets_through(
    search: SearchProjector, model: SearchModel
) -> None:
    longest = "A" * 128
    year_1 = -62_135_596_800_000_000
    events = [
        replace(opened(longest), effective_at=year_1, reason="€" * 1000, user_id="€" * 200),
        replace(recorded(longest, 2, AccountFrozen()), recorded_at=LAST_MOMENT),
    ]
    search.checkpoint(0)
    search.apply([batch(events, base=None)])
    assert (model.accounts(), model.events()) == plain_documents(placed(events))
    early = {"range": {"effective_at": {"lt": "1900-01-01"}}}
    assert model.client.count(index=model.indices.account_events, query=early)["count"] == 1
    late = replace(recorded(longest, 3, AccountClosed()), recorded_at=LAST_MOMENT + 1)
    with pytest.raises(CannotProject, match=r"event 3 of account A+ \(partition 0, offset 2\).*no year from 1 to 9999"):
        search.apply([batch([late], base=2)])


def test_a_batch_that_builds_on_another_checkpoint_is_refused(
    client: Breaking, search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    zombie = SearchProjector(client, model.indices, SOURCE, PLAIN)
    with pytest.raises(CheckpointMoved, match=r"has 1 for partition 0 .* where none was expected"):
        zombie.apply([batch([opened("A-1"), deposited("A-1", 2, 9)], base=None)])
    assert search.checkpoint(0) == 1
    assert (model.accounts(), model.events()) == plain_documents(placed([opened("A-1")]))


def test_a_checkpoint_that_somebody_writes_during_a_batch_is_not_overwritten(
    client: Breaking, search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    other = SearchProjector(model.client, model.indices, SOURCE, PLAIN)
    client.bulks, client.instead = 1, lambda: other.apply([batch([opened("A-2"), opened("A-3")], base=1)])
    with pytest.raises(CheckpointMoved, match=r"another /checkpoint/0 in .*-000001 than was just read"):
        search.apply([batch([opened("A-2")], base=1)])
    assert search.checkpoint(0) == 3


def test_an_index_that_is_made_anew_during_a_batch_gets_no_checkpoint_of_it(
    client: Breaking, search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)

    def delete_and_make_anew() -> None:
        model.wipe()
        assert SearchProjector(model.client, model.indices, SOURCE, PLAIN).checkpoint(0) is None

    # The first bulk request makes the checkpoints, the second has the documents.
    client.bulks, client.instead = 2, delete_and_make_anew
    with pytest.raises(CheckpointMoved):
        search.apply([batch([opened("A-1")], base=None)])
    assert search.checkpoint(0) is None


def test_what_is_under_way_does_not_make_an_index_that_was_deleted(
    client: Breaking, search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    client.bulks, client.instead = 0, model.wipe
    with pytest.raises(CheckpointMoved, match="no such index"):
        search.apply([batch([opened("A-2")], base=1)])
    assert not model.client.indices.exists(index=f"{model.indices.accounts}-*", allow_no_indices=False)


def test_asking_whether_the_sink_stands_where_it_was_left_changes_nothing(
    search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])

    def written() -> list[int]:
        stats = model.client.indices.stats(index=list(model.aliases), metric="indexing")["indices"]
        return [index["total"]["indexing"]["index_total"] for index in stats.values()]

    before = written()
    search.apply([Batch(0, 1, (), (), 1), Batch(1, None, (), (), None)])
    assert written() == before
    search.apply([Batch(0, 1, (), (), 3)])
    assert search.checkpoint(0) == 3


@pytest.mark.parametrize("lost", ["accounts", "account-events", "both"])
def test_a_deleted_index_is_noticed_and_filled_again(search: SearchProjector, model: SearchModel, lost: str) -> None:
    events = [opened("A-1"), deposited("A-1", 2, 250), recorded("A-1", 3, AccountFrozen()), opened("A-2")]
    search.checkpoint(0)
    search.apply([batch(events, base=None)])
    deleted = [alias for alias in model.aliases if lost == "both" or alias.endswith(f".{lost}")]
    model.wipe(*deleted)
    with pytest.raises(CheckpointMoved):
        search.apply([Batch(0, 4, (), (), 4)])
    assert search.checkpoint(0) is None
    # One event at a time, and nothing remembered between them: the accounts may be ahead of the trail.
    for offset in range(len(events)):
        search.apply([batch(events[offset : offset + 1], base=offset or None)])
        assert search.checkpoint(0) == offset + 1
    assert (model.accounts(), model.events()) == plain_documents(placed(events))


def test_an_account_is_looked_up_when_it_is_no_longer_remembered(client: Breaking, model: SearchModel) -> None:
    search = SearchProjector(client, model.indices, SOURCE, PLAIN, remembered_accounts=2, chunk_bytes=700)
    search.checkpoint(0)
    events = [opened(f"A-{i}") for i in range(20)]
    events += [recorded(f"A-{i}", 2, AccountFrozen()) for i in range(20)]
    search.apply([batch(events[:20], base=None)])
    search.apply([batch(events[20:], base=20)])
    assert (model.accounts(), model.events()) == plain_documents(placed(events))


@pytest.mark.parametrize(
    "other",
    [Source("cluster-2", "account.events", "topic-1"), Source("cluster-1", "account.events", "topic-2")],
)
def test_another_logs_documents_are_neither_continued_nor_overwritten(
    client: Breaking, search: SearchProjector, model: SearchModel, other: Source
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    stranger = SearchProjector(client, model.indices, other, PLAIN)
    for partition in (0, 3):
        with pytest.raises(CannotProject, match=r"made from another log: cluster-1/account.events/topic-1"):
            stranger.checkpoint(partition)
    with pytest.raises(CannotProject, match="another log"):
        stranger.apply([batch([opened("B-1")], base=1)])
    assert set(model.accounts()) == {"A-1"}


def test_a_gap_between_the_documents_and_the_log_stops_it_and_is_named(
    search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1"), opened("A-2")], base=None)])
    with pytest.raises(CannotProject, match=r"account A-2: .* at sequence 1, and its next event .* is 3 \(part"):
        search.apply([batch([deposited("A-1", 2, 5), deposited("A-2", 3, 5)], base=2)])
    assert search.checkpoint(0) == 2
    model.client.delete(index=model.indices.accounts, id="A-1")
    with pytest.raises(CannotProject, match=r"account A-1: .* at sequence 0, and its next event in the log is 3"):
        search.apply([batch([deposited("A-1", 3, 5)], base=2)])


def test_a_document_that_the_mapping_refuses_is_named(client: Breaking, model: SearchModel) -> None:
    """As after an upgrade of the projector alone: the index does not know a field."""
    index = f"{model.indices.account_events}-000001"
    fields = {name: {"type": "keyword"} for name in ("event_type", "account_id")} | {
        "checkpoint": {"type": "object", "enabled": False}
    }
    model.client.indices.put_index_template(
        name=f"{model.indices.account_events}-old",
        index_patterns=[index],
        priority=1000,
        template={"mappings": {"dynamic": "strict", "properties": fields}},
    )
    try:
        model.client.indices.create(
            index=index, aliases={model.indices.account_events: {"filter": READERS_FILTER}}, mappings={}
        )
    finally:
        model.client.indices.delete_index_template(name=f"{model.indices.account_events}-old")
    search = SearchProjector(client, model.indices, SOURCE, PLAIN)
    search.checkpoint(3)
    with pytest.raises(CannotProject, match=rf"document A-1/1 of index {index} \(partition 3, offset 0\): strict_dyn"):
        search.apply([batch([opened("A-1")], base=None, partition=3)])


def test_without_its_template_no_index_is_made(client: Breaking, new_connections: Callable[[], Connections]) -> None:
    indices = new_connections().indices
    with pytest.raises(CannotProject, match=rf"no index template for {indices.accounts}-\*.*`daybook deploy apply`"):
        SearchProjector(client, indices, SOURCE, PLAIN).checkpoint(0)
    assert not client.indices.exists(index=f"{indices.accounts}*", allow_no_indices=False)


def test_nothing_but_an_alias_of_one_index_is_written_to(
    client: Breaking, search: SearchProjector, model: SearchModel
) -> None:
    search.checkpoint(0)
    second = f"{model.indices.accounts}-000002"
    model.client.indices.create(index=second, aliases={model.indices.accounts: {}})
    with pytest.raises(CannotProject, match=rf"{model.indices.accounts} stands for several indices"):
        search.checkpoint(0)
    with pytest.raises(CannotProject, match="more than one index"):
        search.apply([batch([opened("A-1")], base=None)])
    model.wipe()
    model.client.indices.create(index=model.indices.accounts)
    try:
        with pytest.raises(CannotProject, match=rf"{model.indices.accounts} is an index, where it must be an alias"):
            search.checkpoint(0)
    finally:
        model.client.indices.delete(index=model.indices.accounts)


def test_a_model_on_hold_is_waited_for(search: SearchProjector, model: SearchModel) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    hold = {"checkpoint": {"hold_until_ms": 32_503_680_000_000}}
    model.client.index(index=model.indices.accounts, id=SEARCH_HOLD_ID, document=hold)
    with pytest.raises(SinkUnavailable, match="held for up to"):
        search.apply([batch([deposited("A-1", 2, 5)], base=1)])
    model.client.index(index=model.indices.accounts, id=SEARCH_HOLD_ID, document={"checkpoint": {"hold_until_ms": 1}})
    search.apply([batch([deposited("A-1", 2, 5)], base=1)])


def test_indices_that_take_no_writes_for_now_are_waited_for(search: SearchProjector, model: SearchModel) -> None:
    search.checkpoint(0)
    search.apply([batch([opened("A-1")], base=None)])
    for block in ("read_only_allow_delete", "read_only", "write"):
        index = model.concrete(model.indices.account_events)
        model.client.indices.put_settings(index=index, settings={f"index.blocks.{block}": True})
        try:
            with pytest.raises(SinkUnavailable, match="cluster_block_exception"):
                search.apply([batch([deposited("A-1", 2, 5)], base=1)])
        finally:
            model.client.indices.put_settings(index=index, settings={f"index.blocks.{block}": None})
    model.client.indices.close(index=index)
    with pytest.raises(SinkUnavailable, match="index_closed_exception"):
        search.apply([batch([deposited("A-1", 2, 5)], base=1)])
    model.client.indices.open(index=index, wait_for_active_shards="all")
    search.apply([batch([deposited("A-1", 2, 5)], base=search.checkpoint(0))])
    assert model.events()["A-1/2"]["balance_minor"] == 5


def test_a_shard_that_is_nowhere_is_waited_for(client: Breaking, search: SearchProjector, model: SearchModel) -> None:
    """The cluster is red: no node may have the index's only shard."""
    nowhere = {"index.routing.allocation.require._name": "nobody"}
    index = f"{model.indices.accounts}-000001"
    model.client.indices.create(
        index=index,
        aliases={model.indices.accounts: {"filter": READERS_FILTER}},
        settings=nowhere,
        timeout="0s",
        wait_for_active_shards="0",
    )
    with pytest.raises(SinkUnavailable, match="no_shard_available_action_exception"):
        search.checkpoint(0)
    with pytest.raises(SinkUnavailable, match="503, unavailable_shards_exception"):
        Documents(client).write([Document(b'{"index":{"_index":"%b"}}' % index.encode(), b"{}", index, "A-1", 0, 0)])
    model.client.indices.put_settings(index=index, settings=dict.fromkeys(nowhere))
    model.client.cluster.health(index=index, wait_for_status="yellow")
    assert search.checkpoint(0) is None
    search.apply([batch([opened("A-1")], base=None)])
    assert set(model.accounts()) == {"A-1"}


def test_a_server_that_is_down_can_be_waited_for(model: SearchModel) -> None:
    # Port 1 is reserved and nothing listens there.
    with (
        connect({"hosts": "http://127.0.0.1:1", "max_retries": 0}) as nobody,
        pytest.raises(SinkUnavailable, match="Elasticsearch: "),
    ):
        SearchProjector(nobody, model.indices, SOURCE, PLAIN).checkpoint(0)


def test_a_checkpoint_that_is_no_offset_is_named(search: SearchProjector, model: SearchModel) -> None:
    search.checkpoint(0)
    for alias in model.aliases:
        document = {"checkpoint": {"offset": "twelve"}}
        model.client.index(index=alias, id=checkpoint_id(3), document=document)
    with pytest.raises(CannotProject, match="'twelve' as a checkpoint"):
        search.checkpoint(3)


# What may happen between two batches; the numbers are how many events the next batch takes.
STEPS = st.one_of(
    st.integers(1, 12),
    st.sampled_from(["restart", "zombie", "break", "lose accounts", "lose trail", "save", "restore"]),
)


@settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    log=logs(),
    steps=st.lists(STEPS, max_size=15),
    breaks_after=st.integers(0, 4),
    chunk_bytes=st.sampled_from([500, 100_000]),
)
def test_whatever_happens_elasticsearch_ends_as_a_plain_fold_of_the_log(
    client: Breaking,
    model: SearchModel,
    log: list[RecordedEvent],
    steps: list[int | str],
    breaks_after: int,
    chunk_bytes: int,
) -> None:
    model.wipe()
    client.bulks = Breaking.bulks

    def projector() -> SearchProjector:
        return SearchProjector(client, model.indices, SOURCE, PLAIN, chunk_bytes=chunk_bytes, remembered_accounts=2)

    def documents(alias: str) -> list[dict[str, Any]]:
        index = model.concrete(alias)
        model.client.indices.refresh(index=index)
        return list(model.client.search(index=index, size=1000, version=True)["hits"]["hits"])

    def restore(alias: str, saved: list[dict[str, Any]]) -> None:
        """As it was when it was saved: a snapshot, by hand."""
        model.wipe(alias)
        model.client.indices.create(
            index=f"{alias}-000007",
            aliases={alias: {"filter": READERS_FILTER}},
            mappings={"_meta": {"log": str(SOURCE)}},
        )
        lines: list[dict[str, Any]] = []
        for hit in saved:
            versioned = {} if hit["_id"].startswith("/") else {"version": hit["_version"], "version_type": "external"}
            lines += ({"index": {"_id": hit["_id"], **versioned}}, hit["_source"])
        if lines:
            model.client.bulk(index=f"{alias}-000007", operations=lines)

    search = projector()
    at = search.checkpoint(0)
    backup = {alias: documents(alias) for alias in model.aliases}
    for step in [*steps, "restart", len(log)]:
        match step:
            case int():
                taken = batch(log[at or 0 : (at or 0) + step], base=at)
                try:
                    search.apply([taken])
                    at = taken.next_offset
                except (CheckpointMoved, SinkUnavailable):
                    client.bulks = Breaking.bulks
                    at = search.checkpoint(0)
            case "restart":
                client.bulks = Breaking.bulks
                search = projector()
                at = search.checkpoint(0)
            case "zombie":
                other = SearchProjector(model.client, model.indices, SOURCE, PLAIN)
                stands = other.checkpoint(0)
                other.apply([batch(log[stands or 0 : (stands or 0) + 3], base=stands)])
            case "break":
                client.bulks = breaks_after
            case "lose accounts":
                model.wipe(model.indices.accounts)
            case "lose trail":
                model.wipe(model.indices.account_events)
            case "save":
                backup = {
                    alias: documents(alias) for alias in model.aliases if model.client.indices.exists(index=alias)
                }
            case "restore":
                for alias, saved in backup.items():
                    restore(alias, saved)
    assert at == len(log)
    assert search.checkpoint(0) == len(log)
    assert (model.accounts(), model.events()) == plain_documents(placed(log))
