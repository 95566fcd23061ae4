"""What becomes of a holder's key, and of what a command says of the holder, without servers."""

from __future__ import annotations

from typing import Final

import pytest
from confluent_kafka import Message
from msgspec.structs import replace

from command_service.accounts import Entry, Overlay, PartitionState
from command_service.answers import Answer, Answers, command_key, fingerprint
from command_service.deciding import Outcomes
from command_service.domain.account import evolve
from command_service.handler import Handler
from schemas.commands import AnyCommand, ChangeHolder, CloseAccount, CommandReply, EraseHolder
from schemas.events import CHAIN_START, AccountCreated
from schemas.sealing import ERASED, PREFIX
from schemas.topics import FINGERPRINT_HEADER, REPLAYED_HEADER, partition_of
from tests.unit.known_records import CODEC, PACKING, TOPICS, no_keys
from tests.wire import deposit, make, opening

PARTITIONS: Final = 4
HOME: Final = partition_of("A-1", PARTITIONS)
NOW: Final = 1_800_000_000_000_000
JUNK: Final = f"{PREFIX}junk"


@pytest.fixture
def state() -> PartitionState:
    return PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())


def decided(state: PartitionState, *commands: AnyCommand) -> Outcomes:
    """What a transaction with these commands leads to, once it is committed."""
    handler = Handler(CODEC, TOPICS, PARTITIONS, max_command_bytes=2_000)
    overlay, outcomes = Overlay(state, HOME), Outcomes()
    for command in commands:
        value = CODEC.encode_command(command)
        handler.handle(Message(TOPICS.commands, HOME, 7, b"A-1", value), overlay, NOW, outcomes)
    overlay.commit(NOW)
    return outcomes


def reasons(outcomes: Outcomes) -> list[str]:
    events = [CODEC.decode_event(o.value) for o in outcomes.outgoing if o.topic == TOPICS.events]
    return [event.reason or "" for event in events]


def replies(outcomes: Outcomes) -> list[tuple[CommandReply, dict[str, str | bytes | None]]]:
    found = [o for o in outcomes.outgoing if o.topic == TOPICS.replies]
    return [(CODEC.decode_reply(o.value), dict(o.headers or [])) for o in found]


def restored(outcomes: Outcomes) -> PartitionState:
    """The keys and answers that a restore finds, without the accounts."""
    state = PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())
    for value in keys_written(outcomes):
        state.keys.take(b"A-1", value, 0)
    for one in (o for o in outcomes.outgoing if o.topic == TOPICS.replies):
        asked = dict(one.headers or [])[FINGERPRINT_HEADER]
        assert isinstance(asked, bytes)
        state.answers.remember(command_key((one.key or b"").decode(), asked), Answer(one.value or b"", asked, NOW))
    return state


def keys_written(outcomes: Outcomes) -> list[bytes | None]:
    return [o.value for o in outcomes.outgoing if o.topic == TOPICS.subject_keys]


def test_a_reason_that_only_looks_sealed_can_be_read_of_a_holder_from_before_sealing(state: PartitionState) -> None:
    created = AccountCreated(currency="EUR", holder_name="Ada", holder_email=None, overdraft_limit_minor=0)
    state.put("A-1", Entry(evolve(None, created), CHAIN_START, NOW))

    (reason,) = reasons(decided(state, deposit("A-1", 5, reason=JUNK)))
    decided(state, make(ChangeHolder, "A-1", holder_name="Bob"))

    assert state.keys.sealer.open(reason, "A-1", "reason") == JUNK


def test_a_reason_that_only_looks_sealed_gives_an_erased_holder_no_new_key(state: PartitionState) -> None:
    decided(state, opening("A-1"), make(EraseHolder, "A-1"))

    after = decided(state, deposit("A-1", 5, reason=JUNK))

    assert keys_written(after) == []
    assert not state.keys.has("A-1")
    assert state.keys.sealer.open(reasons(after)[0], "A-1", "reason") is ERASED


def test_a_key_that_is_back_after_an_erasure_is_erased_again(state: PartitionState) -> None:
    """As when the topic of keys was restored from a backup that is older than that of the events."""
    (key, tombstone) = keys_written(decided(state, opening("A-1"), make(EraseHolder, "A-1")))
    assert tombstone is None
    assert keys_written(decided(state, make(EraseHolder, "A-1"))) == []
    state.keys.take(b"A-1", key, 0)

    again = decided(state, make(EraseHolder, "A-1"))

    assert keys_written(again) == [None]
    assert reasons(again) == []
    assert not state.keys.has("A-1")


def test_a_holder_whose_key_is_gone_is_erased_whoever_did_it(state: PartitionState) -> None:
    """As when the tombstone was written by hand: no event says so, and whoever restores the account finds no key."""
    decided(state, opening("A-1", holder_name="Ada"))
    entry = state.get("A-1")
    assert entry is not None
    keyless = PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())
    keyless.put("A-1", entry)

    after = decided(
        keyless,
        make(ChangeHolder, "A-1", holder_name="Bob"),
        deposit("A-1", 5, reason="Ada's rent", reason_is_personal=True),
        deposit("A-1", 5),
    )

    answers = [(reply.accepted, reply.code) for reply, _ in replies(after)]
    assert answers == [(False, "holder_erased"), (False, "holder_erased"), (True, None)]
    assert keys_written(after) == []
    assert not after.parked


