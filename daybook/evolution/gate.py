"""All checks of schemas, in the order in which they make sense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from daybook.evolution.check import Problem, alike, compatible, load, reaching, released_files
from daybook.evolution.corpus import corpus
from schemas.alerts import Alert
from schemas.checkpoints import Checkpoint
from schemas.commands import COMMAND_TYPES, CommandReply
from schemas.events import EVENT_TYPES
from schemas.keys import SubjectKey
from schemas.released import record_name
from schemas.snapshots import SNAPSHOT_TYPES
from schemas.upcasters import UPCASTERS, Upcaster

Checked = tuple[str, Callable[[], Iterator[Problem]]]


def gate(folder: Path, golden: Path | None, upcasters: Sequence[Upcaster] = UPCASTERS) -> tuple[int, list[Checked]]:
    """How many versions there are, and each check with what it is called, to be run one by one.

    `golden` is None where there is no corpus: in an installed package. While a file is no schema there is the first
    check alone: nothing can be read then, and the others would blame what is in order.
    """
    schemas, problems = load(folder)
    checks: list[Checked] = [
        ("released files unchanged", lambda: iter([*problems, *released_files(folder)])),
    ]
    if len(schemas) < len(list(folder.glob("*.avsc"))):
        return len(schemas), checks
    checks += [
        ("versions compatible both ways", lambda: iter([*alike(schemas), *compatible(schemas)])),
        ("every version reaches the newest", lambda: reaching(schemas, written_today(), upcasters)),
    ]
    if golden is not None:
        checks.append(("golden corpus complete and readable", lambda: corpus(golden, schemas)))
    return len(schemas), checks


def written_today() -> set[str]:
    """The full names that types stand for."""
    others = (CommandReply, Alert, Checkpoint, SubjectKey, *SNAPSHOT_TYPES)
    return {record_name(kind) for kind in (*COMMAND_TYPES, *EVENT_TYPES, *others)}
