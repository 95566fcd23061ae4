"""Making the pins anew: `python -m deploy.stack.pinning`, after a server's version has changed.

Resolves the coordinates that the servers name, with all that they depend on, through the network, and
writes `artifacts.json`, which is to be committed.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from jgo.maven import Artifact, MavenContext, PythonResolver
from jgo.parse import Coordinate

from deploy.stack.artifacts import PINS, Pin, sha256
from deploy.stack.server import ArtifactSet
from deploy.stack.servers import all_servers

# For one read from the repository.
READ_TIMEOUT_S = 30


def resolve(sets: Iterable[ArtifactSet], cache: Path) -> Mapping[str, object]:
    """Return what `artifacts.json` holds for these sets."""
    context = MavenContext(resolver=PythonResolver(), repo_cache=cache, timeout=READ_TIMEOUT_S)
    pins: dict[str, object] = {}
    for wanted in sets:
        inputs = [context.create_dependency(_coordinate(text)) for text in wanted.coordinates]
        # An archive brings along what it depends on.
        transitive = [] if wanted.unpack else context.resolver.resolve(inputs)[1]
        found = {dependency.artifact.key: dependency.artifact for dependency in (*inputs, *transitive)}
        pins[wanted.name] = {
            "coordinates": wanted.coordinates,
            "files": [asdict(_pin(artifact)) for artifact in found.values()],
        }
    return pins


def _coordinate(text: str) -> Coordinate:
    """Read Maven's `group:artifact[:packaging[:classifier]]:version`; jgo's parser knows no tar.gz."""
    group, artifact, *middle, version = text.split(":")
    packaging, classifier = (*middle, None, None)[:2]
    # Raw: a library's own dependency management must not override that of the others.
    # Log4j's, taken as a bill of materials, turns kafka-clients 4.3.1 into 3.9.1.
    return Coordinate(group, artifact, version, classifier=classifier, packaging=packaging, raw=True)


def _pin(artifact: Artifact) -> Pin:
    path = artifact.resolve()
    return Pin(
        artifact.groupId,
        artifact.artifactId,
        artifact.version,
        artifact.packaging,
        artifact.classifier,
        path.stat().st_size,
        sha256(path),
    )


def main() -> None:
    """Write `artifacts.json` for the servers as they are now. It resolves and downloads everything anew."""
    argparse.ArgumentParser(prog="python -m deploy.stack.pinning", description=main.__doc__).parse_args()
    sets = {wanted.name: wanted for server in all_servers(1) for wanted in server.artifacts}
    with tempfile.TemporaryDirectory() as cache:
        pins = resolve(sets.values(), Path(cache))
    (Path(__file__).parent / PINS).write_text(json.dumps(pins, indent=1) + "\n")


if __name__ == "__main__":
    main()
