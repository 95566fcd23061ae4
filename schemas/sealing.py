"""Personal fields to and from sealed text: ciphertext that stands in the field's own place, as a string.

A sealed text is `PREFIX` and then, in base64url without padding: a version byte, the 16 bytes of the id of the event
that it was first written with, a 12-byte nonce, and AES-256-GCM of the UTF-8 text with its tag. What is authenticated
along is the version, the event's id, the subject's id and the field's name, so that a sealed text is of use in no other
account and no other field. It carries the event's id, since it goes on without its event: in an account's state, in a
snapshot, in an index.

Nonces are random. Of 96 bits, by which a key may seal 2^32 texts before two are alike with a chance of 2^-32 (NIST SP
800-38D, 8.3); a subject has some dozens.

The length of a text shows in its sealed form, before and after an erasure.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.keys import DATA_KEY_BYTES

PREFIX: Final = "daybook-sealed:"
"""What every sealed text begins with, and no person's name or reason does."""

_VERSION: Final = 1
_EVENT_ID_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + _EVENT_ID_BYTES + _NONCE_BYTES

_CACHED_SUBJECTS: Final = 10_000
"""Some 3 MB. A cipher's key schedule costs as much as sealing a field."""


class Erased(StrEnum):
    """What is in the place of a text whose key is gone. A type of its own, since a holder may be called anything."""

    ERASED = "[erased]"


ERASED: Final = Erased.ERASED

DataKeys = Callable[[str], bytes | None]
"""The data key of a subject; None when it has none, or no longer. It may raise what `KeyEncryption.unwrap` does."""


class SealBroken(ValueError):
    """A sealed text is not what was sealed for its subject, event and field with the key that the subject has."""


class NoDataKey(LookupError):
    """Something is to be sealed for a subject that has no data key."""


def new_data_key() -> bytes:
    return AESGCM.generate_key(DATA_KEY_BYTES * 8)


def is_sealed(text: str) -> bool:
    """Whether a text is to be opened before it is read.

    Who writes events must let no text through that only looks so, such as the reason of a client who knows the prefix:
    it has to be sealed itself, personal or not, or nobody could read the event.
    """
    return text.startswith(PREFIX)


def event_id_of(text: str) -> str:
    """The id of the event that a sealed text was first written with. Raises: `SealBroken`, if it is none."""
    return str(UUID(bytes=_payload(text)[1 : 1 + _EVENT_ID_BYTES]))


class Unsealer:
    """Opens sealed texts. No I/O, but for what `data_keys` does; for one thread."""

    def __init__(self, data_keys: DataKeys, *, cached: int = _CACHED_SUBJECTS) -> None:
        """`cached` bounds the subjects whose cipher is held; `data_keys` is asked for the others each time."""
        self._data_keys = data_keys
        self._cached = cached
        self._ciphers: OrderedDict[str, AESGCM] = OrderedDict()

    def open(self, text: str, subject_id: str, field: str) -> str | Erased:
        """What was sealed; `ERASED` when the subject has no key. What is not sealed, as old events have it, as it is.

        Of a subject without a key it is not looked at what seems sealed: it may be a client's text that only begins so.

        Raises:
            SealBroken: the subject has a key, and it does not fit.
            UnknownKek, WrapBroken: the key is there, and cannot be unwrapped.
        """
        if not is_sealed(text):
            return text
        cipher = self._cipher(subject_id)
        if cipher is None:
            return ERASED
        payload = _payload(text)
        event_id, nonce = payload[1 : 1 + _EVENT_ID_BYTES], payload[1 + _EVENT_ID_BYTES : _HEAD_BYTES]
        try:
            opened = cipher.decrypt(nonce, payload[_HEAD_BYTES:], _framed(subject_id, event_id, field))
        except InvalidTag:
            raise SealBroken(
                f"{field} of {subject_id}, sealed in event {UUID(bytes=event_id)}, was altered, or belongs to another "
                "account or field, or is sealed with another key than the one on the topic of keys. "
                "`daybook audit verify` says whether the event is as it was written"
            ) from None
        return opened.decode()

    def forget(self, subject_id: str) -> None:
        """Drop what is held of a subject: its key is gone, or is another now."""
        self._ciphers.pop(subject_id, None)

    def _cipher(self, subject_id: str) -> AESGCM | None:
        cipher = self._ciphers.get(subject_id)
        if cipher is not None:
            self._ciphers.move_to_end(subject_id)
            return cipher
        data_key = self._data_keys(subject_id)
        if data_key is None:
            return None
        cipher = self._ciphers[subject_id] = AESGCM(data_key)
        if len(self._ciphers) > self._cached:
            self._ciphers.popitem(last=False)
        return cipher


class Sealer(Unsealer):
    """Seals as well, for whoever writes events."""

    def seal(self, text: str, subject_id: str, event_id: str, field: str) -> str:
        """A text sealed anew, whatever it looks like. `event_id` is a UUID.

        Raises: `NoDataKey`; `UnknownKek` or `WrapBroken` when the key cannot be unwrapped.
        """
        cipher = self._cipher(subject_id)
        if cipher is None:
            raise NoDataKey(f"{subject_id} has no data key to seal {field} of event {event_id} with: give it one first")
        event = bytes.fromhex(event_id.replace("-", ""))
        if len(event) != _EVENT_ID_BYTES:
            raise ValueError(f"{event_id} is no UUID")
        nonce = os.urandom(_NONCE_BYTES)
        sealed = cipher.encrypt(nonce, text.encode(), _framed(subject_id, event, field))
        payload = b"".join((bytes([_VERSION]), event, nonce, sealed))
        return PREFIX + urlsafe_b64encode(payload).rstrip(b"=").decode()


def _framed(subject_id: str, event_id: bytes, field: str) -> bytes:
    """What is authenticated along: each part of fixed length, or after its length as four bytes, big-endian."""
    subject, name = subject_id.encode(), field.encode()
    return b"".join(
        (
            b"daybook sealed field",
            bytes([_VERSION]),
            event_id,
            len(subject).to_bytes(4, "big"),
            subject,
            len(name).to_bytes(4, "big"),
            name,
        )
    )


def _payload(text: str) -> bytes:
    # What stands there is not shown: it may be a person's name that came here by mistake.
    if not is_sealed(text):
        raise SealBroken(f"a text is not sealed: it does not begin with {PREFIX}")
    encoded = text[len(PREFIX) :].encode()
    try:
        payload = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
    except ValueError:
        payload = b""
    # Decoding passes over what is no base64, so that many texts would stand for the same.
    if urlsafe_b64encode(payload).rstrip(b"=") != encoded:
        raise SealBroken(f"a sealed text is damaged: what follows {PREFIX} is not base64url")
    if len(payload) < _HEAD_BYTES + _TAG_BYTES:
        raise SealBroken(f"a sealed text is cut short, after {len(payload)} bytes")
    if payload[0] != _VERSION:
        raise SealBroken(
            f"a text is sealed in version {payload[0]}, and we know version {_VERSION}: upgrade this program"
        )
    return payload
