"""Drafts of a next version, and the graph of those there are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from daybook.evolution import checkout
from daybook.evolution.checkout import Checkout, NoCheckout, must_be_here
from daybook.evolution.drafts import NoDraft, new_version
from daybook.evolution.graph import dot, lines, nodes
from schemas.upcasters import UPCASTERS, Upcaster, Version
from tests.unit.schema_copies import copied, problems, rehash

EVENT: Final = "daybook.account.event"
OLD_LIMIT: Final = Version(f"{EVENT}.OverdraftLimitSet", 1)
NEW_LIMIT: Final = Version(f"{EVENT}.v2.OverdraftLimitSet", 1)


@pytest.fixture
def copy(tmp_path: Path) -> Checkout:
    return copied(tmp_path)


class TestDrafts:
    def test_a_next_version_is_a_copy_to_be_changed(self, copy: Checkout) -> None:
        made = new_version(copy, "AccountClosed", major=False)
        assert made.version == (f"{EVENT}.AccountClosed", 3)
        assert made.file == copy.schemas / "AccountClosed.v3.avsc"
        assert made.file.read_bytes() == (copy.schemas / "AccountClosed.v2.avsc").read_bytes()
        assert "WITH a default" in made.steps[0]
        with pytest.raises(NoDraft, match=r"AccountClosed\.v3\.avsc is not in released\.sha256: it is a draft itself"):
            new_version(copy, "AccountClosed", major=False)

    def test_of_a_record_with_two_majors_the_one_written_today_goes_on(self, copy: Checkout) -> None:
        assert new_version(copy, "OverdraftLimitSet", major=False).file.name == "OverdraftLimitSet.2.v2.avsc"

    @pytest.mark.parametrize(
        ("name", "major", "file"),
        [("AccountFrozen", 2, "AccountFrozen.2.v1.avsc"), ("OverdraftLimitSet", 3, "OverdraftLimitSet.3.v1.avsc")],
    )
    def test_a_next_major_passes_with_the_upcaster_it_gives(
        self, copy: Checkout, name: str, major: int, file: str
    ) -> None:
        made = new_version(copy, name, major=True)
        assert made.file.name == file
        assert made.version == (f"{EVENT}.v{major}.{name}", 1)
        stub, known = made.steps[1].partition("\n\n")[2], {"Fields": dict, "Upcaster": Upcaster, "Version": Version}
        function, _, entry = stub.partition("# in UPCASTERS:")
        exec(function, known)  # noqa: S102
        upcaster = eval(entry.strip().rstrip(","), known)  # noqa: S307
        rehash(copy)
        found = [str(p) for p in problems(copy, [*UPCASTERS, upcaster]) if "golden" not in p.what]
        assert found != []
        # Until the type says its new major, nothing writes it.
        assert all("which nothing is written as today" in problem for problem in found)

    def test_what_is_read_by_its_full_name_has_no_next_major(self, copy: Checkout) -> None:
        with pytest.raises(NoDraft, match=r"whoever reads daybook\.account\.CommandReply goes by its full name"):
            new_version(copy, "CommandReply", major=True)
        assert not (copy.schemas / "CommandReply.2.v1.avsc").exists()

    def test_an_unknown_record(self, copy: Checkout) -> None:
        with pytest.raises(NoDraft, match=r"there is no record Nothing; there are AccountClosed, .*Withdraw"):
            new_version(copy, "Nothing", major=False)

    def test_only_in_a_checkout(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(checkout.schemas, "__file__", str(tmp_path / "schemas" / "__init__.py"))
        with pytest.raises(NoCheckout, match=r"installed package: a version is added in a checkout"):
            must_be_here()


def test_the_graph_has_every_version_and_where_it_leads() -> None:
    found = nodes()
    limit = next(node for node in found if node.version == OLD_LIMIT)
    assert limit.record() == {
        "name": OLD_LIMIT.name,
        "version": 1,
        "file": "OverdraftLimitSet.v1.avsc",
        "read_as": {"name": NEW_LIMIT.name, "version": 1},
        "path": [{"by": "upcaster", "name": NEW_LIMIT.name, "version": 1}],
    }
    text = "\n".join(lines(found))
    assert "AccountFrozen         " in text
    assert "v1 -> v2 -> v3" in text
    assert f"v1 => {NEW_LIMIT}" in text
    drawn = list(dot(found))
    assert (drawn[0], drawn[-1]) == ("digraph schemas {", "}")
    assert f'  "{OLD_LIMIT}" -> "{NEW_LIMIT}" [label="upcaster", style=bold];' in drawn
