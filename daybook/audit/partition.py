"""One partition's part of verifying the log: chains, places, and trees against checkpoints.

`Check.event` is given the records one after the other, and is what the time goes by in: it reads of each only what a
chain needs. Memory is one hash for each account.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from daybook.audit import merkle
from daybook.audit.findings import LISTED, Finding, Kind
from schemas.checkpoints import event_leaf
from schemas.codec import HEADER_BYTES, Codec, Undecodable
from schemas.events import CHAIN_START
from schemas.topics import partition_of

_HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Mark:
    """What a checkpoint says of one partition: the root of its first `size` events, which are those before `offset`."""

    name: str
    size: int
    offset: int
    root: bytes
    frontier: bytes = b""
    """Where it is at hand, a difference is narrowed down by it."""


class Findings:
    """The first finding of each account, and those of the partition itself; `LISTED` of them, the others counted."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.more = 0
        self._accounts: dict[str, int] = {}

    def add(self, finding: Finding) -> None:
        if finding.account_id is not None:
            if finding.account_id in self._accounts:
                return
            self._accounts[finding.account_id] = len(self.listed)
        if len(self.listed) < LISTED:
            self.listed.append(finding)
        else:
            self.more += 1

    def replace(self, finding: Finding) -> None:
        """Put a finding in place of its account's first one, which it explains."""
        at = self._accounts.get(finding.account_id or "", LISTED)
        if at < len(self.listed) and self.listed[at].account_id == finding.account_id:
            self.listed[at] = finding


