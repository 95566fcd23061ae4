"""The compose stack that is up, as its principal `admin` sees it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from dotenv import dotenv_values
from elasticsearch import Elasticsearch

from deploy.indices import template_definitions
from schemas.connections import Connections

ENV_FILE = Path(__file__).parents[2] / ".secrets" / "admin" / "env"
_UP = "Bring the stack up with `docker compose up --wait`, or run the tests with --stack=local"
_NEEDED = ("DAYBOOK_KAFKA_BOOTSTRAP", "DAYBOOK_REGISTRY_URL", "DAYBOOK_REDIS_URL", "DAYBOOK_ELASTICSEARCH_URL")


def addresses_and_credentials() -> dict[str, str]:
    """What the dotenv file says, which `DAYBOOK_TEST_ENV` may name.

    Raises `pytest.UsageError` if there is none, if it does not say where each server is, or if nobody listens there.
    """
    path = Path(os.environ.get("DAYBOOK_TEST_ENV", ENV_FILE))
    if not path.is_file():
        raise pytest.UsageError(f"--stack=compose: there is no file {path} (DAYBOOK_TEST_ENV names another). {_UP}")
    found = {name: value for name, value in dotenv_values(path).items() if value is not None}
    if missing := [name for name in _NEEDED if name not in found]:
        raise pytest.UsageError(f"--stack=compose: {path} does not set {', '.join(missing)}")
    first = found["DAYBOOK_KAFKA_BOOTSTRAP"].split(",")[0]
    host, _, port = first.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 10).close()
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--stack=compose: no Kafka at {first}, where {path} has it: {error}. {_UP}") from None
    return found


def remove(ledgers: Sequence[Connections]) -> None:
    """Delete the topics, indices and index templates of ledgers that nobody needs any more.

    Their schemas stay, since the registry takes seconds for each ledger's, and so do their offsets, which Kafka forgets
    by itself.
    """
    if not ledgers:
        return
    namespaces = tuple(f"{ledger.namespace}." for ledger in ledgers)
    with AdminClient(ledgers[0].kafka()) as admin:
        topics = [name for name in admin.list_topics(timeout=30).topics if name.startswith(namespaces)]
        for deleted in (admin.delete_topics(topics, operation_timeout=60) if topics else {}).values():
            deleted.result(120)
    with Elasticsearch(**ledgers[0].elasticsearch(), request_timeout=60) as search:
        for index in search.indices.get(index="*"):
            if index.startswith(namespaces):
                search.indices.delete(index=index)
        patient = search.options(ignore_status=404)
        for template in (one for ledger in ledgers for one in template_definitions(ledger.indices)):
            patient.indices.delete_index_template(name=template.name)
