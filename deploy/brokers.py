"""A Kafka cluster: its topics, credentials and access rights as found, and brought to what is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBindingFilter,
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialsDescription,
    UserScramCredentialUpsertion,
)

from deploy.access.bindings import ANY, acl_of, binding_of
from deploy.access.kafka import Acl
from deploy.differences import (
    MissingTopic,
    PartitionCountDiffers,
    ReplicationDiffers,
    TopicConfigDiffers,
)
from deploy.errors import DeployError, Refused, Unreachable
from deploy.wanted import MAX_DEFAULT_REPLICATION, TopicDefinition
from schemas.connections import Connections
from schemas.login import is_refusal, told

_LOG: Final = logging.getLogger("deploy.kafka")
_LOG.addHandler(logging.NullHandler())

_TIMEOUT_S: Final = 10.0
"""One request's bound. Creating topics takes a broker some tens of milliseconds each, more on a busy machine."""

_ATTEMPT_S: Final = 2.0
"""One attempt's bound at first contact: after each it is looked at whether any broker is there at all. A name with
several addresses is tried at all of them within that time."""

_LOGINS_S: Final = 60.0
"""For all principals to log in side by side. A login takes thousands of hashes, some ten milliseconds in all."""

_INTERVAL_S: Final = 0.05
"""Between two looks at whether new topics can be written to; electing their leaders takes a few of these."""

_NOBODY_ANSWERS: Final = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
}

_SCRAM_ITERATIONS: Final = 8192
"""Twice the least that Kafka accepts. It is worked through at each connection; passwords are random, not guessable."""

_LOGIN_LOOK_S: Final = 0.2

_NOT_ALLOWED: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """A topic as it is. `replication` is that of its partition with the fewest replicas."""

    partitions: int
    replication: int
    configs: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class FoundCluster:
    """The brokers that are up, and those topics that were asked for and exist."""

    brokers: int
    topics: Mapping[str, FoundTopic]


