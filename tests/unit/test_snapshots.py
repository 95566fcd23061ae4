"""Snapshots without servers: an account put into one and taken out again is the same account."""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from command_service import fingerprint as fingerprints
from command_service.accounts import Bounds, Overlay, PartitionState
from command_service.answers import Answer, Answers
from command_service.deciding import Decider, Outcomes
from command_service.domain import account
from command_service.domain.account import evolve
from command_service.fingerprint import code, digest, fingerprint
from command_service.packing import Entry, Packing, SnapshotDamaged
from command_service.recording import Recorder
from command_service.records import Outgoing
from command_service.rounds import Rounds
from command_service.samples import Samples, SnapshotDiffers
from command_service.spill import SpillFailed, SpillFolder
from schemas.commands import AnyCommand, CompleteTransfer, ReturnTransfer
from schemas.events import CHAIN_START, EVENT_TYPES
from schemas.snapshots import MARK_KEY
from schemas.topics import partition_of
from tests.unit.given import ACCOUNT, NOW
from tests.unit.known_records import CODEC, PACKING, TOPICS, no_keys, sealing_alike
from tests.unit.test_account_properties import HISTORIES
from tests.wire import deposit, make, opening, transfer, withdrawal

PARTITIONS = 4
HOME = partition_of(ACCOUNT, PARTITIONS)
RECORDER = Recorder(CODEC, TOPICS, PARTITIONS)
DECIDER = Decider(RECORDER)


