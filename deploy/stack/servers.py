"""Which servers a stack has, and what clients are told about it."""

from collections.abc import Mapping, Sequence

from deploy.access.audit import kept_key
from deploy.stack.elasticsearch import Elasticsearch
from deploy.stack.kafka import brokers
from deploy.stack.redis import Redis
from deploy.stack.registry import Registry
from deploy.stack.server import Place, Server


def all_servers(broker_count: int) -> tuple[Server, ...]:
    """Return the servers of a stack, in the order in which people expect to see them."""
    kafka = brokers(broker_count)
    return (*kafka, Registry([broker.name for broker in kafka]), Redis(), Elasticsearch())


def environment(servers: Sequence[Server], place: Place) -> Mapping[str, str]:
    """Return the variables by which clients find the servers, the auditor's keys, the key-encryption keys, and the
    analytics table's folder.

    That one needs no server: its catalog is an SQLite file, and both are made by who writes to them first.
    """
    found = {key: value for server in servers for key, value in server.environment(place).items()}
    warehouse = place.folder.warehouse
    # Neither is a proper URI where the path has a blank in it: their readers take what follows `//` as it is.
    found["DAYBOOK_ICEBERG_CATALOG"] = f"sqlite:///{warehouse}/catalog.db"
    found["DAYBOOK_ICEBERG_WAREHOUSE"] = f"file://{warehouse}"
    private, public = kept_key(place.folder.audit)
    found["DAYBOOK_AUDIT_KEY_FILE"], found["DAYBOOK_AUDIT_PUBLIC_KEY_FILE"] = str(private), str(public)
    found["DAYBOOK_KEK_FILE"] = str(place.folder.kek)
    return found
