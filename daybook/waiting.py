"""Waiting for a read model to show something: how often to look, and for how long a look may last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

_FIRST_PAUSE_S: Final = 0.002
_LONGEST_PAUSE_S: Final = 0.05
"""A projection usually takes a few milliseconds, so the first look comes soon; the last ones spare the server."""

_LAST_LOOK_S: Final = 0.25
"""What the last look may take though the time is over: an answer that is under way should not be called none."""


def looks(timeout_s: float) -> Iterator[float]:
    """Yields, whenever it is time to look, how many seconds the look may take. The last look is when time is over."""
    deadline = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        left_s = deadline - time.monotonic()
        yield max(left_s, _LAST_LOOK_S)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
