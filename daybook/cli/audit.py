"""`daybook audit`: whether the log, the audit index and the checkpoints are what they were, and proofs of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daybook.cli import exits
from daybook.cli.exits import say
from daybook.cli.options import Account, AsJson, print_json

if TYPE_CHECKING:
    from daybook.audit.keys import PublicKeys, SigningKey
    from schemas.checkpoints import Checkpoint
    from schemas.connections import Connections

_log = logging.getLogger("daybook.audit")

_REQUEST_TIMEOUT_S: Final = 30.0
"""What one request to a server may take, on a machine that is busy."""

auditing = typer.Typer(
    help="Whether the history is what it was: chains, signed checkpoints, proofs.", no_args_is_help=True
)

PublicKey = Annotated[
    str | None,
    typer.Option(
        "--public-key",
        metavar="FILE",
        envvar="DAYBOOK_AUDIT_PUBLIC_KEY_FILE",
        help="The public keys that are trusted, in PEM form; several where a key was replaced.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands to the program."""
    app.add_typer(auditing, name="audit")


@auditing.command()
def verify(
    account: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="This account's chain alone.", show_default=False)
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as there are cores without it.", show_default=False)
    ] = None,
    index: Annotated[bool, typer.Option(help="Compare the audit index as well.")] = True,
    checkpoints: Annotated[bool, typer.Option(help="Compare the signed checkpoints as well.")] = True,
    kept: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="A checkpoint that was exported and kept elsewhere; may be given several times.",
        ),
    ] = None,
    snapshots: Annotated[
        float,
        typer.Option(metavar="FRACTION", min=0.0, max=1.0, help="Compare so many of the snapshots as well: 1 for all."),
    ] = 0.0,
    public_key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every chain of the log, and compare it with the checkpoints and the audit index.

    Names the first event that differs, of every account. The exit code is 1 when anything is wrong, and 4 when the
    index could not be read. What is recorded while it runs is left out.

    daybook audit verify A-1
    """
    from daybook.audit import run, workers  # noqa: PLC0415
    from daybook.audit.formats import read_checkpoint  # noqa: PLC0415
    from daybook.audit.row import Named, name_of  # noqa: PLC0415
    from daybook.cli.auditing import Display, print_report, say_report  # noqa: PLC0415
    from schemas.connections import Connections, NotConfigured  # noqa: PLC0415

    connections = Connections.from_environment()
    keys = _public_keys(connections, public_key)
    if keys is None and (checkpoints or kept):
        raise NotConfigured(
            "nothing says with which key checkpoints are signed: give --public-key FILE or set "
            "DAYBOOK_AUDIT_PUBLIC_KEY_FILE, or leave them out with --no-checkpoints"
        )
    named = []
    for file in kept or ():
        found = read_checkpoint(file)
        named.append(Named(f"{name_of(found)} in {file}", found))
    if index and connections.elasticsearch_url is None:
        say("without the audit index: DAYBOOK_ELASTICSEARCH_URL is not set")
        index = False
    wanted = run.Wanted(
        account,
        jobs or workers.cores(),
        index,
        keys if checkpoints or kept else None,
        named,
        snapshots,
    )
    with Display("verifying", "offsets") as display:
        report = run.verify(connections, wanted, display.update)
    if as_json:
        print_report(report)
    else:
        say_report(report, account)
    if not report.sound:
        raise typer.Exit(exits.REFUSED)
    if report.index_error is not None:
        raise typer.Exit(exits.UNREACHABLE)


@auditing.command()
def checkpoint(
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Go on, and take one after so many seconds whenever events are new. Once without it.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on likewise, every DAYBOOK_AUDITOR_EVERY_S seconds: 60 by default.")
    ] = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="FILE", envvar="DAYBOOK_AUDIT_KEY_FILE", help="The private key that signs, in PEM form."),
    ] = None,
    public_key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Sign what the log is now, and write that to the topic account.checkpoints.

    Reads what is new since the checkpoint before, which is checked first. A second auditor of the same ledger takes
    over from the first, which then ends.

    daybook audit checkpoint --every 60
    """
    from daybook.audit.keys import PublicKeys, SigningKey  # noqa: PLC0415
    from daybook.audit.taking import Auditor  # noqa: PLC0415
    from daybook.cli.auditing import Display, say_checkpoint  # noqa: PLC0415
    from schemas.connections import Connections, NotConfigured  # noqa: PLC0415

    connections = Connections.from_environment()
    file = key or connections.audit_key_file
    if file is None:
        raise NotConfigured(
            "nothing says which key signs: give --key FILE or set DAYBOOK_AUDIT_KEY_FILE; `daybook audit keygen FILE` "
            "makes one"
        )
    signing = SigningKey.read(file)
    trusted = _public_keys(connections, public_key) or PublicKeys([])
    if every is not None or watch:
        _watch(connections, signing, trusted, every, as_json=as_json)
        return
    with Display("hashing", "offsets") as display, Auditor(connections, signing, trusted) as auditor:
        made, is_new = auditor.take(lambda _, done, total: display.update(done, total))
    if not is_new:
        say(f"nothing is new since checkpoint {made.number}")
    say_checkpoint(made, as_json=as_json)


