"""Replies to follow-ups: kept for who comes to want them, told to all who do."""

from __future__ import annotations

from queue import SimpleQueue

from confluent_kafka import Message

from daybook.overheard import Overheard

Told = SimpleQueue[str]


def reply() -> Message:
    return Message()


def test_what_came_before_it_was_wanted_was_kept() -> None:
    overheard: Overheard[str] = Overheard()
    assert not overheard.concerns(b"a")
    overheard.begin()
    assert overheard.concerns(b"a")
    first, other, second = reply(), reply(), reply()
    for key, came in ((b"a", first), (b"other", other), (b"a", second)):
        assert overheard.hear(key, came) == ()
    told: Told = SimpleQueue()
    found = overheard.want([b"a", b"b"], told)
    assert [id(came) for came in found] == [id(first), id(second)]
    overheard.end()
    assert [overheard.concerns(key) for key in (b"a", b"b", b"other")] == [True, True, False]
    assert overheard.hear(b"b", reply()) == (told,)
    overheard.leave([b"a", b"b"], told)
    assert not overheard.concerns(b"b")
    # Nothing is kept once nobody keeps it.
    assert overheard.want([b"a"], told) == []


def test_all_are_told_of_every_reply() -> None:
    overheard: Overheard[str] = Overheard()
    one: Told = SimpleQueue()
    other: Told = SimpleQueue()
    overheard.want([b"a"], one)
    overheard.want([b"a"], other)
    assert [overheard.hear(b"a", reply()) for _ in range(2)] == [(one, other)] * 2
    overheard.leave([b"a"], one)
    assert overheard.hear(b"a", reply()) == (other,)


def test_as_long_as_one_keeps_replies_they_are_kept() -> None:
    overheard: Overheard[str] = Overheard()
    overheard.begin()
    overheard.begin()
    overheard.end()
    kept = reply()
    overheard.hear(b"a", kept)
    assert overheard.want([b"a"], SimpleQueue()) == [kept]


def test_only_the_newest_are_kept_and_that_some_were_dropped_is_known() -> None:
    overheard: Overheard[str] = Overheard(most=2)
    begun = overheard.begin()
    replies = [reply() for _ in range(3)]
    for number, came in enumerate(replies):
        overheard.hear(b"%d" % number, came)
        assert overheard.has_all_since(begun) is (number < 2)
    found = overheard.want([b"0", b"1", b"2"], SimpleQueue())
    assert [id(came) for came in found] == [id(came) for came in replies[1:]]


def test_what_another_had_kept_before_is_not_missed_by_who_begins_later() -> None:
    overheard: Overheard[str] = Overheard(most=2)
    first = overheard.begin()
    for _ in range(2):
        overheard.hear(b"before", reply())
    second = overheard.begin()
    own = [reply(), reply()]
    for came in own:
        # There is no room for these but that of older ones.
        overheard.hear(b"a", came)
    assert (overheard.has_all_since(first), overheard.has_all_since(second)) == (False, True)
    assert [id(came) for came in overheard.want([b"a"], SimpleQueue())] == [id(came) for came in own]
    overheard.hear(b"b", reply())
    assert not overheard.has_all_since(second)


def test_nothing_is_missed_for_what_nobody_kept() -> None:
    overheard: Overheard[str] = Overheard(most=2)
    for _ in range(3):
        overheard.hear(b"a", reply())
    assert overheard.has_all_since(overheard.begin())
