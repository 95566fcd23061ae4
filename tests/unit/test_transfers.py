"""Transfers, account by account: sending, receiving, settling, and what each asks of the other account."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from command_service.domain.account import Account, Status, decide
from command_service.domain.refusals import Code, Rejection
from command_service.domain.transfers import Transfers, react, react_to_refusal
from schemas.commands import AnyCommand, CompleteTransfer, ReceiveTransfer, ReturnTransfer
from schemas.events import (
    CHAIN_START,
    AccountClosed,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    RecordedEvent,
    TransferReturned,
)
from schemas.money import INT64_MAX
from schemas.transfers import complete_id, receive_id, return_id
from tests.unit.given import (
    ACCOUNT,
    CAUSE,
    NOW,
    OTHER,
    TRANSFER_ID,
    close_account,
    complete,
    completed,
    created,
    deposit,
    deposited,
    fold,
    give_back,
    given,
    receive,
    received,
    returned,
    sent,
    transfer,
    withdrawn,
)

FUNDED: Final = (created(), deposited(100, 100))
IN_TRANSIT: Final = (*FUNDED, sent(60, 40, 60))
ONE: Final = "00000000-0000-4000-8000-000000000001"
TWO: Final = "00000000-0000-4000-8000-000000000002"


def state_of(*events: Event) -> Account:
    state = fold(events)
    assert state is not None
    return state


class TestSending:
    def test_money_leaves_the_balance_and_is_in_transit(self) -> None:
        given(*FUNDED).when(transfer(60)).then(sent(60, 40, 60))

    def test_what_is_in_transit_adds_up(self) -> None:
        given(*IN_TRANSIT).when(transfer(40, transfer_id=ONE)).then(sent(40, 0, 100, transfer_id=ONE))

    def test_the_whole_overdraft_may_be_used(self) -> None:
        given(created(overdraft_limit_minor=30)).when(transfer(30)).then(sent(30, -30, 30))

    def test_what_is_in_transit_cannot_be_sent_again(self) -> None:
        given(*IN_TRANSIT).when(transfer(41, transfer_id=ONE)).then_refused(Code.INSUFFICIENT_FUNDS)

    def test_the_expected_version_counts_for_a_new_transfer(self) -> None:
        given(*FUNDED).when(transfer(60, expected_version=2)).then(sent(60, 40, 60))
        given(*FUNDED).when(transfer(60, expected_version=1)).then_refused(Code.VERSION_CONFLICT)


class TestSendingAgain:
    @pytest.mark.parametrize(
        "since",
        [
            (),
            (completed(60),),
            (returned(60, 100),),
            (AccountFrozen(),),
            (completed(60), AccountFrozen()),
            (completed(60), withdrawn(40, 0), AccountClosed()),
            (returned(60, 100), withdrawn(100, 0), AccountClosed()),
        ],
        ids=["in transit", "arrived", "returned", "frozen", "arrived, frozen", "arrived, closed", "returned, closed"],
    )
    def test_the_same_transfer_is_nothing_new(self, since: tuple[Event, ...]) -> None:
        given(*IN_TRANSIT, *since).when(transfer(60)).then_nothing()
        given(*IN_TRANSIT, *since).when(transfer(60, transfer_id=TRANSFER_ID.upper())).then_nothing()
        # It was decided then; which version was expected says nothing about it now.
        given(*IN_TRANSIT, *since).when(transfer(60, expected_version=2)).then_nothing()

    def test_another_one_under_its_id_is_refused(self) -> None:
        given(*IN_TRANSIT).when(transfer(40)).then_refused(Code.TRANSFER_ID_REUSED)
        given(*IN_TRANSIT, completed(60)).when(transfer(40)).then_refused(Code.TRANSFER_ID_REUSED)

    def test_of_settled_ones_the_newest_are_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Transfers, "REMEMBERED", 2)
        history: list[Event] = [created(), deposited(100, 100)]
        for number, transfer_id in enumerate((TRANSFER_ID, ONE, TWO), start=1):
            history += [sent(1, 100 - number, 1, transfer_id=transfer_id), completed(1, transfer_id=transfer_id)]
        given(*history).when(transfer(1, transfer_id=ONE)).then_nothing()
        given(*history).when(transfer(1, transfer_id=TWO)).then_nothing()
        # Beyond them its id is as good as new.
        given(*history).when(transfer(1)).then(sent(1, 96, 1))

    def test_one_that_is_in_transit_is_known_however_many_were_settled_since(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Transfers, "REMEMBERED", 0)
        later = (sent(1, 39, 61, transfer_id=ONE), completed(1, 60, transfer_id=ONE))
        given(*IN_TRANSIT, *later).when(transfer(60)).then_nothing()
        given(*IN_TRANSIT, *later).when(complete()).then(completed(60))


def test_so_many_may_be_in_transit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transfers, "MOST_OPEN", 2)
    one = (*IN_TRANSIT, sent(1, 39, 61, transfer_id=ONE))
    given(*IN_TRANSIT).when(transfer(1, transfer_id=ONE)).then(sent(1, 39, 61, transfer_id=ONE))
    given(*one).when(transfer(1, transfer_id=TWO)).then_refused(Code.TOO_MANY_IN_TRANSIT)
    given(*one, completed(60, 1)).when(transfer(1, transfer_id=TWO)).then(sent(1, 38, 2, transfer_id=TWO))
    # What comes in is not held up by what is going out.
    given(*one).when(receive(5)).then(received(5, 44))


class TestReceiving:
    def test_money_is_added_to_the_balance(self) -> None:
        given(*FUNDED).when(receive(60)).then(received(60, 160))

    def test_a_released_account_receives(self) -> None:
        given(*FUNDED, AccountFrozen(), AccountUnfrozen()).when(receive(60)).then(received(60, 160))

    @pytest.mark.parametrize(
        ("history", "code"),
        [
            ((), Code.ACCOUNT_NOT_FOUND),
            ((created(), AccountClosed()), Code.ACCOUNT_CLOSED),
            ((created("CZK"),), Code.CURRENCY_MISMATCH),
            ((created("CZK"), AccountFrozen()), Code.CURRENCY_MISMATCH),
            ((*FUNDED, AccountFrozen()), Code.ACCOUNT_FROZEN),
            ((created(), deposited(INT64_MAX, INT64_MAX)), Code.BALANCE_OUT_OF_RANGE),
        ],
        ids=lambda v: str(v) if isinstance(v, Code) else "",
    )
    def test_what_cannot_be_taken_in_is_refused(self, history: tuple[Event, ...], code: Code) -> None:
        given(*history).when(receive(60)).then_refused(code)

    def test_the_own_transfer_of_the_same_id_is_another_one(self) -> None:
        """Transfer ids are each sender's own."""
        given(*IN_TRANSIT).when(receive(60)).then(received(60, 100))
        state = state_of(*IN_TRANSIT, received(60, 100))
        assert state.transfers.in_transit_minor(TRANSFER_ID) == 60
        given(*FUNDED, received(60, 160)).when(transfer(5)).then(sent(5, 155, 5))


