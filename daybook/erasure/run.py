"""Looking everywhere for what is left of an erased holder, and doing what has become due since: as often as wanted.

The order is that of the log: the fact and the tombstone come first (`EraseHolder`), the rest follows from them. So an
erasure that was interrupted is finished by looking again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Self

from daybook.audit.records import identity
from daybook.erasure import cache, folder
from daybook.erasure.indices import Indices
from daybook.erasure.places import WITHIN, Hit, NotErased, Place, State, latest
from daybook.erasure.records import RecordSearch, Seen, erased_at
from daybook.erasure.texts import Texts
from daybook.erasure.topics import Cleaning
from daybook.errors import AccountUnknown
from daybook.progress import Tell
from schemas.commands import EraseHolder
from schemas.connections import Connections
from schemas.events import RecordedEvent

_FEW: Final = 3

FILES: Final = "files of the stack"


@dataclass(frozen=True, slots=True)
class Report:
    """What everything came to."""

    log: str
    account_id: str
    erased_at: datetime
    sequence: int
    looked_at: datetime
    texts: int
    places: tuple[Place, ...]

    @property
    def state(self) -> State:
        """`CLEAR` when nothing is left anywhere that was looked at; else the worst of the places."""
        states = {place.state for place in self.places}
        return next((state for state in (State.FOUND, State.PENDING) if state in states), State.CLEAR)

    @property
    def until(self) -> datetime | None:
        return latest(self.places)


def must_answer(connections: Connections, *, timeout_s: float) -> None:
    """Ask the servers that an erasure needs after the fact: what is known of the holder is known only until then.

    Raises: `Unreachable`, `NotConfigured`.
    """
    if connections.elasticsearch_url is not None:
        with closing(Indices(connections, "", Texts(()), timeout_s=timeout_s)) as indices:
            indices.must_answer()
    if connections.redis_url is not None:
        cache.must_answer(connections, timeout_s=timeout_s)


class Erasure:
    """The erasure of one account's holder; a context manager. One thread uses it.

    All of its methods block, and raise `Unreachable`, `ReadTimeout`, `UnreadableRecord` and `NotConfigured`.
    """

    def __init__(
        self,
        connections: Connections,
        account_id: str,
        texts: Texts,
        *,
        stack: Path | None = None,
        timeout_s: float,
    ) -> None:
        """`stack` is a local stack's folder, whose files are looked through."""
        self._connections = connections
        self._account_id = account_id
        self._texts = texts
        self._stack = stack
        self._timeout_s = timeout_s
        self._opened = ExitStack()
        try:
            self._records = self._opened.enter_context(
                RecordSearch(connections, account_id, texts, timeout_s=timeout_s)
            )
            self._cleaning = Cleaning(connections, timeout_s=timeout_s)
            self._opened.callback(self._cleaning.close)
            self._indices: Indices | None = None
            if connections.elasticsearch_url is not None:
                self._indices = Indices(connections, account_id, texts, timeout_s=timeout_s)
                self._opened.callback(self._indices.close)
        except BaseException:
            self._opened.close()
            raise
        self._log: str | None = None
        self._erased: RecordedEvent | None = None
        self._settled: dict[str, Place] = {}
        """Places that were clear when they were looked at after the erasure: nothing comes back there. And the log,
        where what is there stays."""
        self._parked_left = False
        self._parked_off_at: datetime | None = None
        """When parked records are off the disks that this run saw go."""
        self._order: tuple[str, ...] = ()
        self._trail: tuple[Place, ...] | None = None
        """The audit trail, once it was looked at: what is there stays as well."""
        self._had: set[str] = set()
        """Topics in which something was read."""
        self._unread_at: dict[str, datetime] = {}
        """By topic of which that is so, when nothing was read any more. Its bytes go later."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def look(self, tell: Tell) -> Report:
        """Look everywhere, and delete, overwrite and merge what has become due. Later calls look only where something
        was left.

        Raises: `NotErased`, `AccountUnknown`.
        """
        if self._log is None:
            self._log = identity(self._connections, timeout_s=self._timeout_s)
        looked_at = datetime.now(UTC)
        topics = [topic for topic in self._records.all_topics if _topic(topic) not in self._settled]
        unasked = [] if len(self._texts) else [t for t in topics if t not in self._records.known_without_texts]
        topics = [topic for topic in topics if topic not in unasked]
        seen = self._records.look(topics, tell)
        erased = self._must_be_erased(seen)
        for topic in topics:
            if seen.hits[topic]:
                self._had.add(topic)
            elif topic in self._had:
                self._unread_at.setdefault(topic, datetime.now(UTC))
        places = [place for topic in topics for place in self._in_topic(topic, seen, erased)]
        places += [_no_text(_topic(topic)) for topic in unasked]
        places += self._elsewhere(erased, tell)
        if self._stack is not None and FILES not in self._settled:
            # Last, when the texts are known that other accounts have as well.
            places += self._in_files(self._stack, places, erased, tell)
        events = _topic(self._connections.topics.events)
        for place in places:
            if place.state in (State.CLEAR, State.UNSEEN) or place.name == events:
                self._settled[place.name] = place
        # In the order of the first look, without what is no longer found.
        now = self._settled | {place.name: place for place in places}
        self._order = tuple(dict.fromkeys((*self._order, *(place.name for place in places))))
        return Report(
            self._log,
            self._account_id,
            erased_at(erased),
            erased.sequence,
            looked_at,
            len(self._texts),
            tuple(now[name] for name in self._order if name in now),
        )

    def _must_be_erased(self, seen: Seen) -> RecordedEvent:
        self._erased = seen.erased or self._erased
        if self._erased is None:
            if not seen.events:
                raise AccountUnknown(self._account_id, None)
            raise NotErased(
                f"the holder of {self._account_id} is not erased: `daybook erase {self._account_id}` does that, and "
                "--verify shows what is left afterwards"
            )
        return self._erased

    def _in_topic(self, topic: str, seen: Seen, erased: RecordedEvent) -> Iterator[Place]:
        topics, hits = self._connections.topics, seen.hits[topic]
        name = _topic(topic)
        if topic == topics.subject_keys:
            yield self._key(name, hits, seen, erased)
        elif topic == topics.commands:
            yield self._commands(name, hits, seen, erased)
        elif topic == topics.parked:
            yield self._parked(name, seen)
        elif not hits:
            yield Place(name, State.CLEAR)
        elif topic == topics.events:
            yield Place(name, State.FOUND, f"{_said(hits)}. What is not sealed in the log cannot be erased")
        else:
            yield self._expiring(name, hits)

    def _key(self, name: str, hits: Collection[Hit], seen: Seen, erased: RecordedEvent) -> Place:
        if seen.keyed_again:
            # The service gives an erased holder no key: this one may be the old one, which opens what is sealed.
            return Place(
                name,
                State.FOUND,
                "a data key of the holder behind its tombstone, as after a restore from a backup: start the command "
                f"service anew, then `daybook erase {self._account_id}` takes it away",
            )
        if seen.tombstone_at is None:
            if not hits:
                return Place(name, State.CLEAR, "there never was a key")
            return Place(name, State.FOUND, "the holder's data key, and no tombstone behind it")
        if hits:
            return self._until(name, _said(hits), self._cleaning.keys_gone_at(seen.tombstone_at))
        topic = self._connections.topics.subject_keys
        gone_at = self._cleaning.keys_gone_at(erased_at(erased))
        if topic in self._unread_at:
            gone_at = max(gone_at, self._unread_at[topic] + self._cleaning.timing(topic).deletion)
        # Files tell it themselves, to who knows what to look for in them.
        told = self._stack is not None and self._texts.has_secrets
        if not told and datetime.now(UTC) < gone_at:
            return Place(name, State.PENDING, "the key is gone from the topic, and from the disks in time", gone_at)
        return Place(name, State.CLEAR)

    def _commands(self, name: str, hits: Collection[Hit], seen: Seen, erased: RecordedEvent) -> Place:
        topic = self._connections.topics.commands
        timing = self._cleaning.timing(topic)
        if hits:
            due_at = self._cleaning.due_at(hits)
            done = self._cleaning.delete_commands(list(hits), seen, _command(erased))
            if not done and datetime.now(UTC) >= due_at:
                return Place(name, State.PENDING, f"{_said(hits)}, which the command service has yet to process")
            gone_at = datetime.now(UTC) + timing.deletion if done else due_at + timing.deletion
            return Place(name, State.PENDING, f"{_said(hits)}{', deleted' if done else ''}", gone_at)
        return self._off_the_disks(name, topic, erased)

    def _off_the_disks(self, name: str, topic: str, erased: RecordedEvent) -> Place:
        """What can no longer be read there may be in files for a while. Those that can be looked at tell of texts that
        are known; a command may have had others."""
        timing = self._cleaning.timing(topic)
        deleted_at = self._cleaning.deleted_at.get(topic) or self._unread_at.get(topic)
        if deleted_at is None and not (self._stack is not None and self._texts.in_files):
            # Somebody else may have deleted it, at the latest when an erasure may.
            deleted_at = erased_at(erased) + timing.segment
        if deleted_at is not None and datetime.now(UTC) < deleted_at + timing.deletion:
            detail = "nothing can be read any more; what was deleted leaves the disks in time"
            return Place(name, State.PENDING, detail, deleted_at + timing.deletion)
        return Place(name, State.CLEAR)

    def _parked(self, name: str, seen: Seen) -> Place:
        topic, parked = self._connections.topics.parked, seen.parked
        timing = self._cleaning.timing(topic)
        if parked.going and not timing.compacted:
            place = self._expiring(name, parked.going)
            detail = f"{place.detail}: {topic} is of an earlier release, `daybook deploy apply` and `--verify` erase it"
            return Place(name, place.state, detail, place.until)
        gone_at = self._cleaning.erase_parked(seen, self._account_id)
        now = datetime.now(UTC)
        if parked.going:
            self._parked_left = True
            return self._until(name, _said(parked.going), gone_at or now)
        if self._parked_left:
            # Files do not tell: the command service compresses what it writes.
            self._parked_left, self._parked_off_at = False, now + timing.cleaning
        off_at = max((at for at in (gone_at, self._parked_off_at) if at is not None), default=now)
        if now < off_at:
            return Place(name, State.PENDING, "erased; it leaves the disks in time", off_at)
        if parked.kept:
            detail = f"{_said(parked.kept)}: money is in transit until `daybook parked send` gives it again"
            return Place(name, State.FOUND, detail)
        return Place(name, State.CLEAR)

    def _expiring(self, name: str, hits: Collection[Hit]) -> Place:
        """What goes with its topic's retention, if there is one."""
        timing = self._cleaning.timing(next(iter(hits)).topic)
        if timing.retention is None:
            return Place(name, State.FOUND, _said(hits))
        newest = max(hit.written_at for hit in hits)
        # By its newest record a segment goes, which may be younger than these by a segment's age.
        return self._until(name, _said(hits), newest + timing.retention + timing.segment + timing.deletion)

    def _elsewhere(self, erased: RecordedEvent, tell: Tell) -> Iterator[Place]:
        for name, look in self._others(erased, tell):
            if name in self._settled:
                continue
            try:
                yield from look()
            except ModuleNotFoundError as error:
                yield Place(name, State.UNSEEN, f"{error.name} is not installed here: pip install 'daybook[analytics]'")

    def _others(self, erased: RecordedEvent, tell: Tell) -> Iterator[tuple[str, Callable[[], Iterator[Place]]]]:
        indices = self._indices
        if indices is None:
            yield "Elasticsearch", lambda: iter([_unset("Elasticsearch", "DAYBOOK_ELASTICSEARCH_URL")])
        else:
            # Looked at each time: an index that was overwritten is then merged.
            yield "", lambda: indices.view(erased.sequence, tell)
            yield "", lambda: self._in_trail(indices, tell)
        yield "Redis", self._redis(tell)
        yield "Iceberg table", self._iceberg(tell)

    def _in_trail(self, indices: Indices, tell: Tell) -> Iterator[Place]:
        if self._trail is None:
            self._trail = tuple(map(self._by_texts, indices.trail(tell)))
        return iter(self._trail)

    def _by_texts(self, place: Place) -> Place:
        """A place where texts alone are looked for. That none was found there says nothing where none was given."""
        return _no_text(place.name) if place.state is State.CLEAR and not len(self._texts) else place

    def _redis(self, tell: Tell) -> Callable[[], Iterator[Place]]:
        def look() -> Iterator[Place]:
            if self._connections.redis_url is None:
                yield _unset("Redis", "DAYBOOK_REDIS_URL")
            elif not len(self._texts):
                yield _no_text("Redis")
            else:
                yield cache.look(self._connections, self._account_id, self._texts, tell, timeout_s=self._timeout_s)

        return look

    def _iceberg(self, tell: Tell) -> Callable[[], Iterator[Place]]:
        def look() -> Iterator[Place]:
            if self._connections.iceberg_catalog is None:
                yield _unset("Iceberg table", "DAYBOOK_ICEBERG_CATALOG")
            elif not len(self._texts):
                yield _no_text("Iceberg table")
            else:
                from daybook.erasure import table  # noqa: PLC0415 - daybook[analytics]

                yield table.look(self._connections, self._account_id, self._texts, tell)

        return look

    def _in_files(self, stack: Path, places: Collection[Place], erased: RecordedEvent, tell: Tell) -> Iterator[Place]:
        if not len(self._texts) and not self._texts.has_secrets:
            yield _no_text(FILES)
            return
        found = folder.look(stack, self._account_id, self._texts, tell)
        if not found:
            yield Place(FILES, State.CLEAR, self._not_in_files())
        pending = {place.name: place.until for place in places}
        by_folder: dict[Path, list[Path]] = {}
        for path in found:
            by_folder.setdefault(path.parent, []).append(path)
        for where, paths in by_folder.items():
            # A partition's folder is named by its topic and its number.
            gone_at = pending.get(_topic(where.name.rpartition("-")[0])) or erased_at(erased) + WITHIN
            yield self._until(f"files in {where}", ", ".join(path.name for path in paths[:_FEW]), gone_at)

    def _not_in_files(self) -> str:
        """What was not looked for in files, in words."""
        if not len(self._texts):
            return "the holder's wrapped key alone was looked for: no text was given"
        shared = len(self._texts.elsewhere)
        return f"{shared} texts that other accounts have too were not looked for" if shared else ""

    def _until(self, name: str, detail: str, gone_at: datetime) -> Place:
        """What is going, or was to be gone by now."""
        if datetime.now(UTC) < gone_at + timedelta(seconds=1):
            return Place(name, State.PENDING, detail, gone_at)
        return Place(name, State.FOUND, f"{detail}; it was to be gone by {gone_at:%Y-%m-%d %H:%M:%S} UTC")


def _command(erased: RecordedEvent) -> EraseHolder:
    """The command that erased the holder, once more: it is answered as before, or as another under its id."""
    return EraseHolder(
        command_id=erased.command_id,
        account_id=erased.account_id,
        user_id=erased.user_id,
        issued_at=erased.recorded_at,
        reason=erased.reason,
    )


def _topic(topic: str) -> str:
    return f"topic {topic}"


def _said(hits: Collection[Hit]) -> str:
    ordered = sorted(hits, key=lambda hit: (hit.partition, hit.offset))
    named = ", ".join(f"{hit.what} at {hit.partition}/{hit.offset}" for hit in ordered[:_FEW])
    return named + (f" and {len(ordered) - _FEW} more" if len(ordered) > _FEW else "")


def _no_text(name: str) -> Place:
    return Place(name, State.UNSEEN, "texts are looked for there, and none was given: --text")


def _unset(name: str, variable: str) -> Place:
    return Place(name, State.UNSEEN, f"{variable} is not set")
