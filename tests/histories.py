"""Random histories of accounts as the domain allows them, for tests of what is made of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from command_service.domain.account import Account, decide, evolve
from command_service.domain.refusals import Rejection
from schemas.events import RecordedEvent
from schemas.money import INT64_MAX
from tests.recorded import recorded
from tests.unit.given import NOW, open_account
from tests.unit.strategies import MEETING_COMMANDS

_STEPS_US: Final = st.sampled_from([0, 1, 400, 999, 1000, 3_600_000_000])
"""From one event to the next: none, within a millisecond, across one, an hour."""

_BACK_US: Final = st.sampled_from([0, 0, 0, 1, 500, 1000, 3_600_000_000, 86_400_000_000])
"""How much earlier than recorded an event is effective."""


@st.composite
def histories(draw: st.DrawFn, *, account_id: str = "A-1", back_dated: bool = True) -> list[RecordedEvent]:
    """One account's events as the domain decides commands, recorded one after the other, some of them back-dated.

    What they move comes to no more than 64 bits hold, in whatever order it is taken.
    """
    state: Account | None = None
    left = INT64_MAX
    events: list[RecordedEvent] = []
    at = NOW
    opening = open_account(overdraft_limit_minor=draw(st.integers(0, 60)))
    for command in (opening, *draw(st.lists(MEETING_COMMANDS, min_size=6, max_size=20))):
        decision = decide(state, command, NOW)
        if isinstance(decision, Rejection):
            continue
        for event in decision:
            if (moved := getattr(event, "amount_minor", 0)) > left:
                continue
            left -= moved
            state = evolve(state, event)
            at += draw(_STEPS_US)
            back = draw(_BACK_US) if back_dated else 0
            reason = draw(st.sampled_from([None, "salary"]))
            made = recorded(account_id, state.sequence, event)
            events.append(replace(made, recorded_at=at, effective_at=at - back, reason=reason))
    return events


def states(events: Sequence[RecordedEvent]) -> list[Account]:
    """What the domain makes of each first part of a history, from one event to all of them."""
    made: list[Account] = []
    for item in events:
        made.append(evolve(made[-1] if made else None, item.event))
    return made


def drawn(count: int) -> list[list[RecordedEvent]]:
    """So many random histories at once, of accounts `R-0`, `R-1` and so on."""
    found: list[list[RecordedEvent]] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(histories())
    def collect(events: list[RecordedEvent]) -> None:
        found.append([replace(item, account_id=f"R-{len(found)}") for item in events])

    collect()
    return found
