"""What each command leads to, and what each event does to the state."""

import pytest
from msgspec.structs import replace

from command_service.domain.account import Account, Status, evolve
from command_service.domain.refusals import Code
from command_service.domain.transfers import Transfers
from command_service.domain.withdrawals import Withdrawals
from schemas.events import (
    EVENT_TYPES,
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    FreezeCause,
    HolderChanged,
    HolderErased,
)
from schemas.money import INT64_MAX
from schemas.sealing import Sealer
from tests.unit.given import (
    ACCOUNT,
    NOW,
    OTHER,
    TRANSFER_ID,
    change_holder,
    close_account,
    complete,
    completed,
    created,
    deposit,
    deposited,
    erase_holder,
    fold,
    freeze,
    give_back,
    given,
    limit_set,
    open_account,
    receive,
    received,
    refund,
    refunded,
    returned,
    sent,
    set_overdraft_limit,
    transfer,
    unfreeze,
    withdraw,
    withdrawn,
)

ONE = "00000000-0000-4000-8000-000000000001"

EVERY_OTHER_EVENT: tuple[Event, ...] = (
    deposited(10, 10),
    withdrawn(4, 6),
    refunded(3, 4, 10),
    limit_set(0, 5),
    sent(7, 3, 7),
    received(9, 12),
    completed(7),
    sent(2, 10, 2, transfer_id=ONE),
    returned(2, 12, transfer_id=ONE),
    AccountFrozen(),
    AccountUnfrozen(),
    AccountClosed(),
)
"""Every kind of event that says nothing of the holder."""


class TestWhatCommandsLeadTo:
    def test_an_account_is_opened(self) -> None:
        command = open_account("CZK", "Božena Němcová", "bozena@example.org", 500)
        given().when(command).then(created("CZK", "Božena Němcová", "bozena@example.org", 500))

    def test_an_account_may_be_expected_not_to_exist(self) -> None:
        given().when(open_account(expected_version=0)).then(created())

    def test_a_deposit_carries_the_balance_after_it(self) -> None:
        given(created(), deposited(50, 50)).when(deposit(100)).then(deposited(100, 150))

    def test_a_deposit_may_fill_the_balance_to_the_last_unit(self) -> None:
        given(created(), deposited(1, 1)).when(deposit(INT64_MAX - 1)).then(deposited(INT64_MAX - 1, INT64_MAX))

    def test_a_withdrawal_may_empty_the_account(self) -> None:
        given(created(), deposited(50, 50)).when(withdraw(50)).then(withdrawn(50, 0))

    def test_a_withdrawal_may_use_the_whole_overdraft(self) -> None:
        given(created(overdraft_limit_minor=30), deposited(50, 50)).when(withdraw(80)).then(withdrawn(80, -30))

    def test_a_withdrawal_is_refunded_in_parts(self) -> None:
        history = (created(), deposited(100, 100), withdrawn(60, 40))
        given(*history).when(refund(3, 25)).then(refunded(3, 25, 65))
        given(*history, refunded(3, 25, 65)).when(refund(3, 35)).then(refunded(3, 35, 100))

    def test_the_overdraft_limit_is_set(self) -> None:
        given(created()).when(set_overdraft_limit(100)).then(limit_set(0, 100))

    def test_the_overdraft_limit_may_be_lowered_to_what_is_used(self) -> None:
        given(created(overdraft_limit_minor=100), withdrawn(40, -40)).when(set_overdraft_limit(40)).then(
            limit_set(100, 40)
        )

    def test_the_holder_is_changed_even_while_frozen(self) -> None:
        changed = HolderChanged(holder_name="Grace", holder_email="grace@example.org")
        given(created(), AccountFrozen()).when(change_holder("Grace", "grace@example.org")).then(changed)

    def test_the_email_alone_is_changed(self) -> None:
        changed = HolderChanged(holder_name="Ada", holder_email=None)
        given(created("EUR", "Ada", "ada@example.org")).when(change_holder("Ada", None)).then(changed)

    def test_an_account_is_frozen_and_released(self) -> None:
        given(created()).when(freeze()).then(AccountFrozen())
        sanctions = FreezeCause.SANCTIONS
        given(created()).when(freeze(sanctions)).then(AccountFrozen(cause=sanctions))
        given(created(), AccountFrozen()).when(unfreeze()).then(AccountUnfrozen())
        given(created(), AccountFrozen(), AccountUnfrozen()).when(deposit(1)).then(deposited(1, 1))

    def test_an_empty_account_is_closed(self) -> None:
        given(created(), deposited(5, 5), withdrawn(5, 0)).when(close_account()).then(AccountClosed())
        given(created()).when(close_account("SEPA 7")).then(AccountClosed(payout_reference="SEPA 7"))

    def test_a_change_may_be_back_dated_to_any_day_of_the_calendar(self) -> None:
        given(created()).when(deposit(1, effective_at=-62_135_596_800_000_000)).then(deposited(1, 1))

    def test_a_change_may_count_from_this_very_moment(self) -> None:
        given(created()).when(deposit(1, effective_at=NOW)).then(deposited(1, 1))

    def test_the_expected_version_is_the_sequence_of_the_newest_event(self) -> None:
        given(created(), deposited(5, 5)).when(withdraw(5, expected_version=2)).then(withdrawn(5, 0))


