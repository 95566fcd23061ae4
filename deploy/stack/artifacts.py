"""The pinned artifacts: for each set of coordinates, every file it needs and that file's SHA-256."""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath

from deploy.stack.errors import StackError
from deploy.stack.server import ArtifactSet

PINS = "artifacts.json"


@dataclass(frozen=True, slots=True)
class Pin:
    """One file of a Maven repository, and what it must be."""

    group: str
    artifact: str
    version: str
    packaging: str
    classifier: str
    size_bytes: int
    sha256: str

    @property
    def filename(self) -> str:
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.packaging}"

    @property
    def path(self) -> PurePosixPath:
        """Where it lies in any Maven repository."""
        return PurePosixPath(*self.group.split("."), self.artifact, self.version, self.filename)


def pinned(wanted: ArtifactSet) -> tuple[Pin, ...]:
    """Return the files of a set, or fail if the pins were made for other coordinates."""
    found = json.loads((files(__package__) / PINS).read_text()).get(wanted.name)
    if found is None or tuple(found["coordinates"]) != wanted.coordinates:
        raise StackError(
            f"{PINS} pins {found and found['coordinates']} for {wanted.name!r}, which wants "
            f"{list(wanted.coordinates)}: run `python -m deploy.stack.pinning`"
        )
    return tuple(Pin(**pin) for pin in found["files"])


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
