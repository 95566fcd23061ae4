"""A partition's log in memory, as the command service writes one, for tests of what verifies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from daybook.audit import merkle
from daybook.audit.findings import Finding
from daybook.audit.keys import SigningKey
from daybook.audit.partition import Check, Findings, Mark
from daybook.audit.row import hash_of
from daybook.audit.taking import signed
from schemas.checkpoints import FIRST_PREVIOUS, Checkpoint, PartitionTree, event_leaf
from schemas.events import CHAIN_START
from schemas.topics import event_key
from tests.unit.given import NOW, created, deposited
from tests.unit.known_records import CODEC, COMMON

LOG = "cluster/account.events/topic"


@dataclass(frozen=True)
class Record:
    key: bytes
    value: bytes


@dataclass
class Writer:
    """Writes an account's events one after the other, each chained to the one before."""

    chains: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def event(self, account_id: str, amount_minor: int = 100) -> Record:
        sequence, previous = self.chains.get(account_id, (0, CHAIN_START))
        sequence += 1
        event = created() if sequence == 1 else deposited(amount_minor, amount_minor)
        common = COMMON | {"account_id": account_id, "sequence": sequence}
        value, chain_hash = CODEC.encode_event(event, common, previous)
        self.chains[account_id] = (sequence, chain_hash)
        return Record(event_key(account_id, sequence), value)


def history(amount_minor: int = 100) -> list[Record]:
    """Three accounts' events, one after the other; `amount_minor` is what account b's third event says."""
    writer = Writer()
    return [
        writer.event(account, amount_minor if (account, turn) == ("b", 2) else 100)
        for turn in range(4)
        for account in ("a", "b", "c")
    ]


def leaf_of(record: Record) -> bytes:
    return merkle.leaf_hash(event_leaf(record.key, CODEC.chain_cut(record.value)[3], record.value))


def tree_of(records: Iterable[Record], partition: int = 0) -> PartitionTree:
    tree = merkle.Tree()
    for record in records:
        tree.append(leaf_of(record))
    return PartitionTree(
        partition=partition, offset=tree.size, size=tree.size, root=tree.root(), frontier=tree.frontier
    )


def mark_of(records: list[Record], name: str = "checkpoint 1", *, frontier: bool = False) -> Mark:
    tree = tree_of(records)
    return Mark(name, tree.size, tree.offset, tree.root, tree.frontier if frontier else b"")


def checkpoint_of(
    key: SigningKey, trees: Iterable[PartitionTree], before: Checkpoint | None = None, log: str = LOG
) -> Checkpoint:
    return signed(
        key,
        log=log,
        number=1 if before is None else before.number + 1,
        taken_at=NOW,
        previous=FIRST_PREVIOUS if before is None else hash_of(before),
        trees=tuple(trees),
    )


def findings_of(records: Iterable[Record], *marks: Mark, account_id: str | None = None) -> list[Finding]:
    """What is found wrong with a partition, the only one of its topic, that holds these records."""
    found = Findings()
    check = Check(CODEC, found, 0, 1, marks, account_id)
    end = 0
    for offset, record in enumerate(records):
        check.event(record.key, record.value, offset)
        end = offset + 1
    check.finish(end)
    assert found.more == 0
    return found.listed
