"""Comparing models with the log while the ledger goes on. Read `_Run.run`: its steps are the numbers here.

1. Take the log's ends, and wait until what is before them is committed or aborted.
2. Wait until each model has what is before the ends, by its own checkpoint.
3. Fold the log up to the ends and compare the models' events with the log's, one by one: neither changes any more.
4. Compare the accounts. Those that a model has newer than the fold are put aside.
5. Fold the log on to where it ends now. An account that was put aside is compared when the fold comes to its sequence;
   what the log has never come to by then is a difference.

A model that differs, or whose server fails, is put aside itself, and the others go on. Memory is bounded but for the
fold's accounts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from confluent_kafka import IsolationLevel
from confluent_kafka.admin import AdminClient

from daybook import kafka
from daybook.errors import DaybookError, ModelMissing, NotInstalled, ReadTimeout
from daybook.fold import Account, Fold
from daybook.log import LogRanges, first_unread, log_identity
from daybook.positions import MODELS, position
from daybook.progress import Progress, Tell
from daybook.verify.differences import Difference, Differs, extra
from daybook.verify.sides import Ahead, Side, Trail
from schemas.connections import Connections

_LOOK_S: Final = 0.2
"""How often a model that lags is asked where it stands."""

_TELL_EVENTS: Final = 1000
"""After how many events the progress is told: a few hundredths of a second."""

_REQUEST_TIMEOUT_S: Final = 30.0
"""What one request to a server may take: a page of documents, or a chunk of rows, on a machine that is busy."""


class Outcome(StrEnum):
    EQUAL = "equal"
    DIFFERS = "differs"
    LATE = "late"
    """It did not get as far as the log in time."""
    FAILED = "failed"
    """It could not be read to the end."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing a model came to. `difference` is the first one, `error` what kept it from being compared."""

    model: str
    outcome: Outcome
    accounts: int | None
    """How many were compared; None where the model has none, or it was not compared to the end."""
    events: int | None
    difference: Difference | None = None
    error: Exception | None = None
    without: str | None = None
    """What was not compared, and why."""


def verify(connections: Connections, models: Collection[str], *, timeout_s: float, tell: Tell) -> list[Verdict]:
    """Compare models, named as in `daybook.positions.MODELS`, with the log; the verdicts come in the order asked for.

    A model that lags is waited for, all together `timeout_s`. Blocks for as long as reading all of the log takes.

    Raises:
        Unreachable, ReadTimeout: the log itself could not be read; of a model that is the verdict.
        UnreadableRecord: the log is not whole.
        NotConfigured: it is not said where the log or a model is.
    """
    run = _Run(connections, models, timeout_s, tell)
    return run.run()


