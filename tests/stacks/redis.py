"""A server of the Redis protocol in a container: Valkey, or Redis itself."""

from __future__ import annotations

from testcontainers.community.redis import RedisContainer as AnyRedisContainer
from testcontainers.core.network import Network

from tests.stacks import loopback

# As in the local stack, where deploy/stack/redis.py says why.
_OPTIONS = ["--databases", "64", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]


class RedisContainer(AnyRedisContainer):
    """A server with 64 databases and no password. It is up at once."""

    def __init__(self, image: str, network: Network) -> None:
        super().__init__(image, docker_client_kw=loopback.ENGINE, network=network)
        loopback.publish(self, self.port)
        # The image's entry point puts the server's name before options.
        self.with_command(_OPTIONS)

    @property
    def url(self) -> str:
        return f"redis://{loopback.address(self, self.port)}/0"