class Check:
    """The records of one partition. `account_id`: the chain of this account alone is verified, and all are hashed."""

    def __init__(
        self,
        codec: Codec,
        findings: Findings,
        partition: int,
        partitions: int,
        marks: Sequence[Mark],
        account_id: str | None,
    ) -> None:
        self._codec = codec
        self._findings = findings
        self._partition = partition
        self._partitions = partitions
        self._only = None if account_id is None else account_id.encode()
        self._accounts: dict[bytes, tuple[int, bytes]] = {}
        # What is missing of an account, by what stands in its place: it may turn out to come later.
        self._gaps: dict[bytes, tuple[int, int]] = {}
        self._tree = merkle.Tree()
        # Of the same size, one with a frontier first: it says more of where a difference is.
        self._marks = sorted(marks, key=lambda mark: (mark.size, not mark.frontier))
        self._mark = 0
        self._sound_to = 0
        self._first_after: str | None = None
        self._last = "nothing"
        self.events = 0
        # Checkpoints that were taken of nothing yet, which no record reaches.
        self._reached()

    @property
    def accounts(self) -> int:
        return len(self._accounts)

    @property
    def records(self) -> int:
        """How many leaves the tree has."""
        return self._tree.size

    def event(self, key: bytes, value: bytes, offset: int) -> None:
        """The partition's next record. Raises `RegistryUnavailable`."""
        try:
            account_id, sequence, cut, fingerprint = self._codec.chain_cut(value)
        except Undecodable as error:
            self._unreadable(key, offset, error)
            self._hashed(key, b"", value, offset)
            return
        if self._only is None or account_id == self._only:
            self.events += 1
            stored = value[cut - _HASH : cut]
            known = self._accounts.get(account_id)
            if known is None:
                last, previous = 0, CHAIN_START
                self._belongs(account_id, sequence, offset)
            else:
                last, previous = known
            if key != b"%b/%d" % (account_id, sequence):
                self._wrong_key(key, account_id, sequence, offset)
            if sequence != last + 1:
                self._out_of_order(account_id, sequence, last + 1, offset)
            else:
                # The chain hash, as `schemas.codec.chain` has it.
                found = sha256(b"".join((previous, fingerprint, value[HEADER_BYTES : cut - _HASH], value[cut:])))
                if found.digest() != stored:
                    self._unchained(account_id, sequence, offset, found.digest(), stored)
            self._accounts[account_id] = (sequence, stored)
        self._hashed(key, fingerprint, value, offset)

    def _hashed(self, key: bytes, fingerprint: bytes, value: bytes, offset: int) -> None:
        tree = self._tree
        tree.append(merkle.leaf_hash(event_leaf(key, fingerprint, value)))
        if self._mark < len(self._marks):
            if self._first_after is None:
                self._first_after = _named(key, offset)
            if tree.size == self._marks[self._mark].size:
                self._last = _named(key, offset)
                self._reached()

    def _reached(self) -> None:
        root = self._tree.root()
        while self._mark < len(self._marks) and self._marks[self._mark].size == self._tree.size:
            mark = self._marks[self._mark]
            if mark.root != root:
                self._differs(mark, root)
                # All later ones differ for the same reason.
                self._mark = len(self._marks)
                return
            self._mark += 1
        self._sound_to, self._first_after = self._tree.size, None

    def finish(self, end: int) -> None:
        """All records before offset `end` came, which is where the partition ends."""
        for mark in self._marks:
            if mark.size > self._tree.size:
                gone = mark.size - self._tree.size
                self._findings.add(
                    Finding(
                        Kind.CUT,
                        f"partition {self._partition} ends at offset {end} after {self._tree.size} events, and "
                        f"{mark.name} was taken of {mark.size}, before offset {mark.offset}: {gone} are gone",
                        partition=self._partition,
                        offset=end,
                        expected=str(mark.size),
                        found=str(self._tree.size),
                    )
                )
                return

    def _differs(self, mark: Mark, root: bytes) -> None:
        first, after = self._sound_to + 1, mark.size
        where = f"between {self._first_after or 'the beginning'} and {self._last}"
        for part, expected, found in zip(
            merkle.subtrees(mark.size), _hashes(mark.frontier), _hashes(self._tree.frontier), strict=False
        ):
            if expected != found:
                first, after = max(first, part.start + 1), part.stop
                break
        self._findings.add(
            Finding(
                Kind.CHECKPOINT,
                f"partition {self._partition}: its first {mark.size} events are not those that {mark.name} was taken "
                f"of: the first that differs is among its events {first} to {after}, {where}",
                partition=self._partition,
                expected=mark.root.hex(),
                found=root.hex(),
            )
        )

    def _belongs(self, account_id: bytes, sequence: int, offset: int) -> None:
        name = account_id.decode(errors="replace")
        home = partition_of(name, self._partitions)
        if home != self._partition:
            self._findings.add(
                Finding(
                    Kind.KEY,
                    f"event {name}/{sequence} stands in partition {self._partition}, offset {offset}, and the "
                    f"account's partition is {home}",
                    name,
                    sequence,
                    self._partition,
                    offset,
                    str(home),
                    str(self._partition),
                )
            )

    def _wrong_key(self, key: bytes, account_id: bytes, sequence: int, offset: int) -> None:
        name = account_id.decode(errors="replace")
        self._findings.add(
            Finding(
                Kind.KEY,
                f"the record at partition {self._partition}, offset {offset} has the key {key!r}, and is event "
                f"{name}/{sequence}",
                name,
                sequence,
                self._partition,
                offset,
                f"{name}/{sequence}",
                key.decode(errors="replace"),
            )
        )

    def _out_of_order(self, account_id: bytes, sequence: int, expected: int, offset: int) -> None:
        name = account_id.decode(errors="replace")
        gap = self._gaps.get(account_id)
        place = f"partition {self._partition}, offset {offset}"
        if gap is None:
            self._gaps[account_id] = (expected, offset)
            ahead = sequence > expected
            message = (
                f"event {name}/{expected} is missing: at {place}, {name}/{sequence} stands in its place"
                if ahead
                else f"event {name}/{sequence} at {place} comes after {name}/{expected - 1}: twice, or too late"
            )
            self._findings.add(
                Finding(
                    Kind.MISSING if ahead else Kind.ORDER,
                    message,
                    name,
                    expected,
                    self._partition,
                    offset,
                    f"{name}/{expected}",
                    f"{name}/{sequence}",
                )
            )
        elif sequence == gap[0]:
            missing, at = gap
            self._findings.replace(
                Finding(
                    Kind.ORDER,
                    f"event {name}/{missing} stands at {place}, behind a later one of the account at offset {at}: the "
                    "order was changed",
                    name,
                    missing,
                    self._partition,
                    at,
                    f"{name}/{missing} before offset {at}",
                    f"at offset {offset}",
                )
            )

    def _unchained(self, account_id: bytes, sequence: int, offset: int, expected: bytes, found: bytes) -> None:
        name = account_id.decode(errors="replace")
        self._findings.add(
            Finding(
                Kind.CHAIN,
                f"event {name}/{sequence} at partition {self._partition}, offset {offset} is not what was recorded: "
                f"its chain hash would be {expected.hex()}, and {found.hex()} stands there",
                name,
                sequence,
                self._partition,
                offset,
                expected.hex(),
                found.hex(),
            )
        )

    def _unreadable(self, key: bytes, offset: int, error: Undecodable) -> None:
        self._findings.add(
            Finding(
                Kind.UNREADABLE,
                f"the record at partition {self._partition}, offset {offset}, key {key!r}, is no event: {error}",
                partition=self._partition,
                offset=offset,
                found=error.reason,
            )
        )


def _named(key: bytes, offset: int) -> str:
    return f"{key.decode(errors='replace')} at offset {offset}"


def _hashes(frontier: bytes) -> list[bytes]:
    return [frontier[at : at + _HASH] for at in range(0, len(frontier), _HASH)]
