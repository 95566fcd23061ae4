"""Talking to Elasticsearch: connecting, and telling its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from elastic_transport import TransportError
from elasticsearch import ApiError, AuthenticationException, Elasticsearch, NotFoundError

from daybook.errors import ModelMissing, Unreachable, UnreadableRecord
from schemas.connections import Connections, NotConfigured

T = TypeVar("T")

SERVER: Final = "Elasticsearch"


def connect(connections: Connections, timeout_s: float) -> Elasticsearch:
    """A client that connects when it is first used; each answer is waited for `timeout_s`. Raises: `NotConfigured`."""
    try:
        return Elasticsearch(**connections.elasticsearch(), request_timeout=timeout_s)
    except (ValueError, OSError):
        # The error would tell the address with its password.
        raise NotConfigured(
            f"DAYBOOK_ELASTICSEARCH_URL, {address(connections)}, is not an address, or DAYBOOK_ELASTICSEARCH_SSL_CA "
            "not a file of certificates: write http://HOST:PORT or https://HOST:PORT"
        ) from None


def address(connections: Connections) -> str:
    """Where Elasticsearch is, for people to read: without its password. Raises: `NotConfigured`."""
    parts = urlsplit(connections.elasticsearch()["hosts"])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def read_hit(where: str, hit: Mapping[str, Any], what: Callable[[Mapping[str, Any]], T]) -> T:
    """What a hit's document says. Raises: `UnreadableRecord`, when it is none of ours."""
    try:
        return what(hit["_source"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableRecord(
            f"document {hit['_id']} of {hit['_index']} in Elasticsearch at {where}",
            f"it is not what the search projector writes ({type(error).__name__}: {error}); "
            "`daybook rebuild search` makes the indices anew",
        ) from error


@contextmanager
def answering(where: str, index: str) -> Iterator[None]:
    """Tell what Elasticsearch's client raises, asked for an index, as `Unreachable`."""
    try:
        yield
    except NotFoundError as error:
        raise missing_index(where, index) from error
    except AuthenticationException as error:
        why = "it refuses the credentials: check DAYBOOK_ELASTICSEARCH_USERNAME and _PASSWORD, or _API_KEY"
        raise Unreachable(SERVER, where, f"{index} could not be read: {why}") from error
    except ApiError as error:
        raise Unreachable(SERVER, where, f"{index} could not be read: {error.meta.status} {error.message}") from error
    except TransportError as error:
        raise Unreachable(SERVER, where, f"{index} could not be read: {error.message}") from error


def missing_index(where: str, index: str) -> ModelMissing:
    """What is raised when there is no such index."""
    return ModelMissing(
        SERVER,
        where,
        f"there is no index {index}: `daybook deploy apply` says what it is to look like, and the search projector "
        "makes it (`daybook run`)",
    )
