"""Importing a CSV file: its accounts are opened first, then its rows are sent, each as one command.

The accounts come first, and are waited for, because of what a ledger can remember. It recognises a command that it
has seen, so that importing a file again changes nothing, but it does so for a limited time. An account that exists
although its opening is not remembered may have been imported longer ago, in which case its rows would be posted a
second time. So the import stops there, before a single row is sent, and lets a human decide.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from daybook.errors import DaybookError
from daybook.link import Answer
from daybook.mapping import Mapping
from daybook.rejects import Rejects
from daybook.rows import Entry, Kind, Row, RowFile, RowReader, UnreadableRow
from daybook.wording import counted
from schemas.commands import AnyCommand, CommandReply, OpenAccount

UNREADABLE: Final = "unreadable_row"
DUPLICATE: Final = "duplicate_row"
_ACCOUNT_EXISTS: Final = "account_exists"

_PROGRESS_EVERY: Final = 256
"""Rows or replies between two reports of progress: often enough to look smooth, rare enough to cost nothing."""
_NAMED_ACCOUNTS: Final = 3


class Ledger(Protocol):
    """What an import needs of `daybook.Client`."""

    def answers(self, commands: Iterable[AnyCommand]) -> Iterator[Answer]: ...


class AccountsExist(DaybookError):
    """Accounts that the file opens exist already, and the ledger does not remember this import opening them."""

    def __init__(self, name: str, accounts: list[str]) -> None:
        self.accounts = accounts
        some = ", ".join(accounts[:_NAMED_ACCOUNTS]) + (", ..." if len(accounts) > _NAMED_ACCOUNTS else "")
        super().__init__(
            f"the ledger has {counted(len(accounts), 'account')} of the file already ({some}), and does not "
            f'remember that an import named "{name}" opened them. If it was imported longer ago than the ledger '
            "remembers command ids, its rows would be posted twice, so none was sent. To post them to the existing "
            "accounts all the same, add --into-existing"
        )


@dataclass(slots=True)
class Tally:
    """What has become of the rows so far. Each row ends up in one of `accepted`, `refused`, `unreadable` and `other`.

    A row that was posted before counts as accepted, and an account that was opened before as opened, since the ledger
    gives its first answers again. How many those are is counted too.
    """

    rows: int = 0
    accepted: int = 0
    accepted_before: int = 0
    """Accepted rows that were posted already, by an earlier run or by an equal row of the same id in this one."""
    refused: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    transfers: int = 0
    """Accepted rows that are transfers. They are sent: whether each arrives is decided a little later."""
    other: int = 0
    """Rows that open accounts or that the mapping ignores."""
    opened: int = 0
    opened_before: int = 0
    started_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return self.accepted + self.refused.total()

    @property
    def per_second(self) -> float:
        """Commands answered per second since the first row was sent."""
        elapsed = self.seconds or time.monotonic() - self.started_at
        return self.answered / elapsed if elapsed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of 1 means the phase has ended."""

    opening: bool
    done: float
    tally: Tally


def _silent(_: Progress) -> None:
    pass


def _unheard(_: CommandReply) -> None:
    pass


