"""`python -m projectors.rebuild`: builds a read model anew beside the live one and puts it in its place.

Exit codes are those of `daybook`, which starts this as `daybook rebuild`: 0 done, 1 a comparison found differences,
2 wrong usage, 4 not configured, 5 it failed, 130 it was told to stop.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from projectors.holders import KeyTopic
from projectors.patience import Patience, SinkThread, Stopped
from projectors.projector import CannotProject, CheckpointMoved, SinkUnavailable
from projectors.rebuild_display import RebuildDisplay
from projectors.rebuild_lock import OneRebuild
from projectors.rebuild_steps import Outcome, Rebuild
from projectors.rebuild_telemetry import RebuildTelemetry
from projectors.rebuilding import CannotRebuild, Rebuildable
from projectors.replay import Replay, consumer
from projectors.settings import ProjectorSettings
from projectors.source import NoSource, Source, SourceUnavailable, identify
from schemas.codec import Codec
from schemas.connections import Connections, NotConfigured
from schemas.keyring import KeyRing
from schemas.login import LoginWatch
from schemas.registry import Registry, SchemaNotRegistered, look_up_patiently
from schemas.telemetry import endpoint, logs
from schemas.telemetry.quiet import kafka_logger

_LIVE_BATCHES: Final = 10
"""So many live batches are taken as one: the more events, the more of them are collapsed into one write. One is decoded
while another is applied and a third is fetched; with the default of 10,000 events that takes half a gigabyte."""

_COLLECT_EVERY: Final = 200_000
"""Objects between two looks of the garbage collector. A replay makes hundreds of thousands of messages and no cycles;
looking through them every 700, as is the default, takes a tenth of the time."""

_DIFFERENT: Final = 1
_USAGE: Final = 2
_NOT_CONFIGURED: Final = 4
_FAILED: Final = 5
_INTERRUPTED: Final = 130

Make = Callable[[Source], Rebuildable]


@dataclass(frozen=True, slots=True)
class Model:
    """What a rebuild needs to know of a model: how to make it, and which files of `projectors` decide what it holds,
    and which of `schemas` besides those by which all models read events.

    `open` checks the configuration, may leave things to be closed with the stack, and imports what not every
    installation has.
    """

    open: Callable[[Connections, ProjectorSettings, ExitStack], Make]
    sources: tuple[str, ...]
    schemas: tuple[str, ...] = ()


def _balances(connections: Connections, settings: ProjectorSettings, clients: ExitStack) -> Make:
    from projectors.balances_rebuild import BalancesRebuild  # noqa: PLC0415 - each model imports its own client library
    from projectors.redis_functions import connect, database_of  # noqa: PLC0415

    url = connections.redis()
    try:
        live = connect(url)
        number = database_of(live) + 1 if settings.rebuild_database is None else settings.rebuild_database
        copy = connect(url, number)
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_REDIS_URL: {error}") from None
    clients.callback(live.close)
    clients.callback(copy.close)
    return lambda source: BalancesRebuild(live, copy, source)


def _search(connections: Connections, _: ProjectorSettings, clients: ExitStack) -> Make:
    from projectors.elasticsearch import connect  # noqa: PLC0415 - each model imports its own client library
    from projectors.search_rebuild import SearchRebuild  # noqa: PLC0415

    indices = connections.indices
    holders = KeyTopic(connections, KeyRing.of(connections))
    clients.callback(holders.close)
    try:
        client = connect(connections.elasticsearch())
    except ValueError as error:
        raise NotConfigured(f"DAYBOOK_ELASTICSEARCH_URL: {error}") from None
    clients.callback(client.close)
    return lambda source: SearchRebuild(client, indices, source, holders)


def _analytics(connections: Connections, _: ProjectorSettings, clients: ExitStack) -> Make:
    try:
        from projectors.analytics_rebuild import AnalyticsRebuild  # noqa: PLC0415 - it needs an extra's libraries
        from projectors.analytics_table import EventsTable  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise NotConfigured(f"{missing} is not installed: pip install 'daybook[analytics]'") from error
    table = EventsTable(connections)
    clients.callback(table.close)
    return lambda source: AnalyticsRebuild(table, source)


MODELS: Final[Mapping[str, Model]] = {
    "analytics": Model(_analytics, ("analytics.py", "analytics_table.py"), ("iceberg.py", "money.py")),
    "balances": Model(_balances, ("balances.py", "balances.lua")),
    "search": Model(_search, ("search.py", "search_documents.py", "holders.py"), ("personal.py", "sealing.py")),
}
"""By name, the models that can be rebuilt."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says, until done or told to stop."""
    options = _parser().parse_args(arguments)
    _set_up_logs(options.model)
    gc.set_threshold(_COLLECT_EVERY)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        return _run(options, stopping)
    except NotConfigured as error:
        print(f"error: {error}", file=sys.stderr)
        return _NOT_CONFIGURED
    except Stopped:
        print(
            "stopped: the live model is as it was, and running the same again goes on with the copy",
            file=sys.stderr,
        )
        return _INTERRUPTED
    except (CannotRebuild, CannotProject, NoSource, SchemaNotRegistered, KafkaException) as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except (SinkUnavailable, CheckpointMoved) as error:
        print(f"error: {error}. Nothing of the copy is lost: run the same again to go on with it", file=sys.stderr)
        return _FAILED


