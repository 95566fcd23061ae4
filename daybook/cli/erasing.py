"""`daybook erase`: erasing an account's holder, and proving that nothing is left of him."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daybook.cli import exits
from daybook.cli.audit import PublicKey
from daybook.cli.exits import say
from daybook.cli.options import Account, AsJson, Timeout, User, print_json, user_name
from daybook.cli.tables import Column, print_table, visible

if TYPE_CHECKING:
    from daybook.audit.keys import SigningKey
    from daybook.erasure.run import Erasure, Report
    from daybook.erasure.texts import Texts
    from daybook.progress import Tell
    from schemas.connections import Connections

_TIMEOUT_S: Final = 30.0
"""What one request may take: brokers and indices are asked to delete and to merge, on machines that are busy."""

_LONGEST_WAIT_S: Final = 15 * 60.0
"""Half as long again as an erasure takes under the default settings."""

_LOOK_EVERY_S: Final = 5.0
"""While something is pending: often enough that the end is not missed by much, and each look reads topics."""

_TICK_S: Final = 0.5

_COLUMNS: Final = (
    Column("place"),
    Column("state", whole=True),
    Column("gone by (UTC)", whole=True),
    Column("what"),
)


def erase(
    account: Account,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Only look for what is left of a holder who was erased, and remove what is due."),
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT",
            help="Look for this as well, such as an earlier name; may be given several times.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option(
            "--wait/--no-wait",
            help="Until nothing is left; the default, but for --verify, which looks once.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Why: kept with the event, readable. Name a request, not a person."),
    ] = None,
    stack: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="FOLDER",
            envvar="DAYBOOK_STACK_DIR",
            help="A local stack's folder, whose files are looked through; .daybook, if that is this ledger's.",
            show_default=False,
        ),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the receipt there.", show_default=False)
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="RECEIPT", help="Only check the signature of a receipt, without any server.", show_default=False
        ),
    ] = None,
    public_key: PublicKey = None,
    user: User = None,
    timeout: Timeout = _TIMEOUT_S,
    as_json: AsJson = False,
) -> None:
    """Erase an account's holder for good, wait until nothing is left of him, and print a receipt.

    Events, balances and proofs stay; names, e-mail addresses, payout references and personal reasons read as [erased].
    It takes up to six minutes, while Kafka and Elasticsearch get their files rid of what they deleted. The exit code is
    3 while something is left that is going, and 1 when something is left that stays. docs/ERASURE.md says what cannot
    be erased.

    daybook erase A-1 --reason "request 2026-117" --receipt A-1.receipt.json
    """
    from schemas.connections import Connections  # noqa: PLC0415

    if check is not None:
        if yes or verify or text or wait is not None or reason is not None or receipt is not None:
            raise typer.BadParameter("it only checks a receipt: leave out the other options", param_hint="--check")
        _check(account, check, public_key, as_json=as_json)
        return
    if receipt is not None:
        _check_writable(receipt)
    if verify and (yes or reason is not None):
        raise typer.BadParameter("--verify erases nothing: leave out --yes and --reason", param_hint="--verify")
    from daybook.cli.display import WorkDisplay  # noqa: PLC0415
    from daybook.erasure.run import Erasure  # noqa: PLC0415

    connections = Connections.from_environment()
    key = _signing_key(connections)
    folder = _default_folder(connections) if stack is None else _own_folder(stack, connections)
    with WorkDisplay() as display:
        if verify:
            texts = _texts(text or ())
        else:
            texts = _give(connections, account, text or (), user, reason, timeout, yes=yes, tell=display.update)
    if not len(texts):
        say("no text of the holder's is known: only events, keys, commands and documents are looked at. Give --text")
    with (
        WorkDisplay() as display,
        Erasure(connections, account, texts, stack=folder, timeout_s=timeout) as erasure,
    ):
        waits = (not verify) if wait is None else wait
        try:
            report = _until_clear(erasure, display.update) if waits else erasure.look(display.update)
        except KeyboardInterrupt:
            if not verify:
                say(f"the holder is erased. `daybook erase {account} --verify --wait --text ...` does the rest")
            raise
    _print(report, key, receipt, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    """Add this module's command to the program."""
    app.command("erase")(erase)


