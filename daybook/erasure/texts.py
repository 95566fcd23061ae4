"""The texts that are looked for, as bytes: as they stand in a record, in JSON, and in an index's terms."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Final

LEAST_CHARACTERS: Final = 4
"""Shorter texts are in every file by chance."""


class Texts:
    """What was known of a holder. It is never shown or kept: only whether, and where, it is found.

    `secrets` are bytes that are looked for as they are: the wrapped data key.
    """

    def __init__(self, texts: Iterable[str], secrets: Iterable[bytes] = ()) -> None:
        self._all = tuple(dict.fromkeys(text.strip() for text in texts))
        self.texts = tuple(text for text in self._all if len(text) >= LEAST_CHARACTERS)
        self._written = {text: _forms(text) for text in self.texts}
        self._secrets = tuple(secrets)
        self.elsewhere: dict[str, set[str]] = {}
        """Texts that stand in records of other accounts as well, with those: people have the same name, or two
        accounts. Bytes in a file that are not known to be this account's prove nothing then."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def too_short(self) -> int:
        """How many were given that are too short to be looked for."""
        return len(self._all) - len(self.texts)

    @property
    def has_secrets(self) -> bool:
        return bool(self._secrets)

    @property
    def in_files(self) -> bool:
        """Whether files tell of all that was given: none of it is too short, or another account's as well."""
        return bool(self.texts) and not self.too_short and not self.elsewhere

    def found(self, data: bytes | None) -> list[str]:
        """Which of the texts are in a record or a document, as they are written."""
        if not data:
            return []
        return [text for text, needles in self._written.items() if any(needle in data for needle in needles)]

    def also_of(self, account_id: str, texts: Collection[str]) -> None:
        """Another account's record has these texts."""
        for text in texts:
            self.elsewhere.setdefault(text, set()).add(account_id)

    def own_needles(self) -> tuple[bytes, ...]:
        """What to look for in files: the bytes of what no other account has. Indices keep terms in lower case."""
        own = [text for text in self.texts if text not in self.elsewhere]
        forms = (form for text in own for form in (*_forms(text), *_forms(text.lower())))
        return tuple(dict.fromkeys((*forms, *self._secrets)))


def _forms(text: str) -> tuple[bytes, ...]:
    """A text as it is, and as JSON has it, which may escape what is not ASCII, and does escape quotes."""
    in_json = (json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return tuple(dict.fromkeys(form.encode() for form in (text, *in_json)))
