"""Subjects' keys on their topic: read as the client reads them, and gone from the disk once they are erased."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka.admin import AdminClient

from daybook.errors import UnreadableRecord
from daybook.keys import SubjectKeys, configured_unsealer, unsealer
from deploy.definitions import apply
from deploy.stack.stack import Stack
from schemas.connections import Connections
from schemas.keyring import KeyRing
from schemas.keys import LATER_KEY, SubjectKey, UnknownKek, unwrapped
from schemas.sealing import ERASED, Sealer
from schemas.topics import partition_of
from tests.conftest import PARTITIONS
from tests.processes import environment, until
from tests.secured import daybook
from tests.subject_keys import CREATED_AT, KeyTopic
from tests.wire import configure

EVENT: Final = "01977375-f600-7000-8444-555555555555"
TIMEOUT_S: Final = 30.0

SHORT: Final = {"segment.ms": "1000", "max.compaction.lag.ms": "1000", "file.delete.delay.ms": "100"}


@pytest.fixture(scope="module")
def ledger_of_keys(new_connections: Callable[[], Connections]) -> Connections:
    """One ledger for all tests but the command line's; each has subjects of its own."""
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    return connections


@pytest.fixture
def ring(ledger_of_keys: Connections) -> KeyRing:
    return KeyRing.of(ledger_of_keys)


@pytest.fixture
def topic(ledger_of_keys: Connections, ring: KeyRing) -> Iterator[KeyTopic]:
    with KeyTopic(ledger_of_keys, PARTITIONS, ring) as topic:
        yield topic


@pytest.fixture
def keys(ledger_of_keys: Connections) -> Iterator[SubjectKeys]:
    with SubjectKeys(ledger_of_keys, timeout_s=TIMEOUT_S) as keys:
        yield keys


def test_a_key_is_found_and_opens_what_was_sealed_until_it_is_erased(
    ledger_of_keys: Connections, ring: KeyRing, topic: KeyTopic, keys: SubjectKeys
) -> None:
    key, data_key = topic.give("A-1")
    sealed = Sealer({"A-1": data_key}.get).seal("Ada Lovelace", "A-1", EVENT, "holder_name")

    assert keys.key("A-1") == key
    assert unwrapped(ring, key) == data_key
    unsealer = configured_unsealer(ledger_of_keys, keys)
    assert unsealer.open(sealed, "A-1", "holder_name") == "Ada Lovelace"

    topic.erase("A-1")
    keys.refresh("A-1")
    unsealer.forget("A-1")
    assert keys.key("A-1") is None
    assert unsealer.open(sealed, "A-1", "holder_name") is ERASED


def test_a_subject_that_comes_later_is_found(topic: KeyTopic, keys: SubjectKeys) -> None:
    topic.give("B-1")
    assert keys.key("B-1") is not None
    later, _ = topic.give("B-2")
    assert keys.key("B-2") == later


def test_one_who_has_no_key_is_looked_for_again_after_a_moment(topic: KeyTopic, keys: SubjectKeys) -> None:
    assert keys.key("C-1") is None
    key, _ = topic.give("C-1")
    assert until(lambda: keys.key("C-1"), "the key that was given meanwhile", 20) == key


def test_a_key_is_there_as_soon_as_its_transaction_was_committed(topic: KeyTopic, keys: SubjectKeys) -> None:
    """Partitions learn of a commit one by one: an event can be read before the key that was committed with it."""
    for n in range(20):
        key, _ = topic.give(f"D-{n}")
        assert keys.key(f"D-{n}") == key


def test_all_are_given_and_of_those_asked_for_no_others_are_kept(
    ledger_of_keys: Connections, topic: KeyTopic, keys: SubjectKeys
) -> None:
    given = {f"E-{n}": topic.give(f"E-{n}")[0] for n in range(12)}
    topic.erase("E-3")
    del given["E-3"]
    heard: list[tuple[int, int]] = []
    found = {key.subject_id: key for key in keys.all(lambda done, total: heard.append((done, total)))}
    assert {subject: key for subject, key in found.items() if subject.startswith("E-")} == given
    assert len(heard) >= 13
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert all(done <= total for done, total in heard)
    with SubjectKeys(ledger_of_keys, timeout_s=TIMEOUT_S, subject_ids=["E-1"]) as few:
        assert list(few.all()) == [given["E-1"]]


