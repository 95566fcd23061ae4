"""An import during which the command service is killed again and again."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from daybook import Client
from daybook.demo import month
from daybook.demo.expected import expected_balances
from daybook.importing import Import, Tally
from schemas.commands import CommandReply
from schemas.connections import Connections
from schemas.events import CHAIN_START
from schemas.money import format_amount
from tests.conftest import PARTITIONS
from tests.processes import Process, environment, until
from tests.wire import Wire, read_all

pytestmark = pytest.mark.faults

KILLS = 10
ACCOUNTS = 600


@pytest.fixture
def wire(deployed: Connections) -> Iterator[Wire]:
    with Wire(deployed, PARTITIONS) as wire:
        yield wire


def test_ten_kills_during_an_import_change_nothing_but_its_duration(
    wire: Wire, start: Callable[..., Process], tmp_path: Path
) -> None:
    file, mapping = tmp_path / "month.csv", month.mapping(11)
    month.write(file, accounts=ACCOUNTS, seed=11)
    service = start("command_service", env=environment(wire.connections))
    start("projectors", "balances", env=environment(wire.connections))
    answered: list[CommandReply] = []
    ended: list[Tally | Exception] = []

    def run() -> None:
        try:
            with Client(wire.connections, user_id="test", timeout_s=120) as client:
                ended.append(Import(file, mapping).run(client, on_reply=answered.append))
        except Exception as error:
            ended.append(error)

    importing = threading.Thread(target=run)
    importing.start()
    rows = len(file.read_text().splitlines()) - 1
    dice = random.Random(11)
    # At random places of the import, the openings and the very end included.
    for kill, place in enumerate(sorted(dice.uniform(0.01, 0.95) for _ in range(KILLS)), start=1):
        until(lambda at=place: len(answered) >= at * rows, f"the place of kill {kill}", 60)
        assert importing.is_alive(), f"the import was over before kill {kill}"
        service.kill()
        service.start()
    importing.join(120)

    (tally,) = ended
    assert isinstance(tally, Tally), tally
    expected = expected_balances(file, mapping)
    assert tally.accepted == sum(entry.posted for entry in expected.values())
    assert tally.refused.total() == sum(entry.refused for entry in expected.values())
    assert tally.opened == ACCOUNTS
    check_the_log(wire, tally)
    with Client(wire.connections, user_id="test") as client:
        reached = {account_id: stream[-1].sequence for account_id, stream in wire.events().items()}
        for account_id, entry in expected.items():
            money = client.balance(account_id, at_least=reached[account_id], timeout_s=30).money
            assert Decimal(format_amount(money.amount_minor, money.currency)) == entry.balance


def check_the_log(wire: Wire, tally: Tally) -> None:
    """One outcome for every command that was ever sent, gapless sequences, unbroken chains."""
    sent = Counter(
        wire.codec.decode_command(message.value()).command_id
        for message in read_all(wire.connections, wire.topics.commands)
    )
    replies = wire.replies()
    assert {reply.command_id for reply in replies} == sent.keys()
    outcomes = {(r.command_id, r.status, r.sequence, r.code, r.decided_at) for r in replies}
    assert len(outcomes) == len(sent), "a command has two different outcomes"
    streams = wire.events()
    assert sum(map(len, streams.values())) == tally.accepted + tally.opened
    recorded = {e.command_id: e.sequence for stream in streams.values() for e in stream}
    assert recorded == {r.command_id: r.sequence for r in replies if r.accepted}
    for stream in streams.values():
        assert [e.sequence for e in stream] == list(range(1, len(stream) + 1))
    chains: dict[str, bytes] = {}
    for message in read_all(wire.connections, wire.topics.events):
        account_id = message.key().decode().rpartition("/")[0]
        previous = chains.get(account_id, CHAIN_START)
        chains[account_id] = wire.codec.decode_event(message.value(), previous=previous).chain_hash
