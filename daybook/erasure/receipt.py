"""The receipt of an erasure: what was looked at, what it came to, signed with the key that signs checkpoints.

It is JSON, and names no text. The signature is over the object without it, as JSON with sorted names, without spaces
and in UTF-8, after a line that says what it is: whoever has a JSON library and the public key can check it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daybook.audit.formats import InvalidFile, NoFile
from daybook.audit.keys import PublicKeys, SigningKey

if TYPE_CHECKING:
    from daybook.erasure.run import Report

FORMAT: Final = "daybook erasure v1"
_SIGNATURE: Final = "signature"


def receipt(report: Report, key: SigningKey | None) -> dict[str, Any]:
    """What a look came to. Without a key it is not signed."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "log": report.log,
        "account_id": report.account_id,
        "erased_at": _iso(report.erased_at),
        "erased_sequence": report.sequence,
        "looked_at": _iso(report.looked_at),
        "texts": report.texts,
        "state": report.state.value,
        "until": None if report.until is None else _iso(report.until),
        "places": [
            {
                "place": place.name,
                "state": place.state.value,
                "detail": place.detail,
                "until": None if place.until is None else _iso(place.until),
            }
            for place in report.places
        ],
        "key": None if key is None else key.key_id,
    }
    return fields | {_SIGNATURE: None if key is None else base64.b64encode(key.sign(_statement(fields))).decode()}


def check(file: Path, keys: PublicKeys) -> dict[str, Any]:
    """The fields of a receipt that one of these keys signed.

    Raises:
        NoFile: it cannot be read.
        InvalidFile: it is none, is not signed, or not by one of these keys, or was altered.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NoFile(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidFile(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidFile(f'{file} is no "{FORMAT}": `daybook erase ACCOUNT --verify --receipt FILE` writes one')
    key_id, signature = found.get("key"), found.pop(_SIGNATURE, None)
    if not isinstance(key_id, str) or not isinstance(signature, str):
        raise InvalidFile(f"{file} is not signed: it was made where DAYBOOK_AUDIT_KEY_FILE was not set")
    if not keys.knows(key_id):
        raise InvalidFile(f"{file} is signed with key {key_id}, which is none of those trusted: {', '.join(keys.ids)}")
    try:
        signed = keys.signed(key_id, base64.b64decode(signature, validate=True), _statement(found))
    except ValueError:
        signed = False
    if not signed:
        raise InvalidFile(f"{file} is not as key {key_id} signed it: something in it was altered")
    return found


def _statement(fields: Mapping[str, Any]) -> bytes:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{FORMAT}\n{text}".encode()


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
