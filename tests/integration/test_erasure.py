"""What is left of an erased holder is found, and told apart from what is others', on real servers."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from elasticsearch import Elasticsearch

from daybook.erasure.indices import Indices
from daybook.erasure.places import NotErased, Place, State
from daybook.erasure.run import Erasure, Report
from daybook.erasure.texts import Texts
from daybook.errors import AccountUnknown
from daybook.progress import untold
from deploy.definitions import apply
from projectors.projector import Batch
from projectors.search_rebuild import SearchRebuild
from projectors.source import Source
from schemas.connections import Connections
from schemas.events import AccountCreated, HolderChanged, HolderErased, MoneyDeposited, RecordedEvent
from schemas.keyring import KeyRing
from schemas.readmodels import balance_key
from schemas.sealing import ERASED, Sealer, new_data_key
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.holders import WithKeys
from tests.processes import environment, free_port, until
from tests.recorded import recorded
from tests.subject_keys import KeyTopic
from tests.wire import Wire, configure, opening, read_all

KEY = new_data_key()
SEALER = Sealer(lambda _: KEY)


@dataclass(frozen=True)
class Holder:
    """A holder of the module's ledger whom no other test knows."""

    account_id: str
    name: str

    def events(self) -> list[RecordedEvent]:
        created = recorded(self.account_id, 1, AccountCreated(currency="EUR", holder_name=""))
        sealed = SEALER.seal(self.name, self.account_id, created.event_id, "holder_name")
        return [
            recorded(self.account_id, 1, AccountCreated(currency="EUR", holder_name=sealed)),
            recorded(self.account_id, 2, HolderErased()),
        ]


def look(connections: Connections, account_id: str, *texts: str) -> Report:
    with Erasure(connections, account_id, Texts(texts), timeout_s=30) as erasure:
        return erasure.look(untold)


def states(report: Report, *but: State) -> dict[str, State]:
    """What is not clear, and in none of these states."""
    passed = (State.CLEAR, *but)
    return {place.name.rpartition(".")[2]: place.state for place in report.places if place.state not in passed}


@pytest.fixture(scope="module")
def deployed(new_connections: Callable[[], Connections]) -> Connections:
    """One ledger for all: each test has a holder of its own."""
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    return connections


@pytest.fixture
def holder() -> Holder:
    mark = uuid.uuid4().hex[:12]
    return Holder(f"A-{mark}", f"Wilhelmine Ohnesorg{mark}")


@pytest.fixture
def client(deployed: Connections) -> Iterator[Elasticsearch]:
    with closing(Elasticsearch(**deployed.elasticsearch())) as client:
        yield client


