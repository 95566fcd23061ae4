"""Topics, schemas and search indices as wanted against as found: what differs, and making it so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final, assert_never

from deploy.access.compared import compared_credentials, compared_rights
from deploy.access.kafka import wanted_acls
from deploy.access.principals import ADMIN, SCRAM_PRINCIPALS
from deploy.brokers import Brokers, FoundCluster, compared
from deploy.differences import (
    AccessDiffers,
    Applicable,
    CompatibilityDiffers,
    DenyingAcl,
    Difference,
    IncompatibleSchema,
    IndexFieldDiffers,
    IndexLacksField,
    MissingCredential,
    MissingRights,
    MissingSchema,
    MissingSubject,
    MissingTemplate,
    MissingTopic,
    PartitionCountDiffers,
    ReplicationDiffers,
    SubjectDiffers,
    TemplateDiffers,
    TopicConfigDiffers,
    UnwantedRights,
    WrongCredential,
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
    connections: Connections,
    *,
    partitions: int | None = None,
    replication: int | None = None,
    passwords: Mapping[str, str] | None = None,
) -> list[Difference]:
    """How the servers differ from what is wanted, in the order in which to put it right. Changes nothing.

    Args:
        partitions: how many each topic should have; without it, as many as an existing ledger has, or six.
        replication: how many replicas each topic should have; without it three, or as many as there are brokers.
        passwords: those of the principals, by name; without them, credentials and access rights are left alone.

    Raises:
        Unreachable: Kafka, the registry or Elasticsearch did not answer.
        Refused: one of them turned a question down.
    """
    with ExitStack() as cleanup:
        return _plan(_servers(connections, cleanup), connections, partitions, replication, passwords)


def apply(
    connections: Connections,
    *,
    partitions: int | None = None,
    replication: int | None = None,
    passwords: Mapping[str, str] | None = None,
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
        differences = _plan(servers, connections, partitions, replication, passwords)
        refuse(differences)
        _apply(differences, servers, passwords or {}, applied)
    return differences


def plan_access(connections: Connections, passwords: Mapping[str, str]) -> list[Difference]:
    """How Kafka's credentials and access rights differ from what is wanted. Changes nothing; raises as `plan` does."""
    return list(_plan_access(Brokers(connections), connections, passwords))


def apply_access(
    connections: Connections,
    passwords: Mapping[str, str],
    *,
    applied: Callable[[Applicable], None] = lambda _: None,
) -> list[Difference]:
    """Bring Kafka's credentials and access rights to what is wanted, as `apply` does, but nothing else.

    It needs Kafka alone: the registry cannot start before it may log in there.
    """
    brokers = Brokers(connections)
    differences = _plan_access(brokers, connections, passwords)
    for difference in differences:
        if not isinstance(difference, DenyingAcl):
            _bring_access(difference, brokers, passwords)
            applied(difference)
    return list(differences)


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
    servers: _Servers,
    connections: Connections,
    partitions: int | None,
    replication: int | None,
    passwords: Mapping[str, str] | None,
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
    if passwords is None:
        return differences
    access = _plan_access(servers.brokers, connections, passwords)
    # Last, since nothing that is done before must have to log in anew.
    own = [one for one in access if isinstance(one, MissingCredential | WrongCredential) and one.principal == ADMIN]
    return [*(one for one in access if one not in own), *differences, *own]


def _plan_access(
    brokers: Brokers, connections: Connections, passwords: Mapping[str, str]
) -> list[AccessDiffers | DenyingAcl]:
    if not connections.kafka_security_protocol.startswith("SASL"):
        raise Refused(
            f"passwords are given, but Kafka at {connections.kafka_bootstrap} is talked to by "
            f"{connections.kafka_security_protocol}, where nobody logs in with one: set "
            "DAYBOOK_KAFKA_SECURITY_PROTOCOL and DAYBOOK_KAFKA_SASL_*, or leave the passwords out"
        )
    known = brokers.scram_users()
    ours = {name: passwords[name] for name in SCRAM_PRINCIPALS if name in passwords}
    refused = brokers.refused({name: password for name, password in ours.items() if name in known})
    credentials = list(compared_credentials(ours, known, refused))
    return [
        *compared_rights(wanted_acls(connections.topics), brokers.acls()),
        *(one for one in credentials if one.principal != ADMIN),
        *(one for one in credentials if one.principal == ADMIN),
    ]


def _partitions(connections: Connections, found: FoundCluster) -> int:
    """The partitions of a ledger: those of the first of its topics that is there, which is the one for commands."""
    for topic in topic_definitions(connections.topics, DEFAULT_PARTITIONS):
        if topic.accounts_live_here and topic.name in found.topics:
            return found.topics[topic.name].partitions
    return DEFAULT_PARTITIONS


def _apply(
    differences: Sequence[Difference],
    servers: _Servers,
    passwords: Mapping[str, str],
    applied: Callable[[Applicable], None],
) -> None:
    brokers, subjects = servers.brokers, servers.subjects
    # One request each for all topics and for all settings; the others in the order of the plan.
    missing = [one for one in differences if isinstance(one, MissingTopic)]
    if missing:
        brokers.create(missing)
    configs = [one for one in differences if isinstance(one, TopicConfigDiffers)]
    if configs:
        brokers.set_configs(configs)
    of_subjects = [one for one in differences if isinstance(one, SubjectDiffers)]
    with closing(subjects.bring(of_subjects)) as brought:
        for difference in differences:
            match difference:
                case MissingTopic() | TopicConfigDiffers():
                    pass
                case MissingSubject() | CompatibilityDiffers() | MissingSchema():
                    # All begin with the first, several side by side, and end in the order of the plan.
                    next(brought)
                case MissingTemplate() | TemplateDiffers() | IndexLacksField():
                    # Without Elasticsearch there is no such difference.
                    if servers.search is not None:
                        servers.search.bring(difference)
                case MissingRights() | UnwantedRights() | MissingCredential() | WrongCredential():
                    _bring_access(difference, brokers, passwords)
                case (
                    ReplicationDiffers()
                    | IndexFieldDiffers()
                    | DenyingAcl()
                    | PartitionCountDiffers()
                    | IncompatibleSchema()
                ):
                    continue
                case _:
                    assert_never(difference)
            applied(difference)


def _bring_access(difference: AccessDiffers, brokers: Brokers, passwords: Mapping[str, str]) -> None:
    match difference:
        case MissingRights():
            brokers.allow(difference.acls)
        case UnwantedRights():
            brokers.disallow(difference.acls)
        case MissingCredential() | WrongCredential():
            brokers.set_passwords({difference.principal: passwords[difference.principal]})
        case _:
            assert_never(difference)
