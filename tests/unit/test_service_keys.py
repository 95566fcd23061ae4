"""The keys of a partition's subjects, as the command service holds them between and within transactions."""

from __future__ import annotations

import time

import pytest

from command_service.keys import SubjectKeys, Upkeep
from schemas.keyring import KeyRing
from schemas.keys import ECHO_S, LATER_KEY, UnknownKek, WrapBroken, wrapped
from schemas.sealing import ERASED
from tests.unit.known_records import CODEC, KEEPER, no_keys

EVENT_ID = "01977375-f600-7000-8444-555555555555"
NOW = 1_750_000_000_000_000
NEWER = KeyRing({"kek-2": bytes(32), "kek-1": bytes(range(32))}, "the test")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def committed(keys: SubjectKeys, *subjects: str) -> list[bytes]:
    keys.begin()
    values = [keys.create(subject, NOW) for subject in subjects]
    keys.commit()
    return values


def test_a_key_counts_within_its_transaction_and_after_the_commit() -> None:
    keys = no_keys()
    keys.begin()
    keys.create("A-1", NOW)
    text = keys.sealer.seal("Alice", "A-1", EVENT_ID, "holder_name")
    keys.commit()
    assert keys.has("A-1")
    assert keys.sealer.open(text, "A-1", "holder_name") == "Alice"


def test_an_aborted_transaction_leaves_no_key_and_takes_none() -> None:
    keys = no_keys()
    committed(keys, "A-1")
    text = keys.sealer.seal("Alice", "A-1", EVENT_ID, "holder_name")
    keys.begin()
    keys.create("A-2", NOW)
    keys.erase("A-1")
    assert keys.sealer.open(text, "A-1", "holder_name") is ERASED
    keys.begin()
    assert not keys.has("A-2")
    assert keys.sealer.open(text, "A-1", "holder_name") == "Alice"


def test_a_new_key_is_the_same_before_and_after_the_commit_and_none_once_it_is_erased_again() -> None:
    keys = no_keys()
    keys.begin()
    keys.create("A-1", NOW)
    keys.create("A-2", NOW)
    before = keys.data_key("A-1")
    keys.erase("A-2")
    assert keys.data_key("A-2") is None
    keys.commit()
    assert before is not None
    assert keys.data_key("A-1") == before
    assert keys.data_key("A-2") is None


def test_an_erased_key_is_gone_and_a_later_record_is_due() -> None:
    keys = no_keys()
    committed(keys, "A-1")
    text = keys.sealer.seal("Alice", "A-1", EVENT_ID, "holder_name")
    keys.begin()
    keys.erase("A-1")
    keys.commit()
    assert keys.sealer.open(text, "A-1", "holder_name") is ERASED
    upkeep = Upkeep("keys")
    assert upkeep.due({0: keys}).records == []
    keys.later_at = time.monotonic()
    due = upkeep.due({0: keys})
    assert [(r.topic, r.partition, r.key, r.value) for r in due.records] == [("keys", 0, LATER_KEY, None)]
    due.committed()
    assert upkeep.due({0: keys}).records == []


def test_a_command_that_fails_half_way_takes_its_key_back_and_no_other() -> None:
    keys = no_keys()
    keys.begin()
    keys.create("A-1", NOW)
    text = keys.sealer.seal("Alice", "A-1", EVENT_ID, "holder_name")
    for subject in ("A-1", "A-2"):
        undo = keys.undo(subject)
        keys.create(subject, NOW)
        undo()
    assert not keys.has("A-2")
    assert keys.sealer.open(text, "A-1", "holder_name") == "Alice"


def test_a_restore_takes_the_newest_and_follows_what_was_erased_just_now() -> None:
    (value,) = committed(no_keys(), "A-1")
    keys = no_keys()
    keys.take(b"A-1", value, now_ms())
    keys.take(b"A-2", value, now_ms())
    keys.take(b"A-1", None, now_ms())
    assert not keys.has("A-1")
    assert keys.has("A-2")
    assert keys.later_at is not None


