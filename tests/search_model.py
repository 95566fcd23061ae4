"""The `search` read model as any Elasticsearch client finds it, and what a plain fold of the log makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from elasticsearch import Elasticsearch

from schemas.connections import Connections
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    FreezeCause,
    HolderChanged,
    HolderErased,
    OverdraftLimitSet,
    RecordedEvent,
    TransferCompleted,
)
from schemas.readmodels import checkpoint_id
from tests.processes import until

Documents = dict[str, dict[str, Any]]


class SearchModel:
    """Reads both aliases of a ledger. To be closed."""

    def __init__(self, connections: Connections) -> None:
        self.client = Elasticsearch(**connections.elasticsearch(), request_timeout=30)
        self.indices = connections.indices
        self.aliases = (self.indices.accounts, self.indices.account_events)

    def __enter__(self) -> SearchModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def accounts(self) -> Documents:
        return self._all(self.indices.accounts)

    def events(self) -> Documents:
        return self._all(self.indices.account_events)

    def wipe(self, *aliases: str) -> None:
        """Delete every index of these aliases, or of both."""
        found = self.client.indices.get(index=[f"{alias}-0*" for alias in aliases or self.aliases])
        for index in found:
            self.client.indices.delete(index=index)

    def concrete(self, alias: str) -> str:
        """The index behind an alias."""
        (index,) = self.client.indices.get_alias(name=alias).body
        return index

    def checkpoints(self, partitions: int) -> dict[int, dict[str, int]]:
        """What each partition's two checkpoint documents say, by alias."""
        # A shard of an index that was just made is nowhere for a moment.
        patient = self.client.options(ignore_status=[404, 503])
        found = {
            partition: {alias: patient.get(index=alias, id=checkpoint_id(partition)).body for alias in self.aliases}
            for partition in range(partitions)
        }
        return {
            partition: {alias: it["_source"]["checkpoint"]["offset"] for alias, it in both.items() if it.get("found")}
            for partition, both in found.items()
        }

    def is_fold_of(self, log: Iterable[tuple[RecordedEvent, int, int]]) -> bool:
        """Whether both indices have just these events. The log's hashes are made where it is written, so not here."""
        accounts, events = plain_documents(log)
        found = self.events()
        for document in (*events.values(), *found.values()):
            assert len(document.pop("chain_hash")) == 64
        return self.accounts() == accounts and found == events

    def become(self, log: list[tuple[RecordedEvent, int, int]], timeout_s: float = 60) -> None:
        """Wait until the read model is the plain fold of these events."""
        until(lambda: self.is_fold_of(log), "documents that equal the fold of the log", timeout_s)

    def _all(self, alias: str) -> Documents:
        patient = self.client.options(ignore_status=[404, 503])
        patient.indices.refresh(index=alias)
        found = patient.search(index=alias, size=10_000, track_total_hits=True)
        if "hits" not in found:
            return {}
        assert found["hits"]["total"]["value"] <= 10_000
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


def text_of(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19] + f".{rest:06}Z"


def plain_documents(log: Iterable[tuple[RecordedEvent, int, int]]) -> tuple[Documents, Documents]:
    """Both indices as they should be, made of events with their partitions and offsets, one after the other."""
    accounts: Documents = {}
    events: Documents = {}
    for item, partition, offset in log:
        event = item.event
        account = accounts.setdefault(item.account_id, {"account_id": item.account_id})
        before = account.get("balance_minor", 0)
        own = {name: value for name, value in _fields(event).items() if value is not None}
        at = text_of(item.recorded_at)
        place = {"sequence": item.sequence, "partition": partition, "offset": offset}
        account |= {**place, "updated_at": at}
        if isinstance(event, AccountCreated):
            account |= {"status": "active", "opened_at": at, "balance_minor": 0} | own
        elif isinstance(event, HolderChanged):
            account.pop("holder_email", None)
            account |= own
        elif isinstance(event, HolderErased):
            account.pop("holder_email", None)
            account |= {"holder_name": "[erased]", "holder_erased": True}
        elif isinstance(event, OverdraftLimitSet):
            account["overdraft_limit_minor"] = event.new_limit_minor
        elif isinstance(event, AccountFrozen):
            account["status"] = "frozen"
        elif isinstance(event, AccountUnfrozen):
            account["status"] = "active"
        elif isinstance(event, AccountClosed):
            account |= {"status": "closed", "closed_at": at}
        else:
            if not isinstance(event, TransferCompleted):
                account["balance_minor"] = event.balance_minor
            if "in_transit_minor" in own:
                # Left out of an account's document where there is nothing.
                account.pop("in_transit_minor", None)
                account |= {"in_transit_minor": own["in_transit_minor"]} if own["in_transit_minor"] else {}
        events[f"{item.account_id}/{item.sequence}"] = {
            **place,
            "event_type": type(event).__name__,
            "event_id": item.event_id,
            "account_id": item.account_id,
            "recorded_at": at,
            "effective_at": text_of(item.effective_at),
            "user_id": item.user_id,
            "command_id": item.command_id,
            "correlation_id": item.correlation_id,
            "causation_id": item.causation_id,
            "chain_hash": item.chain_hash.hex(),
            **({} if item.reason is None else {"reason": item.reason}),
            "currency": account["currency"],
            **own,
            "balance_before_minor": before,
            "balance_minor": account["balance_minor"],
        }
    return accounts, events


def _fields(event: object) -> dict[str, Any]:
    """An event's fields as documents have them."""
    named = {"new_limit_minor": "limit_minor"}
    found = {named.get(name, name): getattr(event, name) for name in type(event).__struct_fields__}  # type: ignore[attr-defined]
    return {name: value for name, value in found.items() if value is not FreezeCause.UNSPECIFIED}