class TestSettling:
    def test_what_arrived_is_no_longer_in_transit(self) -> None:
        given(*IN_TRANSIT).when(complete()).then(completed(60))

    def test_what_was_refused_is_back_in_the_balance_with_the_reason(self) -> None:
        given(*IN_TRANSIT).when(give_back()).then(returned(60, 100))

    def test_the_others_stay_in_transit(self) -> None:
        two = (*IN_TRANSIT, sent(5, 35, 65, transfer_id=ONE))
        given(*two).when(complete()).then(completed(60, 5))
        given(*two).when(give_back(ONE)).then(returned(5, 40, 60, transfer_id=ONE))

    @pytest.mark.parametrize("settled", [completed(60), returned(60, 100)], ids=["arrived", "returned"])
    @pytest.mark.parametrize("command", [complete(), give_back()], ids=["complete", "return"])
    def test_nothing_is_settled_twice(self, settled: Event, command: AnyCommand) -> None:
        given(*IN_TRANSIT, settled).when(command).then_nothing()
        given(*IN_TRANSIT, settled, withdrawn(1, 39)).when(command).then_nothing()

    @pytest.mark.parametrize("command", [complete(), give_back()], ids=["complete", "return"])
    def test_what_was_never_sent_is_not_settled(self, command: AnyCommand) -> None:
        given(*FUNDED).when(command).then_nothing()
        given(created(), AccountClosed()).when(command).then_nothing()

    def test_the_id_may_be_in_either_case(self) -> None:
        given(*IN_TRANSIT).when(complete(TRANSFER_ID.upper())).then(
            completed(60, transfer_id=TRANSFER_ID.upper()),
        )

    def test_a_frozen_account_settles(self) -> None:
        frozen = (*IN_TRANSIT, AccountFrozen())
        given(*frozen).when(complete()).then(completed(60))
        given(*frozen).when(give_back()).then(returned(60, 100))
        assert state_of(*frozen, returned(60, 100)).status is Status.FROZEN

    def test_money_comes_back_to_a_balance_that_was_filled_meanwhile(self) -> None:
        """What is in transit keeps its room in the balance, so that its return cannot fail."""
        filled = INT64_MAX - 60
        history = (*FUNDED, sent(60, 40, 60), deposited(filled - 40, filled))
        given(*history).when(deposit(1)).then_refused(Code.BALANCE_OUT_OF_RANGE)
        given(*history).when(receive(1)).then_refused(Code.BALANCE_OUT_OF_RANGE)
        given(*history).when(give_back()).then(returned(60, INT64_MAX))
        given(*history, completed(60)).when(deposit(60)).then(deposited(60, INT64_MAX))

    def test_an_account_that_is_overdrawn_may_still_have_money_in_transit(self) -> None:
        history = (created(overdraft_limit_minor=INT64_MAX), sent(INT64_MAX, -INT64_MAX, INT64_MAX))
        given(*history).when(give_back()).then(returned(INT64_MAX, 0))
        given(*history).when(complete()).then(completed(INT64_MAX))


