"""What the handler makes of a transfer's steps and of who gave them, without servers."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from confluent_kafka import Message
from msgspec.structs import replace

from command_service import deciding, replay
from command_service.accounts import Overlay, Overlays, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.domain.account import Account, Decision
from command_service.handler import Handler
from command_service.records import Outgoing, was_decided
from schemas.codec import Codec
from schemas.commands import (
    AnyCommand,
    CommandReply,
    CompleteTransfer,
    FollowUp,
    ReceiveTransfer,
    ReturnTransfer,
    Transfer,
)
from schemas.events import RecordedEvent, TransferCompleted, TransferReceived, TransferReturned, TransferSent
from schemas.topics import DECIDED_HEADER, FINGERPRINT_HEADER, REPLAYED_HEADER, partition_of
from schemas.transfers import complete_id, receive_id, return_id
from tests.unit.known_records import PACKING, no_keys
from tests.unit.test_handler import HOME, NOW, PARTITIONS, TOPICS, codec, handler, record, sent_to, state
from tests.wire import deposit, make, opening, transfer

__all__ = ["codec", "handler", "state"]


class Bench:
    """A handler with one partition, of which all accounts are: commands are put on a topic and decided, one by one.

    What they ask of other accounts is left to be read, as if these were another instance's; with `alone` it is not.
    """

    def __init__(
        self, codec: Codec, state: PartitionState, max_command_bytes: int = 64 * 1024, *, alone: bool = False
    ) -> None:
        self.codec = codec
        self.overlays = Overlays({0: state})
        self.overlay = self.overlays[0]
        self.ours = self.overlays if alone else Overlays({})
        self.handler = Handler(codec, TOPICS, 1, max_command_bytes=max_command_bytes)
        self.now = NOW

    def give(self, *commands: AnyCommand) -> Outcomes:
        """Decide commands of clients."""
        return self._handle(TOPICS.commands, *map(self.codec.encode_command, commands))

    def follow(self, *commands: FollowUp) -> Outcomes:
        return self._handle(TOPICS.followups, *map(self.codec.encode_command, commands))

    def _handle(self, topic: str, *values: bytes) -> Outcomes:
        return self.read([Outgoing(topic, 0, b"k", value) for value in values])

    def read(self, written: list[Outgoing]) -> Outcomes:
        """Read records that were written."""
        outcomes = Outcomes()
        for each in written:
            message = Message(each.topic, each.partition, 7, each.key, each.value, headers=each.headers)
            self.handler.handle(message, self.overlay, self.now, outcomes)
        while outcomes.asked:
            self.handler.follow(self.ours, self.now, outcomes)
        return outcomes

    def follow_ups(self, outcomes: Outcomes) -> list[FollowUp]:
        found = [self.codec.decode_command(o.value) for o in sent_to(outcomes, TOPICS.followups)]
        assert all(isinstance(each, FollowUp) for each in found)
        return found  # type: ignore[return-value]

    def events(self, outcomes: Outcomes) -> list[RecordedEvent]:
        return [self.codec.decode_event(o.value) for o in sent_to(outcomes, TOPICS.events)]

    def replies(self, outcomes: Outcomes) -> list[CommandReply]:
        return [self.codec.decode_reply(o.value) for o in sent_to(outcomes, TOPICS.replies)]

    def balance(self, account_id: str) -> tuple[int, int]:
        """What is in an account, and in transit from it."""
        entry = self.overlay.entry(account_id)
        assert entry is not None
        return entry.account.balance_minor, entry.account.in_transit_minor


@pytest.fixture
def bench(codec: Codec, state: PartitionState) -> Bench:
    bench = Bench(codec, state)
    bench.give(opening("A-1"), deposit("A-1", 100), opening("B-2"))
    return bench


def sent_off(bench: Bench, to: str = "B-2", **fields: object) -> tuple[Transfer, ReceiveTransfer]:
    """A transfer of 40 that was sent, and what it asks of the destination."""
    command = transfer("A-1", to, 40, **fields)
    (asked,) = bench.follow_ups(bench.give(command))
    assert isinstance(asked, ReceiveTransfer)
    return command, asked


class TestTransfers:
    def test_each_step_asks_for_the_next_in_the_same_outcomes(self, bench: Bench) -> None:
        given = transfer("A-1", "B-2", 60, correlation_id="order-7", reason="rent", user_id="zoë", effective_at=NOW - 5)
        first = bench.give(given)
        (receiving,) = bench.follow_ups(first)
        assert (bench.balance("A-1"), bench.balance("B-2")) == ((40, 60), (0, 0))
        second = bench.follow(receiving)
        (completing,) = bench.follow_ups(second)
        assert (bench.balance("A-1"), bench.balance("B-2")) == ((40, 60), (60, 0))
        third = bench.follow(completing)
        assert bench.follow_ups(third) == []
        assert (bench.balance("A-1"), bench.balance("B-2")) == ((40, 0), (60, 0))

        assert isinstance(receiving, ReceiveTransfer)
        assert isinstance(completing, CompleteTransfer)
        ((sent,), (received,), (completed,)) = (bench.events(each) for each in (first, second, third))
        story = (sent, received, completed)
        assert [type(each.event) for each in story] == [TransferSent, TransferReceived, TransferCompleted]
        assert [each.account_id for each in story] == ["A-1", "B-2", "A-1"]
        assert {(each.user_id, each.reason, each.correlation_id) for each in story} == {("zoë", "rent", "order-7")}
        assert {each.effective_at for each in story} == {NOW - 5}
        assert [each.causation_id for each in story] == [given.command_id, sent.event_id, received.event_id]
        derived = receive_id(given.transfer_id, "A-1", 3)
        assert [each.command_id for each in story] == [given.command_id, derived, complete_id(derived)]
        assert [o.follow_ups for o in (first, second, third)] == [{"ReceiveTransfer": 1}, {"CompleteTransfer": 1}, {}]
        # Nobody waits for the last: with the second it is certain.
        assert [[reply.accepted for reply in bench.replies(o)] for o in (first, second, third)] == [[True], [True], []]
        assert [o.answered for o in (first, second, third)] == [{("accepted", ""): 1}] * 3

    def test_without_a_correlation_id_the_story_has_that_of_its_first_command(self, bench: Bench) -> None:
        given, receiving = sent_off(bench)
        assert receiving.correlation_id == given.command_id
        (received,) = bench.events(bench.follow(receiving))
        assert received.correlation_id == given.command_id
        assert received.effective_at == received.recorded_at == NOW

    def test_a_refusal_gives_it_back_in_the_same_outcomes(self, bench: Bench) -> None:
        given = transfer("A-1", "C-3", 60)
        (receiving,) = bench.follow_ups(bench.give(given))
        refused = bench.follow(receiving)
        (reply,), (returning,) = bench.replies(refused), bench.follow_ups(refused)
        assert (reply.accepted, reply.code, reply.sequence) == (False, "account_not_found", None)
        assert isinstance(returning, ReturnTransfer)
        assert bench.events(refused) == []
        assert refused.follow_ups == {"ReturnTransfer": 1}

        taken_back = bench.follow(returning)
        (back,), (told,) = bench.events(taken_back), bench.replies(taken_back)

        assert (told.command_id, told.accepted, told.sequence) == (returning.command_id, True, back.sequence)
        assert isinstance(back.event, TransferReturned)
        assert (back.event.code, back.event.message) == (reply.code, reply.message)
        assert back.command_id == return_id(receive_id(given.transfer_id, "A-1", 3))
        assert back.causation_id == receiving.command_id
        assert bench.balance("A-1") == (100, 0)

    def test_one_settled_already_is_settled_by_nothing(self, bench: Bench) -> None:
        """The ids of those that settle are not remembered, nor need they be."""
        for destination in ("B-2", "C-3"):
            _, receiving = sent_off(bench, destination)
            (settling,) = bench.follow_ups(bench.follow(receiving))
            assert [len(bench.events(bench.follow(settling))) for _ in range(3)] == [1, 0, 0]
        assert bench.balance("A-1") == (60, 0)

    def test_a_refused_transfer_asks_for_nothing(self, bench: Bench) -> None:
        assert bench.follow_ups(bench.give(transfer("A-1", "B-2", 101))) == []

    def test_a_transfer_given_again_asks_for_nothing_more(self, bench: Bench) -> None:
        given, _ = sent_off(bench)
        assert bench.follow_ups(bench.give(given)) == []
        again = make(
            Transfer, "A-1", transfer_id=given.transfer_id, to_account_id="B-2", amount_minor=40, currency="EUR"
        )
        outcomes = bench.give(again)
        assert (bench.follow_ups(outcomes), bench.events(outcomes)) == ([], [])
        assert bench.replies(outcomes)[0].accepted

    @pytest.mark.parametrize("destination", ["B-2", "C-3"], ids=["accepted", "refused"])
    def test_a_follow_up_given_twice_is_answered_again_and_does_nothing_more(
        self, bench: Bench, destination: str
    ) -> None:
        (receiving,) = bench.follow_ups(bench.give(transfer("A-1", destination, 60)))
        first, second = bench.follow(receiving), bench.follow(receiving)
        assert (bench.events(second), bench.follow_ups(second)) == ([], [])
        assert bench.replies(second) == bench.replies(first)
        assert second.answered == {("replayed", ""): 1}
        assert REPLAYED_HEADER in dict(sent_to(second, TOPICS.replies)[0].headers or [])

    @pytest.mark.parametrize("destination", ["B-2", "C-3"], ids=["arrives", "comes back"])
    def test_what_follows_is_not_recorded_before_what_it_follows(self, bench: Bench, destination: str) -> None:
        """Each step is decided by another instance, and no two clocks agree."""
        bench.now = NOW + 60_000_000
        _, receiving = sent_off(bench, destination, effective_at=NOW + 59_000_000)
        bench.now = NOW
        at_destination = bench.follow(receiving)
        assert bench.replies(at_destination)[0].decided_at == NOW + 60_000_000
        recorded = bench.events(at_destination)
        assert [each.effective_at <= each.recorded_at for each in recorded] == [True] * len(recorded)

        _, receiving = sent_off(bench, destination)
        bench.now = NOW + 120_000_000
        (settling,) = bench.follow_ups(bench.follow(receiving))
        bench.now = NOW
        (settled,) = bench.events(bench.follow(settling))
        assert settled.recorded_at == NOW + 120_000_000

    def test_a_follow_up_may_be_longer_than_any_command(self, codec: Codec, state: PartitionState) -> None:
        bench = Bench(codec, state)
        given = transfer("A-1", "B-2", 60, reason="ř" * 1000)
        bench.give(opening("A-1"), deposit("A-1", 100), opening("B-2"))
        tight = Bench(codec, state, max_command_bytes=len(codec.encode_command(given)))
        tight.overlay = bench.overlay
        (receiving,) = tight.follow_ups(tight.give(given))
        assert len(codec.encode_command(receiving)) > len(codec.encode_command(given))
        assert tight.follow(receiving).parked == {}
        assert tight.balance("B-2") == (60, 0)


class TestWhoMayGiveWhat:
    def test_a_follow_up_of_a_client_is_refused_and_hinders_no_real_one(self, bench: Bench) -> None:
        _, receiving = sent_off(bench)
        turned_away = bench.give(receiving)
        (reply,) = bench.replies(turned_away)
        assert (reply.accepted, reply.code, reply.event_count) == (False, "not_a_client_command", 0)
        assert (bench.events(turned_away), bench.follow_ups(turned_away), turned_away.parked) == ([], [], {})
        assert FINGERPRINT_HEADER not in dict(sent_to(turned_away, TOPICS.replies)[0].headers or [])
        assert bench.balance("B-2") == (0, 0)

        real = bench.follow(receiving)

        assert [type(each.event) for each in bench.events(real)] == [TransferReceived]
        assert bench.balance("B-2") == (40, 0)
        # Nor does the real one make that of a client any better.
        assert bench.replies(bench.give(receiving))[0].code == "not_a_client_command"
        assert bench.balance("B-2") == (40, 0)

    def test_a_client_can_neither_settle_nor_take_back(self, bench: Bench) -> None:
        given, receiving = sent_off(bench)
        own = {"transfer_id": given.transfer_id, "to_account_id": "B-2", "causation_id": "x"}
        completing = make(CompleteTransfer, "A-1", **own)
        returning = make(ReturnTransfer, "A-1", **own, code="c", message="m")
        outcomes = bench.give(completing, returning)
        assert {reply.code for reply in bench.replies(outcomes)} == {"not_a_client_command"}
        assert bench.balance("A-1") == (60, 40)
        assert bench.follow_ups(bench.follow(receiving)) != []

    def test_that_it_is_not_a_clients_counts_before_that_its_id_was_used(self, bench: Bench) -> None:
        _, receiving = sent_off(bench)
        bench.give(deposit("B-2", 1, command_id=receiving.command_id))
        assert bench.replies(bench.give(receiving))[0].code == "not_a_client_command"

    @pytest.mark.parametrize("account_id", ["A-1", "B-2"])
    def test_a_client_that_uses_the_id_of_a_follow_up_first_does_not_hinder_it(
        self, bench: Bench, account_id: str
    ) -> None:
        given = transfer("A-1", "B-2", 60)
        foretold = receive_id(given.transfer_id, "A-1", 3)
        ids = (foretold, complete_id(foretold), return_id(foretold))
        (receiving,) = bench.follow_ups(bench.give(given))
        before = bench.give(*(deposit(account_id, 1, command_id=each) for each in ids))
        assert [reply.accepted for reply in bench.replies(before)] == [True] * 3

        (completing,) = bench.follow_ups(bench.follow(receiving))
        bench.follow(completing)

        assert (receiving.command_id, completing.command_id) == ids[:2]
        gained = {"A-1": 0, "B-2": 0} | {account_id: 3}
        assert bench.balance("A-1") == (40 + gained["A-1"], 0)
        assert bench.balance("B-2") == (60 + gained["B-2"], 0)
        # Each is still answered for what it is itself.
        again = bench.give(deposit(account_id, 1, command_id=foretold))
        assert again.answered == {("replayed", ""): 1}
        assert bench.follow(receiving).answered == {("replayed", ""): 1}

    def test_a_clients_command_among_the_follow_ups_is_parked(self, bench: Bench) -> None:
        before = bench.balance("A-1")
        value = bench.codec.encode_command(deposit("A-1", 5))
        outcomes = bench._handle(TOPICS.followups, value)
        (parked,) = outcomes.outgoing
        assert (parked.topic, parked.value) == (TOPICS.parked, value)
        why = dict(parked.headers or [])
        assert (why["parked-reason"], why["parked-topic"]) == (b"not_a_follow_up", TOPICS.followups.encode())
        assert b"Deposit is a client's command: it belongs on account.commands" in (why["parked-detail"] or b"")
        assert outcomes.parked == {"not_a_follow_up": 1}
        assert bench.balance("A-1") == before

    def test_a_stray_follow_up_is_forwarded_on_its_own_topic(
        self, codec: Codec, handler: Handler, state: PartitionState
    ) -> None:
        receiving = make(
            ReceiveTransfer,
            "A-1",
            transfer_id=receive_id("0" * 32, "B-2", 1),
            from_account_id="B-2",
            amount_minor=5,
            currency="EUR",
            causation_id="x",
        )
        away = (HOME + 1) % PARTITIONS
        value = codec.encode_command(receiving)
        overlay, outcomes = Overlay(state, away), Outcomes()
        stray = Message(topic=TOPICS.followups, partition=away, offset=7, key=b"A-1", value=value)
        handler.handle(stray, overlay, NOW, outcomes)
        (forwarded,) = outcomes.outgoing
        assert (forwarded.topic, forwarded.partition, forwarded.value) == (TOPICS.followups, HOME, value)

    def test_what_follows_goes_to_the_partition_of_its_account(
        self, codec: Codec, handler: Handler, state: PartitionState
    ) -> None:
        overlay, outcomes = Overlay(state, HOME), Outcomes()
        sending = [transfer("A-1", f"B-{n}", 1) for n in range(9)]
        commands: list[AnyCommand] = [opening("A-1"), deposit("A-1", 9), *sending]
        for command in commands:
            handler.handle(record(codec, command), overlay, NOW, outcomes)
        handler.follow(Overlays({}), NOW, outcomes)
        found = [(o.key, o.partition) for o in sent_to(outcomes, TOPICS.followups)]
        assert found == [(f"B-{n}".encode(), partition_of(f"B-{n}", PARTITIONS)) for n in range(9)]
        assert len({partition for _, partition in found}) > 1


class TestBetweenAccountsOfOneInstance:
    @pytest.fixture
    def alone(self, codec: Codec) -> Bench:
        state = PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())
        bench = Bench(codec, state, alone=True)
        bench.give(opening("A-1"), deposit("A-1", 100), opening("B-2"))
        return bench

    def test_it_leads_to_what_it_leads_to_step_by_step(self, alone: Bench, bench: Bench) -> None:
        given = transfer("A-1", "B-2", 60, correlation_id="order-7", reason="rent", effective_at=NOW - 5)
        at_once = alone.give(given)
        steps = [bench.give(given)]
        while asked := bench.follow_ups(steps[-1]):
            steps.append(bench.follow(*asked))

        assert len(steps) == 3
        assert [e.event for e in alone.events(at_once)] == [e.event for each in steps for e in bench.events(each)]
        assert alone.replies(at_once) == [reply for each in steps for reply in bench.replies(each)]
        assert alone.follow_ups(at_once) == [command for each in steps for command in bench.follow_ups(each)]
        assert alone.balance("A-1") == bench.balance("A-1")
        assert sum((Counter(each.answered) for each in steps), Counter()) == at_once.answered
        assert sum((Counter(each.follow_ups) for each in steps), Counter()) == at_once.follow_ups

    def test_what_would_be_refused_is_left_to_be_read_as_its_account_may_be_opened_meanwhile(
        self, alone: Bench
    ) -> None:
        """The client may have opened it before, by a command on another partition that is not read yet."""
        outcomes = alone.give(transfer("A-1", "C-3", 30), transfer("A-1", "C-3", 60))
        first, second = sent_to(outcomes, TOPICS.followups)
        assert (first.headers, second.headers) == (None, None)
        assert [type(each.event) for each in alone.events(outcomes)] == [TransferSent, TransferSent]
        assert outcomes.answered == {("accepted", ""): 2}

        # Read before that, it comes back, which its source is told of at once; after it, it arrives.
        returned = alone.read([first])
        assert [type(each.event) for each in alone.events(returned)] == [TransferReturned]
        assert sent_to(returned, TOPICS.followups)[0].headers == [(DECIDED_HEADER, b"")]
        alone.give(opening("C-3"))
        assert [type(e.event) for e in alone.events(alone.read([second]))] == [TransferReceived, TransferCompleted]
        assert (alone.balance("A-1"), alone.balance("C-3")) == ((40, 0), (60, 0))

    def test_whoever_reads_what_was_asked_for_sees_that_it_was_decided(self, alone: Bench) -> None:
        decided = sent_to(alone.give(transfer("A-1", "B-2", 60)), TOPICS.followups)
        left = sent_to(alone.give(transfer("A-1", "C-3", 1)), TOPICS.followups)
        messages = [Message(o.topic, 0, 7, o.key, o.value, headers=o.headers) for o in (*decided, *left)]
        assert [was_decided(message) for message in messages] == [True, True, False]

    def test_each_step_can_be_sent_before_the_next_is_decided(self, alone: Bench) -> None:
        outcomes = Outcomes()
        value = alone.codec.encode_command(transfer("A-1", "B-2", 60))
        alone.handler.handle(Message(TOPICS.commands, 0, 7, b"A-1", value), alone.overlay, NOW, outcomes)
        steps = [outcomes.taken_out()]
        while outcomes.asked:
            alone.handler.follow(alone.ours, NOW, outcomes)
            steps.append(outcomes.taken_out())
        assert [[o.topic for o in step] for step in steps] == [
            [TOPICS.events, TOPICS.replies],
            [TOPICS.events, TOPICS.replies, TOPICS.followups],
            [TOPICS.events, TOPICS.followups],
        ]
        assert outcomes.outgoing == []

    def test_an_instance_that_knows_nothing_of_the_mark_gives_the_same_answer_again(self, alone: Bench) -> None:
        """As one of an earlier release does, after it has restored the answers."""
        outcomes = alone.give(transfer("A-1", "B-2", 60))
        for reply in sent_to(outcomes, TOPICS.replies):
            replay._reply(
                Message(TOPICS.replies, 0, 7, reply.key, reply.value, headers=reply.headers),
                alone.overlay._committed.answers,
            )
        unmarked = [replace(each, headers=None) for each in sent_to(outcomes, TOPICS.followups)]
        assert alone.events(alone.read(unmarked)) == []
        assert (alone.balance("A-1"), alone.balance("B-2")) == ((40, 0), (60, 0))

    def test_after_its_time_the_rest_is_left_to_be_read(self, alone: Bench) -> None:
        outcomes = Outcomes()
        value = alone.codec.encode_command(transfer("A-1", "B-2", 60))
        alone.handler.handle(Message(TOPICS.commands, 0, 7, b"A-1", value), alone.overlay, NOW, outcomes)
        alone.handler.follow(alone.ours, NOW, outcomes, until=time.monotonic())
        assert outcomes.asked == []
        (left,) = sent_to(outcomes, TOPICS.followups)
        assert left.headers is None
        assert [type(e.event) for e in alone.events(alone.read([left]))] == [TransferReceived, TransferCompleted]

    def test_what_cannot_be_decided_is_left_to_be_read(self, alone: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        def planted(_state: Account | None, _command: FollowUp) -> Decision:
            raise ZeroDivisionError("planted")

        monkeypatch.setattr(deciding, "decide_follow_up", planted)
        outcomes = alone.give(transfer("A-1", "B-2", 60))
        (asked,) = sent_to(outcomes, TOPICS.followups)
        assert asked.headers is None
        assert [type(each.event) for each in alone.events(outcomes)] == [TransferSent]
        assert outcomes.answered == {("accepted", ""): 1}
        assert alone.balance("A-1") == (40, 60)

        # Then it is parked, or, with the defect mended, decided, and what follows from it at once.
        assert alone.read([asked]).parked == {"undecidable": 1}
        monkeypatch.undo()
        assert [type(e.event) for e in alone.events(alone.read([asked]))] == [TransferReceived, TransferCompleted]
        assert (alone.balance("A-1"), alone.balance("B-2")) == ((40, 0), (60, 0))

    def test_accounts_on_several_partitions_that_are_ours(self, codec: Codec, handler: Handler) -> None:
        """The transaction has to name each partition that it writes to."""
        other = next(f"B-{n}" for n in range(99) if partition_of(f"B-{n}", PARTITIONS) != HOME)
        away = partition_of(other, PARTITIONS)
        states = {
            partition: PartitionState(Answers(capacity=100, window=3_600_000_000), PACKING, no_keys())
            for partition in (HOME, away)
        }
        overlays, outcomes = Overlays(states), Outcomes()
        handler.handle(record(codec, opening(other), away), overlays[away], NOW, outcomes)
        overlays[away].commit(NOW)
        overlays, outcomes = Overlays(states), Outcomes()
        for command in (opening("A-1"), deposit("A-1", 60), transfer("A-1", other, 60)):
            handler.handle(record(codec, command), overlays[HOME], NOW, outcomes)
        assert overlays.keys() == {HOME}
        while outcomes.asked:
            handler.follow(overlays, NOW, outcomes)
        assert overlays.keys() == {HOME, away}
        written = [(o.partition, type(codec.decode_event(o.value).event)) for o in sent_to(outcomes, TOPICS.events)]
        assert written[2:] == [(HOME, TransferSent), (away, TransferReceived), (HOME, TransferCompleted)]
