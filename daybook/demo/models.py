"""The demonstration's second half: what the read models know of what has just been done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from rich.console import Console

from daybook.activity import ask
from daybook.cli.activity import VOLUMES, volume_rows
from daybook.cli.searching import ACCOUNTS, account_row, entry_row, trail
from daybook.cli.tables import Column, table
from daybook.cli.verify import wording
from daybook.client import Client
from daybook.demo.ledger import DemoFailed, Running
from daybook.positions import MODELS
from daybook.status import status
from daybook.supervise import is_importable
from daybook.verify.run import Outcome, verify

_TIMEOUT_S: Final = 90.0
"""For all models to catch up: those that were just started join their groups first, and analytics gathers events."""
_REQUEST_S: Final = 5.0
_FOUND: Final = 5
_TRAIL_BEGINS: Final = 3
_TRAIL_ENDS: Final = 9
_MINUTES: Final = 2
_FLOWS: Final = "daily-flows"
_FLOWS_SHOWN: Final = 5
_BY: Final = {"by": "effective"}
"""The month was imported today; the picture is to show it as it was."""


class ModelsShown:
    """Shows, for one ledger that is up, each model beside the log."""

    def __init__(self, ledger: Running, console: Console, folder: Path) -> None:
        """Pictures are drawn into `folder`."""
        self._ledger = ledger
        self._console = console
        self._folder = folder

    def verify(self) -> None:
        """Every model against a fold of the log of its own. Raises `DemoFailed` if one differs."""
        self._console.rule("every read model against the log")
        for name, why in self._ledger.idle.items():
            self._console.print(f"without {name}: {why}", soft_wrap=True)
        models = [model for model in MODELS if model not in self._ledger.idle]
        verdicts = verify(self._ledger.connections, models, timeout_s=_TIMEOUT_S, tell=lambda _: None)
        for verdict in verdicts:
            self._console.print(wording(verdict), markup=False, soft_wrap=True)
        if any(verdict.outcome is not Outcome.EQUAL for verdict in verdicts):
            if self._ledger.supervisor is not None:
                self._ledger.supervisor.check()
            raise DemoFailed(f"a read model is not what the log says. What the services said is in {self._ledger.log}")

    def search(self, client: Client, account_id: str) -> None:
        """Find the account's holder among others, and show the account's audit trail."""
        holder = client.account(account_id).holder_name
        word = holder.split()[-1].lower()
        self._console.rule(f'search "{word}"')
        page = client.search(word, limit=_FOUND)
        self._console.print(table(ACCOUNTS, [account_row(view) for view in page.accounts]))
        self._console.rule(f"the trail of {account_id}: who, what and when")
        with client.holders([account_id]) as holders:
            entries = [holders.entry(entry) for entry in client.history(account_id)]
        rows = [entry_row(entry) for entry in entries]
        left_out = len(rows) - _TRAIL_BEGINS - _TRAIL_ENDS
        if left_out > 1:
            gap = ("", "", "", f"... {left_out} more", "", "", "")
            rows = [*rows[:_TRAIL_BEGINS], gap, *rows[-_TRAIL_ENDS:]]
        self._console.print(table(trail(entries[0].balance.currency), rows))

    def plot(self) -> None:
        """Ask the analytics table for the flows of each day, and draw them."""
        # They take a second to import, and not every installation has what they need.
        from daybook.analytics.catalog import account_events, answering  # noqa: PLC0415
        from daybook.analytics.named import QUERIES  # noqa: PLC0415
        from daybook.analytics.query import query  # noqa: PLC0415

        self._console.rule("analytics: flows by day")
        named = QUERIES[_FLOWS]
        connections = self._ledger.connections
        with account_events(connections) as found, answering(connections):
            answer = query(found, named.sql, named.values(_BY))
        if not is_importable("matplotlib"):
            self._console.print(
                table(
                    [Column(name) for name in answer.columns],
                    [[str(cell) for cell in row] for row in answer.rows[:_FLOWS_SHOWN]],
                )
            )
            self._console.print(
                f"{len(answer.rows)} days and currencies in all; pip install 'daybook[plots]' has them drawn",
                markup=False,
            )
            return
        from daybook.analytics.plot import draw  # noqa: PLC0415

        file = self._folder / f"{_FLOWS}.png"
        draw(named.name, answer, _BY, file)
        self._console.print(f"{len(answer.rows)} days and currencies, drawn: {file}", soft_wrap=True)

    def activity(self) -> None:
        """What the last minutes saw."""
        self._console.rule("live activity, by minute")
        self._wait_for_activity()
        answer = ask(self._ledger.activity.url, f"/volume/minute?limit={_MINUTES}", timeout_s=_TIMEOUT_S)
        rows = volume_rows(answer)
        self._console.print(table(VOLUMES, rows) if rows else "nothing in the last hour")

    def _wait_for_activity(self) -> None:
        """Until it has counted all events; what it shows after `_TIMEOUT_S` is shown all the same."""
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            found = {
                program.program: program
                for program in status(self._ledger.connections, timeout_s=_REQUEST_S, activity=self._ledger.activity)
            }
            partitions = found["activity"].partitions
            if partitions and all(reached.behind_s == 0 for reached in partitions):
                return
