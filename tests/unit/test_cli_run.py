"""`daybook run`'s group, with small programs in place of the services: they start, fail and are stopped for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from daybook import supervise
from daybook.supervise import AlreadyRun, GroupFailed, OneOfEach, Program, Supervisor
from schemas.connections import Connections
from tests.processes import until

STAYS = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.1)"
TIDY = "import signal, sys\nprint('up', flush=True)\nsignal.sigwait([signal.SIGTERM])\nprint('tidied up')"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"


def program(name: str, script: str) -> Program:
    # SIGTERM is blocked until a script waits for it, so that none is stopped before it could say a word.
    if "sigwait" in script:
        script = f"import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n{script}"
    return Program(name, ("-c", script))


class Output:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def await_line(self, name: str, text: str, *, times: int = 1) -> None:
        until(lambda: sum(n == name and text in line for n, line in self.lines) >= times, f"{text!r}: {self.lines}")


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) == before


def test_programs_run_until_they_are_stopped_and_may_tidy_up(output: Output) -> None:
    group = [program("one", TIDY), program("two", TIDY)]

    with Supervisor(group, output=output):
        output.await_line("one", "up")
        output.await_line("two", "up")

    assert ("one", "tidied up") in output.lines
    assert ("two", "tidied up") in output.lines


def test_a_killed_program_is_started_again(output: Output) -> None:
    with Supervisor([program("one", STAYS)], output=output) as supervisor:
        output.await_line("one", "up")
        supervisor.kill("one")
        output.await_line("one", "up", times=2)

    assert ("one", "was killed by SIGKILL; it is started again in 1 s") in output.lines


def test_what_keeps_failing_ends_the_group(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_FIRST_PAUSE_S", 0.01)
    group = [program("good", STAYS), program("bad", "import sys\nprint('no')\nsys.exit(7)")]

    with Supervisor(group, output=output) as supervisor, pytest.raises(GroupFailed) as failed:
        supervisor.wait()

    assert str(failed.value).startswith("bad ended with exit code 7, and failed 5 times in a row")
    assert output.lines.count(("bad", "no")) == 5


def test_wrong_usage_is_not_tried_again(output: Output) -> None:
    group = [program("bad", "import sys\nsys.exit(2)")]

    with (
        Supervisor(group, output=output) as supervisor,
        pytest.raises(GroupFailed, match="bad ended with exit code 2:"),
    ):
        supervisor.wait()


def test_output_that_nobody_takes_ends_the_group() -> None:
    def broken(_name: str, _line: str) -> None:
        raise BrokenPipeError("nobody listens")

    with Supervisor([program("one", TIDY)], output=broken) as supervisor, pytest.raises(GroupFailed) as failed:
        supervisor.wait()

    assert str(failed.value) == "one cannot be kept running: nobody listens"


def test_what_does_not_stop_is_killed(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_STOP_S", 0.5)

    with Supervisor([program("one", STUBBORN)], output=output):
        output.await_line("one", "up")

    assert ("one", "did not stop within 0.5 s and is killed") in output.lines


def test_it_can_be_stopped_while_a_program_waits_to_be_started_again(output: Output) -> None:
    with Supervisor([program("bad", "import sys\nsys.exit(7)")], output=output):
        output.await_line("bad", "it is started again in 1 s")
        began = time.monotonic()

    assert time.monotonic() - began < 5


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_supervising_process_dies_its_programs_are_stopped(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import time\n"
        "from daybook.supervise import Program, Supervisor\n"
        f"Supervisor([Program('one', ('-c', {STAYS!r}))], output=lambda n, l: print(l, flush=True)).start()\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(number)

    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_only_one_group_at_a_time_runs_a_program_on_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Callable[[str], Connections]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, two = program("one", STAYS), program("two", STAYS)

    with OneOfEach(new("a"), [one]):
        with OneOfEach(new("a"), [two]), OneOfEach(new("b"), [one]):
            pass
        with pytest.raises(AlreadyRun, match=rf"one is already run on this ledger by process {os.getpid()}"):
            OneOfEach(new("a"), [two, one]).__enter__()
        with OneOfEach(new("a"), [two]), monkeypatch.context() as other:
            other.setenv("DAYBOOK_COMMAND_SERVICE_INSTANCE", "1")
            with OneOfEach(new("a"), [one]):
                pass
    with OneOfEach(new("a"), [one, two]):
        pass


@pytest.fixture
def new() -> Callable[[str], Connections]:
    return lambda namespace: Connections(
        kafka_bootstrap="localhost:1", registry_url="http://localhost:2", redis_url=None, namespace=namespace
    )


def test_a_program_is_left_out_only_where_something_that_it_needs_is_missing() -> None:
    # Once it was imported, Faust has no origin to be found by.
    import faust  # noqa: F401, PLC0415

    bare = Connections(_env_file=None, kafka_bootstrap="x", registry_url="x", iceberg_catalog="x")
    assert supervise.idle(supervise.PROGRAMS, bare) == {
        "balances": "DAYBOOK_REDIS_URL is not set",
        "search": "DAYBOOK_ELASTICSEARCH_URL is not set",
        "auditor": "DAYBOOK_AUDIT_KEY_FILE is not set",
    }
    assert supervise.is_importable("faust")
    assert not supervise.is_importable("no_such_module")
