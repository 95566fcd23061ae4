"""`make bench`: throughput and latency of the running command service, beside a plain loop on the same servers."""

from __future__ import annotations

import json
import statistics
import tempfile
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.analytics import AnalyticsRates, analytics_rates
from benchmarks.latency import Latency, reply_latency
from benchmarks.processes import running
from benchmarks.rebuild import Rates, rebuild_rates
from benchmarks.rebuild import preload as preload_events
from benchmarks.search import SearchRates, search_rates
from benchmarks.throughput import commands_per_second
from benchmarks.workload import preload
from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections

_SERVICE, _PLAIN = "command_service", "benchmarks.plain_loop"
_PARTITIONS = 4


def main(
    count: Annotated[int, typer.Option(help="Commands a round, the openings of the accounts among them.")] = 200_000,
    accounts: Annotated[int, typer.Option(help="Accounts that the commands are spread over.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds of throughput; service and plain loop take turns.")] = 3,
    rate: Annotated[int, typer.Option(help="Commands a second while latency is measured.")] = 200,
    seconds: Annotated[int, typer.Option(help="Seconds of latency that count.")] = 20,
    events: Annotated[int, typer.Option(help="Events on the log that a rebuild of the balances reads.")] = 400_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Start servers of their own, measure, and stop them."""
    screen = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        stack = Stack(Path(folder) / "stack")
        screen.print("starting the servers")
        stack.up(free_ports=True, attached=True)
        try:
            rates: dict[str, list[float]] = {_SERVICE: [], _PLAIN: []}
            for number in range(rounds):
                for module, found in rates.items():
                    connections = _ledger(stack.env())
                    preload(connections, count, accounts)
                    found.append(commands_per_second(module, connections, count, Path(folder) / "process.log"))
                    screen.print(f"round {number + 1}: {module} {found[-1]:,.0f} commands/s")
            connections = _ledger(stack.env())
            screen.print(f"latency at {rate} commands/s for {seconds} s")
            with running(_SERVICE, connections, Path(folder) / "process.log"):
                latency = reply_latency(connections, rate, seconds)
            screen.print("rebuilding the balances")
            rebuilds = rebuild_rates(stack.env(), events, accounts, rounds, screen.print)
            screen.print("events into the analytics table")
            connections = _ledger(stack.env())
            preload_events(connections, count, accounts, _PARTITIONS)
            analytics = analytics_rates(connections, count, _PARTITIONS, rounds)
            screen.print("events into the search indices")
            search = search_rates(_ledger(stack.env()), count, accounts, rounds)
        finally:
            stack.reset()
    _show(rates, latency, rate, rebuilds, analytics, search, as_json=as_json)


def _ledger(env: dict[str, str]) -> Connections:
    """A ledger of its own on the servers, so that no round finds another's state."""
    connections = Connections(
        kafka_bootstrap=env["DAYBOOK_KAFKA_BOOTSTRAP"],
        registry_url=env["DAYBOOK_REGISTRY_URL"],
        elasticsearch_url=env["DAYBOOK_ELASTICSEARCH_URL"],
        namespace=f"bench-{uuid.uuid4().hex[:8]}",
    )
    apply(connections, partitions=_PARTITIONS)
    return connections


def _show(
    rates: dict[str, list[float]],
    latency: Latency,
    rate: int,
    rebuilds: list[Rates],
    analytics: list[AnalyticsRates],
    search: list[SearchRates],
    *,
    as_json: bool,
) -> None:
    ratios = [service / plain for service, plain in zip(rates[_SERVICE], rates[_PLAIN], strict=True)]
    if as_json:
        print(
            json.dumps(
                {
                    "commands_per_s": rates,
                    "ratios": ratios,
                    "latency": asdict(latency),
                    "rate": rate,
                    "rebuilds": [asdict(found) for found in rebuilds],
                    "analytics_events_per_s": [asdict(found) for found in analytics],
                    "search_documents_per_s": [asdict(found) for found in search],
                }
            )
        )
        return
    table = Table("throughput, commands/s", "min", "median", "max", title="One process, commands preloaded")
    for name, values in (("command service", rates[_SERVICE]), ("plain loop", rates[_PLAIN])):
        table.add_row(name, *(f"{pick(values):,.0f}" for pick in (min, statistics.median, max)))
    table.add_row("service / plain loop", *(f"{pick(ratios):.2f}" for pick in (min, statistics.median, max)))
    Console().print(table)
    table = Table("p50", "p99", "max", "commands", "without a reply", title=f"A reply at {rate} commands/s, in ms")
    table.add_row(
        *(f"{value:.1f}" for value in (latency.p50_ms, latency.p99_ms, latency.max_ms)),
        f"{latency.count:,}",
        f"{latency.lost:,}",
    )
    Console().print(table)
    table = Table("balances", "min", "median", "max", title="Rebuilding from the log, into the same Redis")
    for name, values, form in (
        ("rebuilt, events/s", [each.rebuilt for each in rebuilds], ",.0f"),
        ("plain pipelined writes, accounts/s", [each.plain for each in rebuilds], ",.0f"),
        ("rebuilt / plain", [each.ratio for each in rebuilds], ".2f"),
    ):
        table.add_row(name, *(format(pick(values), form) for pick in (min, statistics.median, max)))
    Console().print(table)
    table = Table("analytics, events/s", "min", "median", "max", title="Into the Iceberg table")
    for name in ("from_log", "from_events", "raw"):
        values = [getattr(found, name) for found in analytics]
        table.add_row(name.replace("_", " "), *(f"{pick(values):,.0f}" for pick in (min, statistics.median, max)))
    ratios = [found.ratio for found in analytics]
    table.add_row("from events / raw", *(f"{pick(ratios):.2f}" for pick in (min, statistics.median, max)))
    Console().print(table)
    title = f"Into Elasticsearch, {search[0].documents_per_event:.1f} documents an event"
    table = Table("search, documents/s", "min", "median", "max", title=title)
    for name, field in (("projector", "projector"), ("plain bulk load", "plain"), ("requests made ready", "ready")):
        values = [getattr(found, field) for found in search]
        table.add_row(name, *(f"{pick(values):,.0f}" for pick in (min, statistics.median, max)))
    ratios = [found.ratio for found in search]
    table.add_row("projector / plain bulk load", *(f"{pick(ratios):.2f}" for pick in (min, statistics.median, max)))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
