"""What is asked of the index of accounts, and in which order it answers. Nothing here does I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from daybook.errors import InvalidSearch
from schemas.money import EXPONENTS, InvalidMoney, Money, parse_amount

MAX_TEXT: Final = 256
"""Characters of a search: as long as a holder's name may be. Each word costs the server a search of its own."""

STATUSES: Final = ("active", "frozen", "closed")

_BY_ID, _BY_WORDS, _BY_BEGINNING, _BY_LIKENESS = 8.0, 4.0, 2.0, 1.0
"""How an account was found, as its score. Relevance by how rare words are would change while one turns the pages."""

ORDER: Final[Sequence[Mapping[str, str]]] = (
    {"_score": "desc"},
    {"holder_name.sort": "asc"},
    {"account_id": "asc"},
)


def account_query(
    text: str | None,
    status: str | None,
    currency: str | None,
    min_balance: Money | str | None,
    max_balance: Money | str | None,
) -> dict[str, Any]:
    """The query for accounts. Raises: `InvalidSearch`, `InvalidMoney`."""
    filters: list[dict[str, Any]] = []
    if status is not None:
        if status not in STATUSES:
            raise InvalidSearch(f'"{status}" is not a status: accounts are {", ".join(STATUSES)}')
        filters.append({"term": {"status": status}})
    bounds = {"gte": _signed(min_balance), "lte": _signed(max_balance)}
    given = {name: money for name, money in bounds.items() if money is not None}
    currencies = {money.currency for money in given.values()} | ({currency} if currency is not None else set())
    if len(currencies) > 1:
        raise InvalidSearch(f"balances of one currency can be compared, and these are {', '.join(sorted(currencies))}")
    for code in currencies:
        if code not in EXPONENTS:
            raise InvalidMoney(f'"{code}" is not a currency: use an ISO 4217 code such as EUR, USD or JPY')
        filters.append({"term": {"currency": code}})
    if given:
        filters.append({"range": {"balance_minor": {name: money.amount_minor for name, money in given.items()}}})
    wanted = [] if text is None or not text.strip() else [_holder_query(text.strip())]
    return {"bool": {"must": wanted, "filter": filters}}


def _holder_query(text: str) -> dict[str, Any]:
    """All words have to be in the holder's name, in any order; or the text is an account's id or holder's address."""
    if len(text) > MAX_TEXT:
        raise InvalidSearch(f"a search has at most {MAX_TEXT} characters, and this has {len(text)}")
    words = {"query": text, "operator": "and"}
    exactly = {"value": text, "case_insensitive": True}
    ways: Sequence[tuple[float, dict[str, Any]]] = (
        (_BY_ID, {"term": {"account_id": exactly}}),
        (_BY_ID, {"term": {"holder_email": exactly}}),
        (_BY_WORDS, {"match": {"holder_name": words}}),
        (_BY_BEGINNING, {"match_bool_prefix": {"holder_name": words}}),
        # One letter may be wrong in a word of three, two in one of eight; not the first, or all words would be tried.
        (_BY_LIKENESS, {"match": {"holder_name": {**words, "fuzziness": "AUTO:3,8", "prefix_length": 1}}}),
    )
    return {"dis_max": {"queries": [{"constant_score": {"filter": q, "boost": score}} for score, q in ways]}}


def _signed(balance: Money | str | None) -> Money | None:
    """A balance, which unlike an amount may be below zero."""
    if not isinstance(balance, str):
        return balance
    amount, _, currency = balance.strip().partition(" ")
    currency = currency.strip()
    if not amount or not currency:
        raise InvalidMoney(f'"{balance}" is not a balance: write a number and a currency, such as "-200.00 EUR"')
    return Money(parse_amount(amount, currency, signed=True), currency)


def cursor(sort: Sequence[object]) -> str:
    """Where a page ended, as text that needs no quoting."""
    return base64.urlsafe_b64encode(json.dumps(sort, separators=(",", ":")).encode()).decode().rstrip("=")


def place(cursor: str) -> list[Any]:
    """Where a page ended, of what `cursor` made of it. Raises: `InvalidSearch`, when it is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    match found:
        case [int() | float() as score, str() | None as name, str() as account_id]:
            return [score, name, account_id]
        case _:
            raise InvalidSearch(f'"{cursor}" is not where a page ended: give what the page before it said')
