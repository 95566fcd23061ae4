"""Kafka brokers in KRaft mode, each of them a controller as well."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.stack import probes
from deploy.stack.folder import write_text
from deploy.stack.java import run_java
from deploy.stack.server import LONGEST_STOP_S, ArtifactSet, Command, Place, Port

KAFKA_VERSION = "4.3.1"
# The Log4j that this Kafka depends on; Kafka's own artifacts leave the choice of an SLF4J binding open.
LOG4J_VERSION = "2.25.4"

PREFIX = "kafka-"

_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRefs = console
rootLogger.appenderRef.console.ref = CONSOLE
appender.console.type = Console
appender.console.name = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c{1})%n
logger.settings.name = org.apache.kafka.common.config.AbstractConfig
logger.settings.level = WARN
"""


def brokers(count: int) -> tuple["Kafka", ...]:
    """Return `count` brokers of one cluster."""
    return tuple(Kafka(node, count) for node in range(1, count + 1))


def bootstrap(ports: Mapping[str, int]) -> str:
    """Return the bootstrap servers of the cluster among these ports."""
    names = sorted(name for name in ports if name.removeprefix(PREFIX).isdigit())
    return ",".join(f"{probes.HOST}:{ports[name]}" for name in names)


@dataclass(frozen=True, slots=True)
class Kafka:
    """Broker and controller `node` of a cluster of `count`."""

    node: int
    count: int

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.node}"

    @property
    def ports(self) -> tuple[Port, ...]:
        return (
            Port(self.name, "--kafka-port", 19092, self.node - 1),
            Port(_controller(self.node), "--kafka-port", 19092, 100 + self.node - 1),
        )

    @property
    def artifacts(self) -> tuple[ArtifactSet, ...]:
        coordinates = (
            f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
            f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}",
        )
        return (ArtifactSet("kafka", coordinates),)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    @property
    def start_timeout_s(self) -> float:
        # 4 s on two idle cores; recovering the logs after a kill, three at once, takes longer.
        return 120.0

    @property
    def stop_timeout_s(self) -> float:
        # A second; one that can't reach the majority of its cluster any more would wait for minutes.
        return LONGEST_STOP_S

    def prepare(self, place: Place) -> Sequence[Command]:
        data = place.folder.data(self.name)
        data.mkdir(parents=True, exist_ok=True)
        settings = self._settings(place)
        write_text(self._conf(place) / "server.properties", "".join(f"{k}={v}\n" for k, v in settings.items()))
        write_text(self._conf(place) / "log4j2.properties", _LOG4J)
        # Formatting writes this file last, so that an interrupted one is simply done again.
        if (data / "meta.properties").is_file():
            return ()
        storage_tool = ["kafka.tools.StorageTool", "format", "--cluster-id", place.cluster_id]
        config = ["--config", str(self._conf(place) / "server.properties")]
        options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [run_java(place.folder.temporary, [*options, *self._java_options(place)], [*storage_tool, *config])]

    def command(self, place: Place) -> Command:
        # The broker's speed is what the benchmarks measure, so its compiler is not held back.
        heap_mb = 1024 if self.count == 1 else 640
        options = [f"-Xms{heap_mb // 2}m", f"-Xmx{heap_mb}m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
        program = ["kafka.Kafka", str(self._conf(place) / "server.properties")]
        return run_java(place.folder.temporary, [*options, *self._java_options(place)], program)

    def probe(self, place: Place) -> str | None:
        port = place.ports[self.name]
        if closed := probes.listens(port):
            return closed
        # Log level 0: a broker that is not ready yet is expected here and is not worth a line.
        client = AdminClient({"bootstrap.servers": f"{probes.HOST}:{port}", "log_level": 0})
        try:
            metadata = client.list_topics(timeout=probes.TIMEOUT_S)
        except KafkaException as error:
            return f"port {port}: {error.args[0].str()}"
        # A broker is in the metadata once the controller has registered and unfenced it.
        return None if self.node in metadata.brokers else f"broker {self.node} is not yet in its cluster"

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"DAYBOOK_KAFKA_BOOTSTRAP": bootstrap(place.ports)}

    def _settings(self, place: Place) -> Mapping[str, str]:
        nodes = range(1, self.count + 1)
        voters = ",".join(f"{node}@{probes.HOST}:{place.ports[_controller(node)]}" for node in nodes)
        listener = f"PLAINTEXT://{probes.HOST}:{place.ports[self.name]}"
        replicas = str(min(self.count, 3))
        in_sync = str(min(self.count, 2))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": voters,
            "listeners": f"{listener},CONTROLLER://{probes.HOST}:{place.ports[_controller(self.node)]}",
            "advertised.listeners": listener,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            # Relative to where it runs: a comma would divide the path, and Java reads this file as Latin-1.
            "log.dirs": os.path.relpath(place.folder.data(self.name), place.folder.temporary),
            # Topics are deployed, never conjured by a typing error.
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            # The defaults of 50 partitions only cost start-up time on one machine.
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.num.partitions": "8",
            # One machine's consumers need no time to gather before the first assignment.
            "group.initial.rebalance.delay.ms": "0",
            # The cleaner looks for work every second instead of every 15, so that compaction is seen at work.
            "log.cleaner.backoff.ms": "1000",
            # One for holders' keys while the other copies a partition of events.
            "log.cleaner.threads": "2",
            # What an erasure has deleted is off the disk within this, instead of within five minutes.
            "log.retention.check.interval.ms": "10000",
        }

    def _java_options(self, place: Place) -> list[str]:
        jars = ":".join(str(path) for path in place.artifacts["kafka"])
        log4j = (self._conf(place) / "log4j2.properties").as_uri()
        return [f"-Dlog4j2.configurationFile={log4j}", "-cp", jars]

    def _conf(self, place: Place) -> Path:
        return place.folder.conf(self.name)


def _controller(node: int) -> str:
    return f"{PREFIX}{node}-controller"
