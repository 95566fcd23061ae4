"""What an event does to the windows that it lies in, and to its account's recent withdrawals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.activity.settings import ActivitySettings
from projectors.activity.taken import Taken
from projectors.activity.velocity import Recent, Rule, withdrew
from projectors.activity.volumes import Volume, VolumeKey, by_window
from schemas.alerts import WITHDRAWAL_COUNT, WITHDRAWAL_SUM, Alert
from schemas.connections import Connections, NotConfigured
from schemas.events import AccountFrozen, MoneyDeposited, MoneyWithdrawn
from schemas.money import INT64_MAX
from tests.recorded import completed, received, recorded, returned, sent

faust_windows = pytest.importorskip("faust.windows", reason="the activity extra is not installed")
app = pytest.importorskip("projectors.activity.app", reason="the activity extra is not installed")
driver = pytest.importorskip("faust.transport.drivers.aiokafka", reason="the activity extra is not installed")
web = pytest.importorskip("projectors.activity.web", reason="the activity extra is not installed")

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MINUTES = faust_windows.TumblingWindow(60)
HOURS = faust_windows.HoppingWindow(3600, 300)


def deposit(offset: int, at_s: float, amount_minor: int = 100, partition: int = 0) -> Taken:
    event = recorded("A-1", offset + 1, MoneyDeposited(amount_minor=amount_minor, currency="EUR", balance_minor=0))
    return Taken(partition, offset, msgspec.structs.replace(event, recorded_at=round(at_s * 1_000_000), effective_at=0))


def withdrawal(offset: int, at_s: float, amount_minor: int = 100, currency: str = "EUR") -> Taken:
    event = recorded("A-1", offset + 1, MoneyWithdrawn(amount_minor=amount_minor, currency=currency, balance_minor=0))
    return Taken(0, offset, msgspec.structs.replace(event, recorded_at=round(at_s * 1_000_000)))


def run(withdrawals: Sequence[Taken], rule: Rule, recent: Recent = Recent()) -> tuple[Recent, list[Alert]]:  # noqa: B008
    alerts: list[Alert] = []
    for taken in withdrawals:
        recent, given = withdrew(recent, taken, rule)
        alerts += given
    return recent, alerts


class TestVolumes:
    def test_an_event_is_in_one_minute_and_in_every_hour_around_it(self) -> None:
        taken = [deposit(0, NOON + 59.999)]
        assert [span[0] - NOON for _, span in by_window(taken, MINUTES.ranges, 0)] == [0]
        assert [span[0] - NOON for _, span in by_window(taken, HOURS.ranges, 0)] == list(range(-3300, 1, 300))

    @pytest.mark.parametrize(("at_s", "starts"), [(0, 0), (0.000001, 0), (59.999999, 0), (60, 60), (-0.000001, -60)])
    def test_a_minute_begins_with_its_first_microsecond_and_ends_before_the_next(
        self, at_s: float, starts: float
    ) -> None:
        [(_, span)] = by_window([deposit(0, NOON + at_s)], MINUTES.ranges, 0)
        assert span[0] - NOON == starts

    def test_windows_that_are_over_are_left_out_and_so_is_what_moves_nothing(self) -> None:
        frozen = Taken(0, 5, recorded("A-1", 5, AccountFrozen()))
        taken = [deposit(3, NOON - 90), deposit(4, NOON, 7), frozen]
        assert by_window(taken, MINUTES.ranges, NOON - 60) == {
            (VolumeKey(0, "EUR", "MoneyDeposited"), (NOON, NOON + 59.9)): [(4, 7)]
        }

    def test_a_transfer_is_counted_where_it_moves_a_balance(self) -> None:
        events = [
            sent("A-1", 2, 1, amount=30),
            received("B-1", 2, 1, amount=30),
            completed("A-1", 3, 1, amount=30),
            sent("A-1", 4, 2, amount=5),
            returned("A-1", 5, 2, amount=5),
        ]
        taken = [Taken(0, offset, event) for offset, event in enumerate(events)]
        found = by_window(taken, MINUTES.ranges, 0)
        assert {key.event_type: moved for (key, _), moved in found.items()} == {
            "TransferSent": [(0, 30), (3, 5)],
            "TransferReceived": [(1, 30)],
            "TransferReturned": [(4, 5)],
        }

    @given(st.lists(st.integers(1, INT64_MAX), max_size=30), st.data())
    def test_what_is_delivered_again_counts_once_whatever_was_stored_meanwhile(
        self, amounts: list[int], data: st.DataObject
    ) -> None:
        moved = list(enumerate(amounts))
        volume, position = Volume(), 0
        while position < len(moved):
            # A batch from anywhere before the position, as after a crash; stored as the changelog has it.
            begin = data.draw(st.integers(0, position))
            end = data.draw(st.integers(position + 1, len(moved)))
            volume = Volume.stored(json.loads(json.dumps(volume.plus(moved[begin:end]).to_store())))
            position = end
        assert volume == (len(amounts), sum(amounts), len(amounts))


class TestVelocity:
    RULE = Rule(window_s=60, count=3, sums={"EUR": 1000})

    def test_so_many_withdrawals_within_the_window_raise_one_alert_and_begin_anew(self) -> None:
        recent, alerts = run([withdrawal(n, NOON + 10 * n) for n in range(7)], self.RULE)
        assert [(alert.sequence, alert.rule, alert.count) for alert in alerts] == [
            (3, WITHDRAWAL_COUNT, 3),
            (6, WITHDRAWAL_COUNT, 3),
        ]
        assert (alerts[0].first_at, alerts[0].raised_at) == (NOON * 1_000_000, (NOON + 20) * 1_000_000)
        assert len(recent.withdrawals) == 1

    def test_a_withdrawal_that_is_as_old_as_the_window_no_longer_counts(self) -> None:
        assert run([withdrawal(n, NOON + 30 * n) for n in range(9)], self.RULE)[1] == []
        assert len(run([withdrawal(n, NOON + 29.999999 * n) for n in range(3)], self.RULE)[1]) == 1

    def test_a_sum_of_the_accounts_currency_raises_an_alert(self) -> None:
        [alert] = run([withdrawal(0, NOON, 1), withdrawal(1, NOON, 999)], self.RULE)[1]
        assert (alert.rule, alert.limit, alert.amount_minor, alert.count) == (WITHDRAWAL_SUM, 1000, 1000, 2)
        assert run([withdrawal(0, NOON, 5000, "JPY")], self.RULE)[1] == []

    def test_what_is_sent_to_another_account_counts_as_a_withdrawal_and_is_not_taken_back(self) -> None:
        events = [
            sent("A-1", 2, 1, amount=400),
            returned("A-1", 3, 1, amount=400),
            sent("A-1", 4, 2, amount=500),
            completed("A-1", 5, 2, amount=500),
            received("A-1", 6, 3, sender="B-1", amount=10_000),
        ]
        taken = [Taken(0, offset, event) for offset, event in enumerate(events)]
        recent, alerts = run(taken, self.RULE)
        assert (alerts, [amount for _, amount in recent.withdrawals]) == ([], [400, 500])
        at_s = events[-1].recorded_at / 1_000_000 + 1
        alerts = run([withdrawal(9, at_s, 100)], self.RULE, recent)[1]
        assert [(alert.rule, alert.count, alert.amount_minor) for alert in alerts] == [
            (WITHDRAWAL_COUNT, 3, 1000),
            (WITHDRAWAL_SUM, 3, 1000),
        ]

    def test_both_rules_may_be_met_at_once(self) -> None:
        alerts = run([withdrawal(n, NOON, 400) for n in range(3)], self.RULE)[1]
        assert [alert.rule for alert in alerts] == [WITHDRAWAL_COUNT, WITHDRAWAL_SUM]
        assert len({alert.alert_id for alert in alerts}) == 2

    def test_a_sum_beyond_64_bits_is_the_largest_that_an_alert_holds(self) -> None:
        withdrawals = [withdrawal(n, NOON, INT64_MAX, "JPY") for n in range(3)]
        assert run(withdrawals, self.RULE)[1][0].amount_minor == INT64_MAX

    @given(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 600)), max_size=30),
        st.data(),
    )
    def test_events_that_come_again_give_no_other_alerts(
        self, steps: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        at, withdrawals = NOON, []
        for offset, (seconds, amount) in enumerate(steps):
            at += seconds
            withdrawals.append(withdrawal(offset, at, amount))
        once = run(withdrawals, self.RULE)
        recent, alerts, position = Recent(), [], 0
        while position < len(withdrawals):
            begin = data.draw(st.integers(0, position))
            end = data.draw(st.integers(position + 1, len(withdrawals)))
            stored = Recent.stored(json.loads(json.dumps(recent.to_store())))
            recent, given = run(withdrawals[begin:end], self.RULE, stored)
            alerts += given
            position = end
        assert (recent, alerts) == once


class TestAnswers:
    def test_partitions_are_added_up_and_the_newest_windows_come_first(self) -> None:
        key = VolumeKey(0, "EUR", "MoneyDeposited")
        found = [
            (key, (NOON, NOON + 59.9), Volume(2, 1050, 9)),
            (key._replace(partition=3), (NOON, NOON + 59.9), Volume(1, 2**63, 4)),
            (key, (NOON + 60, NOON + 119.9), Volume(1, 5, 11)),
            (key, (NOON - 60, NOON - 0.1), Volume(1, 1, 2)),
            (key, (NOON - 9000, NOON - 8940.1), Volume(1, 1, 1)),
        ]
        answer = web.volumes(found, NOON + 100, 60, 60, 7200, 2)
        assert [window["start"] for window in answer["windows"]] == ["2026-03-01T12:01:00Z", "2026-03-01T12:00:00Z"]
        assert answer["windows"][1] == {
            "start": "2026-03-01T12:00:00Z",
            "end": "2026-03-01T12:01:00Z",
            "volumes": [
                {
                    "currency": "EUR",
                    "event_type": "MoneyDeposited",
                    "count": 3,
                    "amount_minor": 2**63 + 1050,
                    "amount": "92233720368547768.58",
                }
            ],
        }


def test_the_rule_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_ENV_FILE", "/dev/null")
    monkeypatch.setenv("DAYBOOK_ACTIVITY_ALERT_COUNT", "4")
    monkeypatch.setenv("DAYBOOK_ACTIVITY_ALERT_SUMS", "5000.00 EUR, 800000 JPY")
    assert ActivitySettings.from_environment().rule == Rule(60, 4, {"EUR": 500_000, "JPY": 800_000})


@pytest.mark.parametrize("sums", ["5000", "5000.00 EUR, 1 EUR", "0.00 EUR", "1.001 EUR"])
def test_sums_that_are_no_amounts_are_refused(monkeypatch: pytest.MonkeyPatch, sums: str) -> None:
    monkeypatch.setenv("DAYBOOK_ENV_FILE", "/dev/null")
    monkeypatch.setenv("DAYBOOK_ACTIVITY_ALERT_SUMS", sums)
    with pytest.raises(NotConfigured, match="DAYBOOK_ACTIVITY_ALERT_SUMS"):
        ActivitySettings.from_environment()


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_the_ways_to_connect_to_kafka_are_those_of_the_other_services(protocol: str) -> None:
    connections = Connections(
        kafka_bootstrap="kafka:9092",
        registry_url="http://registry",
        kafka_security_protocol=protocol,
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="daybook",
        kafka_sasl_password="secret",
    )
    auth = driver.credentials_to_aiokafka_auth(app.credentials(connections))
    assert auth["security_protocol"] == protocol
    assert (auth.get("ssl_context") is not None) == protocol.endswith("SSL")
    if protocol.startswith("SASL"):
        assert (auth["sasl_mechanism"], auth["sasl_plain_username"], auth["sasl_plain_password"]) == (
            "SCRAM-SHA-512",
            "daybook",
            "secret",
        )
