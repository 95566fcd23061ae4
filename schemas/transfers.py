"""The identities of what a transfer leads to: the follow-up commands that go between its two accounts.

    Transfer --> TransferSent --> ReceiveTransfer --> TransferReceived --> CompleteTransfer --> TransferCompleted
    (source)      (source)         (destination)  \\    (destination)          (source)            (source)
                                                   \\-> refused         --> ReturnTransfer   --> TransferReturned

Each follow-up's command id is derived (UUIDv5), so that deciding the same thing again asks for the same thing again,
and whoever knows the transfer knows which replies to wait for: that to `ReceiveTransfer` says whether the money has
arrived, and where it was refused, that to `ReturnTransfer` says that it is back. `CompleteTransfer` has none.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from schemas.topics import event_key


def receive_id(transfer_id: str, from_account_id: str, sent_sequence: int) -> str:
    """The command id of the `ReceiveTransfer` for the `TransferSent` that is event `sent_sequence` of its account.

    The event's place is in it since a transfer id is the client's: should it be used twice, it is two transfers still.
    """
    return _uuid5(transfer_id, b"receive " + event_key(from_account_id, sent_sequence))


def complete_id(received: str) -> str:
    """The command id of the `CompleteTransfer` that follows a `ReceiveTransfer`, given the latter's."""
    return _uuid5(received, b"complete")


def return_id(received: str) -> str:
    """The command id of the `ReturnTransfer` that follows a refused `ReceiveTransfer`, given the latter's."""
    return _uuid5(received, b"return")


_VARIANT: Final = {f"{digit:x}": f"{digit & 0b11 | 0b1000:x}" for digit in range(16)}
"""What a UUID's 17th hexadecimal digit becomes, which has RFC 9562's variant in it."""


def _uuid5(namespace: str, name: bytes) -> str:
    """`uuid.uuid5` in its text form, at a fraction of its cost: a ledger that moves money derives two a transfer."""
    text = sha1(bytes.fromhex(namespace.replace("-", "")) + name, usedforsecurity=False).hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"
