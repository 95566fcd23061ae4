"""The schema registry, seen from a service: ids are looked up, never registered.

Two failures are kept apart, since they call for opposite answers: a registry that denies an id will go on denying it
(the record that bears it is parked), while a registry that is merely down will come back (the reader waits). A registry
that has just started may deny everything until its storage is loaded (Apicurio does, with storage on Kafka), so a
denial counts only from a registry that still knows a subject which it knew before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Self

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.connections import Connections

# Confluent's error codes: the subject, the version and the schema do not exist.
_DENIALS: Final = {40401, 40402, 40403}

_TIMEOUT_S: Final = 5
"""One request's bound: look-ups answer within milliseconds, and the callers decide how long to go on asking."""


_CONFIRMED_FOR_S: Final = 1.0
"""A registry starts more slowly than that, so one that has just been seen to know its schemas still does."""

_WAIT_S: Final = 1.0

_LOADS_FOR_S: Final = 20.0
"""A registry that has just started may deny what it has not loaded yet; a few seconds are usual."""


class RegistryUnavailable(Exception):
    """The registry did not answer, or not as a registry does. Asking again later may help."""


class SchemaNotRegistered(Exception):
    """The registry answered that it has no such schema. Asking again will not help."""


class Registry:
    """A schema registry with Confluent's API. Answers are cached; each method may block for a few seconds."""

    def __init__(self, connections: Connections) -> None:
        # Without the user and the password, if it holds them.
        self._url = connections.registry_url.rsplit("@", 1)[-1]
        self._client = SchemaRegistryClient({**connections.registry(), "timeout": _TIMEOUT_S, "max.retries": 0})
        self._known_subject: str | None = None
        self._confirmed_at = -_CONFIRMED_FOR_S

    def close(self) -> None:
        """Close the connections. What is cached goes on being answered."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def schema(self, schema_id: int) -> str:
        """The text of a schema.

        Raises:
            SchemaNotRegistered: the registry denies the id.
            RegistryUnavailable: it could not be asked.
        """
        try:
            text = self._client.get_schema(schema_id).schema_str
        except Exception as error:
            raise self._told_apart(error, f"schema id {schema_id}") from error
        if text is None:
            raise SchemaNotRegistered(f"the registry at {self._url} has no text for schema id {schema_id}")
        return text

    def schema_id(self, subject: str, schema: str) -> int:
        """The id under which a schema is registered for a subject.

        Raises:
            SchemaNotRegistered: it is not, as far as the registry knows by now; `daybook deploy apply` registers it.
            RegistryUnavailable: the registry could not be asked.
        """
        try:
            found = self._client.lookup_schema(subject, Schema(schema, "AVRO")).schema_id
        except Exception as error:
            raise self._told_apart(error, f"subject {subject}") from error
        if found is None:
            raise RegistryUnavailable(f"the registry at {self._url} gave no id for subject {subject}")
        self._known_subject = subject
        return found

    def _told_apart(self, error: Exception, what: str) -> Exception:
        # The client lets its HTTP library's errors through, and which library that is depends on its version. So
        # whatever is not a clear denial counts as "could not be asked": waiting loses nothing, parking would.
        if not _denies(error):
            return RegistryUnavailable(f"the registry at {self._url} could not be asked for {what}: {error}")
        if self._known_subject is not None and time.monotonic() - self._confirmed_at > _CONFIRMED_FOR_S:
            try:
                self._client.get_versions(self._known_subject)
                self._confirmed_at = time.monotonic()
            except Exception as doubt:
                return RegistryUnavailable(
                    f"the registry at {self._url} denies {what}, but {self._known_subject} as well, which it knew "
                    f"before: it is loading, or has lost its schemas ({doubt})"
                )
        return SchemaNotRegistered(
            f"the registry at {self._url} knows no {what}; `daybook deploy apply` registers Daybook's schemas"
        )


def _denies(error: Exception) -> bool:
    return isinstance(error, SchemaRegistryError) and error.error_code in _DENIALS


def look_up_patiently(look_up: Callable[[], None], stopping: threading.Event, tell: Callable[[str], None]) -> bool:
    """Look up what a process needs at its start, waiting for a registry that is down or loading.

    `look_up` is tried every second; `tell` is told once for each kind of hindrance.

    Returns:
        Whether it succeeded; False when `stopping` was set meanwhile.

    Raises:
        SchemaNotRegistered: the registry has gone on denying a schema for longer than one takes to load.
    """
    told: type[Exception] | None = None
    denied_since: float | None = None
    while not stopping.is_set():
        try:
            look_up()
        except (RegistryUnavailable, SchemaNotRegistered) as error:
            denied_since = (denied_since or time.monotonic()) if isinstance(error, SchemaNotRegistered) else None
            if denied_since is not None and time.monotonic() - denied_since > _LOADS_FOR_S:
                raise
            if told is not type(error):
                tell(f"waiting for the registry: {error}")
            told = type(error)
            stopping.wait(_WAIT_S)
        else:
            return True
    return False
