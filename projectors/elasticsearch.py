"""How the `search` projector talks to Elasticsearch: which failures pass, and how many documents go in at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from elasticsearch import ApiError, Elasticsearch, exceptions
from msgspec import Struct

from projectors.projector import CannotProject, CheckpointMoved, SinkUnavailable

CHUNK_BYTES: Final = 2 * 1024 * 1024
"""One request's documents. Elasticsearch gains nothing from more, and takes at most a tenth of its heap in requests
at once: two of these fit even into the half gigabyte of the local stack's."""

_IN_FLIGHT: Final = 2
"""Requests at once: while Elasticsearch writes one to disk, it indexes the other. More than that only queue there."""

_REQUEST_TIMEOUT_S: Final = 20.0
"""A request's bound, many times what a chunk takes: what is slower is as good as down, and is tried again. It is also
how long a stop may go unnoticed."""

_SHARD_TIMEOUT: Final = "5s"
"""How long Elasticsearch waits for a shard that is not there before it says so. Its default of a minute would be longer
than the request's."""

_LOOK_UP: Final = 1000
"""Documents asked for at once: a third of a megabyte."""

_PASSING_CODES: Final = {"cluster_block_exception", "index_closed_exception", "process_cluster_event_timeout_exception"}
"""What an operator or a free disk undoes, whatever the status that it comes with."""

T = TypeVar("T")


def connect(config: Mapping[str, Any]) -> Elasticsearch:
    """A client for the projector, from `Connections.elasticsearch()`; it connects on first use.

    It repeats nothing: the runner does, after it has asked where the model stands. Raises ValueError for a wrong URL.
    """
    # One more connection than there are bulk requests at once, which is the one that asks.
    options = {"max_retries": 0, "request_timeout": _REQUEST_TIMEOUT_S, "connections_per_node": _IN_FLIGHT + 1}
    return Elasticsearch(**{**config, **options})


def ask(question: Callable[[], T]) -> T:
    """Put a question to Elasticsearch, and tell failures that pass from those that don't.

    Raises:
        SinkUnavailable: Elasticsearch or a shard is down, too busy, or does not take writes for now.
        CheckpointMoved: an index is not there.
        CannotProject: asking again does not help.
    """
    try:
        return question()
    except exceptions.UnsupportedProductError as error:
        raise CannotProject(f"what answers at DAYBOOK_ELASTICSEARCH_URL is not Elasticsearch: {error}") from error
    except ApiError as error:
        raise _told_apart(error.meta.status, *_cause(error.body, error.message)) from error
    except exceptions.SerializationError as error:
        raise CannotProject(f"Elasticsearch answered what the search projector cannot read: {error}") from error
    except exceptions.TransportError as error:
        raise SinkUnavailable(f"Elasticsearch: {error}") from error


