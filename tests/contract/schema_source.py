"""What the codec relies on in a schema registry: held against the double in memory and against a real one alike."""

from __future__ import annotations

import json

import pytest
from fastavro.schema import to_parsing_canonical_form

from deploy.wanted import subject_definitions
from schemas.codec import SchemaSource
from schemas.registry import RegistryUnavailable, SchemaNotRegistered
from schemas.topics import Topics, subject

STRANGER = '{"type":"record","name":"daybook.account.command.Deposit","fields":[{"name":"nothing","type":"null"}]}'


def registrations(topics: Topics) -> list[tuple[str, str]]:
    """Subject and text of every schema that a deployed ledger writes."""
    return [(wanted.name, wanted.versions[-1].text) for wanted in subject_definitions(topics)]


class SchemaSourceContract:
    """Subclass it, and override the fixtures."""

    @pytest.fixture
    def topics(self) -> Topics:
        """The names under which the schemas are registered."""
        return Topics()

    @pytest.fixture
    def source(self, topics: Topics) -> SchemaSource:
        """A source in which all of `registrations(topics)` are registered."""
        raise NotImplementedError("the subclass says which source is tested")

    @pytest.fixture
    def unreachable(self) -> SchemaSource:
        """A source that does not answer."""
        raise NotImplementedError("the subclass says which source is tested")

    def test_what_is_registered_has_an_id_that_leads_back_to_it(self, source: SchemaSource, topics: Topics) -> None:
        for registered, text in registrations(topics):
            schema_id = source.schema_id(registered, text)
            assert 0 < schema_id < 2**31
            assert _canonical(source.schema(schema_id)) == _canonical(text)

    def test_an_id_does_not_change(self, source: SchemaSource, topics: Topics) -> None:
        for registered, text in registrations(topics):
            assert source.schema_id(registered, text) == source.schema_id(registered, text)

    def test_different_schemas_have_different_ids(self, source: SchemaSource, topics: Topics) -> None:
        ids = [source.schema_id(registered, text) for registered, text in registrations(topics)]
        assert len(set(ids)) == len(ids)

    @pytest.mark.parametrize("schema_id", [1_999_999_999, 2**31 - 1])
    def test_an_id_that_was_never_given_is_denied(self, source: SchemaSource, schema_id: int) -> None:
        with pytest.raises(SchemaNotRegistered, match=str(schema_id)):
            source.schema(schema_id)

    def test_an_unknown_subject_is_denied(self, source: SchemaSource, topics: Topics) -> None:
        _, text = registrations(topics)[0]
        with pytest.raises(SchemaNotRegistered, match=r"no\.such\.topic-Thing"):
            source.schema_id("no.such.topic-Thing", text)

    def test_a_schema_that_was_not_registered_is_denied(self, source: SchemaSource, topics: Topics) -> None:
        known = subject(topics.commands, "daybook.account.command.Deposit")
        with pytest.raises(SchemaNotRegistered, match="Deposit"):
            source.schema_id(known, STRANGER)

    def test_not_being_answered_is_not_a_denial(self, unreachable: SchemaSource, topics: Topics) -> None:
        registered, text = registrations(topics)[0]
        with pytest.raises(RegistryUnavailable):
            unreachable.schema_id(registered, text)
        with pytest.raises(RegistryUnavailable):
            unreachable.schema(1)


def _canonical(text: str) -> str:
    return to_parsing_canonical_form(json.loads(text))
