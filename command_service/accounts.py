"""State in memory: what is committed for a partition, and the overlay of the transaction that is under way."""

from __future__ import annotations

from msgspec import Struct

from command_service.answers import Answer, Answers
from command_service.domain.account import Account


class Entry(Struct, frozen=True, gc=False):
    """An account, and what its next event continues: the chain hash and the time of its last one (microseconds)."""

    account: Account
    chain_hash: bytes
    recorded_at: int


class PartitionState:
    """The committed state of all accounts of one partition. Only an `Overlay` changes it, once its commit returned."""

    def __init__(self, answers: Answers) -> None:
        self.entries: dict[str, Entry] = {}
        self.answers = answers


class Overlay:
    """One transaction's changes over a partition's state: seen by the commands that follow in the same batch, and
    dropped as a whole when the transaction is aborted."""

    def __init__(self, committed: PartitionState) -> None:
        self._committed = committed
        self._entries: dict[str, Entry] = {}
        self._answers: dict[bytes, Answer] = {}

    def entry(self, account_id: str) -> Entry | None:
        return self._entries.get(account_id) or self._committed.entries.get(account_id)

    def put(self, account_id: str, entry: Entry) -> None:
        self._entries[account_id] = entry

    def answer(self, key: bytes) -> Answer | None:
        return self._answers.get(key) or self._committed.answers.get(key)

    def remember(self, key: bytes, answer: Answer) -> None:
        self._answers[key] = answer

    def commit(self, now: int) -> int:
        """Make the changes the committed state. The transaction's commit has returned.

        Returns how many answers were forgotten before their time, to stay within the memory's capacity.
        """
        self._committed.entries.update(self._entries)
        for key, answer in self._answers.items():
            self._committed.answers.remember(key, answer)
        return self._committed.answers.forget_old(now)
