"""Traces without a collector that answers: what switches them on, and that they hold nobody up."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Message

from command_service.accounts import Overlay, PartitionState
from command_service.answers import Answers
from command_service.deciding import Outcomes
from command_service.handler import Handler
from daybook import link
from schemas.codec import Codec
from schemas.commands import AnyCommand
from schemas.connections import NotConfigured
from schemas.telemetry import traces
from schemas.telemetry.traces import TRACEPARENT, Tracer
from schemas.topics import Topics
from tests.unit.known_records import PACKING, codec_of, no_keys
from tests.unit.memory_registry import MemoryRegistry
from tests.wire import deposit, opening

pytest.importorskip("opentelemetry.sdk", reason="needs the extra `tracing`")

TOPICS = Topics()
# To give up on a collector takes what OTEL_EXPORTER_OTLP_TIMEOUT says.
_AT_MOST_S = 30
NOW_US = 1_800_000_000_000_000
ABOVE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _nothing_of_whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def silent() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def tracer(silent: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tracer]]:
    """Makes the tracer of a process whose environment says so.

    No thread of it outlives the test: while its exporter waits to try again it draws random numbers, which Hypothesis
    takes for a later test's.
    """
    made: list[Tracer] = []
    before = threading.enumerate()

    def make(**variables: str) -> Tracer:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", silent)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = traces.tracer("x")
        assert found is not None
        made.append(found)
        return found

    yield make
    for each in made:
        each.close()
    for thread in [each for each in threading.enumerate() if each not in before]:
        thread.join(_AT_MOST_S)
        assert not thread.is_alive(), f"{thread.name} outlives its tracer"


@pytest.fixture
def codec() -> Codec:
    return codec_of(MemoryRegistry.deployed(TOPICS))


def test_closing_does_not_wait_for_a_collector_that_does_not_answer(
    tracer: Callable[..., Tracer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_CLOSE_MS", 500)
    one = tracer(OTEL_EXPORTER_OTLP_TIMEOUT="5")
    one.begin("a step", "CLIENT").end()
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 3


def decided(codec: Codec, tracer: Tracer | None) -> Outcomes:
    handler, outcomes = Handler(codec, TOPICS, 1, max_command_bytes=2_000, tracer=tracer), Outcomes()
    overlay = Overlay(PartitionState(Answers(capacity=1000, window=3_600_000_000), PACKING, no_keys()), 0)
    refused = deposit("A-2", 5)
    commands: list[AnyCommand] = [opening("A-1"), refused, refused]
    for offset, command in enumerate(commands):
        value = codec.encode_command(command)
        record = Message(
            topic=TOPICS.commands, partition=0, offset=offset, key=b"A", value=value, headers=[(TRACEPARENT, ABOVE)]
        )
        handler.handle(record, overlay, NOW_US, outcomes)
    assert outcomes.answered == {("accepted", ""): 1, ("refused", "account_not_found"): 1, ("replayed", ""): 1}
    assert not outcomes.parked
    return outcomes


def traced(outcomes: Outcomes) -> list[bytes | str | None]:
    """The values of all headers that bear a trace."""
    return [value for each in outcomes.outgoing for name, value in each.headers or () if name == TRACEPARENT]


def test_what_a_traced_command_leads_to_bears_the_services_span(codec: Codec, tracer: Callable[..., Tracer]) -> None:
    outcomes = decided(codec, tracer())
    # All but the key of the holder, which is nobody's to wait for.
    assert len(traced(outcomes)) == len(outcomes.outgoing) - 1 == 4
    assert {traces.sampled(value) for value in traced(outcomes)} == {span.traceparent for span in outcomes.spans}


def test_a_span_that_is_not_sampled_leaves_no_header(codec: Codec, tracer: Callable[..., Tracer]) -> None:
    outcomes = decided(codec, tracer(OTEL_TRACES_SAMPLER="always_off"))
    assert traced(outcomes) == []
    untraced = decided(codec, None)
    assert [[name for name, _ in o.headers or ()] for o in outcomes.outgoing] == [
        [name for name, _ in o.headers or ()] for o in untraced.outgoing
    ]


class Broken:
    """An OpenTelemetry tracer whose spans fail, from their beginning or later."""

    def __init__(self, *, begins: bool) -> None:
        self._begins = begins

    def start_span(self, *_: object, **__: object) -> Broken:
        if not self._begins:
            raise RuntimeError("planted")
        return self

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"planted in {name}")


@pytest.mark.parametrize("begins", [False, True])
def test_an_error_in_tracing_costs_the_span_alone(
    codec: Codec, begins: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_told", False)
    caplog.set_level(logging.WARNING)
    broken: Any = Broken(begins=begins)
    outcomes = decided(codec, Tracer(None, broken))
    for span in outcomes.spans:
        span.end("an abort")
    assert traced(outcomes) == []
    assert [record.getMessage() for record in caplog.records if record.name == traces.__name__] == [
        "a step could not be traced, and maybe more that are not told of; the work goes on"
    ]


@pytest.mark.parametrize(
    "off", [{"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}]
)
def test_the_standard_variables_switch_traces_off(off: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert traces.tracer("x") is None


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_another_protocol_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv(variable, "grpc")
    with pytest.raises(NotConfigured, match=f'{variable} is "grpc".*http/protobuf'):
        traces.tracer("x")


def test_the_protocol_of_traces_counts_for_more(tracer: Callable[..., Tracer]) -> None:
    tracer(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf")


@pytest.mark.parametrize("lacking", ["package", "protocol"])
def test_a_client_goes_without_traces_that_cannot_be_had_and_says_so_once(
    lacking: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link._goes_without_traces.cache_clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    if lacking == "package":
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    else:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert [link._tracer(), link._tracer()] == [None, None]
    (told,) = (record for record in caplog.records if record.name == link.__name__)
    assert "commands are sent without traces" in told.getMessage()
