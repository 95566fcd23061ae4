"""Which log a read model was made from, so that it is never continued from another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

_TIMEOUT_S: Final = 5
"""One request's bound: a cluster that is up answers within milliseconds. A stop is not noticed meanwhile."""

_WRONG_CREDENTIALS: Final = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}


class SourceUnavailable(Exception):
    """Kafka did not answer. Asking again later may help."""


class NoSource(Exception):
    """Kafka answered that there is no such log for us: the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """One log: a cluster's id, a topic's name and, since a topic can be deleted and created anew, the topic's id."""

    cluster_id: str
    topic: str
    topic_id: str

    def __str__(self) -> str:
        """How checkpoints name the log. This is a storage format: another text is another log."""
        return f"{self.cluster_id}/{self.topic}/{self.topic_id}"


def identify(admin: AdminClient, topic: str) -> Source:
    """Ask Kafka which log a topic is. Blocks for at most ten seconds.

    Raises:
        SourceUnavailable: Kafka could not be asked.
        NoSource: there is no such topic, or it may not be seen with these credentials.
    """
    try:
        cluster = admin.describe_cluster(request_timeout=_TIMEOUT_S).result(_TIMEOUT_S)
        described = admin.describe_topics(TopicCollection([topic]), request_timeout=_TIMEOUT_S)[topic].result(
            _TIMEOUT_S
        )
    except KafkaException as error:
        raise _told_apart(error, topic) from error
    except TimeoutError as error:
        raise SourceUnavailable(f"Kafka did not describe topic {topic} within {_TIMEOUT_S} s") from error
    return Source(str(cluster.cluster_id), topic, str(described.topic_id))


def _told_apart(error: KafkaException, topic: str) -> Exception:
    cause = error.args[0]
    if cause.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return NoSource(f"topic {topic} does not exist; `daybook deploy apply` creates it")
    if cause.code() in _WRONG_CREDENTIALS:
        return NoSource(f"Kafka does not let us see topic {topic}: {cause.str()}; check DAYBOOK_KAFKA_* and its ACLs")
    return SourceUnavailable(f"Kafka could not be asked for topic {topic}: {cause.str()}")
