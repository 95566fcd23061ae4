"""What processes tell about themselves, without servers: the endpoint, the probe, latencies and what vitals say."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from command_service.vitals import Vitals
from projectors.progress import Progress, State
from projectors.rebuild_telemetry import RebuildTelemetry
from schemas.connections import NotConfigured
from schemas.telemetry import endpoint, probe
from schemas.telemetry.latencies import BOUNDS_S, LatencyHistogram, issued_at, issued_at_header
from schemas.telemetry.vitals import Brokers, Pulse, Status
from tests.processes import free_port

NOW_US = 1_800_000_000_000_000


class Patient:
    """Vitals that are what a test says."""

    def __init__(self) -> None:
        self.alive = Status(True)
        self.able = Status(False, "Redis is down", {"partitions": [0, 1]})

    def health(self) -> Status:
        return self.alive

    def ready(self) -> Status:
        return self.able


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def served(patient: Patient) -> Iterator[int]:
    port = free_port()
    with endpoint.serving("projector-x", "127.0.0.1", port, patient, variable="X_PORT", registry=CollectorRegistry()):
        yield port


def test_the_endpoint_says_what_the_process_says() -> None:
    patient = Patient()
    with served(patient) as port:
        assert get(port, "/health") == (200, '{"status": "ok", "reason": "", "details": {}}\n')
        code, body = get(port, "/ready")
        assert (code, json.loads(body)) == (
            503,
            {"status": "failing", "reason": "Redis is down", "details": {"partitions": [0, 1]}},
        )
        patient.able, patient.alive = Status(True), Status(False, "the loop stands still")
        assert get(port, "/ready")[0] == 200
        assert get(port, "/health")[0] == 503
        code, body = get(port, "/other")
        assert code == 404
        assert "/metrics" in body


def test_the_metrics_tell_of_the_process_as_a_whole() -> None:
    patient = Patient()
    with served(patient) as port:
        _, text = get(port, "/metrics")
        assert 'daybook_ready{service="projector-x"} 0.0' in text
        assert 'daybook_healthy{service="projector-x"} 1.0' in text
        assert 'service="projector-x"' in next(line for line in text.splitlines() if line.startswith("daybook_build"))
        patient.able = Status(True)
        assert 'daybook_ready{service="projector-x"} 1.0' in get(port, "/metrics")[1]


def test_a_port_that_is_taken_names_its_setting() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        context = endpoint.serving("x", "127.0.0.1", port, Patient(), variable="X_PORT", registry=CollectorRegistry())
        with pytest.raises(NotConfigured, match=f"X_PORT: port {port} of 127.0.0.1 cannot be listened on"), context:
            pass


def test_an_endpoint_that_ended_leaves_its_port_and_its_registry() -> None:
    port, registry = free_port(), CollectorRegistry()
    for _ in range(2):
        with endpoint.serving("x", "127.0.0.1", port, Patient(), variable="X_PORT", registry=registry):
            assert get(port, "/health")[0] == 200


def test_nothing_is_served_without_a_port() -> None:
    registry = CollectorRegistry()
    with endpoint.serving("x", "127.0.0.1", None, Patient(), variable="X_PORT", registry=registry):
        assert generate_latest(registry) == b""


def test_the_probe_exits_as_the_process_is(capsys: pytest.CaptureFixture[str]) -> None:
    patient = Patient()
    with served(patient) as port:
        assert probe.main([str(port)]) == 1
        assert capsys.readouterr().out == "Redis is down\n"
        patient.able = Status(True)
        assert probe.main([str(port)]) == 0
        assert capsys.readouterr().out == "ready\n"
    assert probe.main([str(port)]) == 1
    assert f"port {port} gives no answer" in capsys.readouterr().out
    assert probe.main(["here"]) == 2


def test_the_probe_imports_only_the_standard_library() -> None:
    # Whatever an interpreter has loaded before, such as an editable installation's finder, is not the probe's.
    program = """
import sys
before = set(sys.modules)
import schemas.telemetry.probe
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "['schemas']\n"


