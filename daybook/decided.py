"""Whether a command was decided already, by the events of the accounts that it is about.

The command service remembers which ids it has decided, and gives the first answer again, but for a limited time. What
is given again after that is decided again. The log remembers for ever what was accepted: every event bears the id of
its command. What was refused is in no event, but for a transfer that the other account refused: its money came back.

An id alone does not tell: those of follow-ups can be foretold, and a client may have used one for a command of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from daybook.errors import DaybookError
from daybook.log import LoggedEvent
from schemas.commands import AnyCommand, CompleteTransfer, ReceiveTransfer, ReturnTransfer
from schemas.events import (
    EVENT_TYPES,
    Event,
    RecordedEvent,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.transfers import complete_id, receive_id, return_id

Stream = Callable[[str], Iterator[LoggedEvent]]
"""All events of an account, in order, from the log."""

_OF_FOLLOW_UPS: Final = (TransferReceived, TransferCompleted, TransferReturned)
_OF_CLIENTS: Final = tuple(event_type for event_type in EVENT_TYPES if event_type not in _OF_FOLLOW_UPS)


class AlreadyDecided(DaybookError):
    """A command is not given again, since it was decided, or since that cannot be told."""


def decided(command: AnyCommand, stream: Stream) -> str | None:
    """Why a command must not be given again, in words; None when nothing in the log is against it.

    A `ReceiveTransfer` must be of what its source has sent, and be neither taken in nor settled: of anything else money
    would be made. A `ReturnTransfer` gives back what was not taken in. Raises what `stream` does.
    """
    match command:
        case ReceiveTransfer():
            return _taken_in(command.command_id, command.account_id, stream) or _not_awaited(command, stream)
        case ReturnTransfer():
            taken_in = _taken_in(command.causation_id, command.to_account_id, stream)
            return taken_in or _settled(command.account_id, command.command_id, TransferReturned, stream)
        case CompleteTransfer():
            return _settled(command.account_id, command.command_id, TransferCompleted, stream)
        case _:
            found = _first(command.account_id, command.command_id, stream, *_OF_CLIENTS)
            return None if found is None else f"command {command.command_id} was decided: {_named(found)} is of it"


def _taken_in(receive: str, account_id: str, stream: Stream) -> str | None:
    found = _first(account_id, receive, stream, TransferReceived)
    return None if found is None else f"the money is in account {account_id} since {_named(found)}"


def _settled(account_id: str, command_id: str, event_type: type[Event], stream: Stream) -> str | None:
    found = _first(account_id, command_id, stream, event_type)
    return None if found is None else f"the transfer is settled since {_named(found)}"


def _not_awaited(command: ReceiveTransfer, stream: Stream) -> str | None:
    """Why the source of a transfer does not wait for the money to be taken in."""
    source = command.from_account_id
    sent: RecordedEvent | None = None
    for logged in stream(source):
        recorded, event = logged.recorded, logged.recorded.event
        match event:
            case TransferSent() if _same(receive_id(event.transfer_id, source, recorded.sequence), command.command_id):
                sent = recorded
                said = (event.transfer_id.lower(), event.to_account_id, event.amount_minor, event.currency)
                asked = (command.transfer_id.lower(), command.account_id, command.amount_minor, command.currency)
                if said != asked:
                    return f"{_named(recorded)} sends something else"
            case TransferReturned() if _same(recorded.command_id, return_id(command.command_id)):
                return f"the money is back in account {source} since {_named(recorded)}"
            case TransferCompleted() if _same(recorded.command_id, complete_id(command.command_id)):
                return f"the transfer is settled since {_named(recorded)}"
            case _:
                pass
    return None if sent is not None else f"account {source} has not sent it: no event of its asks for that"


def _first(account_id: str, command_id: str, stream: Stream, *event_types: type[Event]) -> RecordedEvent | None:
    """An account's first event of a command, of these types."""
    for logged in stream(account_id):
        recorded = logged.recorded
        if isinstance(recorded.event, event_types) and _same(recorded.command_id, command_id):
            return recorded
    return None


def _same(one: str, other: str) -> bool:
    return one.lower() == other.lower()


def _named(recorded: RecordedEvent) -> str:
    return f"event {recorded.sequence} of account {recorded.account_id} ({recorded.type_name})"