def test_nothing_is_left_of_a_holder_who_was_sealed_and_erased(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    with KeyTopic(deployed, PARTITIONS, KeyRing.of(deployed)) as keys:
        keys.give("B-2")

    report = look(deployed, holder.account_id, holder.name)

    assert report.state is State.CLEAR, report.places
    assert (report.sequence, report.erased_at) == (2, datetime(2025, 6, 15, 15, 6, 42, tzinfo=UTC))


def test_where_texts_are_looked_for_nothing_was_looked_at_without_one(
    deployed: Connections, holder: Holder, tmp_path: Path
) -> None:
    """A receipt that calls such places clear would be signed for nothing."""
    Log(deployed).append(holder.events())
    (tmp_path / "stack.json").write_text("{}")
    with Erasure(deployed, holder.account_id, Texts(()), stack=tmp_path, timeout_s=30) as erasure:
        report = erasure.look(untold)
        again = erasure.look(untold)
    topics = deployed.topics
    by_themselves = {f"topic {name}" for name in (topics.events, topics.subject_keys, topics.commands, topics.parked)}
    looked_at = {place.name for place in report.places if place.state is not State.UNSEEN}
    assert {name for name in looked_at if not name.startswith("index accounts-")} == by_themselves
    assert {"Redis", "Iceberg table", "files of the stack", f"topic {topics.replies}"} <= {
        place.name for place in report.places if place.state is State.UNSEEN and "--text" in place.detail
    }
    assert again.places == report.places

    named = look(deployed, holder.account_id, holder.name)
    assert not [place for place in named.places if place.state is State.UNSEEN]


def test_who_is_not_erased_is_not_verified(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events()[:1])
    with pytest.raises(NotErased, match="is not erased: `daybook erase"):
        look(deployed, holder.account_id)
    with pytest.raises(AccountUnknown):
        look(deployed, "A-2")


def test_a_name_in_an_event_from_before_sealing_stays_and_is_found(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(
        [
            recorded(holder.account_id, 1, AccountCreated(currency="EUR", holder_name=holder.name)),
            recorded(holder.account_id, 2, HolderChanged(holder_name=ERASED.value)),
            recorded(holder.account_id, 3, HolderErased()),
        ]
    )
    (found,) = (place for place in look(deployed, holder.account_id).places if place.state is State.FOUND)
    assert found.detail.startswith("AccountCreated from before sealing at ")


def test_a_key_is_found_until_compaction_has_taken_it_out(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    with KeyTopic(deployed, PARTITIONS, KeyRing.of(deployed)) as keys:
        keys.give(holder.account_id)
        assert states(look(deployed, holder.account_id), State.UNSEEN) == {"keys": State.FOUND}
        keys.erase(holder.account_id)
        report = look(deployed, holder.account_id)
        assert states(report, State.UNSEEN) == {"keys": State.PENDING}
        assert report.until is not None
        keys.give("B-2")
    assert states(look(deployed, holder.account_id), State.UNSEEN) == {"keys": State.PENDING}


def test_a_key_behind_the_tombstone_is_found_since_it_opens_what_is_sealed(
    deployed: Connections, holder: Holder
) -> None:
    Log(deployed).append(holder.events())
    with KeyTopic(deployed, PARTITIONS, KeyRing.of(deployed)) as keys:
        # As after compaction has taken out the one before.
        keys.erase(holder.account_id)
        keys.give(holder.account_id)
    (found,) = (place for place in look(deployed, holder.account_id).places if place.state is State.FOUND)
    assert found.name.endswith("subject.keys")
    assert "behind its tombstone" in found.detail


def test_commands_that_were_deleted_are_pending_until_they_are_off_the_disks(
    deployed: Connections, holder: Holder
) -> None:
    Log(deployed).append(holder.events())
    topic, partition = deployed.topics.commands, partition_of(holder.account_id, PARTITIONS)
    with Wire(deployed, PARTITIONS) as wire:
        wire.send(opening(holder.account_id, holder_name=holder.name))
        wire.flush()
    # Years after the erasure, by whose time nothing would be waited for.
    with Erasure(deployed, holder.account_id, Texts(()), timeout_s=30) as erasure:
        assert states(erasure.look(untold), State.UNSEEN) == {"commands": State.PENDING}
        with AdminClient(deployed.kafka()) as admin:
            (deleted,) = admin.delete_records([TopicPartition(topic, partition, OFFSET_END)]).values()
            deleted.result(30)
        report = erasure.look(untold)
    assert states(report, State.UNSEEN) == {"commands": State.PENDING}
    assert report.until is not None


def test_a_command_that_was_not_processed_is_never_deleted(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    topics = deployed.topics
    at = TopicPartition(topics.commands, partition_of(holder.account_id, PARTITIONS))
    with AdminClient(deployed.kafka()) as admin:
        configure(admin, topics.commands, {"segment.ms": "1000"})
    with Wire(deployed, PARTITIONS) as wire:
        wire.send(opening(holder.account_id, holder_name=holder.name))
        wire.flush()
    with (
        Erasure(deployed, holder.account_id, Texts(()), timeout_s=2) as erasure,
        closing(Consumer(deployed.kafka(group_id=topics.command_service_group))) as service,
    ):
        _, end = service.get_watermark_offsets(at, 30)

        def commands() -> str:
            return next(p.detail for p in erasure.look(untold).places if p.name == f"topic {topics.commands}")

        until(lambda: "has yet to process" in commands(), "command that is due")
        assert service.get_watermark_offsets(at, 30)[0] < end
        # The service has processed that one, and not the erasure that was appended behind it.
        service.commit(offsets=[TopicPartition(at.topic, at.partition, end)], asynchronous=False)
        commands()
        assert service.get_watermark_offsets(at, 30)[0] == end


def test_texts_in_others_records_are_theirs_and_in_ones_own_are_found(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    topics = deployed.topics
    with Producer(deployed.kafka()) as producer:
        # What an account has parked goes by its key, as does here what an earlier release parked.
        for key in (b"B-2", holder.account_id.encode()):
            producer.produce(
                topics.parked, f"garbage {holder.name}".encode(), key, partition_of(key.decode(), PARTITIONS)
            )
        producer.produce(topics.replies, f"garbage {holder.name}".encode(), b"some command", 0)
        assert producer.flush(30) == 0
    texts = Texts([holder.name])

    with Erasure(deployed, holder.account_id, texts, timeout_s=30) as erasure:
        report = erasure.look(untold)

    assert states(report) == {"parked": State.PENDING, "replies": State.PENDING}
    (parked,) = (place for place in report.places if place.name.endswith("parked"))
    assert "1 more" not in parked.detail
    assert parked.until is not None
    assert parked.until - datetime.now(UTC) < timedelta(minutes=10)
    assert texts.elsewhere == {holder.name: {"B-2"}}


def test_redis_is_looked_through_whatever_keys_hold(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    with redis.Redis.from_url(deployed.redis()) as cache:
        cache.hset(balance_key("B-2"), mapping={"note": holder.name})
        cache.zadd("balances:EUR", {"A-1": 1})
        assert states(look(deployed, holder.account_id, holder.name)) == {}
        cache.xadd("somebody's stream", {"note": holder.name})
        assert states(look(deployed, holder.account_id, holder.name)) == {"Redis": State.FOUND}
        cache.delete("somebody's stream")
        cache.rpush("somebody's list", "x", f"... {holder.name} ...")
        assert states(look(deployed, holder.account_id, holder.name)) == {"Redis": State.FOUND}


def test_what_the_audit_trail_has_is_found_however_often_it_is_looked_for(
    deployed: Connections, holder: Holder, client: Elasticsearch
) -> None:
    Log(deployed).append(holder.events())
    index = f"{deployed.indices.account_events}-000001"
    client.indices.create(index=index)
    found = {"account_id": holder.account_id, "reason": f"for {holder.name}"}
    client.index(index=index, id=f"{holder.account_id}/1", document=found, refresh=True)
    with Erasure(deployed, holder.account_id, Texts([holder.name]), timeout_s=30) as erasure:
        for _ in range(2):
            (place,) = (place for place in erasure.look(untold).places if place.state is State.FOUND)
            assert place.name == f"index {index}"


def put(client: Elasticsearch, index: str, account_id: str, found: dict[str, object]) -> None:
    version = found["sequence"]
    client.index(index=index, id=account_id, document=found, version=version, version_type="external", refresh=True)  # type: ignore[arg-type]


def test_the_live_index_is_waited_for_and_a_kept_one_overwritten(
    deployed: Connections, holder: Holder, client: Elasticsearch
) -> None:
    alias = deployed.indices.accounts
    live, kept = f"{alias}-000002", f"{alias}-000001"
    client.indices.create(index=live, aliases={alias: {}})
    client.indices.create(index=kept)
    texts = Texts([holder.name])

    def document(sequence: int, name: str, **fields: object) -> dict[str, object]:
        return {"account_id": holder.account_id, "holder_name": name, "sequence": sequence, **fields}

    for index in (live, kept):
        put(client, index, holder.account_id, document(2, holder.name, holder_email="w@example.org"))
        put(client, index, "B-2", document(1, holder.name) | {"account_id": "B-2"})

    def viewed(indices: Indices) -> dict[str, Place]:
        return {place.name.removeprefix("index "): place for place in indices.view(3, untold)}

    with closing(Indices(deployed, holder.account_id, texts, timeout_s=30)) as indices:
        first = viewed(indices)
        assert "yet to read" in first[live].detail
        assert first[kept].state is State.PENDING
        found = client.get(index=kept, id=holder.account_id)
        assert found["_source"] == document(2, ERASED.value, holder_erased=True)
        assert found["_version"] == 2
        # Should the kept index be live again, its projector goes on where it was.
        put(client, kept, holder.account_id, document(3, ERASED.value, holder_erased=True))

        put(client, live, holder.account_id, document(3, ERASED.value, holder_erased=True))
        second = viewed(indices)
        assert all(place.state in (State.PENDING, State.CLEAR) for place in second.values())
        assert "overwritten" in second[live].detail or second[live].state is State.CLEAR
        assert texts.elsewhere == {holder.name: {"B-2"}}

        # A holder who came after the erasure is no business of it.
        put(client, live, holder.account_id, document(4, "Ada Lovelace"))
        viewed(indices)
        assert client.get(index=live, id=holder.account_id)["_source"]["holder_name"] == "Ada Lovelace"


def test_what_is_written_to_an_index_that_was_clear_is_waited_for(
    deployed: Connections, holder: Holder, client: Elasticsearch
) -> None:
    index = f"{deployed.indices.accounts}-000103"
    client.indices.create(index=index)
    document = {"account_id": holder.account_id, "holder_name": holder.name, "sequence": 1}
    erased = {"holder_name": ERASED.value, "holder_erased": True, "sequence": 2}

    def viewed() -> Place:
        return next(place for place in indices.view(2, untold) if place.name == f"index {index}")

    with closing(Indices(deployed, holder.account_id, Texts([holder.name]), timeout_s=30)) as indices:
        assert viewed().state is State.CLEAR
        # A projector had read the name before the erasure, and writes it now.
        put(client, index, holder.account_id, document)
        put(client, index, holder.account_id, document | erased)
        place = viewed()
    assert (place.state, place.detail) == (State.PENDING, "overwritten, until its segment may be merged")


def test_a_rebuild_under_way_is_waited_for_since_it_has_the_name_in_memory(
    deployed: Connections, holder: Holder, client: Elasticsearch
) -> None:
    rebuild = SearchRebuild(
        client, deployed.indices, Source("c", deployed.topics.events, "t"), WithKeys({holder.account_id: KEY})
    )
    rebuild.begin("fingerprint")
    index = max(client.indices.get(index=f"{deployed.indices.accounts}-*", features="aliases"))
    base = rebuild.copy.checkpoint(0)
    created = holder.events()[0]
    paid = recorded(holder.account_id, 2, MoneyDeposited(amount_minor=1, currency="EUR", balance_minor=1))
    erased = recorded(holder.account_id, 3, HolderErased())
    with closing(Indices(deployed, holder.account_id, Texts([holder.name]), timeout_s=30)) as indices:
        for offset, event in enumerate((created, paid, erased)):
            rebuild.copy.apply([Batch(0, base, [event], range(offset, offset + 1), offset + 1)])
            base = offset + 1
            (place,) = (place for place in indices.view(3, untold) if place.name == f"index {index}")
            if event is not erased:
                assert place.detail.startswith("a rebuild has yet to read the erasure"), place
        assert "rebuild" not in place.detail
    rebuild.discard()


def test_a_closed_index_may_have_anything(deployed: Connections, holder: Holder, client: Elasticsearch) -> None:
    names = [f"{alias}-000105" for alias in (deployed.indices.accounts, deployed.indices.account_events)]
    for index in names:
        client.indices.create(index=index, wait_for_active_shards=1)
        client.indices.close(index=index)
    with closing(Indices(deployed, holder.account_id, Texts([holder.name]), timeout_s=30)) as indices:
        places = [*indices.view(2, untold), *indices.trail(untold)]
    found = [place for place in places if "is closed" in place.detail]
    assert [(place.name, place.state) for place in found] == [(f"index {index}", State.FOUND) for index in names]
    for index in names:
        client.indices.delete(index=index)


def test_shards_that_do_not_have_the_account_are_not_waited_for(
    deployed: Connections, holder: Holder, client: Elasticsearch
) -> None:
    index = f"{deployed.indices.accounts}-000104"
    client.indices.create(index=index, settings={"index.number_of_shards": 2})

    def shard(account_id: str) -> int:
        (copies,) = client.search_shards(index=index, routing=account_id)["shards"]
        return int(copies[0]["shard"])

    mine = shard(holder.account_id)
    names = [f"N-{n}" for n in range(40)]
    for name in names:
        put(client, index, name, {"account_id": name, "holder_name": "Bob", "sequence": 1})
    # Few operations, and one document that was overwritten.
    other = next(name for name in names if shard(name) != mine)
    put(client, index, other, {"account_id": other, "holder_name": "Bob", "sequence": 2})
    erased = {"holder_name": ERASED.value, "holder_erased": True, "sequence": 2}
    put(client, index, holder.account_id, {"account_id": holder.account_id} | erased)

    with closing(Indices(deployed, holder.account_id, Texts([holder.name]), timeout_s=30)) as indices:
        place = next(place for place in indices.view(2, untold) if place.name == f"index {index}")
    assert place.state is State.CLEAR


def test_a_ledger_without_search_analytics_and_cache_is_verified_without(deployed: Connections, holder: Holder) -> None:
    Log(deployed).append(holder.events())
    without = deployed.model_copy(
        update={"elasticsearch_url": None, "redis_url": None, "iceberg_catalog": None, "iceberg_warehouse": None}
    )
    report = look(without, holder.account_id, holder.name)
    assert report.state is State.CLEAR
    assert {p.name for p in report.places if p.state is State.UNSEEN} == {"Elasticsearch", "Redis", "Iceberg table"}


@pytest.mark.parametrize(
    ("variable", "scheme"), [("DAYBOOK_REDIS_URL", "redis"), ("DAYBOOK_ELASTICSEARCH_URL", "http")]
)
def test_nobody_is_erased_while_a_server_is_away_that_is_needed_afterwards(
    deployed: Connections, holder: Holder, variable: str, scheme: str
) -> None:
    Log(deployed).append(holder.events()[:1])
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "daybook", "erase", holder.account_id, "--yes", "--timeout", "5"],
        env=environment(deployed, **{variable: f"{scheme}://127.0.0.1:{free_port()}"}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 4, ended.stderr
    assert "refused" in ended.stderr
    given = [record.key() for record in read_all(deployed, deployed.topics.commands)]
    assert holder.account_id.encode() not in given