class _Run:
    def __init__(self, connections: Connections, models: Collection[str], timeout_s: float, tell: Tell) -> None:
        self._connections = connections
        self._topic = connections.topics.events
        self._models = list(dict.fromkeys(models))
        self._timeout_s = timeout_s
        self._tell = tell
        self._fold = Fold()
        self._sides: dict[str, Side] = {}
        self._verdicts: dict[str, Verdict] = {}

    def run(self) -> list[Verdict]:
        deadline = time.monotonic() + self._timeout_s
        ends = self._ends(deadline)
        self._settle(ends, deadline)  # 1
        self._wait(ends, deadline)  # 2
        with ExitStack() as opened, LogRanges(self._connections, timeout_s=_REQUEST_TIMEOUT_S) as log:
            for model in self._waiting():
                self._open(model, opened)
            self._compare_events(log, ends)  # 3
            compared = len(self._fold.accounts), self._fold.events
            aside = self._compare_accounts()  # 4
            self._fold_on(log, ends, aside)  # 5
        for model, side in self._sides.items():
            accounts, events = compared
            self._verdicts[model] = Verdict(
                model,
                Outcome.EQUAL,
                accounts if side.accounts else None,
                events if side.trail else None,
                without=side.without,
            )
        return [self._verdicts[model] for model in self._models]

    def _waiting(self) -> list[str]:
        return [model for model in self._models if model not in self._verdicts]

    def _ends(self, deadline: float) -> dict[int, int]:
        health = kafka.Health()
        with closing(kafka.consumer(self._connections, health)) as source:
            (count,) = kafka.partitions(source, [self._topic], self._connections, health, deadline)
        return self._ends_of(range(count), deadline, IsolationLevel.READ_UNCOMMITTED)

    def _ends_of(self, partitions: Collection[int], deadline: float, isolation_level: IsolationLevel) -> dict[int, int]:
        places = [(self._topic, partition) for partition in partitions]
        found = kafka.ends(self._connections, places, deadline, isolation_level=isolation_level)
        return {at.partition: at.offset for at in found}

    def _settle(self, ends: Mapping[int, int], deadline: float) -> None:
        while True:
            committed = self._ends_of(ends, deadline, IsolationLevel.READ_COMMITTED)
            open_ones = [partition for partition, end in ends.items() if committed[partition] < end]
            if not open_ones:
                return
            if time.monotonic() >= deadline:
                raise ReadTimeout(
                    f"{self._topic}, partition {open_ones[0]}, was not readable up to offset {ends[open_ones[0]]} "
                    f"within {self._timeout_s:g} s: a transaction is still open there; try again once it has ended"
                )
            time.sleep(_LOOK_S)

    def _wait(self, ends: Mapping[int, int], deadline: float) -> None:
        with AdminClient(self._connections.kafka(), logger=kafka.LOG) as admin:
            name = log_identity(self._connections, admin, deadline)
        waits = {model: _Wait(self._connections, model, name, ends) for model in self._models}
        while waits:
            for model, wait in list(waits.items()):
                try:
                    lag = wait.lag()
                except DaybookError as error:
                    # A projector that was just started has yet to make its model.
                    if not isinstance(error, ModelMissing) or time.monotonic() >= deadline:
                        self._failed(model, error)
                        del waits[model]
                    continue
                if lag == 0:
                    del waits[model]
                elif time.monotonic() >= deadline:
                    self._verdicts[model] = Verdict(model, Outcome.LATE, None, None, None, wait.late(self._timeout_s))
                    del waits[model]
            if waits:
                total = sum(ends.values())
                behind = max(wait.behind for wait in waits.values())
                self._tell(Progress(f"waiting for {', '.join(waits)}", total - behind, total))
                time.sleep(_LOOK_S)

    def _open(self, model: str, opened: ExitStack) -> None:
        try:
            self._sides[model] = opened.enter_context(_side(self._connections, model))
        except DaybookError as error:
            self._failed(model, error)

    def _compare_events(self, log: LogRanges, ends: Mapping[int, int]) -> None:
        total, before = sum(ends.values()), 0
        for partition, end in sorted(ends.items()):
            self._each(lambda trail: trail.begin(partition, end))  # noqa: B023
            if not self._sides:
                return
            for logged in log.read(partition, 0, end):
                account = self._fold.apply(logged)
                self._each(lambda trail: trail.event(logged, account))  # noqa: B023
                if self._fold.events % _TELL_EVENTS == 0:
                    self._tell(Progress("comparing events", before + logged.offset, total))
            self._each(lambda trail: trail.finish())
            before += end

    def _compare_accounts(self) -> list[tuple[Side, Ahead]]:
        aside: list[tuple[Side, Ahead]] = []
        total = len(self._fold.accounts)
        for side in list(self._sides.values()):
            compare = side.accounts
            if compare is not None:
                told = partial(self._told, f"comparing accounts of {side.name}", total)
                self._step(side, lambda: aside.extend((side, ahead) for ahead in compare(self._fold, told)))  # noqa: B023
        return aside

    def _told(self, what: str, total: int, done: int) -> None:
        self._tell(Progress(what, done, total))

    def _fold_on(self, log: LogRanges, ends: Mapping[int, int], aside: list[tuple[Side, Ahead]]) -> None:
        beyond: dict[str, Mapping[int, int]] = {}
        for side in list(self._sides.values()):
            trail = side.trail
            if trail is not None:
                self._step(side, lambda: beyond.update({side.name: trail.beyond(ends)}))  # noqa: B023
        # Taken after all that was read of the models, so that the log has whatever they have.
        deadline = time.monotonic() + self._timeout_s
        now = self._ends_of(ends, deadline, IsolationLevel.READ_COMMITTED)
        for side in list(self._sides.values()):
            for partition, end in beyond.get(side.name, {}).items():
                if end > now[partition]:
                    item = (
                        f"an event at offset {end - 1} of partition {partition}, where the log ends at {now[partition]}"
                    )
                    self._differs(side, extra(item))
        by_account: dict[str, list[tuple[Side, Ahead]]] = {}
        for side, ahead in aside:
            by_account.setdefault(ahead.account_id, []).append((side, ahead))
        if by_account:
            for partition, end in sorted(now.items()):
                for logged in log.read(partition, ends[partition], end):
                    account = self._fold.apply(logged)
                    waiting = by_account.get(account.account_id)
                    if waiting:
                        by_account[account.account_id] = self._caught_up(waiting, account)
        for account_id, remaining in by_account.items():
            for side, ahead in remaining:
                if side.name in self._sides:
                    self._step(side, _never_came(ahead, self._fold.accounts.get(account_id)))

    def _caught_up(self, waiting: list[tuple[Side, Ahead]], account: Account) -> list[tuple[Side, Ahead]]:
        for side, ahead in waiting:
            if ahead.sequence == account.sequence and side.name in self._sides:
                self._step(side, lambda: ahead.compare(account))  # noqa: B023
        return [(side, ahead) for side, ahead in waiting if ahead.sequence != account.sequence]

    def _each(self, step: Callable[[Trail], None]) -> None:
        """Take a step with the events of all models that have any."""
        for side in list(self._sides.values()):
            trail = side.trail
            if trail is not None:
                self._step(side, lambda: step(trail))  # noqa: B023

    def _step(self, side: Side, step: Callable[[], None]) -> None:
        try:
            step()
        except Differs as found:
            self._differs(side, found)
        except DaybookError as error:
            self._failed(side.name, error)
            del self._sides[side.name]

    def _differs(self, side: Side, found: Differs) -> None:
        self._verdicts[side.name] = Verdict(side.name, Outcome.DIFFERS, None, None, found.difference)
        self._sides.pop(side.name, None)

    def _failed(self, model: str, error: Exception) -> None:
        self._verdicts[model] = Verdict(model, Outcome.FAILED, None, None, None, error)


