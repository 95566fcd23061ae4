"""`daybook schemas check` in copies of the schemas and the golden corpus: what it lets pass, and each mistake."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from daybook.evolution.check import HASHES
from daybook.evolution.checkout import Checkout
from daybook.evolution.corpus import RESULTS
from daybook.evolution.gate import gate
from schemas.events import FreezeCause
from schemas.upcasters import UPCASTERS, Upcaster, Version
from tests.unit.schema_copies import ROOT, copied, problems, rehash, told

EVENT: Final = "daybook.account.event"
OLD_LIMIT: Final = Version(f"{EVENT}.OverdraftLimitSet", 1)
NEW_LIMIT: Final = Version(f"{EVENT}.v2.OverdraftLimitSet", 1)

Schema = dict[str, Any]


@pytest.fixture
def copy(tmp_path: Path) -> Checkout:
    return copied(tmp_path)


def next_one(copy: Checkout, file: str, source: str, change: Callable[[Schema], None]) -> None:
    """Release a changed copy of a schema as another version, hash and all."""
    schema = json.loads((copy.schemas / source).read_text(encoding="utf-8"))
    change(schema)
    (copy.schemas / file).write_text(json.dumps(schema), encoding="utf-8")
    rehash(copy)


def newest(record: str) -> int:
    """The number of a record's newest version."""
    files = (ROOT / "schemas" / "account").glob(f"{record}.v*.avsc")
    return max(int(file.stem.rpartition(".v")[2]) for file in files)


def last(record: str) -> str:
    """The file of a record's newest version."""
    return f"{record}.v{newest(record)}.avsc"


def following(record: str, ahead: int = 1) -> str:
    """The file that the version after the newest will have, or one further on."""
    return f"{record}.v{newest(record) + ahead}.avsc"


CLOSED: Final = newest("AccountClosed")
DEPOSITED: Final = newest("MoneyDeposited")
FORWARD: Final = f"what v{DEPOSITED + 1} writes cannot be read as v{DEPOSITED}"
BACKWARD: Final = f"what v{DEPOSITED} writes cannot be read as v{DEPOSITED + 1}"
REPLY: Final = newest("CommandReply")
CHANGED: Final = newest("HolderChanged")


def with_field(**field: Any) -> Callable[[Schema], None]:
    return lambda schema: schema["fields"].append({"doc": "A test's.", **field})


def without(name: str) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        schema["fields"] = [field for field in schema["fields"] if field["name"] != name]

    return change


def changed(name: str, /, **to: Any) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        next(field for field in schema["fields"] if field["name"] == name).update(to)

    return change


def causes(*symbols: str, **more: str) -> Callable[[Schema], None]:
    return changed("cause", type={"type": "enum", "name": "FreezeCause", "symbols": list(symbols), **more})


class TestWhatPasses:
    def test_what_is_there(self, copy: Checkout) -> None:
        assert told(copy) == ""

    def test_a_field_with_a_default_but_for_its_golden_bytes(self, copy: Checkout) -> None:
        next_one(copy, following("AccountClosed"), last("AccountClosed"), with_field(name="n", type="long", default=0))
        (only,) = problems(copy)
        assert (only.where, only.what) == (f"{EVENT}.AccountClosed v{CLOSED + 1}", "no golden bytes have it")

    def test_a_change_of_meaning_within_a_name_by_an_upcaster(self, copy: Checkout) -> None:
        field = with_field(name="trimmed", type="boolean", default=True)
        next_one(copy, following("AccountClosed"), last("AccountClosed"), field)
        name = f"{EVENT}.AccountClosed"
        trimmed = Upcaster(
            Version(name, CLOSED),
            Version(name, CLOSED + 1),
            lambda own: {"payout_reference": (own["payout_reference"] or "")[:9], "trimmed": True},
        )
        assert [p.what for p in problems(copy, [*UPCASTERS, trimmed])] == ["no golden bytes have it"]


