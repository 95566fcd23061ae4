"""The balances in Redis: each account's hash, and its place in the ranking of its currency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from daybook.errors import Unreachable
from daybook.fold import Account, Fold
from daybook.models import address, connect, told
from daybook.positions import BALANCES
from daybook.verify.differences import compare, differs, extra, missing
from daybook.verify.sides import Ahead, Side
from schemas.connections import Connections, NotConfigured
from schemas.readmodels import BALANCE_FIELDS, balance_key, ranking_key

_CHUNK: Final = 500
"""Accounts per round trip, of which each is a hash and a place. Redis serves nobody else for a millisecond."""

_BALANCES: Final = balance_key("")
_RANKINGS: Final = ranking_key("")

Answer = Sequence[Any] | ResponseError


@contextmanager
def balances(connections: Connections, *, timeout_s: float) -> Iterator[Side]:
    """The balances, ready to be compared. Raises: `NotConfigured`."""
    url = connections.redis()
    try:
        where, redis = address(url), connect(url, timeout_s)
    except ValueError:
        raise NotConfigured("DAYBOOK_REDIS_URL is not a Redis address: write redis://HOST:PORT/DB") from None
    with closing(redis):
        yield Side(BALANCES, None, _Balances(redis, where).accounts)


class _Balances:
    def __init__(self, redis: Redis, where: str) -> None:
        self._redis = redis
        self._where = where

    def accounts(self, fold: Fold, tell: Callable[[int], None]) -> Iterator[Ahead]:
        with self._answering():
            yield from self._known(fold, tell)
            yield from self._unknown(fold)
            yield from self._ranked(fold)

    def _known(self, fold: Fold, tell: Callable[[int], None]) -> Iterator[Ahead]:
        """The accounts of the fold: they are there, as they should be."""
        remaining = iter(fold.accounts.values())
        done = 0
        while chunk := list(islice(remaining, _CHUNK)):
            # In one step, so that each hash goes with its place although the projector goes on.
            with self._redis.pipeline(transaction=True) as pipeline:
                for account in chunk:
                    pipeline.hmget(balance_key(account.account_id), BALANCE_FIELDS)
                    pipeline.zscore(ranking_key(account.currency), account.account_id)
                answers: list[Any] = pipeline.execute(raise_on_error=False)
            for account, found, score in zip(chunk, answers[::2], answers[1::2], strict=True):
                ahead = _compare(account, found, score)
                if ahead is not None:
                    yield ahead
            done += len(chunk)
            tell(done)

    def _unknown(self, fold: Fold) -> Iterator[Ahead]:
        """Balances of accounts that the fold does not have: opened since, or nobody's."""
        for key in self._redis.scan_iter(f"{_BALANCES}*", count=_CHUNK):
            account_id = str(key).removeprefix(_BALANCES)
            if account_id not in fold.accounts:
                try:
                    found = self._redis.hmget(key, BALANCE_FIELDS)
                except ResponseError:
                    raise extra(_item(account_id)) from None
                sequence = _sequence(found)
                if sequence is None:
                    # Somebody deleted it meanwhile, or it never was a balance.
                    if any(value is not None for value in found):
                        raise extra(_item(account_id))
                    continue
                yield Ahead(_item(account_id), account_id, sequence, partial(_compare_hash, found=found))

    def _ranked(self, fold: Fold) -> Iterator[Ahead]:
        """Places in rankings of what is no open account of that currency."""
        for key in self._redis.scan_iter(f"{_RANKINGS}*", count=_CHUNK):
            currency = str(key).removeprefix(_RANKINGS)
            try:
                for member, _ in self._redis.zscan_iter(key, count=_CHUNK):
                    account_id = str(member)
                    account = fold.accounts.get(account_id)
                    if account is None:
                        item = _place(account_id, currency)
                        yield Ahead(item, account_id, None, partial(_compare_currency, item, currency))
                    elif account.currency != currency:
                        raise extra(_place(account_id, currency))
            except ResponseError:
                raise differs(f"ranking {currency}", "type", "a sorted set", "something else") from None

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise Unreachable("Redis", self._where, f"balances could not be read: {told(error)}") from error


def _compare(account: Account, found: Answer, score: float | Exception | None) -> Ahead | None:
    """Compare an account that the fold has; what is ahead of it is given back."""
    item = _item(account.account_id)
    if isinstance(found, ResponseError):
        raise differs(item, "type", "a hash", "something else")
    if all(value is None for value in found):
        raise missing(item)
    sequence = _sequence(found)

    def as_of(state: Account) -> None:
        _compare_hash(state, found=found)
        _compare_score(state, score)

    if sequence is not None and sequence > account.sequence:
        return Ahead(item, account.account_id, sequence, as_of)
    as_of(account)
    return None


def _compare_hash(account: Account, *, found: Sequence[Any]) -> None:
    expected = {
        # First, since what is behind differs in the others too.
        "sequence": account.sequence,
        "balance_minor": account.balance_minor,
        "in_transit_minor": account.in_transit_minor,
        "currency": account.currency,
        "status": account.status,
        "updated_at": account.updated_at,
    }
    texts = {name: str(value) for name, value in expected.items()}
    fields = dict(zip(BALANCE_FIELDS, found, strict=True))
    if fields["in_transit_minor"] is None:
        # An earlier release wrote it, before there were transfers.
        fields["in_transit_minor"] = "0"
    compare(_item(account.account_id), texts, fields)


def _compare_score(account: Account, score: float | Exception | None) -> None:
    item = _place(account.account_id, account.currency)
    if isinstance(score, Exception):
        raise differs(f"ranking {account.currency}", "type", "a sorted set", "something else")
    if account.status == "closed":
        if score is not None:
            raise extra(item)
    elif score is None:
        raise missing(item)
    # A score is a double: beyond 2^53 it is the nearest one to the balance.
    elif score != float(account.balance_minor):
        raise differs(item, "score", account.balance_minor, f"{score:.17g}")


def _compare_currency(item: str, currency: str, account: Account) -> None:
    if account.currency != currency:
        raise extra(item)


def _sequence(found: Sequence[Any]) -> int | None:
    sequence = found[BALANCE_FIELDS.index("sequence")]
    return int(sequence) if sequence is not None and str(sequence).isdecimal() else None


def _item(account_id: str) -> str:
    return f"account {account_id}"


def _place(account_id: str, currency: str) -> str:
    return f"account {account_id} in the ranking {currency}"
