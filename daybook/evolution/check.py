"""The gate: whether the schemas and upcasters that are there may be released. Needs no server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, permutations
from pathlib import Path
from typing import Any, Final

from schemas.compatibility import lost, unreadable
from schemas.reading import fingerprint, is_flat, parsed
from schemas.released import ReleasedSchema, read_schema
from schemas.samples import misfit, samples, unresolved
from schemas.upcasters import UPCASTERS, NoPath, Upcaster, Version, end, path

HASHES: Final = "released.sha256"
_RESTORE: Final = (
    "a released schema is never edited: restore it (git checkout), and put the change into a next version. Only of a "
    f"draft, remove the line from {HASHES} and add it again"
)
_NEXT_MAJOR: Final = "`daybook schemas new-version NAME --major` begins a record of the next major, with an upcaster"

COMMON_OF_EVENTS: Final = 11
COMMON_OF_COMMANDS: Final = 8
"""How many fields the records of a kind begin with alike."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, where, and what to do about it."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy[:1].upper()}{self.remedy[1:]}"


def released_files(folder: Path) -> Iterator[Problem]:
    """Every released file is there and as it was, by its hash; every file is among the released ones."""
    listed = read_hashes(folder / HASHES)
    found = {file.name: hash_of(file) for file in sorted(folder.glob("*.avsc"))}
    for name, digest in listed.items():
        if name not in found:
            yield Problem(name, "it was released, and is gone", "restore it: records written with it are stored")
        elif found[name] != digest:
            yield Problem(name, "it was edited after its release", _RESTORE)
    for name in sorted(found.keys() - listed.keys()):
        remedy = f"in {folder}: sha256sum {name} >> {HASHES}, when it is finished"
        yield Problem(name, f"its hash is not in {HASHES}", remedy)


def load(folder: Path) -> tuple[list[ReleasedSchema], list[Problem]]:
    """The schemas of a folder, by name and version, and what is wrong with the files of those that are none."""
    schemas: list[ReleasedSchema] = []
    problems: list[Problem] = []
    for file in sorted(folder.glob("*.avsc")):
        try:
            schema = read_schema(file)
            name, fields = schema.name.rpartition(".")[2], json.loads(schema.text)["fields"]
            parsed(json.loads(schema.text))
        except Exception as error:
            what = f"it cannot be read as a record's schema: {type(error).__name__} {error}"
            problems.append(Problem(file.name, what, "compare it with the others"))
            continue
        wanted = file_name(schema.name, schema.version)
        if file.name != wanted:
            problems.append(
                Problem(file.name, f"it has version {schema.version} of {schema.name}", f"call it {wanted}")
            )
        undocumented = [field["name"] for field in fields if not field.get("doc")]
        if undocumented:
            what = f"{', '.join(undocumented)} of {name} has no doc"
            problems.append(Problem(file.name, what, "say what it means and in which unit"))
        schemas.append(schema)
    return sorted(schemas, key=lambda schema: (schema.name, schema.version)), problems


def file_name(name: str, version: int) -> str:
    """How the file of a record's version is called."""
    namespace, _, short = name.rpartition(".")
    major = namespace.rpartition(".v")[2]
    return f"{short}.{major}.v{version}.avsc" if major.isdecimal() else f"{short}.v{version}.avsc"


def compatible(schemas: Sequence[ReleasedSchema]) -> Iterator[Problem]:
    """The versions of a name are counted from 1, and each can be read as each other (`FULL_TRANSITIVE`), and more."""
    for name, group in groupby(schemas, key=lambda schema: schema.name):
        versions = list(group)
        numbers = [schema.version for schema in versions]
        if numbers != list(range(1, len(numbers) + 1)):
            found = ", ".join(map(str, numbers))
            yield Problem(name, f"it has the versions {found}", "they are counted from 1 without a gap")
        by_number: dict[int, Any] = {schema.version: json.loads(schema.text) for schema in versions}
        for (older, _), (newer, _) in pairwise(by_number.items()):
            for why in lost(by_number[older], by_number[newer]):
                yield Problem(f"{name} v{newer}", f"against v{older}: {why}", f"put it back; {_NEXT_MAJOR}")
            nested = [field["name"] for field in by_number[newer]["fields"] if not is_flat(field["type"])]
            if nested:
                what = f"{', '.join(nested)} is nested, and no program reads a nested schema of a release after its own"
                yield Problem(f"{name} v{newer}", what, f"use plain types; otherwise {_NEXT_MAJOR}")
        yield from _told_apart(name, by_number)
        for written, read_as in permutations(by_number, 2):
            reasons = list(unreadable(by_number[written], by_number[read_as]))
            for why in reasons:
                what = f"what v{written} writes cannot be read as v{read_as}: {why}"
                newer = max(written, read_as)
                yield Problem(f"{name} v{newer}", what, f"give what is added a default; otherwise {_NEXT_MAJOR}")
            if not reasons and (why_not := unresolved(by_number[written], by_number[read_as])) is not None:
                what = f"Avro's library does not read v{written} as v{read_as}: {why_not}"
                yield Problem(f"{name} v{max(written, read_as)}", what, "make it a simpler change")


