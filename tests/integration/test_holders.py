"""Holders in what is read: opened for whoever has the keys, sealed in the trail, and erased everywhere at once."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daybook import Client
from daybook.cli import main
from daybook.errors import UnreadableRecord
from daybook.holders import SEALED
from daybook.verify.run import Outcome, verify
from schemas.connections import Connections
from schemas.sealing import ERASED, is_sealed
from tests.conftest import Ledger
from tests.processes import Process, environment, until
from tests.search_model import SearchModel

NAME = "Alžběta Příkladová"
EMAIL = "alzbeta@example.org"
SECRET = "rent of Alžběta"

Daybook = Callable[..., Any]


@pytest.fixture(scope="module")
def search(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The module's ledger with a search projector."""
    log = tmp_path_factory.mktemp("search") / "search.log"
    search = Process("projectors", "search", env=environment(ledger.connections), log=log)
    search.start()
    with SearchModel(ledger.connections) as model:
        until(lambda: model.client.indices.exists_alias(name=",".join(model.aliases)), "indices")
    yield search
    assert search.stop() == 0, search.output


@pytest.fixture
def client(ledger: Ledger, search: Process) -> Iterator[Client]:
    with Client(ledger.connections, user_id="ada", timeout_s=60) as client:
        yield client


@pytest.fixture
def account(client: Client) -> str:
    """One with a name, a personal reason and a payout reference, and its documents."""
    account = f"H-{uuid.uuid4().hex[:8]}"
    client.open_account(account, "EUR", "Alžběta", holder_email=EMAIL)
    client.deposit(account, "5.00 EUR", reason=SECRET, reason_is_personal=True)
    client.change_holder(account, NAME, holder_email=EMAIL)
    client.withdraw(account, "5.00 EUR", reason="for all to see")
    closed = client.close_account(account, payout_reference=f"cheque to {NAME}")
    client.account(account, at_least=closed.sequence)
    assert len(list(client.history(account, at_least=closed.sequence))) == 5
    return account


