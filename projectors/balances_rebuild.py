"""Building the balances anew in another database of the same Redis server, to be swapped with the live one.

The copy's database is marked by the key `daybook:rebuild:balances`, a hash of

* `state`: `building` (a copy that was begun), `kept` (the model that was live before the last switch) or `discarding`
  (being deleted, which takes more than one step),
* `fingerprint`, `log`, and `live`, the number of the database that it is a copy for.

Only what is marked so is ever deleted, and of that only the keys that Daybook writes. Both models change places by
SWAPDB, in the same atomic step of a function that compares their checkpoints.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

from redis import Redis

from projectors.balances import UNDER_WAY_KEY, BalancesProjector, foreign
from projectors.projector import CannotProject
from projectors.rebuilding import HOLD_S, REOPENED, CannotRebuild, Comparison, Difference, LiveMoved
from projectors.redis_functions import RedisFunctions, database_of
from projectors.source import Source
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY, balance_key, ranking_key

MARK_KEY: Final = "daybook:rebuild:balances"

_BUILDING: Final = "building"
_KEPT: Final = "kept"
_DISCARDING: Final = "discarding"

_BEGIN: Final = "daybook_begin_balances_3"
_READ: Final = "daybook_read_balances_3"
_SWITCH: Final = "daybook_switch_balances_3"

_ACCOUNTS_PER_CALL: Final = 4000
"""Four times as many as the live projector gives at once: the more accounts, the more of their events are collapsed
into one write. Redis answers nobody else for some ten milliseconds, which the readers of the live model can bear."""

_CHUNK: Final = 1000
"""Accounts that are read, or deleted, at once: a few milliseconds of the server's time."""

_ACCOUNT_PREFIX: Final = balance_key("")
_RANKING_PREFIX: Final = ranking_key("")
_OWN_PREFIXES: Final = (_ACCOUNT_PREFIX, _RANKING_PREFIX, "daybook:")

_FIELDS: Final = (
    "sequence",
    "updated_at",
    "balance_minor",
    "currency",
    "status",
    "in_transit_minor",
    "score in the ranking",
)
"""What the reading function replies for an account, in this order."""

_CURRENCY: Final = _FIELDS.index("currency")


@dataclass(frozen=True, slots=True)
class _Account:
    """An account as one of the models has it, all as text; `sequence` is 0 where it is unknown."""

    sequence: int
    values: tuple[str | None, ...]


