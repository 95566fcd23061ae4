"""The principals: one for each service, and one for each kind of person or program that is no service.

A principal has the same name and the same password in Kafka, Elasticsearch and Redis, as far as it is known there.
"""

from __future__ import annotations

from typing import Final

ADMIN: Final = "admin"
"""Who deploys: a super user everywhere."""

BROKER: Final = "broker"
"""Kafka's brokers among themselves: a super user, on a listener of their own."""

REGISTRY: Final = "registry"
"""The schema registry, which keeps its schemas in Kafka."""

COMMAND_SERVICE: Final = "command-service"
"""Decides commands: the only one that writes events, follow-ups, snapshots, replies and parked records."""

PROJECTOR_BALANCES: Final = "projector-balances"
"""Reads events; writes the balances in Redis, and rebuilds them."""

PROJECTOR_SEARCH: Final = "projector-search"
"""Reads events; writes the search indices in Elasticsearch, and rebuilds them."""

PROJECTOR_ANALYTICS: Final = "projector-analytics"
"""Reads events; the table that it writes is outside of the servers described here."""

PROJECTOR_ACTIVITY: Final = "projector-activity"
"""Reads events; writes alerts, and its own tables' changelogs."""

AUDITOR: Final = "auditor"
"""Reads events; it alone writes checkpoints, which it signs."""

CLIENT: Final = "client"
"""A program that gives commands, takes replies, and reads balances and search indices."""

OPERATOR: Final = "operator"
"""A person at the command line: what a client may, and reading the whole ledger, how far its programs are included."""

PROJECTORS: Final = (PROJECTOR_BALANCES, PROJECTOR_SEARCH, PROJECTOR_ANALYTICS, PROJECTOR_ACTIVITY)

READ_HOLDERS: Final = (COMMAND_SERVICE, PROJECTOR_SEARCH, OPERATOR)
"""Who reads personal fields in the log: has the key-encryption keys, and may read the keys of holders in Kafka."""

SCRAM_PRINCIPALS: Final = (ADMIN, REGISTRY, COMMAND_SERVICE, *PROJECTORS, AUDITOR, CLIENT, OPERATOR)
"""Who logs in to Kafka by SCRAM-SHA-512, with a credential that Kafka itself keeps."""

PRINCIPALS: Final = (*SCRAM_PRINCIPALS, BROKER)
