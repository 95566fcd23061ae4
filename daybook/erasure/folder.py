"""Looking for bytes in the files of a local stack, whatever they are: what servers have deleted may be there yet."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from daybook.erasure.places import NoStack
from daybook.erasure.texts import Texts
from daybook.progress import Progress, Tell

_CHUNK: Final = 4 * 1024 * 1024
_MARKER: Final = "stack.json"

_PROGRAMS: Final = ("public/home", "public/java")
"""Where the stack has copies of servers' programs: a gigabyte in which nothing is written."""

_NUMBERS_ALONE: Final = (".index", ".timeindex")
"""Kafka's, with 10 MB allocated to each partition's newest."""


def look(folder: Path, account_id: str, texts: Texts, tell: Tell) -> list[Path]:
    """The files, relative to the folder, that have one of the texts' bytes. Files that vanish meanwhile have none.

    Raises: `NoStack`.
    """
    if not (folder / _MARKER).is_file():
        raise NoStack(f"{folder} is no local stack's folder: it has no {_MARKER}. Leave out --folder, or name another")
    files = list(_files(folder))
    total = sum(size for _, size in files)
    needles = texts.own_needles()
    done = 0
    found = []
    for path, size in files:
        tell(Progress("looking through files", done // 2**20, total // 2**20))
        if _has(path, needles) or (path.suffix == ".parquet" and _in_parquet(path, account_id, texts)):
            found.append(_relative(path, folder))
        done += size
    return found


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each regular file once, with its size. A folder that is a link is entered: some servers' are elsewhere."""
    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(folder, onerror=_unless_gone, followlinks=True):
        try:
            status = Path(where).stat()
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        folders[:] = [name for name in folders if Path(where, name).relative_to(folder).as_posix() not in _PROGRAMS]
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            path = Path(where, name)
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unreadable(path, error) from error
            if stat.S_ISREG(status.st_mode) and path.suffix not in _NUMBERS_ALONE:
                yield path, status.st_size


def _has(path: Path, needles: Sequence[bytes]) -> bool:
    if not needles:
        return False
    longest = max(map(len, needles))
    tail = b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                data = tail + chunk
                if any(needle in data for needle in needles):
                    return True
                # A needle may begin here and end in what comes next.
                tail = data[-(longest - 1) :] if longest > 1 else b""
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return False


def _unless_gone(error: OSError) -> None:
    """What cannot be listed would be passed over without a word. Servers delete folders all the time, though."""
    if not isinstance(error, FileNotFoundError):
        raise _unreadable(Path(error.filename), error) from error


def _unreadable(path: Path, error: OSError) -> NoStack:
    return NoStack(f"{path} cannot be read: {error.strerror}. Look as the user that the servers run as")


def _in_parquet(path: Path, account_id: str, texts: Texts) -> bool:
    try:
        from daybook.erasure.table import in_file  # noqa: PLC0415 - daybook[analytics]
    except ModuleNotFoundError:
        return False
    return in_file(path, account_id, texts)


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path
