"""The `balances` read model: each account's balance in Redis, for whoever asks "how much?".

Keys, which any Redis client may read (they change only with a migration note):

* `balance:<account id>`: a hash of `balance_minor`, `in_transit_minor` (what it has sent to others and is not settled,
  which is no longer in the balance), `currency`, `status` (`active`, `frozen` or `closed`), `sequence` (the account's
  newest event that is in) and `updated_at` (when that was recorded, in microseconds since the epoch). An account that
  was written by a release without transfers has no `in_transit_minor` before its first transfer: it is 0.
* `balances:<CURRENCY>`: a sorted set of the accounts that are not closed, by balance. Its scores are doubles, exact up
  to 2^53 minor units; beyond, the hash has the exact balance.
* `daybook:checkpoint:balances`: a hash of `log`, which names the log that the model was made from, and for each
  partition its number with the offset to read next.
* `daybook:underway:balances`: present while a batch is applied that takes more than one call.
* `daybook:hold:balances`: present for seconds, while a rebuilt copy takes the model's place (`balances_rebuild`).

The keys of a batch are spread over all accounts, so this needs one primary (with any number of replicas), not Redis
Cluster. Functions belong to the server and keys to a database: several ledgers can share a server, each in its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, assert_never

from redis import Redis

from projectors.projector import Batch, CannotProject, CheckpointMoved, Held
from projectors.redis_functions import RedisFunctions
from projectors.source import Source
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
)
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY, balance_key

_FUNCTION: Final = "daybook_apply_balances_3"

UNDER_WAY_KEY: Final = "daybook:underway:balances"
"""A hash that has, by partition, which part of a batch of several was applied last; none between batches."""

ACCOUNTS_PER_CALL: Final = 1000
"""Redis serves nobody else during a call; a thousand accounts take it a few milliseconds."""


@dataclass(slots=True)
class Change:
    """What a batch does to one account: its first and newest sequence, and what its events set, the newest winning."""

    first: int
    newest: int
    updated_at: int
    fields: dict[str, int | str] = field(default_factory=dict)


class BalancesProjector:
    """See `projectors.projector.Projector`. `source` is the log that the model is made from."""

    name: Final = "balances"
    linger_s: Final = 0.0
    moves_without_events: Final = True

    def __init__(self, redis: Redis, source: Source, *, accounts_per_call: int = ACCOUNTS_PER_CALL) -> None:
        self._redis = redis
        self._functions = RedisFunctions(redis)
        self._accounts_per_call = accounts_per_call
        self._log = str(source)

    def checkpoint(self, partition: int) -> int | None:
        log, offset = self._functions.ask(lambda: self._redis.hmget(BALANCES_CHECKPOINT_KEY, ["log", str(partition)]))
        if log is not None and log.decode() != self._log:
            raise foreign(log.decode(), self._log)
        if offset is not None and not offset.isdigit():
            raise CannotProject(
                f"Redis has {offset!r} as the checkpoint of partition {partition} in {BALANCES_CHECKPOINT_KEY}, which "
                "is no offset: somebody else wrote it. Deleting the key has the model replayed from the log's start"
            )
        return None if offset is None else int(offset)

    def apply(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            changes = list(collapse(batch).items())
            # Each part but the first says which one it follows. Otherwise a server that forgot what the calls before
            # did (restarted, or replaced by a replica that lags) would take the last one and its checkpoint.
            ends = range(0, len(changes), self._accounts_per_call)
            parts = [changes[start : start + self._accounts_per_call] for start in ends] or [changes]
            names = [f"{batch.next_offset}/{len(parts)}/{number}" for number in range(1, len(parts))]
            for part, before, this in zip(parts, ["", *names], [*names, ""], strict=True):
                self._apply(batch, part, before, this)

    def _apply(self, batch: Batch, changes: Sequence[tuple[str, Change]], before: str, this: str) -> None:
        base = "" if batch.base is None else str(batch.base)
        next_offset = "" if batch.next_offset is None else str(batch.next_offset)
        keys = [BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY, UNDER_WAY_KEY]
        arguments: list[int | str] = [self._log, str(batch.partition), base, next_offset, before, this]
        for account_id, change in changes:
            keys.append(balance_key(account_id))
            arguments += _arguments(change)
        verdict, *details = self._functions.call(_FUNCTION, keys, arguments)
        match verdict:
            case b"applied":
                return
            case b"moved":
                stands = details[0].decode() or "no checkpoint"
                raise CheckpointMoved(
                    f"Redis has {stands} for partition {batch.partition} of balances, where {base or 'none'} was "
                    "expected: it was wiped or restored, or another projector wrote"
                )
            case b"foreign":
                raise foreign(details[0].decode(), self._log)
            case b"held":
                raise Held("Redis: the balances are held while a rebuilt copy takes their place")
            case b"gap":
                raise _gap(batch, details[0].decode(), int(details[1]))
            case _:
                raise CannotProject(f"Redis function {_FUNCTION} answered {verdict!r}: another version of it is loaded")


def foreign(log: str, ours: str) -> CannotProject:
    """The error for a database that holds the balances of another log."""
    return CannotProject(
        f"this Redis database holds the balances of another log: {log}, where ours is {ours} (cluster id, topic, topic "
        "id). Use another database in DAYBOOK_REDIS_URL or, if these balances are of no use any more, empty this one "
        "with FLUSHDB"
    )


def collapse(batch: Batch) -> Mapping[str, Change]:
    """What a batch does, account by account, in the order in which accounts first occur.

    Raises:
        CannotProject: an account's events jump in sequence.
    """
    changes: dict[str, Change] = {}
    for recorded in batch.events:
        change = changes.get(recorded.account_id)
        if change is None:
            change = Change(recorded.sequence, recorded.sequence, recorded.recorded_at)
            changes[recorded.account_id] = change
        elif recorded.sequence > change.newest + 1:
            raise _gap(batch, f"balance:{recorded.account_id}", change.newest, recorded.sequence)
        elif recorded.sequence <= change.newest:
            continue
        change.newest = recorded.sequence
        change.updated_at = recorded.recorded_at
        change.fields.update(sets(recorded.event))
    return changes


def sets(event: Event) -> Mapping[str, int | str]:
    """The fields of an account's hash that an event sets, besides its sequence and time."""
    match event:
        case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded() | TransferReceived():
            return {"balance_minor": event.balance_minor}
        case TransferSent() | TransferReturned():
            return {"balance_minor": event.balance_minor, "in_transit_minor": event.in_transit_minor}
        case TransferCompleted():
            return {"in_transit_minor": event.in_transit_minor}
        case AccountCreated():
            return {"balance_minor": 0, "in_transit_minor": 0, "currency": event.currency, "status": "active"}
        case AccountFrozen():
            return {"status": "frozen"}
        case AccountUnfrozen():
            return {"status": "active"}
        case AccountClosed():
            return {"status": "closed"}
        case OverdraftLimitSet() | HolderChanged() | HolderErased():
            return {}
        case _:
            assert_never(event)


def _arguments(change: Change) -> Iterator[int | str]:
    yield change.first
    yield change.newest
    yield change.updated_at
    for name in ("balance_minor", "currency", "status", "in_transit_minor"):
        yield change.fields.get(name, "")


def _gap(batch: Batch, key: str, stands_at: int, found: int | None = None) -> CannotProject:
    account_id = key.removeprefix("balance:")
    where = f"partition {batch.partition}, offsets {batch.offsets[0]} to {batch.offsets[-1]}"
    if found is not None:
        return CannotProject(
            f"account {account_id}: event {found} follows event {stands_at} in the log ({where}). Events between them "
            "are missing; the projector stops, since every later balance would hide that"
        )
    first = next(recorded.sequence for recorded in batch.events if recorded.account_id == account_id)
    return CannotProject(
        f"account {account_id}: Redis has it at sequence {stands_at}, and its next event in the log is {first} "
        f"({where}). Either {key} was changed by somebody else, or events are missing from the log. Deleting {key} and "
        f"{BALANCES_CHECKPOINT_KEY} has the model replayed from the log's start, which repairs the first and names the "
        "second"
    )
