"""What is personal, through the real command service: sealed in every topic, and erased with its key."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daybook.audit.keys import PublicKeys, generate
from daybook.audit.proving import check, prove
from daybook.audit.run import Wanted, verify
from daybook.audit.taking import Auditor
from daybook.progress import untold
from schemas.commands import ChangeHolder, CloseAccount, EraseHolder
from schemas.connections import Connections
from schemas.events import HolderErased
from schemas.keyring import KeyRing, add_key
from schemas.keys import unwrapped
from schemas.sealing import ERASED, Unsealer, is_sealed
from tests.conftest import PARTITIONS, Ledger
from tests.processes import Process, environment, until
from tests.wire import Wire, deposit, make, opening, read_all, transfer

NAME = "Alžběta Příkladová"
EMAIL = "alzbeta@example.org"
SECRET = "rent of Alžběta"


@pytest.fixture
def wire(ledger: Ledger) -> Iterator[Wire]:
    with Wire(ledger.connections, PARTITIONS) as wire:
        yield wire


def data_keys(wire: Wire) -> dict[str, bytes | None]:
    """The newest record under each subject's id: its key's value, or None for a tombstone."""
    return {m.key().decode(): m.value() for m in read_all(wire.connections, wire.topics.subject_keys)}


def unsealer(wire: Wire) -> Unsealer:
    found, ring = data_keys(wire), KeyRing.of(wire.connections)

    def data_key(subject_id: str) -> bytes | None:
        value = found.get(subject_id)
        return None if value is None else unwrapped(ring, wire.codec.decode_key(value))

    return Unsealer(data_key)


def test_what_is_personal_is_sealed_wherever_the_service_writes(wire: Wire) -> None:
    account, other = (f"P-{uuid.uuid4().hex[:12]}" for _ in range(2))
    sent = transfer(account, other, 100, reason=SECRET, reason_is_personal=True)
    wire.decide(
        opening(account, holder_name=NAME, holder_email=EMAIL),
        opening(other),
        deposit(account, 100, reason="salary"),
        make(ChangeHolder, account, holder_name=NAME, holder_email=None),
        sent,
    )
    until(lambda: len(wire.events()[account]) == 5, "completed transfer")
    (closed,) = wire.decide(make(CloseAccount, account, payout_reference=f"cheque to {NAME}"))
    assert closed.accepted

    opened = unsealer(wire)
    created, paid, changed, gone, done, ended = wire.events()[account]
    assert opened.open(created.event.holder_name, account, "holder_name") == NAME
    assert opened.open(created.event.holder_email, account, "holder_email") == EMAIL
    assert (paid.reason, changed.event.holder_email) == ("salary", None)
    assert opened.open(changed.event.holder_name, account, "holder_name") == NAME
    assert opened.open(gone.reason, account, "reason") == SECRET
    # Whoever is paid is not told, since only the source's erasure would erase it.
    assert (wire.events()[other][1].reason, done.reason) == (None, None)
    assert opened.open(ended.event.payout_reference, account, "payout_reference") == f"cheque to {NAME}"
    topics = wire.topics
    for topic in (
        topics.events,
        topics.followups,
        topics.snapshots,
        topics.replies,
        topics.parked,
        topics.subject_keys,
    ):
        for record in read_all(wire.connections, topic):
            for text in (NAME, EMAIL, SECRET):
                assert text.encode() not in (record.value() or b""), topic


def test_the_same_holder_again_changes_nothing_and_an_erased_one_is_gone_for_good(wire: Wire) -> None:
    account = f"P-{uuid.uuid4().hex[:12]}"
    replies = wire.decide(
        opening(account, holder_name=NAME, holder_email=EMAIL),
        make(ChangeHolder, account, holder_name=NAME, holder_email=EMAIL),
        make(EraseHolder, account, reason="request 17"),
        make(EraseHolder, account),
        make(ChangeHolder, account, holder_name=NAME),
        deposit(account, 5, reason=SECRET, reason_is_personal=True),
        deposit(account, 5),
    )

    assert [(r.accepted, r.event_count, r.code) for r in replies] == [
        (True, 1, None),
        (True, 0, None),
        (True, 1, None),
        (True, 0, None),
        (False, 0, "holder_erased"),
        (False, 0, "holder_erased"),
        (True, 1, None),
    ]
    stream = wire.events()[account]
    assert stream[1].event == HolderErased()
    assert stream[1].reason == "request 17"
    assert data_keys(wire)[account] is None
    assert unsealer(wire).open(stream[0].event.holder_name, account, "holder_name") is ERASED


def test_chains_checkpoints_and_proofs_from_before_an_erasure_still_verify(wire: Wire, tmp_path: Path) -> None:
    account = f"P-{uuid.uuid4().hex[:12]}"
    wire.decide(opening(account, holder_name=NAME), deposit(account, 100, reason=SECRET, reason_is_personal=True))
    key = generate(tmp_path / "audit.pem")
    with Auditor(wire.connections, key, PublicKeys([])) as auditor:
        checkpoint, _ = auditor.take(untold)
    before = [prove(wire.connections, account, sequence, checkpoint, untold) for sequence in (1, 2)]

    (reply,) = wire.decide(make(EraseHolder, account))

    assert reply.accepted
    assert data_keys(wire)[account] is None
    report = verify(wire.connections, Wanted(None, 1, index=False, keys=key.public), lambda *_: None)
    assert (report.sound, report.findings) == (True, [])
    for proof in before:
        assert check(proof, key.public).account_id == account
    # They can be made anew as well: nothing of what was hashed has changed.
    assert [prove(wire.connections, account, sequence, checkpoint, untold) for sequence in (1, 2)] == before
    assert is_sealed(check(before[0], key.public).fields["holder_name"])


def test_a_restart_knows_the_keys_and_who_was_erased(wire: Wire, start: Callable[..., Process], ledger: Ledger) -> None:
    kept, gone = (f"P-{uuid.uuid4().hex[:12]}" for _ in range(2))
    wire.decide(opening(kept, holder_name=NAME), opening(gone, holder_name=NAME), make(EraseHolder, gone))
    assert ledger.service.stop() == 0
    ledger.service.start()

    replies = wire.decide(
        make(ChangeHolder, kept, holder_name=NAME),
        make(ChangeHolder, kept, holder_name="Bob"),
        make(ChangeHolder, gone, holder_name="Bob"),
    )
    assert [(r.event_count, r.code) for r in replies] == [(0, None), (1, None), (0, "holder_erased")]


def test_a_new_key_encryption_key_wraps_all_keys_anew_and_the_old_one_can_go(
    deployed: Connections, start: Callable[..., Process]
) -> None:
    file = Path(deployed.kek_file or "")
    with Wire(deployed, PARTITIONS) as wire:
        service = start("command_service", env=environment(deployed))
        wire.decide(*(opening(f"K-{n}", holder_name=NAME) for n in range(20)))
        before = wire.events()
        assert service.stop() == 0
        old = KeyRing.read(file)

        add_key(file, datetime.now(UTC))
        service.start()

        ring = KeyRing.read(file)
        assert ring.current_id != old.current_id

        def all_anew() -> bool:
            values = data_keys(wire).values()
            return {wire.codec.decode_key(value).kek_id for value in values} == {ring.current_id}

        until(all_anew, "keys under the new key-encryption key")
        assert service.stop() == 0
        lines = [line for line in file.read_text().splitlines() if not line.startswith(old.current_id)]
        file.write_text("\n".join(lines))
        service.start()
        (reply,) = wire.decide(make(ChangeHolder, "K-3", holder_name=NAME))
        assert reply.event_count == 0
        assert wire.events() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not there"), ("kek-1 !!!", "base64"), ("other AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "kek-")],
)
def test_it_does_not_start_without_its_key_encryption_keys(
    deployed: Connections, start: Callable[..., Process], tmp_path: Path, content: str | None, message: str
) -> None:
    with Wire(deployed, PARTITIONS) as wire:
        service = start("command_service", env=environment(deployed))
        wire.decide(opening("K-1", holder_name=NAME))
        assert service.stop() == 0
    file = tmp_path / "kek-of-the-test"
    if content is not None:
        file.write_text(content)
    failing = start("command_service", env=environment(deployed) | {"DAYBOOK_KEK_FILE": str(file)})
    assert failing.wait() == 2
    assert message in failing.output
    assert str(file) in failing.output
