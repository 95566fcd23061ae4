"""Names, keys and the partitioner: where a record belongs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from confluent_kafka import murmur2

FINGERPRINT_HEADER: Final = "command-fingerprint"
"""On a reply: eight bytes that stand for what the command asked, so that an id used for something else is noticed."""

FOLLOW_UP_FINGERPRINT: Final = b"followup"
"""What stands there on the reply to a follow-up, whose id is derived from what it asks. A reply to a client's command,
whose id may be made to look the same, never has it."""

DECIDED_HEADER: Final = "decided"
"""On a follow-up: present when what it leads to was recorded in the same transaction. Nobody decides it again."""

REPLAYED_HEADER: Final = "replayed"
"""On a reply: present when it is the first answer given once more to a command that was sent again."""

PARKED_KEY_HEADER: Final = "parked-key"
"""On a parked record: the key that it came with. Absent when it came without one."""

PARKED_VALUE_HEADER: Final = "parked-value"
"""On a parked record that came without a value: present, since on the topic it has an empty one. Without a value it
would be a tombstone."""

ERASED_HEADER: Final = "erased-account"
"""On the tombstone of a parked record: the account with whose holder it was erased."""

_EVENT_KEY: Final = re.compile(r"(?P<account_id>.+)/(?P<sequence>[1-9][0-9]*)", re.ASCII | re.DOTALL)
_PARKED_KEY: Final = re.compile(
    r"(?P<topic>[a-zA-Z0-9._-]+)/(?P<partition>0|[1-9][0-9]*)/(?P<offset>0|[1-9][0-9]*)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of a ledger's topics, groups and transactional ids.

    `namespace` keeps several ledgers on one cluster apart: with `"eu"`, commands go to `eu.account.commands`.
    Without one the names are those that the documentation gives.
    """

    namespace: str = ""

    def _name(self, name: str) -> str:
        return f"{self.namespace}.{name}" if self.namespace else name

    @property
    def commands(self) -> str:
        return self._name("account.commands")

    @property
    def followups(self) -> str:
        return self._name("account.followups")

    @property
    def events(self) -> str:
        return self._name("account.events")

    @property
    def snapshots(self) -> str:
        return self._name("account.snapshots")

    @property
    def replies(self) -> str:
        return self._name("account.replies")

    @property
    def parked(self) -> str:
        return self._name("account.parked")

    @property
    def alerts(self) -> str:
        return self._name("account.alerts")

    @property
    def checkpoints(self) -> str:
        return self._name("account.checkpoints")

    @property
    def subject_keys(self) -> str:
        return self._name("subject.keys")

    @property
    def command_service_group(self) -> str:
        return self._name("daybook.command-service")

    def projector_group(self, projector: str) -> str:
        return self._name(f"daybook.projector.{projector}")

    @property
    def client_group(self) -> str:
        """What clients name where Kafka's library insists on a group; nothing is ever stored under it."""
        return f"{self.namespace or 'daybook'}.client"

    def transactional_id(self, instance: str) -> str:
        return self._name(f"daybook.command-service.{instance}")

    @property
    def auditor_transactional_id(self) -> str:
        """One for all auditors of a ledger, so that a second one fences the first: there is one row of checkpoints."""
        return self._name("daybook.auditor")


def subject(topic: str, record_name: str) -> str:
    """The registry subject of a record on a topic (Confluent's TopicRecordNameStrategy)."""
    return f"{topic}-{record_name}"


def event_key(account_id: str, sequence: int) -> bytes:
    """An event's own key, so that compaction keeps every event. The partition is chosen by the account id alone."""
    return f"{account_id}/{sequence}".encode()


def parse_event_key(key: bytes) -> tuple[str, int]:
    """Account id and sequence of an event's key.

    Raises:
        ValueError: the key is not `<account id>/<sequence>` as `event_key` writes it.
    """
    match = _EVENT_KEY.fullmatch(key.decode())
    if match is None:
        raise ValueError(f"{key!r} is not an event key: it should read <account id>/<sequence>")
    return match["account_id"], int(match["sequence"])


def parked_key(topic: str, partition: int, offset: int) -> bytes:
    """A parked record's own key: the place that it came from, so that each can be deleted without the others.

    It is parked under the same key again when that place is read once more.
    """
    return f"{topic}/{partition}/{offset}".encode()


def parse_parked_key(key: bytes) -> tuple[str, int, int]:
    """Topic, partition and offset of a parked record's key.

    Raises:
        ValueError: the key is not `<topic>/<partition>/<offset>` as `parked_key` writes it.
    """
    match = _PARKED_KEY.fullmatch(key.decode())
    if match is None:
        raise ValueError(f"{key!r} is not the key of a parked record: it should read <topic>/<partition>/<offset>")
    return match["topic"], int(match["partition"]), int(match["offset"])


def partition_of(account_id: str, partitions: int) -> int:
    """The partition that an account lives in, on a topic of that many partitions.

    The hash is murmur2, as in Java's default partitioner, so that the keyed commands of most clients land right.
    """
    return murmur2(account_id.encode(), partitions)
