"""Which parked records an erasure takes out, which segments it closes, and until when they are on the disks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.erasure.parked import ParkedSeen, Work, work
from daybook.erasure.places import Hit
from daybook.erasure.timing import Timing
from schemas.keys import LATER_KEY

START = datetime(2026, 11, 26, 3, 45, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TIMING = Timing(
    segment=MINUTE, deletion=MINUTE, lag=MINUTE, cleaning=timedelta(seconds=30), retention=None, compacted=True
)


class Topic:
    """A partition of the topic, and when its records were written, in seconds since `START`."""

    def __init__(self) -> None:
        self.seen = ParkedSeen()
        self._newest: dict[int, datetime] = {}

    def parked(self, second: int, key: bytes | None, *, of_holder: bool = True, follow_up: bool = False) -> Topic:
        at = self._at(second)
        hit = Hit("account.parked", 0, second, at, "OpenAccount in plaintext") if of_holder else None
        self.seen.take(0, key, at, hit, is_follow_up=follow_up)
        return self

    def tombstone(self, second: int, key: bytes, *, own: bool = True) -> Topic:
        self.seen.take_tombstone(0, key, self._at(second), is_own=own)
        return self

    def work(self, second: int) -> Work:
        return work(self.seen, self._newest, TIMING, START + timedelta(seconds=second))

    def going(self) -> list[int]:
        return [hit.offset for hit in self.seen.going]

    def _at(self, second: int) -> datetime:
        self._newest[0] = START + timedelta(seconds=second)
        return self._newest[0]


@pytest.fixture
def topic() -> Topic:
    return Topic()


def after(second: int) -> datetime:
    return START + timedelta(seconds=second)


def test_where_nothing_is_parked_of_the_holder_nothing_is_done(topic: Topic) -> None:
    topic.parked(0, b"t/0/1", of_holder=False)
    assert topic.work(100) == Work((), (), None)


def test_what_is_the_holders_gets_a_tombstone_and_nothing_else_does(topic: Topic) -> None:
    topic.parked(0, b"t/0/1").parked(1, b"t/0/2", of_holder=False).parked(2, b"t/0/3")
    # The segment can be closed a minute later, is cleaned within 15 s and the file gone another 10 s later.
    assert topic.work(10) == Work(((0, b"t/0/1"), (0, b"t/0/3")), (), after(101))


def test_once_a_minute_has_passed_the_segment_with_the_tombstone_is_closed(topic: Topic) -> None:
    topic.parked(0, b"t/0/1").tombstone(10, b"t/0/1")
    assert topic.work(60) == Work((), (), after(101))
    assert topic.work(80) == Work((), (0,), after(110))
    topic.tombstone(80, LATER_KEY)
    assert topic.work(81) == Work((), (), after(110))
    assert topic.going() == [0], "it can still be read"


def test_a_record_that_came_so_much_later_has_closed_it(topic: Topic) -> None:
    topic.parked(0, b"t/0/1").tombstone(10, b"t/0/1").parked(71, b"t/0/9", of_holder=False)
    assert topic.work(80).closing == ()


def test_a_tombstone_says_whose_it_is_when_what_was_erased_is_no_longer_known_to_be_the_holders(topic: Topic) -> None:
    """As when his texts are not given again."""
    topic.parked(0, b"t/0/1", of_holder=False).tombstone(10, b"t/0/1")
    assert topic.work(60) == Work((), (), after(101))
    assert topic.work(80) == Work((), (0,), after(110))


def test_the_tombstone_of_another_erasure_is_closed_and_not_waited_for(topic: Topic) -> None:
    topic.parked(0, b"t/0/1", of_holder=False).tombstone(10, b"t/0/1", own=False)
    assert topic.work(60) == Work((), (), None)
    assert topic.work(80) == Work((), (0,), None)
    topic.parked(90, b"t/0/2").tombstone(95, b"t/0/2").tombstone(100, b"t/0/3", own=False)
    assert topic.work(158) == Work((), (0,), after(188))


def test_a_record_that_is_parked_once_more_is_erased_once(topic: Topic) -> None:
    """As after the group's offsets were set back."""
    topic.parked(0, b"t/0/1").parked(20, b"t/0/1")
    assert topic.work(30).tombstones == ((0, b"t/0/1"),)
    topic.tombstone(30, b"t/0/1").parked(40, b"t/0/1")
    assert topic.work(50).tombstones == ((0, b"t/0/1"),)


def test_of_an_earlier_releases_records_cleaning_leaves_none_without_a_key_and_the_newest_of_each(topic: Topic) -> None:
    topic.parked(0, None)
    assert topic.work(30) == Work((), (), after(91))
    assert topic.work(70).closing == (0,)
    topic.parked(80, b"A-1").parked(90, b"A-1", of_holder=False)
    assert topic.work(95).tombstones == (), "the one behind it is somebody else's, and takes it out"


def test_a_follow_up_is_kept_for_its_money(topic: Topic) -> None:
    topic.parked(0, b"t/0/1", follow_up=True)
    assert topic.work(30) == Work((), (), None)
    assert (topic.going(), len(topic.seen.kept)) == ([], 1)
