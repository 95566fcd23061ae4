"""The schema registry: Apicurio, keeping its schemas in our own Kafka, with Confluent's API."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack import probes
from deploy.stack.folder import write_text
from deploy.stack.java import run_java
from deploy.stack.kafka import bootstrap
from deploy.stack.server import ArtifactSet, Command, Place, Port

CONFLUENT_API = "/apis/ccompat/v7"


class Registry:
    """One registry. `brokers` are the servers that hold its storage, and `more` are settings beside the stack's own."""

    name = "registry"
    ports = (
        Port("registry", "--registry-port", 18081),
        Port("registry-management", "--registry-port", 18081, 100),
    )
    artifacts = (ArtifactSet("registry", ("io.apicurio:apicurio-registry-app:tar.gz:all:3.3.3",), unpack=True),)
    # It takes 10 s on two cores, three times that when the brokers start beside it on a busy machine.
    start_timeout_s = 150.0
    # Half a second, unless its brokers are gone: then it waits for them without end. It keeps nothing itself.
    stop_timeout_s = 5.0

    def __init__(self, brokers: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        self.needs = tuple(brokers)
        self._more = more or {}

    def prepare(self, place: Place) -> Sequence[Command]:
        settings = {
            "quarkus.http.host": probes.HOST,
            "quarkus.http.port": str(place.ports["registry"]),
            # Health and metrics have a port of their own, which defaults to 9000 on all interfaces.
            "quarkus.management.host": probes.HOST,
            "quarkus.management.port": str(place.ports["registry-management"]),
            "quarkus.http.access-log.enabled": "false",
            "quarkus.otel.sdk.disabled": "true",
            "apicurio.storage.kind": "kafkasql",
            "apicurio.kafkasql.bootstrap.servers": bootstrap(place.ports),
            # A start waits for two polls of the snapshots topic that find nothing: 5 s each by default.
            "apicurio.kafkasql.consumer.poll.timeout": "1000",
            # It starts beside its brokers and asks for its topics at once: let it wait for them.
            "apicurio.kafkasql.admin.default.api.timeout.ms": "120000",
            # Its clients' settings would fill the log and hide what matters in it.
            'quarkus.log.category."org.apache.kafka".level': "WARN",
            "apicurio.import.work-dir": str(place.folder.temporary),
        }
        merged = {**settings, **self._more}
        write_text(self._conf(place), "".join(f"{key}={value}\n" for key, value in merged.items()))
        return ()

    def command(self, place: Place) -> Command:
        (unpacked,) = place.artifacts["registry"]
        # It answers a few look-ups at start: a quick start and a small heap matter more than its throughput.
        options = [
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
            # As a URI, in which a space or a comma of the path means nothing.
            f"-Dquarkus.config.locations={self._conf(place).as_uri()}",
        ]
        return run_java(place.folder.temporary, options, ["-jar", str(unpacked / "quarkus-run.jar")])

    def probe(self, place: Place) -> str | None:
        # The API answers while the schemas are still being read back from Kafka, and then lacks some of
        # them; only the readiness check waits for the last one.
        management = place.ports["registry-management"]
        return probes.answers_http(management, "/health/ready") or probes.answers_http(
            place.ports["registry"], f"{CONFLUENT_API}/subjects"
        )

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"DAYBOOK_REGISTRY_URL": f"http://{probes.HOST}:{place.ports['registry']}{CONFLUENT_API}"}

    def _conf(self, place: Place) -> Path:
        return place.folder.conf(self.name) / "application.properties"
