"""Events: what happened to an account, and the record that it is kept in.

An event's name and its fields are a storage format (`schemas/account/*.avsc`): what is released is never edited, it
gets a next version, or a next major with a name of its own (`MAJOR`). The types here are the newest. Times are
microseconds since the Unix epoch, in UTC; amounts are minor units of a currency.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Final

from msgspec import Struct

EVENT_NAMESPACE: Final = "daybook.account.event"

CHAIN_START: Final = bytes(32)
"""What the first event of an account is chained to."""


class FreezeCause(StrEnum):
    """Why an account is frozen. A reader of before a symbol reads it as `UNSPECIFIED`, which older events are too."""

    UNSPECIFIED = "UNSPECIFIED"
    CUSTOMER_REQUEST = "CUSTOMER_REQUEST"
    COURT_ORDER = "COURT_ORDER"
    FRAUD_SUSPICION = "FRAUD_SUSPICION"
    SANCTIONS = "SANCTIONS"


class AccountCreated(Struct, frozen=True, kw_only=True, gc=False):
    currency: str
    holder_name: str
    holder_email: str | None = None
    overdraft_limit_minor: int = 0


class MoneyDeposited(Struct, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str
    balance_minor: int


class MoneyWithdrawn(Struct, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str
    balance_minor: int


class MoneyRefunded(Struct, frozen=True, kw_only=True, gc=False):
    amount_minor: int
    currency: str
    balance_minor: int
    withdrawal_sequence: int


class OverdraftLimitSet(Struct, frozen=True, kw_only=True, gc=False):
    """`previous_limit_minor` is None where the event is older than that field (`schemas.upcasters`)."""

    MAJOR: ClassVar[int] = 2

    previous_limit_minor: int | None
    new_limit_minor: int
    currency: str


class HolderChanged(Struct, frozen=True, kw_only=True, gc=False):
    holder_name: str
    holder_email: str | None = None


class AccountFrozen(Struct, frozen=True, kw_only=True, gc=False):
    cause: FreezeCause = FreezeCause.UNSPECIFIED


def said_cause(event: AccountFrozen) -> str | None:
    """The cause as read models have it: none where nothing was said."""
    return None if event.cause is FreezeCause.UNSPECIFIED else event.cause.value


class AccountUnfrozen(Struct, frozen=True, kw_only=True, gc=False):
    pass


class AccountClosed(Struct, frozen=True, kw_only=True, gc=False):
    """`payout_reference` says where the last of the money went, in the words of whoever paid it out."""

    payout_reference: str | None = None


class HolderErased(Struct, frozen=True, kw_only=True, gc=False):
    """The key that opened what was sealed of the holder is gone, in the same transaction."""


class TransferSent(Struct, frozen=True, kw_only=True, gc=False):
    """`in_transit_minor` is what the account has sent in all and is not settled, after this event. It is no longer in
    the balance, and in no other account's yet."""

    transfer_id: str
    to_account_id: str
    amount_minor: int
    currency: str
    balance_minor: int
    in_transit_minor: int


class TransferReceived(Struct, frozen=True, kw_only=True, gc=False):
    transfer_id: str
    from_account_id: str
    amount_minor: int
    currency: str
    balance_minor: int


class TransferCompleted(Struct, frozen=True, kw_only=True, gc=False):
    """What was sent has arrived: it is no longer in transit."""

    transfer_id: str
    to_account_id: str
    amount_minor: int
    currency: str
    in_transit_minor: int


class TransferReturned(Struct, frozen=True, kw_only=True, gc=False):
    """What was sent is back. `code` and `message` are those of the refusal by which it was not taken in."""

    transfer_id: str
    to_account_id: str
    amount_minor: int
    currency: str
    balance_minor: int
    in_transit_minor: int
    code: str
    message: str


Event = (
    AccountCreated
    | MoneyDeposited
    | MoneyWithdrawn
    | MoneyRefunded
    | OverdraftLimitSet
    | HolderChanged
    | AccountFrozen
    | AccountUnfrozen
    | AccountClosed
    | TransferSent
    | TransferReceived
    | TransferCompleted
    | TransferReturned
    | HolderErased
)
EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    AccountCreated,
    MoneyDeposited,
    MoneyWithdrawn,
    MoneyRefunded,
    OverdraftLimitSet,
    HolderChanged,
    AccountFrozen,
    AccountUnfrozen,
    AccountClosed,
    TransferSent,
    TransferReceived,
    TransferCompleted,
    TransferReturned,
    HolderErased,
)


class RecordedEvent(Struct, frozen=True, gc=False):
    """An event as it stands in the log: what happened, with who, when, why and its place in the account's stream.

    `chain_hash` is SHA-256 over the account's previous chain hash and this event's canonical bytes
    (`schemas.codec.chain`), so that no earlier event can be changed unnoticed. The fields are in the order in which
    they are written.
    """

    event_id: str
    account_id: str
    sequence: int
    recorded_at: int
    effective_at: int
    user_id: str
    command_id: str
    correlation_id: str
    causation_id: str
    reason: str | None
    chain_hash: bytes
    event: Event

    @property
    def type_name(self) -> str:
        """The event's name without its namespace, such as `MoneyDeposited`."""
        return type(self.event).__name__


def event_id(command_id: str, index: int, recorded_at: int) -> str:
    """A UUIDv7 for the `index`-th event (from 0) of a command recorded at a time in microseconds.

    RFC 9562 leaves all bits after the millisecond timestamp to the implementation: here they are the event's index
    and the last 62 bits of the command's id. So deciding the same command again gives the same id, nothing random is
    drawn in the domain, and whoever reads an event's id sees the command's in it.
    """
    tail = command_id[19:].lower()
    if tail[0] not in "89ab":
        # Not of RFC 9562's variant, which an event's id has to be.
        tail = "89ab"[int(tail[0], 16) & 0b11] + tail[1:]
    return _before_tail(recorded_at // 1000, index) + tail


@lru_cache(maxsize=64)
def _before_tail(stamp_ms: int, index: int) -> str:
    """An event id's first half. A batch is decided at one time, and a command seldom leads to more than one event."""
    stamp = f"{stamp_ms:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{index:03x}-"
