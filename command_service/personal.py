"""What is personal in commands and events: opened to be decided on, sealed before anything is written."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from command_service.domain.account import Account, is_personal
from command_service.keys import SubjectKeys
from command_service.packing import Entry
from schemas.commands import AnyCommand, EraseHolder, FromClient, OpenAccount
from schemas.events import AccountClosed, AccountCreated, Event, HolderChanged
from schemas.sealing import ERASED, Sealer, is_sealed

_OF_HOLDERS: Final = (OpenAccount, EraseHolder)


def concerns_holder(command: AnyCommand, entry: Entry | None) -> bool:
    """Whether the key of the holder is needed, or erased."""
    if isinstance(command, _OF_HOLDERS) or is_personal(command):
        return True
    if command.reason is None or not is_sealed(command.reason) or entry is None:
        return False
    # A reason that only looks sealed. A holder from before sealing is given a key for it; of one who is erased, which
    # has none any more, it can never be read.
    return not (entry.account.holder_erased or is_sealed(entry.account.holder_name))


def is_to_be_sealed(command: AnyCommand, reason: str, keys: SubjectKeys) -> bool:
    """Whether a command's reason is to be sealed: when it is personal, and when it looks sealed and is not."""
    if not isinstance(command, FromClient):
        return False
    return command.reason_is_personal or (is_sealed(reason) and keys.has(command.account_id))


def known(command: AnyCommand, entry: Entry | None, keys: SubjectKeys) -> Account | None:
    """The account as a command is decided on: with the holder opened where the command names one.

    Where the key of what was sealed is gone, the holder is erased, whoever did it.
    """
    if entry is None:
        return None
    account = entry.account
    if account.holder_erased or not is_personal(command) or not is_sealed(account.holder_name):
        return account
    name = keys.sealer.open(account.holder_name, command.account_id, "holder_name")
    if name is ERASED:
        return replace(account, holder_erased=True)
    email = account.holder_email
    if email is not None:
        email = keys.sealer.open(email, command.account_id, "holder_email")
    return replace(account, holder_name=name, holder_email=email)


def sealed(event: Event, sealer: Sealer, account_id: str, event_id: str) -> Event:
    """An event with what is personal in it sealed. Raises as `Sealer.seal`."""

    def seal(text: str | None, field: str) -> str | None:
        return None if text is None else sealer.seal(text, account_id, event_id, field)

    match event:
        case AccountCreated() | HolderChanged():
            name = sealer.seal(event.holder_name, account_id, event_id, "holder_name")
            return replace(event, holder_name=name, holder_email=seal(event.holder_email, "holder_email"))
        case AccountClosed():
            return replace(event, payout_reference=seal(event.payout_reference, "payout_reference"))
        case _:
            return event
