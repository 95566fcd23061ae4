"""How old records are brought to the newest version: Avro's resolution, upcasters, and both in turn."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from command_service.answers import fingerprint
from schemas import reading, upcasters
from schemas.codec import Codec, Undecodable
from schemas.commands import CloseAccount, Freeze
from schemas.events import AccountClosed, FreezeCause, OverdraftLimitSet
from schemas.released import ReleasedSchema, newest, released
from schemas.upcasters import NoPath, Upcaster, Version, end, path
from tests.unit.given import close_account, freeze
from tests.unit.known_records import COMMON
from tests.unit.memory_registry import MemoryRegistry

EVENT: Final = "daybook.account.event"
A1, A2, A3, A4 = (Version("A", number) for number in range(1, 5))
B1, B2, C1 = Version("B", 1), Version("B", 2), Version("C", 1)
NEWEST: Final = {"A": 4, "B": 2, "C": 1}

Schema = dict[str, Any]


def to(source: Version, target: Version) -> Upcaster:
    return Upcaster(source, target, lambda own: own)


class TestPaths:
    def test_the_newest_is_where_it_is(self) -> None:
        assert path(A4, NEWEST, []) == ()
        assert end(A4, ()) == A4

    def test_within_a_name_avro_goes_to_the_newest_at_once(self) -> None:
        assert path(A1, NEWEST, []) == (A4,)
        assert path(A3, NEWEST, []) == (A4,)

    def test_avro_stops_where_an_upcaster_begins_and_goes_on_behind_it(self) -> None:
        meaning, split = to(A2, A3), to(A4, B1)
        assert path(A1, NEWEST, [meaning, split]) == (A2, meaning, A4, split, B2)
        assert path(A2, NEWEST, [meaning, split]) == (meaning, A4, split, B2)
        assert path(A3, NEWEST, [meaning, split]) == (A4, split, B2)
        assert end(A1, path(A1, NEWEST, [meaning, split])) == B2

    def test_over_several_majors(self) -> None:
        first, second = to(A4, B1), to(B2, C1)
        assert path(A1, NEWEST, [second, first]) == (A4, first, B2, second)
        assert end(A4, path(A4, NEWEST, [second, first])) == C1

    @pytest.mark.parametrize(
        ("found", "what"),
        [
            ([to(A4, B1), to(B2, A1)], "round in a circle"),
            ([to(A2, A1)], "round in a circle"),
            ([to(A2, A2)], "round in a circle"),
            ([to(A4, B1), to(A4, C1)], "two upcasters begin at A v4"),
            ([to(A4, Version("B", 3))], "leads to B v3, which is not among"),
            ([to(A4, Version("D", 1))], "leads to D v1, which is not among"),
        ],
    )
    def test_what_is_no_path(self, found: list[Upcaster], what: str) -> None:
        with pytest.raises(NoPath, match=what):
            path(A1, NEWEST, found)

    def test_an_unknown_version(self) -> None:
        with pytest.raises(NoPath, match="A v5"):
            path(Version("A", 5), NEWEST, [])


def schema(name: str, version: int) -> Schema:
    text = next(s.text for s in released() if (s.name, s.version) == (name, version))
    found: Schema = json.loads(text)
    return found


def value_of(written: Schema, **own: Any) -> tuple[Codec, bytes]:
    """A codec whose registry knows one schema, and an event that is written with it."""
    registry, out = MemoryRegistry(), io.BytesIO()
    out.write(b"\0" + registry.register("x", json.dumps(written)).to_bytes(4, "big"))
    schemaless_writer(out, parse_schema(written), {**COMMON, "chain_hash": bytes(32), **own})
    return Codec(registry), out.getvalue()


def test_the_split_limit_is_read_without_what_the_old_event_does_not_say() -> None:
    codec, value = value_of(schema(f"{EVENT}.OverdraftLimitSet", 1), limit_minor=5, currency="EUR")
    recorded = codec.decode_event(value)
    assert recorded.event == OverdraftLimitSet(previous_limit_minor=None, new_limit_minor=5, currency="EUR")
    assert recorded.type_name == "OverdraftLimitSet"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", [f"{EVENT}.AccountFrozen", "daybook.account.command.Freeze"])
def test_an_old_reader_reads_a_cause_that_it_does_not_know_as_unspecified(name: str, version: int) -> None:
    """A service of the release before, during a rolling update."""
    written, read_as = schema(name, 3), schema(name, version)
    out = io.BytesIO()
    common = {**COMMON, "chain_hash": bytes(32), "issued_at": 0}
    schemaless_writer(out, parse_schema(written), {**common, "cause": "SANCTIONS"})
    out.seek(0)
    record = schemaless_reader(out, parse_schema(written), parse_schema(read_as))
    assert isinstance(record, dict)
    assert record.get("cause") == {1: None, 2: "UNSPECIFIED"}[version]


def test_a_cause_of_a_later_release_is_read_as_unspecified() -> None:
    later = schema(f"{EVENT}.AccountFrozen", 3)
    later["fields"][-1]["type"]["symbols"].append("BANKRUPTCY")
    for cause, read in (("BANKRUPTCY", FreezeCause.UNSPECIFIED), ("COURT_ORDER", FreezeCause.COURT_ORDER)):
        codec, value = value_of(later, cause=cause)
        event = codec.decode_event(value).event
        assert getattr(event, "cause", None) is read


def test_a_version_of_an_old_name_that_we_do_not_know_is_upcast_as_its_newest() -> None:
    later = schema(f"{EVENT}.OverdraftLimitSet", 1)
    later["fields"].append({"name": "approved_by", "type": ["null", "string"], "default": None})
    codec, value = value_of(later, limit_minor=5, currency="EUR", approved_by="Grace")
    event = OverdraftLimitSet(previous_limit_minor=None, new_limit_minor=5, currency="EUR")
    assert codec.decode_event(value).event == event


def test_a_next_major_of_a_later_release_says_so() -> None:
    codec, value = value_of(schema(f"{EVENT}.AccountUnfrozen", 1) | {"namespace": f"{EVENT}.v7"})
    with pytest.raises(Undecodable, match=r"v7\.AccountUnfrozen is not an event, or one of a later release") as failed:
        codec.decode_event(value)
    assert failed.value.reason == "not_an_event"


class TestWithinOneName:
    """Releases to come: AccountClosed v3, in which the reference means something else, and v4, resolved by Avro."""

    NAME: Final = f"{EVENT}.AccountClosed"

    @pytest.fixture(params=["ok", "fails"])
    def convert(self, request: pytest.FixtureRequest) -> Callable[[Schema], Schema]:
        if request.param == "fails":
            return lambda own: {"payout_reference": own["no_such_field"]}
        return lambda own: {"payout_reference": f"bank:{own['payout_reference']}", "checked": True}

    @pytest.fixture(autouse=True)
    def _released(self, monkeypatch: pytest.MonkeyPatch, convert: Callable[[Schema], Schema]) -> None:
        third = schema(self.NAME, 2)
        third["fields"].append({"name": "checked", "type": "boolean", "default": False})
        fourth = schema(self.NAME, 2)
        fourth["fields"].insert(-1, {"name": "branch", "type": ["null", "string"], "default": None})
        more = [ReleasedSchema(self.NAME, 3, json.dumps(third)), ReleasedSchema(self.NAME, 4, json.dumps(fourth))]
        all_of_them = (*released(), *more)
        steps = [Upcaster(Version(self.NAME, 2), Version(self.NAME, 3), convert)]
        monkeypatch.setattr(reading, "released", lambda: all_of_them)
        monkeypatch.setattr(reading, "newest", lambda: {**newest(), self.NAME: more[-1]})
        monkeypatch.setattr(reading, "newest_versions", lambda: {s.name: s.version for s in all_of_them})
        monkeypatch.setattr(upcasters, "path", partial(path, upcasters=steps))
        monkeypatch.setattr(reading, "_released_by_fingerprint", reading._released_by_fingerprint.__wrapped__)
        self.fourth = fourth

    @pytest.mark.parametrize("convert", ["ok"], indirect=True)
    @pytest.mark.parametrize(("version", "own"), [(1, {}), (2, {"payout_reference": "7"})])
    def test_avro_upcaster_avro(self, version: int, own: Schema) -> None:
        codec, value = value_of(schema(self.NAME, version), **own)
        given = own.get("payout_reference")
        # `branch`, which the type does not have, shows that the last hop was taken.
        with pytest.raises(Undecodable, match=r"AccountClosed is not what its type takes: .*branch"):
            codec.decode_event(value)
        _, found, _ = reading.Reader(json.dumps(schema(self.NAME, version)))._event(value[5:])
        assert found == {"branch": None, "payout_reference": f"bank:{given}"}

    @pytest.mark.parametrize("convert", ["fails"], indirect=True)
    def test_an_upcaster_that_fails_is_told_with_the_record(self) -> None:
        codec, value = value_of(schema(self.NAME, 2), payout_reference="7")
        with pytest.raises(Undecodable, match=r"AccountClosed cannot become the newest version: KeyError") as failed:
            codec.decode_event(value)
        assert failed.value.reason == "undecodable"


@pytest.mark.parametrize(
    ("command", "released_as"),
    [
        (freeze(), "669fb7221837fee6"),
        (freeze(reason="x"), "dfca8bce3ccbbaec"),
        (close_account(reason="x"), "7248b39f4ce6f37c"),
    ],
)
def test_a_new_optional_field_changes_no_commands_fingerprint(command: Freeze | CloseAccount, released_as: str) -> None:
    """Written down with the release before there were causes and references: its answers are on the log."""
    assert fingerprint(command).hex() == released_as


def test_commands_that_differ_in_a_new_field_ask_for_different_things() -> None:
    asked = [freeze(), *(freeze(cause) for cause in FreezeCause if cause is not FreezeCause.UNSPECIFIED)]
    assert len({fingerprint(command) for command in asked}) == len(FreezeCause)
    assert fingerprint(close_account("a")) != fingerprint(close_account("b"))


def test_a_command_of_the_first_version_is_the_same_as_one_of_today() -> None:
    """As clients that are not ours go on sending it: decoded, it has the fingerprint of its plain self."""
    first = schema("daybook.account.command.Freeze", 1)
    registry, out = MemoryRegistry(), io.BytesIO()
    out.write(b"\0" + registry.register("x", json.dumps(first)).to_bytes(4, "big"))
    plain = freeze(reason="x")
    record = {name: getattr(plain, name) for name in (field["name"] for field in first["fields"])}
    schemaless_writer(out, parse_schema(first), record)
    found = Codec(registry).decode_command(out.getvalue())
    assert found == plain
    assert fingerprint(found).hex() == "dfca8bce3ccbbaec"


def test_events_of_today_compare_and_default_as_before() -> None:
    assert AccountClosed() == AccountClosed(payout_reference=None)
