"""Where accounts are put that memory has no room for: an embedded store on the local disk, one for each partition.

It is a cache of what the log says, made anew with each process. So nothing in it is ever synced or logged, and a
process that finds stores which another left behind removes them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from rocksdict import Options, Rdict

_log: Final = logging.getLogger(__name__)

_PREFIX: Final = "daybook-spill-"
_LOCK: Final = "lock"

_MEMTABLE_BYTES: Final = 8 * 1024 * 1024
_BLOCK_CACHE_BYTES: Final = 8 * 1024 * 1024
_BLOOM_BITS: Final = 10
"""One in a hundred look-ups of an account that is not there reads the disk in vain."""
_OPEN_FILES: Final = 64


_REMEDY: Final = (
    "Accounts beyond DAYBOOK_COMMAND_SERVICE_HELD_ACCOUNTS are put there: make room, name another folder by "
    "DAYBOOK_COMMAND_SERVICE_SPILL_DIR, or allow more accounts in memory"
)


class SpillFailed(Exception):
    """The disk did not take accounts, or did not give them back. Nothing is lost: they are made of the log."""


class SpillFolder:
    """This process's stores: a folder of its own, which is made when the first is wanted and removed by `close`."""

    def __init__(self, parent: Path | None) -> None:
        """`parent` is the system's folder for temporary files if it is not given."""
        self._parent = Path(tempfile.gettempdir()) if parent is None else parent
        self._own: Path | None = None
        self._lock = -1
        self._made = 0

    def store(self) -> SpillStore:
        """A new, empty store. Raises: `SpillFailed`."""
        try:
            folder = self._folder()
        except OSError as error:
            raise SpillFailed(f"{self._parent} cannot be written to: {error.strerror}. {_REMEDY}") from error
        self._made += 1
        return SpillStore(folder / str(self._made))

    def _folder(self) -> Path:
        if self._own is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            _remove_left_behind(self._parent)
            own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            self._lock = os.open(own / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._own = own
        return self._own

    def close(self) -> None:
        """Remove the folder with all stores; those still in use are closed by their partitions before."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._own = None


def _remove_left_behind(parent: Path) -> None:
    """Remove the folders of processes that were killed: whose lock nobody holds."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                _log.info("removed %s, which a process that was killed left behind", folder)
            finally:
                os.close(lock)


class SpillStore:
    """Packed accounts on the disk. Some of them may have come back to memory since, and be newer there."""

    def __init__(self, folder: Path) -> None:
        """Raises: `SpillFailed`."""
        # Most ledgers fit into memory and never load it.
        from rocksdict import Rdict, WriteBatch, WriteOptions  # noqa: PLC0415

        self._folder = folder
        try:
            self._store: Rdict = Rdict(str(folder), _options())
        except Exception as error:
            # As below.
            raise SpillFailed(f"no store can be made at {folder}: {error}. {_REMEDY}") from error
        unlogged = WriteOptions()
        unlogged.disable_wal = True  # type: ignore[method-assign, assignment]
        self._store.set_write_options(unlogged)
        self._batch: Callable[[], WriteBatch] = lambda: WriteBatch(raw_mode=True)

    def put(self, accounts: Iterable[tuple[bytes, bytes]]) -> None:
        """Take accounts, by their ids in UTF-8. Raises: `SpillFailed`."""
        batch = self._batch()
        for key, packed in accounts:
            batch.put(key, packed)
        try:
            self._store.write(batch)
        except Exception as error:
            # The library raises nothing more special, and nothing else happens in there.
            raise SpillFailed(f"{self._folder} did not take accounts: {error}. {_REMEDY}") from error

    def get(self, account_id: str) -> bytes | None:
        """Raises: `SpillFailed`."""
        try:
            found: bytes | None = self._store.get(account_id.encode())
        except Exception as error:
            raise SpillFailed(f"{self._folder} did not give account {account_id} back: {error}. {_REMEDY}") from error
        return found

    def ids(self) -> Iterator[str]:
        """The ids of all accounts that were ever put here."""
        # Whatever its types say, a store in raw mode gives bytes.
        yield from (bytes(key).decode() for key in cast(Iterable[bytes], self._store.keys()))

    def close(self) -> None:
        """Close it and remove what it holds."""
        self._store.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _options() -> Options:
    from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options  # noqa: PLC0415

    table = BlockBasedOptions()
    table.set_block_cache(Cache(_BLOCK_CACHE_BYTES))
    table.set_bloom_filter(_BLOOM_BITS, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_open_files(_OPEN_FILES)
    return options
