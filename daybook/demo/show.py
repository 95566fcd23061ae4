"""The demonstration, from start to end, told in plain words as it goes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping as Map
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from daybook.cli.display import ImportDisplay
from daybook.client import Client
from daybook.demo import month
from daybook.demo.expected import Expected, expected_balances
from daybook.demo.ledger import DemoFailed, Running, attached
from daybook.demo.models import ModelsShown
from daybook.errors import ReplyTimeout
from daybook.importing import AccountsExist, Import
from daybook.mapping import Mapping
from daybook.models import Balance
from daybook.wording import counted
from schemas.money import format_amount

_TIMEOUT_S: Final = 60.0
"""Services that have just been started join their groups first; that takes seconds, and on a busy machine more."""
_ROWS_SHOWN: Final = 8
_DIFFERENCES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class _Compared:
    account_id: str
    expected: Expected
    found: Balance | None

    @property
    def balance(self) -> Decimal | None:
        if self.found is None:
            return None
        return Decimal(format_amount(self.found.money.amount_minor, self.found.money.currency))

    @property
    def equal(self) -> bool:
        return (
            self.found is not None
            and self.balance == self.expected.balance
            and self.found.money.currency == self.expected.currency
        )


class Demo:
    """One demonstration in a stack's folder; with `keep` it stays up until Ctrl-C.

    With `attach` it is shown on what the environment names, and `folder` has only the files that it makes.
    """

    def __init__(
        self, folder: Path, *, keep: bool = False, attach: bool = False, console: Console | None = None
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._attach = attach
        self._console = console or Console(highlight=False)

    def run(self, file: Path | None, mapping_file: Path | None, *, accounts: int, seed: int) -> None:
        """Show it. Raises `DemoFailed` if a balance differs from the independent sum, and what else can fail."""
        began = time.monotonic()
        mapping = month.mapping(seed) if mapping_file is None else Mapping.load(mapping_file)
        if mapping.accounts.open == "never":
            raise DemoFailed("the mapping opens no accounts, so nothing says which balances they began with")
        with self._ledger() as ledger:
            if file is None:
                file = self._folder / "demo" / "month.csv"
                rows = month.write(file, accounts=accounts, seed=seed)
                self._console.print(
                    f"made up a month of {counted(accounts, 'account')}, {counted(rows, 'row')}: {file}", soft_wrap=True
                )
            with Client(ledger.connections, user_id=mapping.user, timeout_s=_TIMEOUT_S) as client:
                reached = self._post(ledger, client, file, mapping)
                compared = self._compare(client, expected_balances(file, mapping), reached)
                self._show_models(ledger, client, compared[0].account_id)
            self._console.print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
            self._say_how_to_go_on(ledger, compared[0])

    def _ledger(self) -> AbstractContextManager[Running]:
        if self._attach:
            return attached(self._folder)
        # The local stack is an extra that an installation for a ledger elsewhere need not have.
        from daybook.demo.servers import running  # noqa: PLC0415

        return running(self._folder, self._console)

    def _post(self, ledger: Running, client: Client, file: Path, mapping: Mapping) -> dict[str, int]:
        """Import the file. Returns each account's last sequence, as far as this run was told of it."""
        reached: dict[str, int] = {}
        self._console.rule("commands in")
        posting = Import(file, mapping, self._folder / "demo" / f"{file.name}.rejected.csv")
        try:
            with ImportDisplay(self._console, line_every_s=1.0) as display:
                tally = posting.run(
                    client,
                    on_progress=display.update,
                    on_reply=lambda reply: reached.update(
                        {reply.account_id: max(reached.get(reply.account_id, 0), reply.sequence or 0)}
                    ),
                )
        except AccountsExist:
            self._console.print(
                "An earlier demonstration posted this month, longer ago than the ledger remembers command ids: nothing "
                "is posted this time."
            )
            return {}
        except ReplyTimeout as error:
            if ledger.supervisor is not None:
                ledger.supervisor.check()
            raise DemoFailed(f"{error}. What the services said is in {ledger.log}") from error
        self._console.print(
            f"{counted(tally.opened, 'account')} opened; of {counted(tally.rows - tally.other, 'row')} to post "
            f"{tally.accepted:,} accepted, {tally.refused.total():,} refused"
            + (f", {tally.unreadable:,} unreadable" if tally.unreadable else "")
        )
        if tally.opened_before or tally.accepted_before:
            self._console.print(
                f"there already, and not posted twice: {counted(tally.opened_before, 'account')}, "
                f"{counted(tally.accepted_before, 'row')}"
            )
        self._console.print(f"{tally.per_second:,.0f} commands a second, each decided and answered in a transaction")
        if posting.rejects.count:
            self._console.print(f"what was refused, and why: {posting.rejects.path}", soft_wrap=True)
        return reached

    def _compare(self, client: Client, expected: Map[str, Expected], reached: Map[str, int]) -> list[_Compared]:
        self._console.rule("balances out")
        for account_id, sequence in reached.items():
            if sequence:
                client.balance(account_id, at_least=sequence)
        found = {balance.account_id: balance for balance in client.balances(expected)}
        compared = [_Compared(account_id, entry, found.get(account_id)) for account_id, entry in expected.items()]
        if not compared:
            raise DemoFailed("the file opens no accounts: there is nothing to compare")
        # The most eventful accounts first: those have the most to get wrong.
        compared.sort(key=lambda one: (-one.expected.refused, -one.expected.posted, one.account_id))
        self._console.print(_table(compared[:_ROWS_SHOWN]))
        if len(compared) > _ROWS_SHOWN:
            self._console.print(f"... and {len(compared) - _ROWS_SHOWN:,} more")
        self._console.rule("compared")
        self._console.print(_sums(compared))
        differing = [one for one in compared if not one.equal]
        if differing:
            self._console.print(_table(differing[:_DIFFERENCES_SHOWN]))
            raise DemoFailed(
                f"of {counted(len(compared), 'balance')}, {len(differing):,} not as the independent sum has it. If "
                "this folder's data is from an interrupted demonstration of days ago, `daybook stack reset` removes it"
            )
        self._console.print(
            "[green]"
            + (f"All {len(compared):,} balances equal" if len(compared) > 1 else "The balance equals")
            + " the independent sum, to the last digit.[/green]"
        )
        return compared

    def _show_models(self, ledger: Running, client: Client, account_id: str) -> None:
        shown = ModelsShown(ledger, self._console, self._folder / "demo")
        shown.verify()
        if "search" not in ledger.idle:
            shown.search(client, account_id)
        if "analytics" not in ledger.idle:
            shown.plot()
        if "activity" not in ledger.idle:
            shown.activity()

    def _say_how_to_go_on(self, ledger: Running, example: _Compared) -> None:
        account_id, currency = example.account_id, example.expected.currency
        if self._attach:
            self._console.rule("how to go on")
            self._say_what_to_ask("daybook", ledger, account_id, currency)
            self._console.print("Running the same demonstration again posts nothing twice.")
            return
        program = Path(sys.executable).with_name("daybook")
        here = Path.cwd()
        daybook = str(program.relative_to(here) if program.is_relative_to(here) else program)
        at_default = self._folder == Path(".daybook")
        where = "" if at_default else f" --dir {self._folder}"
        self._console.rule("how to go on")
        if not at_default:
            self._console.print(f"  export DAYBOOK_ENV_FILE={self._folder}/env", soft_wrap=True)
        if not self._keep:
            self._console.print(f"  {daybook} stack up{where}", f"  {daybook} run", sep="\n", soft_wrap=True)
        self._say_what_to_ask(daybook, ledger, account_id, currency)
        self._console.print(
            f"The data stays in {self._folder}; `{daybook} stack reset{where}` removes it. Running the same "
            "demonstration again posts nothing twice."
        )
        if self._keep:
            self._console.print("Everything stays up for use from another terminal, until Ctrl-C.")
            self._wait(ledger)

    def _say_what_to_ask(self, daybook: str, ledger: Running, account_id: str, currency: str) -> None:
        for line in (
            f"balance {account_id}",
            f'deposit {account_id} "100 {currency}" --reason "a gift"',
            f"history {account_id}",
            f"search {account_id} --json",
            f"top {currency}",
            "analytics query top-movers",
            f"activity{ledger.activity_option}",
            "status",
            "verify models",
        ):
            # A command that is to be copied must not be broken into lines.
            self._console.print(f"  {daybook} {line}", soft_wrap=True)

    def _wait(self, ledger: Running) -> None:
        try:
            if ledger.supervisor is None:
                # Somebody else runs the services; what may have been started here is the stack.
                signal.pause()
            else:
                ledger.supervisor.wait()
        except KeyboardInterrupt:
            self._console.print()


def _table(compared: list[_Compared]) -> Table:
    table = Table("account", box=None, header_style="dim")
    for heading in ("posted", "refused", "balance in Redis", "independent sum", ""):
        table.add_column(heading, justify="right")
    for one in compared:
        table.add_row(
            one.account_id,
            f"{one.expected.posted:,}",
            f"{one.expected.refused:,}",
            "none" if one.found is None else str(one.found.money),
            f"{one.expected.balance} {one.expected.currency}",
            "[green]equal[/green]" if one.equal else "[red]differs[/red]",
        )
    return table


def _sums(compared: list[_Compared]) -> Table:
    table = Table("currency", box=None, header_style="dim")
    for heading in ("accounts", "sum in Redis", "independent sum", "accounts that differ"):
        table.add_column(heading, justify="right")
    for currency in sorted({one.expected.currency for one in compared}):
        group = [one for one in compared if one.expected.currency == currency]
        table.add_row(
            currency,
            f"{len(group):,}",
            f"{sum((one.balance or Decimal(0) for one in group), Decimal(0)):,}",
            f"{sum((one.expected.balance for one in group), Decimal(0)):,}",
            str(sum(not one.equal for one in group)),
        )
    return table
