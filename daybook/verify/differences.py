"""What a comparison finds: one item that a read model has otherwise than the log."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """An account, an event or a place in a ranking that is missing, extra, or has a field that differs.

    Where `field` is None the whole item does: `expected` is None for one that should not be, `found` for a missing one.
    """

    item: str
    field: str | None
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.field is not None:
            return f"{self.item}: {self.field} is {self.found or 'not there'}, where the log gives {self.expected}"
        if self.found is None:
            return f"{self.item} is missing"
        return f"{self.item} is there, and the log has nothing of the kind"


class Differs(Exception):
    """A read model differs. No more of it is compared."""

    def __init__(self, difference: Difference) -> None:
        self.difference = difference
        super().__init__(str(difference))


def missing(item: str) -> Differs:
    return Differs(Difference(item, None, "there", None))


def extra(item: str) -> Differs:
    return Differs(Difference(item, None, None, "there"))


def compare(item: str, expected: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Raises `Differs` for the first field that is not as expected. A field that is None may be left out."""
    for name, value in expected.items():
        if found.get(name) != value:
            raise differs(item, name, value, found.get(name))


def compare_all(item: str, expected: Mapping[str, object], found: Mapping[str, object]) -> None:
    """As `compare`; there must also be no further fields."""
    compare(item, expected, found)
    further: Collection[str] = [name for name in found if name not in expected and found[name] is not None]
    for name in further:
        raise differs(item, name, None, found[name])


def differs(item: str, field: str, expected: object, found: object) -> Differs:
    return Differs(Difference(item, field, _shown(expected), None if found is None else _shown(found)))


def _shown(value: object) -> str:
    return "none" if value is None else value.hex() if isinstance(value, bytes) else str(value)
