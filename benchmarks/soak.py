"""`python -m benchmarks soak`: transfers at a steady rate while two command services are killed again and again.

The log is held against itself all the while, as `daybook verify money` does, and at the end against what was asked:
whoever was told that money was sent finds it sent once, and nothing is in transit.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import spawned
from daybook.client import Client
from daybook.verify.money import verify_money
from schemas.commands import AnyCommand, Deposit, Freeze, OpenAccount, Transfer, now_micros
from schemas.connections import Connections
from schemas.events import TransferCompleted, TransferReturned, TransferSent

_FUNDS_MINOR = 100_000
_MISSING = "S-missing"
_FROZEN = "S-frozen"
_SERVICES = 2
_REPLY_TIMEOUT_S = 180
"""A killed service's partitions wait for the session to time out (6 s), and the next kill may come before they move."""
_SETTLE_TIMEOUT_S = 300
_LOOK_EVERY_S = 0.5


@dataclass
class Soak:
    """What a run came to. Amounts are minor units, times seconds."""

    seconds: float = 0.0
    asked: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    returned: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    cuts: int = 0
    """How often the money was reckoned up meanwhile."""
    most_in_flight: int = 0
    settled_after_s: float = 0.0
    """From the last command to when nothing was in transit."""
    latencies_s: list[float] = field(default_factory=list)
    """From sent to completed or returned, as recorded."""
    funds_minor: int = 0
    balances_minor: int = 0
    in_transit_minor: int = 0
    wrong: list[str] = field(default_factory=list)

    def quantile_s(self, share: float) -> float:
        return sorted(self.latencies_s)[int(share * (len(self.latencies_s) - 1))] if self.latencies_s else 0.0


def soak(
    connections: Connections,
    folder: Path,
    *,
    seconds: float,
    rate: float,
    kill_every_s: float,
    accounts: int = 200,
    seed: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Soak:
    """Run it on a deployed ledger of its own. The services' output goes to `folder`.

    Raises:
        RuntimeError: a service ended by itself.
        ReplyTimeout: a command stayed without a reply.
    """
    found, dice = Soak(), random.Random(seed)
    with ExitStack() as ends:
        services = [
            ends.enter_context(_Service(connections, str(number), folder / f"service-{number}.log"))
            for number in range(_SERVICES)
        ]
        client = ends.enter_context(Client(connections, user_id="soak", timeout_s=_REPLY_TIMEOUT_S))
        found.funds_minor = _open(client, accounts)
        accepted: set[str] = set()
        stopping = threading.Event()
        threads = [
            _Thread(lambda: _kill(services, kill_every_s, random.Random(seed), stopping, found)),
            _Thread(lambda: _reckon(connections, stopping, found, tell)),
        ]
        began = time.monotonic()
        try:
            for reply in client.send_many(_transfers(accounts, rate, seconds, dice, found, threads)):
                if reply.accepted:
                    found.accepted += 1
                    accepted.add(reply.command_id)
                else:
                    found.refused[reply.code or ""] += 1
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
            for thread in threads:
                thread.raise_error()
        found.seconds = time.monotonic() - began
        tell(
            f"asked for {found.asked:,} transfers, killed services {found.kills} times; waiting for what is in transit"
        )
        _settle(connections, found)
        _hold_against_log(client, accepted, found)
    return found


class _Service:
    """A command service of some ordinal, which is started anew each time that it is killed."""

    def __init__(self, connections: Connections, instance: str, log: Path) -> None:
        self._connections, self._instance, self._log = connections, instance, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Service:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"instance {self._instance} of the command service ended by itself; see {self._log}")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._start()

    def _start(self) -> None:
        settings = {"DAYBOOK_COMMAND_SERVICE_INSTANCE": self._instance}
        self._process = spawned("command_service", self._connections, self._log, **settings)