class _Wait:
    """Waiting for a model to have all that is before the log's ends."""

    def __init__(self, connections: Connections, model: str, log: str, ends: Mapping[int, int]) -> None:
        self._connections = connections
        self._model = model
        self._log = log
        self._ends = ends
        # Where the first record stands that the model lacks. Until it is past that, the log need not be asked again.
        self._lacks: dict[int, int] = {}
        self.behind = sum(ends.values())

    def lag(self) -> int:
        """How many offsets the model is behind, 0 when no event of them is lacking. Raises: `DaybookError`."""
        found = position(self._connections, self._model, sorted(self._ends), timeout_s=_REQUEST_TIMEOUT_S)
        if found.log not in (None, self._log):
            raise DaybookError(
                f"{self._model} was made from another log, {found.log}, where this is {self._log} (cluster id, topic, "
                "topic id): there is nothing to compare"
            )
        stands = {p: found.offsets.get(p, 0) for p in self._ends}
        short = {p: at for p, at in stands.items() if at < self._ends[p]}
        unknown = {p: at for p, at in short.items() if at > self._lacks.get(p, -1)}
        if unknown:
            topic = self._connections.topics.events
            for p, unread in first_unread(self._connections, topic, unknown, timeout_s=_REQUEST_TIMEOUT_S).items():
                # Past the end there are only marks of transactions.
                self._lacks[p] = self._ends[p] if unread is None else unread.offset
        lacking = [p for p in short if self._lacks.get(p, -1) < self._ends[p]]
        self.behind = sum(self._ends[p] - stands[p] for p in lacking)
        return self.behind

    def late(self, timeout_s: float) -> ReadTimeout:
        return ReadTimeout(
            f"{self._model} is {self.behind} offsets behind the log after {timeout_s:g} s: is its projector running "
            "(`daybook status`)?"
        )


def _side(connections: Connections, model: str) -> AbstractContextManager[Side]:
    match model:
        case "balances":
            from daybook.verify.balances import balances  # noqa: PLC0415

            return balances(connections, timeout_s=_REQUEST_TIMEOUT_S)
        case "search":
            from daybook.verify.search import search  # noqa: PLC0415

            return search(connections, timeout_s=_REQUEST_TIMEOUT_S)
        case "analytics":
            try:
                from daybook.verify.analytics import analytics  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise NotInstalled(error.name or str(error), "analytics") from error
            return analytics(connections)
        case _:
            raise ValueError(f'there is no model "{model}": choose from {", ".join(MODELS)}')


def _never_came(ahead: Ahead, account: Account | None) -> Callable[[], None]:
    """What is to be said of an account that the fold did not come to, in the log as it is now."""

    def tell() -> None:
        if account is None:
            raise extra(ahead.item)
        # What is there may be right but for how new it says to be, which the comparison names.
        ahead.compare(account)

    return tell
