"""Key-encryption keys from a file or a variable: `DAYBOOK_KEK_FILE`, or `DAYBOOK_KEK` with the same content.

A key is a line, `<id> <32 bytes in base64>`; empty lines and those that begin with `#` are skipped. The first key wraps
data keys, all of them unwrap, so that a key is replaced by putting another before it. docs/ERASURE.md tells of keys
that are kept in a KMS.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.connections import KekSettings, NotConfigured
from schemas.keys import DATA_KEY_BYTES, UnknownKek, WrapBroken

KEK_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_MAKE: Final = "`daybook keys new` makes one"

_ABOUT: Final = """\
# Key-encryption keys of a Daybook ledger: an id and 32 bytes in base64 a line. The first wraps, all unwrap.
# Whoever has this file and Kafka's data reads every holder's name. Without it nobody does: keep a copy elsewhere.
"""


class KeyRing:
    """Key-encryption keys in memory: a `schemas.keys.KeyEncryption`. It shows no key."""

    def __init__(self, keys: Mapping[str, bytes], origin: str, file: Path | None = None) -> None:
        """`keys` by id, the one that wraps first; `origin` is where they are from, for messages.

        With a `file`, that is read again when a key is asked for that came to it since.
        """
        self._origin = origin
        self._file = file
        self._take(keys)

    def _take(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {kek_id: AESGCM(key) for kek_id, key in keys.items()}
        self._current_id = next(iter(keys))

    @classmethod
    def of(cls, settings: KekSettings) -> KeyRing:
        """The keys that the environment names. Raises: `NotConfigured`, saying what is wrong and where."""
        file, text = settings.kek_file, settings.kek
        if file is not None and text is not None:
            raise NotConfigured(
                "DAYBOOK_KEK_FILE and DAYBOOK_KEK are both set, and only one of them can be meant: unset the other"
            )
        if file is not None:
            return cls.read(Path(file))
        if text is not None:
            return cls(_some(text.get_secret_value(), "DAYBOOK_KEK"), "DAYBOOK_KEK")
        raise NotConfigured(
            "neither DAYBOOK_KEK_FILE nor DAYBOOK_KEK is set: one says with which key-encryption keys the keys of "
            f"holders are wrapped. {_MAKE} in the file that DAYBOOK_KEK_FILE names"
        )

    @classmethod
    def read(cls, file: Path) -> KeyRing:
        """The keys of a file. Raises: `NotConfigured`."""
        return cls(_some(_content(file), str(file)), str(file), file)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self.ids)} from {self._origin})"

    @property
    def ids(self) -> tuple[str, ...]:
        """All of them, the one that wraps first."""
        return tuple(self._ciphers)

    @property
    def current_id(self) -> str:
        return self._current_id

    def wrap(self, subject_id: str, data_key: bytes) -> tuple[str, bytes]:
        # 2^32 random nonces are few enough under one key: as many subjects as that.
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._current_id]
        return self._current_id, nonce + cipher.encrypt(nonce, data_key, _framed(subject_id, self._current_id))

    def unwrap(self, subject_id: str, kek_id: str, wrapped: bytes) -> bytes:
        if kek_id not in self._ciphers and self._file is not None:
            # A key may have been added, and whoever was started later wraps with it already.
            try:
                self._take(_some(_content(self._file), str(self._file)))
            except NotConfigured as error:
                raise UnknownKek(
                    f"the data key of {subject_id} is wrapped with key-encryption key {kek_id}, which was not in "
                    f"{self._origin} at the start; now {error}"
                ) from error
        cipher = self._ciphers.get(kek_id)
        if cipher is None:
            raise UnknownKek(
                f"the data key of {subject_id} is wrapped with key-encryption key {kek_id}, which is not in "
                f"{self._origin} (there: {', '.join(self.ids)}): put its line back, behind the first"
            )
        try:
            data_key = cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], _framed(subject_id, kek_id))
        except (InvalidTag, ValueError):
            data_key = b""
        if len(data_key) != DATA_KEY_BYTES:
            raise WrapBroken(
                f"the data key of {subject_id} cannot be unwrapped: {kek_id} in {self._origin} is not the key that "
                "wrapped it, or the record was altered. Compare the keys with their backup"
            )
        return data_key


def add_key(file: Path, now: datetime) -> str:
    """Put a new key before all others of a file, which is made if it is missing; returns the key's id.

    Whoever reads meanwhile sees the old file or the new one, which only its owner may read.

    Raises: `NotConfigured`, when the file is there and cannot be used, or cannot be written.
    """
    try:
        with _alone(file):
            before = _content(file) if file.exists() else _ABOUT
            kek_id = new_id(now, _parsed(before, str(file)))
            lines = before.splitlines()
            # Behind what is said about the file, and before its first key.
            first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
            _replace(file, "".join(f"{line}\n" for line in (*lines[:first], key_line(kek_id), *lines[first:])))
    except OSError as error:
        raise NotConfigured(f"{file} cannot be written: {error.strerror}") from error
    return kek_id


def kept_file(file: Path, now: datetime) -> Path:
    """A file of keys: as it is, or made with one key if it is missing. Raises `NotConfigured`."""
    if not file.exists():
        add_key(file, now)
    return file


def new_id(now: datetime, taken: Iterable[str] = ()) -> str:
    """An id that says when the key was made. Its end is random, since ids of two ledgers' keys may meet."""
    while True:
        kek_id = f"kek-{now:%Y%m%d}-{secrets.token_hex(4)}"
        if kek_id not in taken:
            return kek_id


