"""The draft of a next version: a copy of the newest, to be changed before it is released."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from daybook.errors import DaybookError
from daybook.evolution.check import HASHES, file_name, load, own_part, read_hashes
from daybook.evolution.checkout import Checkout
from schemas.released import is_command, is_event
from schemas.upcasters import UPCASTERS, NoPath, Version, end, path


class NoDraft(DaybookError):
    """There can be no draft of that: the message says why."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that was written, and what is left to do, in order."""

    file: Path
    version: Version
    steps: tuple[str, ...]


def new_version(checkout: Checkout, name: str, *, major: bool) -> Draft:
    """Write the next version of a record, or with `major` the first of its next major.

    `name` is the record's, with or without its namespace. Raises `NoDraft`.
    """
    schemas, problems = load(checkout.schemas)
    if problems:
        raise NoDraft(str(problems[0]))
    newest = {schema.name: schema.version for schema in schemas}
    found = [Version(full, number) for full, number in newest.items() if name in (full, full.rpartition(".")[2])]
    if not found:
        known = ", ".join(sorted({full.rpartition(".")[2] for full in newest}))
        raise NoDraft(f"there is no record {name}; there are {known}")
    try:
        ends = {end(version, path(version, newest, UPCASTERS)) for version in found}
    except NoPath as error:
        raise NoDraft(f"{error}: `daybook schemas check` says more") from error
    # Of several majors, the one that is written today.
    (current,) = ends if len(ends) == 1 else (max(found),)
    if major and not (is_event(current.name) or is_command(current.name)):
        raise NoDraft(f"only events and commands have next majors: whoever reads {current.name} goes by its full name")
    file = checkout.schemas / file_name(*current)
    if file.name not in read_hashes(checkout.schemas / HASHES):
        raise NoDraft(f"{file} is not in {HASHES}: it is a draft itself, to be finished first")
    return _major(checkout, file, current) if major else _minor(checkout, file, current)


def _minor(checkout: Checkout, file: Path, current: Version) -> Draft:
    version = Version(current.name, current.number + 1)
    target = checkout.schemas / file_name(*version)
    _write(target, file.read_text(encoding="utf-8"))
    short = current.name.rpartition(".")[2]
    return Draft(
        target,
        version,
        (
            f"In {target.name}: add a field at the end WITH a default and a doc, or symbols at the end of an enum. "
            "Rename, remove and retype nothing: that is `--major`.",
            f"Give the type {short} the field, with the same default.",
            *_rest(version),
        ),
    )


def _major(checkout: Checkout, file: Path, current: Version) -> Draft:
    schema = json.loads(file.read_text(encoding="utf-8"))
    space = schema["namespace"]
    stem, _, number = space.rpartition(".v")
    following = int(number) + 1 if number.isdecimal() and stem else 2
    name = f"{stem if number.isdecimal() and stem else space}.v{following}"
    version = Version(f"{name}.{schema['name']}", 1)
    target = checkout.schemas / file_name(*version)
    text = file.read_text(encoding="utf-8").replace(f'"namespace": "{space}"', f'"namespace": "{name}"', 1)
    _write(target, text)
    own = [field["name"] for field in own_part(schema)["fields"]]
    convert = ", ".join(f'"{field}": own["{field}"]' for field in own)
    stub = "\n".join(
        (
            f"def _{schema['name'].lower()}_{following}(own: Fields) -> Fields:",
            f"    return {{{convert}}}",
            "",
            "# in UPCASTERS:",
            "    Upcaster(",
            f'        Version("{current.name}", {current.number}),',
            f'        Version("{version.name}", 1),',
            f"        _{schema['name'].lower()}_{following},",
            "    ),",
        )
    )
    return Draft(
        target,
        version,
        (
            f"In {target.name}: change what the record's own fields have to become.",
            f"In schemas/upcasters.py, from the old record to it:\n\n{stub}\n",
            f"Give the type {schema['name']} the new fields, and `MAJOR: ClassVar[int] = {following}`.",
            *_rest(version),
        ),
    )


def _rest(version: Version) -> tuple[str, ...]:
    return (
        "mypy shows what reads or makes the type; `.venv/bin/python -m pytest tests/unit` what else does.",
        f"In tests/golden/streams.py: an event of {version}, if it is one. Then "
        ".venv/bin/python -m tests.golden.record --why REASON",
        f"When it is finished: (cd schemas/account && sha256sum {file_name(*version)} >> {HASHES})",
        "daybook schemas check",
        "A line in CHANGELOG.md. `daybook deploy apply` registers it before the services of that release start.",
    )


def _write(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise NoDraft(f"{target} is there already") from None
