"""Imports run one way, as docs/ARCHITECTURE.md says: the rules are in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_import_rules_are_kept() -> None:
    ended = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
