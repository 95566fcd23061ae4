"""What the balances projector does to a real server of the Redis protocol. Each test has it to itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from projectors.balances import UNDER_WAY_KEY, BalancesProjector
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.redis_functions import connect
from projectors.source import Source
from schemas.events import AccountClosed, AccountFrozen, RecordedEvent
from schemas.money import INT64_MAX, INT64_MIN
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY
from tests.recorded import Model, batch, completed, deposited, logs, opened, plain_fold, received, recorded, sent

SOURCE = Source("cluster-1", "account.events", "topic-1")


@pytest.fixture
def redis(own_redis: str) -> Iterator[Redis]:
    client = connect(own_redis)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def balances(redis: Redis) -> BalancesProjector:
    return BalancesProjector(redis, SOURCE)


def model(redis: Redis) -> Model:
    """What a reader finds in Redis, account by account."""
    return {
        key.decode().removeprefix("balance:"): {
            name.decode(): value.decode() for name, value in redis.hgetall(key).items()
        }
        for key in redis.scan_iter("balance:*")
    }


def ranking(redis: Redis, currency: str) -> list[str]:
    return [member.decode() for member in redis.zrange(f"balances:{currency}", 0, -1)]


def test_a_batch_and_its_checkpoint_are_there_together(redis: Redis, balances: BalancesProjector) -> None:
    events = [opened("A-1"), deposited("A-1", 2, 250), opened("A-2", "JPY")]
    assert balances.checkpoint(0) is None
    balances.apply([batch(events, base=None)])
    assert balances.checkpoint(0) == 3
    assert balances.checkpoint(1) is None
    assert model(redis) == plain_fold(events)
    assert model(redis)["A-1"]["balance_minor"] == "250"


def test_the_ranking_has_the_open_accounts_of_a_currency_by_balance(redis: Redis, balances: BalancesProjector) -> None:
    events = [opened("A-1"), opened("A-2"), opened("A-3"), opened("J-1", "JPY")]
    events += [deposited("A-1", 2, 300), deposited("A-2", 2, -5), deposited("A-3", 2, 20)]
    balances.apply([batch(events, base=None)])
    assert ranking(redis, "EUR") == ["A-2", "A-3", "A-1"]
    assert ranking(redis, "JPY") == ["J-1"]
    balances.apply([batch([recorded("A-2", 3, AccountFrozen()), recorded("A-3", 3, AccountClosed())], base=7)])
    assert ranking(redis, "EUR") == ["A-2", "A-1"]
    assert model(redis)["A-3"]["status"] == "closed"


def test_money_in_transit_is_beside_the_balance_and_in_no_ranking(redis: Redis, balances: BalancesProjector) -> None:
    in_transit = 2**53 + 1
    events = [opened("A-1"), opened("B-1"), deposited("A-1", 2, in_transit + 5)]
    on_its_way = [*events, sent("A-1", 3, 1, amount=in_transit, balance=5)]
    balances.apply([batch(on_its_way, base=None)])
    assert model(redis) == plain_fold(on_its_way)
    assert (model(redis)["A-1"]["balance_minor"], model(redis)["A-1"]["in_transit_minor"]) == ("5", str(in_transit))
    assert redis.zscore("balances:EUR", "A-1") == 5
    settled = [received("B-1", 2, 1, amount=in_transit), completed("A-1", 4, 1, amount=in_transit)]
    balances.apply([batch(settled, base=4)])
    assert model(redis) == plain_fold([*on_its_way, *settled])
    assert model(redis)["A-1"]["in_transit_minor"] == "0"
    assert ranking(redis, "EUR") == ["A-1", "B-1"]


def test_an_account_of_an_earlier_release_gets_what_is_in_transit_with_its_first_transfer(
    redis: Redis, balances: BalancesProjector
) -> None:
    balances.apply([batch([opened("A-1"), deposited("A-1", 2, 100)], base=None)])
    redis.hdel("balance:A-1", "in_transit_minor")
    balances.apply([batch([deposited("A-1", 3, 200)], base=2)])
    assert "in_transit_minor" not in model(redis)["A-1"]
    balances.apply([batch([sent("A-1", 4, 1, amount=30, balance=170)], base=3)])
    assert (model(redis)["A-1"]["balance_minor"], model(redis)["A-1"]["in_transit_minor"]) == ("170", "30")


@pytest.mark.parametrize("balance", [INT64_MAX, INT64_MIN, 2**53 + 1, -(2**53) - 1, 0])
def test_balances_are_exact_to_the_last_of_64_bits(redis: Redis, balances: BalancesProjector, balance: int) -> None:
    balances.apply([batch([opened("A-1"), deposited("A-1", 2, balance)], base=None)])
    assert model(redis)["A-1"]["balance_minor"] == str(balance)
    assert redis.zscore("balances:EUR", "A-1") == float(balance)


def test_offsets_are_exact_beyond_what_a_double_holds(balances: BalancesProjector) -> None:
    balances.apply([Batch(0, None, (), (), 2**53 + 1)])
    balances.apply([Batch(0, 2**53 + 1, (), (), 2**53 + 3)])
    assert balances.checkpoint(0) == 2**53 + 3
    with pytest.raises(CheckpointMoved):
        balances.apply([Batch(0, 2**53 + 4, (), (), 2**53 + 5)])


def test_only_newer_sequences_are_set(redis: Redis, balances: BalancesProjector) -> None:
    newest = [opened("A-1"), deposited("A-1", 2, 1), deposited("A-1", 3, 2)]
    balances.apply([batch(newest, base=None)])
    redis.delete(BALANCES_CHECKPOINT_KEY)
    balances.apply([batch(newest[:2], base=None)])
    assert model(redis) == plain_fold(newest)
    assert balances.checkpoint(0) == 2


def test_a_checkpoint_that_is_no_offset_is_named(redis: Redis, balances: BalancesProjector) -> None:
    redis.hset(BALANCES_CHECKPOINT_KEY, "3", "twelve")
    with pytest.raises(CannotProject, match=r"Redis has b'twelve' as the checkpoint of partition 3"):
        balances.checkpoint(3)


def test_a_batch_that_builds_on_another_checkpoint_is_refused(redis: Redis, balances: BalancesProjector) -> None:
    balances.apply([batch([opened("A-1")], base=None)])
    zombie = BalancesProjector(redis, SOURCE)
    with pytest.raises(CheckpointMoved, match=r"has 1 for partition 0 .* where none was expected"):
        zombie.apply([batch([opened("A-1"), deposited("A-1", 2, 9)], base=None)])
    assert balances.checkpoint(0) == 1
    assert model(redis) == plain_fold([opened("A-1")])


def test_a_wiped_server_is_noticed_without_events_and_takes_everything_again(
    redis: Redis, balances: BalancesProjector
) -> None:
    balances.apply([batch([opened("A-1")], base=None)])
    redis.flushall()
    redis.function_flush()
    with pytest.raises(CheckpointMoved, match="no checkpoint"):
        balances.apply([Batch(0, 1, (), (), 1)])
    assert balances.checkpoint(0) is None
    balances.apply([batch([opened("A-1")], base=None)])
    assert model(redis) == plain_fold([opened("A-1")])


def test_asking_whether_the_sink_stands_where_it_was_left_changes_nothing(
    redis: Redis, balances: BalancesProjector
) -> None:
    balances.apply([batch([opened("A-1")], base=None)])
    before = redis.lastsave(), redis.info("persistence")["rdb_changes_since_last_save"]
    balances.apply([Batch(0, 1, (), (), 1)])
    assert (redis.lastsave(), redis.info("persistence")["rdb_changes_since_last_save"]) == before


@pytest.mark.parametrize(
    "other",
    [
        Source("cluster-2", "account.events", "topic-1"),
        Source("cluster-1", "eu.account.events", "topic-1"),
        Source("cluster-1", "account.events", "topic-2"),
    ],
)
def test_another_logs_balances_are_neither_continued_nor_overwritten(
    redis: Redis, balances: BalancesProjector, other: Source
) -> None:
    balances.apply([batch([opened("A-1")], base=None)])
    stranger = BalancesProjector(redis, other)
    with pytest.raises(CannotProject, match=r"holds the balances of another log: cluster-1/account.events/topic-1"):
        stranger.checkpoint(0)
    with pytest.raises(CannotProject, match="Use another database in DAYBOOK_REDIS_URL"):
        stranger.apply([batch([opened("B-1")], base=None)])
    assert set(model(redis)) == {"A-1"}


def test_a_gap_between_redis_and_the_log_stops_it_and_is_named(redis: Redis, balances: BalancesProjector) -> None:
    balances.apply([batch([opened("A-1"), opened("A-2")], base=None)])
    with pytest.raises(CannotProject, match=r"account A-2: Redis has it at sequence 1, and its next event .* is 3"):
        balances.apply([batch([deposited("A-1", 2, 5), deposited("A-2", 3, 5)], base=2)])
    assert balances.checkpoint(0) == 2
    redis.delete("balance:A-1")
    with pytest.raises(CannotProject, match=r"account A-1: Redis has it at sequence 0"):
        balances.apply([batch([deposited("A-1", 3, 5)], base=2)])


def test_a_batch_of_many_accounts_is_applied_in_several_calls(redis: Redis) -> None:
    events = [opened(f"A-{i}") for i in range(1000)]
    balances = BalancesProjector(redis, SOURCE, accounts_per_call=64)
    balances.apply([batch(events, base=None)])
    assert model(redis) == plain_fold(events)
    assert balances.checkpoint(0) == 1000


class Breaking(Redis):
    """A client whose connection breaks before the call after the first `calls` of the function."""

    calls = 1_000_000

    def fcall(self, *args: Any, **options: Any) -> Any:
        if self.calls == 0:
            raise RedisConnectionError("the connection broke")
        self.calls -= 1
        return super().fcall(*args, **options)


def test_what_is_cut_off_between_two_calls_is_done_again(redis: Redis) -> None:
    events = [opened("A-1"), opened("A-2"), deposited("A-1", 2, 5), opened("A-3")]
    breaking = Breaking(connection_pool=redis.connection_pool)
    breaking.calls = 2
    with pytest.raises(SinkUnavailable, match="the connection broke"):
        BalancesProjector(breaking, SOURCE, accounts_per_call=1).apply([batch(events, base=None)])
    restarted = BalancesProjector(redis, SOURCE)
    assert model(redis) == plain_fold(events[:3])
    assert redis.exists(UNDER_WAY_KEY)
    assert restarted.checkpoint(0) is None
    restarted.apply([batch(events, base=None)])
    assert model(redis) == plain_fold(events)
    assert restarted.checkpoint(0) == 4
    assert not redis.exists(UNDER_WAY_KEY)


def test_a_batch_that_was_begun_is_not_held_half_way(redis: Redis) -> None:
    class Held(Redis):
        def fcall(self, *args: Any, **options: Any) -> Any:
            answer = super().fcall(*args, **options)
            self.set(BALANCES_HOLD_KEY, "a rebuild", px=30_000)
            return answer

    events = [opened("A-1"), opened("A-2")]
    projector = BalancesProjector(Held(connection_pool=redis.connection_pool), SOURCE, accounts_per_call=1)
    projector.apply([batch(events, base=None)])
    assert projector.checkpoint(0) == 2
    with pytest.raises(SinkUnavailable, match="are held"):
        projector.apply([batch([opened("A-3")], base=2)])


class Forgetful(Redis):
    """A client whose server loses all that it has before the second call of the function, as one does that is replaced
    by a replica without data. The connection holds."""

    calls = 0

    def fcall(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 2:
            self.flushdb()
        return super().fcall(*args, **options)


def test_what_is_forgotten_between_two_calls_is_noticed_at_the_very_first_batch(redis: Redis) -> None:
    forgetful = Forgetful(connection_pool=redis.connection_pool)
    balances = BalancesProjector(forgetful, SOURCE, accounts_per_call=1)
    events = [opened("A-1"), opened("A-2")]
    with pytest.raises(CheckpointMoved, match=r"has no checkpoint for partition 0"):
        balances.apply([batch(events, base=None)])
    balances.apply([batch(events, base=balances.checkpoint(0))])
    assert model(redis) == plain_fold(events)


def test_a_server_that_is_down_can_be_waited_for() -> None:
    with pytest.raises(SinkUnavailable, match="Redis: "):
        # Port 1 is reserved and nothing listens there.
        BalancesProjector(connect("redis://127.0.0.1:1/0"), SOURCE).checkpoint(0)


def test_a_server_that_is_full_can_be_waited_for(redis: Redis, balances: BalancesProjector) -> None:
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(SinkUnavailable, match="maxmemory"):
            balances.apply([batch([opened("A-1")], base=None)])
    finally:
        redis.config_set("maxmemory", "0")
    balances.apply([batch([opened("A-1")], base=None)])
    assert balances.checkpoint(0) == 1


def test_a_server_that_became_a_replica_can_be_waited_for(redis: Redis, balances: BalancesProjector) -> None:
    balances.apply([batch([opened("A-1")], base=None)])
    redis.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(SinkUnavailable):
            balances.apply([batch([deposited("A-1", 2, 5)], base=1)])
    finally:
        redis.replicaof("NO", "ONE")
    balances.apply([batch([deposited("A-1", 2, 5)], base=1)])


def test_wrong_credentials_are_not_waited_for(own_redis: str) -> None:
    url = own_redis.replace("redis://", "redis://nobody:secret@")
    with pytest.raises(CannotProject, match="refuses the credentials"):
        BalancesProjector(connect(url), SOURCE).checkpoint(0)


def test_a_key_of_another_kind_is_not_waited_for(redis: Redis, balances: BalancesProjector) -> None:
    redis.set("balance:A-1", "mine")
    with pytest.raises(CannotProject, match="WRONGTYPE"):
        balances.apply([batch([opened("A-1")], base=None)])


# What may happen between two batches; the numbers are how many events the next batch takes.
STEPS = st.one_of(st.integers(1, 12), st.sampled_from(["restart", "zombie", "break", "wipe", "save", "restore"]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=logs(), steps=st.lists(STEPS, max_size=20), accounts_per_call=st.integers(1, 4))
def test_whatever_happens_redis_ends_as_a_plain_fold_of_the_log(
    redis: Redis, log: list[RecordedEvent], steps: list[int | str], accounts_per_call: int
) -> None:
    redis.flushdb()
    breaking = Breaking(connection_pool=redis.connection_pool)
    balances = BalancesProjector(breaking, SOURCE, accounts_per_call=accounts_per_call)
    backup: dict[bytes, bytes] = {}
    at = balances.checkpoint(0)
    for step in [*steps, "restart", len(log)]:
        match step:
            case int():
                taken = batch(log[at or 0 : (at or 0) + step], base=at)
                try:
                    balances.apply([taken])
                    at = taken.next_offset
                except (CheckpointMoved, SinkUnavailable):
                    breaking.calls = Breaking.calls
                    at = balances.checkpoint(0)
            case "restart":
                balances = BalancesProjector(breaking, SOURCE, accounts_per_call=accounts_per_call)
                breaking.calls = Breaking.calls
                at = balances.checkpoint(0)
            case "zombie":
                other = BalancesProjector(redis, SOURCE)
                stands = other.checkpoint(0)
                other.apply([batch(log[stands or 0 : (stands or 0) + 3], base=stands)])
            case "break":
                breaking.calls = 1
            case "wipe":
                redis.flushdb()
            case "save":
                backup = {key: redis.dump(key) for key in redis.scan_iter()}
            case "restore":
                redis.flushdb()
                for key, value in backup.items():
                    redis.restore(key, 0, value)
    assert at == len(log)
    assert balances.checkpoint(0) == len(log)
    expected = plain_fold(log)
    assert model(redis) == expected
    for currency in ("EUR", "JPY", "KWD"):
        ranked = {
            account_id: float(account["balance_minor"])
            for account_id, account in expected.items()
            if account["currency"] == currency and account["status"] != "closed"
        }
        assert {
            m.decode(): score for m, score in redis.zrange(f"balances:{currency}", 0, -1, withscores=True)
        } == ranked
