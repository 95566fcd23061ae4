"""`python -m benchmarks transfers`: transfers a second, sent and settled, beside deposits on the same accounts.

A transfer is three decisions on two accounts and two records more, so that a third of the deposits' rate means that the
way from one account to another costs nothing beside deciding.
"""

from __future__ import annotations

import random
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.processes import LOOPBACK, free_port, running
from benchmarks.workload import put
from schemas.commands import AnyCommand, Deposit, OpenAccount, Transfer, now_micros
from schemas.connections import Connections

_OVERDRAFT_MINOR = 10**15
_LOOK_EVERY_S = 0.05
_TIMEOUT_S = 600


@dataclass(frozen=True)
class TransferRates:
    """Deposits a second, and transfers a second: sent, received and completed."""

    deposits: float
    transfers: float

    @property
    def ratio(self) -> float:
        return self.transfers / self.deposits


def transfer_rates(
    connections: Connections, count: int, accounts: int, rounds: int, log: Path, tell: Callable[[str], None]
) -> list[TransferRates]:
    """`count` deposits, then as many transfers, over so many accounts; `rounds` times, by one command service.

    Raises:
        RuntimeError: the service stands still, or a transfer was refused or returned.
    """
    put(connections, _openings(accounts))
    _decisions_per_second(connections, accounts, log)
    found = []
    for number in range(rounds):
        put(connections, _deposits(count, accounts))
        deposits = _decisions_per_second(connections, count, log)
        put(connections, _transfers(count, accounts))
        # The follow-ups, which were decided with their transfers, have to be read as well.
        transfers = _decisions_per_second(connections, 3 * count, log, passed_over=2 * count) / 3
        found.append(TransferRates(deposits, transfers))
        tell(f"round {number + 1}: {deposits:,.0f} deposits/s, {found[-1].transfers:,.0f} transfers/s")
    return found


def _decisions_per_second(connections: Connections, count: int, log: Path, *, passed_over: int = 0) -> float:
    """The rate of commands accepted, from a new process's first to its `count`-th; all must be.

    It ends when so many follow-ups were passed over as well. No round of snapshots begins before the process is
    stopped: an event costs the same share of a round whatever it is of, but a whole round would fall upon whichever of
    two runs comes to its beginning.
    """
    port = free_port()
    settings = {
        "DAYBOOK_COMMAND_SERVICE_METRICS_PORT": str(port),
        "DAYBOOK_COMMAND_SERVICE_SNAPSHOT_EVERY": str(2 * count),
    }
    with running("command_service", connections, log, **settings) as process:
        deadline = time.monotonic() + _TIMEOUT_S
        first: tuple[float, float] | None = None
        while True:
            (done, passed), now = _accepted(port), time.monotonic()
            if done and first is None:
                first = done, now
            if done >= count and passed >= passed_over and first is not None:
                return (done - first[0]) / (now - first[1]) if now > first[1] else 0.0
            if process.poll() is not None or now > deadline:
                raise RuntimeError(
                    f"{done:,.0f} of {count:,} commands are accepted and {passed:,.0f} of {passed_over:,} follow-ups "
                    f"passed over, and no more come; see {log}"
                )
            time.sleep(_LOOK_EVERY_S)


def _accepted(port: int) -> tuple[float, float]:
    """How many commands were accepted, and how many follow-ups passed over."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        # It is starting.
        return 0.0, 0.0
    accepted = passed_over = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "daybook_commands_total":
                if sample.labels["outcome"] != "accepted":
                    raise RuntimeError(f"{sample.value:,.0f} commands were {sample.labels}")
                accepted += sample.value
            elif sample.name == "daybook_follow_ups_passed_over_total":
                passed_over = sample.value
            elif sample.name == "daybook_follow_ups_total" and sample.labels["command"] == "ReturnTransfer":
                raise RuntimeError(f"{sample.value:,.0f} transfers were returned")
    return accepted, passed_over


def _common(account: int) -> dict[str, object]:
    return {
        "command_id": str(uuid.uuid4()),
        "account_id": f"A-{account}",
        "user_id": "user-42",
        "issued_at": now_micros(),
    }


def _openings(accounts: int) -> Iterator[AnyCommand]:
    for n in range(accounts):
        yield OpenAccount(currency="EUR", holder_name="Jane Doe", overdraft_limit_minor=_OVERDRAFT_MINOR, **_common(n))


def _deposits(count: int, accounts: int) -> Iterator[AnyCommand]:
    for _ in range(count):
        yield Deposit(amount_minor=random.randrange(1, 10_000), currency="EUR", **_common(random.randrange(accounts)))


def _transfers(count: int, accounts: int) -> Iterator[AnyCommand]:
    for _ in range(count):
        source, destination = random.sample(range(accounts), 2)
        yield Transfer(
            transfer_id=str(uuid.uuid4()),
            to_account_id=f"A-{destination}",
            amount_minor=random.randrange(1, 10_000),
            currency="EUR",
            **_common(source),
        )
