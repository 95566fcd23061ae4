"""The definitions as wanted: topics with their configuration, subjects with their schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from schemas.alerts import Alert
from schemas.checkpoints import Checkpoint
from schemas.keys import SEGMENT_MS, SubjectKey
from schemas.released import ReleasedSchema, is_command, is_event, is_follow_up, released
from schemas.snapshots import SNAPSHOT_TYPES
from schemas.topics import Topics, subject

DEFAULT_PARTITIONS: Final = 6
"""Divides evenly among 1, 2, 3 and 6 instances. A ledger that will need more instances says so when it is created."""

MAX_DEFAULT_REPLICATION: Final = 3
"""Where the brokers allow it: one can be down for maintenance and another be lost, and nothing committed is lost."""

COMPATIBILITY: Final = "FULL_TRANSITIVE"
"""Events of any age are read by any version of a service, and a rolling update runs two versions at once."""

_MINUTE_MS: Final = 60 * 1000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS

_MAX_MESSAGE_BYTES: Final = 1024 * 1024
_MAX_PARKED_BYTES: Final = 2 * _MAX_MESSAGE_BYTES

_SNAPSHOT_NAMES: Final = frozenset(snapshot_type.FULL_NAME for snapshot_type in SNAPSHOT_TYPES)


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """A topic as wanted. `configs` are those settings whose value matters; an operator may set others beside them."""

    name: str
    partitions: int
    configs: Mapping[str, str]
    accounts_live_here: bool
    """Partition i belongs together with partition i of the other topics of which this is true."""

    def configs_at(self, replication: int) -> dict[str, str]:
        """All settings that matter, for a topic with so many replicas.

        The replicas are those that the topic has, not those wanted: with fewer than three, a minimum of two in sync
        would stop every writer as soon as one broker restarts, or at once.
        """
        return {**self.configs, "min.insync.replicas": "2" if replication >= MAX_DEFAULT_REPLICATION else "1"}


@dataclass(frozen=True, slots=True)
class SubjectDefinition:
    """A registry subject as wanted: every released version of one record, the oldest first."""

    name: str
    versions: tuple[ReleasedSchema, ...]


def topic_definitions(topics: Topics, partitions: int) -> tuple[TopicDefinition, ...]:
    """Every topic of a ledger; those that accounts live in come first, the commands topic before all."""
    return (
        TopicDefinition(topics.commands, partitions, _COMMANDS, accounts_live_here=True),
        TopicDefinition(topics.followups, partitions, _FOLLOWUPS, accounts_live_here=True),
        TopicDefinition(topics.events, partitions, _EVENTS, accounts_live_here=True),
        TopicDefinition(topics.snapshots, partitions, _SNAPSHOTS, accounts_live_here=True),
        # An answer is written to the partition of its account, so that who takes partition i restores from replies i
        # which command ids were answered.
        TopicDefinition(topics.replies, partitions, _REPLIES, accounts_live_here=True),
        # An alert is written to the partition of its account, so that an account's alerts stay in order.
        TopicDefinition(topics.alerts, partitions, _ALERTS, accounts_live_here=True),
        # A holder's key is written to the partition of the account, by whoever decides its commands.
        TopicDefinition(topics.subject_keys, partitions, _SUBJECT_KEYS, accounts_live_here=True),
        TopicDefinition(topics.parked, partitions, _PARKED, accounts_live_here=False),
        # One row of checkpoints, each of which names the one before.
        TopicDefinition(topics.checkpoints, 1, _CHECKPOINTS, accounts_live_here=False),
    )


def subject_definitions(topics: Topics) -> tuple[SubjectDefinition, ...]:
    """Every subject of a ledger, by the topic and the full name of the record."""
    return tuple(
        SubjectDefinition(subject(_topic_of(name, topics), name), tuple(versions))
        for name, versions in groupby(released(), key=lambda schema: schema.name)
    )


def _topic_of(record_name: str, topics: Topics) -> str:
    if is_follow_up(record_name):
        return topics.followups
    if is_command(record_name):
        return topics.commands
    if is_event(record_name):
        return topics.events
    if record_name == Alert.FULL_NAME:
        return topics.alerts
    if record_name in _SNAPSHOT_NAMES:
        return topics.snapshots
    if record_name == Checkpoint.FULL_NAME:
        return topics.checkpoints
    if record_name == SubjectKey.FULL_NAME:
        return topics.subject_keys
    return topics.replies


_EVERY_TOPIC: Final = {
    # A replica that lags behind must not become leader: what it lacks was acknowledged and would be gone.
    "unclean.leader.election.enable": "false",
    # Batches stay as their producers compressed them; compressing anew would cost the broker and gain nothing.
    "compression.type": "producer",
    # Kafka's own default differs by a few bytes, and a broker may have another.
    "max.message.bytes": str(_MAX_MESSAGE_BYTES),
    # The services' clock is the one that decides, and restoring compares a record's time with it.
    "message.timestamp.type": "CreateTime",
    # Age alone deletes: a limit in bytes would delete the more the busier a day is, unread records first.
    "retention.bytes": "-1",
}


def _deleted_after(retention_ms: int) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        # Whole segments are deleted, by their newest record. Kafka's default of a week per segment would keep a quiet
        # topic's records for as long again.
        "segment.ms": str(retention_ms // 4),
    }


def _compacted() -> dict[str, str]:
    return {
        "cleanup.policy": "compact",
        # Without effect while the policy is `compact`. Should somebody add `delete` to it, still nothing is deleted.
        "retention.ms": "-1",
        "min.compaction.lag.ms": "0",
    }


_FILE_DELETE_DELAY_MS: Final = str(10 * 1000)
"""Longer than a fetch that is under way reads from a deleted file; a minute by Kafka's default."""

