"""The activity with a Faust that loses events on their way to the agent, as it does at times: every other batch first.

Run as a process in place of `projectors activity`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from faust.types import EventT

from projectors.__main__ import main
from projectors.activity.app import Activity

_LOST = 6
"""So many batches are lost; the very first one among them, before any offset is committed."""


def lose() -> None:
    whole = Activity._in_order
    batches = 0

    def losing(activity: Activity, events: Sequence[EventT[Any]]) -> Sequence[EventT[Any]]:
        nonlocal batches
        batches += 1
        lost = batches % 2 == 1 and batches < 2 * _LOST
        return () if lost else whole(activity, events)

    Activity._in_order = losing  # type: ignore[method-assign]


if __name__ == "__main__":
    lose()
    sys.exit(main(["activity"]))