class BalancesRebuild:
    """See `projectors.rebuilding.Rebuildable`. `live` and `copy` are clients of two databases of one server."""

    name: Final = "balances"
    can_be_held: Final = True

    def __init__(self, live: Redis, copy: Redis, source: Source) -> None:
        """Raises: `CannotRebuild`, when both are one database."""
        self._live = live
        self._copy = copy
        self._live_functions = RedisFunctions(live)
        self._copy_functions = RedisFunctions(copy)
        self._log = str(source)
        self._live_number = database_of(live)
        self._copy_number = database_of(copy)
        if self._live_number == self._copy_number:
            raise CannotRebuild(
                f"DAYBOOK_PROJECTOR_REBUILD_DATABASE={self._copy_number} is the live balances' own database: choose "
                "another one of the same server"
            )
        self._token = uuid.uuid4().hex
        self.copy: Final = BalancesProjector(copy, source, accounts_per_call=_ACCOUNTS_PER_CALL)

    def begun(self) -> str | None:
        mark = self._mark()
        match mark.get("state"):
            case None | "kept":
                return None
            case "building":
                return mark.get("fingerprint", "")
            case _:
                # What is left of a copy that was being deleted is not worth resuming, whatever built it.
                return ""

    def kept(self) -> bool:
        return self._mark().get("state") == _KEPT

    def begin(self, fingerprint: str) -> None:
        for _ in self._own_keys():
            pass
        mark = {"state": _BUILDING, "fingerprint": fingerprint, "log": self._log, "live": str(self._live_number)}
        found = self._copy_functions.call(_BEGIN, [MARK_KEY], [part for item in mark.items() for part in item])
        if found:
            raise CannotRebuild(
                f"Redis database {self._copy_number}, where the copy of balances would be built, holds {found} keys "
                "that are not a rebuild's: name an empty database of the same server in "
                "DAYBOOK_PROJECTOR_REBUILD_DATABASE, or empty this one if nobody needs what it has"
            )

    def discard(self) -> None:
        if self._mark():
            self._copy_functions.ask(lambda: self._copy.hset(MARK_KEY, "state", _DISCARDING))
            # The mark goes last, so that what an interruption leaves is still known to be ours.
            for chunk in _chunks(self._scan(self._copy), _CHUNK):
                own = [key for key in chunk if key.startswith(_OWN_PREFIXES) and key != MARK_KEY]
                if own:
                    self._copy_functions.ask(partial(self._copy.unlink, *own))
            self._copy_functions.ask(lambda: self._copy.delete(MARK_KEY))

    def compare(self, only: Collection[str] | None, tell: Callable[[int], None]) -> Comparison:
        result = Comparison()
        built = self._checkpoints(self._copy)
        # What the live model had reached before it was read, it must have; what it had not, it may have by now.
        live_has_all = _covers(self._checkpoints(self._live), built)
        behind: set[str] = set()
        keys = self._own_keys() if only is None else (balance_key(account_id) for account_id in only)
        accounts = (key for key in keys if key.startswith(_ACCOUNT_PREFIX))
        for chunk in _chunks(accounts, _CHUNK):
            self._compare_accounts(chunk, result, behind)
            tell(result.compared)
        if only is None:
            behind |= self._missing()
        # Vice versa: what the live model has not reached even now, the copy has from nowhere else than the log. In the
        # middle of a batch accounts are ahead of the checkpoint.
        under_way = self._live_functions.ask(lambda: self._live.exists(UNDER_WAY_KEY))
        copy_has_all = not under_way and _covers(built, self._checkpoints(self._live))
        if live_has_all:
            self._settle(behind, result, may_have_gone_on=True)
        if copy_has_all:
            newer, result.moving = result.moving, set()
            self._settle(newer, result, may_have_gone_on=False)
        if only is None:
            self._compare_rankings(result)
        return result

    def hold(self) -> None:
        self._live_functions.ask(lambda: self._live.set(BALANCES_HOLD_KEY, self._token, px=round(HOLD_S * 1000)))

    def release(self) -> None:
        held_by = self._live_functions.ask(lambda: self._live.get(BALANCES_HOLD_KEY))
        if held_by is not None and held_by.decode() == self._token:
            self._live_functions.ask(lambda: self._live.delete(BALANCES_HOLD_KEY))

    def live_checkpoints(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        stored = self._checkpoints(self._live)
        return {partition: stored.get(partition) for partition in partitions}

    def switch(self, keep_old: bool) -> None:
        verdict, *details = self._live_functions.call(
            _SWITCH,
            [BALANCES_CHECKPOINT_KEY, BALANCES_HOLD_KEY, MARK_KEY],
            [self._live_number, self._copy_number, self._log, _KEPT if keep_old else _DISCARDING, self._token],
        )
        match verdict:
            case b"switched":
                pass
            case b"moved" if details[0] == b"hold":
                raise LiveMoved("the live balances are not on hold any more: catching up with them took too long")
            case b"moved":
                partition, stands, built = (detail.decode() for detail in details)
                raise LiveMoved(
                    f"the live balances stand at {stands} of partition {partition}, the copy at {built or 'none'}"
                )
            case b"foreign":
                raise foreign(details[0].decode(), self._log)
            case b"gone":
                raise CannotRebuild(
                    f"Redis database {self._copy_number} holds no unfinished copy of balances any more: somebody "
                    "emptied it. Nothing was switched; rebuild again"
                )
            case _:
                raise CannotProject(f"Redis function {_SWITCH} answered {verdict!r}: another version of it is loaded")
        if not keep_old:
            self.discard()

    def reopen(self) -> None:
        if self.begun() == REOPENED:
            return
        if not self.kept():
            raise CannotRebuild("no old balances were kept: only a rebuild with --keep-old keeps them")
        change = ["state", _BUILDING, "fingerprint", REOPENED]
        self._copy_functions.ask(lambda: self._copy.hset(MARK_KEY, items=change))

    def _mark(self) -> dict[str, str]:
        """The mark of the copy's database; empty when there is none. Raises `CannotRebuild` if it is not ours."""
        try:
            stored = self._copy_functions.ask(lambda: self._copy.hgetall(MARK_KEY))
        except CannotProject as error:
            if "DB index is out of range" not in str(error):
                raise
            raise CannotRebuild(
                f"the Redis server has no database {self._copy_number}, where the copy of balances would be built: "
                "raise `databases` in its configuration, or name one that it has, and that is empty, in "
                "DAYBOOK_PROJECTOR_REBUILD_DATABASE"
            ) from error
        mark = {name.decode(): value.decode() for name, value in stored.items()}
        if mark and (mark.get("log"), mark.get("live")) != (self._log, str(self._live_number)):
            raise CannotRebuild(
                f"Redis database {self._copy_number} holds a rebuild of the balances in database {mark.get('live')} "
                f"from the log {mark.get('log')}, where ours are in database {self._live_number} and from {self._log}. "
                "Name another database in DAYBOOK_PROJECTOR_REBUILD_DATABASE, or empty that one with FLUSHDB if nobody "
                "needs it"
            )
        return mark

    def _checkpoints(self, redis: Redis) -> dict[int, int]:
        stored = self._live_functions.ask(lambda: redis.hgetall(BALANCES_CHECKPOINT_KEY))
        fields = {name.decode(): value.decode() for name, value in stored.items()}
        log = fields.pop("log", self._log)
        if log != self._log:
            raise foreign(log, self._log)
        return {int(partition): int(offset) for partition, offset in fields.items()}

    def _own_keys(self) -> Iterator[str]:
        """The live database's keys. Raises `CannotRebuild` at one that is not Daybook's: it would be swapped away."""
        for key in self._scan(self._live):
            if not key.startswith(_OWN_PREFIXES):
                raise CannotRebuild(
                    f"Redis database {self._live_number} holds {key!r}, which is not of Daybook's balances: a rebuild "
                    "swaps the whole database, and whoever reads that key would miss it. Give the balances a database "
                    "of their own: name it in DAYBOOK_REDIS_URL, and the projector fills it"
                )
            yield key

    def _scan(self, redis: Redis, match: str | None = None) -> Iterator[str]:
        cursor = 0
        while True:
            cursor, keys = self._live_functions.ask(partial(redis.scan, cursor, match=match, count=_CHUNK))
            yield from (key.decode(errors="backslashreplace") for key in keys)
            if cursor == 0:
                return

    def _read(self, functions: RedisFunctions, keys: Sequence[str]) -> list[_Account]:
        return [_account(row) for row in functions.call(_READ, keys, [])]

    def _compare_accounts(self, keys: Sequence[str], result: Comparison, behind: set[str]) -> None:
        pairs = zip(self._read(self._live_functions, keys), self._read(self._copy_functions, keys), strict=True)
        for key, (live, built) in zip(keys, pairs, strict=True):
            account_id = key.removeprefix(_ACCOUNT_PREFIX)
            if live.sequence > built.sequence:
                result.moving.add(account_id)
            elif live.sequence < built.sequence:
                behind.add(account_id)
            else:
                result.compared += 1
                if live != built:
                    result.differs(_difference(account_id, live, built))

    def _missing(self) -> set[str]:
        """Accounts of the copy that the live model lacks."""
        missing: set[str] = set()
        accounts = self._scan(self._copy, f"{_ACCOUNT_PREFIX}*")
        for keys in _chunks(accounts, _CHUNK):
            found = self._read(self._live_functions, keys)
            missing |= {
                key.removeprefix(_ACCOUNT_PREFIX)
                for key, account in zip(keys, found, strict=True)
                if account.sequence == 0
            }
        return missing

    def _settle(self, account_ids: Collection[str], result: Comparison, *, may_have_gone_on: bool) -> None:
        """Compare accounts that were at different sequences although one model has reached all that the other has."""
        for ids in _chunks(sorted(account_ids), _CHUNK):
            keys = [balance_key(account_id) for account_id in ids]
            pairs = zip(self._read(self._live_functions, keys), self._read(self._copy_functions, keys), strict=True)
            for account_id, (live, built) in zip(ids, pairs, strict=True):
                if may_have_gone_on and live.sequence > built.sequence:
                    result.moving.add(account_id)
                    continue
                result.compared += 1
                if live != built:
                    result.differs(_difference(account_id, live, built))

    def _compare_rankings(self, result: Comparison) -> None:
        """Find what the live rankings have that no account of theirs stands for; scores were compared above."""
        for ranking in self._scan(self._live, f"{_RANKING_PREFIX}*"):
            currency = ranking.removeprefix(_RANKING_PREFIX)
            for ids in _chunks(self._members(ranking), _CHUNK):
                accounts = self._read(self._live_functions, [balance_key(account_id) for account_id in ids])
                for account_id, account in zip(ids, accounts, strict=True):
                    if account.values[_CURRENCY] != currency:
                        result.differs(Difference(f"account {account_id}", f"ranked in {ranking}", "not ranked there"))

    def _members(self, ranking: str) -> Iterator[str]:
        cursor = 0
        while True:
            cursor, members = self._live_functions.ask(partial(self._live.zscan, ranking, cursor, count=_CHUNK))
            yield from (member.decode() for member, _ in members)
            if cursor == 0:
                return


def _account(row: Sequence[bytes | None]) -> _Account:
    values = tuple(None if value is None else value.decode() for value in row)
    return _Account(int(values[0] or "0"), values)


def _difference(account_id: str, live: _Account, built: _Account) -> Difference:
    differing = [i for i in range(len(_FIELDS)) if live.values[i] != built.values[i]]

    def told(account: _Account) -> str:
        if account.sequence == 0:
            return "unknown"
        return ", ".join(f"{_FIELDS[i]} {account.values[i] or 'none'}" for i in differing)

    return Difference(f"account {account_id}", told(live), told(built))


def _covers(one: Mapping[int, int], other: Mapping[int, int]) -> bool:
    """Whether a model at these checkpoints has everything that one at the others has."""
    return all(one.get(partition, 0) >= offset for partition, offset in other.items())


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