class TestWhatIsSoAlready:
    def test_freezing_a_frozen_account(self) -> None:
        given(created(), AccountFrozen()).when(freeze()).then_nothing()
        given(created(), AccountFrozen()).when(freeze(FreezeCause.COURT_ORDER)).then_nothing()

    def test_releasing_an_active_account(self) -> None:
        given(created()).when(unfreeze()).then_nothing()

    def test_setting_the_limit_that_is_set(self) -> None:
        given(created(overdraft_limit_minor=70)).when(set_overdraft_limit(70)).then_nothing()

    def test_naming_the_holder_that_is_named(self) -> None:
        given(created("EUR", "Ada", "ada@example.org")).when(change_holder("Ada", "ada@example.org")).then_nothing()

    def test_closing_a_closed_account(self) -> None:
        given(created(), AccountClosed()).when(close_account()).then_nothing()

    @pytest.mark.parametrize("then", [(), (AccountFrozen(),), (AccountClosed(),)], ids=["active", "frozen", "closed"])
    def test_erasing_an_erased_holder(self, then: tuple[Event, ...]) -> None:
        given(created(), HolderErased(), *then).when(erase_holder()).then_nothing()
        given(created(), *then, HolderErased()).when(erase_holder(reason="request 18")).then_nothing()


HISTORY = (created("EUR", "Ada", "ada@example.org", 5), deposited(50, 50), withdrawn(40, 10), sent(4, 6, 4))


class TestErasure:
    def test_the_holder_is_erased_whatever_the_account_has_become(self) -> None:
        for history in (
            (created(),),
            HISTORY,
            (*HISTORY, AccountFrozen()),
            (created(), AccountClosed()),
            (created(), HolderChanged(holder_name="Grace")),
        ):
            given(*history).when(erase_holder(reason="request 17")).then(HolderErased())

    def test_only_the_account_that_was_read_is_erased(self) -> None:
        given(*HISTORY).when(erase_holder(expected_version=4)).then(HolderErased())
        given(*HISTORY).when(erase_holder(expected_version=3)).then_refused(Code.VERSION_CONFLICT)
        given(*HISTORY, HolderErased()).when(erase_holder(expected_version=4)).then_refused(Code.VERSION_CONFLICT)
        given().when(erase_holder()).then_refused(Code.ACCOUNT_NOT_FOUND)

    def test_nobody_holds_the_account_any_more(self) -> None:
        erased = given(*HISTORY, HolderErased())
        for command in (
            change_holder("Grace"),
            change_holder("Ada", "ada@example.org"),
            change_holder("[erased]"),
            close_account("SEPA 7"),
            withdraw(1, reason="for Ada", reason_is_personal=True),
            freeze(reason="Ada is ill", reason_is_personal=True),
        ):
            erased.when(command).then_refused(Code.HOLDER_ERASED)
        erased.when(open_account()).then_refused(Code.ACCOUNT_EXISTS)

    def test_a_reason_that_is_not_personal_may_be_given(self) -> None:
        erased = given(*HISTORY, HolderErased())
        erased.when(withdraw(1, reason="a fee")).then(withdrawn(1, 5))
        erased.when(freeze(reason="a court's order")).then(AccountFrozen())

    def test_no_reason_is_not_personal(self) -> None:
        given(*HISTORY, HolderErased()).when(withdraw(1, reason_is_personal=True)).then(withdrawn(1, 5))

    def test_money_still_moves(self) -> None:
        erased = given(*HISTORY, HolderErased())
        erased.when(deposit(1)).then(deposited(1, 7))
        erased.when(withdraw(11)).then(withdrawn(11, -5))
        erased.when(withdraw(12)).then_refused(Code.INSUFFICIENT_FUNDS)
        erased.when(refund(3, 40)).then(refunded(3, 40, 46))
        erased.when(set_overdraft_limit(0)).then(limit_set(5, 0))
        erased.when(transfer(6, transfer_id=ONE)).then(sent(6, 0, 10, transfer_id=ONE))
        erased.when(receive(3)).then(received(3, 9))

    def test_what_was_in_transit_arrives_or_comes_back(self) -> None:
        erased = given(*HISTORY, HolderErased())
        erased.when(complete()).then(completed(4))
        erased.when(give_back()).then(returned(4, 10))
        erased.when(transfer(4, reason="for Ada", reason_is_personal=True)).then_nothing()

    def test_the_account_is_frozen_released_and_closed(self) -> None:
        given(created(), HolderErased()).when(freeze()).then(AccountFrozen())
        given(created(), HolderErased(), AccountFrozen()).when(unfreeze()).then(AccountUnfrozen())
        given(created(), HolderErased()).when(close_account()).then(AccountClosed())
        given(created(), HolderErased(), AccountClosed()).when(change_holder()).then_refused(Code.ACCOUNT_CLOSED)


