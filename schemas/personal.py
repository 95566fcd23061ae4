"""Opening what is sealed in an event: which of its fields are personal, and in whose name they are sealed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from schemas.events import AccountClosed, AccountCreated, Event, HolderChanged, RecordedEvent
from schemas.sealing import is_sealed

Opening = Callable[[str, str, str], str]
"""What a sealed text, its subject's id and the field's name come to, as `schemas.sealing.Unsealer.open` says it."""


def sealed_fields(recorded: RecordedEvent) -> Iterator[str]:
    """The names of an event's fields that are sealed: its own, and `reason`."""
    event = recorded.event
    match event:
        case AccountCreated() | HolderChanged():
            if is_sealed(event.holder_name):
                yield "holder_name"
            if event.holder_email is not None and is_sealed(event.holder_email):
                yield "holder_email"
        case AccountClosed():
            if event.payout_reference is not None and is_sealed(event.payout_reference):
                yield "payout_reference"
        case _:
            pass
    if recorded.reason is not None and is_sealed(recorded.reason):
        yield "reason"


def opened_event(event: Event, subject_id: str, opening: Opening) -> Event:
    """An event with its own fields opened. Raises what `opening` does."""
    match event:
        case AccountCreated() | HolderChanged():
            email = event.holder_email
            return replace(
                event,
                holder_name=opening(event.holder_name, subject_id, "holder_name"),
                holder_email=None if email is None else opening(email, subject_id, "holder_email"),
            )
        case AccountClosed() if event.payout_reference is not None:
            return replace(event, payout_reference=opening(event.payout_reference, subject_id, "payout_reference"))
        case _:
            return event


def opened(recorded: RecordedEvent, opening: Opening) -> RecordedEvent:
    """An event as it was before it was sealed; one with nothing sealed as it is. Raises what `opening` does."""
    if next(sealed_fields(recorded), None) is None:
        return recorded
    reason = recorded.reason
    return replace(
        recorded,
        event=opened_event(recorded.event, recorded.account_id, opening),
        reason=None if reason is None else opening(reason, recorded.account_id, "reason"),
    )
