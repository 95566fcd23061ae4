"""SQL, the named queries and the pictures, over a real table."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.table import Table
from pyiceberg.types import StringType
from typer.testing import CliRunner

from daybook.analytics.catalog import account_events
from daybook.analytics.named import QUERIES, BadParameter
from daybook.analytics.plot import NothingToDraw, draw
from daybook.analytics.query import Answer, BadQuery, NoSuchSnapshot, arrow_source, query
from daybook.cli.app import app
from daybook.errors import Unreachable
from tests.analytics_table import connections, filled, projector
from tests.recorded import batch, completed, deposited, opened, received, returned, sent

ACCOUNTS = [("A-1", "EUR"), ("A-2", "JPY"), ("A-3", "KWD")]
DAYS = 30
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with 30 days from 2026-02-16 on, each a file."""
    folder = tmp_path_factory.mktemp("analytics")
    filled(connections(folder), range(DAYS), ACCOUNTS)
    return folder


@pytest.fixture
def table(folder: Path) -> Iterator[Table]:
    with account_events(connections(folder)) as table:
        yield table


@pytest.fixture
def own_table(tmp_path: Path) -> Iterator[Table]:
    """A table to be spoilt: six days."""
    filled(connections(tmp_path), range(6), ACCOUNTS)
    with account_events(connections(tmp_path)) as table:
        yield table


def files_by_day(table: Table) -> list[Path]:
    tasks = sorted(table.scan().plan_files(), key=lambda task: str(task.file.partition[0]))
    return [Path(task.file.file_path.removeprefix("file://")) for task in tasks]


@pytest.mark.parametrize(
    ("where", "read"),
    [
        ("recorded_at >= TIMESTAMPTZ '2026-02-21 00:00:00+00'", [5]),
        ("recorded_at BETWEEN TIMESTAMPTZ '2026-02-17' AND TIMESTAMPTZ '2026-02-17 12:00'", [1]),
        ('"offset" < 9', [0]),
        ("account_id = 'A-1' AND sequence > 11", [5]),
        ("event_type = 'AccountCreated' AND sequence = 1", [0]),
    ],
)
def test_a_filtered_query_reads_no_file_that_it_does_not_need(own_table: Table, where: str, read: list[int]) -> None:
    """The other days' files are not there any more, so that reading one would fail."""
    sql = f"SELECT count(*) FROM account_events WHERE {where}"  # noqa: S608 - the cases are above
    expected = query(own_table, sql).rows
    for day, file in enumerate(files_by_day(own_table)):
        if day not in read:
            file.unlink()

    assert query(own_table, sql).rows == expected != [(0,)]
    with pytest.raises((BadQuery, FileNotFoundError)):
        query(own_table, "SELECT count(reason) FROM account_events")


def test_named_queries_read_only_the_days_that_they_are_asked_for(own_table: Table) -> None:
    for file in files_by_day(own_table)[:-1]:
        file.unlink()

    for name in ("daily-flows", "top-movers"):
        named = QUERIES[name]
        assert len(query(own_table, named.sql, named.values({"since": "2026-02-21"})).rows) == 3


def test_a_query_reads_no_column_that_it_does_not_need(own_table: Table) -> None:
    """The bytes of one column are overwritten in all files, so that reading it would fail."""
    for path in files_by_day(own_table):
        column = pq.ParquetFile(path).metadata.row_group(0).column(11)
        assert column.path_in_schema == "chain_hash"
        start = column.dictionary_page_offset or column.data_page_offset
        content = bytearray(path.read_bytes())
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(content)

    assert query(own_table, "SELECT sum(amount_minor) FROM account_events").rows == [(720_000,)]
    with pytest.raises((BadQuery, OSError)):
        query(own_table, "SELECT max(chain_hash) FROM account_events")


def test_tables_that_others_changed_are_read_through_pyiceberg(own_table: Table) -> None:
    before = query(own_table, "SELECT count(*), count(amount) FROM account_events").rows
    with own_table.update_schema() as update:
        update.add_column("note", StringType())
    assert not isinstance(arrow_source(own_table), pa.Table), "a column more is read as it is"
    with own_table.update_schema() as update:
        update.rename_column("amount", "worth")

    assert isinstance(arrow_source(own_table), pa.Table)
    assert query(own_table, "SELECT count(*), count(worth) FROM account_events").rows == before


def test_a_table_without_snapshots_is_empty_and_one_without_catalog_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(Unreachable, match=r"there is no file .*catalog\.db.* analytics projector"),
        account_events(connections(tmp_path)),
    ):
        pass
    assert not (tmp_path / "warehouse").exists()
    filled(connections(tmp_path), range(0), ACCOUNTS)
    with account_events(connections(tmp_path)) as table:
        assert query(table, "SELECT count(*) FROM account_events").rows == [(0,)]


