"""What a server of the local stack is.

Adding a server is one file with a class that satisfies `Server`, plus its line in `servers.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deploy.stack.folder import Folder

# Bounds how long a whole stack takes to stop.
LONGEST_STOP_S = 25.0


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a server wants: `option`'s value (or `base`) plus `offset`."""

    name: str
    option: str
    base: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ArtifactSet:
    """Maven coordinates that a server runs from, with all that they depend on.

    The closure and its checksums are pinned in `artifacts.json` under `name`. An `unpack` set is one
    archive; its one path is then the folder that the archive was unpacked to.
    """

    name: str
    coordinates: tuple[str, ...]
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run: its arguments, its whole environment, and whose it is (None: the caller's).

    `stdin` is what it finds on its standard input, which then stays open for as long as it runs.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stdin: bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs: the stack's folder, the ports given to it, and its artifacts on disk."""

    folder: Folder
    ports: Mapping[str, int]
    cluster_id: str
    artifacts: Mapping[str, tuple[Path, ...]]


class Server(Protocol):
    """One process of the stack. Values only: the supervisor owns the running process."""

    @property
    def name(self) -> str:
        """Unique in the stack; names its log, its folders and the CLI's argument."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """Every port that it listens on."""

    @property
    def artifacts(self) -> tuple[ArtifactSet, ...]:
        """What must be on disk before it can be prepared."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Servers that must outlive it when the stack stops. It starts beside one, and after several."""

    @property
    def start_timeout_s(self) -> float:
        """How long it may take from its start until `probe` is content."""

    @property
    def stop_timeout_s(self) -> float:
        """How long it may take from SIGTERM to its end before it is killed; `LONGEST_STOP_S` at most."""

    def prepare(self, place: Place) -> Sequence[Command]:
        """Write configuration and return commands to run, in order, before the server starts.

        Called before every start, so it must be safe to repeat over existing data. May block.
        """

    def command(self, place: Place) -> Command:
        """Return the program that runs in the foreground until SIGTERM."""

    def probe(self, place: Place) -> str | None:
        """Return None when the server does its work, else why not yet. Blocks for 3 seconds at most."""

    def environment(self, place: Place) -> Mapping[str, str]:
        """Return the variables that tell clients where it is."""
