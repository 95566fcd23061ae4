"""The rows that were not posted, written where somebody can look at them, correct them and import them again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from daybook.errors import DaybookError
from daybook.mapping import FileFormat
from daybook.rows import Row

_COLUMNS: Final = ("rejected_line", "rejected_code", "rejected_message")


class Rejects:
    """A CSV file of each rejected row's line, a code, a message, and the row's own columns.

    It has the input's delimiter and encoding, so the same mapping reads it. There is no file while there is no
    rejected row; one that an earlier run left is removed at the start.
    """

    def __init__(self, path: Path, imported: Path, header: Sequence[str], file_format: FileFormat) -> None:
        """Raises `DaybookError` if `path` is the imported file, or cannot be removed."""
        if path.exists() and path.samefile(imported):
            raise DaybookError(f"{path} is the file to import: name another for the rejected rows")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DaybookError(f"{path}, left by an earlier run, cannot be removed: {error.strerror}") from None
        self.path = path
        self.count = 0
        self._header = header
        self._format = file_format
        self._resources = ExitStack()
        self._write: Callable[[Sequence[object]], object] | None = None

    def write(self, row: Row, code: str, message: str) -> None:
        """Add a row. Raises `DaybookError` if the file cannot be written."""
        try:
            if self._write is None:
                self._write = self._begun()
            self._write((row.line, code, message, *row.values))
        except OSError as error:
            raise self._unwritable(error) from None
        self.count += 1

    def _begun(self) -> Callable[[Sequence[object]], object]:
        # The input's encoding, but without a byte order mark. Only a message can hold what that has no character for,
        # and there it is spelt out.
        encoding = "utf-8" if self._format.encoding == "utf-8-sig" else self._format.encoding
        out = self._resources.enter_context(
            self.path.open("w", encoding=encoding, errors="backslashreplace", newline="")
        )
        write: Callable[[Sequence[object]], object] = csv.writer(out, delimiter=self._format.delimiter).writerow
        write((*_COLUMNS, *self._header))
        return write

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._resources.close()
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> DaybookError:
        return DaybookError(f"{self.path} cannot be written: {error.strerror}; --rejects names another place for it")
