"""What is personal in commands and events: opened to be decided on, sealed before anything is written."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from command_service.answers import FINGERPRINT_BYTES, fingerprint
from command_service.domain.account import Account
from command_service.keys import SubjectKeys
from command_service.packing import Entry
from schemas.commands import AnyCommand, EraseHolder, FromClient
from schemas.events import Event
from schemas.personal import PERSONAL_FIELDS, is_personal, personal_texts, replaced
from schemas.sealing import ERASED, Sealer, is_sealed

_NOTHING_SAID: Final = {"holder_name": ""}
"""What stands in place of a personal field that may not be None."""

_HALF: Final = FINGERPRINT_BYTES // 2


def concerns_holder(command: AnyCommand, entry: Entry | None) -> bool:
    """Whether the key of the holder is needed, or erased."""
    if is_personal(command) or isinstance(command, EraseHolder):
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


def remembered_as(command: AnyCommand, asked: bytes, keys: SubjectKeys) -> bytes:
    """The fingerprint that the answer to a command is remembered by, and written with. `asked` is the command's own.

    That of a name is found by trying names, and stays on the topic of replies for a day, where no erasure reaches it.
    So what is personal counts in the second half alone, which is keyed with the holder's key, and not at all where
    there is none, as for an account that is not opened. Raises as `SubjectKeys.data_key`.
    """
    if not is_personal(command):
        return asked
    secret, impersonal = keys.data_key(command.account_id), fingerprint(_impersonal(command))
    return impersonal if secret is None else impersonal[:_HALF] + fingerprint(command, secret)[:_HALF]


def asks_again(command: AnyCommand, asked: bytes, remembered: bytes, keys: SubjectKeys) -> bool:
    """Whether a command asks for what an earlier one of its id did, which was `remembered_as` that.

    It may have been by a release that hashed all alike, or before its account had a key. Once the key is gone, only
    what is not personal can still be compared. Raises as `SubjectKeys.data_key`.
    """
    if remembered == asked:
        return True
    if not is_personal(command):
        return False
    now, impersonal = remembered_as(command, asked, keys), fingerprint(_impersonal(command))
    return remembered in (now, impersonal) or (now == impersonal and remembered[:_HALF] == impersonal[:_HALF])


def _impersonal(command: AnyCommand) -> AnyCommand:
    """A command without what is personal in it."""
    if isinstance(command, FromClient) and command.reason_is_personal:
        command = replace(command, reason=None)
    return replaced(command, {name: _NOTHING_SAID.get(name) for name in PERSONAL_FIELDS.get(type(command), ())})


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
    texts = personal_texts(event)
    return replaced(event, {name: sealer.seal(text, account_id, event_id, name) for name, text in texts.items()})