NAMELESS: Final = {"holder_name": "", "holder_email": None}
PERSONAL: Final[dict[str, tuple[AnyCommand, dict[str, str | None]]]] = {
    "name": (make(ChangeHolder, "A-1", holder_name="Bob"), NAMELESS),
    "e-mail": (make(ChangeHolder, "A-1", holder_name="Alice", holder_email="alice@example.org"), NAMELESS),
    "payout": (make(CloseAccount, "A-1", payout_reference="cheque to Alice"), {"payout_reference": None}),
    "reason": (deposit("A-1", 5, reason="Alice's rent", reason_is_personal=True), {"reason": None}),
    "refused": (make(ChangeHolder, "A-1", holder_name="Bob", expected_version=7), NAMELESS),
}
"""Commands on an account that is open, with what is not personal about them."""


@pytest.mark.parametrize("which", PERSONAL)
def test_names_cannot_be_tried_on_what_a_reply_says_of_the_command(state: PartitionState, which: str) -> None:
    """Replies stay for a day, and an erasure does not reach them: only the key, which it does reach, tells."""
    opened, (command, impersonal) = opening("A-1", holder_name="Alice"), PERSONAL[which]
    answers = replies(decided(state, opened, command))
    secret = state.keys.data_key("A-1")
    assert secret is not None
    for asked, without, (_, headers) in zip((opened, command), (NAMELESS, impersonal), answers, strict=True):
        halves = fingerprint(replace(asked, **without))[:4], fingerprint(asked, secret)[:4]
        assert headers[FINGERPRINT_HEADER] == b"".join(halves)


def test_what_is_refused_without_a_key_says_nothing_of_the_holder(state: PartitionState) -> None:
    def refused(name: str) -> object:
        command = opening("A-1", holder_name=name, holder_email=f"{name}@example.org", expected_version=3)
        ((_, headers),) = replies(decided(state, command))
        return headers[FINGERPRINT_HEADER]

    assert refused("Ada") == refused("Bob")
    decided(state, opening("A-1"), make(EraseHolder, "A-1"))
    after = [replies(decided(state, make(ChangeHolder, "A-1", holder_name=name))) for name in ("Ada", "Bob")]
    assert after[0][0][1] == after[1][0][1]


@pytest.mark.parametrize("which", ["at once", "after a restore"])
def test_a_personal_command_that_is_sent_again_is_known(state: PartitionState, which: str) -> None:
    command = opening("A-1", holder_name="Ada", holder_email="ada@example.org")
    first = decided(state, command)
    now = state if which == "at once" else restored(first)

    (again, headers), (other, _) = replies(decided(now, command, replace(command, holder_name="Bob")))

    ((reply, said),) = replies(first)
    assert (again, headers) == (reply, said | {REPLAYED_HEADER: b"1"})
    assert other.code == "command_id_reused"


def test_a_command_that_was_refused_before_its_account_had_a_key_is_known_afterwards(state: PartitionState) -> None:
    early = make(ChangeHolder, "A-1", holder_name="Ada")
    ((refused, _),) = replies(decided(state, early, opening("A-1")))[:1]

    ((again, headers),) = replies(decided(state, early))

    assert again == refused
    assert REPLAYED_HEADER in headers


def test_what_an_earlier_release_answered_is_known(state: PartitionState) -> None:
    command = opening("A-1", holder_name="Ada")
    ((reply, _),) = replies(decided(state, command))
    asked = fingerprint(command)
    now = restored(Outcomes())
    now.answers.remember(command_key(command.command_id, asked), Answer(CODEC.encode_reply(reply), asked, NOW))

    ((again, headers),) = replies(decided(now, command))

    assert (again, headers) == (reply, {FINGERPRINT_HEADER: asked, REPLAYED_HEADER: b"1"})


def test_once_the_holder_is_erased_a_command_is_known_by_what_is_not_personal(state: PartitionState) -> None:
    command = opening("A-1", holder_name="Ada")
    ((first, _),) = replies(decided(state, command))
    decided(state, make(EraseHolder, "A-1"))

    again, renamed, other = replies(
        decided(state, command, replace(command, holder_name="Bob"), replace(command, currency="CZK"))
    )

    assert (again[0], renamed[0]) == (first, first)
    assert other[0].code == "command_id_reused"


def test_a_damaged_key_parks_what_needs_it_and_nothing_else(state: PartitionState) -> None:
    (key,) = keys_written(decided(state, opening("A-1")))
    assert key is not None
    state.keys.take(b"A-1", key[:-9] + bytes([key[-9] ^ 1]) + key[-8:], 0)
    state.keys.sealer.forget("A-1")

    after = decided(state, make(ChangeHolder, "A-1", holder_name="Bob"), deposit("A-1", 5))

    (parked,) = (dict(o.headers or []) for o in after.outgoing if o.topic == TOPICS.parked)
    assert parked["parked-reason"] == b"undecidable"
    assert b"data key of A-1" in (parked["parked-detail"] or b"")
    assert len(reasons(after)) == 1
