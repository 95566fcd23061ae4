"""How events become documents, and which failures of Elasticsearch pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError, exceptions
from hypothesis import given
from hypothesis import strategies as st

from projectors.elasticsearch import ask
from projectors.projector import CannotProject, CheckpointMoved, SinkUnavailable
from projectors.search_documents import AccountDocument, Unprojectable, event_document, evolve, iso
from schemas.events import RecordedEvent
from tests.recorded import deposited, logs
from tests.search_model import plain_documents


@given(log=logs())
def test_documents_are_a_plain_fold_of_the_log(log: list[RecordedEvent]) -> None:
    accounts: dict[str, AccountDocument] = {}
    events: dict[str, object] = {}
    for offset, item in enumerate(log):
        before = accounts.get(item.account_id)
        after = accounts[item.account_id] = evolve(before, item, 3, offset)
        balance = before.balance_minor if before is not None else 0
        document = event_document(item, 3, offset, balance, after.currency)
        events[f"{item.account_id}/{item.sequence}"] = msgspec.json.decode(msgspec.json.encode(document))
    found = {account_id: msgspec.json.decode(msgspec.json.encode(account)) for account_id, account in accounts.items()}
    assert (found, events) == plain_documents((item, 3, offset) for offset, item in enumerate(log))


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_times_are_text_to_the_microsecond(at: datetime) -> None:
    micros = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert iso(micros) == at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@pytest.mark.parametrize("micros", [-62_135_596_800_000_001, 253_402_300_800_000_000, 2**63 - 1, -(2**63)])
def test_a_time_in_no_year_of_the_calendar_is_named(micros: int) -> None:
    with pytest.raises(Unprojectable, match=f"the time {micros}, "):
        iso(micros)


def test_an_account_begins_with_its_creation() -> None:
    with pytest.raises(Unprojectable, match="MoneyDeposited is the account's first event"):
        evolve(None, deposited("A-1", 1, 5), 0, 0)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "illegal_argument_exception", CannotProject),
        (400, "index_closed_exception", SinkUnavailable),
        (401, "security_exception", CannotProject),
        (403, "security_exception", CannotProject),
        (403, "cluster_block_exception", SinkUnavailable),
        (404, "index_not_found_exception", CheckpointMoved),
        (413, "content_too_long_exception", CannotProject),
        (429, "es_rejected_execution_exception", SinkUnavailable),
        (500, "anything", SinkUnavailable),
        (503, "cluster_block_exception", SinkUnavailable),
        (504, "a gateway's page", SinkUnavailable),
    ],
)
def test_failures_that_pass_are_told_from_those_that_do_not(status: int, code: str, kind: type[Exception]) -> None:
    meta = ApiResponseMeta(status, "1.1", HttpHeaders(), 0.1, NodeConfig("http", "localhost", 1))
    body = {"error": {"type": code, "reason": "the reason", "caused_by": {"reason": "its cause"}}}

    def fail() -> None:
        raise ApiError(code, meta, body)

    with pytest.raises(kind, match=rf"{code}: the reason \(its cause\)"):
        ask(fail)


@pytest.mark.parametrize("error", [exceptions.ConnectionTimeout("slow"), exceptions.ConnectionError("refused")])
def test_a_server_that_does_not_answer_can_be_waited_for(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SinkUnavailable, match="Elasticsearch: "):
        ask(fail)