def test_daily_flows(table: Table) -> None:
    named = QUERIES["daily-flows"]
    answer = query(table, named.sql, named.values({"currency": "KWD", "since": "2026-03-01", "until": "2026-03-03"}))

    assert answer.columns == [
        *("day", "currency", "deposited", "refunded", "withdrawn", "received", "returned", "sent", "net", "movements")
    ]
    zero = Decimal(0)
    assert answer.rows == [
        (dt.date(2026, 3, day), "KWD", Decimal(30), zero, Decimal(10), zero, zero, zero, Decimal(20), 2)
        for day in (1, 2)
    ]


def test_transfers_are_movements_but_not_once_more_when_they_arrive(tmp_path: Path) -> None:
    events = [
        *(opened("T-1"), opened("T-2"), deposited("T-1", 2, 1)),
        *(sent("T-1", 3, 1, to="T-2", amount=5000, balance=-4999), sent("T-1", 4, 2, amount=300, balance=-5299)),
        *(received("T-2", 2, 1, sender="T-1", amount=5000), completed("T-1", 5, 1, to="T-2", amount=5000)),
        returned("T-1", 6, 2, amount=300, balance=-4999),
    ]
    projector(connections(tmp_path)).apply([batch(events, base=None)])

    def rows(name: str, **given: str) -> list[tuple[object, ...]]:
        named = QUERIES[name]
        with account_events(connections(tmp_path)) as table:
            return query(table, named.sql, named.values(given)).rows

    (flows,) = rows("daily-flows")
    assert flows[2:] == (Decimal("0.01"), 0, 0, 50, 3, 53, Decimal("0.01"), 5)
    assert rows("top-movers") == [
        ("EUR", "T-2", 50, 50, 0, 1),
        ("EUR", "T-1", Decimal("-49.99"), Decimal("3.01"), 53, 4),
    ]
    statement = rows("monthly-statement", account="T-1", month="2025-06")
    assert [(row[1], row[2], row[7]) for row in statement] == [
        ("AccountCreated", None, None),
        ("MoneyDeposited", Decimal("0.01"), None),
        ("TransferSent", Decimal(-50), "T-2"),
        ("TransferSent", Decimal(-3), "B-1"),
        ("TransferReturned", Decimal(3), "B-1"),
    ]


def test_daily_flows_by_the_day_since_when_they_count(table: Table) -> None:
    named = QUERIES["daily-flows"]
    by_effective = named.values({"by": "effective", "currency": "KWD"})
    expected = query(
        table,
        "SELECT CAST(effective_at AS DATE) AS day, count(*) FROM account_events "
        "WHERE currency = 'KWD' AND amount IS NOT NULL GROUP BY day ORDER BY day",
    ).rows

    answer = query(table, named.sql, by_effective)

    assert [(row[0], row[-1]) for row in answer.rows] == expected != []
    assert [row[0] for row in answer.rows] != [row[0] for row in query(table, named.sql, named.values({})).rows]


def test_monthly_statement(table: Table) -> None:
    named = QUERIES["monthly-statement"]
    march = query(table, named.sql, named.values({"account": "A-1", "month": "2026-03"}))
    february = query(table, named.sql, named.values({"account": "A-1", "month": "2026-02"}))

    assert [row[1:5] for row in march.rows[:3]] == [
        ("opening balance", None, Decimal(2600), "EUR"),
        ("MoneyDeposited", Decimal(300), Decimal(2900), "EUR"),
        ("MoneyWithdrawn", Decimal(-100), Decimal(2800), "EUR"),
    ]
    assert february.rows[0][1:4] == ("AccountCreated", None, Decimal(0))
    assert march.rows[0][3] == february.rows[-1][3]
    assert len(march.rows) == 1 + 2 * 17