def test_a_restore_has_nothing_to_follow_a_tombstone_of_long_ago() -> None:
    keys = no_keys()
    keys.take(b"A-1", None, now_ms() - int(3 * ECHO_S * 1000))
    keys.take(LATER_KEY, None, now_ms())
    assert keys.later_at is None
    assert len(keys) == 0


def test_what_a_tombstone_left_on_the_disk_while_no_service_ran_is_seen_to_at_the_next_start() -> None:
    keys = no_keys()
    erased_ms = now_ms() - 3_600_000
    keys.take(b"A-1", None, erased_ms)
    keys.take(b"A-2", None, erased_ms + 1)
    due = Upkeep("keys").due({0: keys})
    assert [record.key for record in due.records] == [LATER_KEY]


def test_keys_are_wrapped_anew_unless_the_transaction_changes_them() -> None:
    values = committed(no_keys(), "A-1", "A-2")
    keys = SubjectKeys(CODEC, NEWER)
    for subject, value in zip((b"A-1", b"A-2"), values, strict=True):
        keys.take(subject, value, 0)
    keys.check()
    assert keys.outdated == {"A-1", "A-2"}
    keys.begin()
    keys.erase("A-2")
    due = Upkeep("keys").due({0: keys})
    assert [record.key for record in due.records] == [b"A-1"]
    assert CODEC.decode_key(due.records[0].value).kek_id == "kek-2"
    due.committed()
    keys.commit()
    assert keys.outdated == set()
    assert not Upkeep("keys").waiting([keys])


def test_one_transaction_wraps_no_more_anew_for_having_more_partitions() -> None:
    partitions = {partition: SubjectKeys(CODEC, NEWER) for partition in range(3)}
    for partition, keys in partitions.items():
        for subject in (f"A-{partition}-{number}" for number in range(300)):
            keys.take(subject.encode(), CODEC.encode_key(wrapped(KEEPER, subject, bytes(32), NOW)), 0)
    upkeep, counts = Upkeep("keys"), []
    while upkeep.waiting(partitions.values()):
        due = upkeep.due(partitions)
        counts.append(len(due.records))
        due.committed()
    assert sum(counts) == 900
    assert max(counts) <= 500


def test_a_key_encryption_key_that_is_missing_is_named() -> None:
    (value,) = committed(SubjectKeys(CODEC, NEWER), "A-1")
    keys = SubjectKeys(CODEC, KEEPER)
    keys.take(b"A-1", value, 0)
    with pytest.raises(UnknownKek, match="kek-2"):
        keys.check()


def test_a_key_under_another_subjects_id_is_not_used() -> None:
    (value,) = committed(no_keys(), "A-1")
    keys = no_keys()
    keys.take(b"A-2", value, 0)
    with pytest.raises(WrapBroken, match="data key of A-2 cannot be unwrapped"):
        keys.check()


def damaged(value: bytes) -> bytes:
    """A key's record with a bit of the wrapped key turned."""
    return value[:-9] + bytes([value[-9] ^ 1]) + value[-8:]


def test_one_damaged_key_among_others_stops_nothing() -> None:
    values = committed(no_keys(), "A-1", "A-2")
    keys = no_keys()
    keys.take(b"A-1", damaged(values[0]), 0)
    keys.take(b"A-2", values[1], 0)
    keys.check()
    assert keys.data_key("A-2") is not None
    with pytest.raises(WrapBroken):
        keys.data_key("A-1")


def test_a_damaged_key_is_left_as_it_is_when_others_are_wrapped_anew() -> None:
    values = committed(no_keys(), "A-1", "A-2")
    keys = SubjectKeys(CODEC, NEWER)
    keys.take(b"A-1", damaged(values[0]), 0)
    keys.take(b"A-2", values[1], 0)
    assert list(keys.rewrap(10)) == ["A-2"]
    keys.rewrote(keys.rewrap(10))
    assert not keys.outdated
