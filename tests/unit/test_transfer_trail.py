"""Which transfers of an account are in flight, of its events from the newest back."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from daybook.transfer_trail import Step, unsettled


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """What an account sent and what was settled of it; an id comes again only once its transfer is settled."""
    open_: dict[str, int] = {}
    steps: list[Step] = []
    for number, (transfer_id, amount) in enumerate(
        draw(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=30))
    ):
        sent = transfer_id not in open_
        moved = amount if sent else open_.pop(transfer_id)
        if sent:
            open_[transfer_id] = amount
        steps.append(Step({"number": number}, transfer_id, sent, moved, sum(open_.values())))
    return steps


@given(histories())
def test_what_is_unsettled_is_found_from_the_newest_back(steps: list[Step]) -> None:
    open_: dict[str, Step] = {}
    for step in steps:
        if step.sent:
            open_[step.transfer_id] = step
        else:
            del open_[step.transfer_id]
    expected = sorted(open_.values(), key=lambda step: -step.hit["number"])
    taken = 0

    def newest_first() -> Iterator[Step]:
        nonlocal taken
        for step in reversed(steps):
            taken += 1
            yield step

    assert unsettled(newest_first()) == expected
    # None before the oldest of them is looked at, and one alone where there are none.
    assert taken == (len(steps) - expected[-1].hit["number"] if expected else min(1, len(steps)))
