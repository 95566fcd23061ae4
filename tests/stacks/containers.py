"""The servers in containers that the tests start and remove. Importing this needs the testcontainers package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.network import Network

from tests.stacks import loopback
from tests.stacks.elasticsearch import ElasticsearchContainer
from tests.stacks.kafka import KafkaContainer
from tests.stacks.redis import RedisContainer
from tests.stacks.registry import RegistryContainer


def check_engine() -> None:
    """Raises `pytest.UsageError` if no Docker engine answers."""
    try:
        engine = docker.from_env(timeout=30)
        try:
            engine.ping()
        finally:
            engine.close()
    except DockerException as error:
        raise pytest.UsageError(
            f"--stack=containers needs a Docker engine, and none answers: {error}. Start one (`docker ps` must work), "
            "set DOCKER_HOST, or run the tests with --stack=local"
        ) from None


@contextmanager
def containers(images: dict[str, str]) -> Iterator[dict[str, str]]:
    """The four servers, up, and where they are."""
    with ExitStack() as running:
        network = running.enter_context(Network(loopback.ENGINE))
        kafka = running.enter_context(KafkaContainer(images["kafka"], network))
        redis = running.enter_context(RedisContainer(images["redis"], network))
        elasticsearch = running.enter_context(ElasticsearchContainer(images["elasticsearch"], network))
        registry = running.enter_context(RegistryContainer(images["registry"], network, kafka.inside))
        yield {
            "DAYBOOK_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "DAYBOOK_REGISTRY_URL": registry.url,
            "DAYBOOK_REDIS_URL": redis.url,
            "DAYBOOK_ELASTICSEARCH_URL": elasticsearch.url,
        }


@contextmanager
def redis_alone(image: str) -> Iterator[str]:
    """One more server of the Redis protocol, up, and its URL."""
    with Network(loopback.ENGINE) as network, RedisContainer(image, network) as redis:
        yield redis.url
