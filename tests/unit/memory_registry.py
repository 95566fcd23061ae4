"""A schema registry in memory, held by `SchemaSourceContract` to what a real one does."""

from __future__ import annotations

from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from schemas.topics import Topics
from tests.contract.schema_source import registrations


class MemoryRegistry:
    """Ids count from 1, one per schema text. While `down`, nothing is answered."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.asked = 0
        self._texts: list[str] = []
        self._subjects: set[tuple[str, str]] = set()

    @classmethod
    def deployed(cls, topics: Topics) -> MemoryRegistry:
        """With all schemas of a ledger registered."""
        registry = cls()
        for subject, text in registrations(topics):
            registry.register(subject, text)
        return registry

    def register(self, subject: str, text: str) -> int:
        if text not in self._texts:
            self._texts.append(text)
        self._subjects.add((subject, text))
        return self._texts.index(text) + 1

    def schema(self, schema_id: int) -> str:
        self._answer()
        if not 0 < schema_id <= len(self._texts):
            raise SchemaNotRegistered(f"there is no schema id {schema_id}")
        return self._texts[schema_id - 1]

    def schema_id(self, subject: str, schema: str) -> int:
        self._answer()
        if (subject, schema) not in self._subjects:
            raise SchemaNotRegistered(f"the schema is not registered for subject {subject}")
        return self._texts.index(schema) + 1

    def _answer(self) -> None:
        self.asked += 1
        if self.down:
            raise RegistryUnavailable("the registry in memory was told to be down")