@pytest.fixture
def daybook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ledger: Ledger) -> Daybook:
    """Runs `daybook`, and gives what it printed; with `--json`, its records."""
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str, code: int = 0, connections: Connections = ledger.connections) -> Any:
        for name in ("DAYBOOK_KEK", "DAYBOOK_KEK_FILE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment(connections, DAYBOOK_USER="ada").items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert ended.value.code in ((None, 0) if code == 0 else (code,)), said.err
        return [json.loads(line) for line in said.out.splitlines()] if "--json" in arguments else said.out

    return run


def keyless(connections: Connections) -> Connections:
    """The same servers for somebody who has no key-encryption keys."""
    return connections.model_copy(update={"kek_file": None, "kek": None})


def without_plaintext(connections: Connections) -> bool:
    """Whether nothing personal can be read in the trail."""
    with SearchModel(connections) as model:
        trail = json.dumps(model.events(), ensure_ascii=False)
    return not any(text in trail for text in (NAME, EMAIL, SECRET, "Alžběta"))


def test_the_view_has_the_holder_in_plain_and_the_trail_has_him_sealed(client: Client, account: str) -> None:
    view = client.account(account)
    assert (view.holder_name, view.holder_email, view.holder_erased) == (NAME, EMAIL, False)
    until(
        lambda: account in [found.account_id for found in client.search("příkladová").accounts], "a search to find it"
    )
    assert without_plaintext(client.connections)

    entries = list(client.history(account))
    created, paid, changed, taken, closed = entries
    for text in (created.holder_name, created.holder_email, paid.reason, changed.holder_name, closed.payout_reference):
        assert text is not None
        assert is_sealed(text)
    assert taken.reason == "for all to see"
    with client.holders([account]) as holders:
        assert [holders.entry(entry).holder_name for entry in entries] == ["Alžběta", None, NAME, None, None]
        assert (holders.entry(paid).reason, holders.entry(taken).reason) == (SECRET, "for all to see")
        assert holders.entry(closed).payout_reference == f"cheque to {NAME}"
        assert holders.account(client.past.as_of(account, 2)).holder_name == "Alžběta"


def test_the_terminal_opens_what_it_has_the_keys_for(daybook: Daybook, client: Client, account: str) -> None:
    for show in (["history", account], ["history", account, "--from-log"], ["tail", account, "--no-follow"]):
        out = daybook(*show)
        assert "opened for Alžběta, overdraft" in out
        assert f"holder is now {NAME} <{EMAIL}>" in out
        assert f"closed, paid out by cheque to {NAME}" in out
        assert SECRET in out
        sealed = daybook(*show, connections=keyless(client.connections))
        assert f"opened for {SEALED}, overdraft" in sealed
        assert f"closed, paid out by {SEALED}" in sealed
        assert "for all to see" in sealed
        for out in (sealed, daybook(*show, "--sealed")):
            assert not any(text in out for text in ("Alžběta", NAME, EMAIL, SECRET))
        (first, *_) = daybook(*show, "--sealed", "--json")
        assert is_sealed(first["holder_name"])
        (first, *_) = daybook(*show, "--json", connections=keyless(client.connections))
        assert (first["holder_name"], first["holder_email"]) == (SEALED, SEALED)

    (then,) = daybook("as-of", account, "--sequence", "2", "--json")
    assert (then["holder_name"], then["holder_email"], then["holder_erased"]) == ("Alžběta", EMAIL, False)
    (changed,) = daybook("diff", account, "--from", "1", "--to", "4", "--json")
    # The address was sealed anew with the same text.
    assert changed["changed"] == ["holder_name", "refundable"]
    (view,) = daybook("account", account, "--json", connections=keyless(client.connections))
    assert (view["holder_name"], view["holder_erased"]) == (NAME, False)


def test_models_are_compared_by_what_is_sealed(daybook: Daybook, client: Client, account: str) -> None:
    connections = client.connections
    (verdict,) = verify(connections, ["search"], timeout_s=60, tell=lambda _: None)
    assert (verdict.outcome, verdict.without) == (Outcome.EQUAL, None), verdict
    out = daybook("verify", "models", "search", connections=keyless(connections))
    assert "search: equal" in out
    assert "without sealed holders' names, since DAYBOOK_KEK_FILE names no keys here" in out
    with SearchModel(connections) as model:
        index = model.concrete(model.indices.accounts)
        right = model.client.get(index=index, id=account)["_source"]
        model.client.update(index=index, id=account, doc={"holder_name": "Mallory"}, refresh=True)
        try:
            (verdict,) = verify(connections, ["search"], timeout_s=60, tell=lambda _: None)
        finally:
            model.client.index(index=index, id=account, document=right, refresh=True)
    assert str(verdict.difference) == f"account {account}: holder_name is Mallory, where the log gives {NAME}"


def test_an_erased_holder_is_gone_from_all_that_is_read(daybook: Daybook, client: Client, account: str) -> None:
    erased = client.erase_holder(account, reason="request 17")
    assert (erased.sequence, erased.event_count) == (6, 1)
    assert client.erase_holder(account).event_count == 0

    view = client.account(account, at_least=6)
    assert (view.holder_name, view.holder_email, view.holder_erased) == ("[erased]", None, True)
    assert len(list(client.history(account, at_least=6))) == 6
    until(
        lambda: account not in [found.account_id for found in client.search(NAME).accounts],
        "a search that does not find the name",
    )
    for show in (["history", account], ["history", account, "--from-log"], ["tail", account, "--no-follow"]):
        out = daybook(*show)
        assert "opened for [erased], overdraft" in out
        assert "erased the holder" in out
        assert "request 17" in out
        assert "for all to see" in out
        assert not any(text in out for text in ("Alžběta", NAME, EMAIL, SECRET))
    (then,) = daybook("as-of", account, "--sequence", "2", "--json")
    assert (then["holder_name"], then["holder_email"], then["holder_erased"]) == ("[erased]", None, False)
    (now,) = daybook("as-of", account, "--json")
    assert (now["holder_name"], now["holder_email"], now["holder_erased"]) == ("[erased]", None, True)
    assert "holder erased" in daybook("diff", account, "--from", "5")
    (verdict,) = verify(client.connections, ["search"], timeout_s=60, tell=lambda _: None)
    assert verdict.outcome is Outcome.EQUAL, verdict


def test_a_model_that_is_made_anew_does_not_know_who_was_erased(client: Client, account: str, search: Process) -> None:
    other = f"H-{uuid.uuid4().hex[:8]}"
    client.open_account(other, "EUR", NAME)
    client.erase_holder(account)
    client.account(account, at_least=6)

    command = [sys.executable, "-m", "daybook", "rebuild", "search", "--json"]
    env = environment(client.connections)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    outcome = json.loads(done.stdout)
    assert (outcome["switched"], outcome["differing"]) == (True, 0)
    assert client.account(account).holder_name == "[erased]"
    assert client.account(other, at_least=1).holder_name == NAME

    # The projector had the key, and has read behind its erasure since.
    with SearchModel(client.connections) as model:
        model.wipe()
    until(lambda: _view(client, account) == ("[erased]", True, 6), "documents from the log's start")
    assert _view(client, other) == (NAME, False, 1)
    assert search.running()


def _view(client: Client, account: str) -> tuple[str, bool, int] | None:
    with SearchModel(client.connections) as model:
        found = model.accounts().get(account)
    return None if found is None else (found["holder_name"], found.get("holder_erased", False), found["sequence"])


def test_a_projector_without_key_encryption_keys_stops_at_once(
    ledger: Ledger, start: Callable[..., Process], tmp_path: Path
) -> None:
    env = environment(keyless(ledger.connections))
    missing = environment(ledger.connections, DAYBOOK_KEK_FILE=str(tmp_path / "kek"))
    for variables, said in (
        (env, "neither DAYBOOK_KEK_FILE nor DAYBOOK_KEK is set"),
        (missing, f"the file of key-encryption keys {tmp_path}/kek (DAYBOOK_KEK_FILE) is not there"),
    ):
        process = start("projectors", "search", env=variables)
        assert process.wait() == 2
        assert said in process.output


def test_a_text_that_does_not_fit_its_key_is_told_and_is_no_erasure(client: Client, account: str) -> None:
    other = f"H-{uuid.uuid4().hex[:8]}"
    client.open_account(other, "EUR", NAME)
    (created, *_) = client.history(account)
    assert created.holder_name is not None
    with client.holders() as holders:
        with pytest.raises(
            UnreadableRecord, match=f"account {other}: holder_name of {other}, sealed in event .* belongs"
        ):
            holders.open(created.holder_name, other, "holder_name")
        assert holders.open(created.holder_name, "never-there", "holder_name") is ERASED
