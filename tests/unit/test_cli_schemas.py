"""`daybook schemas` and the options of commands that came with second versions, without servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daybook.cli import main
from daybook.cli.phrases import phrase
from daybook.cli.searching import what
from daybook.evolution import checkout, graph
from daybook.search import audit_entry
from projectors.search_documents import event_document
from schemas.events import AccountClosed, AccountFrozen, Event, FreezeCause, OverdraftLimitSet
from tests.recorded import completed, received, recorded, returned, sent


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_the_gate_passes_here_and_says_each_check_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemas", "check", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 4
    assert all(check["ok"] and check["problems"] == [] for check in found)


def test_what_is_wrong_is_told_and_the_exit_code_is_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkout, "here", lambda: checkout.Checkout(tmp_path))
    assert run("schemas", "check") == 1
    captured = capsys.readouterr()
    assert "WRONG  golden corpus complete and readable" in captured.out
    assert "daybook.account.event.AccountClosed v1: no golden bytes have it. Add an event to" in captured.out
    assert "problems with" in captured.err


def test_installed_without_sources_it_checks_what_is_there_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkout, "here", lambda: None)
    assert run("schemas", "check") == 0
    assert "there is no golden corpus here: it is in the source checkout" in capsys.readouterr().err
    assert run("schemas", "new-version", "AccountClosed") == 5
    assert "is an installed package: a version is added in a checkout" in capsys.readouterr().err


def test_a_draft_of_nothing_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemas", "new-version", "Nothing") == 2
    assert "there is no record Nothing; there are AccountClosed" in capsys.readouterr().err


def test_the_graph_in_its_three_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schemas", "graph") == 0
    assert "AccountFrozen         " in (text := capsys.readouterr().out)
    assert run("schemas", "graph", "--json") == 0
    nodes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {node["name"] for node in nodes} == {line.split()[0] for line in text.splitlines()}
    assert run("schemas", "graph", "--dot") == 0
    assert capsys.readouterr().out.startswith("digraph schemas {")


def test_a_graph_of_what_cannot_be_read_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        json.loads("{")

    monkeypatch.setattr(graph, "released", broken)
    assert run("schemas", "graph") == 1
    assert "the schemas cannot be read: Expecting property name" in capsys.readouterr().err


def test_an_unknown_cause_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("freeze", "A-1", "--cause", "boredom") == 2
    assert "'court-order'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("event", "said", "from_log"),
    [
        (AccountFrozen(), "frozen", "frozen"),
        (AccountFrozen(cause=FreezeCause.COURT_ORDER), "frozen: court order", "frozen: court order"),
        (AccountClosed(), "closed", "closed"),
        (AccountClosed(payout_reference="SEPA 7"), "closed, paid out by SEPA 7", "closed, paid out by SEPA 7"),
        (
            OverdraftLimitSet(previous_limit_minor=500, new_limit_minor=0, currency="EUR"),
            "overdraft set to 0.00 EUR from 5.00 EUR",
            "overdraft set to 0.00 EUR from 5.00 EUR",
        ),
        (
            OverdraftLimitSet(previous_limit_minor=None, new_limit_minor=7, currency="EUR"),
            "overdraft set to 0.07 EUR",
            "overdraft set to 0.07 EUR",
        ),
        (
            sent("A-1", 2, 1, amount=30, balance=70, in_transit=50).event,
            "sent to B-1",
            "sent 0.30 EUR to B-1, balance 0.70 EUR, in transit 0.50 EUR",
        ),
        (
            received("B-1", 2, 1, amount=30, balance=90).event,
            "received from A-1",
            "received 0.30 EUR from A-1, balance 0.90 EUR",
        ),
        (
            completed("A-1", 2, 1, amount=30).event,
            "0.30 EUR arrived at B-1",
            "0.30 EUR arrived at B-1, in transit 0.00 EUR",
        ),
        (
            returned("A-1", 2, 1, amount=30, balance=90, in_transit=20).event,
            "came back from B-1: account B-1 is closed (account_closed)",
            "0.30 EUR came back from B-1: account B-1 is closed (account_closed), balance 0.90 EUR, in transit "
            "0.20 EUR",
        ),
    ],
)
def test_the_trail_and_the_log_say_what_new_fields_have(event: Event, said: str, from_log: str) -> None:
    item = recorded("A-1", 2, event)
    document = event_document(item, 0, 1, 0, "EUR")
    entry = audit_entry({name: getattr(document, name) for name in document.__struct_fields__})
    assert what(entry) == said
    assert phrase(event) == from_log
