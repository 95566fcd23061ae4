"""Whoever reads the balances: their state at a moment, and somebody who never stops looking."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from redis import Redis

from schemas.events import RecordedEvent
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, balance_key
from tests.processes import until
from tests.recorded import Model, plain_fold


def in_database(url: str, number: int) -> str:
    """The URL of another database of the same server, with the same credentials and options."""
    return urlsplit(url)._replace(path=f"/{number}").geturl()


def database_of(url: str) -> int:
    """The number of the database that a URL names."""
    return int(urlsplit(url).path.removeprefix("/"))


class Balances:
    """The read model as any Redis client finds it."""

    def __init__(self, url: str) -> None:
        self.redis = Redis.from_url(url, decode_responses=True)

    def close(self) -> None:
        self.redis.close()

    def model(self) -> Model:
        keys = list(self.redis.scan_iter("balance:*"))
        return {key.removeprefix("balance:"): self.redis.hgetall(key) for key in keys}

    def checkpoints(self) -> dict[int, int]:
        stored = self.redis.hgetall(BALANCES_CHECKPOINT_KEY)
        return {int(name): int(value) for name, value in stored.items() if name.isdigit()}

    def become(self, events: Sequence[RecordedEvent], timeout_s: float = 30) -> None:
        """Wait until the read model is the plain fold of these events."""
        expected = plain_fold(events)
        until(lambda: self.model() == expected, "balances that equal the fold of the log", timeout_s)


@dataclass
class Seen:
    """What somebody saw who read all the time: how often, and what should not be."""

    reads: int = 0
    errors: list[str] = field(default_factory=list)


@contextmanager
def polling(url: str, account_ids: Sequence[str]) -> Iterator[Seen]:
    """Somebody reads these accounts, which exist, as fast as they can while the block runs."""
    seen, ended = Seen(), threading.Event()

    def read() -> None:
        newest = dict.fromkeys(account_ids, 0)
        try:
            with Redis.from_url(url) as redis:
                while not ended.is_set():
                    for account_id in account_ids:
                        sequence = redis.hget(balance_key(account_id), "sequence")
                        seen.reads += 1
                        if sequence is None:
                            seen.errors.append(f"{account_id} is missing")
                        elif int(sequence) < newest[account_id]:
                            seen.errors.append(f"{account_id} went from {newest[account_id]} back to {int(sequence)}")
                        else:
                            newest[account_id] = int(sequence)
        except Exception as error:
            seen.errors.append(repr(error))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join()
