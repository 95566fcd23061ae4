"""docs/tutorials/schema-evolution.md, followed step by step in a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
TUTORIAL: Final = ROOT / "docs" / "tutorials" / "schema-evolution.md"
BLOCKS: Final = re.compile(r"^```(console|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_what_the_tutorial_shows_happens(tmp_path: Path) -> None:
    for part in ("schemas", "daybook", "command_service", "projectors", "deploy", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = 0
    for kind, text in BLOCKS.findall(TUTORIAL.read_text(encoding="utf-8")):
        if kind == "diff":
            # Lines move with every edit of the sources; what is around them has to be as shown.
            run("git apply --recount --unidiff-zero -C1 -", tmp_path, text)
            done += 1
            continue
        for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            output = run(command, tmp_path).splitlines()
            for line in shown.splitlines():
                assert line == "..." or line.rstrip() in map(str.rstrip, output), f"{command}: {line}\n{output}"
            done += 1
    assert done > 15


def run(command: str, folder: Path, text: str = "") -> str:
    """What a command of the tutorial prints. Its exit code is 1 where the gate finds something."""
    programs = {"daybook": f"{sys.executable} -m daybook", "python": sys.executable}
    command = re.sub(r"\.venv/bin/(\w+)", lambda found: programs[found[1]], command)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "HOME": str(folder), "GIT_CEILING_DIRECTORIES": "/"}
    shell = shutil.which("bash") or "bash"
    done = subprocess.run(
        [shell, "-c", command],
        cwd=folder,
        env=env,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    expected = (0, 1) if "schemas check" in command else (0,)
    assert done.returncode in expected, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