def test_what_is_no_key_is_told_with_its_place(topic: KeyTopic, keys: SubjectKeys) -> None:
    topic.put(b"F-1", b"what is this", partition_of("F-1", PARTITIONS))
    with pytest.raises(UnreadableRecord, match=r"subject\.keys, key b'F-1': the value is not in the wire format"):
        keys.key("F-1")
    topic.erase("F-1")


def test_a_key_under_another_subjects_id_is_refused(topic: KeyTopic, keys: SubjectKeys) -> None:
    stolen = SubjectKey(subject_id="G-2", kek_id="k", wrapped=bytes(60), created_at=CREATED_AT)
    topic.put(b"G-1", topic.codec.encode_key(stolen), partition_of("G-1", PARTITIONS))
    with pytest.raises(UnreadableRecord, match="it is the key of G-2, under another subject's id"):
        keys.key("G-1")
    topic.erase("G-1")


def test_a_key_that_was_wrapped_by_a_key_of_others_is_no_erasure(
    ledger_of_keys: Connections, topic: KeyTopic, keys: SubjectKeys
) -> None:
    key, data_key = topic.give("H-1")
    sealed = Sealer({"H-1": data_key}.get).seal("Ada", "H-1", EVENT, "holder_name")
    with pytest.raises(UnknownKek, match=f"data key of H-1 is wrapped with key-encryption key {key.kek_id}, which is"):
        unsealer(keys, KeyRing({"other": bytes(32)}, "elsewhere")).open(sealed, "H-1", "holder_name")
    with pytest.raises(UnreadableRecord, match="is not the key that wrapped it"):
        unsealer(keys, KeyRing({key.kek_id: bytes(32)}, "elsewhere")).open(sealed, "H-1", "holder_name")


def test_the_command_line_replaces_a_key_and_says_which_are_in_use(deployed: Connections) -> None:
    env = environment(deployed)
    (old,) = KeyRing.of(deployed).ids
    with KeyTopic(deployed, PARTITIONS, KeyRing.of(deployed)) as topic:
        for n in range(3):
            topic.give(f"A-{n}")
    new = daybook("keys", "new", "--json", env=env)
    assert json.loads(new) == {"kek_id": KeyRing.of(deployed).current_id, "file": deployed.kek_file}
    shown = [json.loads(line) for line in daybook("keys", "show", "--used", "--json", env=env).splitlines()]
    assert shown == [
        {"kek_id": json.loads(new)["kek_id"], "here": True, "wraps": True, "holders": 0},
        {"kek_id": old, "here": True, "wraps": False, "holders": 3},
    ]
    # Somebody takes the old key out too early.
    file = Path(deployed.kek_file or "")
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(old)))
    said = daybook("keys", "show", "--used", env=env, exit_code=1)
    assert f"{old}: in use, and not there. Put the line back" in said
    assert "3 holders with a key" in said


def test_nothing_of_an_erased_key_stays_on_the_disk(
    stack: Stack, ledger_of_keys: Connections, topic: KeyTopic, keys: SubjectKeys
) -> None:
    """The cleaner takes out what has a tombstone; of segments, only those that a later record has closed."""
    name = ledger_of_keys.topics.subject_keys
    with AdminClient(ledger_of_keys.kafka()) as admin:
        configure(admin, name, SHORT)
    erased, _ = topic.give("J-1")
    kept, _ = topic.give("J-2")
    folder = stack.folder.data("kafka-1")
    home = folder / f"{name}-{partition_of('J-1', PARTITIONS)}"
    until(lambda: _holding(home, erased.wrapped), "the key in Kafka's files", 20)

    topic.erase("J-1")

    def gone() -> bool:
        # Kafka closes a segment when a later record comes, and at no other time.
        for partition in range(PARTITIONS):
            topic.put(LATER_KEY, None, partition)
        return not _holding(home, erased.wrapped)

    until(gone, "end of the erased key in Kafka's files", 60)
    assert _holding(folder / f"{name}-{partition_of('J-2', PARTITIONS)}", kept.wrapped)
    assert keys.key("J-1") is None
    assert keys.key("J-2") == kept


def _holding(folder: Path, secret: bytes) -> list[str]:
    """The files of a partition that have these bytes in them, those that are about to be deleted included."""
    found: list[str] = []
    for file in folder.iterdir():
        try:
            if secret in file.read_bytes():
                found.append(file.name)
        except FileNotFoundError:
            continue
    return found
