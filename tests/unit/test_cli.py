"""The command line without servers: what is typed, what is answered, and the exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from daybook import Client
from daybook.cli import app as tree
from daybook.cli import main
from daybook.cli.accounts import Giving
from daybook.cli.failures import exit_code
from daybook.errors import (
    AccountUnknown,
    DaybookError,
    InvalidPoint,
    InvalidSearch,
    ModelMissing,
    NotConfigured,
    NothingThen,
    NotInstalled,
    NotTaken,
    ReadTimeout,
    Refused,
    ReplyTimeout,
    TransferInFlight,
    TransferUnknown,
    Unreachable,
)
from daybook.importing import AccountsExist
from daybook.mapping import InvalidMapping
from daybook.rows import UnreadableFile
from daybook.supervise import GroupFailed, NoSuchProgram
from schemas.commands import CommandReply, CommandStatus, Transfer

REFUSAL = CommandReply(
    command_id="1",
    account_id="A-1",
    status=CommandStatus.REJECTED,
    sequence=None,
    event_count=0,
    code="account_not_found",
    message="there is no account A-1",
    decided_at=0,
)

SOME_UUID = "5f0c8d1e-93a4-4a57-8b2f-3f5d3b7f6a10"
TRANSFER = Transfer(
    command_id=SOME_UUID,
    account_id="A-1",
    user_id="ada",
    issued_at=0,
    transfer_id=SOME_UUID,
    to_account_id="B-2",
    amount_minor=5,
    currency="EUR",
)


@pytest.fixture(autouse=True)
def _wide_and_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No stack's addresses are found, and messages are not broken into lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("DAYBOOK_KAFKA_BOOTSTRAP", "DAYBOOK_REGISTRY_URL", "DAYBOOK_REDIS_URL", "DAYBOOK_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (["200.005 EUR"], '"200.005 EUR" has 3 decimals, but EUR has 2'),
        (["1e3 EUR"], '"1e3" is not an amount: write plain digits'),
        (["NaN EUR"], '"NaN" is not an amount'),
        (["-5.00 EUR"], '"-5.00" is negative'),
        (["-5.00", "EUR"], '"-5.00" is negative'),
        (["5.00 XXX"], '"XXX" is not a currency'),
        (["5.00"], '"5.00" is not an amount: write a number and a currency'),
        (["1,000.00", "EUR"], '"1,000.00" is not an amount'),
        (["5.00", "EUR", "now"], '"EUR now" is not a currency'),
        (["99999999999999999999 EUR"], "is too large"),
    ],
)
@pytest.mark.parametrize("command", [["deposit"], ["withdraw"], ["overdraft"], ["refund", "--withdrawal", "2"]])
def test_what_is_no_amount_is_wrong_usage_and_explained(
    capsys: pytest.CaptureFixture[str], command: list[str], amount: list[str], message: str
) -> None:
    assert run(*command, "A-1", *amount) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["open", "A-1", "EURO", "--holder", "Ada"], '"EURO" is not a currency'),
        (["open", "A-1", "EUR"], "Missing option '--holder'"),
        (["open", "A-1", "EUR", "--holder", "Ada", "--overdraft", "5 USD"], "is in USD, but the account in EUR"),
        (["deposit", "A-1", "5 EUR", "--command-id", "x"], "--command-id"),
        (["deposit", "A-1", "5 EUR", "--personal-reason"], "it says what --reason is: give that too"),
        (["deposit", "A-1", "5 EUR", "--effective-at", "yesterday"], '"yesterday" is not a moment'),
        (["top", "EURO"], '"EURO" is not a currency'),
        (["search", "--currency", "EURO"], '"EURO" is not a currency'),
        (["verify", "models", "ledgers"], 'there is no model "ledgers": choose from balances, search, analytics'),
        (["deposit", "A-1", "5 EUR", "--reason", "caf\udce9"], r"argument 5, 'caf\udce9', is not UTF-8"),
        (["demo", "--file", "x.csv"], "--file and --mapping go together"),
        (["run", "--only", "nothing"], 'there is no "nothing": choose from command-service, balances'),
        (["import", "none.csv", "--mapping", "none.toml"], "mapping none.toml cannot be read: No such file"),
        (["transfer", "A-1", "B-2", "5"], '"5" is not an amount: write a number and a currency'),
        (["transfer", "A-1", "B-2", "5 EUR", "--transfer-id", "x"], "--transfer-id"),
        (["transfers"], "say --in-flight"),
        (["transfers", "--in-flight", "--older-than", "5"], '"5" is not an age: write 30s, 5m, 12h or 7d'),
        (["history"], "say which account's history, or --transfer"),
        (["history", "--transfer", SOME_UUID, "--newest"], "a transfer's story is told whole"),
        (["depsit", "A-1"], "No such command 'depsit'. Did you mean 'deposit'?"),
    ],
)
def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["deposit", "A-1", "5.00 EUR"],
        ["deposit", "A-1", "5.00", "EUR"],
        ["freeze", "A-1"],
        ["balance", "A-1"],
        ["account", "A-1"],
        ["search"],
        ["history", "A-1"],
        ["history", "--transfer", SOME_UUID],
        ["transfer", "A-1", "B-2", "5.00", "EUR"],
        ["transfers", "--in-flight"],
        ["transfers", "--in-flight", "--from-log"],
        ["status"],
        ["verify", "models"],
        ["verify", "money"],
        ["tail"],
    ],
)
def test_without_addresses_it_says_which_variables_to_set(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(*arguments) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "DAYBOOK_KAFKA_BOOTSTRAP" in captured.err
    assert "daybook stack up" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused(REFUSAL), 1),
        (NotTaken("1", "too large"), 1),
        (AccountUnknown("A-1"), 1),
        (NothingThen("there was no account A-1"), 1),
        (AccountsExist("bank", ["A-1"]), 1),
        (InvalidMapping("wrong"), 2),
        (InvalidSearch("wrong"), 2),
        (InvalidPoint("wrong"), 2),
        (NoSuchProgram("none"), 2),
        (UnreadableFile("line 3"), 2),
        (ReplyTimeout(["1"], 10), 3),
        (TransferInFlight(TRANSFER, "0.05 EUR", refused=False, timeout_s=10), 3),
        (TransferUnknown(SOME_UUID), 1),
        (ReadTimeout("late"), 3),
        (Unreachable("Kafka", "localhost:1", "refused"), 4),
        (ModelMissing("Elasticsearch", "localhost:1", "no index"), 4),
        (NotConfigured("unset"), 4),
        (GroupFailed("it ended"), 5),
        (NotInstalled("pyiceberg", "analytics"), 5),
        (DaybookError("broken"), 5),
    ],
)
def test_every_expected_error_has_its_exit_code_and_is_said(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert exit_code(error) == code
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize("refused", [False, True])
def test_a_transfer_in_flight_says_how_to_look(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    flying = TransferInFlight(TRANSFER, "0.05 EUR", refused=refused, timeout_s=10)

    def gives_up(*_: object, **__: object) -> None:
        raise flying

    monkeypatch.setenv("DAYBOOK_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("DAYBOOK_REGISTRY_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(Client, "settle", gives_up)
    assert run("transfer", "A-1", "B-2", "0.05 EUR", "--transfer-id", SOME_UUID, "--json") == 3
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert (record["status"], record["transfer_id"], record["amount_minor"]) == ("in_flight", SOME_UUID, 5)
    assert record["refused"] is refused
    assert f"`daybook history --transfer {SOME_UUID}`" in said.err
    assert ("was not taken in by B-2" if refused else "has left A-1") in said.err


def test_a_defect_of_ours_is_not_dressed_up() -> None:
    assert exit_code(ValueError("ours")) is None


def test_the_exit_codes_are_documented() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "CLI.md").read_text()

    assert re.findall(r"^\| (\d+) \|", documented, re.MULTILINE) == ["0", "1", "2", "3", "4", "5", "130"]


@pytest.mark.parametrize(
    "command",
    [
        *(
            "transfer",
            "transfers",
            "open",
            "deposit",
            "withdraw",
            "refund",
            "overdraft",
            "freeze",
            "unfreeze",
            "holder",
            "close",
        ),
        *("balance", "top", "tail", "search", "account", "history", "activity", "status", "import", "run", "demo"),
    ],
)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(command, "--help") == 0
    assert re.search(rf"^ *daybook {command}\b", capsys.readouterr().out, re.MULTILINE)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    listed = capsys.readouterr().out
    for command in ("open", "search", "status", "verify", "import", "run", "demo", "stack", "deploy", "version"):
        assert re.search(rf"^│ {command} +", listed, re.MULTILINE), command


def test_the_deploy_commands_are_found_when_they_are_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stack", "--help") == 0
    assert " up " in capsys.readouterr().out


def test_without_its_packages_the_stack_says_how_to_install_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tree.DEPLOY, "stack", "a_package_that_is_not_there")

    assert run("stack", "up", "--free-ports") == 5
    assert "pip install 'daybook[stack]'" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["version"], ["--version"]])
def test_it_says_its_version(capsys: pytest.CaptureFixture[str], asked: list[str]) -> None:
    assert run(*asked) == 0
    assert re.fullmatch(r"daybook \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_help_does_not_wait_for_kafkas_and_redis_libraries() -> None:
    script = (
        "import sys\n"
        "from daybook.cli import main\n"
        "try: main(['deposit', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = ('confluent_kafka', 'redis', 'pydantic_settings', 'fastavro', 'deploy', 'elasticsearch', 'pyiceberg')\n"
        "print([module for module in slow if module in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_shells_can_complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_DAYBOOK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "daybook with")
    monkeypatch.setenv("COMP_CWORD", "1")

    run()

    assert capsys.readouterr().out.split() == ["withdraw"]


def test_the_user_is_who_is_said_or_who_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from daybook.cli.options import user_name  # noqa: PLC0415

    monkeypatch.setenv("LOGNAME", "ada")
    assert user_name(None) == "ada"
    assert user_name("bob") == "bob"


def test_a_user_name_that_is_not_text_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAYBOOK_USER", "caf\udce9")

    assert run("freeze", "A-1") == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_the_common_options_follow_a_commands_own() -> None:
    command = typer.main.get_command(tree.app)
    options = [parameter.name for parameter in command.commands["refund"].params]  # type: ignore[attr-defined]
    common = list(Giving.__dataclass_fields__)

    assert options[:3] == ["account", "amount", "withdrawal"]
    assert options[3 : 3 + len(common)] == common