def _give(
    connections: Connections,
    account_id: str,
    further: list[str] | tuple[()],
    user: str | None,
    reason: str | None,
    timeout_s: float,
    *,
    yes: bool,
    tell: Tell,
) -> Texts:
    """Ask, erase, and return what was known of the holder, to be looked for."""
    from daybook.client import Client  # noqa: PLC0415
    from daybook.erasure.known import known_texts  # noqa: PLC0415
    from daybook.erasure.run import must_answer  # noqa: PLC0415

    must_answer(connections, timeout_s=timeout_s)
    with Client(connections, user_id=user_name(user), timeout_s=timeout_s) as client:
        known, secrets = known_texts(client, account_id, timeout_s=timeout_s, tell=tell)
        texts = _texts([*known, *further], secrets)
        if not yes:
            _must_have_somebody_to_ask()
            _ask(account_id, known, _parked(connections, account_id, texts, timeout_s, tell))
        reply = client.erase_holder(account_id, reason=reason)
    again = "" if reply.event_count else " before"
    say(f"erased{again}: the key of {account_id} is gone, at sequence {reply.sequence}")
    return texts


def _texts(texts: list[str] | tuple[()], secrets: list[bytes] | tuple[()] = ()) -> Texts:
    from daybook.erasure.texts import LEAST_CHARACTERS, Texts  # noqa: PLC0415

    found = Texts(texts, secrets)
    if found.too_short:
        say(f"{found.too_short} texts of less than {LEAST_CHARACTERS} characters are not looked for")
    return found


def _must_have_somebody_to_ask() -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is nobody to ask: say --yes", param_hint="--yes")


def _parked(connections: Connections, account_id: str, texts: Texts, timeout_s: float, tell: Tell) -> int:
    """How many parked records go with the holder. There are few on that topic."""
    from daybook.erasure.records import RecordSearch  # noqa: PLC0415

    with RecordSearch(connections, account_id, texts, timeout_s=timeout_s) as search:
        return len(search.look([connections.topics.parked], tell).parked.going)


def _ask(account_id: str, known: list[str], parked: int) -> None:
    """Show who would be erased. Ends the program unless whoever is at the terminal agrees."""
    name = known[0] if known else "unknown here: no key-encryption key is configured, or he is erased"
    say(visible(f"account {account_id}, holder: {name}"))
    say("What is sealed of the holder in all of the account's events can never be read again.")
    if parked:
        say(f"parked records that go with the holder, and are never decided: {parked} (see `daybook parked list`)")
    if not typer.confirm("Erase?", err=True):
        raise typer.Exit(exits.REFUSED)


def _until_clear(erasure: Erasure, tell: Tell) -> Report:
    """Look until nothing is pending, for a quarter of an hour at most."""
    from daybook.erasure.places import State  # noqa: PLC0415
    from daybook.progress import Progress  # noqa: PLC0415

    began = time.monotonic()
    while True:
        report = erasure.look(tell)
        pending = [place for place in report.places if place.state is State.PENDING]
        # What goes only with its topic's retention is not waited for.
        soon = [
            p for p in pending if p.until is None or p.until - report.looked_at < timedelta(seconds=_LONGEST_WAIT_S)
        ]
        passed_s = time.monotonic() - began
        if not soon or passed_s >= _LONGEST_WAIT_S:
            return report
        known = [place.until for place in soon if place.until is not None]
        left_s = (max(known) - datetime.now(UTC)).total_seconds() if known else _LOOK_EVERY_S
        further = f" and {len(soon) - 1} more" if len(soon) > 1 else ""
        what = f"waiting for {soon[0].name}{further}, in seconds"
        # Where nothing is to be done before a time, looking earlier would only cost.
        pause_s = max(_LOOK_EVERY_S, min(left_s / 4, 30.0))
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            waited_s = time.monotonic() - began
            tell(Progress(what, int(waited_s), int(waited_s + max(1.0, left_s - (waited_s - passed_s)))))
            time.sleep(_TICK_S)


def _default_folder(connections: Connections) -> Path | None:
    """The local stack's folder here, if this ledger's servers are those of it."""
    folder = Path(".daybook")
    return folder if (folder / "stack.json").is_file() and _brokers(folder) & _named(connections) else None


