"""What Elasticsearch has of an erased holder: in the current view, in indices that a rebuild left, and on the disk.

Elasticsearch keeps what was overwritten: in the translog until a flush, in a segment until that is merged. And a merge
keeps what a retention lease asks for, which a copy of the shard might have yet to read: leases go on every 30 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from elasticsearch import ApiError, BadRequestError, NotFoundError
from elasticsearch.helpers import scan

from daybook.elasticsearch import address, answering, connect
from daybook.erasure.places import Place, State
from daybook.erasure.texts import Texts
from daybook.errors import Unreachable
from daybook.progress import Progress, Tell
from schemas.connections import Connections
from schemas.readmodels import REBUILD_BUILDING, REBUILD_META
from schemas.sealing import ERASED

_MERGE_TIMEOUT_S: Final = 300.0
"""A merge rewrites the segments that have something deleted: some gigabytes at a disk's speed at worst."""

_LEASE: Final = timedelta(seconds=60)
"""Twice the time in which leases go on."""

_FORBIDDEN: Final = 403
_CONFLICT: Final = 409
_PAGE: Final = 1000
_FEW: Final = 5
_TELL_EVERY: Final = 5000
_ALLOWED: Final = "index.merge.policy.expunge_deletes_allowed"


class Indices:
    """The indices of a ledger; one thread uses it. The methods raise `Unreachable`."""

    def __init__(self, connections: Connections, account_id: str, texts: Texts, *, timeout_s: float) -> None:
        """Raises: `NotConfigured`."""
        self._account_id = account_id
        self._texts = texts
        self._names = connections.indices
        self._address = address(connections)
        self._client = connect(connections, timeout_s)
        self._since: dict[str, int] = {}
        """By index, the number of the operation by which the document was first seen without the holder. What is to be
        off the disk is older, however often the account moves since."""
        self._purged: dict[str, int | None] = {}
        """By index that was merged after the leases had gone on, the number that they had gone past; None where there
        was no document. One that a projector was about to write may come yet."""
        self._scanned: set[str] = set()
        """Indices in which no document has a text of the holder's."""

    def close(self) -> None:
        self._client.close()

    def must_answer(self) -> None:
        """Ask for the indices, and for nothing in them."""
        list(self._concrete(self._names.accounts))

    def view(self, sequence: int, tell: Tell) -> Iterator[Place]:
        """The current view, and what is kept beside it, an index at a time.

        The live index is waited for, since the search projector writes there, and so is one that a rebuild is making:
        it goes on from the name that it has in memory until it comes to the erasure. In others nobody writes, so their
        document is overwritten here, under the version that it has. What came after the erasure is left as it is.
        """
        for index, waits_for in self._concrete(self._names.accounts):
            yield self._unless_closed(index, partial(self._current, index, waits_for, sequence, tell))

    def trail(self, tell: Tell) -> Iterator[Place]:
        """The audit trail, which has sealed texts: a page at a time, all of it."""
        for index, _ in self._concrete(self._names.account_events):
            yield self._unless_closed(index, partial(self._entries, index, tell))

    def _entries(self, index: str, tell: Tell) -> Place:
        found = self._found_in(index, tell)
        return Place(f"index {index}", State.FOUND if found else State.CLEAR, _documents(found))

    def _unless_closed(self, index: str, look: Callable[[], Place]) -> Place:
        try:
            return look()
        except Unreachable as error:
            if isinstance(error.__cause__, BadRequestError) and error.__cause__.message == "index_closed_exception":
                return Place(
                    f"index {index}", State.FOUND, "it is closed, and cannot be looked through: open it, or delete it"
                )
            raise

    def _concrete(self, alias: str) -> Iterator[tuple[str, str | None]]:
        """The indices behind an alias, past, present and to be, and what to say of one that somebody writes to. None
        is no failure: a ledger may go without."""
        with answering(self._address, alias):
            every = self._client.indices.get(
                index=f"{alias}-*", expand_wildcards="all", features=["aliases", "mappings"]
            ).body
        for index in sorted(every):
            if not index.removeprefix(f"{alias}-").isdigit():
                continue
            rebuild = every[index]["mappings"].get("_meta", {}).get(REBUILD_META, {})
            if alias in every[index]["aliases"]:
                yield index, "the search projector has yet to read the erasure: is it running?"
            elif rebuild.get("state") == REBUILD_BUILDING:
                yield index, "a rebuild has yet to read the erasure: finish it, or `daybook rebuild discard search`"
            else:
                yield index, None

    def _current(self, index: str, waits_for: str | None, sequence: int, tell: Tell) -> Place:
        name = f"index {index}"
        with answering(self._address, index):
            try:
                found = self._client.get(index=index, id=self._account_id)
            except NotFoundError:
                found = None
        if found is not None and not _is_erased(found["_source"]) and found["_source"].get("sequence", 0) < sequence:
            self._since.pop(index, None)
            if waits_for is not None:
                return Place(name, State.PENDING, waits_for)
            if not self._overwritten(index, found.body):
                return Place(
                    name, State.PENDING, "the document has the holder; who asks may not write (docs/SECURITY.md)"
                )
            return Place(name, State.PENDING, "the document was overwritten", _soon())
        if index not in self._scanned:
            if documents := self._found_in(index, tell):
                return Place(name, State.FOUND, _documents(documents))
            self._scanned.add(index)
        return self._on_disk(
            index, name, None if found is None else self._since.setdefault(index, int(found["_seq_no"]))
        )

    def _on_disk(self, index: str, name: str, seq_no: int | None) -> Place:
        """Whether what was overwritten before that operation is off the disk; merges where that is due."""
        if index in self._purged and self._purged[index] == seq_no:
            return Place(name, State.CLEAR)
        with answering(self._address, index):
            try:
                # A flush ends the translog, and lets the lease go on.
                self._client.indices.flush(index=index, force=True, wait_if_ongoing=True)
                # What is deleted is counted as searches see it.
                self._client.indices.refresh(index=index)
                copies, deleted = self._copies(index)
                if deleted and seq_no is not None and not all(_is_past(copy, seq_no) for copy in copies):
                    return Place(name, State.PENDING, "overwritten, until its segment may be merged", _soon())
                if deleted:
                    self._merge(index)
            except ApiError as error:
                if error.meta.status != _FORBIDDEN:
                    raise
                return Place(name, State.PENDING, "overwritten; who asks may not merge segments (docs/SECURITY.md)")
        self._purged[index] = seq_no
        return Place(name, State.CLEAR)

    def _copies(self, index: str) -> tuple[Sequence[Mapping[str, Any]], int]:
        """Each copy of the shard that has the account, and how many documents are deleted in them. Operations are
        counted by shard: in the others the numbers mean something else."""
        (one,) = self._client.search_shards(index=index, routing=self._account_id).body["shards"]
        found = self._client.indices.stats(index=index, level="shards", metric="docs").body["indices"].get(index, {})
        copies = found.get("shards", {}).get(str(one[0]["shard"]), ())
        return copies, sum(int(copy["docs"]["deleted"]) for copy in copies)

    def _merge(self, index: str) -> None:
        client = self._client.options(request_timeout=_MERGE_TIMEOUT_S)
        settings = client.indices.get_settings(index=index, flat_settings=True, name=_ALLOWED).body
        allowed = settings.get(index, {}).get("settings", {}).get(_ALLOWED)
        if allowed is not None and float(allowed) == 0.0:
            client.indices.forcemerge(index=index, only_expunge_deletes=True, flush=True)
        else:
            # An index from before that setting: by default, segments with few deletions would be left as they are.
            client.indices.forcemerge(index=index, max_num_segments=1, flush=True)
        # The commit before has the segments that were merged.
        client.indices.flush(index=index, force=True, wait_if_ongoing=True)

    def _overwritten(self, index: str, found: Mapping[str, Any]) -> bool:
        source = {name: value for name, value in found["_source"].items() if name != "holder_email"}
        document = {**source, "holder_name": ERASED.value, "holder_erased": True}
        with answering(self._address, index):
            try:
                self._client.index(
                    index=index,
                    id=self._account_id,
                    document=document,
                    # The projector goes on from here if this index becomes live again, and its next version is higher.
                    version=found["_version"],
                    version_type="external_gte",
                )
            except ApiError as error:
                if error.meta.status == _CONFLICT:
                    # It was written meanwhile; the next look sees by what.
                    return True
                if error.meta.status == _FORBIDDEN:
                    return False
                raise
        return True

    def _found_in(self, index: str, tell: Tell) -> list[str]:
        """The documents of this account, or of nobody known, that have one of the texts."""
        if not len(self._texts):
            return []
        found: list[str] = []
        with answering(self._address, index):
            total = int(self._client.count(index=index)["count"])
            for done, hit in enumerate(scan(self._client, index=index, size=_PAGE, query={"query": {"match_all": {}}})):
                if done % _TELL_EVERY == 0:
                    tell(Progress(f"looking through {index}", done, total))
                values = (value for value in hit["_source"].values() if isinstance(value, str))
                texts = [text for value in values for text in self._texts.found(value.encode())]
                if not texts:
                    continue
                owner = str(hit["_source"].get("account_id", self._account_id))
                if owner == self._account_id:
                    found.append(str(hit["_id"]))
                else:
                    self._texts.also_of(owner, texts)
        return found


def _documents(found: Sequence[str]) -> str:
    return f"documents with a text of the holder's: {', '.join(found[:_FEW])}" if found else ""


def _is_erased(document: Mapping[str, Any]) -> bool:
    return document.get("holder_name") == ERASED.value and document.get("holder_email") is None


def _is_past(shard: Mapping[str, Any], seq_no: int) -> bool:
    """Whether no lease keeps what the operation of that number overwrote."""
    leases = shard.get("retention_leases", {}).get("leases", ())
    return all(int(lease["retaining_seq_no"]) >= seq_no for lease in leases)


def _soon() -> datetime:
    return datetime.now(UTC) + _LEASE
