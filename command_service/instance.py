"""Which instance this process is, where several share a machine and none is told its number.

A transactional id must be stable: whoever takes it over fences its predecessor and ends what that left open. So each
process takes the lowest number that no other has, and a restarted one finds the number of the one that died.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from command_service.settings import Settings
from schemas.connections import NotConfigured

_MOST: Final = 1000
"""More than there are partitions to share; a folder in which so many are taken is not one that was meant."""


@contextmanager
def numbered(settings: Settings) -> Iterator[Settings]:
    """The settings, with the number that was taken if there is a folder to take it from. Raises `NotConfigured`."""
    if settings.instances_dir is None:
        yield settings
        return
    with claimed(settings.instances_dir) as number:
        yield settings.model_copy(update={"instance": number})


@contextmanager
def claimed(folder: Path) -> Iterator[str]:
    """The lowest free number, from 0 on, held until the block ends or the process dies, however it dies.

    The number is a locked file in `folder`, which all instances of one machine share and which survives restarts. On
    several machines, give each instance a name of its own instead.

    Raises:
        NotConfigured: the folder cannot be written to, or has no number left.
    """
    descriptor = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(_MOST):
            descriptor = os.open(folder / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            os.close(descriptor)
            descriptor = None
    except OSError as error:
        raise NotConfigured(
            f"DAYBOOK_COMMAND_SERVICE_INSTANCES_DIR, {folder}, cannot be used: {error.strerror}"
        ) from error
    if descriptor is None:
        raise NotConfigured(f"DAYBOOK_COMMAND_SERVICE_INSTANCES_DIR, {folder}: all {_MOST} numbers are taken")
    try:
        yield str(number)
    finally:
        # Closing gives the lock back. The file stays: removing it could take it from one who is just locking it.
        os.close(descriptor)
