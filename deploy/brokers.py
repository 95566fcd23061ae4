"""The topics of a Kafka cluster: as found, compared with what is wanted, and brought there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ClusterMetadata,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from deploy.differences import (
    MissingTopic,
    PartitionCountDiffers,
    ReplicationDiffers,
    TopicConfigDiffers,
)
from deploy.errors import DeployError, Refused, Unreachable
from deploy.wanted import MAX_DEFAULT_REPLICATION, TopicDefinition
from schemas.connections import Connections

_LOG: Final = logging.getLogger("deploy.kafka")
_LOG.addHandler(logging.NullHandler())

_TIMEOUT_S: Final = 10.0
"""One request's bound. Creating topics takes a broker some tens of milliseconds each, more on a busy machine."""

_ATTEMPT_S: Final = 2.0
"""One attempt's bound at first contact: after each it is looked at whether any broker is there at all. A name with
several addresses is tried at all of them within that time."""

_INTERVAL_S: Final = 0.05
"""Between two looks at whether new topics can be written to; electing their leaders takes a few of these."""

_NOBODY_ANSWERS: Final = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
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
        self._address = connections.kafka_bootstrap
        self._all_down = False
        self._why_down: str | None = None
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
                told = self._told_apart(error, "the topics could not be listed")
                if self._all_down or time.monotonic() > deadline or not isinstance(told, Unreachable):
                    raise told from error
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
        if reason.code() in _NOBODY_ANSWERS:
            why = self._why_down or reason.str()
            return Unreachable("Kafka", self._address, f"{why}; is it running (`daybook stack up` starts one here)?")
        return Refused(f"{what} (Kafka at {self._address}): {reason.str()}")

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._all_down = True
        else:
            self._why_down = error.str()


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