class Import:
    """One run over one file. Memory is bounded by the number of accounts, not of rows."""

    def __init__(self, file: Path, mapping: Mapping, rejected: Path | None = None) -> None:
        """Read the header and find the mapping's columns in it.

        `rejected` is where rows go that are not posted, by default the file's name with `.rejected.csv` after it.

        Raises:
            UnreadableFile, InvalidMapping: the file cannot be read, or not with this mapping.
            DaybookError: `rejected` cannot be used.
        """
        self._file = RowFile(file, mapping.file)
        self._reader = RowReader(mapping, file, self._file.header)
        self._mapping = mapping
        self._sent: dict[str, tuple[Row, bool]] = {}
        """What is not answered yet, by command id: the row, and whether it is a transfer."""
        self.tally = Tally()
        rejected = rejected or file.with_name(f"{file.name}.rejected.csv")
        self.rejects = Rejects(rejected, file, self._file.header, mapping.file)

    @property
    def waiting(self) -> int:
        """How many commands were sent and are not answered yet."""
        return len(self._sent)

    def check(self, on_progress: Callable[[Progress], None] = _silent) -> Tally:
        """Read the whole file and send nothing; rows that cannot be read are written down as in a real run."""
        with self.rejects:
            self.tally.opened = sum(1 for _ in self._openings(on_progress))
            self._sent.clear()
            for command in self._movements():
                del self._sent[command.command_id]
        self.tally.seconds = time.monotonic() - self.tally.started_at
        return self.tally

    def run(
        self,
        ledger: Ledger,
        *,
        into_existing: bool = False,
        on_progress: Callable[[Progress], None] = _silent,
        on_reply: Callable[[CommandReply], None] = _unheard,
    ) -> Tally:
        """Open the accounts, post the rows, and return when every command is answered.

        Running it again, after whatever interruption, posts what is missing and nothing twice.

        Raises:
            AccountsExist: see the head of this module; not with `into_existing`.
            UnreadableFile: the file stops being CSV half-way. Accounts may have been opened, but no row is posted.
            ReplyTimeout, Unreachable: from the ledger.
        """
        with self.rejects:
            self._open_accounts(ledger, into_existing, on_progress, on_reply)
            self._post_rows(ledger, on_progress, on_reply)
        return self.tally

    def _open_accounts(
        self,
        ledger: Ledger,
        into_existing: bool,
        on_progress: Callable[[Progress], None],
        on_reply: Callable[[CommandReply], None],
    ) -> None:
        existing: list[str] = []
        for answer in ledger.answers(self._openings(on_progress)):
            reply = answer.reply
            row, _ = self._sent.pop(reply.command_id, (None, False))
            on_reply(reply)
            if reply.accepted:
                self.tally.opened += 1
                self.tally.opened_before += answer.replayed
            elif reply.code == _ACCOUNT_EXISTS:
                existing.append(reply.account_id)
            elif row is not None:
                self.rejects.write(row, reply.code or "", f"the account was not opened: {reply.message}")
        if existing and not into_existing:
            raise AccountsExist(self._mapping.name, existing)

    def _post_rows(
        self, ledger: Ledger, on_progress: Callable[[Progress], None], on_reply: Callable[[CommandReply], None]
    ) -> None:
        tally = self.tally
        tally.started_at = time.monotonic()
        total = max(1, tally.rows)
        for answer in ledger.answers(self._movements()):
            reply = answer.reply
            row, is_transfer = self._sent.pop(reply.command_id, (None, False))
            on_reply(reply)
            if reply.accepted:
                tally.accepted += 1
                tally.accepted_before += answer.replayed
                tally.transfers += is_transfer
            else:
                tally.refused[reply.code or ""] += 1
                if row is not None:
                    self.rejects.write(row, reply.code or "", reply.message or "")
            if tally.answered % _PROGRESS_EVERY == 0:
                on_progress(Progress(False, (tally.answered + tally.unreadable + tally.other) / total, tally))
        tally.seconds = time.monotonic() - tally.started_at
        on_progress(Progress(False, 1.0, tally))

    def _openings(self, on_progress: Callable[[Progress], None]) -> Iterator[AnyCommand]:
        """Counts the rows, and opens the accounts that they name. Unreadable rows are left to the second pass.

        Counterparties come last: only then is it known which of them have rows of their own, that say how to open them.
        """
        own: set[str] = set()
        opened: set[str] = set()
        named: dict[str, Entry] = {}
        opens = {"first_row": (Kind.DEPOSIT, Kind.WITHDRAW), "rows": (Kind.OPEN,), "never": ()}
        opening_kinds = opens[self._mapping.accounts.open]
        for row in self._file.rows():
            self.tally.rows += 1
            if self.tally.rows % _PROGRESS_EVERY == 0:
                on_progress(Progress(True, self._file.fraction_read, self.tally))
            try:
                entry = self._reader.read(row)
            except UnreadableRow:
                continue
            if entry.kind in opening_kinds and entry.account_id not in opened:
                own.add(entry.account_id)
                command = self._opening(entry, self._reader.opening)
                if command is not None:
                    opened.add(entry.account_id)
                    yield command
            if entry.counterparty is not None and self._mapping.accounts.open != "never":
                named.setdefault(entry.counterparty, entry)
        for counterparty, entry in named.items():
            if counterparty not in own:
                command = self._opening(entry, self._reader.counterparty_opening)
                if command is not None:
                    yield command
        on_progress(Progress(True, 1.0, self.tally))

    def _opening(self, entry: Entry, opening: Callable[[Entry], OpenAccount | None]) -> OpenAccount | None:
        """The command that opens an account; None where its row is written down, since it does not say how."""
        try:
            command = opening(entry)
        except UnreadableRow as error:
            self.rejects.write(entry.row, UNREADABLE, f"the account was not opened: {error}")
            return None
        if command is not None:
            self._sent[command.command_id] = entry.row, False
        return command

    def _movements(self) -> Iterator[AnyCommand]:
        for row in self._file.rows():
            entry = self._entry(row)
            if entry is None:
                continue
            self._sent[entry.command_id] = row, entry.counterparty is not None
            yield self._reader.movement(entry)

    def _entry(self, row: Row) -> Entry | None:
        """What a row says, if it is to be sent; else it is counted, and written down if somebody should look at it."""
        try:
            entry = self._reader.read(row)
        except UnreadableRow as error:
            self.tally.unreadable += 1
            self.rejects.write(row, UNREADABLE, str(error))
            return None
        if entry.kind in (Kind.OPEN, Kind.IGNORE):
            self.tally.other += 1
            return None
        earlier = self._sent.get(entry.command_id)
        if earlier is not None:
            # Only a row that is not answered yet is noticed here. The ledger notices the others: it answers an
            # identical row as it did before, and refuses a different one with `command_id_reused`.
            self.tally.unreadable += 1
            self.rejects.write(row, DUPLICATE, f"line {earlier[0].line} has the same row id")
            return None
        return entry
