"""The `search` read model: who and what in Elasticsearch, for whoever asks by anything but an account's id.

Two aliases, each over one index `<alias>-<six digits>`, whose documents any client may read:

* `accounts`: one document an account, its current view; the id is the account's.
* `account-events`: one document an event, the audit trail; the id is the event's key, `<account id>/<sequence>`.

What events say of a holder is opened for the first, and stays sealed in the second (`projectors.holders`).
`projectors.search_documents` has their fields. A document's external version is the sequence, so a newer one is never
overwritten and writing one again changes nothing. Both indices keep, for each partition, a document of where they stand
(`schemas.readmodels.checkpoint_id`); it is written after all others of a batch, on condition that nobody else did. The
model stands at the smaller of the two, so an index that was deleted, or restored from a snapshot, is filled up from
where it is, while the other one is left alone. docs/adr/0012 says why.

An index is written under its own name and not the alias's: what is still on its way when a rebuilt model takes the
live one's place lands in the old one. The index templates forbid that writing creates an index.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec
from elasticsearch import BadRequestError, Elasticsearch

from projectors.elasticsearch import CHUNK_BYTES, Document, Documents, Found, ask
from projectors.holders import Holders, names_holder
from projectors.projector import Batch, CannotProject, CheckpointMoved, SinkUnavailable
from projectors.search_documents import AccountDocument, EventDocument, Unprojectable, event_document, evolve
from projectors.source import Source
from schemas.events import AccountCreated, RecordedEvent
from schemas.readmodels import CHECKPOINT_FIELD, SEARCH_HOLD_ID, Indices, checkpoint_id

_log = logging.getLogger(__name__)

READERS_FILTER: Final = {"exists": {"field": "account_id"}}
"""What an alias shows of its index: no checkpoints."""

REMEMBERED_ACCOUNTS: Final = 100_000
"""Accounts whose document need not be looked up before their next event: about a kilobyte each."""

_MASTER_TIMEOUT: Final = "10s"
"""How long making an index waits for a master: half of what a request may take."""

_encode = msgspec.json.Encoder().encode


class Pair(NamedTuple):
    """The two indices of a model, by name or by alias."""

    accounts: str
    account_events: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a partition stands in both indices: the checkpoint documents as they were found."""

    accounts: Found
    account_events: Found

    @property
    def offset(self) -> int | None:
        """Where the model stands."""
        accounts, account_events = stored_offset(self.accounts), stored_offset(self.account_events)
        return None if accounts is None or account_events is None else min(accounts, account_events)


@dataclass(slots=True)
class _Account:
    """What is known of an account, while its events become documents.

    `at` is the last of its events that was gone through, with the balance after it. `document` is the newest state that
    is known, which is ahead of `at` when the index of accounts was further than the model's checkpoint.
    """

    at: int
    balance_minor: int
    currency: str
    document: AccountDocument | None
    changed: bool = False


