"""Entries of Kafka's access control list, in our terms and in those of its client library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast, get_args

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from deploy.access.kafka import Acl, Operation, Resource

_USER: Final = "User:"
# The stub does not know that None stands for any.
_EVERY: Final = cast(str, None)
ANY: Final = AclBindingFilter(
    ResourceType.ANY, _EVERY, ResourcePatternType.ANY, _EVERY, _EVERY, AclOperation.ANY, AclPermissionType.ANY
)
"""A filter that all entries pass."""

_RESOURCES: Final[Mapping[object, Resource]] = {
    ResourceType.TOPIC: "topic",
    ResourceType.GROUP: "group",
    ResourceType.TRANSACTIONAL_ID: "transactional_id",
    ResourceType.BROKER: "cluster",
}
_OPERATIONS: Final[Mapping[object, Operation]] = {AclOperation[name.upper()]: name for name in get_args(Operation)}


def acl_of(binding: AclBinding) -> Acl | None:
    """The entry as ours; None if it is of a kind that Daybook does not use."""
    resource = _RESOURCES.get(binding.restype)
    operation = _OPERATIONS.get(binding.operation)
    if resource is None or operation is None or not binding.principal.startswith(_USER):
        return None
    return Acl(
        binding.principal.removeprefix(_USER),
        operation,
        resource,
        binding.name,
        binding.resource_pattern_type == ResourcePatternType.PREFIXED,
        binding.permission_type == AclPermissionType.ALLOW,
        binding.host,
    )


def binding_of(acl: Acl) -> AclBinding:
    """The entry as the client library has it."""
    return AclBinding(
        # Kafka's cluster is what the client library calls a broker.
        ResourceType.BROKER if acl.resource == "cluster" else ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType.PREFIXED if acl.is_prefix else ResourcePatternType.LITERAL,
        f"{_USER}{acl.principal}",
        acl.host,
        AclOperation[acl.operation.upper()],
        AclPermissionType.ALLOW if acl.allows else AclPermissionType.DENY,
    )
