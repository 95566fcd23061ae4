"""Comparing with the log, without servers: the fold, how differences are said, and the exit code."""

from __future__ import annotations

import pytest
from hypothesis import given

from daybook.cli.verify import exit_code, wording
from daybook.errors import DaybookError, ReadTimeout, Unreachable, UnreadableRecord
from daybook.fold import Fold
from daybook.log import LoggedEvent
from daybook.verify.differences import Difference, Differs, compare, compare_all, extra, missing
from daybook.verify.run import Outcome, Verdict
from schemas.events import AccountCreated, AccountFrozen, RecordedEvent
from tests.recorded import logs, opened, plain_fold, recorded


def folded(events: list[RecordedEvent]) -> Fold:
    fold = Fold()
    for offset, event in enumerate(events):
        fold.apply(LoggedEvent(0, offset, event))
    return fold


@given(logs())
def test_the_fold_is_what_a_plain_fold_of_the_log_makes(log: list[RecordedEvent]) -> None:
    fold = folded(log)
    assert fold.events == len(log)
    assert {
        account.account_id: {
            "balance_minor": str(account.balance_minor),
            "in_transit_minor": str(account.in_transit_minor),
            "currency": account.currency,
            "status": account.status,
            "sequence": str(account.sequence),
            "updated_at": str(account.updated_at),
        }
        for account in fold.accounts.values()
    } == plain_fold(log)


@pytest.mark.parametrize(
    "events",
    [
        [recorded("A-1", 1, AccountFrozen())],
        [opened("A-1"), recorded("A-1", 3, AccountFrozen())],
        [opened("A-1"), opened("A-1")],
        [opened("A-1"), recorded("A-1", 2, AccountCreated(currency="EUR", holder_name="Ada"))],
    ],
)
def test_a_log_that_is_not_whole_is_no_measure(events: list[RecordedEvent]) -> None:
    with pytest.raises(UnreadableRecord, match=r"partition 0, offset \d of the log: event \d of account A-1"):
        folded(events)


def test_differences_are_said_by_name() -> None:
    assert str(missing("account A-1")) == "account A-1 is missing"
    assert str(extra("event A-1/2")) == "event A-1/2 is there, and the log has nothing of the kind"
    with pytest.raises(Differs, match="account A-1: b is 3, where the log gives 2"):
        compare("account A-1", {"a": 1, "b": 2, "c": None}, {"a": 1, "b": 3})
    with pytest.raises(Differs, match="account A-1: d is 4, where the log gives none"):
        compare_all("account A-1", {"a": 1}, {"a": 1, "c": None, "d": 4})
    compare("account A-1", {"a": 1, "b": None}, {"a": 1, "d": 4})


EQUAL = Verdict("balances", Outcome.EQUAL, 1, None)
DIFFERS = Verdict("search", Outcome.DIFFERS, None, None, Difference("account A-1", None, "there", None))
LATE = Verdict("search", Outcome.LATE, None, None, None, ReadTimeout("it is behind"))
DOWN = Verdict("analytics", Outcome.FAILED, None, None, None, Unreachable("Iceberg", "x", "refused"))
BROKEN = Verdict("analytics", Outcome.FAILED, None, None, None, DaybookError("another log"))


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([EQUAL], 0),
        ([EQUAL, LATE], 3),
        ([LATE, DOWN], 4),
        ([DOWN, BROKEN], 5),
        ([BROKEN, DIFFERS, EQUAL], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts: list[Verdict], code: int) -> None:
    assert exit_code(verdicts) == code


def test_verdicts_in_words() -> None:
    assert wording(EQUAL) == "balances: equal (1 account)"
    assert wording(Verdict("search", Outcome.EQUAL, 2, 3000)) == "search: equal (2 accounts and 3,000 events)"
    assert wording(DIFFERS) == "search: differs: account A-1 is missing"
    assert wording(LATE) == "search: late: it is behind"
