"""The steps of a rebuild, whichever model it is. Read `Rebuild.build`: the numbers are these.

1. Begin a copy, or go on with an unfinished one that the same code began.
2. Read the log into the copy, up to where the live model stands, and no further: so both can be compared.
3. Compare them. What the live model has newer by then is compared again when the copy has caught up.
4. A comparison alone ends here.
5. Hold the live model. Bring the copy to the very place where it stands, and compare what is left. Then bring the copy
   to the log's end, which the live model cannot be beyond, and put it in the live model's place in one step. When the
   live model moved all the same, or it took too long, let it go on and try again.

Killed at any moment, the copy is there to be gone on with, and the live model goes on by itself (`HOLD_S`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from projectors.patience import Patience, SinkThread
from projectors.projector import CheckpointMoved, SinkUnavailable
from projectors.rebuild_display import RebuildDisplay
from projectors.rebuilding import EXAMPLES, HOLD_S, REOPENED, CannotRebuild, Comparison, LiveMoved, Rebuildable
from projectors.replay import Replay

_CATCH_UPS: Final = 10
_MEET_S: Final = 10.0
_MEET_LOOK_S: Final = 0.2
"""How long to wait for a live model that is behind the copy, which an earlier rebuild may have brought further."""

_FAR_OFFSETS: Final = 200_000
"""What is read in a few seconds. A live model that is further than that from the log's end, as when its projector is
stopped, is not held until the copy has got there: then the switch would take too long."""

_CAUGHT_UP_S: Final = 2.0
"""A copy that needs no longer than that to catch up is close enough to the live model to hold it; each catch-up leaves
less to the next one, unless events come as fast as they are read."""

_COMPARISONS: Final = 3
"""Under load some accounts always move between the comparison and the next; the last ones are compared while the live
model is held."""

_HELD_S: Final = HOLD_S * 2 / 3
"""The rest of the hold is for the switch itself and for clocks."""

_ATTEMPTS: Final = 5
_UNHELD_ATTEMPTS: Final = 30
"""A live model that goes on meanwhile may commit during most of them; each takes a second or two and hinders nobody."""


class _TookTooLong(Exception):
    """The hold will end before we are done."""


@dataclass(slots=True)
class Outcome:
    """What a rebuild came to. `positions` are the offsets that the copy has everything before."""

    model: str
    switched: bool = False
    kept_old: bool = False
    resumed: bool = False
    rolled_back: bool = False
    events: int = 0
    seconds: float = 0.0
    events_per_s: float = 0.0
    """While the log was read (step 2), without what comes before and after."""
    held_seconds: float = 0.0
    """For how long the live model stood still."""
    positions: dict[int, int] = field(default_factory=dict)
    comparison: Comparison = field(default_factory=Comparison)


class Rebuild:
    """One rebuild, or the way back, of one model. Everything blocks; `Stopped` is raised once we are told to stop."""

    def __init__(
        self,
        model: Rebuildable,
        sink: SinkThread,
        replay: Callable[[Callable[[], None], Callable[[Mapping[int, int], int], None]], Replay],
        patience: Patience,
        display: RebuildDisplay,
        fingerprint: str,
    ) -> None:
        """`replay` makes the replay into the model's copy, given its `check` and its `tell`."""
        self._model = model
        self._sink = sink
        self._patience = patience
        self._display = display
        self._fingerprint = fingerprint
        self._replay = replay(self._check_copy, self._tell)
        self._total: Mapping[int, int] = {}
        self._from: Mapping[int, int] = {}
        self._events_before = 0

    def build(self, *, from_start: bool, keep_old: bool, compare_only: bool, keep_copy: bool) -> Outcome:
        """Raises: `Stopped`, `CannotRebuild` or `CannotProject`."""
        outcome = Outcome(self._model.name)
        began = time.monotonic()
        outcome.resumed = self._begin(from_start=from_start, compare_only=compare_only)  # 1
        read_from = time.monotonic()
        self._catch_up("reading the log")  # 2
        outcome.events_per_s = self._replay.events / (time.monotonic() - read_from)
        outcome.comparison = self._compare_repeatedly()  # 3
        if compare_only:  # 4
            self._display.difference(outcome.comparison)
            if not keep_copy:
                self._sink.patiently(self._model.discard)
        else:
            outcome.held_seconds = self._put_in_place(outcome.comparison, keep_old=keep_old)  # 5
            outcome.switched, outcome.kept_old = True, keep_old
            self._display.difference(outcome.comparison)
        return self._told(outcome, began)

    def roll_back(self) -> Outcome:
        """Put the kept old model in the live one's place again, caught up. The one it replaces is kept in its turn.

        Raises: `Stopped`, `CannotRebuild` or `CannotProject`.
        """
        outcome = Outcome(self._model.name, rolled_back=True)
        began = time.monotonic()
        self._fingerprint = REOPENED
        outcome.resumed = self._sink.patiently(self._model.begun) == REOPENED
        if not outcome.resumed:
            self._sink.patiently(self._model.reopen)
        self._catch_up("catching up")
        outcome.comparison = self._compare_repeatedly()
        outcome.held_seconds = self._put_in_place(outcome.comparison, keep_old=True)
        outcome.switched = outcome.kept_old = True
        self._display.difference(outcome.comparison)
        return self._told(outcome, began)

    def discard(self) -> bool:
        """Delete the unfinished copy or the kept old model; whether there was one."""
        found = self._sink.patiently(self._model.begun) is not None or self._sink.patiently(self._model.kept)
        if found:
            self._sink.patiently(self._model.discard)
        return found

    def _begin(self, *, from_start: bool, compare_only: bool) -> bool:
        """Have a copy to build; whether it is one that was begun before."""
        begun = self._sink.patiently(self._model.begun)
        if begun == self._fingerprint and not from_start:
            self._display.say(f"going on with the copy of {self._model.name} that an earlier rebuild left")
            return True
        name = self._model.name
        if begun is not None:
            if begun == REOPENED:
                why = "an old model that was being rolled back to"
            elif from_start:
                why = "an unfinished copy"
            else:
                why = "an unfinished copy that other code built"
            self._display.say(f"deleting {why}: {name} is built anew from the log's start")
            self._sink.patiently(self._model.discard)
        elif self._sink.patiently(self._model.kept):
            if compare_only:
                raise CannotRebuild(
                    f"the old model of {name} that an earlier rebuild kept is where the copy to compare with would be: "
                    f"go back to it with `daybook rebuild rollback {name}`, or delete it with `daybook rebuild discard "
                    f"{name}`"
                )
            self._display.say(f"deleting the old model of {name} that an earlier rebuild kept: its place is needed")
            self._sink.patiently(self._model.discard)
        self._sink.patiently(self._model.begin, self._fingerprint)
        return False

    def _check_copy(self) -> None:
        if self._model.begun() != self._fingerprint:
            raise CannotRebuild(
                f"the copy of {self._model.name} is gone: somebody deleted it. The live model is as it was; run this "
                "again to build another copy"
            )

    def _catch_up(self, what: str) -> None:
        """Read until the copy is where the live model stood a moment ago."""
        for _ in range(_CATCH_UPS):
            began = time.monotonic()
            self._read_to(what, self._live_positions())
            if time.monotonic() - began <= _CAUGHT_UP_S:
                return
            what = "catching up"

    def _live_positions(self) -> Mapping[int, int]:
        """Where the live model stands; of partitions that it has nothing of, where the log ends."""
        ends = self._replay.ends()
        live = self._sink.patiently(self._model.live_checkpoints, ends.keys())
        return {p: end if (at := live[p]) is None else min(at, end) for p, end in ends.items()}

    def _read_to(self, what: str, ends: Mapping[int, int]) -> None:
        self._total, self._from = ends, {}
        self._display.begin(what)
        try:
            self._replay.read_to(ends)
        finally:
            self._display.end()

    def _meet(self) -> int:
        """Wait for a live model that is behind the copy, as long as it moves; by how many offsets it still is."""
        deadline = time.monotonic() + _MEET_S
        while True:
            live = self._live_positions()
            behind = sum(max(0, at - live[partition]) for partition, at in self._replay.positions.items())
            if behind == 0 or time.monotonic() > deadline:
                return behind
            self._patience.check()
            time.sleep(_MEET_LOOK_S)

    def _tell(self, positions: Mapping[int, int], events: int) -> None:
        if not self._from:
            self._from, self._events_before = dict(positions), events
        total = sum(max(0, end - self._from.get(p, 0)) for p, end in self._total.items())
        done = sum(max(0, min(at, self._total.get(p, at)) - self._from.get(p, 0)) for p, at in positions.items())
        self._display.reading(done, total, events - self._events_before)

    def _compare_repeatedly(self) -> Comparison:
        if behind := self._meet():
            self._display.say(
                f"the live model is {behind:,} offsets behind the copy: what it has not reached is not compared"
            )
        result = self._compare(None)
        for _ in range(_COMPARISONS):
            if not result.moving:
                break
            self._catch_up("catching up")
            _add(result, self._compare(result.moving))
        return result

    def _compare(self, only: set[str] | None, *, deadline: float = float("inf")) -> Comparison:
        """Compare what `only` names, or everything. Raises `_TookTooLong` after the deadline."""

        def tell(compared: int) -> None:
            self._patience.check()
            if time.monotonic() > deadline:
                raise _TookTooLong("comparing what had moved")
            self._display.comparing(compared)

        self._display.begin("comparing")
        try:
            if deadline == float("inf"):
                return self._sink.patiently(self._model.compare, only, tell)
            return self._sink.call(self._model.compare, only, tell)
        finally:
            self._display.end()

    def _put_in_place(self, comparison: Comparison, *, keep_old: bool) -> float:
        """Switch, completing the comparison. Returns for how many seconds the live model was held."""
        why, attempts = "", _ATTEMPTS if self._model.can_be_held else _UNHELD_ATTEMPTS
        for _ in range(attempts):
            ends, live = self._replay.ends(), self._live_positions()
            if sum(ends.values()) - sum(live.values()) > _FAR_OFFSETS:
                self._read_to("reading on to the log's end", ends)
            self._display.switching()
            self._sink.patiently(self._model.hold)
            held_at = time.monotonic()
            switched = False
            try:
                self._reach_the_end(comparison, held_at + _HELD_S)
                switched = self._switch(keep_old=keep_old)
            except (LiveMoved, _TookTooLong, SinkUnavailable, CheckpointMoved) as error:
                why = str(error)
            finally:
                if not switched:
                    with suppress(SinkUnavailable, CheckpointMoved):
                        # It ends by itself, too.
                        self._sink.call(self._model.release)
            if switched:
                return time.monotonic() - held_at
            self._display.say(f"the copy is not in place yet ({why}): trying again")
            self._catch_up("catching up")
        raise CannotRebuild(
            f"the copy of {self._model.name} could not be put in place in {attempts} attempts, the last time because "
            f"of this: {why}. It is kept, and running this again goes on with it: at a time with fewer events, or with "
            f"the {self._model.name} projector stopped"
        )

    def _reach_the_end(self, comparison: Comparison, deadline: float) -> None:
        """With the live model held, compare what was left, and bring the copy to where it cannot be behind."""
        if comparison.moving:
            if not self._replay.read_to(self._live_positions(), deadline=deadline):
                raise _TookTooLong("bringing the copy to where the live model stands")
            _add(comparison, self._compare(comparison.moving, deadline=deadline))
        if not self._replay.read_to(self._replay.ends(), deadline=deadline):
            raise _TookTooLong("bringing the copy to the log's end")
        if time.monotonic() > deadline:
            raise _TookTooLong("comparing, and bringing the copy to the log's end")

    def _switch(self, *, keep_old: bool) -> bool:
        try:
            self._sink.call(self._model.switch, keep_old)
        except (SinkUnavailable, CheckpointMoved):
            # The answer was lost, and the switch may have happened: then what is in the copy's place is no copy.
            if self._sink.patiently(self._model.begun) == self._fingerprint:
                raise
            if not keep_old:
                self._sink.patiently(self._model.discard)
        return True

    def _told(self, outcome: Outcome, began: float) -> Outcome:
        outcome.seconds = time.monotonic() - began
        outcome.events = self._replay.events
        outcome.positions = self._replay.positions
        return outcome


def _add(result: Comparison, more: Comparison) -> None:
    """Complete a comparison by one of what had been moving."""
    result.compared += more.compared
    result.differing += more.differing
    result.examples += more.examples[: EXAMPLES - len(result.examples)]
    result.moving = more.moving
