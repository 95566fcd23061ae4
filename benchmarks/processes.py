"""A module of the project as a process of its own, as in production, told by its environment where the servers are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.connections import Connections

_STOP_TIMEOUT_S = 30
"""A service finishes its transaction and leaves its group, which takes a second."""


@contextmanager
def running(module: str, connections: Connections, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process while the block runs; it is stopped afterwards. Its output goes to `log`. `more` are
    settings of its own, as environment variables."""
    env = os.environ | {
        "DAYBOOK_KAFKA_BOOTSTRAP": connections.kafka_bootstrap,
        "DAYBOOK_REGISTRY_URL": connections.registry_url,
        "DAYBOOK_NAMESPACE": connections.namespace,
        "DAYBOOK_ENV_FILE": os.devnull,
        **more,
    }
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", module], env=env, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
