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


def _uuid5(namespace: str, name: bytes) -> str:
    """`uuid.uuid5` in its text form, at a quarter of its cost: a ledger that moves money derives two a transfer."""
    digest = bytearray(sha1(bytes.fromhex(namespace.replace("-", "")) + name, usedforsecurity=False).digest()[:16])
    # RFC 9562: the version and the variant.
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
