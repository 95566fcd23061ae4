"""The registry double is honest: it passes the suite that a real registry passes."""

import pytest

from schemas.codec import SchemaSource
from schemas.topics import Topics
from tests.contract.schema_source import SchemaSourceContract
from tests.unit.memory_registry import MemoryRegistry


class TestMemoryRegistry(SchemaSourceContract):
    @pytest.fixture
    def source(self, topics: Topics) -> SchemaSource:
        return MemoryRegistry.deployed(topics)

    @pytest.fixture
    def unreachable(self) -> SchemaSource:
        return MemoryRegistry(down=True)
