from __future__ import annotations

from pathlib import Path

import pytest

from daybook.mapping import InvalidMapping, Mapping

GOOD = """
name = "bank"
date_format = "%d.%m.%Y"
reason = "{text}, {bank}"

[file]
delimiter = ";"
decimal_separator = ","
thousands_separator = "."

[columns]
row_id = ["day", "number"]
account = "account"
date = "booked"
amount = "amount"
kind = "type"

[kinds]
deposit = ["C"]
withdraw = ["D"]

[accounts]
prefix = "bank-"
currency = "EUR"
"""


def load(tmp_path: Path, text: str) -> Mapping:
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    return Mapping.load(path)


def test_a_mapping_is_read(tmp_path: Path) -> None:
    mapping = load(tmp_path, GOOD)

    assert mapping.columns.row_ids == ("day", "number")
    assert mapping.user == "import"
    assert ("reason", "bank") in mapping.named_columns()
    assert ("columns.kind", "type") in mapping.named_columns()
    assert "account" not in [name for setting, name in mapping.named_columns() if setting == "accounts.holder"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "bank"', "", "name: Field required"),
        ('name = "bank"', "name = 5", "name: Input should be a valid string"),
        ('prefix = "bank-"', 'prefx = "bank-"', "accounts.prefx: Extra inputs are not permitted"),
        ('account = "account"', "", "columns.account: Field required"),
        ('row_id = ["day", "number"]', "row_id = []", "columns.row_id"),
        ('currency = "EUR"', 'currency = "EURO"', 'accounts.currency: "EURO" is not a currency'),
        ('currency = "EUR"', "", "say either columns.currency or accounts.currency"),
        ('kind = "type"', "", "columns.kind must name that column"),
        ('deposit = ["C"]\nwithdraw = ["D"]', "", "kinds.deposit and kinds.withdraw must say"),
        ('withdraw = ["D"]', 'withdraw = ["D", "C"]', "kinds: in more than one list, or twice in one: C"),
        ('withdraw = ["D"]', 'withdraw = ["D"]\nopen = ["O"]', 'accounts.open = "rows" and kinds.open go together'),
        ('prefix = "bank-"', 'open = "rows"', 'accounts.open = "rows" and kinds.open go together'),
        ('prefix = "bank-"', 'open = "always"', "accounts.open: Input should be 'first_row', 'rows' or 'never'"),
        ('prefix = "bank-"', 'overdraft = "1e3"', 'accounts.overdraft: "1e3" is not an amount'),
        ('prefix = "bank-"', 'overdraft = "-1"', "negative"),
        ('reason = "{text}, {bank}"', 'reason = "{text:>5}"', "reason: "),
        ('reason = "{text}, {bank}"', 'reason = "{}"', "reason: "),
        ('reason = "{text}, {bank}"', 'reason = "{text"', "is not a template"),
        ('thousands_separator = "."', 'thousands_separator = ","', "are the same"),
        ('delimiter = ";"', 'delimiter = ";"\nencoding = "latin-99"', 'encoding "latin-99" is not known'),
        ('"%d.%m.%Y"', '"%d.%m."', 'date_format: "%d.%m." is not a date format that Python can read'),
        ('"%d.%m.%Y"', '"%Y"', 'date_format: "%Y" does not say year, month and day'),
        ('"%d.%m.%Y"', '"%Y %Y"', 'date_format: "%Y %Y" is not a date format'),
        ('"%d.%m.%Y"', '"%d.%m.%Q"', "date_format: "),
        ('name = "bank"', "name = bank", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(InvalidMapping) as caught:
        load(tmp_path, GOOD.replace(old, new))

    assert message in str(caught.value)
    assert "mapping.toml" in str(caught.value)


def test_a_missing_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidMapping, match=r"none\.toml cannot be read: No such file"):
        Mapping.load(tmp_path / "none.toml")


def test_the_documented_mapping_is_good() -> None:
    documented = Path(__file__).parents[2] / "docs" / "tutorials" / "berka.toml"

    assert Mapping.load(documented).accounts.prefix == "berka-"