def _cause(body: object, message: str) -> tuple[str, str]:
    """The type and the reason of an error, from a response's body or an item of one."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return message, str(error or message)
    reason = str(error.get("reason", message))
    because = (error.get("caused_by") or {}).get("reason")
    return str(error.get("type", message)), f"{reason} ({because})" if because else reason


def _told_apart(status: int, code: str, reason: str) -> Exception:
    what = f"{code}: {reason}"
    if code in _PASSING_CODES or status in (408, 429) or status >= 500:
        return SinkUnavailable(f"Elasticsearch: {status}, {what}")
    match status:
        case 401 | 403:
            return CannotProject(
                "Elasticsearch refuses what the search projector asks with the credentials of "
                f"DAYBOOK_ELASTICSEARCH_*: {what}"
            )
        case 404:
            return CheckpointMoved(f"Elasticsearch: {what}")
        case 413:
            return CannotProject(
                f"Elasticsearch, or a proxy before it, refuses requests of {CHUNK_BYTES:,} bytes: {what}. Allow them "
                "there (http.max_content_length)"
            )
        case _:
            return CannotProject(f"Elasticsearch refuses what the search projector asks of it: {status}, {what}")


class Found(Struct, frozen=True):
    """A document as looked up: which index has it (or would have it), and its version for a conditional write."""

    index: str
    source: dict[str, Any] | None
    seq_no: int
    primary_term: int


class Document(Struct, frozen=True, gc=False):
    """A document to write: `action` is its line of the bulk format. `partition` and `offset` are for messages alone."""

    action: bytes
    body: bytes
    index: str
    id: str
    partition: int
    offset: int


class Documents:
    """Reads and writes documents by id. Calls block for as long as Elasticsearch takes, and raise as `ask` does."""

    def __init__(self, client: Elasticsearch, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._client = client
        self._chunk_bytes = chunk_bytes

    def look_up(self, wanted: Sequence[tuple[str, str]], *, source: Sequence[str] | None = None) -> list[Found]:
        """The newest state of documents, given as (index or alias, id); of each only some fields, if asked for."""
        found: list[Found] = []
        for start in range(0, len(wanted), _LOOK_UP):
            found += self._look_up(wanted[start : start + _LOOK_UP], source)
        return found

    def _look_up(self, wanted: Sequence[tuple[str, str]], source: Sequence[str] | None) -> Iterator[Found]:
        docs = [{"_index": index, "_id": doc_id} for index, doc_id in wanted]
        # Realtime: what was written a moment ago counts, although searches do not see it yet.
        answer = ask(lambda: self._client.mget(docs=docs, realtime=True, source_includes=source))
        return map(_found, answer["docs"])

    def write(self, documents: Iterable[Document]) -> None:
        """Write all documents, or raise; none is on its way any more then, but any may have been written.

        One that is there in the same or a newer version is a success.
        """
        with ThreadPoolExecutor(_IN_FLIGHT, "bulk") as pool:
            under_way: deque[Future[list[Any]]] = deque()
            for chunk in self._chunks(documents):
                if len(under_way) == _IN_FLIGHT:
                    under_way.popleft().result()
                under_way.append(pool.submit(self._write, chunk, conflicts_matter=False))
            for request in under_way:
                request.result()

    def write_if_unchanged(self, documents: Sequence[Document]) -> list[tuple[int, int]]:
        """Write a few documents whose actions are conditional. Returns their new `seq_no` and `primary_term`.

        Raises:
            CheckpointMoved: a condition does not hold; the other documents may have been written.
        """
        answer = self._write(documents, conflicts_matter=True)
        return [(item["_seq_no"], item["_primary_term"]) for item in answer]

    def _chunks(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        chunk: list[Document] = []
        size_bytes = 0
        for document in documents:
            chunk.append(document)
            size_bytes += len(document.action) + len(document.body)
            if size_bytes >= self._chunk_bytes:
                yield chunk
                chunk, size_bytes = [], 0
        if chunk:
            yield chunk

    def _write(self, chunk: Sequence[Document], *, conflicts_matter: bool) -> list[Any]:
        lines: list[bytes] = []
        for document in chunk:
            lines += (document.action, document.body)
        lines.append(b"")
        body = b"\n".join(lines)
        # All but what says how each document fared is left out of the answer, which has an entry for each.
        fields = "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
        if conflicts_matter:
            fields += ",items.*._seq_no,items.*._primary_term"
        answer = ask(
            lambda: self._client.bulk(operations=body, timeout=_SHARD_TIMEOUT, filter_path=f"errors,{fields}")  # type: ignore[arg-type]
        )
        items = [outcome for item in answer["items"] for outcome in item.values()]
        if answer["errors"]:
            _check(chunk, items, conflicts_matter)
        return items


def _found(doc: Mapping[str, Any]) -> Found:
    if "error" in doc:
        code, reason = _cause(doc, "error")
        if code == "index_not_found_exception":
            raise CheckpointMoved(f"Elasticsearch: {reason}")
        if code == "illegal_argument_exception":
            raise CannotProject(f"Elasticsearch cannot look up {doc['_id']} in {doc['_index']}: {reason}")
        raise SinkUnavailable(f"Elasticsearch: {code}: {reason}")
    return Found(doc["_index"], doc.get("_source"), doc.get("_seq_no", -1), doc.get("_primary_term", 0))


def _check(chunk: Sequence[Document], items: Sequence[Mapping[str, Any]], conflicts_matter: bool) -> None:
    """Raise what the worst of the items calls for: what cannot be helped before what passes."""
    failures: list[Exception] = []
    for document, item in zip(chunk, items, strict=True):
        status = item["status"]
        if status < 300 or (status == 409 and not conflicts_matter):
            continue
        code, reason = _cause(item, f"status {status}")
        if status == 409:
            raise CheckpointMoved(
                f"Elasticsearch has another {document.id} in {document.index} than was just read there: another "
                f"projector wrote it, or the index was replaced ({reason})"
            )
        failure = _told_apart(status, code, reason)
        if isinstance(failure, CannotProject) and status == 400:
            raise CannotProject(
                f"Elasticsearch refuses document {document.id} of index {document.index} (partition "
                f"{document.partition}, offset {document.offset}): {code}: {reason}. Nothing was skipped. If the "
                "index is older than this projector, `daybook deploy apply` says what its mapping lacks, and `daybook "
                "rebuild search` makes a new one"
            )
        failures.append(failure)
    for kind in (CannotProject, CheckpointMoved, SinkUnavailable):
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
