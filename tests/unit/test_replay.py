"""A restore without servers: which snapshots are used, and what is damage."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from confluent_kafka import Message
from msgspec.structs import replace

from command_service.accounts import PartitionState
from command_service.records import Outgoing
from command_service.replay import LogDamaged, Replay
from schemas.commands import ReceiveTransfer
from schemas.snapshots import MARK_KEY
from tests.unit.known_records import CODEC, PACKING, TOPICS
from tests.unit.test_snapshots import HOME, Service, new_state
from tests.wire import deposit, make, opening, transfer

EVERY = 4


@pytest.fixture
def log() -> list[Outgoing]:
    """Of two accounts: a round of snapshots, and an event after the mark."""
    service = Service(new_state(), every=EVERY)
    service.state.covered = False
    service.decide([opening("A-1"), deposit("A-1", 1), opening("A-2"), deposit("A-2", 1)])
    service.decide([])
    service.decide([deposit("A-1", 2)])
    return service.written


def on(log: Iterable[Outgoing], topic: str) -> list[Outgoing]:
    return [record for record in log if record.topic == topic]


def snapshot_of(log: list[Outgoing], account_id: str) -> Outgoing:
    return next(record for record in on(log, TOPICS.snapshots) if record.key == account_id.encode())


def deleted(key: bytes) -> Outgoing:
    return Outgoing(TOPICS.snapshots, HOME, key, None)


def restored(log: list[Outgoing]) -> tuple[PartitionState, Replay, int]:
    """The state that a restore of these records gives, who replayed them, and from which event on."""
    state = new_state()
    replay = Replay(TOPICS, PACKING, {HOME: state})

    def read(records: Iterable[tuple[int, Outgoing]]) -> None:
        for offset, record in records:
            replay.read(
                Message(
                    topic=record.topic,
                    partition=HOME,
                    offset=offset,
                    key=record.key,
                    value=record.value,
                    headers=record.headers or [],
                    timestamp=(1, 1_800_000_000_000),
                )
            )

    read(enumerate(on(log, TOPICS.snapshots)))
    events = on(log, TOPICS.events)
    begin = replay.begin_events({HOME: (0, len(events))})[HOME]
    read(list(enumerate(events))[begin:])
    replay.end()
    read(enumerate(on(log, TOPICS.replies)))
    return state, replay, begin


def test_with_a_mark_only_the_events_after_it_are_read(log: list[Outgoing]) -> None:
    state, replay, begin = restored(log)

    assert (begin, replay.snapshots, replay.events) == (EVERY, 2, 1)
    assert state.covered
    assert state.changed == {"A-1"}
    assert {i: entry.account.sequence for i in ("A-1", "A-2") if (entry := state.get(i))} == {"A-1": 3, "A-2": 2}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda log: [*log, deleted(MARK_KEY)],
        lambda log: [*log, deleted(b"A-2")],
        # While a service runs, which then writes another mark and an account more than it had at the mark before.
        lambda log: [
            *log,
            deleted(b"A-2"),
            replace(
                snapshot_of(log, "A-1"),
                key=b"A-3",
                value=PACKING.codec.encode_snapshot(
                    replace(CODEC.decode_snapshot(snapshot_of(log, "A-1").value), account_id="A-3")
                ),
            ),
            on(log, TOPICS.snapshots)[-1],
        ],
        lambda log: [r for r in log if r is not snapshot_of(log, "A-2")],
        lambda log: [*log, replace(snapshot_of(log, "A-2"), value=bytes(40))],
        lambda log: [r for r in log if r.topic != TOPICS.snapshots or r.key != MARK_KEY],
    ],
    ids=["mark", "snapshot", "snapshot before a mark", "snapshot, long ago", "another program's", "no mark"],
)
def test_what_is_not_whole_is_not_used_and_written_anew(log: list[Outgoing], spoil: object) -> None:
    state, replay, begin = restored(spoil(log))  # type: ignore[operator]

    assert (begin, replay.snapshots, replay.events) == (0, 0, EVERY + 1)
    assert (state.covered, state.due, state.count) == (False, True, 2)


def test_after_all_were_written_anew_a_deletion_is_forgotten(log: list[Outgoing]) -> None:
    _, replay, begin = restored([deleted(b"A-2"), *log])
    assert (begin, replay.snapshots) == (EVERY, 2)


def test_events_that_a_snapshot_has_and_the_log_lost_are_named(log: list[Outgoing]) -> None:
    """As brokers that lost the end of the log leave it, and somebody then wrote on: the snapshot is newer."""
    newer = replace(CODEC.decode_snapshot(snapshot_of(log, "A-1").value), sequence=5)
    with pytest.raises(LogDamaged, match="event 3 of account A-1, whose snapshot is newer"):
        restored([*log, Outgoing(TOPICS.snapshots, HOME, b"A-1", PACKING.codec.encode_snapshot(newer))])


def test_an_event_that_is_not_the_one_its_snapshot_was_taken_at_is_damage(log: list[Outgoing]) -> None:
    other = replace(CODEC.decode_snapshot(snapshot_of(log, "A-1").value), sequence=3, chain_hash=bytes(32))
    with pytest.raises(LogDamaged, match="its chain hash differs"):
        restored([*log, Outgoing(TOPICS.snapshots, HOME, b"A-1", PACKING.codec.encode_snapshot(other))])


def test_answers_to_follow_ups_and_to_a_clients_commands_of_the_same_ids_are_restored_apart() -> None:
    service = Service(new_state())
    sent = transfer("A-1", "B-2", 5)
    service.decide([opening("A-1"), opening("B-2"), deposit("A-1", 9), sent])
    (asked,) = (CODEC.decode_command(record.value) for record in on(service.written, TOPICS.followups))
    assert isinstance(asked, ReceiveTransfer)
    foretold = deposit("B-2", 1, command_id=asked.command_id)
    service.decide([foretold, asked])

    state, _, _ = restored(service.written)

    assert len(state.answers) == 6
    going_on = Service(state)
    going_on.decide([asked, foretold, sent])
    assert going_on.events == 0
    assert on(going_on.written, TOPICS.followups) == []
    assert [CODEC.decode_reply(record.value).event_count for record in going_on.written] == [1, 1, 1]
    before = {record.value for record in on(service.written, TOPICS.replies)}
    assert {record.value for record in going_on.written} <= before

    # Nor does a client's command keep a follow-up of its id from being decided.
    others = make(ReceiveTransfer, "B-2", **{**OWN, "command_id": sent.command_id})
    going_on.decide([others])
    assert going_on.events == 1


OWN = {
    "transfer_id": "00000000-0000-4000-8000-000000000001",
    "from_account_id": "A-1",
    "amount_minor": 1,
    "currency": "EUR",
    "causation_id": "x",
}
