"""Each way of changing a partition is named: the first event that differs, and what was expected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.audit.findings import LISTED, Finding, Kind
from daybook.audit.partition import Check, Findings
from schemas import quick
from schemas.codec import HEADER_BYTES, Undecodable
from schemas.events import CHAIN_START, Event
from schemas.topics import partition_of
from tests.unit.audited import Record, Writer, findings_of, history, mark_of
from tests.unit.known_records import CODEC, COMMAND_BYTES, EVENT_BYTES
from tests.unit.strategies import ANY_EVENT, COMMON_FIELDS

HISTORY = history()
B3 = 7
"""Where event b/3 stands."""


def named(found: list[Finding]) -> list[tuple[object, ...]]:
    return [(f.kind, f.account_id, f.sequence, f.offset) for f in found]


def changed(record: Record) -> Record:
    """With the last byte of what the event says, its balance, changed, and the hash as it was."""
    return Record(record.key, record.value[:-1] + bytes([record.value[-1] ^ 2]))


def test_a_log_as_it_was_written_is_sound() -> None:
    assert findings_of(HISTORY, mark_of(HISTORY[:5]), mark_of(HISTORY)) == []


def test_a_changed_amount_is_named() -> None:
    found = findings_of([*HISTORY[:B3], changed(HISTORY[B3]), *HISTORY[B3 + 1 :]])
    assert named(found) == [(Kind.CHAIN, "b", 3, B3)]
    assert found[0].expected != found[0].found
    assert "b/3 at partition 0, offset 7" in found[0].message


def test_a_changed_hash_is_named_once_though_the_next_event_does_not_follow_either() -> None:
    record = HISTORY[B3]
    cut = CODEC.chain_cut(record.value)[2]
    forged = Record(record.key, record.value[: cut - 1] + bytes([record.value[cut - 1] ^ 1]) + record.value[cut:])
    assert named(findings_of([*HISTORY[:B3], forged, *HISTORY[B3 + 1 :]])) == [(Kind.CHAIN, "b", 3, B3)]


def test_a_removed_event_is_named() -> None:
    found = findings_of([*HISTORY[:B3], *HISTORY[B3 + 1 :]])
    assert named(found) == [(Kind.MISSING, "b", 3, 9)]
    assert (found[0].expected, found[0].found) == ("b/3", "b/4")


def test_a_swapped_pair_is_named() -> None:
    swapped = [*HISTORY]
    swapped[4], swapped[7] = swapped[7], swapped[4]
    found = findings_of(swapped)
    assert named(found) == [(Kind.ORDER, "b", 2, 4)]
    assert "stands at partition 0, offset 7, behind a later one" in found[0].message


def test_an_event_that_came_twice_is_named() -> None:
    found = findings_of([*HISTORY[:8], HISTORY[B3], *HISTORY[8:]])
    assert named(found) == [(Kind.ORDER, "b", 4, 8)]
    assert found[0].found == "b/3"


def test_a_cut_tail_is_found_by_a_checkpoint_alone() -> None:
    cut = HISTORY[:-2]
    assert findings_of(cut) == []
    found = findings_of(cut, mark_of(HISTORY[:4]), mark_of(HISTORY, "checkpoint 2"))
    assert [(f.kind, f.expected, f.found) for f in found] == [(Kind.CUT, "12", "10")]
    assert "2 are gone" in found[0].message


def test_a_rewritten_account_is_found_by_a_checkpoint_alone_and_narrowed_down() -> None:
    rewritten = history(amount_minor=1_000_000)
    assert findings_of(rewritten) == []
    found = findings_of(rewritten, mark_of(HISTORY[:6]), mark_of(HISTORY, "checkpoint 2"))
    assert [f.kind for f in found] == [Kind.CHECKPOINT]
    assert "checkpoint 2" in found[0].message
    assert "among its events 7 to 12, between a/3 at offset 6 and c/4 at offset 11" in found[0].message


def test_a_frontier_narrows_down_what_was_rewritten() -> None:
    found = findings_of(history(amount_minor=7), mark_of(HISTORY, frontier=True))
    # The subtrees of twelve events are the first eight and the last four; what differs is the eighth.
    assert "among its events 1 to 8," in found[0].message


def test_a_checkpoint_of_an_empty_partition_hides_no_later_one() -> None:
    empty = mark_of([], "first")
    assert findings_of([], empty) == []
    assert findings_of(HISTORY, empty, mark_of(HISTORY)) == []
    found = findings_of(history(amount_minor=7), empty, mark_of(HISTORY, "second"))
    assert [f.kind for f in found] == [Kind.CHECKPOINT]
    assert "second" in found[0].message


def test_of_checkpoints_of_the_same_events_the_one_with_a_frontier_is_told() -> None:
    found = findings_of(history(amount_minor=7), mark_of(HISTORY), mark_of(HISTORY, "kept", frontier=True))
    assert "kept" in found[0].message
    assert "among its events 1 to 8," in found[0].message


def test_a_log_that_was_both_rewritten_and_cut_is_told_to_be_both() -> None:
    found = findings_of(history(amount_minor=7)[:10], mark_of(HISTORY[:9], "first"), mark_of(HISTORY, "second"))
    assert [f.kind for f in found] == [Kind.CHECKPOINT, Kind.CUT]


def test_only_the_first_checkpoint_that_differs_is_told() -> None:
    found = findings_of(history(amount_minor=7), mark_of(HISTORY[:9], "first"), mark_of(HISTORY, "second"))
    assert [f.kind for f in found] == [Kind.CHECKPOINT]
    assert "first" in found[0].message


def test_a_key_that_is_not_the_events_is_named() -> None:
    found = findings_of([Record(b"a/2", HISTORY[0].value), *HISTORY[1:]])
    assert named(found) == [(Kind.KEY, "a", 1, 0)]
    assert (found[0].expected, found[0].found) == ("a/1", "a/2")


def test_an_account_in_a_partition_that_is_not_its_own_is_named() -> None:
    home = partition_of("a", 4)
    found = Findings()
    check = Check(CODEC, found, (home + 1) % 4, 4, (), None)
    check.event(HISTORY[0].key, HISTORY[0].value, 0)
    assert [(f.kind, f.expected) for f in found.listed] == [(Kind.KEY, str(home))]


@pytest.mark.parametrize("value", [b"", b"\x00", COMMAND_BYTES, b"\x00\x7f\xff\xff\xff" + EVENT_BYTES[5:]])
def test_a_record_that_is_no_event_is_named(value: bytes) -> None:
    found = findings_of([*HISTORY, Record(b"x", value)])
    assert named(found) == [(Kind.UNREADABLE, None, None, 12)]


def test_every_account_has_its_first_finding_and_what_is_not_listed_is_counted() -> None:
    writer = Writer()
    found = Findings()
    check = Check(CODEC, found, 0, 1, (), None)
    for number in range(LISTED + 5):
        first, second = writer.event(f"x{number}"), writer.event(f"x{number}")
        check.event(first.key, first.value, 2 * number)
        check.event(second.key, changed(second).value, 2 * number + 1)
    assert len(found.listed) == LISTED
    assert found.more == 5


def test_one_account_alone_is_verified_and_all_are_hashed() -> None:
    broken = [*HISTORY[:B3], changed(HISTORY[B3]), *HISTORY[B3 + 1 :]]
    assert findings_of(broken, account_id="a") == []
    assert [f.kind for f in findings_of(broken, mark_of(HISTORY), account_id="a")] == [Kind.CHECKPOINT]


@given(ANY_EVENT, COMMON_FIELDS)
def test_the_cut_is_where_reading_the_event_ends_its_common_fields(event: Event, common: dict[str, object]) -> None:
    value, chain_hash = CODEC.encode_event(event, common, CHAIN_START)
    account_id, sequence, cut, _ = CODEC.chain_cut(value)
    assert (account_id.decode(), sequence) == (common["account_id"], common["sequence"])
    assert value[cut - 32 : cut] == chain_hash


@given(st.binary(max_size=200))
def test_bytes_that_are_no_event_end_in_a_known_way(body: bytes) -> None:
    value = EVENT_BYTES[:HEADER_BYTES] + body
    try:
        _, _, cut, _ = CODEC.chain_cut(value)
    except Undecodable:
        return
    assert cut <= len(value)


@given(st.integers(0, len(EVENT_BYTES) - 1))
def test_an_event_that_was_cut_short_is_unreadable_or_keeps_its_hash(length: int) -> None:
    try:
        _, _, cut, _ = CODEC.chain_cut(EVENT_BYTES[:length])
    except Undecodable:
        return
    assert cut <= length


def test_a_usual_event_has_the_quick_way() -> None:
    body = EVENT_BYTES[HEADER_BYTES:]
    account_id, sequence, cut = quick.chain_cut(body)
    assert (account_id, sequence, cut) == (b"acc-1", 2, quick.common(body)[1])
