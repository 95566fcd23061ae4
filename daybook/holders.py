"""Opening what is sealed in events, audit entries and states, for whoever has the key-encryption keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from daybook.errors import UnreadableRecord
from daybook.progress import Progress, Tell, untold
from schemas.connections import Connections
from schemas.keyring import KeyRing
from schemas.personal import opened
from schemas.sealing import ERASED, SealBroken, Unsealer, is_sealed

if TYPE_CHECKING:
    from daybook.keys import SubjectKeys
    from daybook.log import LoggedEvent
    from daybook.search import AuditEntry
    from daybook.timetravel.states import Difference, PastAccount
    from daybook.transfers import InFlight

SEALED: Final = "[sealed]"
"""What is in the place of a sealed text where no key-encryption key is configured."""

_TELL_KEYS: Final = 5000
"""After how many keys the progress is told: some hundredths of a second."""


class Holders:
    """Opens sealed texts: each becomes what it was, `[erased]` when its holder's key is gone, and `[sealed]` when the
    environment names no key-encryption keys. What is not sealed stays as it is.

    A context manager; one thread uses it. Nothing is connected before the first sealed text comes; then the topic of
    keys is read, the account's partition of it. All methods raise `Unreachable` and `ReadTimeout` when it cannot be,
    `UnreadableRecord` when a key does not fit what is sealed with it, and `NotConfigured` when a key-encryption key is
    missing, or cannot be read.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        timeout_s: float,
        account_ids: Collection[str] | None = None,
        tell: Tell = untold,
    ) -> None:
        """Given `account_ids`, no other keys are kept. Reading them `tell`s where it is."""
        self._connections = connections
        self._timeout_s = timeout_s
        self._account_ids = account_ids
        self._tell = tell
        self._heard = 0
        self._clients = ExitStack()
        self._keys: SubjectKeys | None = None
        self._unsealer: Unsealer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._clients.close()

    @property
    def configured(self) -> bool:
        """Whether the environment names key-encryption keys."""
        return self._connections.kek_file is not None or self._connections.kek is not None

    def open(self, text: str, account_id: str, field: str) -> str:
        """A field of an event of this account."""
        if not is_sealed(text):
            return text
        if not self.configured:
            return SEALED
        try:
            return self._opener().open(text, account_id, field)
        except SealBroken as error:
            raise UnreadableRecord(f"account {account_id}", str(error)) from error

    def refresh(self, account_id: str) -> None:
        """Look for the account's key anew: it may have been erased since it was found."""
        if self._keys is not None and self._unsealer is not None:
            self._keys.refresh(account_id)
            self._unsealer.forget(account_id)

    def event(self, logged: LoggedEvent) -> LoggedEvent:
        found = opened(logged.recorded, self.open)
        return logged if found is logged.recorded else dataclasses.replace(logged, recorded=found)

    def entry(self, entry: AuditEntry) -> AuditEntry:
        def open_(text: str | None, field: str) -> str | None:
            return None if text is None else self.open(text, entry.account_id, field)

        return dataclasses.replace(
            entry,
            holder_name=open_(entry.holder_name, "holder_name"),
            holder_email=open_(entry.holder_email, "holder_email"),
            payout_reference=open_(entry.payout_reference, "payout_reference"),
            reason=open_(entry.reason, "reason"),
        )

    def account(self, account: PastAccount) -> PastAccount:
        """An account's state: of an erased holder it has no e-mail address, as after the erasure itself."""
        name = self.open(account.holder_name, account.account_id, "holder_name")
        email = account.holder_email
        if name is ERASED:
            email = None
        elif email is not None:
            email = self.open(email, account.account_id, "holder_email")
        return dataclasses.replace(account, holder_name=name, holder_email=email)

    def difference(self, found: Difference) -> Difference:
        """The same difference by what was sealed: a text that was sealed anew, and is the same, did not change."""
        from daybook.timetravel.states import changes  # noqa: PLC0415

        before = None if found.before is None else self.account(found.before)
        after = None if found.after is None else self.account(found.after)
        events = [self.event(logged) for logged in found.events]
        return dataclasses.replace(found, before=before, after=after, changes=changes(before, after), events=events)

    def in_flight(self, one: InFlight) -> InFlight:
        if one.reason is None or not is_sealed(one.reason):
            return one
        return dataclasses.replace(one, reason=self.open(one.reason, one.from_account_id, "reason"))

    def _passed(self, done: int, total: int) -> None:
        self._heard += 1
        if total >= _TELL_KEYS and (self._heard % _TELL_KEYS == 0 or done == total):
            self._tell(Progress("reading the keys of holders", done, total))

    def _opener(self) -> Unsealer:
        if self._unsealer is None:
            # Kafka's library, which who meets nothing sealed need not wait for.
            from daybook.keys import SubjectKeys, unsealer  # noqa: PLC0415

            ring = KeyRing.of(self._connections)
            self._keys = self._clients.enter_context(
                SubjectKeys(
                    self._connections, timeout_s=self._timeout_s, subject_ids=self._account_ids, passed=self._passed
                )
            )
            self._unsealer = unsealer(self._keys, ring)
        return self._unsealer
