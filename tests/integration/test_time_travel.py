"""The ledger as it was, from a real log and a real audit index: both say what the domain says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from random import Random
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from elasticsearch import Elasticsearch
from msgspec.structs import replace

from daybook import AccountUnknown, Client, Unreachable, UnreadableRecord
from daybook.cli import main
from daybook.errors import NothingThen
from daybook.fold import Account, fold, in_force
from daybook.log import LoggedEvent, LogRanges
from daybook.progress import Progress
from daybook.timetravel import balances as trial
from daybook.timetravel import stream as streaming
from daybook.timetravel.index import AuditIndex
from daybook.timetravel.points import moment_of
from daybook.timetravel.states import past_account
from deploy.definitions import apply
from projectors.projector import Batch
from projectors.search import SearchProjector
from projectors.source import identify
from schemas.connections import Connections
from schemas.events import AccountFrozen, AccountUnfrozen, MoneyDeposited, RecordedEvent
from schemas.readmodels import checkpoint_id
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.histories import drawn, states
from tests.holders import PLAIN
from tests.processes import environment
from tests.recorded import START, completed, opened, recorded, sent
from tests.unit.test_fold import is_state


class Index:
    """The search indices of a ledger, and their projector, which reads as far as it is told. To be closed."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self.server = Elasticsearch(**connections.elasticsearch(), request_timeout=30)
        with AdminClient(connections.kafka()) as admin:
            source = identify(admin, connections.topics.events)
        self._projector = SearchProjector(self.server, connections.indices, source, PLAIN)
        self._stands = {partition: self._projector.checkpoint(partition) for partition in range(PARTITIONS)}

    def close(self) -> None:
        self.server.close()

    def catch_up(self) -> None:
        """Project the log up to where it ends, so that searches show it."""
        with LogRanges(self._connections, timeout_s=30) as log:
            for partition, end in log.ends().items():
                base = self._stands[partition]
                found = list(log.read(partition, base or 0, end))
                events, offsets = [item.recorded for item in found], [item.offset for item in found]
                self._projector.apply([Batch(partition, base, events, offsets, end)])
                self._stands[partition] = end
        names = self._connections.indices
        self.server.indices.refresh(index=[names.accounts, names.account_events])


@dataclass
class Written:
    """A log and an index of it, with random histories."""

    connections: Connections
    log: Log
    index: Index
    histories: list[list[RecordedEvent]]
    logged: dict[str, list[LoggedEvent]] = field(default_factory=lambda: defaultdict(list))


@pytest.fixture(scope="module")
def written(new_connections: Callable[[], Connections]) -> Iterator[Written]:
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    log = Log(connections, chained=True)
    histories = drawn(200)
    # In turns, so that accounts stand between one another.
    log.append([item for turn in zip_longest(*histories) for item in turn if item is not None])
    with closing(Index(connections)) as index:
        index.catch_up()
        made = Written(connections, log, index, histories)
        with Client(connections, user_id="test") as client:
            for logged in client.events():
                made.logged[logged.recorded.account_id].append(logged)
        yield made


@pytest.fixture
def client(written: Written) -> Iterator[Client]:
    with Client(written.connections, user_id="test", timeout_s=30) as client:
        yield client


def test_every_first_part_of_random_histories_is_the_state_of_the_domain(written: Written) -> None:
    # They are some 1,050 events, now more and now less.
    assert sum(map(len, written.histories)) > 500
    with closing(AuditIndex(written.connections, timeout_s=30)) as index:
        for events in written.histories:
            from_log = written.logged[events[0].account_id]
            from_index = list(index.events(events[0].account_id, None))
            assert from_index == from_log
            for number, state in enumerate(states(events), 1):
                for history in (from_log, from_index):
                    account = fold(history[:number])
                    assert account is not None
                    assert is_state(account, state)


