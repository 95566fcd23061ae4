"""Topics, schemas and search indices as wanted against as found: what differs, and making it so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final, assert_never

from deploy.brokers import Brokers, FoundCluster, compared
from deploy.differences import (
    Applicable,
    CompatibilityDiffers,
    Difference,
    IncompatibleSchema,
    IndexFieldDiffers,
    IndexLacksField,
    MissingSchema,
    MissingSubject,
    MissingTemplate,
    MissingTopic,
    PartitionCountDiffers,
    ReplicationDiffers,
    TemplateDiffers,
    TopicConfigDiffers,
)
from deploy.elasticsearch import SearchIndices
from deploy.errors import Refused
from deploy.indices import template_definitions
from deploy.subjects import Subjects
from deploy.wanted import DEFAULT_PARTITIONS, subject_definitions, topic_definitions
from schemas.connections import Connections

_WHAT_TO_DO: Final = (
    "Nothing was changed. Deploy with the partition count that the topics were created with, and with the schemas that "
    "were released to this registry; or begin another ledger beside this one by setting DAYBOOK_NAMESPACE"
)


@dataclass(frozen=True, slots=True)
class _Servers:
    """What is compared. Without search indices where no Elasticsearch is configured: a ledger may go without."""

    brokers: Brokers
    subjects: Subjects
    search: SearchIndices | None


def plan(
    connections: Connections, *, partitions: int | None = None, replication: int | None = None
) -> list[Difference]:
    """How the servers differ from what is wanted, in the order in which to put it right. Changes nothing.

    Args:
        partitions: how many each topic should have; without it, as many as an existing ledger has, or six.
        replication: how many replicas each topic should have; without it three, or as many as there are brokers.

    Raises:
        Unreachable: Kafka, the registry or Elasticsearch did not answer.
        Refused: one of them turned a question down.
    """
    with ExitStack() as cleanup:
        return _plan(_servers(connections, cleanup), connections, partitions, replication)


def apply(
    connections: Connections,
    *,
    partitions: int | None = None,
    replication: int | None = None,
    applied: Callable[[Applicable], None] = lambda _: None,
) -> list[Difference]:
    """Bring the servers to what is wanted, and return how they differed. May be repeated, also after a failure.

    `applied` is called for each difference once it is put right; a difference in replication, or in the kind of an
    index's field, is left as it is. The other arguments are those of `plan`.

    Raises:
        Refused: a partition count or a schema differs in a way that cannot be put right: then nothing is changed. Or a
            server turned a change down: those before it are made.
        Unreachable: Kafka, the registry or Elasticsearch did not answer.
    """
    with ExitStack() as cleanup:
        servers = _servers(connections, cleanup)
        differences = _plan(servers, connections, partitions, replication)
        refuse(differences)
        _apply(differences, servers, applied)
    return differences


def refuse(differences: Sequence[Difference]) -> None:
    """Raise `Refused`, naming every difference that cannot be put right, if there is one."""
    refusals = [one.problem for one in differences if isinstance(one, PartitionCountDiffers | IncompatibleSchema)]
    if refusals:
        raise Refused("\n".join((*refusals, _WHAT_TO_DO)))


def _servers(connections: Connections, cleanup: ExitStack) -> _Servers:
    subjects = cleanup.enter_context(closing(Subjects(connections)))
    search = None
    if connections.elasticsearch_url is not None:
        search = cleanup.enter_context(closing(SearchIndices(connections)))
    return _Servers(Brokers(connections), subjects, search)


def _plan(
    servers: _Servers, connections: Connections, partitions: int | None, replication: int | None
) -> list[Difference]:
    topics = connections.topics
    found = servers.brokers.found([topic.name for topic in topic_definitions(topics, DEFAULT_PARTITIONS)])
    if replication is not None and replication > found.brokers:
        raise Refused(
            f"replication {replication} needs as many brokers, and of those at {connections.kafka_bootstrap} "
            f"{found.brokers} are up: ask for fewer replicas, or start more brokers"
        )
    wanted = topic_definitions(topics, partitions or _partitions(connections, found))
    differences: list[Difference] = [
        *compared(wanted, found, replication),
        *servers.subjects.compared(subject_definitions(topics)),
    ]
    if servers.search is not None:
        differences += servers.search.compared(template_definitions(connections.indices))
    return differences


def _partitions(connections: Connections, found: FoundCluster) -> int:
    """The partitions of a ledger: those of the first of its topics that is there, which is the one for commands."""
    for topic in topic_definitions(connections.topics, DEFAULT_PARTITIONS):
        if topic.accounts_live_here and topic.name in found.topics:
            return found.topics[topic.name].partitions
    return DEFAULT_PARTITIONS


def _apply(differences: Sequence[Difference], servers: _Servers, applied: Callable[[Applicable], None]) -> None:
    brokers, subjects = servers.brokers, servers.subjects
    # One request each for all topics and for all settings; the order of the others is that of the plan.
    missing = [one for one in differences if isinstance(one, MissingTopic)]
    if missing:
        brokers.create(missing)
    configs = [one for one in differences if isinstance(one, TopicConfigDiffers)]
    if configs:
        brokers.set_configs(configs)
    for difference in differences:
        match difference:
            case MissingTopic() | TopicConfigDiffers():
                pass
            case MissingSubject():
                subjects.create(difference)
            case CompatibilityDiffers():
                subjects.set_compatibility(difference.subject)
            case MissingSchema():
                subjects.register(difference.subject, difference.schema)
            case MissingTemplate() | TemplateDiffers() | IndexLacksField():
                # Without Elasticsearch there is no such difference.
                if servers.search is not None:
                    servers.search.bring(difference)
            case ReplicationDiffers() | IndexFieldDiffers() | PartitionCountDiffers() | IncompatibleSchema():
                continue
            case _:
                assert_never(difference)
        applied(difference)