class Brokers:
    """A Kafka cluster. Every method blocks for some seconds at most.

    They raise `Unreachable` when no broker answers, and `Refused` when one turns the request down.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._address = connections.kafka_bootstrap
        self._all_down = False
        self._why_down: str | None = None
        self._not_let_in: str | None = None
        # The client's types know of no callbacks.
        config: dict[str, Any] = {**connections.kafka(), "error_cb": self._on_error}
        self._client = AdminClient(config, logger=_LOG)

    def found(self, names: Sequence[str]) -> FoundCluster:
        """What there is of these topics."""
        metadata = self._metadata()
        there = [name for name in names if name in metadata.topics]
        for name in there:
            problem = metadata.topics[name].error
            if problem is not None:
                raise Refused(f"topic {name} at {self._address} cannot be described: {problem.str()}")
        configs = self._configs(there)
        return FoundCluster(
            len(metadata.brokers),
            {
                name: FoundTopic(
                    len(metadata.topics[name].partitions),
                    min(len(partition.replicas) for partition in metadata.topics[name].partitions.values()),
                    configs[name],
                )
                for name in there
            },
        )

    def create(self, missing: Sequence[MissingTopic]) -> None:
        """Create topics, and return once each partition has a leader."""
        new = [
            NewTopic(
                one.topic.name,
                num_partitions=one.topic.partitions,
                replication_factor=one.replication,
                config=one.topic.configs_at(one.replication),
            )
            for one in missing
        ]
        futures = self._client.create_topics(new, operation_timeout=_TIMEOUT_S, request_timeout=_TIMEOUT_S)
        for name, future in futures.items():
            self._result(future, f"topic {name} could not be created")
        self._await_leaders({one.topic.name: one.topic.partitions for one in missing})

    def set_configs(self, differing: Sequence[TopicConfigDiffers]) -> None:
        """Set what differs and nothing else: other settings of these topics stay as they are."""
        resources: dict[str, ConfigResource] = {}
        for one in differing:
            resource = resources.setdefault(one.topic, ConfigResource(ResourceType.TOPIC, one.topic))
            resource.add_incremental_config(
                ConfigEntry(one.name, one.wanted, incremental_operation=AlterConfigOpType.SET)
            )
        futures = self._client.incremental_alter_configs(list(resources.values()), request_timeout=_TIMEOUT_S)
        for resource, future in futures.items():
            self._result(future, f"the configuration of topic {resource.name} could not be set")

    def scram_users(self) -> frozenset[str]:
        """Who has a credential for SCRAM-SHA-512."""
        # Asked for everybody's, it gives one future; asked for some, one for each.
        future = cast(
            "Future[dict[str, UserScramCredentialsDescription]]",
            self._client.describe_user_scram_credentials(request_timeout=_TIMEOUT_S),
        )
        found = self._result(future, "the credentials could not be listed")
        return frozenset(
            name
            for name, one in found.items()
            if any(info.mechanism == ScramMechanism.SCRAM_SHA_512 for info in one.scram_credential_infos)
        )

    def refused(self, passwords: Mapping[str, str]) -> frozenset[str]:
        """Which of these users Kafka does not let in with their password.

        Nothing but a login tells: Kafka keeps no password, and shows nobody what it keeps instead.
        """
        waiting = {name: _Login(self._connections, name, password) for name, password in passwords.items()}
        deadline = time.monotonic() + _LOGINS_S
        refused: set[str] = set()
        while waiting:
            for name, login in list(waiting.items()):
                outcome = login.outcome()
                if outcome is not None:
                    del waiting[name]
                    if not outcome:
                        refused.add(name)
            if waiting and time.monotonic() > deadline:
                raise Unreachable(
                    "Kafka", self._address, f"nobody was told whether {', '.join(waiting)} may log in; try again"
                )
            time.sleep(_INTERVAL_S)
        return frozenset(refused)

    def set_passwords(self, passwords: Mapping[str, str]) -> None:
        """Make or change credentials for SCRAM-SHA-512."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _SCRAM_ITERATIONS)
        # Its stub wants the base class by name.
        changes: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(name, info, password.encode()) for name, password in passwords.items()
        ]
        futures = self._client.alter_user_scram_credentials(changes, request_timeout=_TIMEOUT_S)
        for name, future in futures.items():
            self._result(future, f"the password of {name} could not be set")

    def acls(self) -> frozenset[Acl]:
        """All access rights that there are. Of kinds that Daybook does not use, none."""
        future = self._client.describe_acls(ANY, request_timeout=_TIMEOUT_S)
        found = self._result(
            future, "the access rights could not be listed (a broker knows some only if authorizer.class.name is set)"
        )
        return frozenset(acl for binding in found if (acl := acl_of(binding)) is not None)

    def allow(self, acls: Sequence[Acl]) -> None:
        """Give access rights."""
        futures = self._client.create_acls([binding_of(acl) for acl in acls], request_timeout=_TIMEOUT_S)
        for binding, future in futures.items():
            self._result(future, f"the right to {acl_of(binding)} could not be given to {binding.principal}")

    def disallow(self, acls: Sequence[Acl]) -> None:
        """Take access rights away."""
        filters = [
            AclBindingFilter(
                one.restype,
                one.name,
                one.resource_pattern_type,
                one.principal,
                one.host,
                one.operation,
                one.permission_type,
            )
            for one in map(binding_of, acls)
        ]
        futures = self._client.delete_acls(filters, request_timeout=_TIMEOUT_S)
        for wanted, future in futures.items():
            self._result(future, f"a right to {wanted.name} could not be taken away from {wanted.principal}")

    def _configs(self, names: Sequence[str]) -> Mapping[str, Mapping[str, str | None]]:
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        futures = self._client.describe_configs(resources, request_timeout=_TIMEOUT_S)
        found: dict[str, Mapping[str, str | None]] = {}
        for resource, future in futures.items():
            entries = self._result(future, f"the configuration of topic {resource.name} could not be read")
            found[resource.name] = {name: entry.value for name, entry in entries.items()}
        return found

    def _metadata(self) -> ClusterMetadata:
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                # Asked for by name, a missing topic would be created by a broker that is set to do so.
                metadata = self._client.list_topics(timeout=_ATTEMPT_S)
            except KafkaException as error:
                problem = self._told_apart(error, "the topics could not be listed")
                if self._all_down or time.monotonic() > deadline or not isinstance(problem, Unreachable):
                    raise problem from error
            else:
                self._all_down = False
                return metadata

    def _await_leaders(self, partitions: Mapping[str, int]) -> None:
        """Whoever deploys writes next, and a topic without leaders would turn that down."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            topics = self._metadata().topics
            waiting = [
                name
                for name, count in partitions.items()
                if name not in topics
                or len(topics[name].partitions) != count
                or any(partition.leader < 0 for partition in topics[name].partitions.values())
            ]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise Unreachable(
                    "Kafka",
                    self._address,
                    f"topics {', '.join(waiting)} were created, but have no leaders after {_TIMEOUT_S:.0f} s; "
                    "look at the brokers' logs",
                )
            time.sleep(_INTERVAL_S)

    def _result(self, future: Future[T], what: str) -> T:
        try:
            # The requests have time-outs of their own; this one is only for a reply that never comes.
            return future.result(timeout=2 * _TIMEOUT_S)
        except TimeoutError as error:
            raise Unreachable("Kafka", self._address, f"{what}: no answer") from error
        except KafkaException as error:
            raise self._told_apart(error, what) from error

    def _told_apart(self, error: KafkaException, what: str) -> DeployError:
        reason: KafkaError = error.args[0]
        # The error callback, which knows more than "timed out", is called here.
        self._client.poll(0)
        if self._not_let_in is not None:
            return Refused(f"Kafka at {self._address} does not let us in: {self._not_let_in}")
        if reason.code() in _NOT_ALLOWED:
            # Kafka's own text for it may be a page about the request.
            return Refused(
                f"{what}: Kafka at {self._address} does not allow it to {self._connections.kafka_sasl_username}; "
                "log in as its administrator (DAYBOOK_KAFKA_SASL_USERNAME), who alone may deploy"
            )
        if reason.code() in _NOBODY_ANSWERS:
            why = self._why_down or reason.str()
            return Unreachable("Kafka", self._address, f"{why}; is it running (`daybook stack up` starts one here)?")
        return Refused(f"{what} (Kafka at {self._address}): {reason.str()}")

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
        elif is_refusal(error):
            self._not_let_in = told(error)
        else:
            self._why_down = error.str()


class _Login:
    """An attempt to log in, in the background."""

    def __init__(self, connections: Connections, user: str, password: str) -> None:
        self._refused = False
        config: dict[str, Any] = {
            **connections.kafka(),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "error_cb": self._on_error,
        }
        self._client = AdminClient(config, logger=_LOG)

    def outcome(self) -> bool | None:
        """Whether it was let in; None while that is open. Blocks for a moment."""
        try:
            # Whoever is let in is answered, and told of the topics that he may see.
            self._client.list_topics(timeout=_LOGIN_LOOK_S)
        except KafkaException:
            self._client.poll(0)
            return False if self._refused else None
        return True

    def _on_error(self, error: KafkaError) -> None:
        self._refused = self._refused or is_refusal(error)


def compared(
    wanted: Sequence[TopicDefinition], found: FoundCluster, replication: int | None
) -> Iterator[MissingTopic | TopicConfigDiffers | PartitionCountDiffers | ReplicationDiffers]:
    """How the topics found differ from those wanted.

    Without a `replication`, new topics get up to three replicas, as many as there are brokers, and more than that is
    no difference: a broker that is down for a while must not make a healthy topic look wrong.
    """
    default = min(MAX_DEFAULT_REPLICATION, found.brokers)
    for topic in wanted:
        there = found.topics.get(topic.name)
        if there is None:
            yield MissingTopic(topic, replication or default)
            continue
        if there.partitions != topic.partitions:
            yield PartitionCountDiffers(topic.name, there.partitions, topic.partitions, topic.accounts_live_here)
        replicas = replication or max(default, there.replication)
        if there.replication != replicas:
            yield ReplicationDiffers(topic.name, there.replication, replicas)
        for name, value in topic.configs_at(there.replication).items():
            if there.configs.get(name) != value:
                yield TopicConfigDiffers(topic.name, name, there.configs.get(name), value)
