"""What an erasure looks for, where in files it finds it, and the receipt."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from daybook.audit.formats import InvalidFile, NoFile
from daybook.audit.keys import SigningKey, generate
from daybook.erasure import folder
from daybook.erasure.places import NoStack, Place, State
from daybook.erasure.receipt import check, receipt
from daybook.erasure.run import Report
from daybook.erasure.texts import Texts
from daybook.progress import Progress, untold

NAME = 'Jürgen "Jo" Ohnesorg'
ERASED_AT = datetime(2026, 11, 26, 3, 45, 13, 250_000, UTC)


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return generate(tmp_path / "audit.pem")


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    made = tmp_path / "stack"
    made.mkdir()
    (made / "stack.json").write_text("{}")
    return made


def report(*places: Place) -> Report:
    return Report("cluster/account.events/id", "A-1", ERASED_AT, 3, ERASED_AT + timedelta(minutes=1), 2, places)


def look(stack: Path, texts: Texts) -> list[str]:
    return sorted(map(str, folder.look(stack, "A-1", texts, untold)))


@pytest.mark.parametrize(
    "written",
    [
        f"before {NAME} after",
        json.dumps({"holder_name": NAME}),
        json.dumps({"holder_name": NAME}, ensure_ascii=False),
    ],
)
def test_a_text_is_found_however_it_is_written(written: str) -> None:
    assert Texts([NAME, "somebody else"]).found(written.encode()) == [NAME]


def test_what_is_not_there_is_not_found() -> None:
    texts = Texts([NAME])
    assert texts.found(b"Juergen Ohnesorg") == []
    assert texts.found(b"") == []
    assert texts.found(None) == []


def test_texts_that_are_too_short_are_counted_and_not_looked_for() -> None:
    texts = Texts(["Li", " Bob ", "Li", "Ada L."])
    assert (texts.texts, texts.too_short, len(texts)) == (("Ada L.",), 2, 1)


def test_in_files_terms_of_an_index_and_keys_are_looked_for_too() -> None:
    needles = Texts(["Ada Lovelace"], [b"\x01wrapped"]).own_needles()
    assert set(needles) == {b"Ada Lovelace", b"ada lovelace", b"\x01wrapped"}


def test_a_text_that_another_account_has_is_not_looked_for_in_files() -> None:
    texts = Texts(["Ada Lovelace", "ada@example.org"])
    texts.also_of("B-2", ["Ada Lovelace"])
    assert texts.own_needles() == (b"ada@example.org",)
    assert texts.found(b"Ada Lovelace") == ["Ada Lovelace"]


def test_files_that_have_a_text_are_named(stack: Path, tmp_path: Path) -> None:
    (stack / "data").mkdir()
    (stack / "data" / "0.log").write_bytes(b"\x00Ada Lovelace\x00")
    (stack / "data" / "1.log").write_bytes(b"nobody")
    (stack / "data" / "0.index").write_bytes(b"Ada Lovelace")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "logs").mkdir(parents=True)
    (elsewhere / "logs" / "server.log").write_text("ada lovelace")
    (stack / "public").symlink_to(elsewhere)
    # A link back up is no endless way.
    (elsewhere / "up").symlink_to(stack)
    (stack / "data" / "gone").symlink_to(tmp_path / "nowhere")

    assert look(stack, Texts(["Ada Lovelace"])) == ["data/0.log", "public/logs/server.log"]


def test_a_text_is_found_where_two_chunks_of_a_file_meet(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_CHUNK", 16)
    for shift in range(40):
        (stack / f"{shift:02}").write_bytes(b"." * shift + b"Ada Lovelace" + b"." * 30)
    assert len(look(stack, Texts(["Ada Lovelace"]))) == 40


def test_a_folder_that_is_no_stack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoStack, match="no local stack"):
        look(tmp_path, Texts(["Ada Lovelace"]))


def test_a_folder_that_may_not_be_listed_is_not_passed_over(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, listed = stack / "data", os.scandir
    closed.mkdir()
    why: type[OSError] = PermissionError

    def scandir(path: str) -> object:
        if Path(path) == closed:
            raise why(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(NoStack, match=r"data cannot be read: Permission denied\. Look as the user"):
        look(stack, Texts(["Ada Lovelace"]))
    why = FileNotFoundError
    assert look(stack, Texts(["Ada Lovelace"])) == []


def test_files_tell_only_of_what_is_looked_for_in_them() -> None:
    assert Texts(["Ada Lovelace"]).in_files
    assert not Texts(()).in_files
    assert not Texts(["Ada Lovelace", "Li"]).in_files
    shared = Texts(["Ada Lovelace"])
    shared.also_of("B-2", ["Ada Lovelace"])
    assert not shared.in_files


def test_looking_through_files_tells_how_far_it_is(stack: Path) -> None:
    told: list[Progress] = []
    folder.look(stack, "A-1", Texts(["Ada Lovelace"]), told.append)
    assert told[0].what == "looking through files"


def test_a_table_s_file_is_read_since_its_bytes_are_compressed(stack: Path) -> None:
    rows = {"account_id": ["A-1", "B-2"], "holder_name": ["Ada Lovelace", "Bob Byron"], "amount": [1, None]}
    path = stack / "0.parquet"
    pq.write_table(pa.table(rows), path, compression="zstd")
    texts = Texts(["Ada Lovelace", "Bob Byron"])

    assert look(stack, texts) == ["0.parquet"]
    assert texts.elsewhere in ({}, {"Bob Byron": {"B-2"}})
    path.write_bytes(path.read_bytes()[:40])
    assert look(stack, Texts(["Ada Lovelace"])) == []


def test_a_report_is_as_bad_as_its_worst_place() -> None:
    clear, unseen = Place("a", State.CLEAR), Place("b", State.UNSEEN)
    soon = Place("c", State.PENDING, until=ERASED_AT)
    later = Place("d", State.PENDING, until=ERASED_AT + timedelta(hours=1))
    found = Place("e", State.FOUND)
    assert report(clear, unseen).state is State.CLEAR
    assert report(clear, soon).state is State.PENDING
    assert report(soon, found, later).state is State.FOUND
    assert report(soon, later).until == later.until
    assert report(clear).until is None


def test_a_receipt_is_as_it_was_signed(key: SigningKey, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    made = receipt(report(Place("topic account.commands", State.CLEAR, "é")), key)
    file.write_text(json.dumps(made, indent=2))

    found = check(file, key.public)
    assert (found["account_id"], found["state"], found["erased_at"]) == ("A-1", "clear", "2026-11-26T03:45:13.250000Z")


@pytest.mark.parametrize(
    ("name", "value"),
    [("state", "pending"), ("account_id", "A-2"), ("places", []), ("erased_at", None), ("more", 1), ("texts", 3)],
)
def test_a_receipt_that_was_altered_is_refused(key: SigningKey, tmp_path: Path, name: str, value: object) -> None:
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt(report(Place("a", State.CLEAR)), key) | {name: value}))
    with pytest.raises(InvalidFile, match="altered"):
        check(file, key.public)


def test_a_receipt_of_somebody_else_is_refused(key: SigningKey, tmp_path: Path) -> None:
    other = generate(tmp_path / "other.pem")
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt(report(), other)))
    with pytest.raises(InvalidFile, match=other.key_id):
        check(file, key.public)


def test_what_is_no_receipt_says_so(key: SigningKey, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    with pytest.raises(NoFile, match="cannot be read"):
        check(file, key.public)
    for content, why in (("{", "not JSON"), ("[]", "is no"), ('{"format": "daybook proof v1"}', "is no")):
        file.write_text(content)
        with pytest.raises(InvalidFile, match=why):
            check(file, key.public)
    file.write_text(json.dumps(receipt(report(), None)))
    with pytest.raises(InvalidFile, match="not signed"):
        check(file, key.public)
    file.write_text(json.dumps(receipt(report(), key) | {"signature": "?"}))
    with pytest.raises(InvalidFile, match="altered"):
        check(file, key.public)
