"""A stack's folder: its marker, its settings, its lock."""

import base64
import shutil
import stat
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from dotenv import dotenv_values

from deploy.stack import folder as module
from deploy.stack.errors import NotRunningError, StackError
from deploy.stack.folder import Folder, Settings, dotenv, reachable, variables_of
from deploy.stack.processes import Identity
from deploy.stack.stack import Stack, new_cluster_id
from schemas.keyring import KeyRing

SETTINGS = Settings(1, "cluster", {"redis": 16379})


def test_settings_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "stack")
    assert folder.settings() is None
    folder.create(SETTINGS)
    assert folder.settings() == SETTINGS


def test_a_folder_has_a_key_encryption_key_for_its_owner_alone_and_keeps_it(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "stack")
    folder.create(SETTINGS)
    made = folder.kek.read_bytes()
    folder.create(SETTINGS)
    assert folder.kek.read_bytes() == made
    assert stat.S_IMODE(folder.kek.stat().st_mode) == 0o600
    assert len(KeyRing.read(folder.kek).ids) == 1


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(StackError, match=r"holds 'thesis\.txt'"):
        Folder(tmp_path).check()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    Folder(tmp_path).check()


def test_reset_refuses_a_folder_without_a_marker(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(StackError, match="nothing was deleted"):
        Stack(tmp_path).reset()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_reset_deletes_the_whole_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "stack")
    folder.create(SETTINGS)
    folder.data("redis").mkdir(parents=True)
    assert Stack(folder.root).reset() == []
    assert not folder.root.exists()


def test_what_another_user_must_reach_lies_elsewhere_if_it_has_to_and_is_reset_with_the_rest(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "only mine" / "stack")
    folder.create(SETTINGS)
    folder.root.parent.chmod(0o700)
    public = folder.public()
    assert reachable(public)
    assert not public.is_relative_to(tmp_path)
    (public / "data").mkdir()
    assert folder.public() == public
    shutil.rmtree(public)
    # As after a start of a system that clears its temporary files.
    again = folder.public()
    assert reachable(again)
    Stack(folder.root).reset()
    assert not again.exists()
    assert not folder.root.exists()


def test_what_another_user_must_reach_lies_in_the_folder_if_it_can() -> None:
    # Not below pytest's own folder, which is its user's alone.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        folder = Folder(Path(directory) / "stack")
        folder.create(SETTINGS)
        assert folder.public() == folder.root / "public"
        # Options of Java's would divide this path.
        divided = Folder(Path(directory) / "a:b")
        divided.create(SETTINGS)
        assert not divided.public().is_relative_to(divided.root)
        Stack(divided.root).reset()


def test_a_folder_of_the_same_name_that_is_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "stack")
    folder.create(SETTINGS)
    (tmp_path / "theirs").mkdir()
    (folder.root / "public").symlink_to(tmp_path / "theirs")
    Stack(folder.root).reset()
    assert (tmp_path / "theirs").is_dir()


@pytest.mark.parametrize("value", ["plain", "a b", "Zoë's 100 % {bank}", 'say "no"', 'it\'s a \\ "b"', "a#b $HOME", ""])
def test_addresses_survive_the_file_whatever_is_in_them(value: str, tmp_path: Path) -> None:
    text = dotenv({"A": value, "B": "1"})
    assert variables_of(text) == {"A": value, "B": "1"}
    (tmp_path / "env").write_text(text)
    assert dotenv_values(tmp_path / "env") == {"A": value, "B": "1"}
    shell = subprocess.run(["/bin/sh", "-c", f'{text}printf %s "$A"'], capture_output=True, check=True)
    assert shell.stdout.decode() == value


def test_damaged_settings_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.marker.write_text("{")
    with pytest.raises(StackError, match=r"stack\.json cannot be read"):
        folder.settings()


def test_settings_of_another_format_are_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.marker.write_text('{"format": 99}')
    with pytest.raises(StackError, match="has format 99"):
        folder.settings()


def test_one_command_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    told: list[bool] = []
    first = Folder(tmp_path).locked(lambda: None)
    second = Folder(tmp_path).locked(lambda: told.append(True))
    with first, pytest.raises(StackError, match="held for"), second:
        pass
    assert told == [True]


def test_the_lock_of_a_folder_that_was_deleted_meanwhile_keeps_nobody_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "stack")

    def delete() -> None:
        first.close()
        shutil.rmtree(folder.root)

    first = ExitStack()
    first.enter_context(folder.locked(lambda: None))
    # The second waits for the first, which deletes what is waited for, as a reset does.
    with folder.locked(delete):
        assert (folder.root / "lock").is_file()


def test_what_does_not_run_is_down(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "none")
    assert stack.status().phase == "down"
    assert stack.down() == []
    with pytest.raises(NotRunningError, match="start it with `up`"):
        stack.env()
    with pytest.raises(NotRunningError, match="start it with `up`"):
        stack.stop("redis")
    assert not stack.folder.root.exists()


def test_a_cluster_id_is_16_bytes_and_never_looks_like_an_option() -> None:
    # One draw in 64 begins with a dash: that none of so many does is no accident.
    drawn = [new_cluster_id() for _ in range(2000)]
    assert not any(cluster_id.startswith("-") for cluster_id in drawn)
    assert {len(base64.urlsafe_b64decode(cluster_id + "==")) for cluster_id in drawn} == {16}


def test_a_number_that_another_process_got_is_not_ours() -> None:
    ours = Identity.of(1)
    assert ours.process() is not None
    assert Identity(1, ours.started - 60).process() is None
