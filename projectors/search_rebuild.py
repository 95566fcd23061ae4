"""Building the search documents anew in indices beside the live ones, to be put behind the aliases in their place.

The copy's indices have the next free numbers and no alias. A mapping's `_meta` has, beside the log's name, `rebuild`:
`state`, which is `building` (a copy that was begun) or `kept` (what was live before the last switch), and
`fingerprint`. Only indices that are marked so, and have no alias, are ever deleted. Both aliases change in one request,
which Elasticsearch applies as one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from elasticsearch import Elasticsearch, NotFoundError

from projectors.elasticsearch import Documents, ask
from projectors.holders import Holders
from projectors.projector import CheckpointMoved
from projectors.rebuilding import HOLD_S, REOPENED, CannotRebuild, Comparison, Difference, LiveMoved
from projectors.search import (
    READERS_FILTER,
    Pair,
    SearchProjector,
    create_index,
    held_for_s,
    next_index,
    numbered,
    stored_offset,
)
from projectors.source import Source
from schemas.readmodels import (
    CHECKPOINT_FIELD,
    REBUILD_BUILDING,
    REBUILD_META,
    SEARCH_HOLD_ID,
    Indices,
    checkpoint_id,
)

_MARK: Final = REBUILD_META
_BUILDING: Final = REBUILD_BUILDING
_KEPT: Final = "kept"

_SWITCH_S: Final = 5.0
"""How much of the hold must be left for switching, which takes a fraction of a second."""

_SWITCH_REQUEST_S: Final = 4.0
_SWITCH_TIMEOUT: Final = "3s"
"""Elasticsearch gives the switch up sooner than we stop waiting for it, and both before the hold may end."""

_ARRIVAL_S: Final = 1.0
"""How long a search may take from asking the alias to its index: milliseconds, on a busy machine a hundred."""

_LONGEST_SEARCH_S: Final = 10.0
"""How long searches in an old index are waited for. What pages through it for longer has to begin again."""

_LOOK_S: Final = 0.1

_PAGE: Final = 1000
"""Documents that are compared at once: under a megabyte."""

_KEEP_ALIVE: Final = "2m"
"""How long Elasticsearch keeps a search's view between two pages, which are seconds apart at most."""

_MOST_PARTITIONS: Final = 10_000
"""As many documents as a search may return."""


@dataclass(frozen=True, slots=True)
class _Index:
    """An index of the model, as it was found."""

    name: str
    live: bool
    meta: Mapping[str, Any]

    @property
    def state(self) -> str | None:
        """What it is to rebuilding; None for a live index, and for one that is not ours to delete."""
        return None if self.live else self.meta.get(_MARK, {}).get("state")


