"""A record's way: decode, route, decide on its account (`command_service.deciding`), and on the accounts that follow.

What cannot be decided is parked, and what belongs elsewhere is forwarded. Nothing is sent here: see there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from confluent_kafka import Message

from command_service.accounts import Entry, Overlay, Overlays
from command_service.deciding import Decider, Outcomes, RefusedAtOnce, ids_of, not_before, note
from command_service.packing import SnapshotDamaged
from command_service.recording import Asked, Recorder
from command_service.records import Outgoing, headers, origin, parked, place
from command_service.spill import SpillFailed
from schemas.codec import Codec, Undecodable
from schemas.commands import AnyCommand, FromLedger
from schemas.keys import UnknownKek
from schemas.registry import RegistryUnavailable
from schemas.telemetry.traces import Span, Tracer, parent
from schemas.topics import Topics, partition_of

_log: Final = logging.getLogger(__name__)


class Handler:
    """Takes records of commands. One thread at a time; the only state it changes is in the overlays it is given."""

    def __init__(
        self, codec: Codec, topics: Topics, partitions: int, *, max_command_bytes: int, tracer: Tracer | None = None
    ) -> None:
        self._codec = codec
        self._recorder = Recorder(codec, topics, partitions)
        self._decider = Decider(self._recorder)
        self._topics = topics
        self._followups: Final = topics.followups
        self._partitions = partitions
        self._max_command_bytes = max_command_bytes
        self._tracer = tracer

    def handle(self, record: Message, overlay: Overlay, now: int, outcomes: Outcomes) -> None:
        """Add what a record of the commands topic leads to, or of that of follow-ups that was not decided already.

        The overlay is that of the record's partition. What it asks of other accounts is left to `follow`. `now` is in
        microseconds since the Unix epoch.

        Raises:
            RegistryUnavailable: its schema is not known here and cannot be asked for; the record is untouched.
            SnapshotDamaged, SpillFailed, UnknownKek: what is held of its account, or its holder's key, cannot be had.
        """
        is_follow_up = record.topic() == self._followups
        value = record.value()
        # What follows from a command that was accepted may be longer than it by a little.
        if not is_follow_up and value is not None and len(value) > self._max_command_bytes:
            detail = f"the command has {len(value)} bytes; at most {self._max_command_bytes} are accepted"
            self._park(record, "oversize", detail, outcomes)
            return
        try:
            command = self._codec.decode_command(value)
        except Undecodable as error:
            self._park(record, error.reason, str(error), outcomes)
            return
        if is_follow_up and not isinstance(command, FromLedger):
            detail = f"{type(command).__name__} is a client's command: it belongs on {self._topics.commands}"
            self._park(record, "not_a_follow_up", detail, outcomes)
            return
        entry = overlay.entry(command.account_id)
        home = self._home(command.account_id, record, entry)
        if home != record.partition():
            self._forward(record, home, outcomes)
            return
        span = None if self._tracer is None else self._traced(record, command, outcomes)
        try:
            if isinstance(command, FromLedger) and not is_follow_up:
                self._decider.turn_away(command, entry, overlay, now, outcomes, span)
            else:
                self._decider.decide(command, entry, overlay, now, outcomes, span)
        except (SnapshotDamaged, SpillFailed, UnknownKek):
            # The state cannot be had, which is no fault of the command.
            raise
        except Exception as error:
            # Whatever goes wrong between decoding and encoding is a defect of ours, of which the record is the
            # witness; or one account's key or sealed text was damaged. The record is kept in full, and the other
            # accounts' commands go on.
            _log.exception("parked %s: deciding it failed", origin(record), extra=place(record) | ids_of(command))
            note(span, "parked", "undecidable")
            self._park(record, "undecidable", f"{type(error).__name__}: {error}", outcomes, ids_of(command))

    def follow(self, overlays: Overlays, now: int, outcomes: Outcomes, until: float = math.inf) -> None:
        """Add what other accounts are asked for: decided at once where they are ours. They may ask for more in turn.

        After `until`, a time of the monotonic clock, all that is left is left to be read.

        The record that asks for it is written all the same, and whoever reads it passes over it. Left to be read is
        what is asked of others' accounts; what would be refused, since a command that the client gave before the
        transfer, such as the destination's opening, may be on its way from another partition; and what cannot be
        decided: it is told of there, and parked or waited for.
        """
        # All of a kind one after the other: in turns with others each takes a tenth longer or more, most likely since
        # Python adapts its instructions to the types that they meet.
        asked, outcomes.asked = outcomes.asked, []
        outcomes.follow_ups.update(type(each.command).__name__ for each in asked)
        for each in asked:
            decided = time.monotonic() < until and self._decide_at_once(each, overlays, now, outcomes)
            outcomes.outgoing.append(self._recorder.follow_up(each, decided=decided))

    def _decide_at_once(self, asked: Asked, overlays: Overlays, now: int, outcomes: Outcomes) -> bool:
        """Decide a follow-up, if its account is ours. Whether that was done; if not, nothing was added."""
        command, partition = asked.command, asked.partition
        if partition not in overlays.ours:
            return False
        overlay = overlays[partition]
        span = None if self._tracer is None else self._begun(command, "INTERNAL", parent(asked.trace), outcomes)
        try:
            entry = overlay.entry(command.account_id)
            decided_at = not_before(entry, now, command.issued_at)
            self._decider.decide_follow_up(command, entry, overlay, decided_at, outcomes, span, at_once=True)
        except Exception as error:
            # Whatever it is will be met again, and told of, where the record is read: `handle` knows what to do.
            if not isinstance(error, RefusedAtOnce):
                about = ids_of(command)
                _log.debug("left %s to be read: deciding it failed", command.command_id, exc_info=True, extra=about)
            note(span, "left")
            return False
        return True

    def about(self, record: Message) -> dict[str, object]:
        """What a log line about a record says in fields: its place and, where it can be decoded, whose it is."""
        try:
            return place(record) | ids_of(self._codec.decode_command(record.value()))
        except (Undecodable, RegistryUnavailable):
            return place(record)

    def _traced(self, record: Message, command: AnyCommand, outcomes: Outcomes) -> Span | None:
        """A span for a command that is read, where it is traced."""
        span = self._begun(command, "CONSUMER", parent(headers(record)), outcomes)
        if span is not None:
            span.note(
                messaging__system="kafka",
                messaging__destination__name=str(record.topic()),
                messaging__destination__partition__id=str(record.partition()),
                messaging__kafka__offset=int(record.offset() or 0),
            )
        return span

    def _begun(self, command: AnyCommand, kind: str, above: bytes | None, outcomes: Outcomes) -> Span | None:
        if self._tracer is None or above is None:
            return None
        span = self._tracer.begin(
            f"decide {type(command).__name__}",
            kind,
            above,
            daybook__account_id=command.account_id,
            daybook__command_id=command.command_id,
            daybook__correlation_id=command.correlation_id or command.command_id,
        )
        outcomes.spans.append(span)
        return span

    def _home(self, account_id: str, record: Message, entry: Entry | None) -> int:
        """The partition that an account lives in."""
        here = record.partition()
        return here if here is not None and entry is not None else partition_of(account_id, self._partitions)

    def _forward(self, record: Message, home: int, outcomes: Outcomes) -> None:
        """Send a command, byte for byte, to the partition of its account, where it will be decided."""
        topic = str(record.topic())
        outcomes.outgoing.append(Outgoing(topic, home, record.key(), record.value(), headers(record)))
        outcomes.forwarded += 1

    def _park(
        self,
        record: Message,
        reason: str,
        detail: str,
        outcomes: Outcomes,
        ids: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Keep a record that cannot be decided, byte for byte, with why and where it came from."""
        outcomes.outgoing.append(parked(self._topics.parked, record, reason, detail))
        outcomes.parked[reason] = outcomes.parked.get(reason, 0) + 1
        about = place(record) | {"reason": reason, **ids}
        _log.warning("parked %s as %s: %s", origin(record), reason, detail, extra=about)
