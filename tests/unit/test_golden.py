"""The golden corpus: bytes of every version ever released replay to the states and read models that were recorded."""

from __future__ import annotations

import io
import json
from functools import partial
from typing import Any, Final

import pytest
from fastavro import schemaless_reader, schemaless_writer
from msgspec.structs import replace

from command_service.domain.account import Account, evolve
from daybook.evolution.check import hash_of, read_hashes
from daybook.evolution.corpus import DECLARED, HASHES, RESULTS, Recording, StoredSchemas, corpus, recordings, used
from projectors import analytics, search_documents
from projectors.balances import sets
from schemas import upcasters
from schemas.codec import HEADER_BYTES, Codec
from schemas.events import AccountClosed, AccountFrozen, Event, FreezeCause, OverdraftLimitSet
from schemas.reading import parsed
from schemas.released import command_type, is_command, released
from schemas.upcasters import UPCASTERS, Version
from tests.golden import record, replay
from tests.golden.streams import STREAMS

RECORDINGS: Final = {recording.name: recording for recording in recordings(replay.FOLDER)}


@pytest.mark.parametrize("name", RECORDINGS)
def test_bytes_lead_to_what_was_recorded(name: str) -> None:
    """If this fails, a change of code changed what stored records mean. docs/SCHEMAS.md says what to do."""
    recorded = json.loads((replay.FOLDER / RESULTS).read_text(encoding="utf-8"))
    assert json.loads(json.dumps(replay._of(RECORDINGS[name]))) == recorded[name]


def test_every_version_has_bytes_and_each_file_is_as_it_was_recorded() -> None:
    assert [str(problem) for problem in corpus(replay.FOLDER, released())] == []
    listed = read_hashes(replay.FOLDER / HASHES)
    assert listed == {file.name: hash_of(file) for file in (replay.FOLDER / "bytes").iterdir()}
    assert json.loads((replay.FOLDER / RESULTS).read_text(encoding="utf-8")).keys() == RECORDINGS.keys()
    declared = json.loads((replay.FOLDER / DECLARED).read_text(encoding="utf-8"))
    assert all(entry["why"] for entry in declared)


@pytest.mark.parametrize("name", STREAMS)
def test_recording_again_gives_the_same_bytes(name: str) -> None:
    """So whoever changes a stream that is recorded already is told, instead of being ignored."""
    assert record.stream(name, STREAMS[name]) == RECORDINGS[name]


def test_a_stream_that_crosses_versions_reads_as_the_newest_events() -> None:
    events = [item.event for item in replay.decoded(RECORDINGS["across-versions"])]
    assert [event for event in events if isinstance(event, OverdraftLimitSet)] == [
        OverdraftLimitSet(previous_limit_minor=None, new_limit_minor=700, currency="KWD"),
        OverdraftLimitSet(previous_limit_minor=700, new_limit_minor=900, currency="KWD"),
    ]
    assert [event.cause for event in events if isinstance(event, AccountFrozen)] == [
        FreezeCause.UNSPECIFIED,
        FreezeCause.COURT_ORDER,
        FreezeCause.SANCTIONS,
    ]
    assert all(type(event.cause) is FreezeCause for event in events if isinstance(event, AccountFrozen))
    assert events[-1] == AccountClosed(payout_reference="SEPA 2026-0042")


@pytest.mark.parametrize(
    ("recording", "version"),
    [(r, v) for r in RECORDINGS.values() for v in used(r) if is_command(v.name)],
    ids=lambda it: str(it) if isinstance(it, Version) else "",
)
def test_commands_of_every_version_are_commands_of_today(recording: Recording, version: Version) -> None:
    codec = Codec(StoredSchemas(recording, released()))
    for value in recording.values:
        assert type(codec.decode_command(value)) is command_type(version.name)


@pytest.mark.parametrize("name", [name for name, recording in RECORDINGS.items() if not recording.stream])
def test_bytes_are_of_the_schema_that_they_name(name: str) -> None:
    """As they would not be if a schema was edited after they were recorded, before its release."""
    recording = RECORDINGS[name]
    texts = {Version(schema.name, schema.version): schema.text for schema in released()}
    for value in recording.values:
        schema = parsed(json.loads(texts[recording.schemas[int.from_bytes(value[1:5], "big")]]))
        body, again = io.BytesIO(value[HEADER_BYTES:]), io.BytesIO()
        schemaless_writer(again, schema, schemaless_reader(body, schema, None))
        assert again.getvalue() == value[HEADER_BYTES:]


class TestWhatIsNoticed:
    """A change of what stored events mean shows in the results, wherever it is made."""

    @staticmethod
    def results() -> Any:
        return json.loads(json.dumps(replay._of(RECORDINGS["across-versions"])))

    @pytest.fixture
    def before(self) -> Any:
        found = self.results()
        assert found == json.loads((replay.FOLDER / RESULTS).read_text(encoding="utf-8"))["across-versions"]
        return found

    def changed(self, before: dict[str, Any]) -> set[str]:
        after = self.results()
        return {part for part in before if before[part] != after[part]}

    def test_another_evolve(self, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def doubled(state: Account | None, event: Event) -> Account:
            after = evolve(state, event)
            return replace(after, overdraft_limit_minor=2 * after.overdraft_limit_minor)

        monkeypatch.setattr(replay, "evolve", doubled)
        assert self.changed(before) == {"states"}

    def test_other_balances(self, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replay, "sets", lambda event: {**sets(event), "status": "active"})
        assert self.changed(before) == {"balances"}

    def test_other_documents(self, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(search_documents, "said_cause", lambda _: None)
        assert self.changed(before) == {"account-events"}

    def test_other_rows(self, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(analytics, "said_cause", lambda _: None)
        assert self.changed(before) == {"analytics"}

    def test_another_upcaster(self, before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        (upcaster,) = UPCASTERS
        other = upcaster._replace(convert=lambda own: {**upcaster.convert(own), "previous_limit_minor": 0})
        monkeypatch.setattr(upcasters, "path", partial(upcasters.path, upcasters=[other]))
        assert self.changed(before) == {"events", "account-events", "analytics"}