class _Thread(threading.Thread):
    """A thread whose error comes out where it is asked for."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _open(client: Client, accounts: int) -> int:
    """Open the accounts and fund them. Returns the funds, in minor units."""
    names = [f"S-{number}" for number in range(accounts)]
    commands: list[AnyCommand] = [
        client.command(OpenAccount, name, currency="EUR", holder_name="Jane Doe") for name in (*names, _FROZEN)
    ]
    commands += [client.command(Deposit, name, amount_minor=_FUNDS_MINOR, currency="EUR") for name in names]
    commands.append(client.command(Freeze, _FROZEN))
    for reply in client.send_many(commands):
        if not reply.accepted:
            raise RuntimeError(f"{reply.account_id}: {reply.message}")
    return _FUNDS_MINOR * accounts


def _transfers(
    accounts: int, rate: float, seconds: float, dice: random.Random, found: Soak, threads: Sequence[_Thread]
) -> Iterator[Transfer]:
    """Transfers at a rate, most between accounts that have the money, some to where it cannot be taken in.

    Ends early where the money does not add up, since more would tell no more. Raises: a thread's error, which is looked
    for here and not where replies are taken, since none may come then.
    """
    begin = time.monotonic()
    for number in range(int(rate * seconds)):
        while (wait := begin + number / rate - time.monotonic()) > 0:
            time.sleep(wait)
        for thread in threads:
            thread.raise_error()
        if found.wrong:
            return
        source, destination = (f"S-{n}" for n in dice.sample(range(accounts), 2))
        lot = dice.random()
        if lot < 0.05:
            destination = _MISSING
        elif lot < 0.10:
            destination = _FROZEN
        # One in some is more than there is, and refused.
        amount = dice.randrange(1, 5_000) if lot < 0.97 else 100 * _FUNDS_MINOR
        found.asked += 1
        transfer_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        yield Transfer(
            command_id=transfer_id,
            account_id=source,
            user_id="soak",
            issued_at=now_micros(),
            transfer_id=transfer_id,
            to_account_id=destination,
            amount_minor=amount,
            currency="EUR",
        )


def _kill(
    services: list[_Service], every_s: float, dice: random.Random, stopping: threading.Event, found: Soak
) -> None:
    while not stopping.wait(dice.uniform(0.5, 1.5) * every_s):
        dice.choice(services).kill()
        found.kills += 1


def _reckon(connections: Connections, stopping: threading.Event, found: Soak, tell: Callable[[str], None]) -> None:
    """Reckon up the money, cut after cut, for as long as the transfers go on."""
    while not stopping.wait(_LOOK_EVERY_S):
        reckoning = verify_money(connections, timeout_s=_SETTLE_TIMEOUT_S, tell=lambda _: None)
        found.cuts += 1
        found.most_in_flight = max(found.most_in_flight, len(reckoning.in_flight))
        if reckoning.wrong is not None:
            found.wrong.append(f"cut {found.cuts}: {reckoning.wrong}")
            return
        if found.cuts % 20 == 0:
            tell(f"{reckoning.completed:,} completed, {len(reckoning.in_flight)} in flight, {found.kills} kills")


def _settle(connections: Connections, found: Soak) -> None:
    """Wait until nothing is in transit, and take the sums."""
    began = time.monotonic()
    while True:
        reckoning = verify_money(connections, timeout_s=_SETTLE_TIMEOUT_S, tell=lambda _: None)
        found.cuts += 1
        if reckoning.wrong is not None or not reckoning.in_flight:
            break
        if time.monotonic() - began > _SETTLE_TIMEOUT_S:
            found.wrong.append(f"{len(reckoning.in_flight)} transfers are in transit after {_SETTLE_TIMEOUT_S} s")
            break
        time.sleep(_LOOK_EVERY_S)
    found.settled_after_s = time.monotonic() - began
    if reckoning.wrong is not None:
        found.wrong.append(str(reckoning.wrong))
    for sums in reckoning.sums.values():
        found.balances_minor += sums.balances_minor
        found.in_transit_minor += sums.in_transit_minor
    if not found.wrong and found.balances_minor != found.funds_minor:
        found.wrong.append(f"{found.funds_minor} were paid in, and the balances are {found.balances_minor}")


def _hold_against_log(client: Client, accepted: Set[str], found: Soak) -> None:
    """What clients were told against what the log says. A transfer's id is that of its command."""
    sent: dict[str, int] = {}
    for logged in client.events():
        recorded = logged.recorded
        event = recorded.event
        if isinstance(event, TransferSent):
            if event.transfer_id in sent:
                found.wrong.append(f"transfer {event.transfer_id} was sent twice")
            sent[event.transfer_id] = recorded.recorded_at
        elif isinstance(event, TransferCompleted | TransferReturned):
            found.latencies_s.append((recorded.recorded_at - sent[event.transfer_id]) / 1e6)
            if isinstance(event, TransferReturned):
                found.returned[event.code] += 1
            else:
                found.completed += 1
    for what, ids in (
        ("accepted and never sent", accepted - sent.keys()),
        ("sent and not accepted", sent.keys() - accepted),
    ):
        if ids:
            found.wrong.append(f"{len(ids)} transfers were {what}, such as {min(ids)}")
    if found.accepted + sum(found.refused.values()) != found.asked:
        found.wrong.append(f"{found.asked} transfers were asked for, and not all were answered once")
