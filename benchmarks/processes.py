"""A module of the project as a process of its own, as in production, told by its environment where the servers are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.connections import Connections

LOOPBACK = "127.0.0.1"

_STOP_TIMEOUT_S = 30
"""A service finishes its transaction and leaves its group, which takes a second."""


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def running(module: str, connections: Connections, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process while the block runs; it is stopped afterwards. The rest is as of `spawned`."""
    process = spawned(module, connections, log, **more)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def spawned(module: str, connections: Connections, log: Path, **more: str) -> subprocess.Popen[bytes]:
    """The process, for the caller to stop. Its output goes to `log`. `more` are settings of its own, as environment
    variables."""
    env = os.environ | {
        "DAYBOOK_KAFKA_BOOTSTRAP": connections.kafka_bootstrap,
        "DAYBOOK_REGISTRY_URL": connections.registry_url,
        "DAYBOOK_NAMESPACE": connections.namespace,
        "DAYBOOK_KEK_FILE": connections.kek_file or "",
        "DAYBOOK_ENV_FILE": os.devnull,
        **more,
    }
    with log.open("ab") as output:
        return subprocess.Popen([sys.executable, "-m", module], env=env, stdout=output, stderr=output)
