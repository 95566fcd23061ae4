"""Events into the Iceberg table, beside what Arrow and PyIceberg take for the same rows when nothing else is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from benchmarks.workload import codec
from projectors.analytics import AnalyticsProjector, rows
from projectors.analytics_table import SCHEMA, EventsTable
from projectors.projector import Batch
from projectors.records import read
from projectors.source import Source
from schemas.connections import Connections
from schemas.iceberg import open_catalog

_BATCH = 50_000
"""As many events as a rebuild takes at once."""
_SOURCE = Source("benchmark", "account.events", "benchmark")
_TIMEOUT_S = 600


@dataclass(frozen=True)
class AnalyticsRates:
    """Events a second: from the log into the table, as a rebuild does it in a process of its own; from decoded events
    into the table, a commit for each batch; and the same rows built and appended in one commit by PyIceberg itself, to
    a table without partitions and without a place to keep."""

    from_log: float
    from_events: float
    raw: float

    @property
    def ratio(self) -> float:
        return self.from_events / self.raw


def analytics_rates(connections: Connections, count: int, partitions: int, rounds: int) -> list[AnalyticsRates]:
    """Measure all three in turns, on a ledger whose log `benchmarks.rebuild.preload` has filled."""
    batches = _batches(connections, count, partitions)
    return [AnalyticsRates(_from_log(connections, count), _apply(batches), _raw(batches)) for _ in range(rounds)]


def _from_log(connections: Connections, count: int) -> float:
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        at = _local(folder)
        env = os.environ | {
            "DAYBOOK_KAFKA_BOOTSTRAP": connections.kafka_bootstrap,
            "DAYBOOK_REGISTRY_URL": connections.registry_url,
            "DAYBOOK_ICEBERG_CATALOG": str(at.iceberg_catalog),
            "DAYBOOK_ICEBERG_WAREHOUSE": str(at.iceberg_warehouse),
            "DAYBOOK_NAMESPACE": connections.namespace,
            "DAYBOOK_ENV_FILE": os.devnull,
        }
        command = [sys.executable, "-m", "projectors.rebuild", "build", "analytics", "--from-start", "--json"]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S)
        outcome = json.loads(done.stdout)
        if outcome["events"] != count:
            raise RuntimeError(f"the rebuild read {outcome['events']} of {count} events: {outcome}")
        return float(outcome["events_per_s"])


def _apply(batches: Sequence[Batch]) -> float:
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        projector = AnalyticsProjector(EventsTable(_local(folder)), _SOURCE, commit_interval_s=0.0)
        projector.checkpoint(0)
        began = time.perf_counter()
        for batch in batches:
            projector.apply([batch])
        return _events(batches) / (time.perf_counter() - began)


def _raw(batches: Sequence[Batch]) -> float:
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder, open_catalog(_local(folder)) as catalog:
        catalog.create_namespace("raw")
        table = catalog.create_table("raw.events", schema=SCHEMA)
        began = time.perf_counter()
        table.append(rows(batches))
        return _events(batches) / (time.perf_counter() - began)


def _local(folder: str) -> Connections:
    """A catalog and a warehouse in a folder."""
    return Connections(
        kafka_bootstrap="unused",
        registry_url="unused",
        iceberg_catalog=f"sqlite:///{Path(folder)}/catalog.db",
        iceberg_warehouse=f"file://{folder}",
    )


def _events(batches: Sequence[Batch]) -> int:
    return sum(len(batch.events) for batch in batches)


def _batches(connections: Connections, count: int, partitions: int) -> list[Batch]:
    """The whole log, decoded."""
    decoder, topic = codec(connections), connections.topics.events
    batches: list[Batch] = []
    found = 0
    with closing(Consumer(connections.kafka(group_id="benchmark", enable_auto_commit=False))) as consumer:
        for partition in range(partitions):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
            consumer.assign([TopicPartition(topic, partition, 0)])
            base: int | None = None
            while (base or 0) < end:
                messages = consumer.consume(min(_BATCH, end - (base or 0)), 10)
                batch, failure = read(messages, partition, base, decoder)
                if failure is not None or batch is None:
                    raise RuntimeError(f"partition {partition} could not be read from {base} to {end}: {failure}")
                batches.append(batch)
                found += len(batch.events)
                base = batch.next_offset
    if found != count:
        raise RuntimeError(f"the log has {found} events, not {count}")
    return batches
