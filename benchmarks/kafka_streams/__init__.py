"""What Kafka Streams takes to fill a store from the same topic of snapshots, where there is a Java compiler."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from jgo.maven import MavenContext, PythonResolver
from jgo.parse import Coordinate

from schemas.connections import Connections

_STREAMS = ("org.apache.kafka", "kafka-streams", "4.3.1")
_READ_TIMEOUT_S = 30
_TIMEOUT_S = 1_200
_SOURCE = Path(__file__).with_name("Restore.java")


class NoCompiler(Exception):
    """There is no javac on the PATH."""


def streams_restore(connections: Connections) -> tuple[float, int]:
    """From the process's start until a global store has the whole topic: seconds, and its entries.

    A global store is filled before anything else begins, so that only its restoring is timed.

    Raises:
        NoCompiler: it cannot be measured here.
    """
    compiler = shutil.which("javac")
    if compiler is None:
        raise NoCompiler("Kafka Streams is not measured: there is no Java compiler (javac) on the PATH")
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as name:
        folder = Path(name)
        jars = ":".join(str(jar) for jar in _jars(folder / "cache"))
        subprocess.run([compiler, "-cp", jars, "-d", folder, _SOURCE], check=True)
        java = str(Path(compiler).with_name("java"))
        command = [
            java,
            "-cp",
            f"{folder}:{jars}",
            "Restore",
            connections.kafka_bootstrap,
            connections.topics.snapshots,
        ]
        began = time.monotonic()
        with subprocess.Popen(
            [*command, folder / "state"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            seconds = time.monotonic() - began
            process.wait(_TIMEOUT_S)
        if not said.startswith("restored "):
            raise RuntimeError("Kafka Streams did not restore its store")
        return seconds, int(said.split()[1])


def _jars(cache: Path) -> list[Path]:
    group, artifact, version = _STREAMS
    context = MavenContext(resolver=PythonResolver(), repo_cache=cache, timeout=_READ_TIMEOUT_S)
    # Raw, as the stack's servers are resolved: see `deploy.stack.pinning`.
    wanted = context.create_dependency(Coordinate(group, artifact, version, raw=True))
    found = {each.artifact.key: each.artifact for each in (wanted, *context.resolver.resolve([wanted])[1])}
    return [each.resolve() for each in found.values()]
