"""Key-encryption keys: wrapping, rotation, and what is said of a file that is not right."""

from __future__ import annotations

import fcntl
import os
import stat
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from schemas.connections import Connections, NotConfigured
from schemas.keyring import KeyRing, add_key, kept_file
from schemas.keys import KeyEncryption, SubjectKey, UnknownKek, WrapBroken, rewrapped, unwrapped, wrapped

NOW: Final = datetime(2025, 11, 26, tzinfo=UTC)
DATA_KEY: Final = bytes(range(32))
OLD, NEW = bytes([1]) * 32, bytes([2]) * 32


def line(kek_id: str, key: bytes) -> str:
    return f"{kek_id} {b64encode(key).decode()}\n"


def ring(**keys: bytes) -> KeyRing:
    return KeyRing(keys, "the test")


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "kek"


def connections(**settings: object) -> Connections:
    return Connections(_env_file=None, kafka_bootstrap="k:9092", registry_url="http://r", **settings)


class TestWrapping:
    def test_any_library_unwraps_it(self) -> None:
        kek_id, secret = ring(old=OLD).wrap("A-1", DATA_KEY)
        data = b"daybook wrapped key" + b"\0\0\0\x03A-1" + b"\0\0\0\x03old"
        assert (kek_id, len(secret)) == ("old", 12 + 32 + 16)
        assert AESGCM(OLD).decrypt(secret[:12], secret[12:], data) == DATA_KEY

    def test_a_ring_keeps_keys_as_the_interface_says(self) -> None:
        keeper: KeyEncryption = ring(old=OLD)
        record = wrapped(keeper, "A-1", DATA_KEY, 5)
        assert (record.subject_id, record.kek_id, record.created_at) == ("A-1", "old", 5)
        assert unwrapped(keeper, record) == DATA_KEY

    def test_it_is_of_use_for_no_other_subject(self) -> None:
        kek_id, secret = ring(old=OLD).wrap("A-1", DATA_KEY)
        with pytest.raises(WrapBroken, match="data key of A-2 cannot be unwrapped: old in the test"):
            ring(old=OLD).unwrap("A-2", kek_id, secret)

    @pytest.mark.parametrize("secret", [b"", b"short", bytes(12), bytes(60)])
    def test_what_was_altered_is_told(self, secret: bytes) -> None:
        with pytest.raises(WrapBroken, match="Compare the keys with their backup"):
            ring(old=OLD).unwrap("A-1", "old", secret)

    def test_a_wrapped_key_of_another_length_is_none(self) -> None:
        kek_id, secret = ring(old=OLD).wrap("A-1", b"short")
        with pytest.raises(WrapBroken):
            ring(old=OLD).unwrap("A-1", kek_id, secret)

    def test_a_key_that_is_not_there_is_named_with_those_that_are(self) -> None:
        with pytest.raises(UnknownKek, match=r"data key of A-1 .* key-encryption key lost, .* \(there: new, old\)"):
            ring(new=NEW, old=OLD).unwrap("A-1", "lost", bytes(60))

    def test_no_key_is_shown(self) -> None:
        shown = repr(ring(old=OLD))
        assert shown == "KeyRing(old from the test)"
        settings = connections(kek=SecretStr(line("old", OLD)))
        assert b64encode(OLD).decode() not in repr(settings) + str(settings) + repr(KeyRing.of(settings))


class TestRotation:
    def test_the_first_key_wraps_and_all_unwrap(self) -> None:
        before = wrapped(ring(old=OLD), "A-1", DATA_KEY, 5)
        both = ring(new=NEW, old=OLD)
        assert both.current_id == "new"
        assert unwrapped(both, before) == DATA_KEY
        assert both.wrap("A-1", DATA_KEY)[0] == "new"

    def test_wrapped_anew_it_is_the_same_data_key_and_the_old_one_can_go(self) -> None:
        before = wrapped(ring(old=OLD), "A-1", DATA_KEY, 5)
        after = rewrapped(ring(new=NEW, old=OLD), before)
        assert after is not None
        assert (after.subject_id, after.kek_id, after.created_at) == ("A-1", "new", 5)
        assert after.wrapped != before.wrapped
        assert unwrapped(ring(new=NEW), after) == DATA_KEY

    def test_what_is_wrapped_with_the_current_key_is_left_as_it_is(self) -> None:
        assert rewrapped(ring(old=OLD), wrapped(ring(old=OLD), "A-1", DATA_KEY, 5)) is None

    def test_without_the_old_key_nothing_is_wrapped_anew(self) -> None:
        with pytest.raises(UnknownKek):
            rewrapped(ring(new=NEW), wrapped(ring(old=OLD), "A-1", DATA_KEY, 5))

    @pytest.mark.parametrize("now", [None, "kek-2 !!!"])
    def test_a_file_that_cannot_be_read_again_is_a_key_that_is_not_there(self, file: Path, now: str | None) -> None:
        keys = KeyRing.read(written(file, line("old", OLD)))
        kek_id, secret = ring(new=NEW).wrap("A-1", DATA_KEY)
        file.unlink() if now is None else written(file, now)
        with pytest.raises(UnknownKek, match=r"A-1.*new"):
            keys.unwrap("A-1", kek_id, secret)

    def test_a_key_that_was_added_meanwhile_is_found_without_a_restart(self, file: Path) -> None:
        add_key(file, NOW)
        running = KeyRing.read(file)
        add_key(file, NOW)
        record = wrapped(KeyRing.read(file), "A-1", DATA_KEY, 5)
        assert record.kek_id not in running.ids
        assert unwrapped(running, record) == DATA_KEY
        assert running.current_id == record.kek_id


