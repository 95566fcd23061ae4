"""The schema registry in a container, its schemas in Kafka."""

from __future__ import annotations

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HttpWaitStrategy

from tests.stacks import loopback

_API, _MANAGEMENT = 8080, 9000


class RegistryContainer(DockerContainer):
    """Apicurio with Confluent's API, open for everybody who reaches it. It is up after 15 s."""

    def __init__(self, image: str, network: Network, kafka: str) -> None:
        # Only the readiness check waits until the last schema has been read back from Kafka.
        ready = HttpWaitStrategy(_MANAGEMENT, "/health/ready").with_startup_timeout(loopback.START_TIMEOUT_S)
        super().__init__(image, loopback.ENGINE, network=network, _wait_strategy=ready)
        loopback.publish(self, _API, _MANAGEMENT)
        self.with_envs(
            APICURIO_STORAGE_KIND="kafkasql",
            APICURIO_KAFKASQL_BOOTSTRAP_SERVERS=kafka,
            # A start waits for two polls of the snapshots topic that find nothing: 5 s each by default.
            APICURIO_KAFKASQL_CONSUMER_POLL_TIMEOUT="1000",
            QUARKUS_OTEL_SDK_DISABLED="true",
            # It answers a few look-ups at start: a quick start and a small heap matter more than its throughput.
            JAVA_TOOL_OPTIONS="-Xmx384m -XX:TieredStopAtLevel=1",
        )

    @property
    def url(self) -> str:
        return f"http://{loopback.address(self, _API)}/apis/ccompat/v7"
