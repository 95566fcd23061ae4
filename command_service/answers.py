"""The memory of command ids: which answer a command got, so that sending it again gives it again."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import Final

from msgspec import Struct
from msgspec.msgpack import Encoder
from msgspec.structs import replace

from schemas.commands import AnyCommand
from schemas.topics import FOLLOW_UP_FINGERPRINT

FINGERPRINT_BYTES: Final = 8

_pack: Final = Encoder().encode


class Answer(Struct, frozen=True, gc=False):
    """An answer as it was given: the reply's bytes, what the command asked, and when (microseconds, Unix epoch)."""

    reply: bytes
    fingerprint: bytes
    decided_at: int


def fingerprint(command: AnyCommand, secret: bytes = b"") -> bytes:
    """Eight bytes that two commands share if they ask for the same. With a `secret` nobody else can tell which do.

    A client that sends a command again may stamp it anew and trace it anew; it still asks for the same thing. What is
    hashed is the command's type and a MessagePack map of the fields in which it differs from their defaults. That must
    not change between releases, since the fingerprints of a day are on the log; an optional field that a new version
    adds changes nothing for the commands that do not have it.
    """
    asked = replace(command, command_id="", issued_at=0, correlation_id=None)
    said = type(command).__name__.encode() + _pack(asked)
    return blake2b(said, digest_size=FINGERPRINT_BYTES, key=secret).digest()


def command_key(command_id: str, asked: bytes) -> bytes:
    """Under what the answer to a command is remembered, given its UUID and its fingerprint.

    It is the 16 bytes of the id: half the memory of its text, and the same for either case of its letters. Follow-ups
    are apart: their ids can be foretold, and a client that used one first would have the money stay in transit.
    """
    key = bytes.fromhex(command_id.replace("-", ""))
    return key + b"f" if asked == FOLLOW_UP_FINGERPRINT else key


_OVERHEAD_BYTES: Final = 250
"""What an answer takes beside its reply: the objects it is made of, its key and its place."""


class Answers:
    """The answers of one partition: at most `capacity`, each for at most `window` microseconds, and together at most
    about `capacity_bytes` of memory."""

    def __init__(self, capacity: int, window: int, capacity_bytes: int = sys.maxsize) -> None:
        self.capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._bytes = 0
        self._window = window
        # In the order in which they were given, since a dict keeps the order of insertion.
        self._answers: dict[bytes, Answer] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> Answer | None:
        return self._answers.get(key)

    def remember(self, key: bytes, answer: Answer) -> None:
        """Keep an answer unless the command has one already: the first answer is the one that counts."""
        if self._answers.setdefault(key, answer) is answer:
            self._bytes += len(answer.reply) + _OVERHEAD_BYTES

    def forget_old(self, now: int) -> int:
        """Drop what is beyond the window or the capacity; returns how many were dropped for want of capacity alone."""
        answers = self._answers
        horizon = now - self._window
        surplus = len(answers) - self.capacity
        old: list[bytes] = []
        early = 0
        for key, answer in answers.items():
            if answer.decided_at >= horizon:
                if surplus <= len(old) and self._bytes <= self._capacity_bytes:
                    break
                early += 1
            old.append(key)
            self._bytes -= len(answer.reply) + _OVERHEAD_BYTES
        for key in old:
            del answers[key]
        return early
