"""What a command service tells about itself while it runs: whether its loop turns, and whether it takes commands.

The loop's thread writes; any thread may ask.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from command_service import metrics
from schemas.telemetry.vitals import Brokers, Pulse, Status


class Vitals:
    """One service's. It is not ready until its loop says so."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.brokers = Brokers()
        self._hindrance: str | None = "it is starting"
        self._failure: str | None = None
        self._partitions: tuple[int, ...] | None = None
        self._restored = False
        self._left: Mapping[int, int] = {}
        self._committed_at: float | None = None

    def health(self) -> Status:
        return self.pulse.health()

    def ready(self) -> Status:
        partitions, left = self._partitions, dict(self._left)
        details: dict[str, Any] = {
            "partitions": None if partitions is None else list(partitions),
            "restored": self._restored,
            "last_commit_age_s": None if self._committed_at is None else round(time.time() - self._committed_at, 1),
        }
        if left and not self._restored:
            details["restore_offsets_left"] = {str(partition): count for partition, count in sorted(left.items())}
        why = self._why_not()
        return Status(why is None, why or "", details)

    def _why_not(self) -> str | None:
        health = self.pulse.health()
        if not health.ok:
            return health.reason
        if self._hindrance is not None:
            return self._hindrance
        if self.brokers.down is not None:
            return f"Kafka cannot be reached: {self.brokers.down}"
        if self._failure is not None:
            return f"the last transaction failed: {self._failure}"
        if self._partitions is None:
            return "the consumer group has not said yet which partitions are ours"
        if not self._restored:
            left = sum(self._left.values())
            return "the state is being restored" + (f": {left:,} offsets are left to read" if left else "")
        return None

    def hindered(self, why: str | None) -> None:
        """What keeps it from its work, such as a registry that is down; None when that is over."""
        self._hindrance = why

    def failed(self, why: str) -> None:
        """A transaction was aborted, or the producer lost.

        Over with the next commit, with a restore from the log, or when no partition is left.
        """
        self._failure = why

    def committed(self) -> None:
        """A transaction was committed."""
        self._failure = None
        self._committed_at = time.time()
        metrics.LAST_COMMIT.set(self._committed_at)

    def assigned(self, partitions: Collection[int]) -> None:
        """The group gave it these partitions; none is an answer as well."""
        self._restored = not partitions
        self._left = {}
        # What hindered the partitions that it had before is their new owner's matter, and so is, without any left to
        # commit for or to restore, what became of the last transaction.
        self._hindrance = None
        if not partitions:
            self._failure = None
        self._partitions = tuple(sorted(partitions))

    def unassigned(self) -> None:
        """The partitions were given back."""
        self._partitions, self._restored, self._left = None, False, {}
        for gauge in (metrics.ACCOUNTS, metrics.HELD, metrics.LAG, metrics.RESTORE_LEFT, metrics.RESTORE_RATIO):
            gauge.clear()

    def restoring(self, left: Mapping[int, int], total: Mapping[int, int]) -> None:
        """How many offsets of each partition a restore has still to read, and how many it had at its beginning."""
        self._left = left
        for partition, offsets in left.items():
            metrics.RESTORE_LEFT.labels(partition).set(offsets)
            whole = total[partition]
            metrics.RESTORE_RATIO.labels(partition).set(1 - offsets / whole if whole else 1)

    def restored(self, seconds: float) -> None:
        """All partitions have their state; reading it took so long."""
        # What a lost producer left in doubt has been read from the log by now.
        self._restored, self._left, self._hindrance, self._failure = True, {}, None, None
        for partition in self._partitions or ():
            metrics.RESTORE_LEFT.labels(partition).set(0)
            metrics.RESTORE_RATIO.labels(partition).set(1)
        metrics.RESTORE_SECONDS.set(seconds)