def test_an_account_is_not_closed_before_its_transfers_are_settled() -> None:
    empty = (*FUNDED, sent(100, 0, 100))
    given(*empty).when(close_account()).then_refused(Code.TRANSFERS_IN_TRANSIT)
    given(*empty, completed(100)).when(close_account()).then(AccountClosed())
    given(*empty, returned(100, 100)).when(close_account()).then_refused(Code.BALANCE_NOT_ZERO)


def recorded(event: Event, **common: object) -> RecordedEvent:
    usual: dict[str, object] = {
        "event_id": CAUSE,
        "account_id": ACCOUNT,
        "sequence": 3,
        "recorded_at": NOW,
        "effective_at": NOW,
        "user_id": "teller",
        "command_id": "11111111-2222-4333-8444-555555555555",
        "correlation_id": "order-7",
        "causation_id": "11111111-2222-4333-8444-555555555555",
        "reason": "rent",
        "chain_hash": CHAIN_START,
    }
    return RecordedEvent(**(usual | common), event=event)  # type: ignore[arg-type]


class TestWhatIsAskedOfTheOtherAccount:
    def test_sending_asks_the_destination_to_receive(self) -> None:
        assert react(recorded(sent(60, 40, 60))) == ReceiveTransfer(
            command_id=receive_id(TRANSFER_ID, ACCOUNT, 3),
            account_id=OTHER,
            user_id="teller",
            issued_at=NOW,
            correlation_id="order-7",
            reason="rent",
            transfer_id=TRANSFER_ID,
            from_account_id=ACCOUNT,
            amount_minor=60,
            currency="EUR",
            causation_id=CAUSE,
        )

    def test_receiving_asks_the_source_to_complete(self) -> None:
        command_id = receive_id(TRANSFER_ID, OTHER, 3)
        assert react(recorded(received(60, 160), command_id=command_id)) == CompleteTransfer(
            command_id=complete_id(command_id),
            account_id=OTHER,
            user_id="teller",
            issued_at=NOW,
            correlation_id="order-7",
            reason="rent",
            transfer_id=TRANSFER_ID,
            to_account_id=ACCOUNT,
            causation_id=CAUSE,
        )

    def test_a_refusal_asks_the_source_to_take_it_back(self) -> None:
        command = receive(60, correlation_id="order-7", effective_at=NOW - 5, reason="rent")
        refusal = Rejection(Code.ACCOUNT_FROZEN, "account acc-1 is frozen")
        assert react_to_refusal(command, refusal, NOW + 1) == ReturnTransfer(
            command_id=return_id(command.command_id),
            account_id=OTHER,
            user_id="teller",
            issued_at=NOW + 1,
            correlation_id="order-7",
            effective_at=NOW - 5,
            reason="rent",
            transfer_id=TRANSFER_ID,
            to_account_id=ACCOUNT,
            code="account_frozen",
            message="account acc-1 is frozen",
            causation_id=command.command_id,
        )

    def test_the_reason_of_a_refusal_is_in_the_event_at_the_source(self) -> None:
        refusal = given(created("CZK")).when(receive(60)).decision
        assert isinstance(refusal, Rejection)
        back = react_to_refusal(receive(60), refusal, NOW)
        (event,) = decide(state_of(*IN_TRANSIT), back, NOW)  # type: ignore[misc]
        assert isinstance(event, TransferReturned)
        assert (event.code, event.message) == ("currency_mismatch", "the account is in CZK, not EUR")

    @pytest.mark.parametrize("event", [sent(60, 40, 60), received(60, 160)], ids=["sent", "received"])
    def test_what_is_back_dated_is_so_on_both_sides(self, event: Event) -> None:
        asked = react(recorded(event, effective_at=NOW - 5))
        assert asked is not None
        assert asked.effective_at == NOW - 5
        asked = react(recorded(event))
        assert asked is not None
        assert asked.effective_at is None, "it counts from when it is decided there"

    @pytest.mark.parametrize(
        "event",
        [created(), deposited(1, 1), completed(60), returned(60, 100), AccountFrozen(), AccountClosed()],
        ids=lambda e: type(e).__name__,
    )
    def test_others_ask_nothing(self, event: Event) -> None:
        assert react(recorded(event)) is None


