"""From old records to new ones, where Avro's own resolution does not reach.

Within one record name Avro resolves a version to a later one: fields come and go with their defaults, enums widen. An
upcaster does what that cannot: it leads from one version of a record to a version of another name (the next major), or
to a version of the same name whose fields mean something else. Nothing stored is rewritten; a record is brought to the
newest version each time that it is read, hop by hop (`path`).

An upcaster gets the fields that are the record's own and gives back those of the version it leads to. An event's
common fields are the same in all versions, so it does not see them; of a command it sees all. It is pure, and must
give the same for the same fields for ever: read models and snapshots were made with what it gave. Whoever changes one
changes history, and `tests/golden` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Fields = dict[str, Any]


class Version(NamedTuple):
    """A version of a record: its full Avro name, and a number from 1."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} v{self.number}"


class Upcaster(NamedTuple):
    """Leads from one version to another."""

    source: Version
    target: Version
    convert: Callable[[Fields], Fields]


Path = tuple[Version | Upcaster, ...]
"""Hops: a `Version` is Avro resolution to that version of the same name, an `Upcaster` is what it converts."""


class NoPath(ValueError):
    """A version leads nowhere, or round in a circle. The message says where."""


def _limit_before_and_after(own: Fields) -> Fields:
    """The first release said only which limit was set. What it was before stands in an earlier event, or in none."""
    return {"previous_limit_minor": None, "new_limit_minor": own["limit_minor"], "currency": own["currency"]}


UPCASTERS: Final[Sequence[Upcaster]] = (
    Upcaster(
        Version("daybook.account.event.OverdraftLimitSet", 1),
        Version("daybook.account.event.v2.OverdraftLimitSet", 1),
        _limit_before_and_after,
    ),
)


def path(start: Version, newest: Mapping[str, int], upcasters: Sequence[Upcaster] = UPCASTERS) -> Path:
    """How a version is brought to the newest. `newest` has each name's newest version. Empty when it is the newest.

    Where an upcaster begins at a version, that is where Avro resolution of the older ones ends.

    Raises:
        NoPath: a version is unknown, is left by two upcasters, or is come back to.
    """
    leaving: dict[Version, Upcaster] = {}
    for upcaster in upcasters:
        if upcaster.source in leaving:
            raise NoPath(f"two upcasters begin at {upcaster.source}")
        leaving[upcaster.source] = upcaster
    at, seen, hops = start, {start}, list[Version | Upcaster]()
    while True:
        last = newest.get(at.name, 0)
        if not 1 <= at.number <= last:
            raise NoPath(f"{start} leads to {at}, which is not among the released schemas")
        stop = next(n for n in range(at.number, last + 1) if n == last or Version(at.name, n) in leaving)
        if stop != at.number:
            at = Version(at.name, stop)
            hops.append(at)
        further = leaving.get(at)
        if further is None:
            return tuple(hops)
        at = further.target
        if at in seen or (at.name == further.source.name and at.number <= further.source.number):
            raise NoPath(f"{start} leads to {at} again, round in a circle")
        seen.add(at)
        hops.append(further)


def end(start: Version, hops: Path) -> Version:
    """Where a path leads to."""
    if not hops:
        return start
    last = hops[-1]
    return last.target if isinstance(last, Upcaster) else last
