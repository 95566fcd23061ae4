"""Telling a process from another that got the same number later, and ending it."""

import signal
from dataclasses import dataclass

import psutil

# The system reports a process's start in seconds since boot, and the boot time may be corrected by a second.
START_TOLERANCE_S = 1.5


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for certain: its number and when it started (seconds since the epoch)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """Return the identity of a running process; psutil.NoSuchProcess if there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """Return the process, or None once it has ended. A zombie has ended."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < START_TOLERANCE_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def kill(self, timeout_s: float) -> bool:
        """Kill it and wait; say whether it is gone. True if it had ended before."""
        found = self.process()
        if found is None:
            return True
        try:
            found.send_signal(signal.SIGKILL)
            found.wait(timeout_s)
        except psutil.NoSuchProcess:
            return True
        except psutil.TimeoutExpired:
            return False
        return True

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; say whether it ended in time."""
        found = self.process()
        if found is None:
            return True
        try:
            found.wait(timeout_s)
        except psutil.TimeoutExpired:
            return False
        return True