class Service:
    """A command service's way of deciding, on one partition that takes any account; what it writes is collected."""

    def __init__(self, state: PartitionState, every: int = 1_000_000) -> None:
        self.state = state
        self.rounds = Rounds(TOPICS.snapshots, every)
        self.written: list[Outgoing] = []

    def decide(self, commands: list[AnyCommand], *, abort: bool = False) -> None:
        states = {HOME: self.state}
        self.rounds.begin(states, lambda _: self.events)
        overlay, outcomes = Overlay(self.state, HOME), Outcomes()
        for command in commands:
            # Below the checks of where it arrived: all accounts live on this partition.
            entry = overlay.entry(command.account_id)
            if isinstance(command, CompleteTransfer | ReturnTransfer) and entry is None:
                # It would be parked, and change nothing.
                continue
            DECIDER.decide(command, entry, overlay, NOW, outcomes)
            # Left to be read, after each command, so that batches of any size write the same.
            outcomes.outgoing += [RECORDER.follow_up(each, decided=False) for each in outcomes.asked]
            outcomes.asked.clear()
        due = self.rounds.due(states, len(commands))
        if not abort:
            due.committed()
            overlay.commit(NOW)
            self.written += [*outcomes.outgoing, *due.records]

    @property
    def events(self) -> int:
        return len([o for o in self.written if o.topic == TOPICS.events])

    def on(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        return [(o.key, o.value) for o in self.written if o.topic == topic]


@pytest.fixture(autouse=True, scope="module")
def _sealing_alike() -> Iterator[None]:
    with sealing_alike():
        yield


def new_state(bounds: Bounds = Bounds(), spill: SpillFolder | None = None, every: int = 0) -> PartitionState:  # noqa: B008
    return PartitionState(
        Answers(capacity=1_000, window=3_600_000_000),
        PACKING,
        no_keys(),
        bounds,
        new_store=None if spill is None else spill.store,
        samples=Samples(PACKING, every) if every else None,
    )


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[SpillFolder]:
    folder = SpillFolder(tmp_path)
    yield folder
    folder.close()


@given(HISTORIES, st.integers(0, 40))
@settings(max_examples=40)
def test_a_snapshot_anywhere_is_as_good_as_none(commands: list[AnyCommand], cut: int) -> None:
    whole, cut_off = Service(new_state()), Service(new_state())
    whole.decide(commands)
    cut_off.decide(commands[:cut])
    from_snapshots = new_state()
    for account_id in cut_off.state.ids():
        from_snapshots.put_snapshot(account_id, cut_off.state.snapshot(account_id))
    from_snapshots.answers = cut_off.state.answers
    from_snapshots.keys = cut_off.state.keys
    going_on = Service(from_snapshots)
    going_on.decide(commands[cut:])

    assert cut_off.written + going_on.written == whole.written
    assert from_snapshots.get(ACCOUNT) == whole.state.get(ACCOUNT)
    assert from_snapshots.count == whole.state.count


@given(HISTORIES)
@settings(max_examples=30)
def test_what_is_unpacked_is_what_was_packed(commands: list[AnyCommand]) -> None:
    service = Service(new_state())
    service.decide(commands)
    entry = service.state.get(ACCOUNT)
    assert entry is not None
    assert PACKING.unpack(ACCOUNT, PACKING.pack(ACCOUNT, entry)) == entry


@given(st.lists(HISTORIES, min_size=1, max_size=3), st.integers(1, 6), st.randoms())
@settings(max_examples=10, phases=[Phase.reuse, Phase.generate])
def test_spilling_changes_no_reply_and_no_event(histories: list[list[AnyCommand]], held: int, dice: object) -> None:
    commands = [
        replace(command, account_id=f"{command.account_id}-{number}")
        for number, history in enumerate(histories * 3)
        for command in history
        if command.account_id == ACCOUNT
    ]
    dice.shuffle(commands)  # type: ignore[attr-defined]
    folder = SpillFolder(None)
    try:
        plain, spilling = Service(new_state()), Service(new_state(Bounds(decoded=min(2, held), held=held), folder))
        for begin in range(0, len(commands), 10):
            plain.decide(commands[begin : begin + 10])
            spilling.decide(commands[begin : begin + 10])
        assert spilling.written == plain.written
        assert spilling.state.count == plain.state.count
        assert sorted(spilling.state.ids()) == sorted(plain.state.ids())
        memory = spilling.state.held()
        assert memory["decoded"] + memory["packed"] <= held
        for account_id in plain.state.ids():
            assert spilling.state.get(account_id) == plain.state.get(account_id)
        spilling.state.close()
    finally:
        folder.close()


def test_what_was_not_used_for_longest_is_spilled_and_comes_back(spill: SpillFolder, tmp_path: Path) -> None:
    service = Service(new_state(Bounds(decoded=2, held=4), spill))
    for number in range(6):
        service.decide([opening(f"A-{number}")])
    service.decide([deposit("A-0", 5)])

    assert service.state.held() == {"decoded": 2, "packed": 2, "spilled": 2}
    assert service.state.count == 6
    entry = service.state.get("A-1")
    assert entry is not None
    assert entry.account.sequence == 1
    service.state.close()
    spill.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_behind_is_removed_and_nobody_elses(tmp_path: Path) -> None:
    living, left = SpillFolder(tmp_path), tmp_path / "daybook-spill-killed"
    store = living.store()
    left.mkdir()
    (left / "lock").touch()
    (tmp_path / "something else").mkdir()

    another = SpillFolder(tmp_path)
    another.store().close()

    assert not left.exists()
    assert (tmp_path / "something else").exists()
    store.put([(b"A-1", b"packed")])
    assert store.get("A-1") == b"packed"
    store.close()
    another.close()
    living.close()


def test_a_store_that_cannot_be_made_says_what_to_do(spill: SpillFolder, tmp_path: Path) -> None:
    spill.store().close()
    (own,) = tmp_path.iterdir()
    shutil.rmtree(own)
    own.touch()
    with pytest.raises(SpillFailed, match="DAYBOOK_COMMAND_SERVICE_SPILL_DIR"):
        spill.store()


def test_a_round_writes_what_changed_and_then_the_mark() -> None:
    service = Service(new_state(), every=5)
    service.decide([opening("A-1"), opening("A-2"), opening("A-3"), deposit("A-1", 5), deposit("A-1", 5)])
    service.decide([deposit("A-2", 1)])
    first = service.on(TOPICS.snapshots)
    assert {key for key, _ in first[:-1]} == {b"A-1", b"A-2", b"A-3"}
    mark = CODEC.decode_mark(first[-1][1])
    assert (first[-1][0], mark.events_offset, mark.accounts) == (MARK_KEY, 5, 3)
    second = {key: CODEC.decode_snapshot(value).sequence for key, value in first[:-1]}
    assert second[b"A-2"] == 1, "as committed: the deposit of the same transaction is not in it"

    service.decide([deposit("A-3", 1), deposit("A-3", 1), deposit("A-3", 1), deposit("A-3", 1)])
    service.decide([])

    assert [key for key, _ in service.on(TOPICS.snapshots)[len(first) :]] in (
        [b"A-2", b"A-3", MARK_KEY],
        [b"A-3", b"A-2", MARK_KEY],
    )


def test_a_round_goes_on_over_transactions_and_an_abort_repeats_its_part() -> None:
    service = Service(new_state(), every=50)
    service.decide([opening(f"A-{number}") for number in range(50)])
    service.decide([deposit("A-1", 1)])
    assert len(service.on(TOPICS.snapshots)) == 20
    service.decide([deposit("A-2", 1)], abort=True)
    service.decide([deposit("A-3", 1)])
    service.decide([])

    snapshots = service.on(TOPICS.snapshots)
    assert len(snapshots) == 51
    assert len({key for key, _ in snapshots}) == 51
    assert snapshots[-1][0] == MARK_KEY
    assert service.state.changed == {"A-1", "A-3"}, "changed after the round began"


def test_a_round_of_all_accounts_first_takes_the_mark_back() -> None:
    service = Service(new_state(), every=3)
    service.state.covered = False
    service.decide([opening("A-1"), opening("A-2"), opening("A-3")])
    service.decide([])
    keys = service.on(TOPICS.snapshots)
    assert keys[0] == (MARK_KEY, None)
    assert [key for key, _ in keys[1:]] == [b"A-1", b"A-2", b"A-3", MARK_KEY]
    assert service.state.covered


def test_a_state_that_is_not_what_its_events_say_is_not_snapshotted() -> None:
    service = Service(new_state(every=1), every=3)
    service.decide([opening("A-1"), deposit("A-1", 5), withdrawal("A-1", 2)])
    service.decide([])
    assert len(service.on(TOPICS.snapshots)) == 2
    service.decide([deposit("A-1", 5), deposit("A-1", 5)])
    entry = service.state.get("A-1")
    assert entry is not None
    service.state.put(
        "A-1", Entry(replace(entry.account, overdraft_limit_minor=999), entry.chain_hash, entry.recorded_at)
    )
    service.decide([deposit("A-1", 1)])

    with pytest.raises(SnapshotDiffers, match=r"account A-1: .*they differ in overdraft_limit_minor"):
        service.decide([])
    assert len(service.on(TOPICS.snapshots)) == 2


@given(HISTORIES, st.integers(1, 10))
@settings(max_examples=25)
def test_the_check_finds_nothing_where_nothing_is_wrong(commands: list[AnyCommand], every: int) -> None:
    service = Service(new_state(every=1), every=every)
    for begin in range(0, len(commands), 4):
        service.decide(commands[begin : begin + 4])
    service.decide([])


@pytest.mark.parametrize("spoil", [lambda v: v[:-1], lambda v: v + b"\0", lambda v: v[:13] + b"\xff" + v[14:]])
def test_a_damaged_snapshot_says_whose_it_is_and_what_to_do(spoil: object) -> None:
    service = Service(new_state())
    service.decide([opening("A-1")])
    state = new_state()
    state.put_snapshot("A-1", spoil(service.state.snapshot("A-1")))  # type: ignore[operator]
    with pytest.raises(SnapshotDamaged, match=r"account A-1 .*DAYBOOK_COMMAND_SERVICE_SNAPSHOTS=ignore"):
        state.get("A-1")


def test_transfers_in_transit_and_settled_are_in_a_snapshot() -> None:
    service = Service(new_state())
    sent = [transfer("A-1", f"B-{number}", number) for number in (1, 2, 3)]
    service.decide([opening("A-1"), deposit("A-1", 9), *sent])
    own = {"transfer_id": sent[1].transfer_id, "to_account_id": "B-2", "causation_id": "x"}
    service.decide([make(CompleteTransfer, "A-1", **own)])
    entry = service.state.get("A-1")
    assert entry is not None

    account = PACKING.unpack("A-1", service.state.snapshot("A-1")).account

    assert account == entry.account
    assert (account.balance_minor, account.in_transit_minor, account.transfers.open_count) == (3, 4, 2)
    assert [account.transfers.in_transit_minor(each.transfer_id) for each in sent] == [1, None, 3]
    assert [account.transfers.known(each.transfer_id, 2, "B-2") for each in sent] == [False, True, False]
    assert account.transfers.known(str(uuid.uuid4()), 2, "B-2") is None


def test_another_accounts_snapshot_is_not_taken_for_its_own() -> None:
    service = Service(new_state())
    service.decide([opening("A-1")])
    with pytest.raises(SnapshotDamaged, match="it is that of account A-1"):
        PACKING.unpack("A-2", service.state.snapshot("A-1"))


def test_only_what_has_our_fingerprint_is_ours() -> None:
    entry = Entry(evolve(None, EVENT_TYPES[0](currency="EUR", holder_name="Ada")), CHAIN_START, NOW)
    value = PACKING.pack("A-1", entry)
    assert PACKING.is_ours(value)
    assert not Packing(CODEC, bytes(8), "topic-1").is_ours(value)
    assert not PACKING.is_ours(b"")


def test_the_fingerprint_is_of_all_that_a_state_depends_on() -> None:
    parts = dict(code())
    assert parts["source of evolve"] == inspect.getsource(evolve).encode()
    functions = {name for name, piece in vars(account).items() if getattr(piece, "__module__", "") == account.__name__}
    # What else it called there would have to be hashed as well.
    assert functions.intersection(evolve.__code__.co_names) == {"Account", "Status", "evolve"}
    assert b"withdrawals" in parts["fields of Account"]
    assert b"in_transit_minor transfers" in parts["fields of Account"]
    assert parts["fields of Transfers"] == b"open settled"
    # With how they are packed, which a state read from a snapshot depends on as well.
    assert all(name in parts["source of transfers"] for name in (b"_ENTRY", b"def _key", b"def _digest", b"def _index"))
    assert {f"source of {event_type.__name__}" for event_type in EVENT_TYPES} <= parts.keys()
    assert {"source of state", "source of withdrawals", "source of packing", "source of upcasters"} <= parts.keys()
    assert "daybook.account.event.MoneyDeposited v1" in parts
    assert "daybook.account.event.TransferSent v1" in parts
    assert {"daybook.account.AccountSnapshot v1", "daybook.account.AccountSnapshot v2"} <= parts.keys()


@pytest.mark.parametrize("name", [name for name, _ in code()])
def test_the_fingerprint_changes_with_any_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint("topic-1")
    changed = tuple((part, content + b" " if part == name else content) for part, content in code())
    monkeypatch.setattr(fingerprints, "code", lambda: changed)
    assert fingerprint("topic-1") != before


def test_the_fingerprint_is_of_one_topic_and_the_same_in_every_process() -> None:
    assert fingerprint("topic-1") != fingerprint("topic-2")
    script = "from command_service.fingerprint import fingerprint; print(fingerprint('topic-1').hex())"
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        other = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
        assert other.stdout.strip() == fingerprint("topic-1").hex()


def test_parts_do_not_run_into_each_other() -> None:
    assert digest([("a", b"bc")]) != digest([("ab", b"c")]) != digest([("a", b"b"), ("c", b"")])


def test_answers_are_bounded_in_bytes_as_well() -> None:
    answers = Answers(capacity=100, window=3_600_000_000, capacity_bytes=10_000)
    for number in range(50):
        answers.remember(bytes([number]), Answer(bytes(1_000), b"12345678", NOW + number))
    assert answers.forget_old(NOW + 50) == 42
    assert len(answers) == 8
    assert answers.get(bytes([49])) is not None
    assert answers.get(bytes([0])) is None