def key_line(kek_id: str) -> str:
    """The line of a new key: secret."""
    return f"{kek_id} {b64encode(AESGCM.generate_key(KEK_BYTES * 8)).decode()}"


def _some(text: str, origin: str) -> dict[str, bytes]:
    keys = _parsed(text, origin)
    if not keys:
        raise NotConfigured(f"{origin}: there is no key in it. {_MAKE}")
    return keys


def _parsed(text: str, origin: str) -> dict[str, bytes]:
    """The keys of a text by id. No message has a part of a key in it."""
    keys: dict[str, bytes] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        at = f"{origin}:{number}"
        if len(words) != 2:
            raise NotConfigured(f"{at}: write an id and a key in base64, not {len(words)} words. {_MAKE}")
        kek_id, encoded = words
        if not _ID.fullmatch(kek_id):
            raise NotConfigured(f"{at}: an id has 1 to 64 ASCII letters, digits, dots, dashes and underscores")
        if kek_id in keys:
            raise NotConfigured(f"{at}: {kek_id} stands in line {lines[kek_id]} already: leave one of the two")
        try:
            key = b64decode(encoded, validate=True)
        except ValueError:
            raise NotConfigured(f"{at}: the key {kek_id} is not base64. {_MAKE}") from None
        if len(key) != KEK_BYTES:
            raise NotConfigured(f"{at}: the key {kek_id} has {len(key)} bytes, not {KEK_BYTES}. {_MAKE}")
        keys[kek_id], lines[kek_id] = key, number
    return keys


def _content(file: Path) -> str:
    what = f"the file of key-encryption keys {file} (DAYBOOK_KEK_FILE)"
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotConfigured(f"{what} is not there: restore it, or for a new ledger {_MAKE}") from None
    except OSError as error:
        raise NotConfigured(f"{what} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise NotConfigured(f"{what} is not text: it has a line for each key, an id and 32 bytes in base64") from None


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a file's folder against others who would add a key: one of the two would be lost, and might be in use."""
    folder = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotConfigured(f"{file}: somebody else is adding a key just now; try again") from None
        yield
        # A new key wraps at once: it must not be lost with the machine's power.
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(file: Path, text: str) -> None:
    # Where a link leads to is what is replaced, and not the link.
    target = file.resolve()
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileNotFoundError, PermissionError):
            # Made by root, it would be closed to the service that reads it.
            found = target.stat()
            os.chown(beside, found.st_uid, found.st_gid)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def _framed(subject_id: str, kek_id: str) -> bytes:
    """What is authenticated along, each id after its length as four bytes, big-endian."""
    parts = (subject_id.encode(), kek_id.encode())
    return b"daybook wrapped key" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
