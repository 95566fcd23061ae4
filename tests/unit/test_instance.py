"""The number that a command service takes for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_service.instance import claimed
from schemas.connections import NotConfigured

_HOLDS_ONE = """
import sys
from pathlib import Path
from command_service.instance import claimed
with claimed(Path(sys.argv[1])) as number:
    print(number, flush=True)
    sys.stdin.read()
"""


def _holder(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS_ONE, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_each_process_has_a_number_and_a_killed_ones_is_free_at_once(tmp_path: Path) -> None:
    first, zero = _holder(tmp_path)
    second, one = _holder(tmp_path)
    with first, second:
        assert (zero, one) == ("0", "1")
        with claimed(tmp_path) as two:
            assert two == "2"
        first.kill()
        first.wait()
        with claimed(tmp_path) as again:
            assert again == "0"
        second.kill()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(NotConfigured, match=r"INSTANCES_DIR.*file.*[Nn]ot a directory|File exists"),
        claimed(tmp_path / "file"),
    ):
        pass
