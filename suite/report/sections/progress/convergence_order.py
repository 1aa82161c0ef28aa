"""The order of convergence: f - f* against oracle calls and against itself, orders in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from suite.report.drawing.canvas import RC, Picture, literal, plain_ticks, save, slugs
from suite.report.drawing.lines import handle, marked_line
from suite.report.drawing.style import Look
from suite.report.section import OVERALL, PROBLEM, Content, Context, Section
from suite.results.frame import Records, once, one_seed, seed_text
from suite.results.outcomes import failure_words
from suite.results.run import VALUED
from suite.results.suboptimality import EPS, METRIC, Gaps, consecutive, gap_sequence, worth_drawing
from suite.stats.convergence_order import (
    LINEAR,
    NOT_CONVERGING,
    SUBLINEAR,
    TOO_EARLY,
    TOO_FEW,
    Order,
    observed_order,
    rate_text,
)
from suite.tables.formats import NOT_RUN, number
from suite.tables.table import Cell, Table, make_table, runs_note

HOW_TO_READ = (
    "How fast the gap e = f - f* closes, step by step. Left: against oracle calls; a straight line "
    "is linear convergence, a line that bends down is superlinear. Right: each gap against the one "
    "before it; along a line of slope 1 each step wins the same factor (linear), along one of "
    "slope 2 each step doubles the number of correct digits (quadratic). The order is read off the "
    "last four decades above round-off, so it says how a method ends, not how long it takes to get "
    "there. A step is the optimizer's own: torch's L-BFGS makes several iterations in one, and its "
    "order is that of all of them together. The distance to the minimizer has the same order as f "
    "- f*, and the square root of its linear rate."
)
ORDERS = (
    "How the gap f - f* closes at consecutive steps above round-off, in most runs; how many of all "
    "show it, unless all do. linear: by the factor `rate` in each step; order q: e(k+1) ~ C e(k)^q."
)
NUMBERS = (
    "Rate: the factor per step (linear). Order: q of e(k+1) ~ C e(k)^q, or the power of 1/k "
    "(sublinear). Points: the gaps above round-off; fewer than four, or six of a slow sequence, "
    "are too few (round-off was reached before, or, with log_every, too few steps were logged). "
    "Agree: the runs that show this order, of all. Gap: the median final gap."
)
LONG = 8.0
FEW_PAIRS = 40  # that are drawn with large markers
LEGEND_COLUMNS = 3
# where runs disagree evenly, the more modest word counts
CAUTION = (NOT_CONVERGING, TOO_FEW, TOO_EARLY, SUBLINEAR, LINEAR)


@dataclass(frozen=True)
class Convergence:
    """One optimizer on one problem.

    Attributes:
        optimizer: its label.
        order: that most runs show.
        agree: how many runs show it.
        runs: all of them.
        shown: the sequence of one run.
    """

    optimizer: str
    order: Order
    agree: int
    runs: pd.DataFrame
    shown: Gaps | None

    @property
    def word(self) -> str:
        """The order in words, or how the runs failed."""
        return str(self.order) if self.agree else failure_words(self.runs, "status")


@dataclass(frozen=True)
class Problem:
    """All optimizers of one problem, and which seed's sequences are shown."""

    problem: str
    cells: list[Convergence]
    seed: str


def section(context: Context) -> Content:
    """The orders in words on the overall page, with numbers and sequences on a problem's own."""
    records, problems = context.records, convergences(context.records)
    tables = order_tables(problems, records.optimizers)
    note = HOW_TO_READ if tables else ""
    if context.page == OVERALL:
        return Content(tables, [], note)
    return Content(
        tables[1:], order_pictures(problems, context.styles, context.named_figures), note
    )


def convergences(records: Records) -> list[Problem]:
    """The problems with a known minimum on which any run shows how it converges."""
    problems = [_problem(records, problem) for problem in records.problems]
    return [one for one in problems if any(cell.agree for cell in one.cells)]