def _told_apart(name: str, by_number: dict[int, Any]) -> Iterator[Problem]:
    """By its fingerprint alone a reader knows which version it has before it, and with it which upcaster is due."""
    first: dict[bytes, int] = {}
    for number, schema in by_number.items():
        same = first.setdefault(fingerprint(schema), number)
        if same != number:
            what = f"it is written just as v{same} is, and no reader can tell the two apart"
            yield Problem(f"{name} v{number}", what, "add a field with a default to it, or delete it if it is needless")


def alike(schemas: Sequence[ReleasedSchema]) -> Iterator[Problem]:
    """Events begin with the same fields in all versions, and so do commands."""
    first: dict[str, tuple[str, Any]] = {}
    for schema in schemas:
        kind = next((k for k in ("event", "command") if schema.name.startswith(f"daybook.account.{k}.")), None)
        if kind is None:
            continue
        fields = json.loads(schema.text)["fields"][: COMMON_OF_EVENTS if kind == "event" else COMMON_OF_COMMANDS]
        which, wanted = first.setdefault(kind, (schema.name, fields))
        if fields != wanted:
            what = f"it does not begin with the fields of every {kind}, as {which} does"
            yield Problem(f"{schema.name} v{schema.version}", what, "these never change, docs included: copy them")


def reaching(
    schemas: Sequence[ReleasedSchema], types: Collection[str], upcasters: Sequence[Upcaster] = UPCASTERS
) -> Iterator[Problem]:
    """Every version leads to a record that a type of today stands for, and what upcasters give fits on the way.

    `types` are the full names that are written today.
    """
    newest = {schema.name: schema.version for schema in schemas}
    texts = {Version(schema.name, schema.version): json.loads(schema.text) for schema in schemas}
    for version in texts:
        try:
            hops = path(version, newest, upcasters)
        except NoPath as error:
            yield Problem(str(version), str(error), "correct schemas/upcasters.py")
            continue
        last = end(version, hops)
        if last.name not in types:
            what = f"it leads to {last}, which nothing is written as today, and no upcaster leads further"
            yield Problem(str(version), what, "add an upcaster to schemas/upcasters.py, or its type to schemas/")
    for upcaster in upcasters:
        yield from _fits(upcaster, texts)


def _fits(upcaster: Upcaster, texts: dict[Version, Any]) -> Iterator[Problem]:
    where = f"the upcaster from {upcaster.source} to {upcaster.target}"
    source, target = texts.get(upcaster.source), texts.get(upcaster.target)
    if source is None or target is None:
        gone = upcaster.source if source is None else upcaster.target
        yield Problem(where, f"there is no {gone}", "correct schemas/upcasters.py")
        return
    for record in samples(own_part(source)):
        given = dict(record)
        try:
            found = upcaster.convert(given)
            again = upcaster.convert(dict(record))
        except Exception as error:
            yield Problem(where, f"it fails for {record}: {type(error).__name__} {error}", "let it take any record")
            return
        why = misfit(own_part(target), found)
        if why is not None:
            yield Problem(where, f"what it makes of {record} is no {upcaster.target}: {why}", "give all of its fields")
            return
        if again != found or given != record:
            yield Problem(where, "it changes what it is given, or gives another thing the next time", "make it pure")
            return


def own_part(schema: Any) -> Any:
    """The part of a schema that upcasters see: an event's own fields, all of another record."""
    if not str(schema["namespace"]).startswith("daybook.account.event"):
        return schema
    return {**schema, "fields": schema["fields"][COMMON_OF_EVENTS:]}


def read_hashes(file: Path) -> dict[str, str]:
    """What `sha256sum` wrote: hash by file name, the first of each, since lines are only added. Empty if no file is."""
    found: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        digest, _, name = line.partition("  ")
        found.setdefault(name, digest)
    return found


def hash_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