def test_top_movers(table: Table) -> None:
    named = QUERIES["top-movers"]
    answer = query(table, named.sql, named.values({"since": "2026-03-01", "count": "1"}))

    assert answer.rows == [
        ("EUR", "A-1", Decimal(3400), Decimal(5100), Decimal(1700), 34),
        ("JPY", "A-2", Decimal(340_000), Decimal(510_000), Decimal(170_000), 34),
        ("KWD", "A-3", Decimal(340), Decimal(510), Decimal(170), 34),
    ]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("daily-flows", {"currency": "DM"}, "currency"),
        ("daily-flows", {"month": "2026-03"}, "takes no parameter month, only by, currency, since, until"),
        ("monthly-statement", {"account": "A-1"}, "needs --param month=..."),
        ("monthly-statement", {"account": "A-1", "month": "2026-13"}, "is not a month"),
        ("monthly-statement", {"account": "A-1", "month": "9999-12"}, "is not a month"),
        ("top-movers", {"count": "0"}, "a number from 1"),
        ("top-movers", {"since": "yesterday"}, "is not a moment"),
    ],
)
def test_wrong_parameters_are_named(name: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        QUERIES[name].values(given)


def test_the_table_as_of_a_snapshot_or_a_time(table: Table) -> None:
    third = table.metadata.snapshots[2]
    count = "SELECT count(*) FROM account_events"

    assert query(table, count, as_of=third.snapshot_id).rows == [(9 + 6 + 6,)]
    at = dt.datetime.fromtimestamp(third.timestamp_ms / 1000, dt.UTC)
    assert query(table, count, as_of=at).rows == [(21,)]
    with pytest.raises(NoSuchSnapshot, match="WHERE recorded_at"):
        query(table, count, as_of=at - dt.timedelta(days=1))


def test_every_named_query_and_own_sql_can_be_drawn(table: Table, tmp_path: Path) -> None:
    parameters = {"monthly-statement": {"account": "A-1", "month": "2026-03"}}
    for name, named in QUERIES.items():
        given = parameters.get(name, {})
        draw(name, query(table, named.sql, named.values(given)), given, tmp_path / f"{name}.png")
    for number, sql in enumerate(
        (
            "SELECT event_type, count(*) FROM account_events GROUP BY 1",
            "SELECT recorded_at, amount, balance_after FROM account_events ORDER BY 1",
            "SELECT count(*) FROM account_events",
            "SELECT account_id || ' $x$', sum(amount) FROM account_events GROUP BY 1",
        )
    ):
        draw(None, query(table, sql), {}, tmp_path / f"own-{number}.png")

    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 7
    assert all(picture.read_bytes().startswith(PNG) and picture.stat().st_size > 5_000 for picture in pictures)


@pytest.mark.parametrize("rows", [[], [("a", "b")]])
def test_what_has_no_numbers_is_not_drawn(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(NothingToDraw):
        draw(None, Answer(["x", "y"], ["VARCHAR", "VARCHAR"], rows), {}, tmp_path / "nothing.png")


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    to = connections(folder)
    monkeypatch.setenv("DAYBOOK_ENV_FILE", "/dev/null")
    monkeypatch.setenv("DAYBOOK_KAFKA_BOOTSTRAP", to.kafka_bootstrap)
    monkeypatch.setenv("DAYBOOK_REGISTRY_URL", to.registry_url)
    monkeypatch.setenv("DAYBOOK_ICEBERG_CATALOG", to.iceberg_catalog or "")
    monkeypatch.setenv("DAYBOOK_ICEBERG_WAREHOUSE", to.iceberg_warehouse or "")
    return CliRunner()


def test_the_command_prints_a_table_csv_or_json_and_draws(command: CliRunner, tmp_path: Path) -> None:
    base = ["analytics", "query", "top-movers", "--param", "currency=KWD"]
    plain = command.invoke(app, base)
    as_csv = command.invoke(app, [*base, "--csv"])
    as_json = command.invoke(app, [*base, "--json", "--plot", str(tmp_path / "movers.png")])

    assert [line.split() for line in plain.stdout.splitlines()] == [
        ["currency", "account_id", "net", "money_in", "money_out", "movements"],
        ["KWD", "A-3", "600.00", "900.00", "300.00", "60"],
    ]
    assert as_csv.stdout.splitlines()[1] == "KWD,A-3,600.0000,900.0000,300.0000,60"
    assert json.loads(as_json.stdout.splitlines()[0])["net"] == "600.0000"
    assert (tmp_path / "movers.png").read_bytes().startswith(PNG)


def test_the_command_takes_own_sql_with_parameters_and_a_limit(command: CliRunner) -> None:
    sql = "SELECT account_id FROM account_events WHERE account_id = $who"
    found = command.invoke(app, ["analytics", "query", sql, "--param", "who=A-1", "--limit", "2"])

    assert found.stdout.split() == ["account_id", "A-1", "A-1"]
    assert "only the first 2 rows" in found.stderr
    shown = command.invoke(app, ["analytics", "query", "SELECT * FROM account_events"])
    assert len(shown.stdout.splitlines()) == 101


@pytest.mark.parametrize(
    "arguments",
    [
        ["query", "SELECT nope FROM account_events"],
        ["query", "monthly-flows"],
        ["query", "daily-flows", "--param", "currency"],
        ["query", "daily-flows", "--csv", "--json"],
        ["query", "daily-flows", "--as-of", "2001-01-01"],
        ["maintain", "--older-than", "soon"],
        ["maintain", "--orphans-older-than", "5m"],
    ],
)
def test_wrong_usage_ends_with_2(command: CliRunner, arguments: list[str]) -> None:
    assert command.invoke(app, ["analytics", *arguments]).exit_code == 2


def test_the_command_lists_the_queries_and_maintains(command: CliRunner) -> None:
    listed = command.invoke(app, ["analytics", "queries"])
    would = command.invoke(app, ["analytics", "maintain", "--dry-run", "--json"])

    assert all(name in listed.stdout for name in QUERIES)
    assert json.loads(would.stdout)["before"]["files"] == DAYS
