"""The functions that Daybook keeps in Redis, called so that failures which pass are told from those that don't."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

from redis import Redis, exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from projectors.projector import CannotProject, SinkUnavailable

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


def connect(url: str, database: int | None = None) -> Redis:
    """A client for a projector, of another database than the URL's if one is given; it connects on first use.

    The callers repeat what fails, so the client does not.

    Raises:
        ValueError: that is no Redis URL.
    """
    client: Redis = Redis.from_url(
        url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    if database is not None:
        client.connection_pool.connection_kwargs["db"] = database
    return client


def database_of(client: Redis) -> int:
    """The number of the database that a client talks to."""
    return int(client.connection_pool.connection_kwargs.get("db") or 0)


class RedisFunctions:
    """Calls the functions of `balances.lua`, loading them when the server does not have them.

    All methods may block for seconds, and raise `SinkUnavailable` or `CannotProject`.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._loaded = False

    def call(self, function: str, keys: Sequence[str], arguments: Sequence[int | str]) -> Any:
        """A function's reply."""
        return self.ask(lambda: self._call(function, keys, arguments))

    def ask(self, question: Callable[[], Any]) -> Any:
        """Put any question to Redis, and tell failures that pass from those that don't."""
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

    def _call(self, function: str, keys: Sequence[str], arguments: Sequence[int | str]) -> Any:
        if not self._loaded:
            self._load()
        try:
            return self._redis.fcall(function, len(keys), *keys, *arguments)
        except exceptions.ResponseError as error:
            # Functions are data: a server that was wiped, or replaced by one that never had them, has lost them.
            if "Function not found" not in str(error):
                raise
        self._load()
        return self._redis.fcall(function, len(keys), *keys, *arguments)

    def _load(self) -> None:
        source = resources.files("projectors").joinpath("balances.lua").read_text(encoding="utf-8")
        self._redis.function_load(source, replace=True)
        self._loaded = True
