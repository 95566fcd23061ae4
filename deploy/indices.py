"""The search indices as wanted: for each alias a template, from which the projector makes the index behind it.

A template has no alias: the projector creates index and alias at once, and a rebuild an index that readers don't see
yet. Nor does writing to a name that is not there create an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.readmodels import CHECKPOINT_FIELD, Indices

PRIORITY: Final = 500
"""Wins over what a cluster has for all indices, and over Elasticsearch's own templates, whose highest is 200."""

VERSION: Final = 4
"""In the template's `_meta`, for people: counted up with the mappings. What is compared are the mappings themselves."""

_MAX_TERM: Final = 8191
"""Characters of a keyword that can be searched for. Lucene refuses a term beyond 32,766 bytes, and the document with
it; a character has four bytes at most."""

_MAX_SORTED: Final = 256
"""Characters of a text that can be sorted and grouped by: holders' names are no longer."""

Properties = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TemplateDefinition:
    """An index template as wanted, for the indices behind one alias.

    `settings` are what an index begins with where nobody has set something else: an operator's own values stay.
    """

    alias: str
    properties: Properties
    settings: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"daybook-{self.alias}"

    @property
    def pattern(self) -> str:
        return f"{self.alias}-*"

    @property
    def mappings(self) -> Mapping[str, Any]:
        # Strict: a field that nobody has thought about stops the projector instead of being guessed.
        return {"dynamic": "strict", "properties": self.properties}


def template_definitions(indices: Indices) -> tuple[TemplateDefinition, ...]:
    """The templates of a ledger."""
    return (
        TemplateDefinition(indices.accounts, _ACCOUNTS, _ACCOUNTS_SETTINGS),
        TemplateDefinition(indices.account_events, _ACCOUNT_EVENTS, _SETTINGS),
    )


_SETTINGS: Final = {
    # Some ten million documents fit well into one, and then every answer is exact.
    "index.number_of_shards": "1",
    # On one node none, which it could not place; on more of them one.
    "index.auto_expand_replicas": "0-1",
    # How soon a search sees what was written. Set, it also keeps an index that nobody asks from pausing.
    "index.refresh_interval": "1s",
}

_ACCOUNTS_SETTINGS: Final = {
    **_SETTINGS,
    # An erasure asks for a merge of what has something deleted. By default a segment with few deletions, a tenth of its
    # documents, would be left as it is, and a name be left in it.
    "index.merge.policy.expunge_deletes_allowed": "0",
}

_KEYWORD: Final = {"type": "keyword", "ignore_above": _MAX_TERM}
_BOOLEAN: Final = {"type": "boolean"}
_LONG: Final = {"type": "long"}
_INTEGER: Final = {"type": "integer"}
_DATE: Final = {"type": "date"}
_WHOLE: Final = {"type": "keyword", "ignore_above": _MAX_SORTED}
_REASON: Final = {"type": "text", "fields": {"keyword": _WHOLE}}
_MESSAGE: Final = {"type": "text"}
# Kept, but not searched: it is sealed here, at up to 5,500 characters, and what old events have in plain is none to be
# found by either.
_SEALED: Final = {"type": "keyword", "index": False, "doc_values": False}
_HOLDER_NAME: Final = {
    "type": "text",
    # `sort` puts "ada" before "Bob".
    "fields": {"keyword": _WHOLE, "sort": {**_WHOLE, "normalizer": "lowercase"}},
}
# Kept, but not searched.
_CHECKPOINT: Final = {"type": "object", "enabled": False}

_ACCOUNTS: Final[Properties] = {
    "account_id": _KEYWORD,
    "holder_name": _HOLDER_NAME,
    "holder_email": _KEYWORD,
    "holder_erased": _BOOLEAN,
    "status": _KEYWORD,
    "currency": _KEYWORD,
    "balance_minor": _LONG,
    "in_transit_minor": _LONG,
    "overdraft_limit_minor": _LONG,
    "opened_at": _DATE,
    "closed_at": _DATE,
    "updated_at": _DATE,
    "sequence": _LONG,
    "partition": _INTEGER,
    "offset": _LONG,
    CHECKPOINT_FIELD: _CHECKPOINT,
}

_ACCOUNT_EVENTS: Final[Properties] = {
    "event_type": _KEYWORD,
    "event_id": _KEYWORD,
    "account_id": _KEYWORD,
    "sequence": _LONG,
    "recorded_at": _DATE,
    "effective_at": _DATE,
    "user_id": _KEYWORD,
    "command_id": _KEYWORD,
    "correlation_id": _KEYWORD,
    "causation_id": _KEYWORD,
    "reason": _REASON,
    "chain_hash": _KEYWORD,
    "partition": _INTEGER,
    "offset": _LONG,
    "currency": _KEYWORD,
    "amount_minor": _LONG,
    "balance_minor": _LONG,
    "balance_before_minor": _LONG,
    "in_transit_minor": _LONG,
    "transfer_id": _KEYWORD,
    "to_account_id": _KEYWORD,
    "from_account_id": _KEYWORD,
    "code": _KEYWORD,
    "message": _MESSAGE,
    "overdraft_limit_minor": _LONG,
    "limit_minor": _LONG,
    "previous_limit_minor": _LONG,
    "cause": _KEYWORD,
    "payout_reference": _SEALED,
    "withdrawal_sequence": _LONG,
    "holder_name": _SEALED,
    "holder_email": _SEALED,
    CHECKPOINT_FIELD: _CHECKPOINT,
}
