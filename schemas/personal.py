"""What is personal in commands and events: which fields, and opening what is sealed in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from schemas.commands import AnyCommand, ChangeHolder, CloseAccount, FromClient, OpenAccount
from schemas.events import AccountClosed, AccountCreated, Event, HolderChanged, RecordedEvent
from schemas.sealing import is_sealed

R = TypeVar("R", bound=Struct)

Opening = Callable[[str, str, str], str]
"""What a sealed text, its subject's id and the field's name come to, as `schemas.sealing.Unsealer.open` says it."""

_HOLDER: Final = ("holder_name", "holder_email")

PERSONAL_FIELDS: Final[Mapping[type[Struct], tuple[str, ...]]] = {
    OpenAccount: _HOLDER,
    ChangeHolder: _HOLDER,
    CloseAccount: ("payout_reference",),
    AccountCreated: _HOLDER,
    HolderChanged: _HOLDER,
    AccountClosed: ("payout_reference",),
}
"""The fields of commands and events that are about the holder. A `reason` is where its command says so."""


def personal_texts(record: AnyCommand | Event) -> dict[str, str]:
    """A record's own personal fields, without those that are None."""
    names = PERSONAL_FIELDS.get(type(record), ())
    return {name: text for name in names if (text := getattr(record, name)) is not None}


def replaced(record: R, texts: Mapping[str, str | None]) -> R:
    """A record with other texts in some of its fields."""
    return replace(record, **texts) if texts else record


def is_personal(command: AnyCommand) -> bool:
    """Whether a command says something that is to be sealed."""
    if isinstance(command, FromClient) and command.reason_is_personal and command.reason is not None:
        return True
    return type(command) in PERSONAL_FIELDS and bool(personal_texts(command))


def sealed_fields(recorded: RecordedEvent) -> Iterator[str]:
    """The names of an event's fields that are sealed: its own, and `reason`."""
    yield from (name for name, text in personal_texts(recorded.event).items() if is_sealed(text))
    if recorded.reason is not None and is_sealed(recorded.reason):
        yield "reason"


def opened_event(event: Event, subject_id: str, opening: Opening) -> Event:
    """An event with its own fields opened. Raises what `opening` does."""
    return replaced(event, {name: opening(text, subject_id, name) for name, text in personal_texts(event).items()})


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
