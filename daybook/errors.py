"""What can go wrong between a program and the ledger. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.commands import CommandReply, Transfer
from schemas.connections import NotConfigured

__all__ = [
    "AccountUnknown",
    "DaybookError",
    "InvalidPoint",
    "InvalidSearch",
    "ModelMissing",
    "NotConfigured",
    "NotInstalled",
    "NotTaken",
    "NothingThen",
    "ReadTimeout",
    "Refused",
    "ReplyTimeout",
    "TransferInFlight",
    "TransferUnknown",
    "Unreachable",
    "UnreadableRecord",
]

_NAMED_IDS = 3
"""How many command ids a message names; all of them are in the error's attribute."""


class DaybookError(Exception):
    """The base of this package's errors. `NotConfigured` alone comes from below it and is not one of them."""


class Refused(DaybookError):
    """The ledger decided against a command and recorded nothing. `code` is stable (docs/REFUSALS.md)."""

    def __init__(self, reply: CommandReply) -> None:
        self.reply = reply
        self.code = reply.code or "unknown"
        self.message = reply.message or "the reply gives no message"
        super().__init__(f"{self.code}: {self.message}")


class Unreachable(DaybookError):
    """A server did not answer, or does not hold what Daybook needs there. `server` is its kind, such as `Kafka`."""

    def __init__(self, server: str, address: str, why: str) -> None:
        self.server = server
        self.address = address
        self.why = why
        super().__init__(f"{server} at {address}: {why}")


class ModelMissing(Unreachable):
    """The server answers and holds no such read model: its projector has yet to make it."""


class NotTaken(DaybookError):
    """Kafka turned a command down, so it was not carried out; waiting will not help."""

    def __init__(self, command_id: str, why: str) -> None:
        self.command_id = command_id
        super().__init__(f"Kafka did not take command {command_id}: {why}")


class ReplyTimeout(DaybookError):
    """Commands were sent and nothing came back in time. Whether they were carried out is not known.

    Sending them again under the same ids is safe: each is carried out at most once.
    """

    def __init__(self, command_ids: Sequence[str], timeout_s: float) -> None:
        self.command_ids = tuple(command_ids)
        self.timeout_s = timeout_s
        named = ", ".join(self.command_ids[:_NAMED_IDS]) + (", ..." if len(self.command_ids) > _NAMED_IDS else "")
        what = f"command {named}" if len(self.command_ids) == 1 else f"{len(self.command_ids)} commands ({named})"
        super().__init__(
            f"no reply to {what} within {timeout_s:g} s: is the command service running (`daybook run`)? "
            "Sending the same again under the same command id is safe"
        )


class TransferInFlight(ReplyTimeout):
    """A transfer was sent, and has neither arrived nor come back in time; it will. Giving it again waits on."""

    def __init__(self, transfer: Transfer, amount: str, *, refused: bool, timeout_s: float) -> None:
        super().__init__([transfer.command_id], timeout_s)
        self.transfer_id = transfer.transfer_id
        self.refused = refused
        """The other account did not take it in: it is on its way back."""
        stands = (
            f"was not taken in by {transfer.to_account_id}, and is not back in {transfer.account_id}"
            if refused
            else f"has left {transfer.account_id}, and neither arrived in {transfer.to_account_id} nor come back"
        )
        self.args = (
            f"transfer {transfer.transfer_id}: {amount} {stands} within {timeout_s:g} s. It is in flight and will be "
            "settled: is the command service running (`daybook run`)? "
            f"`daybook history --transfer {transfer.transfer_id}` shows how far it is, `daybook transfers --in-flight` "
            "all that are under way; giving it again under the same transfer id is safe, and waits on",
        )


class ReadTimeout(DaybookError):
    """A read model, or the log, did not get as far as was asked for in time."""


class AccountUnknown(DaybookError):
    """The read model holds no such account, or without a model the log."""

    def __init__(self, account_id: str, model: str | None = "balances") -> None:
        self.account_id = account_id
        super().__init__(
            f"there is no account {account_id}: the log has no event of it"
            if model is None
            else f"no account {account_id} is known to {model}: was it opened, and is the {model} projector running "
            "(`daybook run`)? To wait for an account that was just opened, ask for at least the reply's sequence"
        )


class TransferUnknown(DaybookError):
    """The audit trail has no event of such a transfer."""

    def __init__(self, transfer_id: str, account_id: str | None = None) -> None:
        self.transfer_id = transfer_id
        which = transfer_id if account_id is None else f"{transfer_id} of account {account_id}"
        super().__init__(
            f"no transfer {which} is known to search: was it sent, and is the search projector running "
            "(`daybook run`)? What was just sent is found up to a second later"
        )


class NothingThen(DaybookError):
    """There was no such account yet at the time that is asked for, or it has no such event yet."""


class UnreadableRecord(DaybookError):
    """What a topic or a read model holds is not what the contract says. `where` names the place."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        self.why = why
        super().__init__(f"{where}: {why}")


class NotInstalled(DaybookError):
    """Something is asked for that needs packages which are not installed here."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"this needs {module}, which is not installed: pip install 'daybook[{extra}]'")


class InvalidSearch(ValueError):
    """A search that cannot be meant: the message says what is wrong with it."""


class InvalidPoint(ValueError):
    """A time or a sequence that cannot be meant: the message says what is wrong with it."""
