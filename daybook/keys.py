"""Data keys of subjects, read from `subject.keys`: what it takes to open sealed fields without a read model.

What is read is kept wrapped, some 300 bytes a subject, and unwrapped when it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from typing import Final, Self

from confluent_kafka import IsolationLevel

from daybook import registry as schema_registry
from daybook.audit.records import Records
from daybook.errors import UnreadableRecord
from schemas.codec import Codec, Undecodable
from schemas.connections import Connections
from schemas.keyring import KeyRing
from schemas.keys import KeyEncryption, SubjectKey, WrapBroken, unwrapped
from schemas.registry import RegistryUnavailable
from schemas.sealing import Unsealer
from schemas.topics import partition_of

_LOOK_AGAIN_S: Final = 1.0
"""A subject without a key is not looked for again sooner: each field of an erased holder would ask Kafka otherwise."""


def _unheard(_done: int, _total: int) -> None:
    pass


class SubjectKeys:
    """Looks subjects' keys up; a context manager. One thread uses it.

    The partition of a subject is read when it is first asked for. A subject that is not found there is looked for once
    more in what was written since: a key is committed with the first event that it seals, or before.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        timeout_s: float,
        subject_ids: Collection[str] | None = None,
        passed: Callable[[int, int], None] = _unheard,
    ) -> None:
        """`timeout_s` bounds each request, and how long nothing may come. Given `subject_ids`, only theirs are kept.
        `passed` hears how many of how many records were read while a key is looked for.

        Raises: `NotConfigured`.
        """
        self._connections = connections
        self._topic = connections.topics.subject_keys
        self._passed = passed
        self._only = None if subject_ids is None else {subject_id.encode() for subject_id in subject_ids}
        self._opened = ExitStack()
        self._records = self._opened.enter_context(Records(connections, timeout_s=timeout_s))
        try:
            self._codec = Codec(self._opened.enter_context(schema_registry.registry(connections)))
        except BaseException:
            self._opened.close()
            raise
        self._count: int | None = None
        self._read_to: dict[int, int] = {}
        """By partition, the offset of the next record to read."""
        self._values: dict[bytes, bytes] = {}
        self._missed: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def key(self, subject_id: str) -> SubjectKey | None:
        """A subject's key; None when it has none, or no longer. What was found once is not looked for again.

        Raises:
            Unreachable, ReadTimeout: the topic could not be read.
            UnreadableRecord: what stands there is no key.
        """
        found = self._values.get(subject_id.encode())
        if found is None and time.monotonic() - self._missed.get(subject_id, -_LOOK_AGAIN_S) >= _LOOK_AGAIN_S:
            self.refresh(subject_id)
            found = self._values.get(subject_id.encode())
            if found is None:
                self._missed[subject_id] = time.monotonic()
            else:
                self._missed.pop(subject_id, None)
        return None if found is None else self._decoded(subject_id.encode(), found)

    def refresh(self, subject_id: str) -> None:
        """Read on in a subject's partition: its key may have come, or be erased, since. Raises as `key`."""
        if self._count is None:
            self._count = self._records.partitions(self._topic)
        self.catch_up([partition_of(subject_id, self._count)], self._passed)

    def all(self, passed: Callable[[int, int], None] = _unheard) -> Iterator[SubjectKey]:
        """Every key that there is now. `passed` hears how many of how many records were read. Raises as `key`."""
        if self._count is None:
            self._count = self._records.partitions(self._topic)
        self.catch_up(range(self._count), passed)
        for key, value in self._values.items():
            yield self._decoded(key, value)

    def catch_up(self, partitions: Collection[int], passed: Callable[[int, int], None] = _unheard) -> None:
        """Read on to where partitions end now: keys that were erased since are forgotten. Raises as `key`."""
        # With what is still open, since partitions learn of a commit one by one: the event may be readable by now, and
        # its key, of the same transaction, not yet. Reading waits for that.
        ends = self._records.ends(self._topic, partitions, IsolationLevel.READ_UNCOMMITTED)
        total = sum(end - self._read_to.get(partition, 0) for partition, end in ends.items())
        done = 0
        for partition, end in ends.items():
            start = self._read_to.get(partition, 0)
            for message in self._records.read(self._topic, partition, start, end):
                self._take(message.key() or b"", message.value())
                passed(done + (message.offset() or 0) + 1 - start, total)
            self._read_to[partition] = max(start, end)
            done += end - start
        if total > 0:
            passed(total, total)

    def _take(self, key: bytes, value: bytes | None) -> None:
        if self._only is not None and key not in self._only:
            return
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _decoded(self, key: bytes, value: bytes) -> SubjectKey:
        where = f"topic {self._topic}, key {key!r}"
        try:
            found = self._codec.decode_key(value)
        except Undecodable as error:
            raise UnreadableRecord(where, str(error)) from error
        except RegistryUnavailable as error:
            raise schema_registry.unreachable(self._connections, error) from error
        if found.subject_id.encode() != key:
            raise UnreadableRecord(where, f"it is the key of {found.subject_id}, under another subject's id")
        return found


def unsealer(keys: SubjectKeys, keeper: KeyEncryption) -> Unsealer:
    """Opens what is sealed with these keys. It raises as `SubjectKeys.key` and `Unsealer.open` do."""

    def data_key(subject_id: str) -> bytes | None:
        key = keys.key(subject_id)
        try:
            return None if key is None else unwrapped(keeper, key)
        except WrapBroken as error:
            raise UnreadableRecord(f"topic of keys, subject {subject_id}", str(error)) from error

    return Unsealer(data_key)


def configured_unsealer(connections: Connections, keys: SubjectKeys) -> Unsealer:
    """`unsealer`, with the key-encryption keys that the environment names. Raises `NotConfigured` without any."""
    return unsealer(keys, KeyRing.of(connections))
