"""Prometheus, in the profile `observability`, sees every process and has no rule that it cannot evaluate."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import requests

from daybook import Client
from tests.compose.composed import OURS, Composed
from tests.processes import until


def ask(stack: Composed, path: str, **parameters: str) -> Any:
    answer = requests.get(f"http://127.0.0.1:{stack.port('PROMETHEUS')}/api/v1/{path}", params=parameters, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_prometheus_sees_every_process(stack: Composed, need_image: Callable[[str], None]) -> None:
    services = stack.config("observability")["services"]
    need_image(services["prometheus"]["image"])
    try:
        stack.run("--profile", "observability", "up", "--wait", "--no-deps", "prometheus", timeout_s=300)
        jobs = {*OURS, "prometheus"}
        until(lambda: up(stack) >= jobs, f"targets up: {jobs}", 120)
        assert not {target["labels"]["job"] for target in ask(stack, "targets")["activeTargets"]} - jobs
        rules = [rule for group in ask(stack, "rules")["groups"] for rule in group["rules"]]
        assert rules
        until(lambda: all_evaluated(stack), "evaluation of every rule", 120)
        # On a stack that is well, nothing that calls for somebody is said.
        firing = [alert["labels"] for alert in ask(stack, "alerts")["alerts"] if alert["state"] == "firing"]
        assert firing == [], json.dumps(firing)
        with Client(stack.connections("client"), user_id="ada", timeout_s=90) as client:
            client.open_account(f"O-{uuid.uuid4().hex[:12]}", "EUR", "Ada Lovelace")
        until(lambda: decided(stack) > 0, "command among the metrics", 60)
    finally:
        stack.run("--profile", "observability", "rm", "--stop", "--force", "prometheus", timeout_s=120)


def up(stack: Composed) -> set[str]:
    return {target["labels"]["job"] for target in ask(stack, "targets")["activeTargets"] if target["health"] == "up"}


def decided(stack: Composed) -> float:
    """How many commands Prometheus knows of."""
    found = ask(stack, "query", query='sum(daybook_commands_total{outcome="accepted"})')["result"]
    return float(found[0]["value"][1]) if found else 0.0


def all_evaluated(stack: Composed) -> bool:
    rules = [rule for group in ask(stack, "rules")["groups"] for rule in group["rules"]]
    assert [rule["lastError"] for rule in rules if rule.get("lastError")] == []
    return all(rule["health"] == "ok" for rule in rules)
