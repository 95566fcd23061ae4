"""Copies of what the gate for schemas looks at, to make mistakes in."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from daybook.evolution.check import HASHES, Problem
from daybook.evolution.checkout import Checkout
from daybook.evolution.gate import gate
from schemas.upcasters import UPCASTERS, Upcaster

ROOT: Final = Path(__file__).parents[2]


def copied(to: Path) -> Checkout:
    found = Checkout(to)
    shutil.copytree(ROOT / "schemas" / "account", found.schemas)
    shutil.copytree(ROOT / "tests" / "golden", found.golden)
    return found


def problems(copy: Checkout, upcasters: Sequence[Upcaster] = UPCASTERS) -> list[Problem]:
    _, checks = gate(copy.schemas, copy.golden, upcasters)
    return [problem for _, run in checks for problem in run()]


def told(copy: Checkout, upcasters: Sequence[Upcaster] = UPCASTERS) -> str:
    return "\n".join(map(str, problems(copy, upcasters)))


def rehash(copy: Checkout) -> None:
    files = sorted(copy.schemas.glob("*.avsc"))
    text = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    (copy.schemas / HASHES).write_text(text, encoding="utf-8")
