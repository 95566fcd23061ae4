"""Nothing in the code can take an event out of the log: what is wrong is compensated by another event.

What an erasure deletes so are commands that were processed. Parked records it takes out one by one, by tombstones.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import schemas
from daybook.erasure.topics import deletable
from schemas.topics import Topics

PRODUCT = Path(schemas.__file__).parent.parent

DESTROYING = {"delete_records", "delete_topics", "purge_topic"}
"""What Kafka's clients call it."""

ERASURE = PRODUCT / "daybook" / "erasure" / "topics.py"
"""The one place that may, and only on one topic."""

PACKAGES = ("command_service", "projectors", "daybook", "schemas", "deploy")


def destroying(source: str) -> Iterator[int]:
    """The lines that name one of these, whether to call it or to pass it on."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.Constant(value=str() as name) if name in DESTROYING:
                yield node.lineno
            case ast.ImportFrom(names=names) if any(alias.name in DESTROYING for alias in names):
                yield node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_no_program_asks_kafka_to_delete(package: str) -> None:
    files = sorted((PRODUCT / package).rglob("*.py"))
    assert files
    found = {str(file): list(destroying(file.read_text(encoding="utf-8"))) for file in files if file != ERASURE}
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_an_erasure_deletes_commands_alone() -> None:
    assert len(list(destroying(ERASURE.read_text(encoding="utf-8")))) == 1
    topics = Topics("t1")
    assert deletable(topics) == {topics.commands}


@pytest.mark.parametrize(
    "source",
    [
        "admin.delete_records({})",
        "AdminClient.delete_topics",
        "getattr(admin, 'delete_topics')([topic])",
        "from somewhere import delete_records as innocent",
    ],
)
def test_such_a_request_would_be_found(source: str) -> None:
    assert list(destroying(source)) == [1]
