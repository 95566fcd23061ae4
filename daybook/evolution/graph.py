"""All versions and how each is brought to the newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from daybook.evolution.check import file_name
from schemas.released import ReleasedSchema, newest_versions, released
from schemas.upcasters import UPCASTERS, Path, Upcaster, Version, end, path


@dataclass(frozen=True, slots=True)
class Node:
    """A version, and the hops by which a record of it is read."""

    version: Version
    file: str
    hops: Path

    @property
    def read_as(self) -> Version:
        return end(self.version, self.hops)

    def record(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.version.name,
            "version": self.version.number,
            "file": self.file,
            "read_as": {"name": self.read_as.name, "version": self.read_as.number},
            "path": [_hop(hop) for hop in self.hops],
        }


def nodes(schemas: Sequence[ReleasedSchema] | None = None) -> list[Node]:
    """By name and version. Raises `NoPath`."""
    found = released() if schemas is None else schemas
    return [
        Node(version, file_name(*version), path(version, newest_versions()))
        for version in (Version(schema.name, schema.version) for schema in found)
    ]


def lines(found: Sequence[Node]) -> Iterator[str]:
    """As text: a line for each name with its versions, `->` where Avro resolves, `=>` where an upcaster converts."""
    width = max(len(node.version.name) for node in found)
    leaving = {upcaster.source: upcaster for upcaster in UPCASTERS}
    for name, group in groupby(found, key=lambda node: node.version.name):
        text = ""
        for node in group:
            upcaster = leaving.get(node.version)
            text += f" -> v{node.version.number}" if text else f"v{node.version.number}"
            if upcaster is not None:
                text += f" => {upcaster.target}"
        yield f"{name:<{width}}  {text}"


def dot(found: Sequence[Node]) -> Iterator[str]:
    """For Graphviz."""
    yield "digraph schemas {"
    yield "  rankdir=LR; node [shape=box];"
    leaving = {upcaster.source: upcaster for upcaster in UPCASTERS}
    there = {node.version for node in found}
    for node in found:
        yield f'  "{node.version}";'
        following = Version(node.version.name, node.version.number + 1)
        upcaster = leaving.get(node.version)
        if upcaster is not None:
            yield f'  "{node.version}" -> "{upcaster.target}" [label="upcaster", style=bold];'
        elif following in there:
            yield f'  "{node.version}" -> "{following}" [label="Avro"];'
    yield "}"


def _hop(hop: Version | Upcaster) -> dict[str, object]:
    target = hop.target if isinstance(hop, Upcaster) else hop
    how = "upcaster" if isinstance(hop, Upcaster) else "avro"
    return {"by": how, "name": target.name, "version": target.number}
