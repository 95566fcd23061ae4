"""Transfers while the command services that decide them are killed: no money is lost, and none is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak import soak
from schemas.connections import Connections

pytestmark = pytest.mark.faults


def test_killed_services_lose_no_money_and_make_none(deployed: Connections, tmp_path: Path) -> None:
    """Ten minutes of it are `python -m benchmarks soak`."""
    found = soak(deployed, tmp_path, seconds=20, rate=50, kill_every_s=4, accounts=40)

    assert found.wrong == []
    assert found.kills > 0
    assert found.accepted == found.completed + sum(found.returned.values())
    assert found.returned.keys() == {"account_not_found", "account_frozen"}
    assert found.refused.keys() == {"insufficient_funds"}
    assert (found.balances_minor, found.in_transit_minor) == (found.funds_minor, 0)
