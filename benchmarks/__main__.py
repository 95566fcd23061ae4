"""`make bench`: throughput and latency of the running command service, beside a plain loop on the same servers."""

from __future__ import annotations

import json
import statistics
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.analytics import AnalyticsRates, analytics_rates
from benchmarks.audit import audit_rates
from benchmarks.kafka_streams import NoCompiler, streams_restore
from benchmarks.latency import Latency, reply_latency
from benchmarks.processes import running
from benchmarks.rebuild import Rates, rebuild_rates
from benchmarks.rebuild import preload as preload_events
from benchmarks.restore import restore_times
from benchmarks.search import SearchRates, search_rates
from benchmarks.soak import soak as run_soak
from benchmarks.spill import spill_rates
from benchmarks.throughput import commands_per_second
from benchmarks.transfers import transfer_rates
from benchmarks.workload import preload
from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections

_SERVICE, _PLAIN = "command_service", "benchmarks.plain_loop"
_PARTITIONS = 4


app = typer.Typer(add_completion=False)

ACCOUNTS = Annotated[int, typer.Option(help="Accounts.")]
JSON = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


@contextmanager
def _servers(screen: Console) -> Iterator[tuple[dict[str, str], Path]]:
    """Servers of their own while the block runs, as environment variables, and a folder."""
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        stack = Stack(Path(folder) / "stack")
        screen.print("starting the servers")
        stack.up(free_ports=True, attached=True)
        try:
            yield stack.env(), Path(folder)
        finally:
            stack.reset()


@app.command()
def restore(
    accounts: ACCOUNTS = 1_000_000,
    events: Annotated[int, typer.Option(help="Events of history, over all accounts.")] = 5_000_000,
    tail: Annotated[int, typer.Option(help="Events after the restore mark.")] = 100_000,
    *,
    as_json: JSON = False,
) -> None:
    """A cold start of the command service: seconds, and bytes an account; with the history, and with twice as much.

    Beside it, how long Kafka Streams takes to fill a store from the same topic of snapshots, which is less work: it has
    no events to go on with, no chains to verify and no command ids to remember.
    """
    screen = Console(stderr=True)
    streams: tuple[float, int] | None = None
    with _servers(screen) as (env, folder):
        connections = _ledger(env)
        found = restore_times(connections, _PARTITIONS, accounts, events, tail, folder, screen.print)
        try:
            streams = streams_restore(connections)
        except NoCompiler as error:
            screen.print(str(error))
    ratio = found[1].seconds / found[0].seconds
    if as_json:
        print(json.dumps({"cold_starts": [asdict(each) for each in found], "ratio": ratio, "kafka_streams": streams}))
        return
    table = Table(
        *("history, events", "seconds", "of which reading", "processor's seconds", "snapshots read", "events read"),
        "bytes an account",
    )
    for each in found:
        counts = (f"{each.snapshots:,}", f"{each.events:,}", f"{each.bytes_an_account:,.0f}")
        table.add_row(f"{each.history:,}", *(f"{s:.1f}" for s in (each.seconds, each.reading_s, each.cpu_s)), *counts)
    table.title = f"A cold start with {accounts:,} accounts; twice the history takes {ratio:.2f} times as long"
    Console().print(table)
    if streams is not None:
        print(f"Kafka Streams fills a store with the {streams[1]:,} records of the same topic in {streams[0]:.1f} s")


