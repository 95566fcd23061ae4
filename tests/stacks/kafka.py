"""One Kafka broker in a container, a controller as well."""

from __future__ import annotations

from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import WaitStrategy, WaitStrategyTarget

from tests.stacks import loopback

_NODE = 1
_FOR_HOST, _FOR_CONTAINERS, _FOR_CONTROLLER = 9092, 19092, 9093
_SCRIPT = "/tmp/start-with-its-address.sh"  # noqa: S108 - in the container, which has one user

# As the local stack's broker has them, where deploy/stack/kafka.py says why.
_SETTINGS = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.backoff.ms": "1000",
}


class KafkaContainer(DockerContainer):
    """A broker from the `apache/kafka` image, with a listener for this machine and one for other containers.

    Clients are sent to the address that a broker advertises. Here that has the port on which the engine publishes it,
    and which is known only once the container runs: so it waits for a script that has the address, and runs that.

    It is up after 5 s.
    """

    def __init__(self, image: str, network: Network) -> None:
        super().__init__(
            image, loopback.ENGINE, network=network, network_aliases=["kafka"], _wait_strategy=_HasItsAddress()
        )
        self.with_command(["sh", "-c", f"until [ -s {_SCRIPT} ]; do sleep 0.1; done; exec sh {_SCRIPT}"])
        loopback.publish(self, _FOR_HOST)
        listeners = {"HOST": _FOR_HOST, "CONTAINERS": _FOR_CONTAINERS, "CONTROLLER": _FOR_CONTROLLER}
        settings = _SETTINGS | {
            "process.roles": "broker,controller",
            "node.id": str(_NODE),
            "controller.quorum.voters": f"{_NODE}@localhost:{_FOR_CONTROLLER}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CONTAINERS",
            "listeners": ",".join(f"{name}://:{port}" for name, port in listeners.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
        }
        for name, value in settings.items():
            self.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
        self.with_env("KAFKA_HEAP_OPTS", "-Xms512m -Xmx1g")

    @property
    def bootstrap(self) -> str:
        """Where clients on this machine find it."""
        return loopback.address(self, _FOR_HOST)

    @property
    def inside(self) -> str:
        """Where other containers of its network find it."""
        return f"kafka:{_FOR_CONTAINERS}"

    def tell_address(self) -> Self:
        advertised = f"HOST://{self.bootstrap},CONTAINERS://{self.inside}"
        script = f"export KAFKA_ADVERTISED_LISTENERS={advertised}\nexec /etc/kafka/docker/run\n"
        self.copy_into_container(script.encode(), _SCRIPT)
        return self


class _HasItsAddress(WaitStrategy):
    """Gives the container its address and waits until the broker serves clients there."""

    def __init__(self) -> None:
        super().__init__()
        self.with_startup_timeout(loopback.START_TIMEOUT_S)

    def wait_until_ready(self, container: WaitStrategyTarget) -> None:
        assert isinstance(container, KafkaContainer)
        container.tell_address()
        # Log level 0: a broker that is not ready yet is expected here and is not worth a line.
        with AdminClient({"bootstrap.servers": container.bootstrap, "log_level": 0}) as client:

            def serves() -> bool:
                container.reload()
                if container.status != "running":
                    output = b"".join(container.get_logs()).decode(errors="replace")
                    raise RuntimeError(f"the broker's container is {container.status}: {output[-2000:]}")
                try:
                    return _NODE in client.list_topics(timeout=5).brokers
                except KafkaException:
                    return False

            if not self._poll(serves):
                raise TimeoutError(
                    f"the broker at {container.bootstrap} did not answer within {loopback.START_TIMEOUT_S} s"
                )
