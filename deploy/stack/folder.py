"""The stack's folder: where everything of one stack lies, and its settings.

stack.json   settings and marker: only a folder that has it is ever reset
env          the addresses, in dotenv form
lock         held while somebody changes the stack
conf/ data/ logs/   one entry per server
warehouse/   the analytics table and its catalog
audit/       the pair of keys that checkpoints are signed with
kek          the key-encryption keys, under which the keys of holders' personal fields are kept
run/         the supervisor's record, its control socket, temporary files
public/      only of a stack that is root's: what a server that runs as another user needs, laid out like this folder;
             a link to a folder elsewhere if others can't come here
"""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.access.audit import kept_key
from deploy.stack.errors import StackError
from schemas.connections import NotConfigured
from schemas.keyring import kept_file

FORMAT = 1

_PUBLIC = "public"
_ELSEWHERE = "daybook-stack-"

# A cold `up` on a slow network takes minutes; whoever waits for the lock waits a little longer than that.
LOCK_TIMEOUT_S = 600.0
# flock has no timeout of its own; asking five times a second costs nothing beside a start.
LOCK_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stack was created with, kept so that `down` and `up` meet the same data and addresses."""

    brokers: int
    cluster_id: str
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths of one stack. `root` is absolute."""

    root: Path

    @property
    def marker(self) -> Path:
        return self.root / "stack.json"

    @property
    def env(self) -> Path:
        return self.root / "env"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def temporary(self) -> Path:
        return self.run / "tmp"

    @property
    def record(self) -> Path:
        """Who supervises and which processes run, as last written by the supervisor."""
        return self.run / "processes.json"

    @property
    def warehouse(self) -> Path:
        return self.root / "warehouse"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def kek(self) -> Path:
        return self.root / "kek"

    def data(self, server: str) -> Path:
        return self.root / "data" / server

    def conf(self, server: str) -> Path:
        return self.root / "conf" / server

    def log(self, server: str) -> Path:
        return self.root / "logs" / f"{server}.log"

    def public(self) -> Path:
        """Return a folder to which every user has a way, and make it if it is missing.

        It is in this one if that can be. Else it is among the system's temporary files, since nobody's permissions are
        changed for this; a system that clears those at its start takes the server's data along.
        """
        path = self.root / _PUBLIC
        if not path.exists():
            path.unlink(missing_ok=True)
            # Options of Java's that name several paths divide them by a colon.
            if reachable(self.root) and ":" not in str(self.root):
                path.mkdir()
            else:
                path.symlink_to(tempfile.mkdtemp(prefix=_ELSEWHERE))
            path.chmod(0o755)
        return path.resolve()

    def delete(self) -> None:
        """Delete everything but the marker and the lock, which whoever deletes must go on holding."""
        public = self.root / _PUBLIC
        if public.is_symlink() and public.readlink().name.startswith(_ELSEWHERE):
            shutil.rmtree(public.readlink(), ignore_errors=True)
        for entry in self.root.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry not in (self.marker, self.lock):
                entry.unlink()

    def is_stack(self) -> bool:
        return self.marker.is_file()

    def check(self) -> None:
        """Refuse a folder that holds something else than a stack."""
        if self.root.is_dir() and not self.is_stack():
            others = [entry.name for entry in self.root.iterdir() if entry.name != "lock"]
            if others:
                raise StackError(
                    f"{self.root} is not a stack's folder: it has no stack.json but holds {others[0]!r}; "
                    "choose a new or an empty folder with --dir"
                )

    def create(self, settings: Settings) -> None:
        """Make what is missing of the folder, the marker first, and keep the settings in it."""
        write_json(self.marker, {"format": FORMAT, **asdict(settings)})
        (self.root / ".gitignore").write_text("*\n")
        for path in (self.root / "logs", self.temporary):
            path.mkdir(parents=True, exist_ok=True)
        try:
            kept_key(self.audit)
        except FileExistsError as error:
            raise StackError(
                f"{error.filename} is there without the other half of the pair: restore that, or move this one away"
            ) from error
        try:
            kept_file(self.kek, datetime.now(UTC))
        except NotConfigured as error:
            raise StackError(str(error)) from error
        # The control socket in it starts and stops servers: for the owner alone.
        self.run.chmod(0o700)

    def settings(self) -> Settings | None:
        """Read the settings, or None for a folder without a stack."""
        if not self.is_stack():
            return None
        try:
            found = json.loads(self.marker.read_text())
            if found["format"] != FORMAT:
                raise StackError(
                    f"{self.marker} has format {found['format']}, this Daybook reads {FORMAT}: "
                    "use the Daybook that made it, or another folder"
                )
            return Settings(found["brokers"], found["cluster_id"], dict(found["ports"]))
        except (ValueError, KeyError, TypeError) as error:
            raise StackError(f"{self.marker} cannot be read ({error!r}): restore it or use another folder") from error

    @contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the folder against other `up`, `down` and `reset`; calls `waiting` once if it must wait."""
        path = self.lock
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        told = False
        while (descriptor := _try_lock(path)) is None:
            if not told:
                waiting()
                told = True
            if time.monotonic() > deadline:
                raise StackError(f"{path} has been held for {LOCK_TIMEOUT_S:.0f} s by another command: end it")
            time.sleep(LOCK_INTERVAL_S)
        try:
            yield
        finally:
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, or None when another command has it or has just deleted it with the folder.

    The file is opened anew each time: one that `reset` has deleted could still be locked, and would keep nobody out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None


def write_json(path: Path, value: Any) -> None:
    """Write atomically: a reader sees the old text or the new one, never half of it."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write atomically, as `write_json` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def dotenv(variables: Mapping[str, str]) -> str:
    """Return variables as lines that dotenv files and shells alike can hold; `variables_of` reads them."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in variables.items())


def variables_of(text: str) -> dict[str, str]:
    """Return what `dotenv` wrote."""
    words = (shlex.split(line, comments=True) for line in text.splitlines())
    return dict(word[0].split("=", 1) for word in words if word)


def _quoted(value: str) -> str:
    if shlex.quote(value) == value:
        return value
    # A shell's single quotes know no escape, and in its double ones a dollar sign means something.
    if "'" not in value:
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def reachable(path: Path) -> bool:
    """Whether every user may look into a folder: by its own permissions and by those of all folders above it."""
    above = (place.stat().st_mode & 0o001 for place in path.resolve().parents)
    return bool(path.stat().st_mode & 0o005 == 0o005 and all(above))