def order_tables(problems: Sequence[Problem], optimizers: Sequence[str]) -> list[Table]:
    """The words at a glance, a row per optimizer and a column per problem, and all numbers.

    None without problems.
    """
    if not problems:
        return []
    counted = runs_note(sum(len(cell.runs) for one in problems for cell in one.cells))
    rows = [_row(one.problem, cell) for one in problems for cell in one.cells]
    return [
        make_table(
            "orders",
            "Observed order of convergence",
            f"{ORDERS} {counted}",
            _glance(problems, optimizers),
        ),
        make_table("orders_numbers", "The numbers behind the words", f"{NUMBERS} {counted}", rows),
    ]


def _glance(problems: Sequence[Problem], optimizers: Sequence[str]) -> list[dict[str, Cell | str]]:
    words = {one.problem: {cell.optimizer: _word(cell) for cell in one.cells} for one in problems}
    names = [name for name in optimizers if any(name in column for column in words.values())]
    return [
        {
            "optimizer": name,
            **{problem: column.get(name, NOT_RUN) for problem, column in words.items()},
        }
        for name in names
    ]


def _word(cell: Convergence) -> str:
    """The order in words, with the share of runs that show it unless all do."""
    share = f" {cell.agree}/{len(cell.runs)}" if 0 < cell.agree < len(cell.runs) else ""
    return f"{cell.word}{share}"


def order_pictures(
    problems: Sequence[Problem], looks: Mapping[str, Look], folder: Path
) -> list[Picture]:
    """One picture for each problem."""
    names = slugs(one.problem for one in problems)
    return [_picture(one, looks, folder, f"order-{names[one.problem]}") for one in problems]


def _picture(one: Problem, looks: Mapping[str, Look], folder: Path, name: str) -> Picture:
    with mpl.rc_context(RC):
        png = save(_draw(one, looks), folder, name)
    caption = (
        f"The gap f - f* of {one.seed}, up to round-off and beyond. Left: against "
        "gradient-equivalents. Right: each gap against the one before. The words are those of the "
        f"table. {runs_note(sum(len(cell.runs) for cell in one.cells))}"
    )
    words = "; ".join(f"{cell.optimizer}: {cell.word}" for cell in one.cells)
    alt = f"Convergence of f - f* on {one.problem}. {words}."
    return Picture(name, one.problem, caption, alt, png)


@once
def _problem(records: Records, problem: str) -> Problem:
    runs = records.of(problem)
    if runs["metric"].iloc[0] != METRIC:
        return Problem(problem, [], "")
    ended = runs[runs["status"].isin(VALUED)]
    shown = one_seed(ended) if len(ended) else ended
    groups = runs.groupby("optimizer", sort=False)
    return Problem(
        problem,
        [_convergence(records, str(name), group, shown) for name, group in groups],
        seed_text(shown),
    )


def _convergence(
    records: Records, name: str, runs: pd.DataFrame, shown: pd.DataFrame
) -> Convergence:
    """Classify every run that came to its end."""
    sequences: dict[int, Gaps] = {}
    orders: list[Order] = []
    for index in map(int, runs.index[runs["status"].isin(VALUED)]):
        eps = EPS.get(str(records.runs[index].config.get("precision")), EPS["float64"])
        gaps = gap_sequence(records.histories[index], eps)
        if gaps is not None:
            sequences[index] = gaps
            orders.append(observed_order(gaps.steps, gaps.gaps, eps, gaps.minimum))
    order, agree = _majority(orders)
    drawn = next((gaps for index, gaps in sequences.items() if index in shown.index), None)
    return Convergence(name, order, agree, runs, None if drawn is None else worth_drawing(drawn))


def _majority(orders: list[Order]) -> tuple[Order, int]:
    """The most frequent word, with the medians of its runs; the more modest of two as frequent."""
    if not orders:
        return Order(TOO_FEW), 0
    counts = Counter(order.kind for order in orders)
    modesty = {kind: -place for place, kind in enumerate(CAUTION)}
    kind = max(counts, key=lambda word: (counts[word], modesty.get(word, -len(CAUTION))))
    same = [order for order in orders if order.kind == kind]
    rate, power, points = (
        np.median([getattr(order, key) for order in same]) for key in ("rate", "order", "points")
    )
    return Order(kind, float(rate), float(power), int(points)), len(same)


