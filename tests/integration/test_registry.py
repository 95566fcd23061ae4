"""The registry client against a real registry: the contract that the double of the unit tests keeps as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.connections import Connections
from schemas.registry import Registry
from schemas.topics import Topics
from tests.contract.schema_source import SchemaSourceContract

_NOBODY_LISTENS = "http://127.0.0.1:9/apis/ccompat/v7"


class TestRegistry(SchemaSourceContract):
    @pytest.fixture
    def topics(self, deployed: Connections) -> Topics:
        return deployed.topics

    @pytest.fixture
    def source(self, deployed: Connections) -> Iterator[Registry]:
        with Registry(deployed) as registry:
            yield registry

    @pytest.fixture
    def unreachable(self) -> Iterator[Registry]:
        with Registry(
            Connections(_env_file=None, kafka_bootstrap="127.0.0.1:9", registry_url=_NOBODY_LISTENS)
        ) as registry:
            yield registry
