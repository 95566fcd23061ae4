"""Whatever ends a stack, and whenever, nothing of it stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.stack import stack as stack_module
from deploy.stack.errors import StackError
from deploy.stack.folder import Folder, Settings
from deploy.stack.launch import supervisor_of
from deploy.stack.stack import Stack

pytestmark = pytest.mark.usefixtures("controls_servers")

# A clean stop of all takes a few seconds; this allows for a busy machine.
GONE_TIMEOUT_S = 60
STARTED_TIMEOUT_S = 90


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every process of a stack: supervisor and servers work in the stack's folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def await_none_in(folder: Path, timeout_s: float = GONE_TIMEOUT_S) -> None:
    _, alive = psutil.wait_procs(processes_in(folder), timeout_s)
    assert alive == []
    assert processes_in(folder) == []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A stack's folder; what a failing test leaves there is killed, so that it doesn't disturb others."""
    stack = Stack(tmp_path / "stack")
    yield stack.folder.root
    for process in processes_in(stack.folder.root):
        process.kill()
    # Root's has a part elsewhere.
    if stack.folder.is_stack():
        stack.reset()


@contextlib.contextmanager
def up(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run `up` as a person does."""
    arguments = [sys.executable, "-m", "deploy.stack", "up", "--free-ports", "--dir", str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def await_redis(process: subprocess.Popen[str]) -> None:
    """Wait until the first server is ready, when the others are still starting."""
    assert process.stderr is not None
    assert any(line.startswith("redis is ready") for line in process.stderr)


def test_up_that_is_killed_half_way_leaves_nothing(folder: Path) -> None:
    with up(folder) as process:
        await_redis(process)
        assert len(processes_in(folder)) >= 3
        process.kill()
        process.wait(GONE_TIMEOUT_S)
    await_none_in(folder)


def test_up_that_is_interrupted_half_way_leaves_nothing_when_it_returns(folder: Path) -> None:
    with up(folder) as process:
        await_redis(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(GONE_TIMEOUT_S) != 0
        assert processes_in(folder) == []


def test_up_that_is_interrupted_while_it_begins_leaves_nothing(folder: Path) -> None:
    with up(folder) as process:
        deadline = time.monotonic() + STARTED_TIMEOUT_S
        # The log appears just before the supervisor, which has not said who it is yet.
        while not Folder(folder).log("supervisor").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        assert process.wait(GONE_TIMEOUT_S) != 0
        await_none_in(folder)


def test_a_server_that_dies_at_start_fails_up_with_its_log_and_stops_the_others(folder: Path) -> None:
    stack = Stack(folder)
    stack.folder.create(Settings(brokers=1, cluster_id="ddxRsusjTVuI0mUqVoqdfA", ports={}))
    manifest = stack.folder.data("redis") / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("not a manifest")
    with pytest.raises(StackError, match=r"(?s)redis could not be started: it ended with exit code 1.*manifest"):
        stack.up(free_ports=True)
    assert processes_in(folder) == []
    assert stack.status().phase == "down"


def test_two_ups_at_once_make_one_stack_which_a_killed_supervisor_takes_with_it(folder: Path) -> None:
    with up(folder) as first, up(folder) as second:
        assert first.wait(STARTED_TIMEOUT_S) == 0
        assert second.wait(STARTED_TIMEOUT_S) == 0
    stack = Stack(folder)
    assert stack.status().ready
    supervisor = supervisor_of(stack.folder)
    assert supervisor is not None
    # The supervisor, the broker, the registry, the Redis-protocol server and Elasticsearch.
    assert len(processes_in(folder)) == 5
    assert supervisor.kill(GONE_TIMEOUT_S)
    await_none_in(folder)
    assert stack.status().phase == "down"


def test_an_attached_stack_ends_with_its_process_and_one_started_before_it_is_no_hindrance(folder: Path) -> None:
    script = "import sys; from deploy.stack.stack import Stack; "
    script += "Stack(sys.argv[1]).up(free_ports=True, attached=True); print('up', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", script, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert Stack(folder).status().ready
        process.kill()
    await_none_in(folder)
    # The addresses stay known and free for the next start.
    env = Stack(folder).env()
    with up(folder) as again:
        await_redis(again)
        again.send_signal(signal.SIGINT)
        again.wait(GONE_TIMEOUT_S)
    assert Stack(folder).env() == env


def test_down_ends_a_supervisor_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_module, "STOPPING_TIMEOUT_S", 1)
    monkeypatch.setattr(stack_module, "KILL_TIMEOUT_S", 1)
    stack = Stack(folder)
    with up(folder) as process:
        await_redis(process)
        supervisor = supervisor_of(stack.folder)
        assert supervisor is not None
        os.kill(supervisor.pid, signal.SIGSTOP)
        # `up` waits for a word of its supervisor and holds the folder.
        process.kill()
        process.wait(GONE_TIMEOUT_S)
    warnings = stack.down()
    assert any("did not end and was killed" in warning for warning in warnings)
    await_none_in(folder)
