"""When a command service gives up, so that a new process tries with new clients."""

from __future__ import annotations

from command_service import assignment, transaction

_REJOINING_S = 5
"""Giving the partitions back and being given them again, between two questions."""


def test_questions_that_wait_out_their_time_one_after_the_other_end_the_process() -> None:
    # A service asked for the committed offsets for ten minutes, 30 s each time, and five of them were just too far
    # apart to be counted as one misfortune.
    waits = transaction._FAILURES - 1
    assert waits * (assignment._REQUEST_TIMEOUT_S + _REJOINING_S) < transaction._FAILURES_WITHIN_S
