"""Reading the read models: balances, from Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from daybook.errors import AccountUnknown, ReadTimeout, Unreachable, UnreadableRecord
from daybook.waiting import looks
from schemas.connections import NotConfigured
from schemas.money import Money
from schemas.readmodels import BALANCE_FIELDS, balance_key, ranking_key

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_CHUNK: Final = 500
"""Accounts per round trip: enough to make the trip's cost vanish, few enough to keep a reply small."""

_RECONNECTS: Final = 1
"""A pooled connection may have been closed while it was idle, which the next command notices: try a fresh one."""


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as the balances read model knows it, as of its event number `sequence`."""

    account_id: str
    money: Money
    in_transit: Money
    """What it has sent to other accounts and is not settled yet: no longer in `money`."""
    status: str
    """`active`, `frozen` or `closed`."""
    sequence: int
    updated_at: datetime
    """When that event was recorded, in UTC."""


class Balances:
    """The balances read model at a Redis URL. Connects when first asked; may be used by several threads.

    Every method raises `Unreachable` when Redis does not answer within `timeout_s`.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Raises: `NotConfigured`, when that is no Redis URL."""
        try:
            self._address = address(url)
            self._redis = connect(url, timeout_s)
        except ValueError:
            # The error may hold a part of the password, which a character that is not encoded has torn apart.
            raise NotConfigured(
                "DAYBOOK_REDIS_URL is not a Redis address: write redis://HOST:PORT/DB, or "
                "redis://USER:PASSWORD@HOST:PORT/DB with special characters percent-encoded"
            ) from None
        self._url = url
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._redis.close()

    def get(self, account_id: str) -> Balance:
        """Raises: `AccountUnknown`, `Unreachable`."""
        balance = self._find(account_id)
        if balance is None:
            raise AccountUnknown(account_id)
        return balance

    def wait(self, account_id: str, at_least: int, timeout_s: float) -> Balance:
        """The balance once it includes event number `at_least`; blocks until then, at most `timeout_s`.

        Raises: `ReadTimeout`, `Unreachable`.
        """
        found: Balance | None = None
        with ExitStack() as opened:
            redis = self._redis
            if timeout_s != self._timeout_s:
                # The others' connections give a silent server as long as the client was made to allow.
                redis = opened.enter_context(closing(connect(self._url, timeout_s)))
            # Polled, because Redis announces changed keys only where it is configured to, which it is not by default.
            for left_s in looks(timeout_s):
                found = self._look(redis, account_id, left_s)
                if found is not None and found.sequence >= at_least:
                    return found
        stands = "is unknown" if found is None else f"is at sequence {found.sequence}"
        raise ReadTimeout(
            f"account {account_id} {stands} in the balances at {self._address}, not at {at_least}, after "
            f"{timeout_s:g} s: is the balances projector running and caught up (`daybook run`)?"
        )

    def many(self, account_ids: Iterable[str]) -> Iterator[Balance]:
        """The balances of accounts, in the order asked for, read as they are taken. Unknown accounts are left out."""
        remaining = iter(account_ids)
        while chunk := list(islice(remaining, _CHUNK)):
            with self._answering():
                pipeline = self._redis.pipeline(transaction=False)
                for account_id in chunk:
                    pipeline.hmget(balance_key(account_id), BALANCE_FIELDS)
                rows = pipeline.execute()
            for account_id, row in zip(chunk, rows, strict=True):
                balance = self._balance(account_id, row)
                if balance is not None:
                    yield balance

    def top(self, currency: str, n: int, *, lowest: bool) -> list[Balance]:
        """The `n` accounts of a currency with the highest balance, or the lowest; highest (lowest) first."""
        with self._answering():
            account_ids = self._redis.zrange(ranking_key(currency), 0, n - 1, desc=not lowest)
        # Between the two reads a balance may have moved, and the set's scores are doubles: sort what was read.
        found = self.many(str(account_id) for account_id in account_ids)
        return sorted(found, key=lambda balance: balance.money.amount_minor, reverse=not lowest)

    def _find(self, account_id: str) -> Balance | None:
        with self._answering():
            row = self._redis.hmget(balance_key(account_id), BALANCE_FIELDS)
        return self._balance(account_id, row)

    def _look(self, redis: Redis, account_id: str, timeout_s: float) -> Balance | None:
        """What `_find` does, with a bound of its own for the answer."""
        with self._answering():
            pool = redis.connection_pool
            connection = pool.get_connection()
            try:
                connection.send_command("HMGET", balance_key(account_id), *BALANCE_FIELDS)  # type: ignore[no-untyped-call]
                if not connection.can_read(timeout_s):
                    # The answer may still come, and must not be taken for that to another question.
                    connection.disconnect()  # type: ignore[no-untyped-call]
                    raise RedisTimeoutError(f"no answer within {timeout_s:.2g} s")
                row = connection.read_response()
            finally:
                pool.release(connection)
        return self._balance(account_id, row)

    def _balance(self, account_id: str, row: Iterable[bytes | str | None]) -> Balance | None:
        found = {name: str(value) for name, value in zip(BALANCE_FIELDS, row, strict=True) if value is not None}
        if not found:
            return None
        try:
            return Balance(
                account_id=account_id,
                money=Money(int(found["balance_minor"]), found["currency"]),
                # An account that an earlier release wrote lacks it, until its first transfer.
                in_transit=Money(int(found.get("in_transit_minor", "0")), found["currency"]),
                status=found["status"],
                sequence=int(found["sequence"]),
                updated_at=EPOCH + timedelta(microseconds=int(found["updated_at"])),
            )
        except (KeyError, ValueError, OverflowError) as error:
            raise UnreadableRecord(
                f"{balance_key(account_id)} in Redis at {self._address}",
                f"it is not a balance ({type(error).__name__}: {error}); does another program write to this database? "
                "The balances projector refills one that was emptied",
            ) from error

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise Unreachable("Redis", self._address, f"balances could not be read: {told(error)}") from error


def connect(url: str, timeout_s: float) -> Redis:
    """A client that connects when it is first used; each answer is waited for `timeout_s`. Raises: `ValueError`."""
    return Redis.from_url(
        url,
        decode_responses=True,
        # What is no text is no balance either, and can be said to be none once it is read.
        encoding_errors="backslashreplace",
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), _RECONNECTS, supported_errors=(RedisConnectionError,)),
    )


def told(error: RedisError) -> str:
    """What went wrong, in words; of a refused login also what to look at."""
    hint = "it refuses the credentials of DAYBOOK_REDIS_URL: " if isinstance(error, AuthenticationError) else ""
    return f"{hint}{error}"


def address(url: str) -> str:
    """A Redis URL for people to read: without its password. Raises: `ValueError`."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"
