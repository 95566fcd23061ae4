"""Answers as pictures: a fitting one for each named query, and a plain one for SQL of one's own.

Nothing here opens a window: a figure is drawn into a PNG file, with Matplotlib's own renderer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from daybook.analytics.query import Answer
from daybook.errors import DaybookError
from schemas.money import EXPONENTS

_WIDTH_IN: Final = 10.0
_DPI: Final = 144

_MOST_FACETS: Final = 6
"""More currencies than this in one picture are too small to read; those with the most rows are drawn."""

_MOST_BARS: Final = 40
_ROOM_FOR_LABELS: Final = 90
"""About how many characters fit below a picture side by side."""
_MOST_LINES: Final = 8

_IN, _OUT, _NET, _QUIET = "#2a7f62", "#c2513f", "#22324a", "#8792a2"

_BESIDE_DATES: Final = ["", "%Y", "%Y", "%Y-%m-%d", "%Y-%m-%d", "%Y-%m-%d %H:%M"]
"""What stands at the end of an axis of years, months, days, hours, minutes or seconds, to complete its labels."""

Draw = Callable[[Answer, Mapping[str, str]], Figure]


class NothingToDraw(DaybookError):
    """The answer has no rows, or no column of numbers."""


def draw(name: str | None, answer: Answer, given: Mapping[str, str], file: Path) -> None:
    """Draw an answer to a PNG file: that of the named query, given these parameters, or of own SQL without a name.

    Raises:
        NothingToDraw: there is nothing that a picture could show.
        OSError: the file cannot be written.
    """
    if not answer.rows:
        raise NothingToDraw("the query has no rows, so there is nothing to draw")
    figure = _DRAWN.get(name or "", _anything)(answer, given)
    figure.savefig(file, dpi=_DPI, format="png", bbox_inches="tight", pad_inches=0.2, facecolor="white")


def _daily_flows(answer: Answer, given: Mapping[str, str]) -> Figure:
    figure, facets = _facets(answer, "Money in and out by day" + _span(given))
    for axes, currency, rows in facets:
        days = [date2num(row["day"]) for row in rows]
        taken_in = [float(row["deposited"] + row["refunded"] + row["received"] + row["returned"]) for row in rows]
        paid_out = [-float(row["withdrawn"] + row["sent"]) for row in rows]
        axes.bar(days, taken_in, width=0.8, color=_IN, label="in")
        axes.bar(days, paid_out, width=0.8, color=_OUT, label="out")
        few = len(rows) <= _MOST_BARS * 2
        marker = "o" if few else ""
        axes.plot(days, [float(row["net"]) for row in rows], color=_NET, lw=1.4, marker=marker, ms=3, label="net")
        axes.axhline(0, color=_NET, lw=0.8)
        _money(axes, currency)
        _dates(axes, [row["day"] for row in rows])
    _legend(figure, facets[0][0])
    return figure


def _monthly_statement(answer: Answer, given: Mapping[str, str]) -> Figure:
    rows = _rows(answer)
    currency = rows[0]["currency"]
    month = datetime.strptime(given["month"], "%Y-%m")
    figure = _figure(4.6, f"{given['account']}: statement of {month:%B %Y}, in {currency}")
    axes = figure.add_subplot()
    moments = [row["recorded_at"].replace(tzinfo=None) for row in rows]
    balances = [float(row["balance"]) for row in rows]
    end = (month + timedelta(days=32)).replace(day=1)
    axes.step([*moments, end], [*balances, balances[-1]], where="post", color=_NET, lw=1.6, label="balance")
    axes.fill_between([*moments, end], [*balances, balances[-1]], step="post", color=_NET, alpha=0.08)
    for label, color, rises in (("money in", _IN, True), ("money out", _OUT, False)):
        chosen = [i for i, row in enumerate(rows) if row["amount"] is not None and (row["amount"] > 0) is rises]
        marker = "^" if rises else "v"
        xs, ys = [moments[i] for i in chosen], [balances[i] for i in chosen]
        axes.scatter(xs, ys, color=color, marker=marker, s=26, zorder=3, label=label)
    axes.set_xlim(date2num(month), date2num(end))
    _money(axes, currency)
    _dates(axes, [month, end])
    axes.annotate(
        f"{_exact(rows[-1]['balance'], currency)}",
        (date2num(end), balances[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=_NET,
    )
    _legend(figure, axes)
    return figure


def _top_movers(answer: Answer, given: Mapping[str, str]) -> Figure:
    figure, facets = _facets(answer, "Accounts whose balance changed most" + _span(given), by_bars=True)
    for axes, currency, found in facets:
        rows = found[:_MOST_BARS]
        names = [_short(str(row["account_id"])) for row in rows]
        nets = [float(row["net"]) for row in rows]
        places = range(len(rows))
        axes.barh(places, nets, color=[_IN if net >= 0 else _OUT for net in nets], height=0.7)
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
        axes.axvline(0, color=_NET, lw=0.8)
        axes.margins(x=0.16)
        for i, row in enumerate(rows):
            side = 4 if nets[i] >= 0 else -4
            axes.annotate(
                f"{_exact(row['net'], currency, '+')}  ({row['movements']}x)",
                (nets[i], i),
                xytext=(side, 0),
                textcoords="offset points",
                va="center",
                ha="left" if nets[i] >= 0 else "right",
                fontsize=8,
                color=_NET,
            )
        axes.xaxis.set_major_formatter(_amounts())
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"change of the balance, {currency}")
        axes.grid(axis="x", color="#e6e9ee")
        _plain(axes)
    return figure


def _anything(answer: Answer, _: Mapping[str, str]) -> Figure:
    """The first column along the bottom; each other column of numbers is a line or, over words, bars."""
    rows = answer.rows
    numbers = [
        i
        for i in range(1 if len(answer.columns) > 1 else 0, len(answer.columns))
        if any(row[i] is not None for row in rows) and all(_is_number(row[i]) or row[i] is None for row in rows)
    ][:_MOST_LINES]
    if not numbers:
        raise NothingToDraw("a picture needs a column of numbers after the first one, which goes along the bottom")
    figure = _figure(
        4.8, ", ".join(answer.columns[i] for i in numbers) + (f" by {answer.columns[0]}" if numbers[0] else "")
    )
    axes = figure.add_subplot()
    along: Sequence[Any] = [row[0] for row in rows] if numbers[0] else range(len(rows))
    values = {i: [float("nan") if row[i] is None else float(row[i]) for row in rows] for i in numbers}
    if all(isinstance(x, date) or _is_number(x) for x in along):
        times = [x for x in along if isinstance(x, date)]
        xs = [date2num(x) if isinstance(x, date) else float(x) for x in along]
        for i in numbers:
            axes.plot(
                xs, values[i], lw=1.6, marker="o" if len(rows) <= _MOST_BARS * 2 else "", ms=3, label=answer.columns[i]
            )
        if times:
            _dates(axes, times)
    else:
        shown = rows[:_MOST_BARS]
        width = 0.8 / len(numbers)
        for n, i in enumerate(numbers):
            places = [p - 0.4 + width * (n + 0.5) for p in range(len(shown))]
            axes.bar(places, values[i][: len(shown)], width=width, label=answer.columns[i])
        crowded = sum(len(_short(str(row[0]))) for row in shown) > _ROOM_FOR_LABELS
        axes.set_xticks(
            range(len(shown)),
            [_short(str(row[0])) for row in shown],
            rotation=45 if crowded else 0,
            ha="right" if crowded else "center",
        )
        if len(rows) > len(shown):
            axes.set_xlabel(f"{answer.columns[0]} (the first {len(shown)} of {len(rows)} rows)", color=_QUIET)
    axes.yaxis.set_major_formatter(_amounts())
    axes.grid(axis="y", color="#e6e9ee")
    _plain(axes)
    if len(numbers) > 1:
        _legend(figure, axes)
    else:
        axes.set_ylabel(answer.columns[numbers[0]])
    return figure


_DRAWN: Final[Mapping[str, Draw]] = {
    "daily-flows": _daily_flows,
    "monthly-statement": _monthly_statement,
    "top-movers": _top_movers,
}


def _rows(answer: Answer) -> list[dict[str, Any]]:
    return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


def _figure(height_in: float, title: str) -> Figure:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    figure.suptitle(_literal(title), x=0.01, ha="left", fontsize=14, fontweight="bold", color=_NET)
    return figure


def _facets(
    answer: Answer, title: str, *, by_bars: bool = False
) -> tuple[Figure, list[tuple[Axes, str, list[dict[str, Any]]]]]:
    """One picture under the other for each currency, since amounts of two currencies have no scale in common."""
    by_currency: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(answer):
        by_currency.setdefault(row["currency"], []).append(row)
    drawn = sorted(by_currency, key=lambda code: (-len(by_currency[code]), code))[:_MOST_FACETS]
    left_out = sorted(set(by_currency) - set(drawn))
    heights = [0.9 + 0.3 * min(len(by_currency[code]), _MOST_BARS) if by_bars else 2.5 for code in sorted(drawn)]
    figure = _figure(1.0 + sum(heights), title)
    grid = figure.add_gridspec(len(drawn), 1, height_ratios=heights)
    facets = []
    for i, code in enumerate(sorted(drawn)):
        axes = figure.add_subplot(grid[i, 0])
        facets.append((axes, code, by_currency[code]))
    if left_out:
        figure.supxlabel(f"not drawn: {', '.join(left_out)}", fontsize=9, color=_QUIET)
    return figure, facets


def _span(given: Mapping[str, str]) -> str:
    parts = [f"{word} {given[name]}" for name, word in (("since", "from"), ("until", "until")) if name in given]
    return f", {' '.join(parts)}" if parts else ""


def _money(axes: Axes, currency: str) -> None:
    axes.set_ylabel(currency, fontweight="bold", color=_NET)
    axes.yaxis.set_major_formatter(_amounts())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="y", color="#e6e9ee")
    _plain(axes)


def _amounts() -> FuncFormatter:
    large = EngFormatter(places=None, sep="")

    def show(value: float, _: int | None = None) -> str:
        return large(value) if abs(value) >= 1e6 else f"{value:,.10g}"

    return FuncFormatter(show)


def _exact(amount: Decimal, currency: str, sign: str = "") -> str:
    """An amount with the decimals that its currency has."""
    return f"{amount:{sign},.{EXPONENTS.get(currency, 2)}f}"


def _dates(axes: Axes, moments: Sequence[date]) -> None:
    days = 1 + max(moment.toordinal() for moment in moments) - min(moment.toordinal() for moment in moments)
    locator = AutoDateLocator(minticks=1 if days < 3 else 4, maxticks=min(10, max(days, 3)))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, offset_formats=_BESIDE_DATES))
    if days == 1 and not any(isinstance(moment, datetime) for moment in moments):
        # One bar alone: the locator would label its hours, of which a day has none to show.
        axes.set_xticks([date2num(moments[0])], [f"{moments[0]:%Y-%m-%d}"])
        axes.set_xlim(date2num(moments[0]) - 2, date2num(moments[0]) + 2)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=10)


def _plain(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_QUIET)
    axes.tick_params(colors=_NET, labelsize=9)


def _short(text: str) -> str:
    return _literal(text if len(text) <= 24 else text[:21] + "...")


def _literal(text: str) -> str:
    """Text as it is: between dollar signs Matplotlib would read formulas."""
    return text.replace("$", r"\$")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)
