"""Speaking with a stack's supervisor: one JSON line each way over a Unix socket in the stack's folder."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.stack.errors import NotRunningError, StackError
from deploy.stack.folder import Folder

SOCKET = "control.sock"
# The longest operation, starting a server, is bounded by the supervisor; this only guards against a hung one.
REPLY_TIMEOUT_S = 240.0


@contextmanager
def short_path(folder: Folder) -> Iterator[str]:
    """Give the socket's path through a descriptor: a socket's own path may not exceed 107 bytes."""
    descriptor = os.open(folder.run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(Path("/proc/self/fd") / str(descriptor) / SOCKET)
    finally:
        os.close(descriptor)


def ask(folder: Folder, action: str, server: str | None = None, timeout_s: float = REPLY_TIMEOUT_S) -> dict[str, Any]:
    """Have the supervisor do something and return its answer.

    NotRunningError if nobody supervises the folder; StackError with the supervisor's words if it failed.
    """
    try:
        with short_path(folder) as path, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(path)
            connection.sendall(json.dumps({"action": action, "server": server}).encode() + b"\n")
            answer = connection.makefile("rb").readline()
    except (FileNotFoundError, ConnectionError) as error:
        raise NotRunningError(f"no stack is running in {folder.root}: start it with `up`") from error
    except TimeoutError as error:
        raise StackError(
            f"the supervisor of {folder.root} did not answer within {timeout_s:.0f} s: see "
            f"{folder.log('supervisor')}, and end it with `down`"
        ) from error
    if not answer:
        raise NotRunningError(
            f"the supervisor of {folder.root} ended during {action!r}: see {folder.log('supervisor')}"
        )
    found: dict[str, Any] = json.loads(answer)
    if "error" in found:
        raise StackError(found["error"])
    return found
