"""Amounts as people write them, to and from minor units."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.money import EXPONENTS, INT64_MAX, INT64_MIN, InvalidMoney, Money, format_amount, parse_amount

CURRENCIES = st.sampled_from(sorted(EXPONENTS))
AMOUNTS = st.integers(INT64_MIN, INT64_MAX)


@pytest.mark.parametrize(
    ("text", "minor", "written"),
    [
        ("200.00 EUR", 20000, "200.00 EUR"),
        ("200.5 EUR", 20050, "200.50 EUR"),
        ("200 EUR", 20000, "200.00 EUR"),
        ("0.07 EUR", 7, "0.07 EUR"),
        ("0 EUR", 0, "0.00 EUR"),
        ("007.10 EUR", 710, "7.10 EUR"),
        ("+5 EUR", 500, "5.00 EUR"),
        ("  5  EUR ", 500, "5.00 EUR"),
        ("200 JPY", 200, "200 JPY"),
        ("1.234 KWD", 1234, "1.234 KWD"),
        ("1.2 KWD", 1200, "1.200 KWD"),
        ("1.0001 CLF", 10001, "1.0001 CLF"),
        ("92233720368547758.07 EUR", INT64_MAX, "92233720368547758.07 EUR"),
        ("9223372036854775807 JPY", INT64_MAX, "9223372036854775807 JPY"),
        ("0" * 5000 + "1 JPY", 1, "1 JPY"),
    ],
)
def test_an_amount_is_read(text: str, minor: int, written: str) -> None:
    money = Money.parse(text)
    assert money.amount_minor == minor
    assert str(money) == written


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("200.005 EUR", '"200.005 EUR" has 3 decimals, but EUR has 2'),
        ("200.50 JPY", "JPY has 0"),
        ("200.000 EUR", "has 3 decimals"),
        ("1.2345 KWD", "KWD has 3"),
        ("1e3 EUR", "without exponents"),
        ("NaN EUR", '"NaN" is not an amount'),
        ("Infinity EUR", "is not an amount"),
        ("0x10 EUR", "is not an amount"),
        ("1_000 EUR", "is not an amount"),
        ("1,000 EUR", "thousands separators"),
        ("1,50 EUR", "decimal point"),
        (".5 EUR", "is not an amount"),
        ("5. EUR", "is not an amount"),
        ("1.2.3 EUR", "is not an amount"),
        ("--5 EUR", "is not an amount"),
        ("-5 EUR", '"-5" is negative'),
        ("-0 EUR", "is negative"),
        ("5 XXX", '"XXX" is not a currency'),
        ("5 eur", "is not a currency"),
        ("5 EUR EUR", "is not a currency"),
        ("EUR 5", "is not a currency"),
        ("1 000 EUR", "is not a currency"),
        ("5EUR", "write a number and a currency"),
        ("5", "write a number and a currency"),
        ("EUR", "write a number and a currency"),
        ("", "write a number and a currency"),
        (" ", "write a number and a currency"),
        ("\N{ARABIC-INDIC DIGIT FIVE} EUR", "is not an amount"),
        ("\N{FULLWIDTH DIGIT FIVE} EUR", "is not an amount"),
        ("5\N{SUPERSCRIPT TWO} EUR", "is not an amount"),
        ("\N{MINUS SIGN}5 EUR", "is not an amount"),
        ("92233720368547758.08 EUR", "is too large: at most 92233720368547758.07"),
        ("9223372036854775808 JPY", "is too large"),
        ("9" * 5000 + " EUR", "is too large"),
    ],
)
def test_what_is_not_an_amount_says_why(text: str, saying: str) -> None:
    with pytest.raises(InvalidMoney, match=re.escape(saying)):
        Money.parse(text)


def test_signs_are_read_where_they_are_asked_for() -> None:
    assert parse_amount("-0.5", "EUR", signed=True) == -50
    assert parse_amount("+0.5", "EUR", signed=True) == 50
    assert parse_amount("-0", "EUR", signed=True) == 0
    assert parse_amount("-92233720368547758.08", "EUR", signed=True) == INT64_MIN
    with pytest.raises(InvalidMoney, match="too large"):
        parse_amount("-92233720368547758.09", "EUR", signed=True)


@given(AMOUNTS, CURRENCIES)
def test_what_is_written_is_read_back(minor: int, currency: str) -> None:
    text = format_amount(minor, currency)
    assert parse_amount(text, currency, signed=True) == minor
    whole, _, decimals = text.partition(".")
    assert re.fullmatch("-?(0|[1-9][0-9]*)", whole)
    assert len(decimals) == EXPONENTS[currency]
    if minor >= 0:
        assert Money.parse(str(Money(minor, currency))) == Money(minor, currency)


@given(st.text(max_size=12), CURRENCIES)
def test_any_text_is_an_amount_or_a_clear_error(text: str, currency: str) -> None:
    try:
        money = Money.parse(f"{text} {currency}")
    except InvalidMoney:
        return
    assert 0 <= money.amount_minor <= INT64_MAX


@pytest.mark.parametrize("minor", [INT64_MAX + 1, INT64_MIN - 1])
def test_money_fits_in_64_bits(minor: int) -> None:
    with pytest.raises(InvalidMoney, match="do not fit in 64 bits"):
        Money(minor, "EUR")


def test_money_is_of_a_known_currency() -> None:
    with pytest.raises(InvalidMoney, match='"XTS" is not a currency'):
        Money(1, "XTS")


def test_currencies_are_three_capitals_with_their_decimals() -> None:
    assert all(re.fullmatch("[A-Z]{3}", code) for code in EXPONENTS)
    assert {code: EXPONENTS[code] for code in ("JPY", "EUR", "CZK", "USD", "KWD", "TND", "ISK", "HUF", "CLF")} == {
        "JPY": 0,
        "EUR": 2,
        "CZK": 2,
        "USD": 2,
        "KWD": 3,
        "TND": 3,
        "ISK": 0,
        "HUF": 2,
        "CLF": 4,
    }