class TestTheFile:
    def test_a_new_one_is_for_its_owner_alone(self, file: Path) -> None:
        kek_id = add_key(file, NOW)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert kek_id.startswith("kek-20251126-")
        assert KeyRing.read(file).ids == (kek_id,)
        assert [path.name for path in file.parent.iterdir()] == ["kek"]

    def test_a_key_is_put_before_the_others_and_below_what_is_said(self, file: Path) -> None:
        first, second = add_key(file, NOW), add_key(file, NOW)
        assert KeyRing.read(file).ids == (second, first)
        lines = file.read_text(encoding="utf-8").splitlines()
        assert [text.startswith("#") for text in lines] == [True, True, False, False]

    @pytest.mark.parametrize("before", ["", "# nothing yet", "\n"])
    def test_a_file_without_a_key_gets_one(self, file: Path, before: str) -> None:
        written(file, before)
        kek_id = add_key(file, NOW)
        assert KeyRing.read(file).ids == (kek_id,)

    def test_a_last_line_without_an_end_stays_a_line(self, file: Path) -> None:
        written(file, line("old", OLD).rstrip())
        kek_id = add_key(file, NOW)
        assert KeyRing.read(file).ids == (kek_id, "old")

    def test_where_a_link_leads_to_is_what_is_replaced(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        file.symlink_to(tmp_path / "kept" / "kek")
        kek_id = add_key(file, NOW)
        assert file.is_symlink()
        assert KeyRing.read(tmp_path / "kept" / "kek").ids == (kek_id,)

    def test_a_file_that_is_not_right_is_left_as_it_is(self, file: Path) -> None:
        written(file, "what is this\n")
        with pytest.raises(NotConfigured, match="kek:1: write an id and a key"):
            add_key(file, NOW)
        assert file.read_text(encoding="utf-8") == "what is this\n"

    def test_two_who_add_at_once_do_not_lose_a_key(self, file: Path) -> None:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            with pytest.raises(NotConfigured, match="somebody else is adding a key just now; try again"):
                add_key(file, NOW)
        finally:
            os.close(folder)
        assert not file.exists()

    def test_where_there_is_no_folder_it_cannot_be_written(self, file: Path) -> None:
        with pytest.raises(NotConfigured, match="cannot be written: No such file or directory"):
            add_key(file / "kek", NOW)

    def test_a_kept_one_is_made_once(self, file: Path) -> None:
        made = kept_file(file, NOW).read_bytes()
        assert kept_file(file, NOW).read_bytes() == made

    def test_comments_and_empty_lines_are_skipped(self, file: Path) -> None:
        written(file, "# said\n\n", "  # said as well\n", line("b", NEW), "\n", line("a", OLD).replace("\n", "\r\n"))
        assert KeyRing.read(file).ids == ("b", "a")


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ([], ": there is no key in it"),
            (["# nothing\n"], ": there is no key in it"),
            (["alone\n"], ":1: write an id and a key in base64, not 1 words"),
            ([line("a", OLD), "b c d\n"], ":2: write an id and a key in base64, not 3 words"),
            (["a/b AAAA\n"], ":1: an id has 1 to 64 ASCII letters"),
            ([f"{'a' * 65} AAAA\n"], ":1: an id has 1 to 64 ASCII letters"),
            (["a !!!!\n"], ":1: the key a is not base64"),
            (["a QUJ\n"], ":1: the key a is not base64"),
            ([line("a", OLD[:16])], ":1: the key a has 16 bytes, not 32"),
            (["\n", line("a", OLD), line("b", OLD), line("a", NEW)], ":4: a stands in line 2 already"),
        ],
    )
    def test_a_line_is_named_and_no_key_is_shown(self, file: Path, lines: list[str], said: str) -> None:
        written(file, *lines)
        with pytest.raises(NotConfigured) as failed:
            KeyRing.read(file)
        assert str(failed.value).startswith(f"{file}{said}")
        assert not any(b64encode(key).decode()[:8] in str(failed.value) for key in (OLD, NEW))

    def test_the_variable_has_lines_as_well(self) -> None:
        with pytest.raises(NotConfigured, match=r"^DAYBOOK_KEK:2: the key b has 16 bytes"):
            KeyRing.of(connections(kek=SecretStr(line("a", OLD) + line("b", OLD[:16]))))

    def test_a_file_that_is_missing(self, file: Path) -> None:
        with pytest.raises(NotConfigured, match=r"kek \(DAYBOOK_KEK_FILE\) is not there: restore it, or for a new"):
            KeyRing.of(connections(kek_file=str(file)))

    def test_a_file_that_cannot_be_read(self, file: Path) -> None:
        file.mkdir()
        with pytest.raises(NotConfigured, match=r"cannot be read: Is a directory"):
            KeyRing.of(connections(kek_file=str(file)))

    def test_a_file_that_is_not_text(self, file: Path) -> None:
        file.write_bytes(bytes([0xFF]) * 32)
        with pytest.raises(NotConfigured, match="is not text: it has a line for each key"):
            KeyRing.of(connections(kek_file=str(file)))

    def test_neither_a_file_nor_a_variable(self) -> None:
        with pytest.raises(NotConfigured, match="neither DAYBOOK_KEK_FILE nor DAYBOOK_KEK is set"):
            KeyRing.of(connections())

    def test_both(self, file: Path) -> None:
        with pytest.raises(NotConfigured, match="are both set"):
            KeyRing.of(connections(kek_file=str(file), kek=SecretStr(line("a", OLD))))


def test_a_record_shows_no_data_key() -> None:
    record: SubjectKey = wrapped(ring(old=OLD), "A-1", DATA_KEY, 5)
    assert DATA_KEY not in record.wrapped
    assert repr(DATA_KEY)[2:-1] not in repr(record)
