"""The ledger's processes as tests start, kill and await them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from deploy.stack.ports import ATTEMPTS, FREE_RANGE, is_free
from schemas.connections import Connections

T = TypeVar("T")

_given: set[int] = set()
"""The ports that were given out, by this process: none is given twice."""


def _variable(field: str) -> str:
    return f"DAYBOOK_{field.upper()}"


def connections_to(variables: Mapping[str, str]) -> Connections:
    """What these variables say, and nothing that stands in this process's environment or in a dotenv file."""
    defaults = {
        name: field.get_default() for name, field in Connections.model_fields.items() if not field.is_required()
    }
    given = {name: variables[_variable(name)] for name in Connections.model_fields if variables.get(_variable(name))}
    return Connections(_env_file=None, **(defaults | given))


def environment(connections: Connections, **more: str) -> dict[str, str]:
    """The environment of a process that is to use these connections, and nothing that stands in a dotenv file."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in map(_variable, Connections.model_fields)
    }
    values = {"DAYBOOK_ENV_FILE": os.devnull}
    for field in Connections.model_fields:
        value = getattr(connections, field)
        if value is not None:
            values[_variable(field)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    return inherited | values | more


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on.

    They are none of those that the system takes for outgoing connections, so that they stay free until they are used.
    """
    starts = range(FREE_RANGE.start, FREE_RANGE.stop - count)
    for first in random.sample(starts, ATTEMPTS):
        ports = range(first, first + count)
        if _given.isdisjoint(ports) and all(is_free(port) for port in ports):
            _given.update(ports)
            return first
    raise AssertionError(f"no {count} free ports in a row were found in {FREE_RANGE} in {ATTEMPTS} tries")


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)


def until(
    condition: Callable[[], T], what: str | Callable[[], str], timeout_s: float = 90.0, *, every_s: float = 0.02
) -> T:
    """Ask again until the answer is true, and give it back. Fails, saying what was awaited, after the time-out.

    `what` may be a function, which is called then: to say how things are at the end, not at the beginning.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        asked = time.monotonic()
        answer = condition()
        if answer:
            return answer
        now = time.monotonic()
        if now >= deadline:
            raise AssertionError(f"after {timeout_s:.0f} s still no {what if isinstance(what, str) else what()}")
        # An answer that takes work, such as reading a whole topic, should leave some of the machine to what is awaited.
        time.sleep(max(every_s, min(0.2, now - asked)))


def asked(port: int, path: str) -> tuple[int, Any]:
    """The status and the JSON that a server of this machine answers with; 0 and nothing while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


class Process:
    """A module of ours running as a process, its output in a file."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str], log: Path) -> None:
        self._command = [sys.executable, "-W", "error", "-m", module, *arguments]
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        assert self._process is None or self._process.poll() is not None, "it is running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._env, stdout=log, stderr=log)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """End it as an operator would, and return its exit status."""
        self.send(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = 90.0) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self, text: str, timeout_s: float = 90.0, *, times: int = 1) -> None:
        """Wait until it has logged a text so many times."""
        until(
            lambda: self.output.count(text) >= times, lambda: f'"{text}" in the log:\n{self.output[-4000:]}', timeout_s
        )
