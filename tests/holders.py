"""Opening holders' names, for tests without the topic of keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from projectors.holders import Holders, names_holder
from schemas.events import RecordedEvent
from schemas.personal import opened
from schemas.sealing import Unsealer


class _Plain:
    def catch_up(self, partitions: Collection[int]) -> None:
        raise AssertionError(f"nothing is sealed in partitions {partitions}, so why ask for keys?")

    def opened(self, recorded: RecordedEvent) -> RecordedEvent:
        assert not names_holder(recorded)
        return recorded


class WithKeys:
    """`Holders` with the data keys of these accounts; the others' are erased."""

    def __init__(self, data_keys: Mapping[str, bytes]) -> None:
        self._unsealer = Unsealer(data_keys.get)

    def catch_up(self, partitions: Collection[int]) -> None:
        pass

    def opened(self, recorded: RecordedEvent) -> RecordedEvent:
        return opened(recorded, self._unsealer.open)


PLAIN: Final[Holders] = _Plain()
"""For events that are older than sealing."""
