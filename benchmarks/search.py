"""The search projector beside plain bulk loads of the very same documents into the same indices of the same server."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from elasticsearch import Elasticsearch

from projectors.holders import KeyTopic
from projectors.projector import Batch
from projectors.search import SearchProjector
from projectors.source import Source
from schemas.commands import now_micros
from schemas.connections import Connections
from schemas.events import AccountCreated, Event, MoneyDeposited, MoneyWithdrawn, RecordedEvent, event_id
from schemas.keyring import KeyRing

_SEED = 1
_BATCH = 10_000
_IN_FLIGHT = 2
"""As many requests at once as the projector has: the loads differ from it in nothing but what they leave out."""
_TIMEOUT_S = 60
_SOURCE = Source("benchmark", "account.events", "benchmark")


@dataclass(frozen=True)
class SearchRates:
    """Documents a second: by the projector; by the client from documents as dictionaries, as any program would load
    them; and from requests that were made ready before the clock started, which is what the server can take.

    The projector makes `documents_per_event` documents of an event, checkpoints not counted.
    """

    projector: float
    plain: float
    ready: float
    documents_per_event: float

    @property
    def ratio(self) -> float:
        return self.projector / self.plain


class _Recorder(Elasticsearch):
    """Keeps the bulk requests that are not checkpoints, which are conditional."""

    recorded: list[bytes] | None = None

    def bulk(self, **options: Any) -> Any:
        body = options["operations"]
        if self.recorded is not None and b'"version_type"' in body[:500]:
            self.recorded.append(body)
        return super().bulk(**options)


def search_rates(connections: Connections, count: int, accounts: int, rounds: int) -> list[SearchRates]:
    """Apply events to empty indices and load their documents into others, in turns; the templates are deployed."""
    batches = _batches(count, accounts)
    config = {**connections.elasticsearch(), "request_timeout": _TIMEOUT_S, "connections_per_node": _IN_FLIGHT + 1}
    with _Recorder(**config) as client:
        client.recorded = []
        _apply(client, connections, batches)
        bodies, client.recorded = client.recorded, None
        # Parsed once, so that what is loaded plainly are the same documents, as a program has them.
        lines = [[json.loads(line) for line in body.splitlines()] for body in bodies]
        documents = sum(len(chunk) // 2 for chunk in lines)
        runs: list[tuple[str, Callable[[], float]]] = [
            ("projector", lambda: _apply(client, connections, batches)),
            ("plain", lambda: _load(client, connections, lines)),
            ("ready", lambda: _load(client, connections, bodies)),
        ]
        rates = []
        for number in range(rounds):
            # Each begins a round in its turn: the server still tidies up after the one before.
            turn = number % len(runs)
            found = {name: documents / run() for name, run in (*runs[turn:], *runs[:turn])}
            rates.append(SearchRates(**found, documents_per_event=documents / count))
        _empty(client, connections)
    return rates


def _apply(client: Elasticsearch, connections: Connections, batches: Sequence[Batch]) -> float:
    """Seconds that the projector takes."""
    projector = _empty(client, connections)

    def run() -> None:
        for batch in batches:
            projector.apply([batch])

    return _seconds(run)


def _load(client: Elasticsearch, connections: Connections, chunks: Sequence[Any]) -> float:
    """Seconds that the client alone takes for as many requests."""
    _empty(client, connections)

    def send(chunk: Any) -> None:
        answer = client.bulk(operations=chunk, filter_path="items.*.status")
        # Of two requests under way, the one with an account's newer state may come first.
        assert {outcome["status"] for item in answer["items"] for outcome in item.values()} <= {200, 201, 409}

    def run() -> None:
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            for _ in pool.map(send, chunks):
                pass

    return _seconds(run)


def _empty(client: Elasticsearch, connections: Connections) -> SearchProjector:
    """Indices without documents, and their projector."""
    for alias in (connections.indices.accounts, connections.indices.account_events):
        for index in client.indices.get(index=f"{alias}-0*"):
            client.indices.delete(index=index)
    # The events are made here, in plain: no key is asked for.
    projector = SearchProjector(client, connections.indices, _SOURCE, KeyTopic(connections, KeyRing.of(connections)))
    projector.checkpoint(0)
    return projector


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _batches(count: int, accounts: int) -> list[Batch]:
    """Accounts that are opened, then deposits and withdrawals over all of them at random, as a full batch each."""
    dice = random.Random(_SEED)
    now = now_micros()
    balances, sequences = [0] * accounts, [0] * accounts
    events: list[RecordedEvent] = []
    for number in range(count):
        account = number if number < accounts else dice.randrange(accounts)
        sequences[account] += 1
        command_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        event = _event(dice, balances, account, opening=number < accounts)
        events.append(
            RecordedEvent(
                event_id=event_id(command_id, 0, now + number),
                account_id=f"A-{account}",
                sequence=sequences[account],
                recorded_at=now + number,
                effective_at=now + number,
                user_id="user-42",
                command_id=command_id,
                correlation_id=command_id,
                causation_id=command_id,
                reason=None,
                chain_hash=dice.randbytes(32),
                event=event,
            )
        )
    return [
        Batch(0, start or None, part, range(start, start + len(part)), start + len(part))
        for start in range(0, count, _BATCH)
        if (part := events[start : start + _BATCH])
    ]


def _event(dice: random.Random, balances: list[int], account: int, *, opening: bool) -> Event:
    if opening:
        return AccountCreated(currency="EUR", holder_name="Jane Doe")
    amount = dice.randrange(1, 10_000)
    if balances[account] >= amount and dice.random() < 0.4:
        balances[account] -= amount
        return MoneyWithdrawn(amount_minor=amount, currency="EUR", balance_minor=balances[account])
    balances[account] += amount
    return MoneyDeposited(amount_minor=amount, currency="EUR", balance_minor=balances[account])
