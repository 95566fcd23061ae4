"""Transfers: which of an account's are in transit, and what one account's events ask of another account.

A transfer is three decisions on two accounts: the source sends, the destination receives or refuses, and the source
completes or takes back. Between them the money is in transit. Each decision asks for the next by a follow-up command
that is written in the same transaction, so none is lost; and the source settles only what it has in transit, so none
counts twice.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import ClassVar, Final

from msgspec import Struct

from command_service.domain.refusals import Rejection
from schemas.commands import CompleteTransfer, FollowUp, ReceiveTransfer, ReturnTransfer
from schemas.events import RecordedEvent, TransferReceived, TransferSent
from schemas.sealing import is_sealed
from schemas.transfers import complete_id, receive_id, return_id

_ENTRY: Final = struct.Struct(">16sq8s")
"""A transfer's id, its amount in minor units, and a digest of the destination's id."""


class Transfers(Struct, frozen=True, gc=False):
    """An account's outgoing transfers, packed: those in transit, which are bounded, and the newest that are settled.

    The latter only tell a transfer that is asked for again from a new one.
    """

    MOST_OPEN: ClassVar[int] = 10_000
    REMEMBERED: ClassVar[int] = 100

    open: bytes = b""
    settled: bytes = b""

    @property
    def open_count(self) -> int:
        return len(self.open) // _ENTRY.size

    def sent(self, transfer_id: str, amount_minor: int, to_account_id: str) -> Transfers:
        """With one more in transit."""
        return Transfers(self.open + _ENTRY.pack(_key(transfer_id), amount_minor, _digest(to_account_id)), self.settled)

    def settle(self, transfer_id: str) -> Transfers:
        """With one that is no longer in transit. One that is not in transit changes nothing."""
        at = _index(self.open, _key(transfer_id))
        if at is None:
            return self
        end = at + _ENTRY.size
        settled = self.settled + self.open[at:end]
        return Transfers(self.open[:at] + self.open[end:], settled[-self.REMEMBERED * _ENTRY.size :])

    def in_transit_minor(self, transfer_id: str) -> int | None:
        """The amount of a transfer in transit, in minor units; None if it is not in transit."""
        at = _index(self.open, _key(transfer_id))
        return None if at is None else int(_ENTRY.unpack_from(self.open, at)[1])

    def known(self, transfer_id: str, amount_minor: int, to_account_id: str) -> bool | None:
        """Whether a transfer is one that was sent before, with the same amount and destination; None if it is new."""
        key = _key(transfer_id)
        for packed in (self.open, self.settled):
            if key in packed and (at := _index(packed, key)) is not None:
                _, amount, to = _ENTRY.unpack_from(packed, at)
                return bool(amount == amount_minor and to == _digest(to_account_id))
        return None


REACTED_TO: Final = frozenset({TransferSent, TransferReceived})
"""The types of events that ask something of another account."""


def react(recorded: RecordedEvent) -> FollowUp | None:
    """What an event asks of another account; None if nothing.

    The follow-up is in the name of whoever asked for the transfer, with the same correlation id, and the same reason
    unless that is sealed, and so is about the source's holder alone.
    """
    event = recorded.event
    match event:
        case TransferSent():
            return ReceiveTransfer(
                command_id=receive_id(event.transfer_id, recorded.account_id, recorded.sequence),
                account_id=event.to_account_id,
                user_id=recorded.user_id,
                issued_at=recorded.recorded_at,
                correlation_id=recorded.correlation_id,
                effective_at=_back_dated(recorded),
                reason=_shared(recorded.reason),
                transfer_id=event.transfer_id,
                from_account_id=recorded.account_id,
                amount_minor=event.amount_minor,
                currency=event.currency,
                causation_id=recorded.event_id,
            )
        case TransferReceived():
            return CompleteTransfer(
                command_id=complete_id(recorded.command_id),
                account_id=event.from_account_id,
                user_id=recorded.user_id,
                issued_at=recorded.recorded_at,
                correlation_id=recorded.correlation_id,
                effective_at=_back_dated(recorded),
                reason=_shared(recorded.reason),
                transfer_id=event.transfer_id,
                to_account_id=recorded.account_id,
                causation_id=recorded.event_id,
            )
        case _:
            return None


def react_to_refusal(command: ReceiveTransfer, refusal: Rejection, now: int) -> ReturnTransfer:
    """What the refusal of a transfer asks of its source, at a time in microseconds since the Unix epoch."""
    return ReturnTransfer(
        command_id=return_id(command.command_id),
        account_id=command.from_account_id,
        user_id=command.user_id,
        issued_at=now,
        correlation_id=command.correlation_id,
        effective_at=command.effective_at,
        reason=command.reason,
        transfer_id=command.transfer_id,
        to_account_id=command.account_id,
        code=str(refusal.code),
        message=refusal.message,
        causation_id=command.command_id,
    )


def _back_dated(recorded: RecordedEvent) -> int | None:
    """Since when the follow-up counts as well, if not from when it is decided."""
    return None if recorded.effective_at == recorded.recorded_at else recorded.effective_at


def _shared(reason: str | None) -> str | None:
    return None if reason is None or is_sealed(reason) else reason


@lru_cache(maxsize=8192)
def _key(transfer_id: str) -> bytes:
    """A transfer's id in 16 bytes. It is wanted when the transfer is sent and soon again when it is settled."""
    return bytes.fromhex(transfer_id.replace("-", ""))


def _digest(account_id: str) -> bytes:
    return blake2b(account_id.encode(), digest_size=8).digest()


def _index(packed: bytes, key: bytes) -> int | None:
    """Where an entry begins. The key's bytes may occur across two entries as well."""
    at = packed.find(key)
    while at >= 0 and at % _ENTRY.size:
        at = packed.find(key, at + 1)
    return None if at < 0 else at