class TestIdentities:
    def test_they_are_the_same_in_every_release(self) -> None:
        """Whoever waits for the outcome of a transfer derives them too (docs/CLIENT.md)."""
        received_by = receive_id(TRANSFER_ID, ACCOUNT, 3)
        assert received_by == "c4919c3c-53d5-5959-a0fc-a3c1ea28ca27"
        assert complete_id(received_by) == "53d9c45c-02a3-5ce1-982f-8bcfe588a337"
        assert return_id(received_by) == "436957ec-6f61-5f78-a5b1-34b7d7e4685e"

    def test_the_case_of_the_transfers_id_makes_no_difference(self) -> None:
        assert receive_id(TRANSFER_ID.upper(), ACCOUNT, 3) == receive_id(TRANSFER_ID, ACCOUNT, 3)

    def test_every_sending_has_its_own(self) -> None:
        cases = [(TRANSFER_ID, ACCOUNT, 3), (TRANSFER_ID, ACCOUNT, 33), (TRANSFER_ID, OTHER, 3), (ONE, ACCOUNT, 3)]
        first = [receive_id(*case) for case in cases]
        ids = [*first, *map(complete_id, first), *map(return_id, first)]
        assert len(set(ids)) == len(ids)
        assert all(UUID(i).version == 5 for i in ids)


class TestPacking:
    def test_a_key_that_occurs_across_two_entries_is_not_taken_for_one(self) -> None:
        """An id of the last half of one entry and the first half of the next, and one of an entry's middle."""
        packed = Transfers().sent(ONE, 5, "acc-2").sent(TWO, 7, "acc-3")
        for at in range(1, len(packed.open) - 15):
            if at % 32:
                across = str(UUID(bytes=packed.open[at : at + 16]))
                assert packed.in_transit_minor(across) is None, at
                assert packed.known(across, 5, "acc-2") is None, at
                assert packed.settle(across) == packed, at

    def test_one_is_found_behind_its_bytes_across_two_others(self) -> None:
        two = Transfers().sent(ONE, 5, "acc-2").sent(TWO, 7, "acc-3")
        across = str(UUID(bytes=two.open[20:36]))
        three = two.sent(across, 9, "acc-4")
        assert three.open.find(UUID(across).bytes) == 20
        assert three.in_transit_minor(across) == 9
        assert three.known(across, 9, "acc-4") is True
        left = three.settle(across)
        assert left.open == two.open
        assert left.known(across, 9, "acc-4") is True

    def test_ids_of_zeros_are_found(self) -> None:
        nil, next_to_nil = str(UUID(int=0)), str(UUID(int=1 << 64))
        packed = Transfers().sent(next_to_nil, 0, "acc-2").sent(nil, 1, "acc-2")
        assert (packed.in_transit_minor(next_to_nil), packed.in_transit_minor(nil)) == (0, 1)

    @drawn(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["sent", "settle"]), st.integers(1, 2), st.sampled_from("ab")),
            max_size=40,
        ),
        st.integers(1, 4),
    )
    def test_it_is_a_table_of_transfers(self, steps: list[tuple[int, str, int, str]], remembered: int) -> None:
        # Of few bytes, so that they occur across entries as well.
        ids = [str(UUID(int=number << 64)) for number in range(4)]
        in_transit: dict[str, tuple[int, str]] = {}
        settled: dict[str, tuple[int, str]] = {}
        packed = Transfers()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Transfers, "REMEMBERED", remembered)
            for number, step, amount, to in steps:
                transfer_id = ids[number]
                if step == "settle":
                    packed = packed.settle(transfer_id)
                    if transfer_id in in_transit:
                        settled[transfer_id] = in_transit.pop(transfer_id)
                        settled = dict(list(settled.items())[-remembered:])
                elif transfer_id not in in_transit and transfer_id not in settled:
                    packed = packed.sent(transfer_id, amount, to)
                    in_transit[transfer_id] = amount, to
                for each in ids:
                    what = in_transit.get(each) or settled.get(each)
                    assert packed.in_transit_minor(each) == (in_transit[each][0] if each in in_transit else None)
                    assert packed.known(each, 1, "a") == (None if what is None else what == (1, "a"))
                assert packed.open_count == len(in_transit)