def _own_folder(folder: Path, connections: Connections) -> Path:
    """A local stack's folder, which is not to be another ledger's: nothing would be found in it."""
    if (folder / "stack.json").is_file() and not _brokers(folder) & _named(connections):
        raise typer.BadParameter(
            f"{folder} is the folder of another stack, whose Kafka is not at {connections.kafka_bootstrap}: leave it "
            "out, and unset DAYBOOK_STACK_DIR, or name the one of this ledger",
            param_hint="--folder",
        )
    return folder


def _named(connections: Connections) -> set[str]:
    return set(connections.kafka_bootstrap.split(","))


def _brokers(folder: Path) -> set[str]:
    """Where a stack's brokers are, as its file of settings has it; none before it was first started."""
    from dotenv import dotenv_values  # noqa: PLC0415

    return set((dotenv_values(folder / "env").get("DAYBOOK_KAFKA_BOOTSTRAP") or "").split(",")) - {""}


def _check_writable(file: Path) -> None:
    """Said before anything is erased, and not minutes later."""
    from daybook.audit.formats import NoFile  # noqa: PLC0415

    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise NoFile(f"{file} cannot be written: it is a folder, or its folder is not there or may not be written to")


def _signing_key(connections: Connections) -> SigningKey | None:
    from daybook.audit.keys import SigningKey  # noqa: PLC0415

    if connections.audit_key_file is None:
        say("DAYBOOK_AUDIT_KEY_FILE is not set: the receipt will not be signed")
        return None
    return SigningKey.read(connections.audit_key_file)


def _print(report: Report, key: SigningKey | None, file: Path | None, *, as_json: bool) -> None:
    from daybook.audit.formats import NoFile  # noqa: PLC0415
    from daybook.erasure.places import State  # noqa: PLC0415
    from daybook.erasure.receipt import receipt  # noqa: PLC0415

    made = receipt(report, key)
    if as_json:
        print_json(made)
    else:
        rows = [
            (
                place.name,
                place.state.value.replace("_", " "),
                "" if place.until is None else f"{place.until:%Y-%m-%d %H:%M:%S}",
                visible(place.detail),
            )
            for place in report.places
        ]
        print_table(_COLUMNS, rows)
        typer.echo(_verdict(report, made))
    if file is not None:
        try:
            file.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise NoFile(f"{file} cannot be written: {error.strerror}") from error
        say(f"the receipt is in {file}")
    if report.state is State.FOUND:
        raise typer.Exit(exits.REFUSED)
    if report.state is State.PENDING:
        raise typer.Exit(exits.TIMEOUT)


def _verdict(report: Report, made: dict[str, Any]) -> str:
    signed = "not signed" if made["key"] is None else f"signed with key {made['key']}"
    of = f"the holder of {report.account_id}, erased {report.erased_at:%Y-%m-%d %H:%M:%S} UTC"
    if report.state.value == "clear":
        return visible(f"clear: nothing is left of {of}{_unseen(made)} ({signed})")
    until = "" if report.until is None else f", until {report.until:%Y-%m-%d %H:%M:%S} UTC"
    left = f"pending: something is left of {of}, and is going{until}"
    if report.state.value == "found":
        left = f"found: something is left of {of}, and stays"
    return visible(f"{left} ({signed})")


def _unseen(made: Mapping[str, Any]) -> str:
    """What a receipt says nothing of, which whoever reads that all is clear is to know."""
    names = [place["place"] for place in made["places"] if place["state"] == "not_looked_at"]
    return f"; not looked at: {', '.join(names)}" if names else ""


def _check(account_id: str, file: Path, public_key: str | None, *, as_json: bool) -> None:
    from daybook.audit.formats import InvalidFile  # noqa: PLC0415
    from daybook.audit.keys import PublicKeys  # noqa: PLC0415
    from daybook.erasure.receipt import check  # noqa: PLC0415

    if public_key is None:
        raise typer.BadParameter("say whose signature counts: --public-key FILE", param_hint="--public-key")
    found = check(file, PublicKeys.read(public_key))
    if found.get("account_id") != account_id:
        raise InvalidFile(f"{file} is a receipt for {found.get('account_id')}, not for {account_id}")
    if as_json:
        print_json(found)
    else:
        typer.echo(
            visible(
                f"signed with key {found['key']}: of the holder of {account_id}, erased {found['erased_at']}, at "
                f"{found['looked_at']} the state was {found['state']}{_unseen(found)}"
            )
        )
