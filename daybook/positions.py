"""Where each read model stands in the log, by the checkpoints that the models themselves keep.

"Offset" always means the next one to read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from daybook.errors import NotInstalled, Unreachable, UnreadableRecord
from schemas.connections import Connections, NotConfigured
from schemas.readmodels import BALANCES_CHECKPOINT_KEY, CHECKPOINT_FIELD, checkpoint_id

BALANCES: Final = "balances"
SEARCH: Final = "search"
ANALYTICS: Final = "analytics"
MODELS: Final = (BALANCES, SEARCH, ANALYTICS)
"""The models that keep their own place in the log, as their projectors are called."""


@dataclass(frozen=True, slots=True)
class Position:
    """`log` names the log that a model was made from (`schemas.readmodels`); None when it has not begun."""

    log: str | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)
    """By partition; one that the model has not begun is left out."""


def position(connections: Connections, model: str, partitions: Collection[int], *, timeout_s: float) -> Position:
    """Where a model stands. Each request it takes is given `timeout_s`.

    Raises:
        Unreachable: its server does not answer, or has no such model yet.
        UnreadableRecord: its checkpoint is none.
        NotConfigured, NotInstalled: it is not said where it is, or what it takes to read it is not here.
    """
    match model:
        case "balances":
            return _balances(connections, timeout_s)
        case "search":
            return _search(connections, partitions, timeout_s)
        case "analytics":
            return _analytics(connections)
        case _:
            raise ValueError(f'there is no model "{model}": choose from {", ".join(MODELS)}')


def _balances(connections: Connections, timeout_s: float) -> Position:
    from redis.exceptions import RedisError  # noqa: PLC0415

    from daybook.models import address, connect, told  # noqa: PLC0415

    url = connections.redis()
    try:
        where = address(url)
        redis = connect(url, timeout_s)
    except ValueError:
        raise NotConfigured("DAYBOOK_REDIS_URL is not a Redis address: write redis://HOST:PORT/DB") from None
    with closing(redis):
        try:
            # The client was told to decode: its types allow for one that was not.
            found = {str(name): str(value) for name, value in redis.hgetall(BALANCES_CHECKPOINT_KEY).items()}
        except RedisError as error:
            raise Unreachable("Redis", where, told(error)) from error
    log = found.pop("log", None)
    return Position(log, _offsets(found, f"{BALANCES_CHECKPOINT_KEY} in Redis at {where}"))


def _search(connections: Connections, partitions: Collection[int], timeout_s: float) -> Position:
    from daybook.elasticsearch import address, answering, connect, missing_index  # noqa: PLC0415

    indices, where = connections.indices, address(connections)
    wanted = [
        {"_index": name, "_id": checkpoint_id(partition)}
        for partition in partitions
        for name in (indices.accounts, indices.account_events)
    ]
    with closing(connect(connections, timeout_s)) as client, answering(where, indices.accounts):
        docs = client.mget(docs=wanted)["docs"] if wanted else []
    logs: set[str] = set()
    offsets: dict[int, int] = {}
    for partition, pair in zip(partitions, zip(docs[::2], docs[1::2], strict=True), strict=True):
        stored: list[int] = []
        for doc, name in zip(pair, (indices.accounts, indices.account_events), strict=True):
            if "error" in doc:
                raise missing_index(where, name)
            checkpoint = doc.get("_source", {}).get(CHECKPOINT_FIELD)
            if checkpoint is not None:
                logs.add(str(checkpoint.get("log")))
                found = _offsets({str(partition): str(checkpoint.get("offset"))}, f"{doc['_id']} of {doc['_index']}")
                stored.append(found[partition])
        if len(stored) == len(pair):
            # What one of the two indices lacks, the model lacks.
            offsets[partition] = min(stored)
    # Of several logs one at least is not ours.
    return Position(", ".join(sorted(logs)) or None, offsets)


def _analytics(connections: Connections) -> Position:
    try:
        from daybook.analytics.catalog import account_events  # noqa: PLC0415
        from schemas.iceberg import Misplaced, place  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise NotInstalled(error.name or str(error), "analytics") from error
    with account_events(connections) as table:
        try:
            found = place(table.metadata)
        except Misplaced as error:
            raise UnreadableRecord(f"the Iceberg table {'.'.join(table.name())}", str(error)) from error
    return Position() if found is None else Position(found.log, found.offsets)


def _offsets(stored: Mapping[str, str], where: str) -> dict[int, int]:
    for partition, offset in stored.items():
        if not (partition.isdecimal() and offset.isdecimal()):
            why = f"{offset!r} is no offset of partition {partition}; did another program write it?"
            raise UnreadableRecord(where, why)
    return {int(partition): int(offset) for partition, offset in stored.items()}
