"""`daybook keys` without servers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from daybook.cli import main
from schemas.keyring import KeyRing


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAYBOOK_KEK_FILE", "DAYBOOK_KEK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAYBOOK_ENV_FILE", os.devnull)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAYBOOK_KEK_FILE", str(tmp_path / "kek"))
    return tmp_path / "kek"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_a_new_key_is_made_and_its_id_alone_printed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new") == 0
    out, err = capsys.readouterr()
    ring = KeyRing.read(file)
    assert out == f"{ring.current_id}\n"
    assert str(file) in err
    secret = file.read_text(encoding="utf-8").splitlines()[-1].split()[1]
    assert secret not in out + err


def test_a_file_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new", str(tmp_path / "other"), "--json") == 0
    kek_id = KeyRing.read(tmp_path / "other").current_id
    assert json.loads(capsys.readouterr().out) == {"kek_id": kek_id, "file": str(tmp_path / "other")}


def test_without_a_file_it_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new") == 2
    assert "DAYBOOK_KEK_FILE names no file" in capsys.readouterr().err


def test_keys_are_shown_by_their_ids_the_one_that_wraps_first(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("keys", "new")
    run("keys", "new")
    capsys.readouterr()
    assert run("keys", "show") == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    new, old = KeyRing.read(file).ids
    assert shown == [["key", "does"], [new, "wraps"], [old, "unwraps"]]
    assert run("keys", "show", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"kek_id": new, "here": True, "wraps": True, "holders": None},
        {"kek_id": old, "here": True, "wraps": False, "holders": None},
    ]


def test_a_file_that_is_wrong_is_told_by_its_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("# mine\nkek-1 QUJD\n", encoding="utf-8")
    assert run("keys", "show") == 4
    assert f"error: {file}:2: the key kek-1 has 3 bytes, not 32" in capsys.readouterr().err