class TestFiles:
    def test_an_edited_schema(self, copy: Checkout) -> None:
        file = copy.schemas / "Deposit.v1.avsc"
        file.write_text(file.read_text(encoding="utf-8").replace("Amount", "The amount"), encoding="utf-8")
        assert "Deposit.v1.avsc: it was edited after its release. A released schema is never edited" in told(copy)

    def test_an_edited_schema_whose_new_hash_was_added(self, copy: Checkout) -> None:
        file = copy.schemas / "Deposit.v1.avsc"
        file.write_text(file.read_text(encoding="utf-8").replace("Amount", "The amount"), encoding="utf-8")
        with (copy.schemas / HASHES).open("a", encoding="utf-8") as hashes:
            hashes.write(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
        assert "Deposit.v1.avsc: it was edited after its release" in told(copy)

    def test_a_removed_schema(self, copy: Checkout) -> None:
        (copy.schemas / "AccountFrozen.v1.avsc").unlink()
        found = told(copy)
        assert "AccountFrozen.v1.avsc: it was released, and is gone" in found
        left = ", ".join(map(str, range(2, newest("AccountFrozen") + 1)))
        assert f"AccountFrozen: it has the versions {left}. " in found

    def test_a_removed_schema_whose_hash_went_too(self, copy: Checkout) -> None:
        (copy.schemas / "OverdraftLimitSet.v1.avsc").unlink()
        rehash(copy)
        found = told(copy)
        assert "OverdraftLimitSet v1: golden bytes have it, and its schema is gone" in found
        assert "there is no daybook.account.event.OverdraftLimitSet v1" in found

    def test_a_schema_whose_hash_is_not_written_down(self, copy: Checkout) -> None:
        file = following("AccountClosed")
        shutil.copy(copy.schemas / last("AccountClosed"), copy.schemas / file)
        assert f"{file}: its hash is not in {HASHES}" in told(copy)

    def test_a_default_that_does_not_fit(self, copy: Checkout) -> None:
        next_one(copy, following("HolderChanged"), last("HolderChanged"), changed("holder_email", type="string"))
        wrong = f"HolderChanged.v{CHANGED + 1}.avsc: it cannot be read as a record's schema: SchemaParseException Def"
        assert wrong in told(copy)

    @pytest.mark.parametrize("text", ["{", "[]", '"long"', '{"type": "record", "name": "X"}'])
    def test_a_file_that_is_no_schema(self, copy: Checkout, text: str) -> None:
        file = following("Deposit")
        (copy.schemas / file).write_text(text, encoding="utf-8")
        assert f"{file}: it cannot be read as a record's schema" in told(copy)
        # Golden bytes that cannot be read because of it are not what is wrong.
        assert {problem.where for problem in problems(copy)} == {file}
        assert len(gate(copy.schemas, copy.golden)[1]) == 1

    def test_a_file_with_another_records_name(self, copy: Checkout) -> None:
        file, number = following("Deposit"), newest("Deposit") + 1
        shutil.copy(copy.schemas / last("Withdraw"), copy.schemas / file)
        assert f"{file}: it has version {number} of daybook.account.command.Withdraw" in told(copy)


NEXT_VERSIONS: Final[list[tuple[str, str, Callable[[Schema], None], str]]] = [
    (
        following("AccountClosed"),
        last("AccountClosed"),
        with_field(name="teller", type="string"),
        f"what v1 writes cannot be read as v{CLOSED + 1}: field teller is not in what was written, and has no default",
    ),
    (
        following("AccountClosed"),
        last("AccountClosed"),
        without("payout_reference"),
        f"against v{CLOSED}: field payout_reference is gone",
    ),
    (
        following("MoneyDeposited"),
        last("MoneyDeposited"),
        without("balance_minor"),
        f"{FORWARD}: field balance_minor is not in what was written, and has no default",
    ),
    (
        following("AccountFrozen"),
        last("AccountFrozen"),
        causes("UNSPECIFIED", "CUSTOMER_REQUEST", "COURT_ORDER", "FRAUD_SUSPICION", default="UNSPECIFIED"),
        f"against v{newest('AccountFrozen')}: field cause has no symbol SANCTIONS any more",
    ),
    (
        following("CommandReply"),
        last("CommandReply"),
        changed("status", type={"type": "enum", "name": "CommandStatus", "symbols": ["ACCEPTED", "REJECTED", "LATE"]}),
        f"what v{REPLY + 1} writes cannot be read as v{REPLY}: "
        "field status: symbol LATE is unknown, and the enum has no default",
    ),
    (
        following("HolderChanged"),
        last("HolderChanged"),
        changed("holder_name", name="holder"),
        f"against v{CHANGED}: field holder_name is gone",
    ),
    (
        following("MoneyDeposited"),
        last("MoneyDeposited"),
        changed("amount_minor", type="string"),
        f"{BACKWARD}: field amount_minor: long cannot be read as string",
    ),
    (
        following("MoneyDeposited"),
        last("MoneyDeposited"),
        changed("amount_minor", type="int"),
        f"{BACKWARD}: field amount_minor: long cannot be read as int",
    ),
    (
        following("HolderChanged"),
        last("HolderChanged"),
        changed("holder_email", type="string", default=""),
        "field holder_email: null cannot be read as string",
    ),
    (
        following("AccountCreated"),
        last("AccountCreated"),
        changed("overdraft_limit_minor", default=100),
        "field overdraft_limit_minor had the default 0 and has the default 100: older records would be read otherwise",
    ),
    (
        following("AccountUnfrozen"),
        last("AccountUnfrozen"),
        changed("user_id", doc="Somebody."),
        "it does not begin with the fields of every event",
    ),
    (
        following("Deposit"),
        last("Deposit"),
        with_field(name="n", type="long", default=0, doc=""),
        "n of Deposit has no doc",
    ),
    (
        following("Deposit", 2),
        last("Deposit"),
        lambda _: None,
        "daybook.account.command.Deposit: it has the versions "
        + ", ".join(map(str, [*range(1, newest("Deposit") + 1), newest("Deposit") + 2])),
    ),
    (
        following("CommandReply"),
        last("CommandReply"),
        changed("decided_at", type={"type": "long", "logicalType": "timestamp-millis"}),
        "field decided_at was long (timestamp-micros) and is long (timestamp-millis): what is stored in it would be",
    ),
    (
        following("HolderChanged"),
        last("HolderChanged"),
        changed("holder_email", type=["null", "bytes"]),
        "field holder_email was string and is bytes: what is stored in it would be read otherwise",
    ),
    (
        following("AccountFrozen"),
        last("AccountFrozen"),
        causes(*FreezeCause, default="COURT_ORDER"),
        "an enum that read unknown symbols as UNSPECIFIED, and would read them as COURT_ORDER",
    ),
    (
        following("AccountClosed"),
        last("AccountClosed"),
        lambda _: None,
        f"AccountClosed v{CLOSED + 1}: it is written just as v{CLOSED} is, and no reader can tell the two apart",
    ),
    (
        following("AccountClosed"),
        last("AccountClosed"),
        with_field(name="parts", type={"type": "array", "items": "long"}, default=[]),
        f"AccountClosed v{CLOSED + 1}: "
        "parts is nested, and no program reads a nested schema of a release after its own",
    ),
    (
        "Note.v1.avsc",
        "CommandReply.v1.avsc",
        lambda schema: schema.update(name="Note"),
        "daybook.account.Note v1, which nothing is written as today",
    ),
    # The split that became a next major.
    (
        "OverdraftLimitSet.v2.avsc",
        "OverdraftLimitSet.2.v1.avsc",
        lambda schema: schema.update(namespace=EVENT),
        "what v1 writes cannot be read as v2: field new_limit_minor is not in what was written, and has no default",
    ),
]
NEXT_IDS: Final = [
    "without a default",
    "removed, with a default",
    "removed, without one",
    "enum narrowed",
    "enum widened without its default",
    "renamed",
    "retyped",
    "narrowed",
    "no longer optional",
    "another default",
    "another beginning",
    "undocumented",
    "a version left out",
    "another unit",
    "text made bytes",
    "another enum default",
    "unchanged",
    "nested",
    "of no type",
    "split",
]


@pytest.mark.parametrize(("file", "source", "change", "what"), NEXT_VERSIONS, ids=NEXT_IDS)
def test_a_wrong_next_version(
    copy: Checkout, file: str, source: str, change: Callable[[Schema], None], what: str
) -> None:
    next_one(copy, file, source, change)
    assert what in told(copy)


def to_new_limit(own: dict[str, Any]) -> dict[str, Any]:
    return {"previous_limit_minor": None, "new_limit_minor": own["limit_minor"], "currency": own["currency"]}


def emptied(own: dict[str, Any]) -> dict[str, Any]:
    return {"previous_limit_minor": None, "new_limit_minor": own.pop("limit_minor"), "currency": own["currency"]}


counted = iter(range(1_000_000))

UPCASTER_MISTAKES: Final[list[tuple[Sequence[Upcaster], str]]] = [
    ([], "OverdraftLimitSet v1: it leads to daybook.account.event.OverdraftLimitSet v1, which nothing is written as"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, lambda own: own)], "it lacks previous_limit_minor, new_limit_minor and has also"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, lambda own: to_new_limit(own) | {"new_limit_minor": "7"})], "new_limit_minor is"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, lambda own: to_new_limit(own) | {"more": 7})], "it has also more"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, lambda _: None)], "it is a NoneType, not fields by name"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, lambda own: {"n": own["no_such"]})], "it fails for"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT, emptied)], "it changes what it is given"),
    (
        [Upcaster(OLD_LIMIT, NEW_LIMIT, lambda own: to_new_limit(own) | {"new_limit_minor": next(counted)})],
        "gives another thing the next time",
    ),
    ([*UPCASTERS, Upcaster(NEW_LIMIT, OLD_LIMIT, lambda own: own)], "again, round in a circle"),
    ([*UPCASTERS, *UPCASTERS], "two upcasters begin at daybook.account.event.OverdraftLimitSet v1"),
    ([Upcaster(OLD_LIMIT, NEW_LIMIT._replace(number=2), to_new_limit)], "v2, which is not among the released schemas"),
    ([Upcaster(OLD_LIMIT, Version("no.such.Record", 1), to_new_limit)], "there is no no.such.Record v1"),
]
UPCASTER_IDS: Final = [
    "missing",
    "wrong fields",
    "wrong type",
    "a field too many",
    "nothing",
    "fails",
    "changes its argument",
    "not the same twice",
    "circle",
    "two",
    "unknown version",
    "unknown name",
]


