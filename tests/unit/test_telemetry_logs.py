"""How processes log: text for people, or JSON with what a line is about in fields."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from confluent_kafka import Message

from command_service.accounts import Overlay, PartitionState
from command_service.answers import Answers
from command_service.deciding import _MEASURED, Outcomes
from command_service.handler import Handler
from daybook import supervise
from schemas.codec import Codec
from schemas.telemetry import logs
from schemas.telemetry.latencies import ISSUED_AT, issued_at
from schemas.topics import Topics
from tests.processes import Process
from tests.unit.known_records import PACKING, codec_of, no_keys
from tests.unit.memory_registry import MemoryRegistry
from tests.wire import deposit, opening

TOPICS = Topics()
NOW_US = 1_800_000_000_000_000


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Reads what was logged. The process logs as it did before afterwards."""
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in logs._CHATTY}
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    for name, known in levels.items():
        logging.getLogger(name).setLevel(known)


def lines(stderr: Callable[[], str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in stderr().splitlines()]


def test_json_lines_say_when_where_what_and_about_what(stderr: Callable[[], str]) -> None:
    logs.set_up("command-service", "INFO", "json", instance="3")
    logging.getLogger("command_service.handler").warning("parked %s", "it", extra={"topic": "t", "offset": 7})
    (line,) = lines(stderr)
    at = datetime.fromisoformat(str(line.pop("timestamp")))
    assert at.utcoffset() is not None
    assert line == {
        "level": "warning",
        "logger": "command_service.handler",
        "event": "parked it",
        "service": "command-service",
        "instance": "3",
        "topic": "t",
        "offset": 7,
    }


def test_json_lines_hold_errors_and_what_json_does_not_know(stderr: Callable[[], str]) -> None:
    logs.set_up("x", "INFO", "json")
    try:
        int("Größe")
    except ValueError:
        logging.getLogger("a").exception("it failed", extra={"key": b"k", "path": object})
    (line,) = lines(stderr)
    assert str(line["exception"]).endswith("invalid literal for int() with base 10: 'Größe'")
    assert line["key"] == "b'k'"


def test_a_library_logs_in_the_same_form_and_requests_are_not_told(stderr: Callable[[], str]) -> None:
    logs.set_up("x", "DEBUG", "json")
    logging.getLogger("aiokafka.conn").warning("Node %s went away", 1)
    logging.getLogger("elastic_transport.transport").info("GET / [status:200]")
    assert [line["event"] for line in lines(stderr)] == ["Node 1 went away"]


def test_text_is_as_it_was_and_levels_count(stderr: Callable[[], str]) -> None:
    logs.set_up("x", "WARNING", "text")
    logging.getLogger("projectors.runner").info("goes on", extra={"topic": "t"})
    logging.getLogger("projectors.runner").warning("stops for now: %s", "Redis", extra={"topic": "t"})
    (line,) = stderr().splitlines()
    assert line.endswith(" WARNING projectors.runner stops for now: Redis")


def test_setting_up_again_replaces_what_was(stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_LOG_FORMAT", "json")
    logs.set_up("x")
    logs.set_up("x", "INFO", "json", instance="7")
    logging.getLogger("a").info("once")
    (line,) = lines(stderr)
    assert line["instance"] == "7"


@pytest.mark.parametrize(
    "where", ["raise ValueError('unforeseen')", "t = threading.Thread(target=int, args=['x']); t.start()"]
)
def test_what_nobody_catches_is_a_line_as_well(where: str) -> None:
    program = f"import threading\nfrom schemas.telemetry import logs\nlogs.set_up('x', 'INFO', 'json')\n{where}\n"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    (line,) = (json.loads(line) for line in ended.stderr.splitlines())
    assert line["level"] == "critical"
    assert "ValueError" in line["exception"]


@pytest.fixture
def codec() -> Codec:
    return codec_of(MemoryRegistry.deployed(TOPICS))


def handle(codec: Codec, *values: bytes) -> Outcomes:
    handler, outcomes = Handler(codec, TOPICS, 1, max_command_bytes=2_000), Outcomes()
    overlay = Overlay(PartitionState(Answers(capacity=1000, window=3_600_000_000), PACKING, no_keys()), 0)
    for offset, value in enumerate(values):
        record = Message(topic=TOPICS.commands, partition=0, offset=offset, key=b"A-1", value=value)
        handler.handle(record, overlay, NOW_US, outcomes)
    return outcomes


def test_parked_records_and_refusals_say_whose_they_are(codec: Codec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    unopened = deposit("A-1", 5, correlation_id="c-1")
    handle(codec, b"no command", codec.encode_command(unopened))
    parked, refused = (vars(record) for record in caplog.records)
    assert (parked["topic"], parked["partition"], parked["offset"]) == (TOPICS.commands, 0, 0)
    assert parked["levelno"] == logging.WARNING
    assert (refused["account_id"], refused["command_id"], refused["correlation_id"]) == (
        "A-1",
        unopened.command_id,
        "c-1",
    )
    assert (refused["levelno"], refused["code"]) == (logging.DEBUG, "account_not_found")


def test_a_defect_of_ours_names_the_command(
    codec: Codec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("command_service.deciding.decide", fail)
    command = opening("A-1")
    handle(codec, codec.encode_command(command))
    assert [vars(record)["command_id"] for record in caplog.records] == [command.command_id] * 2


def test_events_say_when_their_command_was_issued(codec: Codec) -> None:
    commands = [opening("A-1"), *(deposit("A-1", 5) for _ in range(3 * _MEASURED))]
    outcomes = handle(codec, *(codec.encode_command(command) for command in commands))
    events = [outgoing for outgoing in outcomes.outgoing if outgoing.topic == TOPICS.events]
    assert len(events) == len(commands)
    said = [issued_at(dict(event.headers or ()).get(ISSUED_AT)) for event in events]
    assert said[:_MEASURED] == [command.issued_at for command in commands[:_MEASURED]]
    later = [at for at in said[_MEASURED + 1 :] if at is not None]
    assert len(later) == 2 * _MEASURED / 10, "a tenth of those after them"
    assert outcomes.issued_us == [command.issued_at for command in commands]


def test_commands_given_again_are_not_measured_again(codec: Codec) -> None:
    command = codec.encode_command(opening("A-1"))
    assert len(handle(codec, command, command).issued_us) == 1


def test_a_group_of_programs_logs_json_whatever_they_print(capsys: pytest.CaptureFixture[str]) -> None:
    supervise.to_stderr_as_json("balances", '{"event": "its own"}')
    supervise.to_stderr_as_json("balances", "Fatal Python error")
    own, wrapped = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert own == {"event": "its own"}
    assert (wrapped["service"], wrapped["event"]) == ("balances", "Fatal Python error")
    supervise.to_stderr("balances", "ready")
    assert capsys.readouterr().err == "balances        | ready\n"


@pytest.fixture
def in_a_file(tmp_path: Path) -> dict[str, str]:
    """An environment in which only the dotenv file says that logs are JSON, and no server answers."""
    said = [
        "DAYBOOK_LOG_FORMAT=json",
        "DAYBOOK_KAFKA_BOOTSTRAP=127.0.0.1:1",
        "DAYBOOK_REGISTRY_URL=http://127.0.0.1:1",
        "DAYBOOK_REDIS_URL=redis://127.0.0.1:1/0",
    ]
    (tmp_path / "env").write_text("\n".join(said))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DAYBOOK_", "OTEL_"))}
    return inherited | {"DAYBOOK_ENV_FILE": str(tmp_path / "env"), "XDG_CACHE_HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("arguments", "service"),
    [
        (("daybook", "run", "--only", "balances"), "projector-balances"),
        (("projectors.rebuild", "build", "balances"), "rebuild-balances"),
    ],
)
def test_what_the_dotenv_file_says_of_the_form_counts(
    arguments: tuple[str, ...], service: str, in_a_file: dict[str, str], tmp_path: Path
) -> None:
    process = Process(*arguments, env=in_a_file, log=tmp_path / "log")
    process.start()
    try:
        # librdkafka tells of its attempts to connect, which are refused.
        process.said('"logger": "kafka"')
    finally:
        process.stop()
    assert {json.loads(line)["service"] for line in process.output.splitlines() if line.startswith("{")} == {service}
    if arguments[0] == "daybook":
        # The program itself speaks to whoever started it.
        assert [line for line in process.output.splitlines() if not line.startswith("{")] == [
            "running balances; Ctrl-C stops them"
        ]
