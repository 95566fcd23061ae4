"""A sample of the snapshots beside the log: each must be the state that its account's events lead to.

A snapshot is no history: the command service restores from it instead of reading all events, so that one that was
changed is a balance that was changed. Of those that a restore would take, which are the newest of each account with the
fingerprint of the partition's mark, a share is drawn anew each time.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from hashlib import sha256

from daybook.audit.findings import Finding, Kind
from daybook.audit.partition import Findings
from daybook.audit.records import Records
from daybook.errors import UnreadableRecord
from daybook.fold import Account, evolve
from daybook.log import LoggedEvent
from schemas.codec import Codec, Undecodable
from schemas.snapshots import MARK_KEY, AccountSnapshot


class Snapshots:
    """The sample of one partition. Its methods raise `RegistryUnavailable`, and what reading raises."""

    def __init__(
        self, codec: Codec, findings: Findings, partition: int, share: float, salt: bytes, topic_id: str
    ) -> None:
        """`share` is from 0 to 1; the `salt` decides which accounts are drawn; `topic_id` is that of the events."""
        self._codec = codec
        self._findings = findings
        self._partition = partition
        self._below = int(share * 2**64)
        self._salt = salt
        self._topic_id = topic_id
        self._waiting: dict[bytes, AccountSnapshot] = {}
        self._accounts: dict[bytes, Account] = {}
        self.compared = 0

    def read(self, records: Records, topic: str, end: int) -> None:
        """Draw from a partition of the snapshots topic, up to before an offset."""
        newest: dict[bytes, bytes] = {}
        mark: bytes | None = None
        for message in records.read(topic, self._partition, 0, end):
            key, value = message.key() or b"", message.value()
            if key == MARK_KEY:
                mark = value
            elif self._is_drawn(key):
                if value is None:
                    newest.pop(key, None)
                else:
                    newest[key] = value
        if mark is None:
            # Without it, a restore takes none of them.
            return
        try:
            restore_mark = self._codec.decode_mark(mark)
        except Undecodable as error:
            self._wrong("the restore mark", None, None, f"cannot be read: {error}", None, None)
            return
        if restore_mark.events_topic_id != self._topic_id:
            # They are of a log that was there before this one, and no restore takes them.
            return
        for key, value in newest.items():
            name = key.decode(errors="replace")
            try:
                snapshot = self._codec.decode_snapshot(value)
            except Undecodable as error:
                self._wrong(f"the snapshot of {name}", name, None, f"cannot be read: {error}", None, None)
                continue
            if snapshot.fingerprint == restore_mark.fingerprint:
                self._waiting[key] = snapshot

    def _is_drawn(self, account_id: bytes) -> bool:
        return int.from_bytes(sha256(self._salt + account_id).digest()[:8], "big") < self._below

    def event(self, key: bytes, value: bytes, offset: int) -> None:
        """The partition's next event, if it is one of an account that was drawn."""
        account_id = key.rpartition(b"/")[0]
        snapshot = self._waiting.get(account_id)
        if snapshot is None:
            return
        try:
            logged = LoggedEvent(self._partition, offset, self._codec.decode_event(value))
            account = self._accounts[account_id] = evolve(self._accounts.get(account_id), logged)
        except (Undecodable, UnreadableRecord):
            # What is wrong with the log is told by who checks that.
            del self._waiting[account_id]
            return
        if account.sequence == snapshot.sequence:
            self._compare(snapshot, account, logged.recorded.chain_hash)
            del self._waiting[account_id], self._accounts[account_id]

    def finish(self, records: Records, topic: str, start: int) -> None:
        """All events before offset `start` came. What is in a snapshot is among them, or came to the log meanwhile."""
        if not self._waiting:
            return
        end = records.ends(topic, [self._partition])[self._partition]
        for message in records.read(topic, self._partition, start, end):
            self.event(message.key() or b"", message.value() or b"", message.offset() or 0)
        for key, snapshot in self._waiting.items():
            account = self._accounts.get(key)
            last = 0 if account is None else account.sequence
            name = key.decode(errors="replace")
            self._wrong(
                f"the snapshot of {name} as of event {snapshot.sequence}",
                name,
                snapshot.sequence,
                f"is of an event that the log has not: the account's last is {last}",
                str(last),
                str(snapshot.sequence),
            )

    def _compare(self, snapshot: AccountSnapshot, account: Account, chain_hash: bytes) -> None:
        self.compared += 1
        for name, expected in state(account, chain_hash).items():
            found = getattr(snapshot, name)
            if found != expected:
                self._wrong(
                    f"the snapshot of {account.account_id} as of event {account.sequence}",
                    account.account_id,
                    account.sequence,
                    f"is not what its events lead to: {name} is {_text(found)}, and {_text(expected)} by the log",
                    _text(expected),
                    _text(found),
                )
                return

    def _wrong(
        self,
        what: str,
        account_id: str | None,
        sequence: int | None,
        why: str,
        expected: str | None,
        found: str | None,
    ) -> None:
        self._findings.add(
            Finding(
                Kind.SNAPSHOT,
                f"{what}, in partition {self._partition}, {why}",
                account_id,
                sequence,
                self._partition,
                None,
                expected,
                found,
            )
        )


def state(account: Account, chain_hash: bytes) -> Mapping[str, object]:
    """What a snapshot must say of an account, by the snapshot's names."""
    withdrawals = array("q", account.withdrawals)
    if sys.byteorder == "little":
        # Snapshots have their numbers big-endian, wherever they were made.
        withdrawals.byteswap()
    return {
        "account_id": account.account_id,
        "recorded_at": account.updated_at,
        "chain_hash": chain_hash,
        "currency": account.currency,
        "balance_minor": account.balance_minor,
        "in_transit_minor": account.in_transit_minor,
        "overdraft_limit_minor": account.overdraft_limit_minor,
        "status": account.status,
        "holder_name": account.holder_name,
        "holder_email": account.holder_email,
        "holder_erased": account.holder_erased,
        "withdrawals": withdrawals.tobytes(),
        "withdrawals_forgotten": account.forgotten,
    }


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
