"""Sealed text: what it is made of, what opens it, and what does not."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from schemas.keys import UnknownKek
from schemas.sealing import (
    ERASED,
    PREFIX,
    Erased,
    NoDataKey,
    SealBroken,
    Sealer,
    Unsealer,
    event_id_of,
    is_sealed,
    new_data_key,
)

KEY: Final = bytes(range(32))
EVENT: Final = "01977375-f600-7000-8444-555555555555"
OTHER_EVENT: Final = "01977375-f600-7000-8444-555555555556"
NAME: Final = "Ada Lovelace"

SEALER: Final = Sealer({"A-1": KEY, "A-2": KEY, "A-1\0": KEY}.get)
SEALED: Final = SEALER.seal(NAME, "A-1", EVENT, "holder_name")


def payload(sealed: str) -> bytes:
    encoded = sealed.removeprefix(PREFIX)
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def text_of(payload: bytes) -> str:
    return PREFIX + urlsafe_b64encode(payload).rstrip(b"=").decode()


def framed(subject: bytes, event_id: bytes, field: bytes) -> bytes:
    """As docs/ERASURE.md has it, written out once more."""
    lengths = [len(part).to_bytes(4, "big") for part in (subject, field)]
    return b"daybook sealed field\x01" + event_id + lengths[0] + subject + lengths[1] + field


class TestWhatItIs:
    def test_any_library_opens_it(self) -> None:
        found = payload(SEALED)
        assert found[0] == 1
        assert UUID(bytes=found[1:17]) == UUID(EVENT)
        data = framed(b"A-1", found[1:17], b"holder_name")
        assert AESGCM(KEY).decrypt(found[17:29], found[29:], data).decode() == NAME

    def test_any_library_makes_it(self) -> None:
        nonce, event_id = bytes(12), UUID(EVENT).bytes
        sealed = AESGCM(KEY).encrypt(nonce, "výplata".encode(), framed(b"A-1", event_id, b"reason"))
        assert SEALER.open(text_of(b"\x01" + event_id + nonce + sealed), "A-1", "reason") == "výplata"

    def test_stored_ones_are_read_for_ever(self) -> None:
        stored = "daybook-sealed:AQGXc3X2AHAAhERVVVVVVVUAAAAAAAAAAAAAAABP2NT--UP12GTJylCR2-VtIOGbITQ0mDH-29_e"
        assert SEALER.open(stored, "A-1", "holder_name") == NAME

    def test_it_says_of_which_event_it_is(self) -> None:
        assert event_id_of(SEALED) == EVENT

    def test_no_two_are_alike(self) -> None:
        assert SEALER.seal(NAME, "A-1", EVENT, "holder_name") != SEALED

    def test_nothing_of_the_text_is_in_it(self) -> None:
        assert NAME.encode() not in payload(SEALED)
        assert is_sealed(SEALED)
        assert not is_sealed(NAME)


class TestOpening:
    @given(st.text(), st.text(min_size=1), st.uuids(), st.text())
    def test_what_was_sealed_comes_back(self, text: str, subject: str, event_id: UUID, field: str) -> None:
        sealer = Sealer(lambda _: KEY)
        assert sealer.open(sealer.seal(text, subject, str(event_id), field), subject, field) == text

    @given(st.text())
    def test_what_is_not_sealed_is_as_it_is(self, text: str) -> None:
        assert SEALER.open(text, "nobody", "reason") == text

    def test_what_looks_sealed_is_sealed_once_more(self) -> None:
        twice = SEALER.seal(SEALED, "A-1", OTHER_EVENT, "holder_name")
        assert SEALER.open(twice, "A-1", "holder_name") == SEALED

    def test_without_the_key_it_is_erased(self) -> None:
        opened = SEALER.open(SEALED, "nobody", "holder_name")
        assert opened is ERASED
        assert opened == "[erased]"

    def test_without_a_key_what_only_looks_sealed_does_not_fail(self) -> None:
        assert Unsealer({}.get).open(f"{PREFIX}junk", "A-1", "reason") is ERASED

    def test_a_holder_who_is_called_so_is_not_erased(self) -> None:
        sealed = SEALER.seal("[erased]", "A-1", EVENT, "holder_name")
        assert not isinstance(SEALER.open(sealed, "A-1", "holder_name"), Erased)

    @pytest.mark.parametrize(
        ("subject", "field"), [("A-2", "holder_name"), ("A-1\0", "holder_name"), ("A-1", "holder_email"), ("A-1", "")]
    )
    def test_another_account_or_field_does_not_open_it(self, subject: str, field: str) -> None:
        with pytest.raises(SealBroken, match=f"^{field} of {subject}, sealed in event {EVENT}"):
            SEALER.open(SEALED, subject, field)

    def test_another_event_does_not_open_it(self) -> None:
        found = payload(SEALED)
        with pytest.raises(SealBroken, match=OTHER_EVENT):
            SEALER.open(text_of(found[:1] + UUID(OTHER_EVENT).bytes + found[17:]), "A-1", "holder_name")

    def test_the_parts_do_not_run_into_each_other(self) -> None:
        sealer = Sealer(lambda _: KEY)
        with pytest.raises(SealBroken):
            sealer.open(sealer.seal(NAME, "ab", EVENT, "c"), "a", "bc")

    def test_another_key_does_not_open_it(self) -> None:
        with pytest.raises(SealBroken, match="another key than the one"):
            Unsealer(lambda _: new_data_key()).open(SEALED, "A-1", "holder_name")

    @given(st.integers(0, len(payload(SEALED)) * 8 - 1))
    def test_a_bit_that_is_turned_is_noticed(self, bit: int) -> None:
        found = bytearray(payload(SEALED))
        found[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            SEALER.open(text_of(bytes(found)), "A-1", "holder_name")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda _: PREFIX, "cut short, after 0 bytes"),
            (lambda sealed: sealed[: len(PREFIX) + 40], "cut short, after 30 bytes"),
            (lambda sealed: sealed + "=", "not base64url"),
            (lambda sealed: sealed + " ", "not base64url"),
            (lambda sealed: sealed.replace("A", "Ä", 1), "not base64url"),
            (lambda sealed: f"{PREFIX}{sealed[len(PREFIX) : -1]}*{sealed[-1]}", "not base64url"),
            (lambda sealed: text_of(b"\x02" + payload(sealed)[1:]), "version 2, and we know version 1: upgrade"),
        ],
    )
    def test_what_is_damaged_is_told_without_showing_it(self, change: Callable[[str], str], said: str) -> None:
        with pytest.raises(SealBroken, match=said) as failed:
            SEALER.open(change(SEALED), "A-1", "holder_name")
        assert SEALED[len(PREFIX) : len(PREFIX) + 8] not in str(failed.value)

    def test_a_text_that_is_not_sealed_has_no_event_and_is_not_shown(self) -> None:
        with pytest.raises(SealBroken, match="is not sealed") as failed:
            event_id_of(NAME)
        assert NAME not in str(failed.value)

    def test_a_key_that_cannot_be_unwrapped_is_no_erasure(self) -> None:
        def gone(subject_id: str) -> bytes:
            raise UnknownKek(subject_id)

        with pytest.raises(UnknownKek):
            Unsealer(gone).open(SEALED, "A-1", "holder_name")


class TestSealing:
    def test_without_a_key_nothing_is_written_in_plaintext(self) -> None:
        with pytest.raises(NoDataKey, match=f"nobody has no data key to seal reason of event {EVENT}") as failed:
            SEALER.seal(NAME, "nobody", EVENT, "reason")
        assert NAME not in str(failed.value)

    @pytest.mark.parametrize("event_id", ["", "01977375", EVENT + "00", "A" * 35])
    def test_an_event_id_is_a_uuid(self, event_id: str) -> None:
        with pytest.raises(ValueError, match=r"UUID|non-hexadecimal"):
            SEALER.seal(NAME, "A-1", event_id, "reason")

    def test_data_keys_are_of_256_bits_and_new(self) -> None:
        keys = {new_data_key() for _ in range(100)}
        assert len(keys) == 100
        assert {len(key) for key in keys} == {32}


class TestWhatIsHeld:
    def test_a_key_is_asked_for_once(self) -> None:
        asked: list[str] = []

        def data_key(subject_id: str) -> bytes:
            asked.append(subject_id)
            return KEY

        unsealer = Unsealer(data_key)
        assert [unsealer.open(SEALED, "A-1", "holder_name") for _ in range(3)] == [NAME] * 3
        assert asked == ["A-1"]

    def test_the_subject_that_was_not_used_for_longest_makes_room(self) -> None:
        asked: list[str] = []

        def data_key(subject_id: str) -> bytes:
            asked.append(subject_id)
            return KEY

        sealer = Sealer(data_key, cached=2)
        for subject in ("A", "B", "A", "C", "A", "B"):
            sealer.seal(NAME, subject, EVENT, "reason")
        assert asked == ["A", "B", "C", "B"]

    def test_once_forgotten_an_erased_subject_is_erased(self) -> None:
        keys = {"A-1": KEY}
        unsealer = Unsealer(keys.get)
        assert unsealer.open(SEALED, "A-1", "holder_name") == NAME
        keys.clear()
        unsealer.forget("A-1")
        unsealer.forget("nobody")
        assert unsealer.open(SEALED, "A-1", "holder_name") is ERASED

    def test_that_a_subject_has_no_key_is_not_held(self) -> None:
        keys: dict[str, bytes] = {}
        sealer = Sealer(keys.get)
        assert sealer.open(SEALED, "A-1", "holder_name") is ERASED
        keys["A-1"] = KEY
        assert sealer.open(SEALED, "A-1", "holder_name") == NAME


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5])
def test_padding_is_left_out_and_made_up_for(length: int) -> None:
    text = os.urandom(length).hex()[:length]
    sealed = SEALER.seal(text, "A-1", EVENT, "reason")
    assert "=" not in sealed
    assert SEALER.open(sealed, "A-1", "reason") == text
