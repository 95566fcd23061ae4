"""The commands of `daybook stack`."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from deploy.stack.errors import StackError
from deploy.stack.servers import all_servers
from deploy.stack.stack import Stack, Status

NOT_READY = 3
# How often `logs -f` looks for new lines: quicker than one reads, and no load.
FOLLOW_INTERVAL_S = 0.2

app = typer.Typer(
    help="The local stack: Kafka, schema registry, Redis-protocol server and Elasticsearch.", no_args_is_help=True
)

Dir = Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="The stack's folder.", envvar="DAYBOOK_STACK_DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_DIR = Path(".daybook")


class ConsoleReporter:
    """Shows downloads as bars and steps as lines, on standard error so that output stays clean."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._downloaded: list[int] = []

    @contextmanager
    def download(self, name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
        self._progress.start()
        task = self._progress.add_task(name, total=size_bytes)
        try:
            yield lambda count: self._progress.advance(task, count)
            self._downloaded.append(size_bytes)
        finally:
            # Done ones are removed: what is still running must fit on the screen.
            self._progress.remove_task(task)

    def step(self, message: str) -> None:
        self.close()
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """End the bars, if there were any."""
        if self._progress.live.is_started:
            self._progress.stop()
        if self._downloaded:
            megabytes = sum(self._downloaded) / 1e6
            message = f"downloaded {len(self._downloaded)} files, {megabytes:.0f} MB"
            self._downloaded.clear()
            self.step(message)


@contextmanager
def _reporting() -> Iterator[ConsoleReporter]:
    """Give a reporter, and tell an error as people read it, with exit code 1."""
    reporter = ConsoleReporter()
    try:
        yield reporter
    except StackError as error:
        reporter.step(f"error: {error}")
        raise typer.Exit(1) from error
    finally:
        reporter.close()


@app.command()
def up(
    directory: Dir = DEFAULT_DIR,
    brokers: Annotated[int | None, typer.Option(help="1 or 3 Kafka brokers; fixed once made.")] = None,
    kafka_port: Annotated[int | None, typer.Option(help="First broker's port; controllers take it + 100.")] = None,
    registry_port: Annotated[int | None, typer.Option(help="The registry's port; its health has it + 100.")] = None,
    redis_port: Annotated[int | None, typer.Option(help="The Redis-protocol server's port.")] = None,
    elasticsearch_port: Annotated[
        int | None, typer.Option(help="Elasticsearch's port; its nodes' own has it + 100.")
    ] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Let free ports be chosen.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the stack and wait until it is ready. A running one stays as it is."""
    asked = {
        "--kafka-port": kafka_port,
        "--registry-port": registry_port,
        "--redis-port": redis_port,
        "--elasticsearch-port": elasticsearch_port,
    }
    ports = {option: number for option, number in asked.items() if number is not None}
    with _reporting() as reporter:
        status = Stack(directory, reporter).up(brokers=brokers, ports=ports, free_ports=free_ports)
        _show(status, as_json=as_json)


@app.command()
def down(directory: Dir = DEFAULT_DIR) -> None:
    """Stop the stack cleanly. Its data stays."""
    with _reporting() as reporter:
        for warning in Stack(directory, reporter).down():
            reporter.step(f"warning: {warning}")
        reporter.step("the stack is down")


@app.command()
def status(directory: Dir = DEFAULT_DIR, as_json: AsJson = False) -> None:
    """Show each server. Exit code 0 when all are ready, 3 when not."""
    with _reporting() as reporter:
        found = Stack(directory, reporter).status()
        _show(found, as_json=as_json)
        if not found.ready:
            raise typer.Exit(NOT_READY)


@app.command()
def logs(
    server: Annotated[str | None, typer.Argument(help="One server's name; all of them if left out.")] = None,
    directory: Dir = DEFAULT_DIR,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 50,
) -> None:
    """Print the servers' logs."""
    with _reporting() as reporter, ExitStack() as opened:
        chosen = _logs(Stack(directory, reporter), server)
        width = max(len(path.stem) for path in chosen)
        files = [
            (f"{path.stem:<{width}} | " if len(chosen) > 1 else "", opened.enter_context(path.open(errors="replace")))
            for path in chosen
        ]
        for prefix, file in files:
            for line in deque(file, maxlen=lines):
                typer.echo(prefix + line, nl=False)
        while follow:
            for prefix, file in files:
                for line in file:
                    typer.echo(prefix + line, nl=False)
            time.sleep(FOLLOW_INTERVAL_S)


@app.command()
def reset(
    directory: Dir = DEFAULT_DIR,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Stop the stack and delete its folder, with all data."""
    with _reporting() as reporter:
        stack = Stack(directory, reporter)
        if not yes and stack.folder.is_stack():
            typer.confirm(f"Delete {stack.folder.root} with all events, schemas and read models in it?", abort=True)
        for warning in stack.reset():
            reporter.step(f"warning: {warning}")
        reporter.step(f"{stack.folder.root} is deleted")


def _logs(stack: Stack, server: str | None) -> list[Path]:
    settings = stack.folder.settings()
    if settings is None:
        raise StackError(f"{stack.folder.root} holds no stack: start one with `up`")
    names = [*(one.name for one in all_servers(settings.brokers)), "supervisor"]
    if server is not None and server not in names:
        raise StackError(f"no server {server!r} in this stack: it has {', '.join(names)}")
    found = [path for name in names if name in (server or name) and (path := stack.folder.log(name)).is_file()]
    if not found:
        raise StackError(f"{server or 'the stack'} has written no log in {stack.folder.root} yet")
    return found


def _show(found: Status, *, as_json: bool) -> None:
    console = Console()
    if as_json:
        typer.echo(json.dumps({**asdict(found), "ready": found.ready}, indent=2))
        return
    if not found.servers:
        console.print("the stack is down")
        return
    table = Table("server", "state", "ports", "process", "since", box=None)
    for server in found.servers:
        table.add_row(
            server.name,
            "[green]ready[/green]" if server.ready else f"[red]{server.detail}[/red]",
            ", ".join(str(number) for number in server.ports.values()),
            str(server.pid or "-"),
            time.strftime("%H:%M:%S", time.localtime(server.since)),
        )
    console.print(table)
    for key, value in found.environment.items():
        console.print(f"{key}={value}", highlight=False, soft_wrap=True)
