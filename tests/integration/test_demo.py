"""`make demo`, twice in a row on servers that are up, and once from nothing to nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daybook.positions import MODELS
from daybook.supervise import PROGRAMS
from deploy.stack.stack import Stack
from tests.processes import until

pytestmark = pytest.mark.usefixtures("controls_servers")

COMMAND = (sys.executable, "-W", "error", "-m", "daybook", "demo", "--accounts", "40")
ENVIRONMENT = os.environ | {"COLUMNS": "80"}


def demo(folder: Path) -> str:
    ended = subprocess.run(
        [*COMMAND, "--dir", str(folder)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def test_twice_in_a_row_on_servers_that_are_up(stack: Stack) -> None:
    first, second = demo(stack.folder.root), demo(stack.folder.root)

    for told in (first, second):
        assert "All 40 balances equal the independent sum" in told
        assert "40 accounts opened" in told
        assert all(f"{model}: equal (" in told for model in MODELS)
        assert "carried" in told.partition("the trail of demo1-")[2]
        assert "days and currencies, drawn: " in told
        assert "MoneyWithdrawn" in told.partition("live activity")[2]
        assert "how to go on" in told
        assert max(map(len, told.splitlines())) <= 80 + len(str(stack.folder.root))
    assert "there already, and not posted twice: 40 accounts" in second
    assert (stack.folder.root / "demo" / "daily-flows.png").read_bytes().startswith(b"\x89PNG")
    assert stack.status().ready


def test_from_nothing_to_nothing_with_a_pause_to_look_around(tmp_path: Path) -> None:
    folder, log = tmp_path / "stack", tmp_path / "log"
    try:
        with log.open("wb") as out:
            running = subprocess.Popen(
                [*COMMAND, "--dir", str(folder), "--keep"], env=ENVIRONMENT, stdout=out, stderr=out
            )
        until(lambda: "until Ctrl-C" in log.read_text() or running.poll() is not None, "end of the demo", 240)
        assert running.poll() is None, log.read_text()
        assert Stack(folder).status().ready
        balance = [sys.executable, "-m", "daybook", "balance", "demo1-0001"]
        asked = subprocess.run(
            balance, env=os.environ | {"DAYBOOK_ENV_FILE": str(folder / "env")}, timeout=60, check=False
        )
        assert asked.returncode == 0

        running.send_signal(signal.SIGINT)

        assert running.wait(timeout=120) == 0, log.read_text()
        assert Stack(folder).status().phase == "down"
        said = (folder / "demo" / "services.log").read_text()
        assert all(program.name in said for program in PROGRAMS)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        Stack(folder).reset()
