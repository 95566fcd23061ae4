"""What commands that show events do about what is sealed in them: open it, or leave it on demand."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daybook.cli.display import WorkDisplay
from daybook.holders import Holders

if TYPE_CHECKING:
    from daybook.client import Client
    from daybook.progress import Progress


class _Left(Holders):
    """Leaves what is sealed as it stands in the log."""

    def open(self, text: str, account_id: str, field: str) -> str:  # noqa: ARG002
        return text


@contextmanager
def opening(client: Client, account_ids: Collection[str] | None, *, sealed: bool = False) -> Iterator[Holders]:
    """What opens events of these accounts, or of any, telling of its progress; with `sealed`, what leaves them."""
    if sealed:
        yield _Left(client.connections, timeout_s=0)
        return
    with WorkDisplay() as display:

        def tell(told: Progress) -> None:
            display.update(told)
            if told.done == told.total:
                # What was opened is printed next, for as long as it takes.
                display.rest()

        with client.holders(account_ids, tell=tell) as holders:
            yield holders
