"""Getting the pinned artifacts onto this machine, once per user.

What lies in the cache is complete and has been compared with its SHA-256: files are downloaded beside
their place and moved there when they are right, so an interrupted download leaves nothing to trust.
"""

import os
import shutil
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from deploy.stack.artifacts import Pin, pinned, sha256
from deploy.stack.errors import DownloadError
from deploy.stack.server import ArtifactSet

# Most files are small and wait for the network, not for the processor.
PARALLEL = 6
# A dropped connection is worth another try; a repository that is down is not worth waiting for.
ATTEMPTS = 3
PAUSE_S = 1.0
# For the connection and for each read: a stalled one is given up and tried again.
READ_TIMEOUT_S = 30.0
CHUNK_BYTES = 64 * 1024
# A company's mirror of the public Maven repository.
MIRROR_VARIABLE = "DAYBOOK_MAVEN_REPOSITORY"

_UNPACKED = "unpacked"

# Called with a file's name and size when its download begins; gives a function that takes bytes as they come.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class _Cancelled(Exception):
    """Ends a running download because another one failed or the user interrupted."""


def cache_folder() -> Path:
    """Return the per-user cache: $XDG_CACHE_HOME/daybook or ~/.cache/daybook."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "daybook"


def fetch(sets: Sequence[ArtifactSet], cache: Path, progress: Progress) -> Mapping[str, tuple[Path, ...]]:
    """Return the paths of every set, downloading what the cache lacks. Needs no network if it lacks nothing.

    Files are compared with their SHA-256 each time; a cached one that differs is fetched again.
    """
    pins = {wanted.name: pinned(wanted) for wanted in sets}
    places = {
        pin: unpacked_at(cache, pin) if wanted.unpack else _jar_at(cache, pin)
        for wanted in sets
        for pin in pins[wanted.name]
    }
    fetch_pins(places, cache, progress)
    return {name: tuple(places[pin] for pin in of_set) for name, of_set in pins.items()}


def fetch_pins(places: Mapping[Pin, Path], cache: Path, progress: Progress) -> None:
    """See to it that each file lies at its place below `cache`, as `fetch` says."""
    missing = {pin: place for pin, place in places.items() if not _is_right(pin, place)}
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        _fetch_all(missing, cache, progress)


def unpacked_at(cache: Path, pin: Pin) -> Path:
    """Return the folder for an archive's content. It stands for the content's checksum, being made at once."""
    return cache / _UNPACKED / f"{pin.artifact}-{pin.version}-{pin.sha256[:16]}"


def _jar_at(cache: Path, pin: Pin) -> Path:
    return cache / "maven" / pin.path


def _is_right(pin: Pin, place: Path) -> bool:
    if place.is_file():
        return place.stat().st_size == pin.size_bytes and sha256(place) == pin.sha256
    return place.is_dir()


def _fetch_all(missing: Mapping[Pin, Path], cache: Path, progress: Progress) -> None:
    cancelled = threading.Event()

    @contextmanager
    def cancellable(name: str, total: int) -> Iterator[Callable[[int], None]]:
        with progress(name, total) as advance:

            def step(count: int) -> None:
                if cancelled.is_set():
                    raise _Cancelled
                advance(count)

            yield step

    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="download") as pool:
        # The largest first, so that it doesn't run alone at the end.
        order = sorted(missing, key=lambda pin: -pin.size_bytes)
        running: list[Future[None]] = [pool.submit(_fetch_one, pin, missing[pin], cache, cancellable) for pin in order]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            # Reached by Ctrl-C as well: whatever is still running ends at its next chunk.
            cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
    for future in done:
        future.result()


def _fetch_one(pin: Pin, place: Path, cache: Path, progress: Progress) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            # On the cache's own file system, so that the move into place is atomic.
            with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as staging:
                _stage(pin, place, Path(staging), progress)
        except (DownloadError, OSError) as error:  # The latter includes all that the network does.
            if attempt == ATTEMPTS:
                raise DownloadError(
                    f"{pin.group}:{pin.artifact}:{pin.version} could not be downloaded in {ATTEMPTS} attempts: "
                    f"{error}. Check the network, or name a mirror in {MIRROR_VARIABLE}"
                ) from error
            time.sleep(PAUSE_S * attempt)
        else:
            return


def _stage(pin: Pin, place: Path, staging: Path, progress: Progress) -> None:
    """Download beside the place, check, and move there."""
    # Imported here since most starts download nothing, and the two take longer than all else together.
    import requests  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415

    fetched = staging / pin.filename
    repository = os.environ.get(MIRROR_VARIABLE) or MAVEN_CENTRAL_URL
    with (
        requests.get(f"{repository.rstrip('/')}/{pin.path}", stream=True, timeout=READ_TIMEOUT_S) as response,
        fetched.open("wb") as file,
        progress(pin.filename, pin.size_bytes) as advance,
    ):
        response.raise_for_status()
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            advance(len(chunk))
    found = sha256(fetched)
    if found != pin.sha256:
        raise DownloadError(f"its SHA-256 is {found}, and {pin.sha256} is pinned")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.parent.name != _UNPACKED:
        fetched.replace(place)
        return
    unpacking = staging / "unpacked"
    _unpack(fetched, unpacking)
    try:
        unpacking.rename(place)
    except OSError:
        # Another `up` was faster; what it put there has the same checksum.
        if not place.is_dir():
            raise
        shutil.rmtree(unpacking)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or a tar file. Of a zip file's permissions nothing is kept: its scripts are not executable."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)  # noqa: S202 - it leaves nothing outside the folder
        return
    with tarfile.open(archive) as tarred:
        # Python before 3.11.4 has no filters; the checksum vouches for the archive there as well.
        tarred.extraction_filter = getattr(tarfile, "data_filter", None)
        tarred.extractall(folder)  # noqa: S202