def _row(problem: str, cell: Convergence) -> dict[str, Cell | str]:
    order = cell.order
    final = float(cell.runs.loc[cell.runs["status"].isin(VALUED), "final"].median())
    return {
        "problem": problem,
        "optimizer": cell.optimizer,
        "observed": cell.word,
        "rate": NOT_RUN
        if math.isnan(order.rate)
        else Cell(rate_text(order.rate), order=order.rate),
        "order": NOT_RUN
        if math.isnan(order.order)
        else Cell(f"{order.order:.2f}", order=order.order),
        "points": Cell(str(order.points), order=order.points) if cell.agree else NOT_RUN,
        "agree": Cell(f"{cell.agree}/{len(cell.runs)}", order=cell.agree / len(cell.runs)),
        "gap": NOT_RUN if math.isnan(final) else Cell(number(final), order=final),
    }


def _draw(one: Problem, looks: Mapping[str, Look]) -> Canvas:
    cells = [cell for cell in one.cells if cell.shown is not None]
    rows = math.ceil(len(cells) / LEGEND_COLUMNS)
    canvas = Canvas(figsize=(11, 4.4 + 0.22 * rows), layout="constrained")
    left, right = canvas.subplots(1, 2)
    for place, cell in enumerate(cells):
        if cell.shown is not None:
            _against_calls(left, cell.shown, looks[cell.optimizer], place)
            _against_the_last(right, cell.shown, looks[cell.optimizer])
    ends = [float(cell.shown.calls[-1]) for cell in cells if cell.shown is not None]
    far = max(ends) > LONG * max(min(ends), 1.0)
    left.set(
        yscale="log",
        xscale="symlog" if far else "linear",
        xlabel="grad-equivalents",
        ylabel="f - f*",
    )
    left.set_xlim(0, 1.3 * max(ends) if far else None)
    plain_ticks(left.yaxis)
    _guides(right)
    canvas.suptitle(literal(f"{one.problem}, {one.seed}"), fontsize=12)
    handles = [handle(looks[cell.optimizer], f"{cell.optimizer}: {cell.word}") for cell in cells]
    canvas.legend(
        handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, handlelength=3.2
    )
    return canvas


def _against_calls(axes: Axes, gaps: Gaps, look: Look, place: int) -> None:
    good = gaps.gaps > 0
    marked_line(axes, gaps.calls[good], gaps.gaps[good], look, place)


def _against_the_last(axes: Axes, gaps: Gaps, look: Look) -> None:
    before, after = consecutive(gaps)
    size = 4 if len(before) <= FEW_PAIRS else 2
    axes.plot(
        before, after, color=look.colour, marker=look.marker, markersize=size, lw=0.7, alpha=0.8
    )


def _guides(axes: Axes) -> None:
    """Lines of slope 1 (no progress at all) and 2 through (1, 1), behind the sequences."""
    if not any(np.size(line.get_xdata(orig=False)) for line in axes.lines):
        axes.set_axis_off()
        return
    axes.set(
        xscale="log", yscale="log", xlabel="f - f* before the step", ylabel="f - f* after the step"
    )
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    reach = np.geomspace(low, high, 200)
    for slope in (1, 2):
        inside = (reach**slope > bottom) & (reach**slope < top)
        if inside.sum() > 1:
            axes.plot(
                reach[inside],
                reach[inside] ** slope,
                color="#8a8a8a",
                lw=0.9,
                ls=(0, (1, 2)),
                zorder=0.5,
            )
            end = reach[inside][0]
            axes.annotate(
                f"slope {slope}", (end, end**slope), (3, 3), textcoords="offset points", fontsize=8
            )
    axes.set(xlim=(low, high), ylim=(bottom, top))


SECTION = Section("orders", "Order of convergence", {OVERALL, PROBLEM}, 150, section, printed=True)
