"""The search indices: each account's document, and each event's in the audit trail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final, assert_never

from elasticsearch import Elasticsearch

from daybook.elasticsearch import address, answering, connect
from daybook.fold import Account, Fold
from daybook.holders import Holders
from daybook.log import LoggedEvent
from daybook.positions import SEARCH
from daybook.timetravel.documents import micros_if_time
from daybook.verify.differences import Differs, compare_all, differs, extra, missing
from daybook.verify.sides import Ahead, Side
from schemas.connections import Connections
from schemas.events import (
    AccountClosed,
    AccountCreated,
    AccountFrozen,
    AccountUnfrozen,
    HolderChanged,
    HolderErased,
    MoneyDeposited,
    MoneyRefunded,
    MoneyWithdrawn,
    OverdraftLimitSet,
    TransferCompleted,
    TransferReceived,
    TransferReturned,
    TransferSent,
    said_cause,
)
from schemas.sealing import ERASED, is_sealed

_PAGE: Final = 1000
"""Documents read at once: about a megabyte."""

_HOLDER: Final = ("holder_name", "holder_email", "holder_erased")

_TIMES: Final = frozenset({"recorded_at", "effective_at", "opened_at", "closed_at", "updated_at"})

Hit = Mapping[str, Any]


@contextmanager
def search(connections: Connections, *, timeout_s: float) -> Iterator[Side]:
    """The indices, ready to be compared. Raises: `Unreachable`, `NotConfigured`."""
    indices, where = connections.indices, address(connections)
    with (
        closing(connect(connections, timeout_s)) as client,
        Holders(connections, timeout_s=timeout_s) as holders,
    ):
        # What the model has already must be found, and not up to a second later.
        with answering(where, indices.accounts):
            client.indices.refresh(index=indices.accounts)
        with answering(where, indices.account_events):
            client.indices.refresh(index=indices.account_events)
        accounts = _Index(client, where, indices.accounts)
        events = _Index(client, where, indices.account_events)
        without = None if holders.configured else "sealed holders' names, since DAYBOOK_KEK_FILE names no keys here"
        yield Side(SEARCH, _Trail(events), partial(_compare_accounts, accounts, holders), without)


class _Index:
    """One index, read in order."""

    def __init__(self, client: Elasticsearch, where: str, name: str) -> None:
        self._client = client
        self._where = where
        self._name = name

    def first(self, query: Mapping[str, Any], **order: str) -> Hit | None:
        """The first document that fits, in an order such as `offset="desc"`."""
        return next(iter(self._page(query, order, 1, None)), None)

    def all(self, query: Mapping[str, Any], *order: str) -> Iterator[Hit]:
        """All documents that fit, by the values of fields that tell them apart."""
        after: Sequence[Any] | None = None
        while True:
            hits = self._page(query, dict.fromkeys(order, "asc"), _PAGE, after)
            yield from hits
            if len(hits) < _PAGE:
                return
            after = hits[-1]["sort"]

    def _page(
        self, query: Mapping[str, Any], order: Mapping[str, str], size: int, after: Sequence[Any] | None
    ) -> Sequence[Hit]:
        with answering(self._where, self._name):
            found = self._client.search(
                index=self._name,
                query=query,
                sort=[{name: direction} for name, direction in order.items()],
                size=size,
                search_after=after,
                track_total_hits=False,
            )
        hits: Sequence[Hit] = found["hits"]["hits"]
        return hits


class _Trail:
    """See `daybook.verify.sides.Trail`."""

    def __init__(self, index: _Index) -> None:
        self._index = index
        self._hits: Iterator[Hit] = iter(())
        self._next: Hit | None = None

    def begin(self, partition: int, end: int) -> None:
        query = {"bool": {"filter": [{"term": {"partition": partition}}, {"range": {"offset": {"lt": end}}}]}}
        self._hits = self._index.all(query, "offset", "account_id", "sequence")
        self._next = next(self._hits, None)

    def event(self, logged: LoggedEvent, account: Account) -> None:
        item = f"event {logged.recorded.account_id}/{logged.recorded.sequence}"
        hit = self._next
        # What it was sorted by is what the index took the offset for, whatever stands in the document.
        if hit is None or hit["sort"][0] > logged.offset:
            raise missing(item)
        if hit["sort"][0] < logged.offset or f"event {hit['_id']}" != item:
            raise extra(f"event {hit['_id']}")
        _compare(item, event_document(logged, account), hit)
        self._next = next(self._hits, None)

    def finish(self) -> None:
        if self._next is not None:
            raise extra(f"event {self._next['_id']}")

    def beyond(self, ends: Mapping[int, int]) -> Mapping[int, int]:
        nowhere = {"must_not": {"terms": {"partition": sorted(ends)}}}
        placeless = {"must_not": {"exists": {"field": "offset"}}}
        lost = {"bool": {"should": [{"bool": nowhere}, {"bool": placeless}], "minimum_should_match": 1}}
        hit = self._index.first(lost, account_id="asc", sequence="asc")
        if hit is not None:
            raise extra(f"event {hit['_id']}")
        found: dict[int, int] = {}
        for partition, end in ends.items():
            rest = {"bool": {"filter": [{"term": {"partition": partition}}, {"range": {"offset": {"gte": end}}}]}}
            last = self._index.first(rest, offset="desc")
            if last is not None:
                found[partition] = int(last["sort"][0]) + 1
        return found


def _compare_accounts(index: _Index, holders: Holders, fold: Fold, tell: Callable[[int], None]) -> Iterator[Ahead]:
    """See `daybook.verify.sides.Accounts`."""
    hits = index.all({"match_all": {}}, "account_id")
    hit = next(hits, None)
    # The index sorts by UTF-8, which sorts as characters do.
    for done, account_id in enumerate(sorted(fold.accounts)):
        if done % _PAGE == 0:
            tell(done)
        while hit is not None and hit["sort"][0] < account_id:
            yield _unknown(hit, holders)
            hit = next(hits, None)
        if hit is None or hit["sort"][0] != account_id:
            raise missing(f"account {account_id}")
        account, sequence = fold.accounts[account_id], hit["_source"].get("sequence")
        if isinstance(sequence, int) and sequence > account.sequence:
            yield _unknown(hit, holders)
        else:
            _compare_account(hit, holders, account)
        hit = next(hits, None)
    while hit is not None:
        yield _unknown(hit, holders)
        hit = next(hits, None)


def account_document(account: Account) -> dict[str, object]:
    """The document that an account should have, but for what is sealed. Times are microseconds, as in the log."""
    return {
        # First, since what is behind differs in the others too.
        "sequence": account.sequence,
        "account_id": account.account_id,
        "holder_name": account.holder_name,
        "holder_email": account.holder_email,
        # Left out where he is not.
        "holder_erased": account.holder_erased or None,
        "status": account.status,
        "currency": account.currency,
        "balance_minor": account.balance_minor,
        # Left out where there is nothing.
        "in_transit_minor": account.in_transit_minor or None,
        "overdraft_limit_minor": account.overdraft_limit_minor,
        "opened_at": account.opened_at,
        "closed_at": account.closed_at,
        "updated_at": account.updated_at,
        "partition": account.partition,
        "offset": account.offset,
    }


def event_document(logged: LoggedEvent, account: Account) -> dict[str, object]:
    """The document that an event should have, given its account as it is after it. Times are microseconds."""
    recorded = logged.recorded
    document: dict[str, object] = {
        "account_id": recorded.account_id,
        "sequence": recorded.sequence,
        "event_type": recorded.type_name,
        "event_id": recorded.event_id,
        "recorded_at": recorded.recorded_at,
        "effective_at": recorded.effective_at,
        "user_id": recorded.user_id,
        "command_id": recorded.command_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "reason": recorded.reason,
        "chain_hash": recorded.chain_hash.hex(),
        "partition": logged.partition,
        "offset": logged.offset,
        "currency": account.currency,
        "balance_before_minor": account.balance_before_minor,
        "balance_minor": account.balance_minor,
    }
    event = recorded.event
    match event:
        case MoneyDeposited() | MoneyWithdrawn():
            document["amount_minor"] = event.amount_minor
        case MoneyRefunded():
            document["amount_minor"] = event.amount_minor
            document["withdrawal_sequence"] = event.withdrawal_sequence
        case TransferReceived():
            document["amount_minor"], document["transfer_id"] = event.amount_minor, event.transfer_id
            document["from_account_id"] = event.from_account_id
        case TransferSent() | TransferCompleted() | TransferReturned():
            document["amount_minor"], document["transfer_id"] = event.amount_minor, event.transfer_id
            document["to_account_id"], document["in_transit_minor"] = event.to_account_id, account.in_transit_minor
            if isinstance(event, TransferReturned):
                document["code"], document["message"] = event.code, event.message
        case OverdraftLimitSet():
            document["limit_minor"], document["previous_limit_minor"] = (
                event.new_limit_minor,
                event.previous_limit_minor,
            )
        case AccountCreated():
            document["overdraft_limit_minor"] = event.overdraft_limit_minor
            document["holder_name"], document["holder_email"] = event.holder_name, event.holder_email
        case HolderChanged():
            document["holder_name"], document["holder_email"] = event.holder_name, event.holder_email
        case AccountFrozen():
            document["cause"] = said_cause(event)
        case AccountClosed():
            document["payout_reference"] = event.payout_reference
        case AccountUnfrozen() | HolderErased():
            pass
        case _:
            assert_never(event)
    return document


def _unknown(hit: Hit, holders: Holders) -> Ahead:
    """An account of which the fold does not have this state."""
    account_id, sequence = hit["sort"][0], hit["_source"].get("sequence")
    item = f"account {account_id}"
    compare = partial(_compare_account, hit, holders)
    return Ahead(item, account_id, sequence if isinstance(sequence, int) else None, compare)


def _compare_account(hit: Hit, holders: Holders, account: Account) -> None:
    item = f"account {account.account_id}"
    # The id is how an account's document is found, and what a newer version of it is kept under.
    if hit["_id"] != account.account_id:
        raise differs(item, "_id", account.account_id, hit["_id"])
    try:
        _compare(item, _opened(account, holders, hit), hit)
    except Differs:
        # The holder may have been erased since the key was found.
        holders.refresh(account.account_id)
        _compare(item, _opened(account, holders, hit), hit)


def _opened(account: Account, holders: Holders, hit: Hit) -> dict[str, object]:
    """The document that an account should have. Of a holder whom nobody can know, what it has is as it should be."""
    document = account_document(account)
    if not is_sealed(account.holder_name):
        return document
    name = holders.open(account.holder_name, account.account_id, "holder_name")
    if name is ERASED or not holders.configured:
        # Erased behind this state: the model has the name or not, by when it came to it, and is yet to be told.
        return document | {field: hit["_source"].get(field) for field in _HOLDER}
    email = account.holder_email
    return document | {
        "holder_name": name,
        "holder_email": None if email is None else holders.open(email, account.account_id, "holder_email"),
    }


def _compare(item: str, expected: Mapping[str, object], hit: Hit) -> None:
    found = {name: micros_if_time(value) if name in _TIMES else value for name, value in hit["_source"].items()}
    compare_all(item, expected, found)
