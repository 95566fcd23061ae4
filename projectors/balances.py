"""The `balances` read model: each account's balance in Redis, for whoever asks "how much?".

Keys, which any Redis client may read (they change only with a migration note):

* `balance:<account id>`: a hash of `balance_minor`, `currency`, `status` (`active`, `frozen` or `closed`), `sequence`
  (the account's newest event that is in) and `updated_at` (when that was recorded, in microseconds since the epoch).
* `balances:<CURRENCY>`: a sorted set of the accounts that are not closed, by balance. Its scores are doubles, exact up
  to 2^53 minor units; beyond, the hash has the exact balance.
* `daybook:checkpoint:balances`: a hash of `log`, which names the log that the model was made from, and for each
  partition its number with the offset to read next.

The keys of a batch are spread over all accounts, so this needs one primary (with any number of replicas), not Redis
Cluster. Functions belong to the server and keys to a database: several ledgers can share a server, each in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final, assert_never

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.source import Source
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    Event,
    HolderChanged,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
)
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, balance_key

_FUNCTION: Final = "daybook_apply_balances_1"

ACCOUNTS_PER_CALL: Final = 1000
"""Redis serves nobody else during a call; a thousand accounts take it a few milliseconds."""

_TIMEOUT_S: Final = 5
"""One call's bound, a thousand times what it takes: what is slower is as good as down, and is tried again."""

_TEMPORARY: Final = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
)
_TEMPORARY_CODES: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ")
_WRONG_CREDENTIALS: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError)


def connect(url: str) -> Redis:
    """A client for the projector; it connects on first use. The runner repeats what fails, so the client does not."""
    return Redis.from_url(
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )


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
        self._accounts_per_call = accounts_per_call
        self._log = str(source)
        self._loaded = False

    def checkpoint(self, partition: int) -> int | None:
        log, offset = self._ask(lambda: self._redis.hmget(BALANCES_CHECKPOINT_KEY, ["log", str(partition)]))
        if log is not None and log.decode() != self._log:
            raise self._foreign(log.decode())
        if offset is not None and not offset.isdigit():
            raise CannotProject(
                f"Redis has {offset!r} as the checkpoint of partition {partition} in {BALANCES_CHECKPOINT_KEY}, which "
                "is no offset: somebody else wrote it. Deleting the key has the model replayed from the log's start"
            )
        return None if offset is None else int(offset)

    def apply(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            # Each call has its own checkpoint. If only the last had one, a server that forgot what the calls before it
            # did (restarted, or replaced by a replica that lags) would store it all the same.
            for part in cut(batch, self._accounts_per_call):
                self._apply(part)

    def _apply(self, batch: Batch) -> None:
        changes = collapse(batch)
        base = "" if batch.base is None else str(batch.base)
        keys = [BALANCES_CHECKPOINT_KEY, *(balance_key(account_id) for account_id in changes)]
        next_offset = "" if batch.next_offset is None else str(batch.next_offset)
        arguments: list[int | str] = [self._log, str(batch.partition), base, next_offset]
        for change in changes.values():
            arguments += _arguments(change)
        verdict, *details = self._ask(lambda: self._call(keys, arguments))
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
                raise self._foreign(details[0].decode())
            case b"gap":
                raise _gap(batch, details[0].decode(), int(details[1]))
            case _:
                raise CannotProject(f"Redis function {_FUNCTION} answered {verdict!r}: another version of it is loaded")

    def _call(self, keys: list[str], arguments: list[int | str]) -> Any:
        if not self._loaded:
            self._load()
        try:
            return self._redis.fcall(_FUNCTION, len(keys), *keys, *arguments)
        except exceptions.ResponseError as error:
            # Functions are data: a server that was wiped, or replaced by one that never had them, has lost them.
            if "Function not found" not in str(error):
                raise
        self._load()
        return self._redis.fcall(_FUNCTION, len(keys), *keys, *arguments)

    def _load(self) -> None:
        source = resources.files("projectors").joinpath("balances.lua").read_text(encoding="utf-8")
        self._redis.function_load(source, replace=True)
        self._loaded = True

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Put a question to Redis, and tell failures that pass from those that don't."""
        try:
            return question()
        except _WRONG_CREDENTIALS as error:
            raise CannotProject(f"Redis refuses the credentials of DAYBOOK_REDIS_URL: {error}") from error
        except _TEMPORARY as error:
            raise SinkUnavailable(f"Redis: {error}") from error
        except exceptions.ResponseError as error:
            if str(error).startswith(_TEMPORARY_CODES):
                raise SinkUnavailable(f"Redis: {error}") from error
            raise CannotProject(f"Redis refuses what the balances projector asks of it: {error}") from error
        except exceptions.RedisError as error:
            raise CannotProject(f"Redis answered what the balances projector cannot use: {error}") from error

    def _foreign(self, log: str) -> CannotProject:
        return CannotProject(
            f"this Redis database holds the balances of another log: {log}, where ours is {self._log} (cluster id, "
            "topic, topic id). Use another database in DAYBOOK_REDIS_URL or, if these balances are of no use any more, "
            "empty this one with FLUSHDB"
        )


def cut(batch: Batch, accounts: int) -> Iterator[Batch]:
    """Consecutive batches of at most so many accounts each, which one after the other are this one."""
    base, start = batch.base, 0
    seen: set[str] = set()
    for i, recorded in enumerate(batch.events):
        if recorded.account_id in seen:
            continue
        if len(seen) == accounts:
            next_offset = batch.offsets[i - 1] + 1
            yield Batch(batch.partition, base, batch.events[start:i], batch.offsets[start:i], next_offset)
            base, start = next_offset, i
            seen.clear()
        seen.add(recorded.account_id)
    yield Batch(batch.partition, base, batch.events[start:], batch.offsets[start:], batch.next_offset)


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
        case MoneyDeposited() | MoneyWithdrawn() | MoneyRefunded():
            return {"balance_minor": event.balance_minor}
        case AccountCreated():
            return {"balance_minor": 0, "currency": event.currency, "status": "active"}
        case AccountFrozen():
            return {"status": "frozen"}
        case AccountUnfrozen():
            return {"status": "active"}
        case AccountClosed():
            return {"status": "closed"}
        case OverdraftLimitSet() | HolderChanged():
            return {}
        case _:
            assert_never(event)


def _arguments(change: Change) -> Iterator[int | str]:
    yield change.first
    yield change.newest
    yield change.updated_at
    for name in ("balance_minor", "currency", "status"):
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