class SearchRebuild:
    """See `projectors.rebuilding.Rebuildable`."""

    name: Final = "search"
    can_be_held: Final = True

    def __init__(self, client: Elasticsearch, indices: Indices, source: Source, holders: Holders) -> None:
        self._client = client
        self._documents = Documents(client)
        self._aliases = Pair(indices.accounts, indices.account_events)
        self._source = source
        self._token = uuid.uuid4().hex
        self.copy: Final = SearchProjector(client, indices, source, holders, copy=self._need_copy)

    def begun(self) -> str | None:
        marked = self._marked()
        if not marked or self._pair(marked, _KEPT) is not None:
            return None
        if self._pair(marked, _BUILDING) is None:
            # One index of the two: what is left of a copy that was being made or deleted.
            return ""
        return str(marked[0].meta[_MARK].get("fingerprint", ""))

    def kept(self) -> bool:
        return self._pair(self._marked(), _KEPT) is not None

    def begin(self, fingerprint: str) -> None:
        # There is nothing of worth: what is marked is from a call like this one, which failed half-way.
        self.discard()
        meta = {"log": str(self._source), _MARK: {"state": _BUILDING, "fingerprint": fingerprint}}
        for alias in self._aliases:
            create_index(self._client, next_index(self._client, alias), meta)

    def discard(self) -> None:
        marked = self._marked()
        if any(index.state == _KEPT for index in marked):
            self._await_readers([index.name for index in marked])
        for index in marked:
            ask(partial(self._client.indices.delete, index=index.name, ignore_unavailable=True))

    def compare(self, only: Collection[str] | None, tell: Callable[[int], None]) -> Comparison:
        result = Comparison()
        copy = self._need_copy()
        built = self._checkpoints(copy)
        # Asked before any document, so that the live model has at least what these say.
        reached = self._checkpoints(self._aliases)
        ask(lambda: self._client.indices.refresh(index=[*self._aliases, *copy], ignore_unavailable=True))
        for kind, alias, index in zip(("account", "event"), self._aliases, copy, strict=True):
            for page in self._all(alias, only):
                self._compare_live(kind, page, index, built, reached, result, again=only is not None)
                tell(result.compared)
            for page in self._all(index, only, source=("partition", "offset")):
                self._find_missing(kind, page, alias, reached, result)
        return result

    def hold(self) -> None:
        until_ms = round((time.time() + HOLD_S) * 1000)
        document = {CHECKPOINT_FIELD: {"hold_until_ms": until_ms, "by": self._token}}
        hold = partial(self._client.index, index=self._aliases.accounts, id=SEARCH_HOLD_ID, document=document)
        try:
            ask(partial(hold, require_alias=True))
        except CheckpointMoved:
            # There is no live model to hold.
            return

    def release(self) -> None:
        for index in self._live():
            self._release(index)

    def live_checkpoints(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        ids = [checkpoint_id(partition) for partition in partitions]
        try:
            found = self._documents.look_up([(alias, doc_id) for alias in self._aliases for doc_id in ids])
        except CheckpointMoved:
            return dict.fromkeys(partitions)
        offsets = [stored_offset(document) for document in found]
        pairs = zip(offsets[: len(ids)], offsets[len(ids) :], strict=True)
        return {
            partition: None if None in pair else min(pair)  # type: ignore[type-var]
            for partition, pair in zip(partitions, pairs, strict=True)
        }

    def switch(self, keep_old: bool) -> None:
        copy, live = self._need_copy(), self._live()
        ask(lambda: self._client.indices.refresh(index=list(copy)))
        for old in live:
            # While it is live the mark says nothing. An index is not deleted in the step that takes its alias away:
            # searches that are under way would fail.
            self._mark(old, {"state": _KEPT})
        built = self._checkpoints(copy)
        if live:
            for partition, offset in self._checkpoints(self._aliases).items():
                if offset > built.get(partition, 0):
                    raise LiveMoved(
                        f"the live search documents stand at {offset} of partition {partition}, the copy at "
                        f"{built.get(partition, 'none')}"
                    )
        actions: list[dict[str, Any]] = [
            {"add": {"index": index, "alias": alias, "filter": READERS_FILTER}}
            for alias, index in zip(self._aliases, copy, strict=True)
        ]
        actions += [{"remove": {"index": old.name, "alias": old.name[: -len("-000000")]}} for old in live]
        client = self._client.options(request_timeout=_SWITCH_REQUEST_S)
        if live:
            # Last of all, so that nothing else takes of what is left of the hold.
            self._check_hold()
        ask(
            lambda: client.indices.update_aliases(
                actions=actions, master_timeout=_SWITCH_TIMEOUT, timeout=_SWITCH_TIMEOUT
            )
        )
        self._unmark_live()
        if not keep_old:
            self.discard()

    def reopen(self) -> None:
        marked = self._marked()
        # One of the two may be reopened already, by a call that failed half-way.
        ours = [i for i in marked if i.state == _KEPT or i.meta[_MARK].get("fingerprint") == REOPENED]
        if self._two(marked) is None or len(ours) != len(marked):
            raise CannotRebuild("no old search indices were kept: only a rebuild with --keep-old keeps them")
        for index in marked:
            self._release(index, whoever=True)
            if index.state == _KEPT:
                self._mark(index, {"state": _BUILDING, "fingerprint": REOPENED})

    def _found(self) -> list[_Index]:
        return [
            _Index(name, alias in definition["aliases"], definition["mappings"].get("_meta", {}))
            for alias in self._aliases
            for name, definition in numbered(self._client, alias).items()
        ]

    def _live(self) -> list[_Index]:
        return [index for index in self._found() if index.live]

    def _marked(self) -> list[_Index]:
        return [index for index in self._found() if index.state in (_BUILDING, _KEPT)]

    def _pair(self, marked: Collection[_Index], state: str) -> Pair | None:
        """The two indices in a state, when there is one of each and none in another state."""
        return self._two(marked) if all(index.state == state for index in marked) else None

    def _two(self, marked: Collection[_Index]) -> Pair | None:
        """The two indices, when there is one of each and no other."""
        names = [index.name for index in marked]
        if len(names) != 2 or not names[0].startswith(f"{self._aliases.accounts}-"):
            return None
        return Pair(*names) if names[1].startswith(f"{self._aliases.account_events}-") else None

    def _need_copy(self) -> Pair:
        """Raises `CannotRebuild`: there is no unfinished copy, or not all of one."""
        pair = self._pair(self._marked(), _BUILDING)
        if pair is not None:
            return pair
        raise CannotRebuild(
            "Elasticsearch has no unfinished copy of the search indices: it was never begun, or somebody deleted it. "
            "Nothing was switched; rebuild again"
        )

    def _mark(self, index: _Index, mark: Mapping[str, str] | None) -> None:
        """Put a mark, or take it away. The rest of the mapping's `_meta` has to be said again, or it is lost."""
        meta = {name: value for name, value in index.meta.items() if name != _MARK}
        if mark is not None:
            meta[_MARK] = dict(mark)
        ask(lambda: self._client.indices.put_mapping(index=index.name, meta=meta))

    def _unmark_live(self) -> None:
        # When this is not reached, or only half, the mark is wrong but harmless: an index with an alias is live.
        for index in self._live():
            if _MARK in index.meta:
                self._mark(index, None)

    def _await_readers(self, names: Sequence[str]) -> None:
        """Wait until no search is under way in indices that an alias may have led to until now."""
        # One that has asked the alias but has not come to the index yet is seen nowhere.
        time.sleep(_ARRIVAL_S)
        deadline = time.monotonic() + _LONGEST_SEARCH_S
        while time.monotonic() < deadline:
            stats = ask(lambda: self._client.indices.stats(index=list(names), metric="search", expand_wildcards="all"))
            searches = stats["_all"]["total"].get("search", {})
            if not any(searches.get(name, 0) for name in ("open_contexts", "query_current", "fetch_current")):
                return
            time.sleep(_LOOK_S)

    def _release(self, index: _Index, *, whoever: bool = False) -> None:
        (found,) = self._documents.look_up([(index.name, SEARCH_HOLD_ID)])
        if found.source is None or not (whoever or found.source.get(CHECKPOINT_FIELD, {}).get("by") == self._token):
            return

        def delete() -> None:
            try:
                self._client.delete(index=index.name, id=SEARCH_HOLD_ID)
            except NotFoundError:
                return

        ask(delete)

    def _check_hold(self) -> None:
        """Raises `LiveMoved`: the live model may go on before the switch is done."""
        (hold,) = self._documents.look_up([(self._aliases.accounts, SEARCH_HOLD_ID)])
        if held_for_s(hold) < _SWITCH_S:
            raise LiveMoved("the live search documents are not on hold any more: catching up with them took too long")

    def _checkpoints(self, names: Pair) -> dict[int, int]:
        """Where the model in these indices, or behind these aliases, stands; without partitions that it does not."""
        accounts, account_events = (self._stored(name) for name in names)
        return {p: min(offset, account_events[p]) for p, offset in accounts.items() if p in account_events}

    def _stored(self, name: str) -> dict[int, int]:
        """The offset that an index has for each partition; none without an index."""
        # By its own name, since the alias hides checkpoints from searches.
        for index in ask(partial(self._client.indices.get, index=name, ignore_unavailable=True)).body:
            ask(partial(self._client.indices.refresh, index=index))
            query = {"bool": {"must_not": READERS_FILTER}}
            answer = ask(partial(self._client.search, index=index, query=query, size=_MOST_PARTITIONS))
            hits = {hit["_id"]: hit["_source"][CHECKPOINT_FIELD] for hit in answer["hits"]["hits"]}
            prefix = checkpoint_id(0)[:-1]
            return {int(i.removeprefix(prefix)): hit["offset"] for i, hit in hits.items() if i.startswith(prefix)}
        return {}

    def _all(
        self, name: str, only: Collection[str] | None, *, source: Sequence[str] | None = None
    ) -> Iterator[dict[str, dict[str, Any]]]:
        """The documents of an index or alias as they are now, by id, in pages; of some accounts only, if asked."""
        if only is None:
            yield from self._pages(name, READERS_FILTER, source)
            return
        account_ids = sorted(only)
        for start in range(0, len(account_ids), _PAGE):
            yield from self._pages(name, {"terms": {"account_id": account_ids[start : start + _PAGE]}}, source)

    def _pages(
        self, name: str, query: Mapping[str, Any], source: Sequence[str] | None
    ) -> Iterator[dict[str, dict[str, Any]]]:
        """What a query finds, in pages; nothing where there is no such index."""
        try:
            view: str = ask(lambda: self._client.open_point_in_time(index=name, keep_alive=_KEEP_ALIVE))["id"]
        except CheckpointMoved:
            return
        search = partial(
            self._client.search,
            pit={"id": view, "keep_alive": _KEEP_ALIVE},
            query=query,
            # The order in which they are stored, which costs nothing.
            sort=[{"_shard_doc": "asc"}],
            size=_PAGE,
            track_total_hits=False,
            source_includes=source,
        )
        try:
            hits = ask(search)["hits"]["hits"]
            while hits:
                yield {hit["_id"]: hit["_source"] for hit in hits}
                hits = ask(partial(search, search_after=hits[-1]["sort"]))["hits"]["hits"]
        finally:
            ask(lambda: self._client.close_point_in_time(id=view))

    def _compare_live(
        self,
        kind: str,
        page: Mapping[str, dict[str, Any]],
        index: str,
        built: Mapping[int, int],
        reached: Mapping[int, int],
        result: Comparison,
        *,
        again: bool,
    ) -> None:
        """Compare live documents with the copy's."""
        found = self._documents.look_up([(index, doc_id) for doc_id in page])
        for (doc_id, live), item in zip(page.items(), found, strict=True):
            copy = item.source
            newer = live.get("sequence", 0) - (0 if copy is None else copy.get("sequence", 0))
            if newer > 0 and live.get("offset", 0) >= built.get(live.get("partition", 0), 0):
                result.moving.add(live["account_id"])
                continue
            if copy is not None and newer < 0 and copy["offset"] >= reached.get(copy["partition"], 0):
                # The live model is behind, and has not said that it has this.
                continue
            if copy is not None and not again and _erased(live) != _erased(copy):
                # One was written before the holder's key was erased. Both have the erasure once they are caught up.
                result.moving.add(live["account_id"])
                continue
            result.compared += 1
            if live != copy:
                result.differs(_difference(f"{kind} {doc_id}", live, copy))

    def _find_missing(
        self,
        kind: str,
        page: Mapping[str, dict[str, Any]],
        alias: str,
        reached: Mapping[int, int],
        result: Comparison,
    ) -> None:
        """Find documents of the copy that the live model lacks although it stands behind them."""
        due = [doc_id for doc_id, copy in page.items() if copy["offset"] < reached.get(copy["partition"], 0)]
        if not due:
            return
        found = self._documents.look_up([(alias, doc_id) for doc_id in due], source=("sequence",))
        for doc_id, item in zip(due, found, strict=True):
            if item.source is None:
                result.compared += 1
                result.differs(Difference(f"{kind} {doc_id}", "missing", "there"))


def _erased(document: Mapping[str, Any]) -> bool:
    return bool(document.get("holder_erased"))


def _difference(what: str, live: Mapping[str, Any], copy: Mapping[str, Any] | None) -> Difference:
    if copy is None:
        return Difference(what, "there", "missing")
    differing = [name for name in sorted({*live, *copy}) if live.get(name) != copy.get(name)]

    def told(document: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {document.get(name, 'none')}" for name in differing)

    return Difference(what, told(live), told(copy))