class TestWhatEventsDo:
    def test_creation_begins_the_state(self) -> None:
        assert fold((created("KWD", "Ada", "ada@example.org", 7),)) == Account(
            sequence=1,
            currency="KWD",
            balance_minor=0,
            overdraft_limit_minor=7,
            status=Status.ACTIVE,
            holder_name="Ada",
            holder_email="ada@example.org",
            withdrawals=Withdrawals(),
            in_transit_minor=0,
            transfers=Transfers(),
            holder_erased=False,
        )

    def test_every_event_moves_the_sequence_by_one(self) -> None:
        state = fold(
            (
                created(),
                deposited(10, 10),
                withdrawn(4, 6),
                refunded(3, 4, 10),
                limit_set(0, 5),
                HolderChanged(holder_name="Grace"),
                AccountFrozen(),
                AccountUnfrozen(),
                sent(7, 3, 7, transfer_id=ONE),
                sent(2, 1, 9),
                received(9, 10, transfer_id=ONE),
                completed(7, 2, transfer_id=ONE),
                returned(2, 12),
                withdrawn(12, 0),
                AccountClosed(),
                HolderErased(),
            )
        )
        assert state == Account(
            sequence=16,
            currency="EUR",
            balance_minor=0,
            overdraft_limit_minor=5,
            status=Status.CLOSED,
            holder_name="[erased]",
            holder_email=None,
            withdrawals=Withdrawals().withdrawn(3, 4).refunded(3, 4).withdrawn(14, 12),
            in_transit_minor=0,
            transfers=Transfers().sent(ONE, 7, OTHER).settle(ONE).sent(TRANSFER_ID, 2, OTHER).settle(TRANSFER_ID),
            holder_erased=True,
        )

    def test_what_is_sent_is_in_transit_and_not_in_the_balance(self) -> None:
        state = fold((created(), deposited(10, 10), sent(7, 3, 7)))
        assert state is not None
        assert (state.sequence, state.balance_minor, state.in_transit_minor) == (3, 3, 7)
        assert state.transfers.in_transit_minor(TRANSFER_ID) == 7

    def test_the_holder_is_kept_as_sealed_until_the_erasure(self) -> None:
        kinds = {type(event) for event in EVERY_OTHER_EVENT}
        assert kinds == {*EVENT_TYPES} - {AccountCreated, HolderChanged, HolderErased}
        sealer = Sealer(lambda _: bytes(32))
        name, other = (sealer.seal(text, ACCOUNT, ONE, "holder_name") for text in ("Ada", "Grace"))
        email = sealer.seal("ada@example.org", ACCOUNT, ONE, "holder_email")
        state = fold((created("EUR", name, email),))
        assert state is not None
        for event in EVERY_OTHER_EVENT:
            state = evolve(state, event)
            assert (state.holder_name, state.holder_email, state.holder_erased) == (name, email, False)
        changed = evolve(state, HolderChanged(holder_name=other, holder_email=email))
        assert (changed.holder_name, changed.holder_email) == (other, email)
        erased = evolve(changed, HolderErased())
        assert (erased.holder_name, erased.holder_email, erased.holder_erased) == ("[erased]", None, True)
        for event in EVERY_OTHER_EVENT:
            erased = evolve(erased, event)
            assert (erased.holder_name, erased.holder_email, erased.holder_erased) == ("[erased]", None, True)

    def test_an_erasure_changes_nothing_but_the_holder(self) -> None:
        state = fold(HISTORY)
        assert state is not None
        assert evolve(state, HolderErased()) == replace(
            state, sequence=5, holder_name="[erased]", holder_email=None, holder_erased=True
        )

    def test_the_status_follows_freezing_and_releasing(self) -> None:
        frozen = fold((created(), AccountFrozen()))
        assert frozen is not None
        assert frozen.status is Status.FROZEN
        assert evolve(frozen, AccountUnfrozen()).status is Status.ACTIVE

    @pytest.mark.parametrize(
        "event", [deposited(1, 1), AccountFrozen(), AccountClosed(), received(1, 1)], ids=lambda e: type(e).__name__
    )
    def test_a_stream_without_a_beginning_is_an_error(self, event: Event) -> None:
        with pytest.raises(ValueError, match=f"{type(event).__name__} came before AccountCreated"):
            evolve(None, event)