@app.command()
def spill(
    accounts: ACCOUNTS = 200_000,
    count: Annotated[int, typer.Option(help="Commands, by Zipf's law over the accounts.")] = 300_000,
    held: Annotated[int | None, typer.Option(help="Accounts in memory, if not a tenth of them.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    *,
    as_json: JSON = False,
) -> None:
    """Commands decided with a tenth of the accounts in memory, beside all of them: the rates, and that they agree."""
    screen = Console(stderr=True)
    with _servers(screen) as (env, _):
        found = spill_rates(_ledger(env), count, accounts, held or accounts // 10, rounds, screen.print)
    ratios = [each.ratio for each in found]
    if as_json:
        print(json.dumps({"commands_per_s": [asdict(each) for each in found], "ratios": ratios}))
        return
    table = Table(
        "commands/s", "min", "median", "max", title=f"{accounts:,} accounts, {found[0].spilled:,} on the disk"
    )
    for name, values in (
        ("all in memory", [each.in_memory for each in found]),
        ("spilling", [each.spilling for each in found]),
    ):
        table.add_row(name, *(f"{pick(values):,.0f}" for pick in (min, statistics.median, max)))
    table.add_row("spilling / in memory", *(f"{pick(ratios):.2f}" for pick in (min, statistics.median, max)))
    Console().print(table)


@app.command()
def audit(
    events: Annotated[int, typer.Option(help="Events on the log.")] = 1_000_000,
    accounts: ACCOUNTS = 50_000,
    jobs: Annotated[int, typer.Option(help="Processes of the second reading.")] = 2,
    *,
    as_json: JSON = False,
) -> None:
    """Events that `daybook audit verify` goes through a second, and a core: chains and trees."""
    screen = Console(stderr=True)
    with _servers(screen) as (env, _):
        found = audit_rates(_ledger(env), _PARTITIONS, events, accounts, jobs, screen.print)
    if as_json:
        print(json.dumps([{**asdict(each), "per_second": each.per_second, "a_core": each.a_core} for each in found]))
        return
    table = Table("processes", "events/s", "events/s a core", title=f"verifying {events:,} events")
    for each in found:
        table.add_row(str(each.jobs), f"{each.per_second:,.0f}", f"{each.a_core:,.0f}" if each.a_core else "")
    Console().print(table)


@app.command()
def transfers(
    count: Annotated[int, typer.Option(help="Deposits a round, and as many transfers.")] = 100_000,
    accounts: ACCOUNTS = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    *,
    as_json: JSON = False,
) -> None:
    """Transfers a second, sent and settled, beside deposits a second: by one command service, on the same accounts."""
    screen = Console(stderr=True)
    with _servers(screen) as (env, folder):
        found = transfer_rates(_ledger(env), count, accounts, rounds, folder / "process.log", screen.print)
    if as_json:
        print(json.dumps([asdict(each) | {"ratio": each.ratio} for each in found]))
        return
    table = Table("a second", "min", "median", "max", title="One command service, commands preloaded")
    for name, values, form in (
        ("deposits", [each.deposits for each in found], ",.0f"),
        ("transfers, settled", [each.transfers for each in found], ",.0f"),
        ("transfers / deposits", [each.ratio for each in found], ".2f"),
    ):
        table.add_row(name, *(format(pick(values), form) for pick in (min, statistics.median, max)))
    Console().print(table)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long transfers are asked for.")] = 10.0,
    rate: Annotated[float, typer.Option(help="Transfers a second.")] = 50.0,
    kill_every: Annotated[float, typer.Option(help="Seconds between kills, on average.")] = 5.0,
    accounts: ACCOUNTS = 200,
    *,
    as_json: JSON = False,
) -> None:
    """Transfers while two command services are killed again and again: whether the money adds up, all the while.

    The exit code is 1 when it does not.
    """
    screen = Console(stderr=True)
    with _servers(screen) as (env, folder):
        found = run_soak(
            _ledger(env),
            folder,
            seconds=60 * minutes,
            rate=rate,
            kill_every_s=kill_every,
            accounts=accounts,
            tell=screen.print,
        )
    quantiles = {"p50": found.quantile_s(0.5), "p99": found.quantile_s(0.99), "max": found.quantile_s(1)}
    if as_json:
        print(json.dumps(asdict(found) | {"latencies_s": quantiles}))
    else:
        table = Table("", "", show_header=False, title=f"{found.seconds / 60:.1f} minutes with two command services")
        for name, value in (
            ("transfers asked for", f"{found.asked:,}, {found.asked / found.seconds:.0f} a second"),
            ("sent", f"{found.accepted:,}"),
            ("refused", ", ".join(f"{count:,} {code}" for code, count in found.refused.items()) or "none"),
            ("completed", f"{found.completed:,}"),
            ("returned", ", ".join(f"{count:,} {code}" for code, count in found.returned.items()) or "none"),
            ("services killed", f"{found.kills:,} times"),
            ("cuts of the log reckoned up", f"{found.cuts:,}, with up to {found.most_in_flight:,} in flight"),
            ("from sent to settled", ", ".join(f"{n} {s:.2f} s" for n, s in quantiles.items())),
            ("nothing in transit after", f"{found.settled_after_s:.1f} s"),
            (
                "paid in = balances + in transit",
                f"{found.funds_minor:,} = {found.balances_minor:,} + {found.in_transit_minor:,}",
            ),
            ("wrong", "; ".join(found.wrong) or "nothing"),
        ):
            table.add_row(name, value)
        Console().print(table)
    raise typer.Exit(1 if found.wrong else 0)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    count: Annotated[int, typer.Option(help="Commands a round, the openings of the accounts among them.")] = 200_000,
    accounts: Annotated[int, typer.Option(help="Accounts that the commands are spread over.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds of throughput; service and plain loop take turns.")] = 3,
    rate: Annotated[int, typer.Option(help="Commands a second while latency is measured.")] = 200,
    seconds: Annotated[int, typer.Option(help="Seconds of latency that count.")] = 20,
    events: Annotated[int, typer.Option(help="Events on the log that a rebuild of the balances reads.")] = 400_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Start servers of their own, measure, and stop them."""
    if context.invoked_subcommand is not None:
        return
    screen = Console(stderr=True)
    with _servers(screen) as (env, folder):
        rates: dict[str, list[float]] = {_SERVICE: [], _PLAIN: []}
        for number in range(rounds):
            for module, found in rates.items():
                connections = _ledger(env)
                preload(connections, count, accounts)
                found.append(commands_per_second(module, connections, count, folder / "process.log"))
                screen.print(f"round {number + 1}: {module} {found[-1]:,.0f} commands/s")
        connections = _ledger(env)
        screen.print(f"latency at {rate} commands/s for {seconds} s")
        with running(_SERVICE, connections, folder / "process.log"):
            latency = reply_latency(connections, rate, seconds)
        screen.print("rebuilding the balances")
        rebuilds = rebuild_rates(env, events, accounts, rounds, screen.print)
        screen.print("events into the analytics table")
        connections = _ledger(env)
        preload_events(connections, count, accounts, _PARTITIONS)
        analytics = analytics_rates(connections, count, _PARTITIONS, rounds)
        screen.print("events into the search indices")
        search = search_rates(_ledger(env), count, accounts, rounds)
    _show(rates, latency, rate, rebuilds, analytics, search, as_json=as_json)


def _ledger(env: dict[str, str]) -> Connections:
    """A ledger of its own on the servers, so that no round finds another's state."""
    connections = Connections(
        kafka_bootstrap=env["DAYBOOK_KAFKA_BOOTSTRAP"],
        registry_url=env["DAYBOOK_REGISTRY_URL"],
        elasticsearch_url=env["DAYBOOK_ELASTICSEARCH_URL"],
        kek_file=env["DAYBOOK_KEK_FILE"],
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
    app()
