"""What the stack downloads is pinned, and only what is pinned is used."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.stack import downloads
from deploy.stack.artifacts import Pin, pinned
from deploy.stack.downloads import MIRROR_VARIABLE, fetch_pins
from deploy.stack.errors import DownloadError, StackError
from deploy.stack.server import ArtifactSet
from deploy.stack.servers import all_servers

JAR = Pin("org.example", "thing", "1.0", "jar", "", 5, hashlib.sha256(b"right").hexdigest())


@contextmanager
def unseen(name: str, size_bytes: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a Maven repository on the loopback serves, which the downloads use."""
    served = tmp_path / "mirror"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(served))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(MIRROR_VARIABLE, f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
        yield served
        server.shutdown()
        thread.join()


def serve(mirror: Path, pin: Pin, content: bytes) -> None:
    path = mirror / pin.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_every_server_has_pins_for_its_coordinates() -> None:
    for server in all_servers(3):
        for wanted in server.artifacts:
            pins = pinned(wanted)
            assert pins
            assert all(len(pin.sha256) == 64 and pin.size_bytes > 0 for pin in pins)


def test_pins_for_other_coordinates_are_refused() -> None:
    with pytest.raises(StackError, match=r"python -m deploy\.stack\.pinning"):
        pinned(ArtifactSet("kafka", ("org.apache.kafka:kafka_2.13:9.9.9",)))


def test_the_right_file_is_cached_and_then_needs_no_network(mirror: Path, tmp_path: Path) -> None:
    serve(mirror, JAR, b"right")
    place = tmp_path / "cache" / "thing.jar"
    fetch_pins({JAR: place}, tmp_path / "cache", unseen)
    assert place.read_bytes() == b"right"
    (mirror / "org").rename(mirror / "gone")
    fetch_pins({JAR: place}, tmp_path / "cache", unseen)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["thing.jar"]


def test_a_file_that_is_not_what_is_pinned_is_refused_and_leaves_nothing(mirror: Path, tmp_path: Path) -> None:
    serve(mirror, JAR, b"wrong")
    with pytest.raises(DownloadError, match=r"org\.example:thing:1\.0 .* SHA-256 .* is pinned"):
        fetch_pins({JAR: tmp_path / "cache" / "thing.jar"}, tmp_path / "cache", unseen)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cached_file_that_was_damaged_is_fetched_again(mirror: Path, tmp_path: Path) -> None:
    serve(mirror, JAR, b"right")
    place = tmp_path / "cache" / "thing.jar"
    place.parent.mkdir()
    place.write_bytes(b"wrong")
    fetch_pins({JAR: place}, tmp_path / "cache", unseen)
    assert place.read_bytes() == b"right"


def test_a_missing_file_is_an_error_that_says_what_to_do(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"could not be downloaded in 3 attempts.*{MIRROR_VARIABLE}"):
        fetch_pins({JAR: tmp_path / "cache" / "thing.jar"}, tmp_path / "cache", unseen)


def packed(packaging: str) -> bytes:
    content = io.BytesIO()
    if packaging == "zip":
        with zipfile.ZipFile(content, "w") as zipped:
            zipped.writestr("lib/app.jar", b"app")
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            entry = tarfile.TarInfo("lib/app.jar")
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"app"))
    return content.getvalue()


@pytest.mark.parametrize("packaging", ["tar.gz", "zip"])
def test_an_archive_is_unpacked_whole(mirror: Path, tmp_path: Path, packaging: str) -> None:
    content = packed(packaging)
    pin = Pin("org.example", "app", "1.0", packaging, "all", len(content), hashlib.sha256(content).hexdigest())
    serve(mirror, pin, content)
    place = downloads.unpacked_at(tmp_path / "cache", pin)
    fetch_pins({pin: place}, tmp_path / "cache", unseen)
    assert (place / "lib" / "app.jar").read_bytes() == b"app"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["unpacked"]
