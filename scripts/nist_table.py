"""NIST's 27 nonlinear regressions from both starts: correct digits and cost, beside MINPACK.

python scripts/nist_table.py                                  the table, on the terminal
python scripts/nist_table.py --write docs/results/nist.md             and as Markdown
python scripts/nist_table.py --method gauss_newton            another method that takes residuals
python scripts/nist_table.py --set acceleration=true          with other hyperparameters
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
import torch
from omegaconf import OmegaConf
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from optimizers import least_squares
from tasks.regression.nist import Regression, datasets

torch.set_num_threads(1)
TOLERANCE = 1e-15  # the tolerance of all of scipy's stopping rules
HEADINGS = (
    "problem",
    "level",
    "start",
    "digits",
    "steps",
    "calls",
    "status",
    "scipy digits",
    "calls",
    "status",
)
SCIPY_STATUS = {-1: "failed", 0: "max_steps", 1: "gtol", 2: "ftol", 3: "xtol", 4: "both"}


@dataclass(frozen=True)
class Run:
    """The end of a solver's run."""

    digits: float
    steps: int
    calls: int
    status: str


def ours(regression: Regression, start: torch.Tensor, options: argparse.Namespace) -> Run:
    """A run of this repository's method, until no reduction remains."""
    settings = dict(OmegaConf.from_dotlist(options.set))
    result = least_squares(
        regression.residuals, start, options.method, max_steps=options.steps, tol=0.0, **settings
    )
    closing = result.counts.get("grad", 0)  # the gradient at the end serves the report alone
    return Run(
        regression.digits(result.x), result.steps, result.counts["value"] - closing, result.status
    )


def peer(regression: Regression, start: torch.Tensor, options: argparse.Namespace) -> Run:
    """A run of scipy's MINPACK with the same exact Jacobian."""

    def residuals(b: Any) -> Any:
        return regression.residuals(torch.from_numpy(b)).numpy()

    def jacobian(b: Any) -> Any:
        return torch.func.jacrev(regression.residuals)(torch.from_numpy(b)).numpy()

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = scipy.optimize.least_squares(
            residuals,
            start.numpy(),
            jacobian,
            method="lm",
            xtol=TOLERANCE,
            ftol=TOLERANCE,
            gtol=TOLERANCE,
            max_nfev=2 * options.steps,
        )
    return Run(
        regression.digits(torch.from_numpy(result.x)),
        int(result.njev),
        int(result.nfev + result.njev),
        SCIPY_STATUS[result.status],
    )


def rows(options: argparse.Namespace) -> list[tuple[Regression, int, Run, Run]]:
    """The runs of both solvers on every problem from both starts."""
    jobs = [(regression, number) for regression in datasets().values() for number in (1, 2)]
    results = []
    for regression, number in track(jobs, "solving", console=Console(stderr=True), transient=True):
        start = regression.starts[number - 1]
        results.append(
            (regression, number, ours(regression, start, options), peer(regression, start, options))
        )
    return results


def cells(row: tuple[Regression, int, Run, Run]) -> list[str]:
    regression, number, own, scipys = row
    first = [regression.name, regression.level, str(number), f"{own.digits:.1f}", str(own.steps)]
    return [
        *first,
        str(own.calls),
        own.status,
        f"{scipys.digits:.1f}",
        str(scipys.calls),
        scipys.status,
    ]


def summary(results: list[tuple[Regression, int, Run, Run]], digits: float = 6.0) -> list[str]:
    """The runs from each start with enough correct digits, and their median cost."""
    lines = []
    for number in (1, 2):
        chosen = [(own, scipys) for _, start, own, scipys in results if start == number]
        own_reached = sum(own.digits >= digits for own, _ in chosen)
        scipys_reached = sum(scipys.digits >= digits for _, scipys in chosen)
        median = [int(np.median([run.calls for run in runs])) for runs in zip(*chosen, strict=True)]
        lines.append(
            f"Start {number}: {own_reached} of {len(chosen)} with at least {digits:g} correct "
            f"digits in every parameter, scipy {scipys_reached}; calls in the median {median[0]}, "
            f"scipy {median[1]}."
        )
    return lines


def markdown(results: list[tuple[Regression, int, Run, Run]], options: argparse.Namespace) -> str:
    """The table as a page."""
    call = " ".join(
        [
            "scripts/nist_table.py",
            f"--method {options.method}",
            *(f"--set {item}" for item in options.set),
        ]
    )
    head = [
        "# NIST's nonlinear regressions",
        "",
        f"Made by `python {call} --steps {options.steps} --write {options.write}`: "
        f"`{options.method}` beside scipy's "
        f'`least_squares(method="lm")` (MINPACK, tolerances {TOLERANCE:g}), the same starts, '
        f"float64, exact Jacobians.",
        "",
        "Digits: correct digits of the worst parameter against NIST's certified values, which "
        "have 11. Calls: evaluations of the residuals, plus Jacobians. Status: `stalled` is a run "
        "that ended because nothing was left to gain that the precision could show, or from where "
        "the method found no way down; the digits tell which.",
        "",
        *summary(results),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    return "\n".join([*head, *(f"| {' | '.join(cells(row))} |" for row in results)]) + "\n"


def main() -> None:
    """Solve, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--method", default="levenberg_marquardt", help="a method that takes residuals"
    )
    parser.add_argument("--steps", type=int, default=10_000, help="the largest number of steps")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter"
    )
    parser.add_argument("--write", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    results = rows(options)
    table = Table(
        *HEADINGS, title=f"NIST StRD: {options.method} and scipy's lm", box=SIMPLE, padding=0
    )
    for row in results:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    for line in summary(results):
        console.print(line)
    if options.write:
        options.write.write_text(markdown(results, options), encoding="utf-8")


if __name__ == "__main__":
    main()
