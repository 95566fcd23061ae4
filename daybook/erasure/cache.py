"""Looking through Redis for what is left of an erased holder: all keys of the ledger's database, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

import redis

from daybook.erasure.places import Place, State
from daybook.erasure.texts import Texts
from daybook.errors import Unreachable
from daybook.models import address
from daybook.progress import Progress, Tell
from schemas.connections import Connections

_NAME: Final = "Redis"
_BATCH: Final = 500

_READ: Final = {
    b"string": lambda ask, key: ask.get(key),
    b"hash": lambda ask, key: ask.hgetall(key),
    b"list": lambda ask, key: ask.lrange(key, 0, -1),
    b"set": lambda ask, key: ask.smembers(key),
    b"stream": lambda ask, key: ask.xrange(key),
    b"zset": lambda ask, key: ask.zrange(key, 0, -1),
}


def must_answer(connections: Connections, *, timeout_s: float) -> None:
    """Raises: `Unreachable`, `NotConfigured`."""
    with _answering(connections), redis.Redis.from_url(connections.redis(), socket_timeout=timeout_s) as client:
        client.dbsize()


def look(connections: Connections, account_id: str, texts: Texts, tell: Tell, *, timeout_s: float) -> Place:
    """Look through all keys. Raises: `Unreachable`, `NotConfigured`."""
    found: list[str] = []
    barred = 0
    with _answering(connections), redis.Redis.from_url(connections.redis(), socket_timeout=timeout_s) as client:
        total, done = client.dbsize(), 0
        keys = client.scan_iter(count=_BATCH)
        while batch := list(islice(keys, _BATCH)):
            values = _values(client, batch)
            found += _found_in(values, account_id, texts)
            barred += len(batch) - len(values)
            done += len(batch)
            tell(Progress("looking through Redis", min(done, total), total))
    if found:
        return Place(_NAME, State.FOUND, f"keys with a text of the holder's: {', '.join(found[:5])}")
    # Those of a ledger may all be read by whoever erases.
    but = f"but for {barred} keys that may not be read, or are gone by now" if barred else ""
    return Place(_NAME, State.CLEAR, but)


@contextmanager
def _answering(connections: Connections) -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unreachable(_NAME, address(connections.redis()), str(error)) from error


def _values(client: redis.Redis, keys: list[bytes]) -> dict[bytes, bytes]:
    """What keys hold, without those that may not be read, and those that are gone or something else by now."""
    with client.pipeline(transaction=False) as asking:
        for key in keys:
            asking.type(key)
        kinds = asking.execute(raise_on_error=False)
        readable = [
            (key, _READ[kind])
            for key, kind in zip(keys, kinds, strict=True)
            if isinstance(kind, bytes) and kind in _READ
        ]
        for key, read in readable:
            read(asking, key)  # type: ignore[no-untyped-call]
        values = asking.execute(raise_on_error=False)
    found = zip((key for key, _ in readable), values, strict=True)
    return {key: _bytes(value) for key, value in found if not isinstance(value, Exception)}


def _found_in(values: dict[bytes, bytes], account_id: str, texts: Texts) -> Iterator[str]:
    for key, value in values.items():
        for text in texts.found(key + b"\0" + value):
            owner = key.decode(errors="replace").rpartition(":")[2]
            if owner == account_id or not key.startswith(b"balance:"):
                yield key.decode(errors="replace")
            else:
                texts.also_of(owner, [text])


def _bytes(value: Any) -> bytes:
    match value:
        case bytes():
            return value
        case dict():
            return b"\0".join(part for pair in value.items() for part in map(_bytes, pair))
        case list() | set() | tuple():
            return b"\0".join(map(_bytes, value))
        case _:
            return b""