def _set_up_logs(model: str, form: str | None = None) -> None:
    """Only what is wrong, since the display says what is right."""
    logs.set_up(f"rebuild-{model}", "WARNING", form, text="%(levelname)s %(name)s: %(message)s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="projectors.rebuild", description="Build a read model anew.")
    parser.add_argument("do", choices=("build", "rollback", "discard"))
    parser.add_argument("model", metavar="MODEL", choices=sorted(MODELS))
    parser.add_argument("--from-start", action="store_true")
    parser.add_argument("--keep-old", action="store_true")
    parser.add_argument("--compare-only", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser


def _run(options: argparse.Namespace, stopping: threading.Event) -> int:
    settings = ProjectorSettings.from_environment()
    connections = Connections.from_environment()
    name: str = options.model
    _set_up_logs(name, settings.log_format)
    with ExitStack() as open_:
        telemetry = RebuildTelemetry(name, REGISTRY)
        open_.enter_context(
            endpoint.serving(
                f"rebuild-{name}",
                settings.metrics_host,
                settings.rebuild_metrics_port,
                telemetry,
                variable="DAYBOOK_PROJECTOR_REBUILD_METRICS_PORT",
            )
        )
        display = open_.enter_context(RebuildDisplay(telemetry=telemetry))
        patience = Patience(stopping, display.say, telemetry.waits)
        make = MODELS[name].open(connections, settings, open_)
        login = LoginWatch(connections)
        admin = open_.enter_context(AdminClient(connections.kafka() | login.options, logger=kafka_logger()))
        source = _source(admin, login, connections, patience)
        registry = open_.enter_context(Registry(connections))
        codec = Codec(registry)

        def look_up() -> None:
            telemetry.beat()
            codec.look_up_events(source.topic)

        def waits(why: str) -> None:
            display.say(why)
            telemetry.waits(why)

        if not look_up_patiently(look_up, stopping, waits):
            raise Stopped
        telemetry.waits(None)
        open_.enter_context(OneRebuild(connections, name, patience, display.say))
        reader = open_.enter_context(closing(consumer(connections, name)))
        partitions = _partitions(reader, source.topic)
        sink = open_.enter_context(SinkThread(patience))
        model = sink.call(make, source)
        # The live model is of this log, or it is not ours to replace.
        sink.patiently(model.live_checkpoints, partitions)

        def replay(check: Callable[[], None], tell: Callable[[Mapping[int, int], int], None]) -> Replay:
            return Replay(
                model.copy,
                sink,
                reader,
                admin,
                source.topic,
                partitions,
                codec,
                patience,
                batch_events=_LIVE_BATCHES * settings.batch_events,
                check=check,
                tell=tell,
            )

        rebuild = Rebuild(
            model, sink, replay, patience, display, fingerprint(MODELS[name].sources, MODELS[name].schemas)
        )
        match options.do:
            case "discard":
                found = rebuild.discard()
                _show({"model": name, "discarded": found}, options)
                display.say("deleted" if found else f"{name} has no copy and no kept old model to delete")
                return 0
            case "rollback":
                outcome = rebuild.roll_back()
            case _:
                outcome = rebuild.build(
                    from_start=options.from_start,
                    keep_old=options.keep_old,
                    compare_only=options.compare_only,
                    keep_copy=options.keep,
                )
        _tell(outcome, display)
        _show(_as_json(outcome), options)
        return _DIFFERENT if options.compare_only and outcome.comparison.differing else 0


def fingerprint(sources: Sequence[str], more_schemas: Sequence[str] = ()) -> str:
    """SHA-256 over the code that decides what a model holds: its own files, and how events are read."""
    projectors, schemas = resources.files("projectors"), resources.files("schemas")
    files: list[Traversable] = [projectors.joinpath(name) for name in sources]
    files += [schemas.joinpath(name) for name in ("codec.py", "events.py", "quick.py", "compiled.py", *more_schemas)]
    files += sorted(
        (file for file in schemas.joinpath("account").iterdir() if file.name.endswith(".avsc")), key=lambda f: f.name
    )
    digest = sha256()
    for file in files:
        digest.update(sha256(f"{file.name}\n".encode() + file.read_bytes()).digest())
    return digest.hexdigest()


def _source(admin: AdminClient, login: LoginWatch, connections: Connections, patience: Patience) -> Source:
    """The log to read, once Kafka says which it is. Raises `NoSource`, `NotConfigured` or `Stopped`."""
    while True:
        try:
            source = identify(admin, connections.topics.events)
        except SourceUnavailable as error:
            login.check(admin)
            patience.wait(error)
        else:
            patience.went_on()
            return source


def _partitions(reader: Consumer, topic: str) -> list[int]:
    # The topic was there a moment ago, and its partitions never change.
    return sorted(reader.list_topics(topic, timeout=10).topics[topic].partitions)


def _tell(outcome: Outcome, display: RebuildDisplay) -> None:
    name = outcome.model
    positions = ", ".join(f"{partition}: {offset}" for partition, offset in sorted(outcome.positions.items()))
    display.say(f"{outcome.events:,} events read in {outcome.seconds:,.1f} s, up to the offsets {positions}")
    if not outcome.switched:
        display.say("the live model is as it was")
        return
    what = "old model is in place again" if outcome.rolled_back else "rebuilt model is in place"
    display.say(f"the {what}; the live one stood still for {outcome.held_seconds:.1f} s")
    if outcome.kept_old:
        display.say(
            f"the one it replaced is kept: `daybook rebuild rollback {name}` goes back to it, `daybook rebuild discard "
            f"{name}` deletes it"
        )
    else:
        display.say("the one it replaced is deleted (--keep-old would have kept it)")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    comparison = outcome.comparison
    return {
        "model": outcome.model,
        "switched": outcome.switched,
        "kept_old": outcome.kept_old,
        "rolled_back": outcome.rolled_back,
        "resumed": outcome.resumed,
        "events": outcome.events,
        "seconds": round(outcome.seconds, 3),
        "events_per_s": round(outcome.events_per_s),
        "held_seconds": round(outcome.held_seconds, 3),
        "positions": {str(partition): offset for partition, offset in sorted(outcome.positions.items())},
        "compared": comparison.compared,
        "differing": comparison.differing,
        "not_compared": len(comparison.moving),
        "examples": [{"what": e.what, "live": e.live, "rebuilt": e.rebuilt} for e in comparison.examples],
    }


def _show(record: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(record, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
