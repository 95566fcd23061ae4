"""The subjects of a schema registry: as found, compared with what is wanted, and brought there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Final, TypeVar, assert_never

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from deploy.differences import (
    CompatibilityDiffers,
    IncompatibleSchema,
    MissingSchema,
    MissingSubject,
    SubjectDiffers,
)
from deploy.errors import DeployError, Refused, Unreachable
from deploy.wanted import COMPATIBILITY, SubjectDefinition
from schemas.connections import Connections
from schemas.released import ReleasedSchema

_TIMEOUT_S: Final = 10
"""One request's bound. Registering takes tens of milliseconds; the first request after a start can take a second."""

_AT_ONCE: Final = 8
"""So many subjects are worked on side by side: a change waits for the registry's own storage, not for its processor."""

_NO_SUBJECT: Final = 40401
_NO_SCHEMA: Final = 40403
_NO_COMPATIBILITY: Final = 40408
_NOT_AS_A_REGISTRY: Final = "it does not answer as a schema registry does; check the path of DAYBOOK_REGISTRY_URL"
_FIRST_SERVER_ERROR: Final = 500
_NOT_ALLOWED: Final = (401, 403)

T = TypeVar("T")


class Subjects:
    """A schema registry. Every request blocks for some seconds at most.

    The methods raise `Unreachable` when the registry does not answer, and `Refused` when it turns a request down.
    """

    def __init__(self, connections: Connections) -> None:
        config = {**connections.registry(), "timeout": _TIMEOUT_S, "max.retries": 0}
        # Without the user and the password, if it holds them.
        self._address = connections.registry_url.rsplit("@", 1)[-1]
        self._client = SchemaRegistryClient(config)

    def close(self) -> None:
        self._client.close()

    def compared(self, wanted: Sequence[SubjectDefinition]) -> Iterator[SubjectDiffers | IncompatibleSchema]:
        """How the subjects found differ from those wanted, in that order. Other versions are left alone."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for differences in pool.map(self._compared, wanted):
                yield from differences

    def bring(self, differences: Iterable[SubjectDiffers]) -> Generator[SubjectDiffers, None, None]:
        """Put right what `compared` found, and yield it in its order, a subject's once all of them are done.

        After a failure, subjects that come later may be as wanted nevertheless.
        """
        by_subject = [list(group) for _, group in groupby(differences, key=_subject_of)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in pool.map(self._brought, by_subject):
                yield from done

    def _compared(self, subject: SubjectDefinition) -> list[SubjectDiffers | IncompatibleSchema]:
        missing = [self._lacks(subject.name, schema) for schema in subject.versions]
        if _NO_SUBJECT in missing:
            return [MissingSubject(subject)]
        found: list[SubjectDiffers | IncompatibleSchema] = []
        level = self._compatibility(subject.name)
        if level != COMPATIBILITY:
            found.append(CompatibilityDiffers(subject.name, level))
        for schema, denial in zip(subject.versions, missing, strict=True):
            if denial is None:
                continue
            # Under another level the registry's opinion would be about that one; registering will tell.
            if level == COMPATIBILITY and not self._compatible(subject.name, schema):
                found.append(IncompatibleSchema(subject.name, schema))
            else:
                found.append(MissingSchema(subject.name, schema))
        return found

    def _brought(self, differences: Sequence[SubjectDiffers]) -> Sequence[SubjectDiffers]:
        for difference in differences:
            match difference:
                case MissingSubject():
                    self._create(difference.subject)
                case CompatibilityDiffers():
                    self._set_compatibility(difference.subject)
                case MissingSchema():
                    self._register(difference.subject, difference.schema)
                case _:
                    assert_never(difference)
        return differences

    def _create(self, subject: SubjectDefinition) -> None:
        """Register all versions. The compatibility is set first, so that no version escapes it."""
        self._set_compatibility(subject.name)
        for schema in subject.versions:
            self._register(subject.name, schema)

    def _set_compatibility(self, subject: str) -> None:
        self._ask(
            lambda: self._client.set_compatibility(subject, COMPATIBILITY),
            f"the compatibility of subject {subject} could not be set",
        )

    def _register(self, subject: str, schema: ReleasedSchema) -> None:
        self._ask(
            lambda: self._client.register_schema(subject, _avro(schema)),
            f"v{schema.version} of {schema.name} could not be registered under {subject}",
        )

    def _lacks(self, subject: str, schema: ReleasedSchema) -> int | None:
        """None when the schema is registered, else whether it or its whole subject is missing."""
        try:
            self._client.lookup_schema(subject, _avro(schema))
        except Exception as error:
            if isinstance(error, SchemaRegistryError) and error.error_code in (_NO_SUBJECT, _NO_SCHEMA):
                return error.error_code
            raise self._told_apart(error, f"subject {subject} could not be looked up") from error
        return None

    def _compatibility(self, subject: str) -> str | None:
        try:
            return self._client.get_compatibility(subject)
        except Exception as error:
            if isinstance(error, SchemaRegistryError) and error.error_code in (_NO_SUBJECT, _NO_COMPATIBILITY):
                return None
            raise self._told_apart(error, f"the compatibility of subject {subject} could not be read") from error

    def _compatible(self, subject: str, schema: ReleasedSchema) -> bool:
        return self._ask(
            lambda: self._client.test_compatibility_all_versions(subject, _avro(schema)),
            f"v{schema.version} of {schema.name} could not be tested against subject {subject}",
        )

    def _ask(self, request: Callable[[], T], what: str) -> T:
        try:
            return request()
        except Exception as error:
            raise self._told_apart(error, what) from error

    def _told_apart(self, error: Exception, what: str) -> DeployError:
        # The client lets its HTTP library's errors through, and which library that is depends on its version.
        if not isinstance(error, SchemaRegistryError):
            why = f"{error}; is it running (`daybook stack up` starts one here)?"
            return Unreachable("the schema registry", self._address, why)
        if error.http_status_code in _NOT_ALLOWED:
            why = "it takes changes only with the administrator's token: set DAYBOOK_REGISTRY_TOKEN"
            return Refused(f"{what} (the schema registry at {self._address}): {why}")
        if error.http_status_code >= _FIRST_SERVER_ERROR:
            return Unreachable("the schema registry", self._address, f"{what}: {error.error_message}")
        if not error.error_code or error.error_code == SchemaRegistryError.UNKNOWN:
            return Unreachable("the schema registry", self._address, f"{what}: {_NOT_AS_A_REGISTRY}")
        return Refused(f"{what} (the schema registry at {self._address}): {error.error_message}")


def _subject_of(difference: SubjectDiffers) -> str:
    return difference.subject.name if isinstance(difference, MissingSubject) else difference.subject


def _avro(schema: ReleasedSchema) -> Schema:
    return Schema(schema.text, "AVRO")
