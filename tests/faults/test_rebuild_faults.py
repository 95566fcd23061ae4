"""A rebuild that is killed again and again, beside a live model that goes on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from schemas.connections import Connections
from schemas.readmodels import BALANCES_HOLD_KEY
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.readers import Balances, polling
from tests.recorded import histories

pytestmark = pytest.mark.faults

KILLS = 5
ACCOUNTS = 3000


def test_five_kills_of_a_rebuild_leave_nothing_that_the_next_one_does_not_finish(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    log, dice = Log(deployed), random.Random(5)
    events = histories(ACCOUNTS, 40)
    log.append(events)
    start("projectors", "balances", env=environment(deployed))
    ended = threading.Event()

    def load() -> None:
        sequence = 41
        while not ended.wait(0.5):
            more = histories(ACCOUNTS, 1, first=sequence)
            log.append(more)
            events.extend(more)
            sequence += 1

    with closing(Balances(deployed.redis())) as balances:
        balances.become(events, 60)
        loading = threading.Thread(target=load)
        loading.start()
        try:
            with polling(deployed.redis(), [f"A-{n}" for n in range(0, ACCOUNTS, 300)]) as seen:
                rebuild = start("projectors.rebuild", "build", "balances", "--keep-old", env=environment(deployed))
                for _ in range(KILLS):
                    # From before it has begun to after it has switched: that takes some seconds here.
                    time.sleep(dice.uniform(0.5, 6))
                    if rebuild.running():
                        rebuild.kill()
                    rebuild.start()
                assert rebuild.wait(120) == 0
        finally:
            ended.set()
            loading.join()
        assert seen.errors == []
        balances.become(events, 60)
        until(lambda: not balances.redis.exists(BALANCES_HOLD_KEY), "the hold is gone", timeout_s=60)
        assert "are equal" in rebuild.output
        assert " differ" not in rebuild.output
        assert "Traceback" not in rebuild.output