@given(
    st.lists(
        st.lists(st.one_of(st.integers(0, 400_000_000), st.sampled_from([round(b * 1_000_000) for b in BOUNDS_S]))),
        max_size=5,
    )
)
def test_a_histogram_filled_by_the_batch_is_prometheus_own(batches: list[list[int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = LatencyHistogram("t_seconds", "Time.", registry=ours, labels=[("projector", "x")])
    single = Histogram("t_seconds", "Time.", ["projector"], registry=theirs, buckets=BOUNDS_S).labels("x")
    for took_us in batches:
        batched.observe_since([NOW_US - each for each in took_us], NOW_US)
        for each in took_us:
            single.observe(each / 1_000_000)
    assert samples(ours) == pytest.approx(samples(theirs))


def samples(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_a_wrong_clock_puts_into_the_future_took_no_time() -> None:
    registry = CollectorRegistry()
    LatencyHistogram("t_seconds", "Time.", registry=registry).observe_since([NOW_US + 9, NOW_US - 2_000_000], NOW_US)
    assert registry.get_sample_value("t_seconds_count") == 2
    assert registry.get_sample_value("t_seconds_sum") == 2
    assert registry.get_sample_value("t_seconds_bucket", {"le": "0.005"}) == 1


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_header_bears_any_time_that_avro_has(at: int) -> None:
    assert issued_at(issued_at_header(at)[1]) == at


@pytest.mark.parametrize("value", [None, "12345678", b"", b"1234567"])
def test_a_header_that_is_not_ours_is_none(value: object) -> None:
    assert issued_at(value) is None


def test_a_loop_that_stands_still_is_not_healthy_and_says_at_what() -> None:
    pulse = Pulse(still_s=0.0)
    pulse.beat("committing")
    status = pulse.health()
    assert not status.ok
    assert "the last thing it began was committing" in status.reason
    assert Pulse().health().ok


class Cluster:
    """What is asked of a client of Kafka's, and whether it answers."""

    def __init__(self) -> None:
        self.up = False
        self.asked = 0

    def list_topics(self, topic: str, *, timeout: float) -> object:  # noqa: ARG002 - the name is the client's
        self.asked += 1
        if not self.up:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no broker"))
        return topic


def test_kafka_is_down_from_its_last_connection_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.telemetry.vitals._ASK_EVERY_S", 60.0)
    brokers, cluster = Brokers(), Cluster()
    brokers.look(cluster, "t")
    assert cluster.asked == 0, "nothing is asked while nothing is wrong"
    brokers.on_error(KafkaError(KafkaError._TRANSPORT, "refused"))
    assert brokers.down is None
    brokers.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"))
    assert brokers.down == "refused"
    brokers.look(cluster, "t")
    brokers.look(cluster, "t")
    assert cluster.asked == 1, "not each time"
    assert brokers.down == "refused (no broker)"
    monkeypatch.setattr("schemas.telemetry.vitals._ASK_EVERY_S", 0.0)
    brokers._ask_at = 0.0
    cluster.up = True
    brokers.look(cluster, "t")
    assert brokers.down is None


def test_a_command_service_is_ready_once_its_partitions_are_restored() -> None:
    vitals = Vitals()
    said: list[tuple[bool, str]] = []

    def say() -> None:
        status = vitals.ready()
        said.append((status.ok, status.reason))

    say()
    vitals.hindered(None)
    say()
    vitals.assigned([1, 0])
    say()
    vitals.restoring({0: 300, 1: 20}, {0: 1000, 1: 20})
    say()
    assert vitals.ready().details["restore_offsets_left"] == {"0": 300, "1": 20}
    vitals.restored(1.5)
    say()
    vitals.failed("a leader moved")
    say()
    vitals.committed()
    say()
    vitals.brokers.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down"))
    say()
    vitals.brokers.down = None
    vitals.unassigned()
    say()
    vitals.assigned([])
    say()
    unsaid = (False, "the consumer group has not said yet which partitions are ours")
    assert said == [
        (False, "it is starting"),
        unsaid,
        (False, "the state is being restored"),
        (False, "the state is being restored: 320 offsets are left to read"),
        (True, ""),
        (False, "the last transaction failed: a leader moved"),
        (True, ""),
        (False, "Kafka cannot be reached: no broker answers"),
        unsaid,
        (True, ""),
    ]


def test_a_restore_settles_what_a_lost_producer_left_in_doubt() -> None:
    vitals = Vitals()
    vitals.assigned([0])
    vitals.restored(0.1)
    vitals.failed("the producer was lost")
    assert not vitals.ready().ok
    vitals.unassigned()
    vitals.assigned([0])
    vitals.restored(0.1)
    assert vitals.ready().ok


def test_an_aborted_transaction_is_the_next_owners_matter() -> None:
    vitals = Vitals()
    vitals.assigned([0])
    vitals.restored(0.1)
    vitals.failed("a leader moved")
    vitals.unassigned()
    vitals.assigned([0])
    vitals.failed("a leader moved")
    assert not vitals.ready().ok, "whoever has partitions has to write"
    vitals.unassigned()
    vitals.assigned([])
    assert vitals.ready().ok


def test_what_hindered_partitions_that_went_hinders_no_more() -> None:
    vitals = Vitals()
    vitals.assigned([0])
    vitals.hindered("the registry is down")
    vitals.unassigned()
    vitals.assigned([])
    assert vitals.ready().ok


def progress() -> Progress:
    return Progress("balances", CollectorRegistry())


def test_a_projector_is_ready_when_it_stands_on_all_its_partitions() -> None:
    one = progress()
    assert "has not said yet" in one.ready().reason
    one.assigned([0, 1])
    assert one.ready().reason == "it is starting"
    one.reached(0, 5, 9)
    one.entered(State.RUNNING)
    assert one.ready().reason == "the read model was not asked yet where it stands in the partitions [1]"
    one.reached(1, 2, 2)
    assert one.ready().ok
    one.entered(State.WAITING, "Redis: refused", "redis")
    assert one.ready().reason == "Redis: refused"
    one.entered(State.RUNNING)
    assert one.ready().ok
    one.unassigned()
    assert not one.ready().ok
    one.entered(State.STOPPED)
    assert one.ready().reason == "it has stopped"


def test_a_projector_without_partitions_has_nothing_to_wait_for() -> None:
    one = progress()
    one.assigned([])
    assert one.ready().ok


def test_a_projector_tells_what_it_waits_for() -> None:
    registry = CollectorRegistry()
    one = Progress("balances", registry)

    def waiting(reason_class: str) -> Any:
        labels = {"projector": "balances", "reason_class": reason_class}
        return registry.get_sample_value("daybook_projector_waiting", labels)

    one.entered(State.WAITING, "Redis: refused", "redis")
    assert (waiting("redis"), waiting("registry")) == (1, 0)
    one.entered(State.WAITING, "the registry is down", "registry")
    assert (waiting("redis"), waiting("registry")) == (0, 1)
    one.entered(State.RUNNING)
    assert (waiting("redis"), waiting("registry")) == (0, 0)


def test_a_rebuild_tells_its_step_and_how_far_it_is() -> None:
    registry = CollectorRegistry()
    one = RebuildTelemetry("balances", registry)

    def steps() -> set[str]:
        return {
            sample.labels["step"]
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "daybook_rebuild_step" and sample.value
        }

    assert steps() == {"preparing"}
    one.step("reading")
    one.reading(25, 100, 20)
    assert steps() == {"reading"}
    assert registry.get_sample_value("daybook_rebuild_progress_ratio", {"model": "balances"}) == 0.25
    assert registry.get_sample_value("daybook_rebuild_left_offsets", {"model": "balances"}) == 75
    one.waits("Redis: refused")
    assert one.ready() == Status(False, "Redis: refused")
    one.waits(None)
    assert one.ready().ok


def test_a_rebuild_that_looks_up_schemas_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projectors.rebuild_telemetry._STILL_S", 60.0)
    one = RebuildTelemetry("balances", CollectorRegistry())
    one._pulse._last = (time.monotonic() - 61, "preparing")
    assert not one.health().ok
    one.beat()
    assert one.health().ok
    assert one.health().details["doing"] == "looking up the schemas"
