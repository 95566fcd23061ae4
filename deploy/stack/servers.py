"""Which servers a stack has."""

from collections.abc import Mapping, Sequence

from deploy.stack.kafka import brokers
from deploy.stack.redis import Redis
from deploy.stack.registry import Registry
from deploy.stack.server import Place, Server


def all_servers(broker_count: int) -> tuple[Server, ...]:
    """Return the servers of a stack, in the order in which people expect to see them."""
    kafka = brokers(broker_count)
    return (*kafka, Registry([broker.name for broker in kafka]), Redis())


def environment(servers: Sequence[Server], place: Place) -> Mapping[str, str]:
    """Return the variables by which clients find the servers."""
    return {key: value for server in servers for key, value in server.environment(place).items()}
