"""Where the read models are and how they keep their place in the log: what projectors write and clients read.

These names are an interface (DESIGN calls them so): they change only with a changelog entry and a migration note.

"Offset" always means the next one to read. `log` names the log that a model was made from, as
`projectors.source.Source` prints it: cluster id, topic and topic id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BALANCES_CHECKPOINT_KEY: Final = "daybook:checkpoint:balances"
"""Redis: a hash of `log` and, for each partition, its number with the offset to read next."""

BALANCES_HOLD_KEY: Final = "daybook:hold:balances"
"""Redis: present, with a time to live, while a rebuilt copy is about to take the live model's place."""

BALANCE_FIELDS: Final = ("balance_minor", "in_transit_minor", "currency", "status", "sequence", "updated_at")
"""Redis: the fields of an account's hash; `updated_at` in microseconds since the Unix epoch.

`in_transit_minor` may be missing, and is 0 then: an earlier release wrote the account, which has sent nothing since.
"""


def balance_key(account_id: str) -> str:
    """Redis: the hash of an account's balance."""
    return f"balance:{account_id}"


def ranking_key(currency: str) -> str:
    """Redis: the sorted set of the accounts of a currency that are not closed, by balance in minor units."""
    return f"balances:{currency}"


@dataclass(frozen=True, slots=True)
class Indices:
    """Elasticsearch: the aliases that readers ask, each over one concrete index `<alias>-<six digits>`.

    `namespace` keeps several ledgers on one cluster apart: with `"eu"` the accounts are `eu.accounts`.
    """

    namespace: str = ""

    @property
    def accounts(self) -> str:
        """One document an account: its current view. The id is the account's."""
        return self._name("accounts")

    @property
    def account_events(self) -> str:
        """One document an event: the audit trail. The id is the event's key, `<account id>/<sequence>`."""
        return self._name("account-events")

    def _name(self, name: str) -> str:
        return f"{self.namespace}.{name}" if self.namespace else name


CHECKPOINT_FIELD: Final = "checkpoint"
"""Elasticsearch: the object in which a checkpoint document has `log` and `offset`.

Both indices have one such document for each partition, and the model stands at the smaller of the two offsets. The
aliases hide them by a filter, since they have no `account_id`.
"""


SEARCH_HOLD_ID: Final = "/hold"
"""Elasticsearch: the id of a document in the index of accounts that is there while a rebuilt copy is about to take the
live model's place. Its `checkpoint` has `hold_until_ms`, in milliseconds since the Unix epoch."""


REBUILD_META: Final = "rebuild"
"""Elasticsearch: what a mapping's `_meta` has of a rebuild, an object with a `state`."""

REBUILD_BUILDING: Final = "building"
"""Elasticsearch: that state while the index is being built, from what its builder knew when it read the events."""


def checkpoint_id(partition: int) -> str:
    """Elasticsearch: the id of a partition's checkpoint document. No account's or event's id begins with a slash."""
    return f"/checkpoint/{partition}"


EVENTS_TABLE: Final = "account_events"
"""Iceberg: the table's name in the namespace that `iceberg_namespace` gives."""

SUMMARY_LOG: Final = "daybook.log"
"""Iceberg: the snapshot summary's property that names the log."""

SUMMARY_OFFSET_PREFIX: Final = "daybook.offset."
"""Iceberg: followed by a partition's number, the snapshot summary's property that has its offset."""


def iceberg_namespace(namespace: str) -> str:
    """Iceberg: the namespace of a ledger's table."""
    return f"daybook_{namespace}" if namespace else "daybook"
