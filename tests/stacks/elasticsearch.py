"""One node of Elasticsearch in a container, open for everybody who reaches it."""

from __future__ import annotations

from testcontainers.community.elasticsearch import ElasticSearchContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import HttpWaitStrategy

from tests.stacks import loopback


class ElasticsearchContainer(ElasticSearchContainer):
    """A single node with half a gigabyte of heap. It is up after 10 s."""

    def __init__(self, image: str, network: Network) -> None:
        super().__init__(image, docker_client_kw=loopback.ENGINE, network=network)
        loopback.publish(self, self.port)
        # Its root, `GET /`, is none of the minimal distribution's.
        health = HttpWaitStrategy(self.port, "/_cluster/health?wait_for_status=yellow&timeout=0s")
        self.waiting_for(health.with_startup_timeout(loopback.START_TIMEOUT_S))
        settings = {
            "discovery.type": "single-node",
            # As in the local stack, where deploy/stack/elasticsearch.py says why.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "indices.breaker.total.use_real_memory": "false",
            "ES_JAVA_OPTS": "-Xms512m -Xmx512m",
        }
        for name, value in settings.items():
            self.with_env(name, value)

    @property
    def url(self) -> str:
        return f"http://{loopback.address(self, self.port)}"
