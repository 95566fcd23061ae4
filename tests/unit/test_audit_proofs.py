"""Proofs and checkpoints as files: what is proven, and that nothing in a file can change unnoticed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from daybook.audit import merkle
from daybook.audit.findings import Finding, Kind
from daybook.audit.formats import (
    InvalidFile,
    NoFile,
    Proof,
    checkpoint_json,
    head_of,
    proof_json,
    read_checkpoint,
    read_proof,
)
from daybook.audit.keys import InvalidKey, PublicKeys, SigningKey, generate, public_file
from daybook.audit.proving import NotProven, check
from daybook.audit.row import Named, Row, wrong_alone, wrong_elsewhere
from schemas.checkpoints import Checkpoint, partition_leaf, statement_of
from schemas.reading import canonical_form
from tests.unit.audited import LOG, checkpoint_of, history, leaf_of, tree_of
from tests.unit.given import deposited
from tests.unit.known_records import CODEC, COMMON, REGISTRY

HISTORY = history()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return generate(tmp_path_factory.mktemp("key") / "audit.pem")


@pytest.fixture(scope="module")
def checkpoint(key: SigningKey) -> Checkpoint:
    trees = [tree_of(HISTORY[:3], 0), tree_of(HISTORY, 1), tree_of([], 2)]
    return checkpoint_of(key, [replace(tree, partition=at) for at, tree in enumerate(trees)])


@pytest.fixture(scope="module")
def proof(checkpoint: Checkpoint) -> Proof:
    """Of event b/3, the eighth of partition 1."""
    record = HISTORY[7]
    return Proof(
        key=record.key,
        value=record.value,
        schema=canonical_form(REGISTRY.schema(int.from_bytes(record.value[1:5], "big"))),
        tree=checkpoint.partitions[1],
        leaf=7,
        path=tuple(merkle.path(7, [leaf_of(one) for one in HISTORY])),
        head=head_of(checkpoint),
        tree_leaf=1,
        tree_path=tuple(merkle.path(1, [merkle.leaf_hash(partition_leaf(tree)) for tree in checkpoint.partitions])),
    )


def written(folder: Path, document: dict[str, Any]) -> str:
    file = folder / "document.json"
    file.write_text(json.dumps(document, indent=2))
    return str(file)


def test_a_proof_that_was_written_down_proves_the_event(tmp_path: Path, proof: Proof, key: SigningKey) -> None:
    proven = check(read_proof(written(tmp_path, proof_json(proof))), key.public)
    assert (proven.account_id, proven.sequence) == ("b", 3)
    assert proven.type_name == "daybook.account.event.MoneyDeposited"
    assert proven.fields["amount_minor"] == deposited(100, 100).amount_minor
    assert proven.fields["user_id"] == COMMON["user_id"]


def test_no_byte_of_a_proof_can_change_unnoticed(tmp_path: Path, proof: Proof, key: SigningKey) -> None:
    file = Path(written(tmp_path, proof_json(proof)))
    text = file.read_text()
    known = json.loads(text)
    unnoticed = []
    for at, char in enumerate(text):
        for other in {"0" if char != "0" else "1", char.swapcase()} - {char}:
            changed = text[:at] + other + text[at + 1 :]
            try:
                if json.loads(changed) == known:
                    continue
            except ValueError:
                pass
            file.write_text(changed)
            try:
                check(read_proof(str(file)), key.public)
            except (InvalidFile, NotProven):
                continue
            unnoticed.append((at, text[at - 30 : at + 5]))
    assert unnoticed == []


def changed(proof: Proof, **fields: Any) -> Proof:
    return Proof(**{name: fields.get(name, getattr(proof, name)) for name in Proof.__slots__})


def test_what_does_not_fit_is_named(proof: Proof, key: SigningKey, tmp_path: Path) -> None:
    other_amount = CODEC.encode_event(deposited(999, 999), COMMON | {"account_id": "b", "sequence": 3}, bytes(32))[0]
    stranger = generate(tmp_path / "other.pem")
    cases = [
        (changed(proof, value=other_amount), key, "event"),
        (changed(proof, key=b"b/4"), key, "event"),
        (changed(proof, leaf=6), key, "event"),
        (changed(proof, path=proof.path[:-1]), key, "event"),
        (changed(proof, tree=replace(proof.tree, offset=99)), key, "tree"),
        (changed(proof, tree_leaf=2), key, "tree"),
        (changed(proof, schema=proof.schema + " "), key, "schema"),
        (changed(proof, schema="nonsense"), key, "schema"),
        (changed(proof, schema=proof.schema.replace("amount_minor", "balance_minor")), key, "event"),
        (proof, stranger, "signature"),
    ]
    for wrong, by, part in cases:
        with pytest.raises(NotProven) as raised:
            check(wrong, by.public)
        assert raised.value.part == part, str(raised.value)


def test_a_checkpoint_that_was_written_down_is_the_same(tmp_path: Path, checkpoint: Checkpoint) -> None:
    assert read_checkpoint(written(tmp_path, checkpoint_json(checkpoint))) == checkpoint


def test_the_avro_of_a_checkpoint_gives_it_back(checkpoint: Checkpoint) -> None:
    CODEC.look_up_checkpoints("account.checkpoints")
    assert CODEC.decode_checkpoint(CODEC.encode_checkpoint(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": "daybook proof v1"}, "its format is"),
        ({"number": -1}, "number is -1"),
        ({"number": True}, "number is no int"),
        ({"taken_at": "2026-01-31"}, "taken_at is not a time"),
        ({"root": "AB"}, "root is not written as 32 bytes"),
        ({"root": None}, "root is not there"),
        ({"signature": "?"}, "signature is not base 64"),
        ({"signature": "\ud800"}, "signature is not base 64"),
        ({"signature": "AA=="}, "signature has 1 bytes"),
        ({"log": "a\nb"}, "one line of ASCII"),
        ({"events": 1}, "its trees have 15 events, and it says 1"),
        ({"more": 1}, "nothing is called 'more'"),
        ({"partitions": ["x"]}, r"partitions\[0\]: it is not an object"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused(
    tmp_path: Path, checkpoint: Checkpoint, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidFile, match=why):
        read_checkpoint(written(tmp_path, checkpoint_json(checkpoint) | change))


def test_what_is_no_json_or_says_something_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text in ("{", "[]", '{"format": 1, "format": 2}'):
        file.write_text(text)
        with pytest.raises(InvalidFile):
            read_proof(str(file))
    with pytest.raises(NoFile, match="cannot be read: No such file"):
        read_proof(str(tmp_path / "none.json"))


def test_what_is_signed_is_the_text_that_the_documentation_gives(checkpoint: Checkpoint) -> None:
    assert statement_of(checkpoint).decode().splitlines() == [
        "daybook checkpoint v1",
        f"log {LOG}",
        "number 1",
        f"taken_at {checkpoint.taken:%Y-%m-%dT%H:%M:%S.%f}Z",
        f"previous {'00' * 32}",
        "partitions 3",
        "events 15",
        f"root {checkpoint.root.hex()}",
        f"key {checkpoint.key_id}",
    ]


def wrong_in_row(checkpoints: list[Checkpoint]) -> list[Finding]:
    row = Row()
    return [found for checkpoint in checkpoints if (found := row.follows(checkpoint)) is not None]


def test_a_row_is_sound_and_each_way_of_changing_it_is_named(key: SigningKey, tmp_path: Path) -> None:
    first = checkpoint_of(key, [tree_of(HISTORY[:3])])
    second = checkpoint_of(key, [tree_of(HISTORY[:6])], first)
    third = checkpoint_of(key, [tree_of(HISTORY)], second)
    row = [first, second, third]

    def alone(checkpoint: Checkpoint, log: str = LOG) -> list[Kind]:
        return [finding.kind for finding in wrong_alone(Named("it", checkpoint), key.public, log)]

    assert [wrong_in_row(row), *(alone(one) for one in row)] == [[], [], [], []]
    assert list(wrong_elsewhere([Named("kept", second)], {2: second}, 3)) == []

    assert [f.kind for f in wrong_in_row([first, third])] == [Kind.ROW]
    assert [f.kind for f in wrong_in_row([second, third])] == [Kind.ROW]
    assert [f.kind for f in wrong_in_row([first, replace(second, taken_at=5), third])] == [Kind.ROW]
    shrunk = checkpoint_of(key, [tree_of(HISTORY[:2])], first)
    assert [f.kind for f in wrong_in_row([first, shrunk])] == [Kind.ROW]

    without = checkpoint_of(key, [], first)
    assert [f.kind for f in wrong_in_row([first, without])] == [Kind.ROW]

    assert alone(second, "another log") == [Kind.OTHER_LOG]
    assert alone(replace(second, taken_at=5)) == [Kind.SIGNATURE]
    assert alone(replace(second, partitions=third.partitions)) == [Kind.SIGNATURE]
    forged_frontier = replace(second.partitions[0], frontier=bytes(64))
    assert alone(replace(second, partitions=(forged_frontier,))) == [Kind.SIGNATURE]
    stranger = generate(tmp_path / "stranger.pem")
    assert alone(checkpoint_of(stranger, second.partitions, first)) == [Kind.SIGNATURE]
    impostor = replace(checkpoint_of(stranger, second.partitions, first), key_id=key.key_id)
    assert alone(impostor) == [Kind.SIGNATURE]

    kept = [Named("kept", third)]
    assert [f.kind for f in wrong_elsewhere(kept, {}, 2)] == [Kind.ROW]
    rewritten = checkpoint_of(key, [tree_of(history(7))], second)
    assert [f.kind for f in wrong_elsewhere(kept, {3: rewritten}, 3)] == [Kind.ROW]


def test_keys_are_made_for_their_owner_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "audit.pem"
    made = generate(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SigningKey.read(str(file)).key_id == made.key_id
    read = PublicKeys.read(str(public_file(file)))
    assert read.ids == (made.key_id,)
    assert read.signed(made.key_id, made.sign(b"x"), b"x")
    assert not read.signed(made.key_id, made.sign(b"x"), b"y")
    before = file.read_bytes()
    with pytest.raises(InvalidKey, match="never overwritten"):
        generate(file)
    public_file(file).unlink()
    with pytest.raises(InvalidKey, match="never overwritten"):
        generate(file)
    assert file.read_bytes() == before
    with pytest.raises(InvalidKey, match="cannot be made"):
        generate(tmp_path / "nowhere" / "audit.pem")


def test_a_file_may_hold_several_public_keys(tmp_path: Path) -> None:
    old, new = generate(tmp_path / "old.pem"), generate(tmp_path / "new.pem")
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "old.pem.pub").read_bytes() + (tmp_path / "new.pem.pub").read_bytes())
    keys = PublicKeys.read(str(both))
    assert set(keys.ids) == {old.key_id, new.key_id}
    assert keys.signed(old.key_id, old.sign(b"x"), b"x")
    assert not keys.signed(old.key_id, new.sign(b"x"), b"x")


def test_a_file_that_is_no_key_says_why(tmp_path: Path) -> None:
    rsa = generate_private_key(65537, 2048)
    file = tmp_path / "key.pem"
    private = generate(tmp_path / "audit.pem")

    def pem(encryption: NoEncryption | BestAvailableEncryption) -> bytes:
        return rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    for content, why in [
        (b"", "holds no private key"),
        (pem(NoEncryption()), "not of Ed25519"),
        (pem(BestAvailableEncryption(b"x")), "is encrypted"),
        ((tmp_path / "audit.pem.pub").read_bytes(), "holds no private key"),
    ]:
        file.write_bytes(content)
        with pytest.raises(InvalidKey, match=why):
            SigningKey.read(str(file))
    for content, why in [
        (b"", "holds no public key"),
        ((tmp_path / "audit.pem").read_bytes(), "holds a private key, whose public one is beside it"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "holds no public key"),
    ]:
        file.write_bytes(content)
        with pytest.raises(InvalidKey, match=why):
            PublicKeys.read(str(file))
    with pytest.raises(InvalidKey, match="cannot be read"):
        PublicKeys.read(str(tmp_path / "none"))
    assert private.key_id
