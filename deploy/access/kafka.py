"""Who may what in Kafka. What is not allowed here is denied, where the brokers have an authorizer.

These are the rights that the programs need, and none beside: a right more is a way that a stolen password opens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from deploy.access.principals import (
    AUDITOR,
    CLIENT,
    COMMAND_SERVICE,
    OPERATOR,
    PROJECTOR_ACTIVITY,
    PROJECTOR_SEARCH,
    PROJECTORS,
    REGISTRY,
)
from schemas.topics import Topics

Resource = Literal["topic", "group", "transactional_id", "cluster"]
Operation = Literal[
    "all",
    "read",
    "write",
    "create",
    "delete",
    "alter",
    "describe",
    "cluster_action",
    "describe_configs",
    "alter_configs",
    "idempotent_write",
]

EVERYBODY: Final = "*"
"""Kafka's name for all principals, and for all resources of a kind."""

_REGISTRY_TOPICS: Final = ("kafkasql-journal", "kafkasql-snapshots", "registry-events")
_CLUSTER: Final = "kafka-cluster"
"""Kafka's only name of a resource of that kind."""

_REGISTRY_GROUPS: Final = "apicurio-"
"""Apicurio's defaults. Each start of it has a group of its own, with a random end."""


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """An entry of Kafka's access control list. `is_prefix`: it is for all names that begin so.

    `host` is from where it counts: from everywhere, unless somebody else made it.
    """

    principal: str
    operation: Operation
    resource: Resource
    name: str
    is_prefix: bool = False
    allows: bool = True
    host: str = "*"

    def __str__(self) -> str:
        kind = self.resource.replace("_", " ")
        name = "" if self.resource == "cluster" else f" {self.name}{'*' if self.is_prefix else ''}"
        place = "" if self.host == "*" else f" from {self.host}"
        return f"{self.operation.replace('_', ' ')} {kind}{name}{place}"


def wanted_acls(topics: Topics) -> frozenset[Acl]:
    """The rights of all principals in a ledger. The administrator and the brokers need none: they are super users."""
    return frozenset(
        (
            *_command_service(topics),
            *(acl for principal in PROJECTORS for acl in _projector(principal, topics)),
            *_activity(topics),
            *_search(topics),
            *_auditor(topics),
            *_commands_and_replies(CLIENT, topics),
            *_commands_and_replies(OPERATOR, topics),
            *_operator(topics),
            *_registry(),
        )
    )


def _command_service(topics: Topics) -> Iterator[Acl]:
    me = COMMAND_SERVICE
    read = (topics.commands, topics.followups, topics.events, topics.snapshots, topics.replies, topics.subject_keys)
    # Commands too: one that landed on a partition which is not its account's is sent there.
    write = (*read, topics.parked)
    yield from (Acl(me, "read", "topic", name) for name in read)
    yield from (Acl(me, "write", "topic", name) for name in write)
    yield Acl(me, "read", "group", topics.command_service_group)
    # It is in no group while it restores, but Kafka's client asks for the coordinator of one.
    yield Acl(me, "describe", "group", f"{topics.command_service_group}.restore")
    yield Acl(me, "write", "transactional_id", topics.transactional_id(""), is_prefix=True)


def _projector(principal: str, topics: Topics) -> Iterator[Acl]:
    name = principal.removeprefix("projector-")
    yield Acl(principal, "read", "topic", topics.events)
    yield Acl(principal, "read", "group", topics.projector_group(name))
    # By its members it is known whether a rebuild is running.
    if principal != PROJECTOR_ACTIVITY:
        yield Acl(principal, "read", "group", topics.projector_group(f"{name}.rebuild"))


def _activity(topics: Topics) -> Iterator[Acl]:
    me = PROJECTOR_ACTIVITY
    yield Acl(me, "write", "topic", topics.alerts)
    # The changelogs of its tables, whose names begin with its group's: it makes them as it needs them.
    changelogs = f"{topics.projector_group('activity')}-"
    needed: tuple[Operation, ...] = ("create", "read", "write")
    yield from (Acl(me, operation, "topic", changelogs, is_prefix=True) for operation in needed)


def _search(topics: Topics) -> Iterator[Acl]:
    # Its documents have holders' names as they are; the other projectors have no use for them.
    yield Acl(PROJECTOR_SEARCH, "read", "topic", topics.subject_keys)


def _auditor(topics: Topics) -> Iterator[Acl]:
    yield Acl(AUDITOR, "read", "topic", topics.events)
    yield Acl(AUDITOR, "read", "topic", topics.checkpoints)
    yield Acl(AUDITOR, "write", "topic", topics.checkpoints)
    # It is in no group, but Kafka's client asks for the coordinator of one.
    yield Acl(AUDITOR, "describe", "group", topics.client_group)
    yield Acl(AUDITOR, "write", "transactional_id", topics.auditor_transactional_id)


def _commands_and_replies(principal: str, topics: Topics) -> Iterator[Acl]:
    yield Acl(principal, "write", "topic", topics.commands)
    yield Acl(principal, "read", "topic", topics.replies)
    yield Acl(principal, "describe", "group", topics.client_group)


def _operator(topics: Topics) -> Iterator[Acl]:
    everything = (
        *(topics.commands, topics.followups, topics.events, topics.snapshots, topics.replies),
        *(topics.alerts, topics.parked, topics.subject_keys, topics.checkpoints),
    )
    yield from (Acl(OPERATOR, "read", "topic", name) for name in everything)
    # An erasure deletes commands that were processed, and writes tombstones of what is parked; and it says until when
    # what it found is on the disks, by the settings.
    yield Acl(OPERATOR, "delete", "topic", topics.commands)
    yield Acl(OPERATOR, "write", "topic", topics.parked)
    yield from (Acl(OPERATOR, "describe_configs", "topic", name) for name in everything)
    yield Acl(OPERATOR, "describe_configs", "cluster", _CLUSTER)
    # How far each program is, and who its members are.
    yield Acl(OPERATOR, "describe", "group", topics.command_service_group, is_prefix=True)
    yield Acl(OPERATOR, "describe", "group", topics.projector_group(""), is_prefix=True)


def _registry() -> Iterator[Acl]:
    needed: tuple[Operation, ...] = ("create", "read", "write", "describe_configs")
    yield from (Acl(REGISTRY, operation, "topic", name) for name in _REGISTRY_TOPICS for operation in needed)
    yield Acl(REGISTRY, "read", "group", _REGISTRY_GROUPS, is_prefix=True)
