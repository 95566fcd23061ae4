"""Opening what is personal in events, entries and states, without servers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from daybook.cli.phrases import phrase
from daybook.cli.searching import what
from daybook.fold import fold
from daybook.holders import SEALED, Holders
from daybook.log import LoggedEvent
from daybook.search import audit_entry
from daybook.timetravel.points import UpToSequence
from daybook.timetravel.states import difference, past_account
from daybook.transfers import of_entry
from projectors.search_documents import event_document, evolve
from schemas.connections import Connections, NotConfigured
from schemas.events import AccountClosed, AccountCreated, Event, HolderChanged, HolderErased, RecordedEvent
from schemas.personal import opened, sealed_fields
from schemas.sealing import ERASED, Sealer, Unsealer, new_data_key
from tests.recorded import deposited, recorded, sent

KEYS = {"A-1": new_data_key()}
SEALER = Sealer(KEYS.get)
GONE = Unsealer({}.get)
NOWHERE = Connections(kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1", kek=None, kek_file=None)

CREATED = AccountCreated(currency="EUR", holder_name="Ada", holder_email="ada@example.org")
CHANGED = HolderChanged(holder_name="Ada King", holder_email="ada@example.org")
WITHOUT_ADDRESS = HolderChanged(holder_name="Ada King")
CLOSED = AccountClosed(payout_reference="cheque to Ada")


class Opens(Holders):
    """Opens with the keys above, or none of them."""

    def __init__(self, unsealer: Unsealer) -> None:
        super().__init__(NOWHERE, timeout_s=1)
        self._with = unsealer

    def open(self, text: str, account_id: str, field: str) -> str:
        return self._with.open(text, account_id, field)


def sealed(sequence: int, event: Event, reason: str | None = None) -> RecordedEvent:
    """An event of A-1 as the command service writes it."""
    item = recorded("A-1", sequence, event)
    own = {
        name: SEALER.seal(text, "A-1", item.event_id, name)
        for name in ("holder_name", "holder_email", "payout_reference")
        if (text := getattr(event, name, None)) is not None
    }
    given = None if reason is None else SEALER.seal(reason, "A-1", item.event_id, "reason")
    return msgspec.structs.replace(item, event=msgspec.structs.replace(event, **own), reason=given)


def logged(*events: RecordedEvent) -> list[LoggedEvent]:
    return [LoggedEvent(0, offset, item) for offset, item in enumerate(events)]


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (CREATED, ["holder_name", "holder_email"]),
        (CHANGED, ["holder_name", "holder_email"]),
        (WITHOUT_ADDRESS, ["holder_name"]),
        (CLOSED, ["payout_reference"]),
        (deposited("A-1", 2, 5).event, []),
        (HolderErased(), []),
    ],
)
@pytest.mark.parametrize("reason", [None, "rent of Ada"])
def test_what_is_opened_is_what_was_sealed(event: Event, fields: list[str], reason: str | None) -> None:
    item = sealed(2, event, reason)
    assert list(sealed_fields(item)) == fields + (["reason"] if reason else [])
    found = opened(item, SEALER.open)
    assert (found.event, found.reason) == (event, reason)
    gone = opened(item, GONE.open)
    assert [getattr(gone.event, name) for name in fields] == [ERASED] * len(fields)
    assert gone.reason == (None if reason is None else "[erased]")


def test_what_is_older_than_sealing_is_the_very_same() -> None:
    item = recorded("A-1", 1, CREATED)
    assert opened(item, GONE.open) is item
    (one,) = logged(item)
    assert Holders(NOWHERE, timeout_s=1).event(one) is one


def test_documents_of_an_erased_holder_say_so_wherever_the_erasure_is_met() -> None:
    in_order = [recorded("A-1", 1, CREATED), recorded("A-1", 2, HolderErased()), deposited("A-1", 3, 5)]
    found = None
    for offset, item in enumerate(in_order):
        found = evolve(found, item, 0, offset)
    assert found is not None
    assert (found.holder_name, found.holder_email, found.holder_erased) == ("[erased]", None, True)
    assert found.balance_minor == 5

    early = evolve(None, opened(sealed(1, CREATED), GONE.open), 0, 0)
    assert (early.holder_name, early.holder_email, early.holder_erased) == ("[erased]", None, True)
    called_so = AccountCreated(currency="EUR", holder_name="[erased]", holder_email="e@example.org")
    plain = evolve(None, recorded("A-1", 1, called_so), 0, 0)
    assert (plain.holder_email, plain.holder_erased) == ("e@example.org", False)
    assert b"holder_erased" not in msgspec.json.encode(plain)


def test_without_key_encryption_keys_it_says_sealed_and_asks_nobody() -> None:
    holders = Holders(NOWHERE, timeout_s=1)
    assert not holders.configured
    (created, closed) = logged(sealed(1, CREATED), sealed(2, CLOSED, "rent of Ada"))
    found = holders.event(created).recorded.event
    assert isinstance(found, AccountCreated)
    assert (found.holder_name, found.holder_email) == (SEALED, SEALED)
    document = event_document(closed.recorded, 0, 1, 0, "EUR")
    entry = holders.entry(audit_entry({name: getattr(document, name) for name in document.__struct_fields__}))
    assert (entry.payout_reference, entry.reason) == (SEALED, SEALED)
    assert what(entry) == "closed, paid out by [sealed]"


def test_a_key_file_that_is_not_there_is_no_missing_configuration() -> None:
    holders = Holders(NOWHERE.model_copy(update={"kek_file": "/nowhere/kek"}), timeout_s=1)
    with pytest.raises(NotConfigured, match=r"/nowhere/kek \(DAYBOOK_KEK_FILE\) is not there"):
        holders.event(logged(sealed(1, CREATED))[0])


def test_a_state_is_opened_and_an_erased_one_has_no_address() -> None:
    account = fold(logged(sealed(1, CREATED)))
    assert account is not None
    state = past_account(account)
    found = Opens(SEALER).account(state)
    assert (found.holder_name, found.holder_email, found.holder_erased) == ("Ada", "ada@example.org", False)
    gone = Opens(GONE).account(state)
    assert (gone.holder_name, gone.holder_email) == ("[erased]", None)

    account = fold(logged(sealed(1, CREATED), recorded("A-1", 2, HolderErased())))
    assert account is not None
    after = Opens(SEALER).account(past_account(account))
    assert (after.holder_name, after.holder_email, after.holder_erased) == ("[erased]", None, True)


def test_a_text_that_was_sealed_anew_did_not_change() -> None:
    history = logged(sealed(1, CREATED), sealed(2, CHANGED), recorded("A-1", 3, HolderErased()))
    found = difference(history, UpToSequence(1), UpToSequence(2))
    assert [change.field for change in found.changes] == ["holder_name", "holder_email"]
    (change,) = Opens(SEALER).difference(found).changes
    assert (change.field, change.before, change.after) == ("holder_name", "Ada", "Ada King")
    assert Opens(SEALER).difference(found).events[0].recorded.event == CHANGED

    found = Opens(GONE).difference(difference(history, UpToSequence(2), None))
    assert [(change.field, change.before, change.after) for change in found.changes] == [("holder_erased", False, True)]


def test_the_reason_of_a_transfer_in_flight_is_opened() -> None:
    item = sealed(2, sent("A-1", 2, 1).event, "rent of Ada")
    document = event_document(item, 0, 1, 0, "EUR")
    one = of_entry(audit_entry({name: getattr(document, name) for name in document.__struct_fields__}))
    assert Opens(SEALER).in_flight(one).reason == "rent of Ada"
    assert Opens(GONE).in_flight(one) == replace(one, reason="[erased]")


def test_an_erasure_is_said_in_words() -> None:
    item = recorded("A-1", 2, HolderErased())
    document = event_document(item, 0, 1, 0, "EUR")
    entry = audit_entry({name: getattr(document, name) for name in document.__struct_fields__})
    assert what(entry) == phrase(HolderErased()) == "erased the holder"
