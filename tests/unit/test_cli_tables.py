"""What is shown of names and reasons that anybody may have written."""

from __future__ import annotations

import json

import pytest

from daybook.cli.options import print_json
from daybook.cli.status import duration
from daybook.cli.tables import Column, print_table, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Zoë [bold]O'Neil[/bold]", "Zoë [bold]O'Neil[/bold]"),
        ("山田\u3000太郎", "山田\u3000太郎"),
        ("می\u200cروم", "می\u200cروم"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u202eb\u009bc\nd", r"a\u202eb\x9bc\nd"),
    ],
)
def test_characters_that_steer_a_terminal_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_json_has_them_escaped_and_reads_back_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"name": "Zoë \x1b[31m\u202e\u009b\U000e0001"}
    print_json(record)
    printed = capsys.readouterr().out.rstrip("\n")
    assert printed.isprintable()
    assert "Zoë" in printed
    assert json.loads(printed) == record


def test_a_table_breaks_no_line_where_there_is_no_terminal_and_takes_no_cell_for_a_style(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table((Column("account", whole=True), Column("why")), [("A" * 128, "[red]x" * 50), ("B", "\x1b")])
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["account", "why"]
    assert first.split() == ["A" * 128, "[red]x" * 50]
    assert second.split() == ["B", r"\x1b"]


def test_a_terminal_that_is_too_narrow_still_shows_an_id_whole() -> None:
    from rich.console import Console  # noqa: PLC0415

    from daybook.cli.tables import table  # noqa: PLC0415

    console = Console(width=60)
    with console.capture() as captured:
        console.print(table((Column("account", whole=True), Column("why")), [("A" * 40, "because " * 10)]))
    assert "A" * 40 in captured.get()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (0.04, "0.0 s"), (3.21, "3.2 s"), (59, "59 s"), (250, "4 min 10 s"), (11_100, "3 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
