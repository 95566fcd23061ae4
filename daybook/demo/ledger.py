"""What a demonstration runs on: a ledger that is up, and how it was found or brought up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daybook.activity import DEFAULT_PORT, ActivitySettings
from daybook.errors import DaybookError
from daybook.supervise import PROGRAMS, Supervisor, idle
from schemas.connections import Connections


class DemoFailed(DaybookError):
    """The demonstration could not be shown, or showed a difference."""


@dataclass(frozen=True, slots=True)
class Running:
    """A ledger that is up. `supervisor` is None if its services are run by somebody else."""

    connections: Connections
    supervisor: Supervisor | None
    log: str
    """Where what the services say can be read."""
    idle: Mapping[str, str]
    """Programs that are left out, by name, and why."""
    activity: ActivitySettings

    @property
    def activity_option(self) -> str:
        """What `daybook activity` must be told where it is not at its usual port."""
        default = self.activity.activity_url is not None or self.activity.activity_port == DEFAULT_PORT
        return "" if default else f" --url {self.activity.url}"


@contextmanager
def attached(folder: Path) -> Iterator[Running]:
    """The servers and services that the environment names, which somebody else runs: nothing is started or stopped.

    Raises:
        NotConfigured: the environment names none.
    """
    connections = Connections.from_environment()
    (folder / "demo").mkdir(parents=True, exist_ok=True)
    activity = ActivitySettings.from_environment()
    yield Running(connections, None, "the services' own logs", idle(PROGRAMS, connections), activity)
