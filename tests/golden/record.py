"""Adds to the golden corpus what it lacks: `python -m tests.golden.record [--why REASON]`.

Bytes are only added: a file that is there is never written again. Streams are those of `tests.golden.streams`; of every
other record, samples of each version are made from its schema. What results from the bytes is written with `--why`,
which is kept with it: a state or a read model of what is stored changes only when somebody says why.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from fastavro import schemaless_writer

from daybook.evolution.check import file_name, hash_of
from daybook.evolution.corpus import DECLARED, HASHES, RESULTS, Recording, recordings, used
from schemas.codec import chain
from schemas.events import CHAIN_START, event_id
from schemas.reading import fingerprint, parsed, split
from schemas.released import is_event, released
from schemas.samples import samples
from schemas.upcasters import Version
from tests.golden.replay import FOLDER, results
from tests.golden.streams import STREAMS, Entry

_FIRST_AT = 1_750_000_000_000_000
_MINUTE_US = 60 * 1_000_000


def stream(name: str, entries: Sequence[Entry]) -> Recording:
    """A stream of events as the service of their release would have written it."""
    schemas = {Version(s.name, s.version): json.loads(s.text) for s in released()}
    numbers: dict[Version, int] = {}
    values: list[bytes] = []
    previous = CHAIN_START
    for sequence, (record, version, own) in enumerate(entries, 1):
        schema = schemas[Version(record, version)]
        number = numbers.setdefault(Version(record, version), len(numbers) + 1)
        # The hash is the last of the common fields, and its bytes are what it is.
        head = _written(split(schema)[0], _common(name, sequence) | {"chain_hash": bytes(32)})[:-32]
        tail = _written(split(schema)[1], own)
        previous = chain(previous, fingerprint(schema), head, tail)
        values.append(b"\0" + number.to_bytes(4, "big") + head + previous + tail)
    return Recording(name, True, {number: version for version, number in numbers.items()}, tuple(values))


def _common(name: str, sequence: int) -> dict[str, Any]:
    command_id = f"{sequence:08x}-0000-4000-8000-{len(name):012x}"
    at = _FIRST_AT + sequence * _MINUTE_US
    return {
        "event_id": event_id(command_id, 0, at),
        "account_id": f"golden-{name}",
        "sequence": sequence,
        "recorded_at": at,
        # Every third was back-dated by a day.
        "effective_at": at if sequence % 3 else at - 24 * 60 * _MINUTE_US,
        "user_id": "teller",
        "command_id": command_id,
        "correlation_id": command_id,
        "causation_id": command_id,
        "reason": None if sequence % 2 else f"výplata {sequence}",
    }


def record(version: Version, text: str) -> Recording:
    """Samples of a record that is no event."""
    schema = json.loads(text)
    values = [b"\0\0\0\0\1" + _written(parsed(schema), sample) for sample in samples(schema)]
    return Recording(file_name(*version).removesuffix(".avsc"), False, {1: version}, tuple(values))


def _written(schema: Any, fields: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, schema, fields)
    return out.getvalue()


def missing() -> Iterator[Recording]:
    there = recordings(FOLDER)
    names = {recording.name for recording in there}
    covered = {version for recording in there for version in used(recording)}
    yield from (stream(name, entries) for name, entries in STREAMS.items() if name not in names)
    for schema in released():
        version = Version(schema.name, schema.version)
        if version not in covered and not is_event(schema.name):
            yield record(version, schema.text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add to the golden corpus what it lacks.")
    parser.add_argument("--why", help="write what results from the bytes anew, for this reason")
    why = parser.parse_args().why
    (FOLDER / "bytes").mkdir(exist_ok=True)
    for recording in missing():
        file = FOLDER / "bytes" / f"{recording.name}.json"
        with file.open("x", encoding="utf-8") as new:
            json.dump(recording.written(), new, indent=1)
            new.write("\n")
        with (FOLDER / HASHES).open("a", encoding="utf-8") as hashes:
            hashes.write(f"{hash_of(file)}  {file.name}\n")
        print(f"recorded {file.name}: {len(recording.values)} values")
    found = json.dumps(results(), indent=1, ensure_ascii=False) + "\n"
    at = FOLDER / RESULTS
    if at.is_file() and at.read_text(encoding="utf-8") == found:
        print("the results are as declared")
        return
    if why is None:
        raise SystemExit(
            f"the results are not those of {RESULTS}: --why REASON writes them, when they are meant to be so"
        )
    at.write_text(found, encoding="utf-8")
    declared = FOLDER / DECLARED
    said = json.loads(declared.read_text(encoding="utf-8")) if declared.is_file() else []
    said.append({"why": why, "results": hash_of(at)})
    declared.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {at.name}, and declared it")


if __name__ == "__main__":
    main()
