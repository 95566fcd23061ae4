"""One command's way: decode, route, dedupe, decide, evolve, encode.

Nothing is sent here: what a command leads to is collected, and the transaction sends it. So a batch can be decided
before its transaction begins, and decided again after an abort.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Message
from msgspec import Struct

from command_service.accounts import Entry, Overlay
from command_service.answers import Answer, command_key, fingerprint
from command_service.domain.account import Decision, decide, evolve
from command_service.domain.refusals import Code, Rejection
from command_service.records import Headers, headers, origin
from schemas.codec import Codec, Undecodable
from schemas.commands import AnyCommand, CommandReply, CommandStatus
from schemas.events import CHAIN_START, Event, event_id
from schemas.topics import FINGERPRINT_HEADER, REPLAYED_HEADER, Topics, event_key, partition_of

_log: Final = logging.getLogger(__name__)

_CLIENTS_PARTITIONER: Final = -1
_MAX_DETAIL: Final = 1000


class Outgoing(Struct, frozen=True, gc=False):
    """A record to be sent by the transaction."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


@dataclass(slots=True)
class Outcomes:
    """What one batch leads to: the records to send, and the counts to publish once they are committed."""

    outgoing: list[Outgoing] = field(default_factory=list)
    answered: dict[tuple[str, str], int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    forwarded: int = 0

    def count(self, outcome: str, code: str = "") -> None:
        self.answered[outcome, code] = self.answered.get((outcome, code), 0) + 1


class Handler:
    """Decides commands. One thread at a time; the only state it changes is the overlay it is given."""

    def __init__(self, codec: Codec, topics: Topics, partitions: int, *, max_command_bytes: int) -> None:
        self._codec = codec
        self._topics = topics
        self._partitions = partitions
        self._max_command_bytes = max_command_bytes

    def handle(self, record: Message, overlay: Overlay, now: int, outcomes: Outcomes) -> None:
        """Add what a record of the commands topic leads to. `now` is in microseconds since the Unix epoch.

        Raises:
            RegistryUnavailable: its schema is not known here and cannot be asked for; the record is untouched.
        """
        value = record.value()
        if value is not None and len(value) > self._max_command_bytes:
            detail = f"the command has {len(value)} bytes; at most {self._max_command_bytes} are accepted"
            self._park(record, "oversize", detail, outcomes)
            return
        try:
            command = self._codec.decode_command(value)
        except Undecodable as error:
            self._park(record, error.reason, str(error), outcomes)
            return
        home = self._home(command.account_id, record, overlay)
        if home != record.partition():
            self._forward(record, home, outcomes)
            return
        try:
            self._answer(command, home, overlay, now, outcomes)
        except Exception as error:
            # Whatever goes wrong between decoding and encoding is a defect of ours, of which the record is the
            # witness. It is kept in full, and the other accounts' commands go on.
            _log.exception("parked %s: deciding it failed", origin(record))
            self._park(record, "undecidable", f"{type(error).__name__}: {error}", outcomes)

    def _home(self, account_id: str, record: Message, overlay: Overlay) -> int:
        """The partition that an account lives in."""
        here = record.partition()
        if here is not None and overlay.entry(account_id) is not None:
            return here
        return partition_of(account_id, self._partitions)

    def _answer(self, command: AnyCommand, partition: int, overlay: Overlay, now: int, outcomes: Outcomes) -> None:
        key, asked = command_key(command.command_id), fingerprint(command)
        earlier = overlay.answer(key)
        if earlier is not None and earlier.fingerprint == asked:
            again: Headers = [(FINGERPRINT_HEADER, asked), (REPLAYED_HEADER, b"1")]
            outcomes.outgoing.append(self._reply_record(command, partition, earlier.reply, again))
            outcomes.count("replayed")
            return
        entry = overlay.entry(command.account_id)
        if earlier is not None:
            refusal = Rejection(
                Code.COMMAND_ID_REUSED,
                "this command id was used for another command: every new intention needs an id of its own",
            )
            reply = self._encode_reply(command, entry, refusal, now)
            # Without a fingerprint, so that a restore does not take it for the id's first answer.
            outcomes.outgoing.append(self._reply_record(command, partition, reply, None))
            outcomes.count("refused", refusal.code)
            return
        if entry is not None:
            # Clocks differ between instances; within an account's stream time does not run backwards.
            now = max(now, entry.recorded_at)
        decision = decide(entry.account if entry else None, command, now)
        events: list[Outgoing] = []
        if not isinstance(decision, Rejection) and decision:
            entry, events = self._record(command, partition, entry, decision, now)
        reply = self._encode_reply(command, entry, decision, now)
        # Nothing can fail from here on: a command is either recorded and answered, or neither.
        if events and entry is not None:
            overlay.put(command.account_id, entry)
            outcomes.outgoing.extend(events)
        overlay.remember(key, Answer(reply, asked, now))
        outcomes.outgoing.append(self._reply_record(command, partition, reply, [(FINGERPRINT_HEADER, asked)]))
        if isinstance(decision, Rejection):
            outcomes.count("refused", decision.code)
        else:
            outcomes.count("accepted")

    def _record(
        self, command: AnyCommand, partition: int, entry: Entry | None, events: Sequence[Event], now: int
    ) -> tuple[Entry, list[Outgoing]]:
        """The account after the events, and the events as records of its stream."""
        account, chain_hash = (entry.account, entry.chain_hash) if entry else (None, CHAIN_START)
        records = []
        for index, event in enumerate(events):
            account = evolve(account, event)
            common: dict[str, object] = {
                "event_id": event_id(command.command_id, index, now),
                "account_id": command.account_id,
                "sequence": account.sequence,
                "recorded_at": now,
                "effective_at": now if command.effective_at is None else command.effective_at,
                "user_id": command.user_id,
                "command_id": command.command_id,
                "correlation_id": command.correlation_id or command.command_id,
                "causation_id": command.command_id,
                "reason": command.reason,
            }
            value, chain_hash = self._codec.encode_event(event, common, chain_hash)
            key = event_key(command.account_id, account.sequence)
            records.append(Outgoing(self._topics.events, partition, key, value))
        if account is None:
            raise ValueError("a decision without events changes nothing")
        return Entry(account, chain_hash, now), records

    def _encode_reply(self, command: AnyCommand, entry: Entry | None, decision: Decision, now: int) -> bytes:
        refusal = decision if isinstance(decision, Rejection) else None
        return self._codec.encode_reply(
            CommandReply(
                command_id=command.command_id,
                account_id=command.account_id,
                status=CommandStatus.ACCEPTED if refusal is None else CommandStatus.REJECTED,
                sequence=None if entry is None else entry.account.sequence,
                event_count=0 if isinstance(decision, Rejection) else len(decision),
                code=None if refusal is None else str(refusal.code),
                message=None if refusal is None else refusal.message,
                decided_at=now,
            )
        )

    def _reply_record(
        self, command: AnyCommand, partition: int, reply: bytes, with_headers: Headers | None
    ) -> Outgoing:
        # Replies stand on the partition of their account, so that whoever takes that partition can restore which
        # command ids were answered.
        return Outgoing(self._topics.replies, partition, command.command_id.encode(), reply, with_headers)

    def _forward(self, record: Message, home: int, outcomes: Outcomes) -> None:
        """Send a command, byte for byte, to the partition of its account, where it will be decided."""
        outcomes.outgoing.append(Outgoing(self._topics.commands, home, record.key(), record.value(), headers(record)))
        outcomes.forwarded += 1

    def _park(self, record: Message, reason: str, detail: str, outcomes: Outcomes) -> None:
        """Keep a record that cannot be decided, byte for byte, with why and where it came from."""
        why: Headers = [
            *headers(record),
            ("parked-reason", reason.encode()),
            ("parked-detail", detail[:_MAX_DETAIL].encode(errors="replace")),
            ("parked-topic", str(record.topic()).encode()),
            ("parked-partition", str(record.partition()).encode()),
            ("parked-offset", str(record.offset()).encode()),
            ("parked-timestamp-ms", str(record.timestamp()[1]).encode()),
        ]
        outcomes.outgoing.append(Outgoing(self._topics.parked, _CLIENTS_PARTITIONER, record.key(), record.value(), why))
        outcomes.parked[reason] = outcomes.parked.get(reason, 0) + 1
        _log.warning("parked %s as %s: %s", origin(record), reason, detail)
