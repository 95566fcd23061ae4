"""The packed withdrawals against a plain dict that forgets nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command_service.domain.withdrawals import Withdrawals
from schemas.money import INT64_MAX


@settings(max_examples=50)
@given(
    gaps=st.lists(st.integers(1, 3), min_size=1, max_size=Withdrawals.REMEMBERED + 50),
    fill=st.booleans(),
    refunds=st.lists(st.tuples(st.integers(0, 3 * Withdrawals.REMEMBERED), st.floats(0, 1)), max_size=30),
    seed=st.integers(1, INT64_MAX // 2),
)
def test_it_answers_as_a_dict_of_the_newest_would(
    gaps: list[int], fill: bool, refunds: list[tuple[int, float]], seed: int
) -> None:
    # Long lists are rarely drawn, so half of the runs are filled up to where the oldest are forgotten.
    if fill:
        gaps = gaps + [1] * (Withdrawals.REMEMBERED + 5)
    packed, model, sequence, newest_forgotten = Withdrawals(), dict[int, int](), 0, 0
    for gap in gaps:
        sequence += gap
        amount = (seed * sequence) % INT64_MAX + 1
        packed, model[sequence] = packed.withdrawn(sequence, amount), amount
        if len(model) > Withdrawals.REMEMBERED:
            newest_forgotten = min(model)
            del model[newest_forgotten]
    for named, part in refunds:
        amount = int(model.get(named, 0) * part) if part < 1 else model.get(named, 0)
        # A part of a number near 2**63, taken as a float, may come out a little above it.
        amount = min(amount, model.get(named, 0))
        packed = packed.refunded(named, amount)
        if named in model:
            model[named] -= amount
    assert [packed.refundable(s) for s in range(-1, sequence + 2)] == [model.get(s) for s in range(-1, sequence + 2)]
    assert packed.forgotten == newest_forgotten
    assert len(packed.packed) == 16 * len(model) <= 16 * Withdrawals.REMEMBERED


def test_nothing_was_withdrawn_yet() -> None:
    assert [Withdrawals().refundable(s) for s in (-1, 0, 1, INT64_MAX)] == [None] * 4
    assert Withdrawals().forgotten == 0


def test_values_are_not_changed_in_place() -> None:
    first = Withdrawals().withdrawn(2, 10)
    second = first.refunded(2, 4)
    assert (first.refundable(2), second.refundable(2)) == (10, 6)


def test_exactly_the_oldest_is_forgotten() -> None:
    packed = Withdrawals()
    for sequence in range(2, 2 + Withdrawals.REMEMBERED):
        packed = packed.withdrawn(sequence, 7)
    assert (packed.refundable(2), packed.forgotten) == (7, 0)
    packed = packed.withdrawn(5000, 7)
    assert (packed.refundable(2), packed.refundable(3), packed.forgotten) == (None, 7, 2)


@pytest.mark.parametrize("sequence", [1, 3, 99])
def test_refunding_what_is_not_remembered_changes_nothing(sequence: int) -> None:
    packed = Withdrawals().withdrawn(2, 10).withdrawn(4, 10)
    assert packed.refunded(sequence, 5) == packed