def test_states_as_of_any_point_are_the_same_from_index_and_log(written: Written, client: Client) -> None:
    random = Random()
    for events in random.sample(written.histories, 4):
        account_id = events[0].account_id
        history = written.logged[account_id]
        number, item = random.randint(1, len(events)), random.choice(events)
        effective = random.choice(events).effective_at
        known = [other for other in history if other.recorded.recorded_at <= item.recorded_at]
        asked: list[tuple[dict[str, Any], Account | None]] = [
            ({}, fold(history)),
            ({"at": number}, fold(history[:number])),
            ({"at": moment_of(item.recorded_at)}, fold(known)),
            ({"at": moment_of(item.recorded_at), "effective_at": moment_of(effective)}, in_force(known, effective)),
            ({"effective_at": moment_of(effective)}, in_force(history, effective)),
        ]
        for options, account in asked:
            for from_log in (False, True):
                if account is None:
                    with pytest.raises(NothingThen, match=f"there was no account {account_id}"):
                        client.past.as_of(account_id, from_log=from_log, **options)
                else:
                    assert client.past.as_of(account_id, from_log=from_log, **options) == past_account(account)


def test_balances_as_of_any_time_are_the_same_from_index_and_log(
    written: Written, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pages, so that there are several, and more accounts in each than come at once.
    monkeypatch.setattr(trial, "_ACCOUNTS", 60)
    monkeypatch.setattr(trial, "_FOUND", 50)
    monkeypatch.setattr(trial, "_EVENTS", 100)
    random = Random()
    events = [item for history in written.histories for item in history]
    told: list[Progress] = []
    for _ in range(3):
        known, effective = random.choice(events).recorded_at, random.choice(events).effective_at
        for by_recorded, by_effective in ((True, False), (False, True), (True, True)):
            at, since = moment_of(known) if by_recorded else None, moment_of(effective) if by_effective else None
            found = list(client.past.balances(at, effective_at=since, tell=told.append))
            assert found == list(client.past.balances(at, effective_at=since, from_log=True))
            expected = {}
            for account_id, history in written.logged.items():
                known_by_then = [item for item in history if not by_recorded or item.recorded.recorded_at <= known]
                account = in_force(known_by_then, effective) if by_effective else fold(known_by_then)
                if account is not None:
                    expected[account_id] = account.balance_minor, account.in_transit_minor
            assert {b.account_id: (b.money.amount_minor, b.in_transit.amount_minor) for b in found} == expected
            assert [balance.account_id for balance in found] == sorted(expected)
    assert all(progress.done <= progress.total for progress in told)
    assert any(progress.what == "reading balances of accounts" for progress in told)
    now = list(client.past.balances())
    assert len(now) == len(written.histories)
    assert sum(balance.events for balance in now) == len(events)
    assert list(client.past.balances(currency="CZK")) == []


def test_balances_are_exact_within_a_millisecond(written: Written, client: Client) -> None:
    """The index keeps times to the millisecond, and 1,500 events stand in one."""
    events = [opened("D-1"), *deposits("D-1", 2, 1500)]
    written.log.append(
        [replace(item, recorded_at=START + number, effective_at=START) for number, item in enumerate(events)]
    )
    written.index.catch_up()
    for number in (0, 1, 998, 999):
        found = next(b for b in client.past.balances(moment_of(START + number)) if b.account_id == "D-1")
        assert (found.money.amount_minor, found.events) == (number, number + 1)


def test_money_in_transit_is_exact_within_a_millisecond_too(written: Written, client: Client) -> None:
    # One transfer after the other, each done before the next, in one millisecond; and then deposits, which say nothing.
    pairs = [(sent("E-1", n, n), completed("E-1", n + 1, n)) for n in range(2, 600, 2)]
    events = [opened("E-1"), *(event for pair in pairs for event in pair), *deposits("E-1", 600, 602)]
    written.log.append(
        [replace(item, recorded_at=START + number, effective_at=START) for number, item in enumerate(events)]
    )
    written.index.catch_up()
    for number, in_transit in ((0, 0), (1, 1), (2, 0), (301, 1), (302, 0), (597, 1), (600, 0)):
        for from_log in (False, True):
            balances = client.past.balances(moment_of(START + number), from_log=from_log)
            found = next(b for b in balances if b.account_id == "E-1")
            assert (found.in_transit.amount_minor, found.events) == (in_transit, number + 1)


def test_there_is_nothing_of_an_account_that_never_was(client: Client) -> None:
    for from_log in (False, True):
        with pytest.raises(AccountUnknown):
            client.past.as_of("nobody", from_log=from_log)
    assert list(client.stream("nobody")) == []


def test_there_is_nothing_before_the_first_event_and_after_the_last(written: Written, client: Client) -> None:
    events = written.histories[0]
    account_id, opened_at = events[0].account_id, moment_of(events[0].recorded_at)
    for from_log in (False, True):
        with pytest.raises(NothingThen, match=f"there was no account {account_id} at .* it was opened at"):
            client.past.as_of(account_id, opened_at - timedelta(microseconds=1), from_log=from_log)
        with pytest.raises(NothingThen, match=f"has {len(events)} events? in .*, and no event {len(events) + 1} yet"):
            client.past.as_of(account_id, len(events) + 1, from_log=from_log)
        with pytest.raises(NothingThen, match="and no event 1"):
            client.past.as_of(account_id, 10**20, from_log=from_log)
        with pytest.raises(NothingThen, match=f"there was no account {account_id} at 0001-01-01 00:00:00 UTC"):
            client.past.as_of(account_id, datetime(1, 1, 1, tzinfo=UTC), from_log=from_log)


def sequences(found: Sequence[LoggedEvent]) -> list[int]:
    return [item.recorded.sequence for item in found]


def deposits(account_id: str, first: int, last: int) -> list[RecordedEvent]:
    return [
        recorded(account_id, number, MoneyDeposited(amount_minor=1, currency="EUR", balance_minor=number - 1))
        for number in range(first, last + 1)
    ]


class Noted:
    """Where a stream says that it is, and why it does not use the index."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.reasons: list[str] = []

    def of(self, client: Client, account_id: str, **options: Any) -> list[LoggedEvent]:
        return list(client.past.stream(account_id, tell=self.progress.append, note=self.reasons.append, **options))


@pytest.mark.parametrize("gap", [0, 3, 10**6])
def test_a_stream_is_the_same_whichever_way_it_is_read(
    written: Written, client: Client, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MERGED_GAP", gap)
    events = max(written.histories, key=len)
    account_id = events[0].account_id
    expected = written.logged[account_id]
    noted = Noted()
    assert noted.of(client, account_id) == expected
    assert noted.of(client, account_id, first=len(expected) - 1) == expected[-2:]
    assert noted.of(client, account_id, first=len(expected) + 1) == []
    # All that is read beyond the index is nothing.
    assert (noted.reasons, noted.progress) == ([], [])
    assert noted.of(client, account_id, scan=True) == expected
    assert noted.progress[0].done == 0
    assert noted.reasons == []


def test_a_stream_goes_on_where_the_index_ends(written: Written, client: Client) -> None:
    written.log.append([opened("B-1"), *deposits("B-1", 2, 5)])
    written.index.catch_up()
    written.log.append([opened("B-2"), *deposits("B-1", 6, 9)])
    noted = Noted()
    assert sequences(noted.of(client, "B-1")) == list(range(1, 10))
    assert sequences(noted.of(client, "B-1", first=4)) == list(range(4, 10))
    # Events that the index has yet to learn of follow the newest that it has.
    assert sequences(noted.of(client, "B-1", first=8)) == [8, 9]
    assert sequences(noted.of(client, "B-2")) == [1]
    assert sequences(list(client.stream("B-1", from_sequence=9))) == [9]
    assert noted.reasons == []
    assert client.past.as_of("B-1", from_log=True).sequence == 9
    assert client.past.as_of("B-1").sequence == 5


def test_a_stream_is_read_without_an_index(connections: Connections) -> None:
    apply(connections, partitions=1)
    # So that not every offset has a record, and the first has none.
    Log(connections).append_and_abort([opened("A-1")])
    Log(connections, chained=True).append([opened("A-1"), *deposits("A-1", 2, 30)])
    noted = Noted()
    with Client(connections, user_id="test") as client:
        assert sequences(noted.of(client, "A-1")) == list(range(1, 31))
        (reason,) = noted.reasons
        assert reason.startswith("all of partition 0 is read, since the audit index is of no use: ")
        assert "there is no index" in reason
        assert [told.total for told in noted.progress] == [32]
        assert sequences(noted.of(client, "A-1", first=29)) == [29, 30]
        with pytest.raises(Unreachable, match="there is no index"):
            client.past.as_of("A-1")
    without = connections.model_copy(update={"elasticsearch_url": None})
    with Client(without, user_id="test") as client:
        assert sequences(noted.of(client, "A-1")) == list(range(1, 31))
        assert "DAYBOOK_ELASTICSEARCH_URL" in noted.reasons[-1]


def test_an_index_that_lacks_an_event_or_is_of_another_log_is_not_used(deployed: Connections) -> None:
    log = Log(deployed, chained=True)
    log.append([opened("A-1"), *deposits("A-1", 2, 6)])
    noted = Noted()
    events = deployed.indices.account_events
    with closing(Index(deployed)) as index, Client(deployed, user_id="test") as client:
        index.catch_up()
        index.server.delete(index=events, id="A-1/3", refresh=True)
        assert sequences(noted.of(client, "A-1")) == list(range(1, 7))
        assert "it lacks an event of account A-1" in noted.reasons[-1]
        # Neither what begins behind the missing event is believed, nor what ends before it.
        assert sequences(noted.of(client, "A-1", first=4)) == [4, 5, 6]
        assert len(noted.reasons) == 2
        for at in (None, 6, 3):
            with pytest.raises(UnreadableRecord, match="event 3 of account A-1 is missing"):
                client.past.as_of("A-1", at)
        assert client.past.as_of("A-1", 2).sequence == 2
        for number in (1, 2):
            index.server.delete(index=events, id=f"A-1/{number}", refresh=True)
        assert sequences(noted.of(client, "A-1", first=2)) == [2, 3, 4, 5, 6]
        for at in (0, 1):
            with pytest.raises(UnreadableRecord, match="event 1 of account A-1 is missing"):
                client.past.as_of("A-1", at)
        for partition in range(PARTITIONS):
            for name in (events, deployed.indices.accounts):
                checkpoint_of_another_log(index.server, name, partition)
        assert sequences(noted.of(client, "A-1")) == list(range(1, 7))
        assert "it was made from another log, elsewhere" in noted.reasons[-1]


def checkpoint_of_another_log(server: Elasticsearch, name: str, partition: int) -> None:
    server.update(index=name, id=checkpoint_id(partition), doc={"checkpoint": {"log": "elsewhere"}})


def test_an_event_that_does_not_follow_is_named(deployed: Connections) -> None:
    log = Log(deployed, chained=True)
    log.append([opened("A-1"), *deposits("A-1", 2, 4)])
    log.append([opened("A-2"), recorded("A-2", 3, AccountFrozen())])
    log.append([opened("A-3"), recorded("A-3", 2, AccountFrozen())])
    # Written by another hand: its hash does not follow from what is there.
    Log(deployed).append([recorded("A-1", 5, AccountFrozen())])
    log.append([recorded("A-3", 2, AccountUnfrozen())])
    with Client(deployed, user_id="test") as client:
        with pytest.raises(UnreadableRecord, match=r"offset \d+, key b'A-1/5': .*A-1/5 does not follow"):
            list(client.stream("A-1", scan=True))
        with pytest.raises(UnreadableRecord, match=r"key b'A-2/3': b'A-2/2' must be next .* is missing"):
            list(client.stream("A-2"))
        with pytest.raises(UnreadableRecord, match=r"key b'A-3/2': b'A-3/3' must be next .* came twice"):
            list(client.stream("A-3"))


def test_events_that_are_not_where_the_index_says_are_missed(deployed: Connections) -> None:
    log = Log(deployed, chained=True)
    partition = partition_of("A-1", PARTITIONS)
    neighbour = next(name for name in map("B-{}".format, range(100)) if partition_of(name, PARTITIONS) == partition)
    log.append([opened("A-1"), *deposits("A-1", 2, 3), opened(neighbour), *deposits("A-1", 4, 4)])
    with closing(Index(deployed)) as index, Client(deployed, user_id="test") as client:
        index.catch_up()

        def say(offset: int, number: int = 4) -> None:
            name = deployed.indices.account_events
            index.server.update(index=name, id=f"A-1/{number}", doc={"offset": offset}, refresh=True)

        # Beyond the end of the log there is nothing to be read, so that the rest is looked for.
        say(10**6)
        assert sequences(list(client.stream("A-1"))) == [1, 2, 3, 4]
        say(3)
        with pytest.raises(UnreadableRecord, match="event 4 of account A-1 is not where the audit index says"):
            list(client.stream("A-1"))
        for number in (4, 3, 2, 1):
            say(number, number)
        with pytest.raises(UnreadableRecord, match=r"b'A-1/1' must be next .* where the audit index says .* --scan"):
            list(client.stream("A-1"))
        assert sequences(list(client.stream("A-1", scan=True))) == [1, 2, 3, 4]


Daybook = Callable[..., tuple[int, str, str]]


@pytest.fixture
def daybook(written: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Daybook:
    """Runs `daybook` with some arguments: its exit code, and what it says on either stream."""
    for name, value in environment(written.connections).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return run


def test_the_commands(written: Written, daybook: Daybook) -> None:
    written.log.append([opened("C-1"), *deposits("C-1", 2, 5)])
    written.index.catch_up()
    code, shown, said = daybook("as-of", "C-1", "--sequence", "3")
    assert (code, said) == (0, "")
    assert "balance     0.02 EUR\n" in shown
    assert ", by event 3\n" in shown
    in_force_now = daybook("as-of", "C-1", "--effective-at", "2100-01-01T00:00Z")[1]
    assert "newest      event 5, of those that count\n" in in_force_now
    assert "by event" not in in_force_now
    by_index, by_log = (daybook("as-of", "C-1", "--json", *more)[1] for more in ((), ("--from-log",)))
    assert json.loads(by_index) == json.loads(by_log)
    assert json.loads(by_index)["balance"] == "0.04"
    found = json.loads(daybook("diff", "C-1", "--from", "2", "--to", "4", "--json")[1])
    assert (found["changed"], [event["sequence"] for event in found["events"]]) == (["money"], [3, 4])
    assert [found[side]["balance_minor"] for side in ("from", "to")] == [1, 3]
    assert "balance  0.01 EUR  0.03 EUR" in daybook("diff", "C-1", "--from", "2", "--to", "4")[1]
    trails = [daybook("history", "C-1", "--json", *more)[1] for more in ((), ("--from-log",), ("--from-log", "--scan"))]
    assert len(trails[0].splitlines()) == 5
    assert set(trails) == {trails[0]}
    newest = daybook("history", "C-1", "--json", "--from-log", "--newest", "--after", "4", "--limit", "2")[1]
    assert [json.loads(line)["sequence"] for line in newest.splitlines()] == [3, 2]
    all_of_it = daybook("balances", "--at", "2100-01-01T00:00Z", "--json")[1]
    *accounts, total = map(json.loads, all_of_it.splitlines())
    assert total["currency"] == "EUR"
    assert total["total_minor"] == sum(account["balance_minor"] for account in accounts)
    assert total["accounts"] == len(accounts) > len(written.histories)
    assert total["in_transit_minor"] == sum(account["in_transit_minor"] for account in accounts)
    assert "in transit" not in shown
    written.log.append([sent("C-1", 6, 1, amount=4, balance=0)])
    written.index.catch_up()
    assert "balance     0.00 EUR\nin transit  0.04 EUR\n" in daybook("as-of", "C-1")[1]
    assert "in transit  0.00 EUR  0.04 EUR" in daybook("diff", "C-1", "--from", "5")[1]
    rows = [row for row in daybook("balances")[1].splitlines() if row.startswith("C-1 ")]
    assert rows[0].endswith(" 6 events, 0.04 EUR in transit")
    code, shown, said = daybook("as-of", "C-1", "--at", "2020-01-01T00:00Z")
    assert (code, shown) == (1, "")
    assert "error: there was no account C-1 at 2020-01-01 00:00:00 UTC" in said
