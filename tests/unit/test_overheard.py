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


def test_only_the_newest_are_kept_and_what_was_dropped_is_counted() -> None:
    overheard: Overheard[str] = Overheard(most=2)
    overheard.begin()
    replies = [reply() for _ in range(3)]
    for number, came in enumerate(replies):
        overheard.hear(b"%d" % number, came)
    assert overheard.dropped == 1
    found = overheard.want([b"0", b"1", b"2"], SimpleQueue())
    assert [id(came) for came in found] == [id(came) for came in replies[1:]]
