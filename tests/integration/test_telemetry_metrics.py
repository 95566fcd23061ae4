"""The dashboard and the alert rules: whether processes serve what they name, and whether they mean what they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daybook.audit.keys import generate
from schemas.connections import Connections
from schemas.telemetry import probe
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, free_ports, until
from tests.wire import Wire, deposit, opening

Start = Callable[..., Process]

_HERE: Final = Path(__file__).parents[2]
_FOLDER: Final = _HERE / "deploy" / "observability"
_IMAGE: Final = "prom/prometheus:v2.42.0"
_PROJECTORS: Final = ("balances", "search", "analytics", "activity")

_NAME: Final = re.compile(r"\bdaybook_\w+")
_SELECTOR: Final = re.compile(r"\b(daybook_\w+)\{([^}]*)\}")
_BY: Final = re.compile(r"\bby\s*\(([^)]*)\)")
_LABEL: Final = re.compile(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"")

_FROM_PROMETHEUS: Final = {"job", "instance", "le"}
"""Labels that a scrape adds, or that a histogram's buckets have."""


def expressions() -> Iterator[str]:
    """Every query of the dashboard and every rule's."""
    dashboard = json.loads((_FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    rules = (_FOLDER / "alerts.yml").read_text()
    # An expression ends where the next key of its rule begins.
    found = re.findall(r"^ +expr: (.*?)^ +(?:for|labels):", rules, re.MULTILINE | re.DOTALL)
    assert len(found) == rules.count("- alert:"), "every rule has an expression"
    yield from found


def scraped(port: int) -> dict[str, set[str]]:
    """The names of samples that a process serves, each with its labels; those of a series that has none yet as well."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(got(port, "/metrics") or ""):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        for suffix in suffixes:
            found.setdefault(family.name.removesuffix("_total") + suffix, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture(scope="module")
def served(
    new_connections: Callable[[], Connections], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, set[str]]]:
    """What all processes of a ledger serve together, once each has done something; a rebuild among them."""
    from deploy.definitions import apply  # noqa: PLC0415 - as the fixtures of conftest do it

    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    logs = tmp_path_factory.mktemp("telemetry")
    first = free_ports(8)
    auditors = first + 7
    generate(logs / "audit.pem")
    env = environment(
        connections,
        DAYBOOK_COMMAND_SERVICE_METRICS_PORT=str(first),
        DAYBOOK_PROJECTOR_METRICS_PORT=str(first + 1),
        DAYBOOK_PROJECTOR_REBUILD_METRICS_PORT=str(first + 5),
        DAYBOOK_ACTIVITY_PORT=str(first + 6),
        DAYBOOK_AUDITOR_METRICS_PORT=str(auditors),
        DAYBOOK_AUDIT_KEY_FILE=str(logs / "audit.pem"),
        DAYBOOK_ANALYTICS_COMMIT_INTERVAL_S="0.5",
    )
    processes = [Process("command_service", env=env, log=logs / "service.log")]
    processes += [Process("projectors", name, env=env, log=logs / f"{name}.log") for name in _PROJECTORS]
    auditor = Process("daybook", "audit", "checkpoint", "--watch", env=env, log=logs / "auditor.log")
    for process in (*processes, auditor):
        process.start()
    try:
        until(lambda: got(auditors, "/ready") is not None, lambda: f"readiness:\n{auditor.output[-3000:]}", 180)
        for offset, process in enumerate(processes):
            until(
                lambda port=first + offset: got(port, "/ready") is not None,
                lambda process=process: f"readiness:\n{process.output[-3000:]}",
                180,
            )
        for port in range(first, first + len(processes)):
            assert_ready(port)
        with Wire(connections, PARTITIONS) as wire:
            wire.decide(opening("A-1"), deposit("A-1", 5), deposit("A-2", 5))
            wire.put(b"nonsense", key=b"A-1")
            wire.flush()
        for offset, name in enumerate(_PROJECTORS):
            port, applied = first + 1 + offset, f'daybook_projector_events_applied_total{{projector="{name}"}} 2.0'
            until(lambda port=port, applied=applied: applied in (got(port, "/metrics") or ""), f"events in {name}")
        until(lambda: "daybook_parked_total{" in (got(first, "/metrics") or ""), "a parked record")
        rebuild = Process("projectors.rebuild", "build", "balances", env=env, log=logs / "rebuild.log")
        rebuild.start()
        of_rebuild = until(lambda: scraped(first + 5), lambda: f"metrics of the rebuild:\n{rebuild.output}")
        assert rebuild.wait() == 0, rebuild.output
        together: dict[str, set[str]] = {}
        ports = (auditors, *(first + offset for offset in range(len(processes))))
        for found in [of_rebuild, *(scraped(port) for port in ports)]:
            for name, labels in found.items():
                together.setdefault(name, set()).update(labels)
        yield together
    finally:
        every = (*processes, auditor)
        statuses = [process.stop() for process in every if process.running()]
    assert statuses == [0] * len(every), "\n".join(process.output for process in every)


def assert_ready(port: int) -> None:
    """Ask as a container's health check does, in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", probe.__name__, str(port)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def got(port: int, path: str) -> str | None:
    """What a process answers; None while it gives no good answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return None


def test_every_metric_of_dashboard_and_rules_is_served(served: dict[str, set[str]]) -> None:
    named = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert len(named) > 30
    assert named - served.keys() == set()


def test_every_label_of_dashboard_and_rules_is_served(served: dict[str, set[str]]) -> None:
    missing = set()
    for expression in expressions():
        for name, selector in _SELECTOR.findall(expression):
            missing |= {(name, label) for label in _LABEL.findall(selector)} - {
                (name, label) for label in served[name] | _FROM_PROMETHEUS
            }
        known = set().union(*(served[name] for name in _NAME.findall(expression))) | _FROM_PROMETHEUS
        for labels in _BY.findall(expression):
            missing |= {(expression, label) for label in labels.replace(" ", "").split(",")} - {
                (expression, label) for label in known
            }
    assert missing == set()


def test_every_metric_of_ours_is_documented(served: dict[str, set[str]]) -> None:
    documented = set(_NAME.findall((_HERE / "docs" / "OBSERVABILITY.md").read_text()))
    ours = {
        re.sub(r"_(bucket|count|sum)$", "", name) if f"{name.rpartition('_')[0]}_bucket" in served else name
        for name in served
        # When a series began is told by the library for each of them.
        if name.startswith("daybook_") and not name.endswith("_created")
    }
    assert ours - documented == set()


@cache
def _promtool() -> list[str] | None:
    """How to run promtool on the folder, which it sees as /etc/daybook; None where it can't be had."""
    if (installed := shutil.which("promtool")) is not None:
        return [installed]
    if (docker := shutil.which("docker")) is None:
        return None
    asked = subprocess.run([docker, "image", "inspect", _IMAGE], capture_output=True, check=False)
    return None if asked.returncode else [docker, "run", "--rm", "--network=none", "-i"]


def promtool(folder: Path, *arguments: str) -> None:
    """Run promtool within a folder. Fails with what it says."""
    found = _promtool()
    if found is None:
        pytest.skip(f"neither promtool nor Docker with the image {_IMAGE} is here")
    if found[0].endswith("promtool"):
        command = [*found, *arguments]
    else:
        mount = ["-v", f"{folder}:/checked:ro", "-w", "/checked", "--entrypoint", "promtool", _IMAGE]
        command = [*found, *mount, *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool(_FOLDER, "check", "config", "prometheus.yml")
    promtool(_FOLDER, "check", "rules", "alerts.yml")


def series(name: str, values: str) -> dict[str, str]:
    return {"series": name, "values": values}


_UP: Final = [
    series(f'up{{job="{job}", instance="{job}:1"}}', "1x40")
    for job in ("command-service", *(f"projector-{name}" for name in _PROJECTORS))
]

_CASES: Final[dict[str, tuple[list[dict[str, str]], str, dict[str, str] | None]]] = {
    "all is well": (_UP, "CommandServiceDown", None),
    "the service is gone": (_UP[1:], "CommandServiceDown", {"job": "command-service"}),
    "a projector is gone": ([*_UP[:2], *_UP[3:]], "ProjectorDown", {"job": "projector-search"}),
    "a projector ended": (
        [*_UP[1:4], series('up{job="projector-activity", instance="a:1"}', "0x40")],
        "ProjectorDown",
        {"job": "projector-activity"},
    ),
    "the first record of a reason": (
        [series('daybook_parked_total{reason="oversize", instance="a:1"}', "_x35 1x5")],
        "RecordParked",
        {"reason": "oversize"},
    ),
    "one more record": (
        [series('daybook_parked_total{reason="oversize", instance="a:1"}', "3x35 4x5")],
        "RecordParked",
        {"reason": "oversize"},
    ),
    "records long ago": (
        [series('daybook_parked_total{reason="oversize", instance="a:1"}', "3x40")],
        "RecordParked",
        None,
    ),
    "most commands are refused": (
        [
            series('daybook_commands_total{outcome="refused", code="account_frozen"}', "0+60x40"),
            series('daybook_commands_total{outcome="accepted", code=""}', "0+30x40"),
        ],
        "CommandsAreRefused",
        {},
    ),
    "few commands are refused": (
        [
            series('daybook_commands_total{outcome="refused", code="account_frozen"}', "0+10x40"),
            series('daybook_commands_total{outcome="accepted", code=""}', "0+90x40"),
        ],
        "CommandsAreRefused",
        None,
    ),
    "a projector waits": (
        [
            series('daybook_projector_waiting{projector="balances", reason_class="redis"}', "0x20 1x20"),
            series('daybook_projector_waiting{projector="search", reason_class="held"}', "0x37 1 1 0"),
        ],
        "ProjectorWaits",
        {"projector": "balances", "reason_class": "redis"},
    ),
    "a projector stands still": (
        [
            series('daybook_projector_lag_offsets{projector="search", partition="0"}', "5000x40"),
            series('daybook_projector_events_applied_total{projector="search"}', "700x40"),
        ],
        "ProjectorStuck",
        {"projector": "search"},
    ),
    "a projector catches up": (
        [
            series('daybook_projector_lag_offsets{projector="search", partition="0"}', "90000-1000x40"),
            series('daybook_projector_events_applied_total{projector="search"}', "0+1000x40"),
        ],
        "ProjectorStuck",
        None,
    ),
    "a restore takes long": (
        [series('daybook_restore_progress_ratio{job="command-service", instance="a:1", partition="0"}', "0+0.01x40")],
        "RestoreTakesLong",
        {"job": "command-service", "instance": "a:1"},
    ),
}
"""What is served, a sample a minute; a rule; the labels of its alert at the end, None if it is silent."""


@pytest.mark.parametrize("case", _CASES)
def test_a_rule_alerts_when_it_should(case: str, tmp_path: Path) -> None:
    given, alert, labels = _CASES[case]
    shutil.copy(_FOLDER / "alerts.yml", tmp_path)
    of_rule = rule(alert)
    expected: list[dict[str, Any]] = []
    if labels is not None:
        expected = [{"exp_labels": labels | {"severity": of_rule["severity"]}}]
    # YAML is a superset of JSON. Annotations are not compared where a test names none, in releases from 3 on only: so
    # the alerts' series are asked for, which have the labels alone.
    samples = [
        {
            "labels": "ALERTS{"
            + ", ".join(
                f'{k}="{v}"' for k, v in (one["exp_labels"] | {"alertname": alert, "alertstate": "firing"}).items()
            )
            + "}",
            "value": 1,
        }
        for one in expected
    ]
    asked = {"expr": f'ALERTS{{alertname="{alert}", alertstate="firing"}}', "eval_time": "40m", "exp_samples": samples}
    test = {
        "rule_files": ["alerts.yml"],
        "evaluation_interval": "15s",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": [asked]}],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    tmp_path.chmod(0o755)
    for file in tmp_path.iterdir():
        file.chmod(0o644)
    promtool(tmp_path, "test", "rules", "test.yml")


def rule(alert: str) -> dict[str, str]:
    """A rule's severity and place in the runbook, which every rule has."""
    of_alert = (_FOLDER / "alerts.yml").read_text().split(f"- alert: {alert}\n", 1)[1].split("- alert:", 1)[0]
    found = {name: re.search(pattern, of_alert) for name, pattern in _PARTS.items()}
    assert all(found.values()), f"{alert} lacks one of {sorted(_PARTS)}"
    return {name: match[1] for name, match in found.items() if match is not None}


_PARTS: Final = {
    "severity": r"severity: (critical|warning)",
    "summary": r"summary: (.+)",
    "description": r"description: (.+)",
    "runbook": r"runbook: docs/OPERATIONS\.md#([a-z-]+)\n",
}


def test_every_rule_says_how_bad_it_is_and_where_the_runbook_goes_on() -> None:
    alerts = re.findall(r"- alert: (\w+)", (_FOLDER / "alerts.yml").read_text())
    anchors = {rule(alert)["runbook"] for alert in alerts}
    headings = re.findall(r"^#+ (.+)$", (_HERE / "docs" / "OPERATIONS.md").read_text(), re.MULTILINE)
    assert anchors - {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings} == set()
