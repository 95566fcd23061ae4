"""Money: an integer number of minor units and an ISO 4217 currency. No float ever touches it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)
_INT64_DIGITS: Final = len(str(INT64_MAX))

# ISO 4217, list one (active currencies and funds), by number of decimals. BGN stays for the accounts that had it.
_CODES_BY_EXPONENT: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF "
        "CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ "
        "GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD "
        "MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON "
        "RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS "
        "UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: Final[dict[str, int]] = {
    code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()
}

_AMOUNT: Final = re.compile(r"(?P<sign>[+-]?)(?P<whole>[0-9]+)(?:\.(?P<fraction>[0-9]+))?")


class InvalidMoney(ValueError):
    """What was typed is not an amount of money; the message says why and how to write it."""


@dataclass(frozen=True, slots=True)
class Money:
    """`amount_minor` minor units (cents, haléřů, yen, fils) of `currency`; within 64 bits, may be negative."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        _exponent(self.currency)
        if not INT64_MIN <= self.amount_minor <= INT64_MAX:
            raise InvalidMoney(f"{self.amount_minor} minor units do not fit in 64 bits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an amount as people write it, e.g. `"200.00 EUR"`. It is never negative.

        Raises:
            InvalidMoney: unless the text is digits, an optional decimal point with at most as many digits
                as the currency has, a space and an ISO 4217 code.
        """
        amount, _, currency = text.strip().partition(" ")
        currency = currency.strip()
        if not amount or not currency:
            raise InvalidMoney(f'"{text}" is not an amount: write a number and a currency, such as "200.00 EUR"')
        return cls(parse_amount(amount, currency), currency)

    def __str__(self) -> str:
        return f"{format_amount(self.amount_minor, self.currency)} {self.currency}"


def parse_amount(text: str, currency: str, *, signed: bool = False) -> int:
    """The minor units that a decimal number of a currency stands for: `("200.5", "EUR")` gives 20050.

    Raises:
        InvalidMoney: for anything but plain decimal digits, more decimals than the currency has, an unknown
            currency, a number beyond 64 bits and, unless `signed`, a negative one.
    """
    exponent = _exponent(currency)
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise InvalidMoney(
            f'"{text}" is not an amount: write plain digits with a decimal point, such as "1200.50", '
            "without exponents or thousands separators"
        )
    if match["sign"] == "-" and not signed:
        raise InvalidMoney(f'"{text}" is negative: amounts are written without a sign')
    fraction = match["fraction"] or ""
    if len(fraction) > exponent:
        raise InvalidMoney(f'"{text} {currency}" has {len(fraction)} decimals, but {currency} has {exponent}')
    whole = match["whole"].lstrip("0")
    # Python refuses to read numbers of thousands of digits; what has more digits than 64 bits hold is too large anyhow.
    minor = int(whole + fraction.ljust(exponent, "0") or "0") if len(whole) <= _INT64_DIGITS else INT64_MAX + 1
    if match["sign"] == "-":
        minor = -minor
    if not INT64_MIN <= minor <= INT64_MAX:
        raise InvalidMoney(f'"{text[:40]} {currency}" is too large: at most {format_amount(INT64_MAX, currency)}')
    return minor


def format_amount(amount_minor: int, currency: str) -> str:
    """A decimal number with all of the currency's decimals: `(20050, "EUR")` gives `"200.50"`."""
    exponent = _exponent(currency)
    digits = str(abs(amount_minor)).rjust(exponent + 1, "0")
    whole, fraction = (digits[:-exponent], digits[-exponent:]) if exponent else (digits, "")
    return f"{'-' if amount_minor < 0 else ''}{whole}{'.' if exponent else ''}{fraction}"


def _exponent(currency: str) -> int:
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise InvalidMoney(f'"{currency}" is not a currency: use an ISO 4217 code such as EUR, USD or JPY') from None