class SearchProjector:
    """See `projectors.projector.Projector`. `source` is the log that the model is made from, and `holders` opens names.

    Without `copy` it keeps the live model, whose indices it creates where they are missing. With it, it builds a copy:
    `copy` is asked at each `checkpoint` for its indices, which must be there.
    """

    name: Final = "search"
    linger_s: Final = 0.0
    moves_without_events: Final = True

    def __init__(
        self,
        client: Elasticsearch,
        indices: Indices,
        source: Source,
        holders: Holders,
        *,
        copy: Callable[[], Pair] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        remembered_accounts: int = REMEMBERED_ACCOUNTS,
    ) -> None:
        self._client = client
        self._documents = Documents(client, chunk_bytes=chunk_bytes)
        self._names = Pair(indices.accounts, indices.account_events)
        self._copy = copy
        self._log = str(source)
        self._holders = holders
        self._most_remembered = remembered_accounts
        self._remembered: dict[str, _Account] = {}
        self._indices: Pair | None = None

    def checkpoint(self, partition: int) -> int | None:
        self._remembered.clear()
        if self._copy is not None:
            self._names = self._copy()
        self._indices = Pair(*(self._index(name) for name in self._names))
        try:
            places, _ = self._places([partition])
        except CheckpointMoved as error:
            raise SinkUnavailable(f"an index went while it was looked at: {error}") from error
        return places[partition].offset

    def apply(self, batches: Sequence[Batch]) -> None:
        places, indices = self._places([batch.partition for batch in batches])
        for batch in batches:
            if places[batch.partition].offset != batch.base:
                raise _moved(batch, places[batch.partition])
        if self._indices is not None and indices != self._indices:
            raise CheckpointMoved(
                f"{' and '.join(self._names)} are now {' and '.join(indices)}: a rebuilt model took the place of "
                f"{' and '.join(self._indices)}"
            )
        moving = [batch for batch in batches if batch.next_offset is not None and batch.next_offset != batch.base]
        if not moving:
            return
        places |= self._begin({batch.partition: places[batch.partition] for batch in moving})
        sealed = {batch.partition for batch in moving if any(map(names_holder, batch.events))}
        if sealed:
            # Each time, so that a key which was erased since opens nothing any more.
            self._holders.catch_up(sealed)
        accounts = self._accounts(moving, indices)
        self._documents.write(self._changes(moving, places, accounts, indices))
        self._documents.write_if_unchanged(
            [
                checkpoint
                for batch in moving
                for checkpoint in self._checkpoints(batch.partition, places[batch.partition], batch.next_offset)
            ]
        )
        self._remember(accounts)

    def _index(self, name: str) -> str:
        """The one index that a name stands for. The live model's is created if it is missing."""
        found: Mapping[str, Any] = ask(
            lambda: self._client.indices.get(index=name, ignore_unavailable=True, allow_no_indices=True)
        ).body
        if not found:
            if self._copy is not None:
                raise CannotProject(f"the copy's index {name} is gone: begin the rebuild again")
            return self._create(name)
        if len(found) > 1:
            raise CannotProject(
                f"{name} stands for several indices ({', '.join(sorted(found))}), where it must be an alias of one: "
                "remove the others from it"
            )
        ((index, definition),) = found.items()
        if index == name and self._copy is None:
            raise CannotProject(
                f"{name} is an index, where it must be an alias: something else wrote to it before there was one. "
                "Delete it, and it is filled again from the log's start"
            )
        log = definition["mappings"].get("_meta", {}).get("log", self._log)
        if log != self._log:
            raise self._foreign(index, log)
        return index

    def _create(self, alias: str) -> str:
        index = next_index(self._client, alias)
        # Looked for after the name was chosen: whoever makes the alias from now on takes the same name, which only one
        # of us gets. Otherwise the alias could end up with two indices.
        if ask(lambda: self._client.indices.exists(index=alias)):
            raise SinkUnavailable(f"{alias} was just created by somebody else")
        _log.info("creating index %s, since there is no %s", index, alias)
        create_index(self._client, index, {"log": self._log}, {alias: {"filter": READERS_FILTER}})
        return index

    def _places(self, partitions: Sequence[int]) -> tuple[dict[int, _Place], Pair]:
        """Where the model stands, and in which indices. Raises `SinkUnavailable` while the model is on hold."""
        ids = [SEARCH_HOLD_ID, *map(checkpoint_id, partitions)]
        found = self._documents.look_up([(name, doc_id) for name in self._names for doc_id in ids])
        hold, *accounts = found[: len(ids)]
        _, *account_events = found[len(ids) :]
        for document in (*accounts, *account_events):
            log = (document.source or {}).get(CHECKPOINT_FIELD, {}).get("log", self._log)
            if log != self._log:
                raise self._foreign(document.index, log)
        left_s = held_for_s(hold)
        if left_s > 0 and self._copy is None:
            raise SinkUnavailable(
                f"a rebuilt copy is about to take the live model's place, which is held for up to {left_s:.0f} s"
            )
        pairs = zip(accounts, account_events, strict=True)
        places = {partition: _Place(*pair) for partition, pair in zip(partitions, pairs, strict=True)}
        return places, Pair(hold.index, found[len(ids)].index)

    def _begin(self, places: Mapping[int, _Place]) -> dict[int, _Place]:
        """Make the checkpoint documents that are missing, so that the last step can be conditional on all of them.

        Without that, an index that is deleted and made anew meanwhile would get a checkpoint without what is before it.
        """
        missing = [
            (partition, found)
            for partition, place in places.items()
            for found in (place.accounts, place.account_events)
            if found.source is None
        ]
        if not missing:
            return dict(places)
        documents = [
            self._checkpoint(partition, found.index, 0, {"create": {"_index": found.index}})
            for partition, found in missing
        ]
        written = self._documents.write_if_unchanged(documents)
        made = {
            (partition, found.index): Found(found.index, {CHECKPOINT_FIELD: {"log": self._log, "offset": 0}}, *version)
            for (partition, found), version in zip(missing, written, strict=True)
        }
        return {
            partition: _Place(
                made.get((partition, place.accounts.index), place.accounts),
                made.get((partition, place.account_events.index), place.account_events),
            )
            for partition, place in places.items()
        }

    def _accounts(self, batches: Sequence[Batch], indices: Pair) -> dict[str, _Account]:
        """What is known of the batches' accounts before these events."""
        accounts: dict[str, _Account] = {}
        unknown: dict[str, int] = {}
        for batch in batches:
            for recorded in batch.events:
                account_id = recorded.account_id
                if account_id in accounts or account_id in unknown:
                    continue
                # Taken out for now: should the batch fail, nothing half-changed is remembered.
                remembered = self._remembered.pop(account_id, None)
                if remembered is not None:
                    accounts[account_id] = remembered
                elif recorded.sequence == 1 and isinstance(recorded.event, AccountCreated):
                    accounts[account_id] = _Account(0, 0, recorded.event.currency, None)
                else:
                    unknown[account_id] = recorded.sequence
        if unknown:
            accounts |= self._look_up(unknown, indices)
        return accounts

    def _look_up(self, unknown: Mapping[str, int], indices: Pair) -> dict[str, _Account]:
        """What the indices know of accounts, given with the sequence of each one's next event."""
        accounts: dict[str, _Account] = {}
        ahead: list[str] = []
        found = self._documents.look_up([(indices.accounts, account_id) for account_id in unknown])
        for account_id, item in zip(unknown, found, strict=True):
            document = _account_document(item, account_id)
            if document is None:
                accounts[account_id] = _Account(0, 0, "", None)
                continue
            accounts[account_id] = _Account(document.sequence, document.balance_minor, document.currency, document)
            if document.sequence >= unknown[account_id]:
                ahead.append(account_id)
        # The trail has every event that the model's checkpoint is behind of, with the balance after it.
        before = self._documents.look_up(
            [(indices.account_events, f"{account_id}/{unknown[account_id] - 1}") for account_id in ahead],
            source=("sequence", "balance_minor", "currency"),
        )
        for account_id, item in zip(ahead, before, strict=True):
            account, source = accounts[account_id], item.source
            if source is None:
                # Its first event, or a trail that somebody took events from: then this is a gap.
                account.at, account.balance_minor = 0, 0
                continue
            try:
                account.at, account.balance_minor, account.currency = (
                    int(source["sequence"]),
                    int(source["balance_minor"]),
                    str(source["currency"]),
                )
            except (KeyError, ValueError) as error:
                raise CannotProject(
                    f"document {account_id}/{unknown[account_id] - 1} of {item.index} is not what the search projector "
                    f"wrote: {error!r}. `daybook rebuild search` makes the model anew"
                ) from error
        return accounts

    def _changes(
        self, batches: Sequence[Batch], places: Mapping[int, _Place], accounts: Mapping[str, _Account], indices: Pair
    ) -> Iterator[Document]:
        """The documents that the batches' events set, each event's in turn and then each account's newest."""
        for batch in batches:
            place = places[batch.partition]
            # What an index had already before the other one was lost need not be written to it again.
            trail_from, accounts_from = stored_offset(place.account_events) or 0, stored_offset(place.accounts) or 0
            changed: dict[str, _Account] = {}
            for recorded, offset in zip(batch.events, batch.offsets, strict=True):
                account = accounts[recorded.account_id]
                if recorded.sequence <= account.at:
                    continue
                if recorded.sequence > account.at + 1:
                    raise self._gap(batch, recorded, offset, account.at)
                try:
                    document = event_document(
                        recorded, batch.partition, offset, account.balance_minor, account.currency
                    )
                    newest = account.document
                    if newest is None or newest.sequence < recorded.sequence:
                        account.document = evolve(newest, self._holders.opened(recorded), batch.partition, offset)
                        if offset >= accounts_from:
                            changed[recorded.account_id] = account
                except Unprojectable as error:
                    raise CannotProject(
                        f"event {recorded.sequence} of account {recorded.account_id} (partition {batch.partition}, "
                        f"offset {offset}) cannot become a document: {error}"
                    ) from error
                account.at, account.balance_minor = recorded.sequence, document.balance_minor
                if offset >= trail_from:
                    yield _versioned(indices.account_events, f"{recorded.account_id}/{recorded.sequence}", document)
            for account_id, account in changed.items():
                assert account.document is not None  # noqa: S101 - `changed` has only accounts with one
                yield _versioned(indices.accounts, account_id, account.document)

    def _checkpoints(self, partition: int, place: _Place, next_offset: int | None) -> Iterator[Document]:
        for found in place.accounts, place.account_events:
            # An index that is further than the other stays so.
            offset = max(stored_offset(found) or 0, next_offset or 0)
            condition = {"_index": found.index, "if_seq_no": found.seq_no, "if_primary_term": found.primary_term}
            yield self._checkpoint(partition, found.index, offset, {"index": condition})

    def _checkpoint(self, partition: int, index: str, offset: int, action: dict[str, dict[str, Any]]) -> Document:
        doc_id = checkpoint_id(partition)
        ((verb, condition),) = action.items()
        line = _encode({verb: {**condition, "_id": doc_id}})
        body = _encode({CHECKPOINT_FIELD: {"log": self._log, "offset": offset}})
        return Document(line, body, index, doc_id, partition, offset)

    def _remember(self, accounts: Mapping[str, _Account]) -> None:
        """Keep what is known of these accounts, and forget those that had no event for longest."""
        self._remembered.update(accounts)
        surplus = len(self._remembered) - self._most_remembered
        if surplus > 0:
            for account_id in [*islice(self._remembered, surplus)]:
                del self._remembered[account_id]

    def _foreign(self, index: str, log: str) -> CannotProject:
        return CannotProject(
            f"Elasticsearch's {index} is made from another log: {log}, where ours is {self._log} (cluster id, topic, "
            "topic id). Use another cluster in DAYBOOK_ELASTICSEARCH_URL or, if these documents are of no use any "
            "more, delete the index"
        )

    def _gap(self, batch: Batch, recorded: RecordedEvent, offset: int, stands_at: int) -> CannotProject:
        accounts, trail = self._indices or self._names
        return CannotProject(
            f"account {recorded.account_id}: the model has it at sequence {stands_at}, and its next event in the log "
            f"is {recorded.sequence} (partition {batch.partition}, offset {offset}). Either its documents were changed "
            f"by somebody else, or events are missing from the log. Deleting {accounts} and {trail} has the model "
            "filled again from the log's start, which repairs the first and names the second"
        )


