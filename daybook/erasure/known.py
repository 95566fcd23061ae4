"""What is known of a holder before he is erased: to be shown to whoever erases him, and looked for afterwards."""

from __future__ import annotations

from typing import Final

from daybook.client import Client
from daybook.holders import SEALED
from daybook.keys import SubjectKeys
from daybook.progress import Tell
from schemas.events import AccountClosed, AccountCreated, HolderChanged, RecordedEvent
from schemas.sealing import ERASED, is_sealed

_NOTHING: Final = (SEALED, ERASED.value)


def known_texts(client: Client, account_id: str, *, timeout_s: float, tell: Tell) -> tuple[list[str], list[bytes]]:
    """The holder's names, the present one first, then all else that is personal in the account's events; and the key
    that it is sealed with, as it is wrapped.

    Without key-encryption keys only what events from before sealing say. Raises: `Unreachable`, `ReadTimeout`,
    `UnreadableRecord`, `NotConfigured`.
    """
    names: list[str] = []
    others: list[str] = []
    with client.holders([account_id], tell=tell) as holders:
        for logged in client.past.stream(account_id, tell=tell):
            recorded = holders.event(logged).recorded
            of_holder, of_event = _texts(recorded)
            names = [*of_holder, *names]
            others += of_event
            if logged.recorded.reason is not None and is_sealed(logged.recorded.reason):
                others.append(recorded.reason or "")
    with SubjectKeys(client.connections, timeout_s=timeout_s, subject_ids=[account_id]) as keys:
        key = keys.key(account_id)
    texts = [text for text in dict.fromkeys((*names, *others)) if text and text not in _NOTHING]
    return texts, [] if key is None else [key.wrapped]


def _texts(recorded: RecordedEvent) -> tuple[list[str], list[str]]:
    """The holder's name in an event, and what else is personal in it."""
    event = recorded.event
    match event:
        case AccountCreated() | HolderChanged():
            return [event.holder_name], [] if event.holder_email is None else [event.holder_email]
        case AccountClosed() if event.payout_reference is not None:
            return [], [event.payout_reference]
        case _:
            return [], []