_ERASED_BY_TOMBSTONES: Final = {
    # An erasure is done when the record before its tombstone is gone from the disk. The segment with both is closed by
    # the first append after a minute, is cleaned as soon as it is as old, however small the part of the log that it is,
    # and the files before are deleted ten seconds later.
    "segment.ms": str(SEGMENT_MS),
    "max.compaction.lag.ms": str(SEGMENT_MS),
    "file.delete.delay.ms": _FILE_DELETE_DELAY_MS,
    # A minute by the broker's clock, which is one, and not by those of the services that wrote the two records.
    "message.timestamp.type": "LogAppendTime",
    # Whoever keeps what is here and was away must still find the tombstone. It holds nothing personal.
    "delete.retention.ms": str(7 * _DAY_MS),
}

_COMMANDS: Final = {
    **_EVERY_TOPIC,
    **_deleted_after(_DAY_MS),
    # It has names in plaintext, from which an erasure deletes, and a segment as old as that can be deleted. A day has
    # 288 of them at most in a partition, each with an open file and two in memory. A minute's, five times as many,
    # would meet Linux's limit of mapped files with some 20 partitions on a broker.
    "segment.ms": str(5 * _MINUTE_MS),
    "file.delete.delay.ms": _FILE_DELETE_DELAY_MS,
    # Anybody's clock may be wrong: by the client's time, a command could be deleted before it is read. What the client
    # says about time is in the command (`issued_at`).
    "message.timestamp.type": "LogAppendTime",
    # A broker measures a batch as it stores it. Stored compressed, one of a few kilobytes could hold hundreds of
    # megabytes, which the service could neither take nor park; so the limit has to meet what is inside.
    "compression.type": "uncompressed",
}
# Long enough for the receiving half of a transfer to survive a service that is down over a weekend.
_FOLLOWUPS: Final = {
    **_EVERY_TOPIC,
    **_deleted_after(7 * _DAY_MS),
    # By a clock that is days slow, one would be deleted before it is read, and its money stay in transit.
    "message.timestamp.type": "LogAppendTime",
}
_EVENTS: Final = {
    **_EVERY_TOPIC,
    **_compacted(),
    # No two events have the same key, so that cleaning copies the log and removes only what was aborted. Let it
    # happen when most of the log is new, not whenever half of it is.
    "min.cleanable.dirty.ratio": "0.9",
}
_SNAPSHOTS: Final = {
    **_EVERY_TOPIC,
    **_compacted(),
    # A restore reads all of it: superseded snapshots should not make up more than a fifth.
    "min.cleanable.dirty.ratio": "0.2",
    # The segment being written is never cleaned, and on a quiet ledger it would stay for a week.
    "segment.ms": str(_HOUR_MS),
}
# The memory of command ids is restored from here, and covers a day by default.
_REPLIES: Final = {**_EVERY_TOPIC, **_deleted_after(_DAY_MS)}
_ALERTS: Final = {
    **_EVERY_TOPIC,
    # An alert that is given again has the same key and the same content: one of them is enough.
    **_deleted_after(90 * _DAY_MS),
    "cleanup.policy": "compact,delete",
    "segment.ms": str(7 * _DAY_MS),
}
_PARKED: Final = {
    **_EVERY_TOPIC,
    **_deleted_after(30 * _DAY_MS),
    # Each record has a key of its own, by which an erasure takes it out and leaves those of others. The thirty days
    # count from the parking, by the brokers' clock, and not from the time that the record claims.
    "cleanup.policy": "compact,delete",
    **_ERASED_BY_TOMBSTONES,
    # Cleaning joins small segments up to this size, and age deletes a segment by its newest record. So this much of a
    # partition at most is kept for longer than thirty days: by Kafka's default a gigabyte, which is all of it.
    "segment.bytes": str(2 * _MAX_PARKED_BYTES),
    # The original bytes and headers, of which the largest command has none to spare, and the headers that say why.
    "max.message.bytes": str(_MAX_PARKED_BYTES),
}
_CHECKPOINTS: Final = {
    **_EVERY_TOPIC,
    # Never deleted, and not compacted: a checkpoint proves what the log was then, however many came after it.
    "cleanup.policy": "delete",
    "retention.ms": "-1",
}
_SUBJECT_KEYS: Final = {
    **_EVERY_TOPIC,
    **_compacted(),
    **_ERASED_BY_TOMBSTONES,
}
