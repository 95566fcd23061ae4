"""What a read model offers so that it can be built anew beside the live one. `projectors.rebuild` is the driver."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from projectors.projector import Projector

EXAMPLES: Final = 20
"""How many differences a comparison keeps to show; it counts all."""

HOLD_S: Final = 30.0
"""For how long a live model is held where it is, at most, while its copy takes its place: a held projector waits, and
one whose rebuild was killed goes on by itself after that."""

REOPENED: Final = "reopened"
"""What `Rebuildable.begun` tells of a kept old model that became the copy again."""


class CannotRebuild(Exception):
    """The copy cannot be built or put in place: the message says why, and what to do."""


class LiveMoved(Exception):
    """The live model went on while its copy was about to take its place. Nothing was switched: catch up, try again."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the two models have differently, in words for people: an account, or an event."""

    what: str
    live: str
    rebuilt: str


@dataclass(slots=True)
class Comparison:
    """What comparing both models came to, at the same positions: items whose positions differ are not compared."""

    compared: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)
    moving: set[str] = field(default_factory=set)
    """Accounts that the live model has newer than the copy, to be compared once the copy has caught up."""

    def differs(self, difference: Difference) -> None:
        self.differing += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(difference)


class Rebuildable(Protocol):
    """One read model with its copy. One thread alone calls it; all methods may block.

    All raise `SinkUnavailable` when the sink does not answer, and `CannotProject` or `CannotRebuild` when asking again
    does not help. A copy that was begun stays until it is discarded or put in place, whatever happens to this process.
    """

    @property
    def name(self) -> str:
        """The projector's name."""

    @property
    def can_be_held(self) -> bool:
        """Whether `hold` does anything."""

    @property
    def copy(self) -> Projector:
        """Builds the copy. It keeps the copy's own checkpoints, in the copy."""

    def begun(self) -> str | None:
        """The fingerprint that an unfinished copy was begun with, `REOPENED` after `reopen`; None when there is none.

        A copy that is only partly deleted counts as unfinished, with a fingerprint that is no other's.
        """

    def kept(self) -> bool:
        """Whether the model that was live before the last switch has been kept."""

    def begin(self, fingerprint: str) -> None:
        """Make an empty copy. There is neither an unfinished one nor a kept one: they were discarded before.

        When it failed, it may be called again.
        """

    def discard(self) -> None:
        """Delete the unfinished copy or the kept old model, whichever there is; readers do not see it."""

    def compare(self, only: Collection[str] | None, tell: Callable[[int], None]) -> Comparison:
        """Compare the copy, which nobody writes to meanwhile, with the live model, which may go on.

        Args:
            only: these accounts; all, and all events, without it.
            tell: called now and then with the number of items compared so far.
        """

    def hold(self) -> None:
        """Keep the live model where it is for `HOLD_S`: no batch is begun by its projector after this returns.

        A batch that was under way may still take effect, so the copy must be brought to where the log ends after that.
        Where the switch itself notices that the live model moved, this may do nothing.
        """

    def release(self) -> None:
        """Let the live model go on."""

    def live_checkpoints(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        """Where the live model stands."""

    def switch(self, keep_old: bool) -> None:
        """Put the copy in the live model's place in one step: no reader sees neither, or a part of each.

        The old model is kept for going back, or deleted. The live projector notices by itself (`CheckpointMoved`).

        Raises:
            LiveMoved: the live model is further than the copy, or is not held any more.
        """

    def reopen(self) -> None:
        """Make the kept old model the copy, at the checkpoint that it was left with: going back is catching up with
        it and switching. When it failed, it may be called again, by whichever process.

        Raises:
            CannotRebuild: none was kept.
        """
