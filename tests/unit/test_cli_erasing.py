"""What `daybook erase` refuses before it asks any server."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daybook.audit.keys import generate, public_file
from daybook.cli import main
from daybook.erasure.places import Place, State
from daybook.erasure.receipt import receipt
from daybook.erasure.run import Report


@pytest.fixture(autouse=True)
def nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAYBOOK_STACK_DIR", "DAYBOOK_AUDIT_KEY_FILE", "DAYBOOK_AUDIT_PUBLIC_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAYBOOK_ENV_FILE", os.devnull)
    # Port 1 is nobody's.
    monkeypatch.setenv("DAYBOOK_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("DAYBOOK_REGISTRY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(("erase", "A-1", *arguments))
    return int(ended.value.code or 0)


def stack_at(folder: Path, bootstrap: str) -> Path:
    folder.mkdir()
    (folder / "stack.json").write_text("{}")
    (folder / "env").write_text(f"DAYBOOK_KAFKA_BOOTSTRAP='{bootstrap}'\n")
    return folder


def test_another_stack_s_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stack_at(tmp_path / "stack", "127.0.0.1:11")
    assert run("--yes", "--folder", str(folder)) == 2
    assert "is the folder of another stack" in capsys.readouterr().err


def test_this_stack_s_folder_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stack_at(tmp_path / "stack", "127.0.0.1:11,127.0.0.1:1")
    assert run("--verify", "--folder", str(folder), "--timeout", "0.1") == 4
    assert "another stack" not in capsys.readouterr().err


def test_a_receipt_that_is_checked_names_what_was_not_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = generate(tmp_path / "audit.pem")
    at = datetime(2026, 11, 26, 3, 45, 13, tzinfo=UTC)
    places = (Place("Redis", State.CLEAR), Place("Elasticsearch", State.UNSEEN))
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt(Report("log", "A-1", at, 3, at, 2, places), key)))
    assert run("--check", str(file), "--public-key", str(public_file(tmp_path / "audit.pem"))) == 0
    assert "the state was clear; not looked at: Elasticsearch\n" in capsys.readouterr().out


@pytest.mark.parametrize("further", [("--yes",), ("--verify",), ("--text", "Ada"), ("--no-wait",)])
def test_to_check_a_receipt_does_nothing_else(capsys: pytest.CaptureFixture[str], further: tuple[str, ...]) -> None:
    assert run("--check", "receipt.json", "--public-key", "audit.pem.pub", *further) == 2
    assert "it only checks a receipt" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["nowhere/receipt.json", "."])
def test_a_receipt_that_cannot_be_written_is_refused_before_anything_is_erased(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    assert run("--yes", "--receipt", str(tmp_path / file)) == 2
    assert "cannot be written" in capsys.readouterr().err