@auditing.command()
def checkpoints(
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one of them to a file, to be kept elsewhere.", show_default=False),
    ] = None,
    number: Annotated[
        int | None, typer.Option(min=1, help="Which one to export; the newest without it.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints, or export one, to be kept where nobody who can change the log can change it.

    `daybook audit verify --checkpoint FILE` then finds a log that was rewritten together with its checkpoints.

    daybook audit checkpoints --export 2026-11-25.checkpoint.json
    """
    from contextlib import ExitStack  # noqa: PLC0415

    from daybook import registry as schema_registry  # noqa: PLC0415
    from daybook.audit import row  # noqa: PLC0415
    from daybook.audit.formats import NoFile, checkpoint_json  # noqa: PLC0415
    from daybook.audit.records import Records  # noqa: PLC0415
    from daybook.cli.auditing import when  # noqa: PLC0415
    from daybook.cli.tables import Column, print_table  # noqa: PLC0415
    from schemas.codec import Codec  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    connections = Connections.from_environment()
    with ExitStack() as opened:
        records = opened.enter_context(Records(connections, timeout_s=_REQUEST_TIMEOUT_S))
        codec = Codec(opened.enter_context(schema_registry.registry(connections)))
        found = list(row.checkpoints(connections, records, codec))
    if export is not None:
        chosen = [one for one in found if number in (None, one.number)][-1:]
        if not chosen:
            say(f"error: there is no checkpoint {number or ''}: `daybook audit checkpoint` takes one")
            raise typer.Exit(exits.REFUSED)
        try:
            export.write_text(json.dumps(checkpoint_json(chosen[0]), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise NoFile(f"{export} cannot be written: {error.strerror}") from error
        say(f"checkpoint {chosen[0].number} of {chosen[0].events:,} events is in {export}")
    elif as_json:
        for one in found:
            print_json(checkpoint_json(one))
    elif not found:
        say("there is no checkpoint yet: `daybook audit checkpoint` takes one")
    else:
        columns = (
            Column("number", right=True),
            Column("taken"),
            Column("events", right=True),
            Column("key"),
            Column("root"),
        )
        print_table(columns, ([str(c.number), when(c), f"{c.events:,}", c.key_id, c.root.hex()] for c in found))


@auditing.command()
def prove(
    account: Account,
    sequence: Annotated[int, typer.Argument(min=1, help="The event's number in the account.", show_default=False)],
    kept: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="FILE", help="Prove it against an exported one, not the newest."),
    ] = None,
) -> None:
    """Print a proof that an event is in the log, as JSON. `daybook audit check` checks it anywhere, without Kafka.

    daybook audit prove A-1 7 > proof.json
    """
    from contextlib import ExitStack  # noqa: PLC0415

    from daybook import registry as schema_registry  # noqa: PLC0415
    from daybook.audit import row  # noqa: PLC0415
    from daybook.audit.formats import proof_json, read_checkpoint  # noqa: PLC0415
    from daybook.audit.proving import NotCovered  # noqa: PLC0415
    from daybook.audit.proving import prove as proven  # noqa: PLC0415
    from daybook.audit.records import Records  # noqa: PLC0415
    from daybook.cli.auditing import Display  # noqa: PLC0415
    from schemas.codec import Codec  # noqa: PLC0415
    from schemas.connections import Connections  # noqa: PLC0415

    connections = Connections.from_environment()
    if kept is not None:
        against: Checkpoint | None = read_checkpoint(kept)
    else:
        with ExitStack() as opened:
            records = opened.enter_context(Records(connections, timeout_s=_REQUEST_TIMEOUT_S))
            codec = Codec(opened.enter_context(schema_registry.registry(connections)))
            against = row.newest(connections, records, codec)
    if against is None:
        raise NotCovered(
            "there is no checkpoint yet, and so nothing to prove against: `daybook audit checkpoint` takes one"
        )
    with Display("hashing the partition", "events") as display:
        proof = proven(connections, account, sequence, against, display.update)
    typer.echo(json.dumps(proof_json(proof), indent=2))


@auditing.command()
def check(
    file: Annotated[str, typer.Argument(metavar="PROOF", help="The file with the proof.", show_default=False)],
    public_key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Check a proof, with nothing but the public key: no Kafka, no registry. The exit code is 1 when it proves nothing.

    daybook audit check proof.json --public-key audit.pem.pub
    """
    from daybook.audit.formats import read_proof  # noqa: PLC0415
    from daybook.audit.keys import PublicKeys  # noqa: PLC0415
    from daybook.audit.proving import check as checked  # noqa: PLC0415
    from daybook.cli.auditing import print_proven  # noqa: PLC0415

    if public_key is None:
        raise typer.BadParameter("say whose signature counts: --public-key FILE", param_hint="--public-key")
    print_proven(checked(read_proof(file), PublicKeys.read(public_key)), as_json=as_json)


@auditing.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.", show_default=False)],
) -> None:
    """Make a pair of keys: the private one in FILE, which only you can read, the public one in FILE.pub.

    daybook audit keygen audit.pem
    """
    from daybook.audit.keys import generate, public_file  # noqa: PLC0415

    made = generate(file)
    say(f"key {made.key_id}: the private one is in {file}, the public one in {public_file(file)}")


def _public_keys(connections: Connections, file: str | None) -> PublicKeys | None:
    """The keys that are trusted: those of a file, or of the one that the settings name. Raises: `InvalidKey`."""
    from daybook.audit.keys import PublicKeys  # noqa: PLC0415

    chosen = file or connections.audit_public_key_file
    return None if chosen is None else PublicKeys.read(chosen)


def _watch(
    connections: Connections, key: SigningKey, trusted: PublicKeys, every_s: float | None, *, as_json: bool
) -> None:
    """Take checkpoints until SIGTERM or Ctrl-C."""
    import signal  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from daybook.audit.watching import AuditorSettings, watch  # noqa: PLC0415
    from daybook.cli.auditing import say_checkpoint  # noqa: PLC0415
    from schemas.connections import NotConfigured  # noqa: PLC0415
    from schemas.telemetry import logs  # noqa: PLC0415

    settings = AuditorSettings.from_environment()
    logs.set_up("auditor", settings.log_level, settings.log_format)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopping.set())
    try:
        watch(
            connections,
            key,
            trusted,
            every_s or settings.every_s,
            stopping,
            # For people it is in the log.
            lambda made: say_checkpoint(made, as_json=True) if as_json else None,
            settings,
        )
    except NotConfigured as error:
        # By this code `daybook run` knows that starting it again would not help.
        _log.error("%s", error)
        raise typer.Exit(exits.USAGE) from error