@pytest.mark.parametrize(("upcasters", "what"), UPCASTER_MISTAKES, ids=UPCASTER_IDS)
def test_a_wrong_upcaster(copy: Checkout, upcasters: Sequence[Upcaster], what: str) -> None:
    assert what in told(copy, upcasters)


class TestCorpus:
    def test_changed_bytes(self, copy: Checkout) -> None:
        file = copy.golden / "bytes" / "limits.json"
        file.write_text(file.read_text(encoding="utf-8").replace("455552", "435a4b"), encoding="utf-8")
        assert "limits.json: golden bytes were changed" in told(copy)

    def test_changed_bytes_with_a_hash_that_fits(self, copy: Checkout) -> None:
        """The chain hash tells."""
        file, hashes = copy.golden / "bytes" / "limits.json", copy.golden / "recorded.sha256"
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        file.write_text(file.read_text(encoding="utf-8").replace("455552", "435a4b"), encoding="utf-8")
        after = hashlib.sha256(file.read_bytes()).hexdigest()
        hashes.write_text(hashes.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
        assert "value 1 of limits.json: event golden-limits/1 does not follow" in told(copy)

    def test_removed_bytes(self, copy: Checkout) -> None:
        (copy.golden / "bytes" / "first-release.json").unlink()
        found = told(copy)
        assert "first-release.json: golden bytes are gone" in found
        assert "daybook.account.event.AccountClosed v1: no golden bytes have it" in found

    def test_bytes_that_nobody_recorded(self, copy: Checkout) -> None:
        shutil.copy(copy.golden / "bytes" / "limits.json", copy.golden / "bytes" / "more.json")
        assert "more.json: its hash is not in recorded.sha256" in told(copy)

    def test_a_result_that_changed_without_being_declared(self, copy: Checkout) -> None:
        file = copy.golden / RESULTS
        file.write_text(file.read_text(encoding="utf-8").replace('"frozen"', '"stopped"'), encoding="utf-8")
        assert f"{RESULTS}: it is not as it was last declared" in told(copy)

    def test_no_declaration(self, copy: Checkout) -> None:
        (copy.golden / "declared.json").write_text("[]", encoding="utf-8")
        assert "declared.json: it cannot be read" in told(copy)
