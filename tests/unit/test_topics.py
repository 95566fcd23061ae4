"""Names, keys, partitions and event ids."""

from datetime import UTC, datetime
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import event_id
from schemas.keys import LATER_KEY
from schemas.topics import Topics, event_key, parked_key, parse_event_key, parse_parked_key, partition_of, subject
from tests.unit.strategies import ANY_UUIDS

# What Java's client computes for these keys; its own tests hold it to the same numbers.
JAVA_MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


def murmur2(data: bytes) -> int:
    """MurmurHash2 with Java's seed, written out from its definition: 32 bits, little endian, taken as positive."""
    mask, m, h = 0xFFFFFFFF, 0x5BD1E995, 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


@pytest.mark.parametrize("partitions", [1, 2, 6, 12, 1000, 2**31 - 1])
@pytest.mark.parametrize("key", JAVA_MURMUR2)
def test_the_partitioner_is_javas(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == (JAVA_MURMUR2[key] & 0x7FFFFFFF) % partitions


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 2**31 - 1))
def test_the_partitioner_hashes_utf8(account_id: str, partitions: int) -> None:
    assert partition_of(account_id, partitions) == murmur2(account_id.encode()) % partitions


def test_names_without_a_namespace() -> None:
    topics = Topics()
    assert (topics.commands, topics.followups, topics.events) == (
        "account.commands",
        "account.followups",
        "account.events",
    )
    assert (topics.snapshots, topics.replies, topics.parked) == (
        "account.snapshots",
        "account.replies",
        "account.parked",
    )
    assert topics.subject_keys == "subject.keys"
    assert topics.command_service_group == "daybook.command-service"
    assert topics.projector_group("balances") == "daybook.projector.balances"
    assert topics.transactional_id("0") == "daybook.command-service.0"


def test_a_namespace_stands_before_every_name() -> None:
    topics = Topics("eu")
    names = [
        *(topics.commands, topics.followups, topics.events, topics.snapshots, topics.replies, topics.parked),
        *(topics.subject_keys, topics.command_service_group, topics.projector_group("x"), topics.transactional_id("0")),
    ]
    assert all(name.startswith("eu.") for name in names)
    assert len(set(names)) == len(names)


def test_a_subject_is_named_by_topic_and_record() -> None:
    assert subject("account.events", "daybook.account.event.MoneyDeposited") == (
        "account.events-daybook.account.event.MoneyDeposited"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 2**63 - 1))
def test_an_event_key_is_read_back(account_id: str, sequence: int) -> None:
    assert parse_event_key(event_key(account_id, sequence)) == (account_id, sequence)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"a",
        b"a/",
        b"/1",
        b"a/0",
        b"a/01",
        b"a/-1",
        b"a/+1",
        b"a/1_0",
        b"a/ 1",
        b"a/1\n",
        b"a/x",
        b"\xff/1",
        b"a/\xd9\xa1",
    ],
)
def test_what_is_not_an_event_key(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not an event key|invalid start byte"):
        parse_event_key(key)


@given(
    st.sampled_from(["account.commands", "eu-1.x_y.account.followups"]), st.integers(0, 2**31), st.integers(0, 2**63)
)
def test_the_key_of_a_parked_record_is_read_back(topic: str, partition: int, offset: int) -> None:
    assert parse_parked_key(parked_key(topic, partition, offset)) == (topic, partition, offset)


def test_the_key_of_a_parked_record_written_out() -> None:
    assert parked_key(Topics("eu").followups, 3, 1487) == b"eu.account.followups/3/1487"


@pytest.mark.parametrize(
    "key",
    [
        *(
            b"",
            b"A-1",
            b"t/1",
            b"t/1/",
            b"t//1",
            b"/1/1",
            b"t/01/1",
            b"t/1/-1",
            b"t/1/1/1",
            b"t/1/1\n",
            b"t/1/\xd9\xa1",
        ),
        *(b"\xff/1/1", b"t u/1/1", LATER_KEY),
    ],
)
def test_what_is_not_the_key_of_a_parked_record(key: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not the key of a parked record|invalid start byte"):
        parse_parked_key(key)


@given(ANY_UUIDS, st.integers(0, 0xFFF), st.integers(0, 253_402_300_799_999_999))
def test_an_event_id_is_a_uuid7_of_its_time_and_command(command_id: str, index: int, recorded_at: int) -> None:
    found = UUID(event_id(command_id, index, recorded_at))
    assert str(found) == event_id(command_id, index, recorded_at) == event_id(command_id.upper(), index, recorded_at)
    assert found.version == 7
    assert found.variant == RFC_4122
    assert found.int >> 80 == recorded_at // 1000
    assert found.int >> 64 & 0xFFF == index
    assert found.int & (1 << 62) - 1 == UUID(command_id).int & (1 << 62) - 1


def test_an_event_id_written_out() -> None:
    recorded_at = int(datetime(2025, 6, 15, 12, tzinfo=UTC).timestamp()) * 1_000_000
    assert hex(recorded_at // 1000) == "0x1977375f600"
    assert event_id("11111111-2222-4333-8444-555555555555", 1, recorded_at) == "01977375-f600-7001-8444-555555555555"


@given(st.lists(st.tuples(st.integers(0, 2**47), st.integers(0, 4)), unique=True))
def test_event_ids_of_one_command_sort_by_time_and_index(drawn: list[tuple[int, int]]) -> None:
    ids = [event_id("11111111-2222-4333-8444-555555555555", index, ms * 1000) for ms, index in sorted(drawn)]
    assert ids == sorted(set(ids))
