"""How Elasticsearch is started: as whom, from where, and what it is told."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from deploy.stack import elasticsearch as module
from deploy.stack.elasticsearch import Elasticsearch, server_arguments
from deploy.stack.errors import StackError
from deploy.stack.folder import Folder, Settings, reachable
from deploy.stack.java import java
from deploy.stack.server import Place

SERVER = Elasticsearch()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A stack's folder and a distribution, neither of which others can reach, whatever the caller's umask is."""
    tmp_path.chmod(0o700)
    lib = tmp_path / "unpacked" / "elasticsearch-9.1.0" / "lib"
    lib.mkdir(parents=True)
    (lib / "server.jar").write_text("jar")
    (lib / "private.jar").write_text("jar")
    (lib / "private.jar").chmod(0o600)
    lib.chmod(0o700)
    folder = Folder(tmp_path / "stack")
    folder.create(Settings(1, "cluster", {}))
    ports = {"elasticsearch": 19200, "elasticsearch-transport": 19300}
    return Place(folder, ports, "cluster", {"elasticsearch": (tmp_path / "unpacked",)})


def test_its_settings_are_told_in_its_own_encoding() -> None:
    told = server_arguments({"path.home": "/h", "node.name": "é" + "x" * 200}, "/c", "/l")
    keystore = b"\x31org.elasticsearch.common.settings.KeyStoreWrapper" + b"\0\0\0\x07" + b"\0\0\0\0"
    # Lengths count characters, seven bits a byte.
    name = b"\x09node.name\0" + b"\xc9\x01" + "é".encode() + b"x" * 200
    assert told == b"\0\0\0" + keystore + b"\x02" + name + b"\x09path.home\0\x02/h" + b"\x02/c" + b"\x02/l"


def test_a_character_beyond_16_bits_is_told_as_java_has_it() -> None:
    assert server_arguments({}, "😀", "").endswith(b"\x02\xed\xa0\xbd\xed\xb8\x80" + b"\0")


def test_an_ordinary_user_runs_it_as_oneself_in_the_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert SERVER.prepare(place) == ()
    command = SERVER.command(place)
    assert command.user is None
    assert command.argv[0] == str(java())
    assert f"-Des.path.home={place.artifacts['elasticsearch'][0]}/elasticsearch-9.1.0" in command.argv
    assert str(place.folder.data("elasticsearch")).encode() in (command.stdin or b"")
    assert not (place.folder.root / "public").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can hand over")
class TestForRoot:
    def test_another_user_runs_it_and_can_reach_all_of_it(self, place: Place) -> None:
        before = os.umask(0o077)
        try:
            # A second time over what is there, as at each start.
            for _ in range(2):
                assert SERVER.prepare(place) == ()
        finally:
            os.umask(before)
        command = SERVER.command(place)
        assert command.user == "nobody"
        public = place.folder.public()
        (home,) = (Path(text.partition("=")[2]) for text in command.argv if text.startswith("-Des.path.home="))
        assert home == public / "home"
        assert reachable(home / "lib")
        assert {path.name: path.stat().st_mode & 0o777 for path in (home / "lib").iterdir()} == {
            "server.jar": 0o644,
            "private.jar": 0o644,
        }
        assert reachable(Path(command.argv[0]).parents[1])
        nobody = pwd.getpwnam("nobody").pw_uid
        folders = [path for path in public.rglob("*") if path.is_dir()]
        assert {path.relative_to(public).as_posix() for path in folders if path.stat().st_uid == nobody} == {
            "data/elasticsearch",
            "logs",
            "run/tmp",
        }
        assert all(reachable(path) for path in folders if path.stat().st_uid == 0)
        (settings,) = Folder(public).conf("elasticsearch").iterdir()
        assert settings.stat().st_mode & 0o777 == 0o644

    def test_the_file_that_is_copied_stays_as_it_was(self, place: Place) -> None:
        SERVER.prepare(place)
        private = place.artifacts["elasticsearch"][0] / "elasticsearch-9.1.0" / "lib" / "private.jar"
        assert private.stat().st_mode & 0o777 == 0o600

    def test_a_system_without_another_user_is_told_what_to_do(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "OTHER_USER", "no-such-user")
        with pytest.raises(StackError, match=r"refuses to run as root, and cannot run as no-such-user .*ordinary user"):
            SERVER.prepare(place)

    @pytest.fixture(autouse=True)
    def _reset(self, place: Place) -> object:
        yield
        place.folder.delete()
