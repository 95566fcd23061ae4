"""What the golden bytes lead to: through the real codec, `evolve`, and the projectors' pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import fields

from command_service.domain.account import Account, evolve
from daybook.evolution.corpus import Recording, StoredSchemas, recordings
from projectors import search_documents
from projectors.analytics import rows
from projectors.balances import sets
from projectors.projector import Batch
from schemas.codec import Codec
from schemas.events import CHAIN_START, AccountCreated, RecordedEvent, TransferSent
from schemas.personal import opened
from schemas.released import released
from schemas.sealing import Unsealer

FOLDER: Final = Path(__file__).parent
_PARTITION: Final = 3

DATA_KEYS: Final = {"golden-sealed": bytes(range(32))}
"""By account, what its sealed fields are opened with; another's are erased."""


def results() -> dict[str, Any]:
    """What each recording leads to, by its name: plain data, as JSON has it."""
    return {recording.name: _of(recording) for recording in recordings(FOLDER)}


def decoded(recording: Recording) -> list[RecordedEvent]:
    """A stream's events, each verified to follow from the one before."""
    codec = Codec(StoredSchemas(recording, released()))
    found: list[RecordedEvent] = []
    previous = CHAIN_START
    for value in recording.values:
        found.append(codec.decode_event(value, previous=previous))
        previous = found[-1].chain_hash
    return found


def _of(recording: Recording) -> Any:
    if recording.stream:
        return _stream(decoded(recording))
    codec = Codec(StoredSchemas(recording, released()))
    return [_plain(codec.decode_fields(value)[1]) for value in recording.values]


def _stream(events: Sequence[RecordedEvent]) -> dict[str, Any]:
    state: Account | None = None
    document: search_documents.AccountDocument | None = None
    states, trail, accounts = [], [], []
    balance: dict[str, Any] = {}
    balances = []
    currency = ""
    transfers = sorted({r.event.transfer_id for r in events if isinstance(r.event, TransferSent)})
    unsealer = Unsealer(DATA_KEYS.get)
    for offset, recorded in enumerate(events):
        before = 0 if state is None else state.balance_minor
        state = evolve(state, recorded.event)
        states.append(_state(state, transfers))
        if isinstance(recorded.event, AccountCreated):
            currency = recorded.event.currency
        document = search_documents.evolve(document, opened(recorded, unsealer.open), _PARTITION, offset)
        accounts.append(msgspec.to_builtins(document))
        trail.append(
            msgspec.to_builtins(search_documents.event_document(recorded, _PARTITION, offset, before, currency))
        )
        balance = {**balance, **sets(recorded.event), "sequence": recorded.sequence}
        balances.append(balance)
    table = rows([Batch(_PARTITION, None, events, range(len(events)), len(events))])
    return {
        "events": [_event(recorded) for recorded in events],
        "states": states,
        "balances": balances,
        "accounts": accounts,
        "account-events": trail,
        "analytics": [_plain(row) for row in table.to_pylist()],
    }


def _event(recorded: RecordedEvent) -> dict[str, Any]:
    """An event as it is read today, without what is as by default: a new field changes nothing in older events."""
    event = recorded.event
    own = {f.name: getattr(event, f.name) for f in fields(event) if getattr(event, f.name) != f.default}
    return {"type": recorded.type_name, **_plain(own)}


def _state(state: Account, transfers: Collection[str]) -> dict[str, Any]:
    """The whole state, whatever it is kept in; of these transfers, those that are in transit."""
    # Left out where there is nothing, which is so of all that was recorded before there was any.
    erased = {"holder_erased": True} if state.holder_erased else {}
    refundable = {n: state.withdrawals.refundable(n) for n in range(1, state.sequence + 1)}
    in_transit = {transfer_id: state.transfers.in_transit_minor(transfer_id) for transfer_id in transfers}
    return {
        "sequence": state.sequence,
        "currency": state.currency,
        "balance_minor": state.balance_minor,
        "in_transit_minor": state.in_transit_minor,
        "overdraft_limit_minor": state.overdraft_limit_minor,
        "status": state.status.value,
        "holder_name": state.holder_name,
        "holder_email": state.holder_email,
        "refundable": {str(n): amount for n, amount in refundable.items() if amount is not None},
        "in_transit": {transfer_id: amount for transfer_id, amount in in_transit.items() if amount is not None},
        **erased,
    }


def _plain(found: Any) -> Any:
    match found:
        case dict():
            return {name: _plain(value) for name, value in found.items()}
        case list():
            return [_plain(value) for value in found]
        case bytes():
            return found.hex()
        case None | bool() | int() | float():
            return found
        case _:
            return str(found)