def stored_offset(checkpoint: Found) -> int | None:
    """The offset to read next that a checkpoint document has; None without a document. Raises `CannotProject`."""
    if checkpoint.source is None:
        return None
    offset = checkpoint.source.get(CHECKPOINT_FIELD, {}).get("offset")
    if not isinstance(offset, int) or offset < 0:
        raise CannotProject(
            f"index {checkpoint.index} has {offset!r} as a checkpoint, which is no offset: somebody else wrote it. "
            "Deleting the index has it filled again from the log's start"
        )
    return offset


def held_for_s(hold: Found) -> float:
    """How many seconds a model stays on hold, as its hold document says; 0 without one."""
    until_ms: int = (hold.source or {}).get(CHECKPOINT_FIELD, {}).get("hold_until_ms", 0)
    return max(0.0, until_ms / 1000 - time.time())


def numbered(client: Elasticsearch, alias: str) -> dict[str, Mapping[str, Any]]:
    """The indices `<alias>-<six digits>` that there are, by name, with their aliases and mappings. Raises as `ask`."""
    found = ask(lambda: client.indices.get(index=f"{alias}-*", expand_wildcards="all")).body
    pattern = re.compile(re.escape(alias) + r"-\d{6}")
    return {name: found[name] for name in sorted(found) if pattern.fullmatch(name)}


def next_index(client: Elasticsearch, alias: str) -> str:
    """The name after the last that is taken. Raises as `ask`."""
    last = max(numbered(client, alias), default=f"{alias}-000000")
    return f"{alias}-{int(last[-6:]) + 1:06}"


def create_index(
    client: Elasticsearch, index: str, meta: Mapping[str, Any], aliases: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Create an index, with its aliases, from the template that `daybook deploy apply` has put.

    Raises:
        SinkUnavailable: it cannot be created now, or somebody else just did.
        CannotProject: there is no such template, or the index may not be created.
    """
    pattern = f"{index[:-7]}-*"
    found = ask(
        lambda: client.indices.get_index_template(
            filter_path="index_templates.index_template.index_patterns", master_timeout=_MASTER_TIMEOUT
        )
    )
    templates: Collection[Mapping[str, Any]] = found.body.get("index_templates", ())
    if not any(pattern in template["index_template"]["index_patterns"] for template in templates):
        raise CannotProject(
            f"Elasticsearch has no index template for {pattern}, so that index {index} would guess its fields: "
            "`daybook deploy apply` puts it"
        )

    def create() -> None:
        try:
            client.indices.create(
                index=index, aliases=aliases, mappings={"_meta": dict(meta)}, master_timeout=_MASTER_TIMEOUT
            )
        except BadRequestError as error:
            if error.message != "resource_already_exists_exception":
                raise
            raise SinkUnavailable(f"index {index} was just created by somebody else") from error

    ask(create)


def _account_document(found: Found, account_id: str) -> AccountDocument | None:
    if found.source is None:
        return None
    try:
        return msgspec.convert(found.source, AccountDocument)
    except msgspec.ValidationError as error:
        raise CannotProject(
            f"document {account_id} of {found.index} is not what the search projector wrote: {error}. "
            "`daybook rebuild search` makes the model anew"
        ) from error


def _versioned(index: str, doc_id: str, document: AccountDocument | EventDocument) -> Document:
    """A document that is written unless it is there in the same or a newer version: its sequence."""
    action = {"index": {"_index": index, "_id": doc_id, "version": document.sequence, "version_type": "external"}}
    return Document(_encode(action), _encode(document), index, doc_id, document.partition, document.offset)


def _moved(batch: Batch, place: _Place) -> CheckpointMoved:
    stands = "no checkpoint" if place.offset is None else str(place.offset)
    expected = "none" if batch.base is None else str(batch.base)
    return CheckpointMoved(
        f"Elasticsearch has {stands} for partition {batch.partition} of search, where {expected} was expected: an "
        "index was deleted or restored, or another projector wrote"
    )
