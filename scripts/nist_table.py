"""NIST's 27 nonlinear regressions from both starts.

Correct digits and cost, beside scipy's MINPACK.

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
TOLERANCE = 1e-15  # of all of scipy's stopping rules
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
    """Where a solver ended."""

    digits: float
    steps: int
    calls: int
    status: str


def ours(regression: Regression, start: torch.Tensor, options: argparse.Namespace) -> Run:
    """This repository's method, until it finds nothing left to gain."""
    settings = dict(OmegaConf.from_dotlist(options.set))
    result = least_squares(
        regression.residuals, start, options.method, max_steps=options.steps, tol=0.0, **settings
    )
    closing = result.counts.get("grad", 0)  # the gradient at the end, which is for the report alone
    return Run(
        regression.digits(result.x), result.steps, result.counts["value"] - closing, result.status
    )


def peer(regression: Regression, start: torch.Tensor, options: argparse.Namespace) -> Run:
    """scipy's MINPACK with the same exact Jacobian."""

    def residuals(b: Any) -> Any:
        return regression.residuals(torch.from_numpy(b)).numpy()

    def jacobian(b: Any) -> Any:
        return torch.func.jacrev(regression.residuals)(torch.from_numpy(b)).numpy()

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = scipy.optimize.least_squares(
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
        regression.digits(torch.from_numpy(found.x)),
        int(found.njev),
        int(found.nfev + found.njev),
        SCIPY_STATUS[found.status],
    )


def rows(options: argparse.Namespace) -> list[tuple[Regression, int, Run, Run]]:
    """Both solvers on every problem from both starts."""
    jobs = [(regression, number) for regression in datasets().values() for number in (1, 2)]
    found = []
    for regression, number in track(jobs, "solving", console=Console(stderr=True), transient=True):
        start = regression.starts[number - 1]
        found.append(
            (regression, number, ours(regression, start, options), peer(regression, start, options))
        )
    return found


def cells(row: tuple[Regression, int, Run, Run]) -> list[str]:
    regression, number, mine, theirs = row
    first = [regression.name, regression.level, str(number), f"{mine.digits:.1f}", str(mine.steps)]
    return [
        *first,
        str(mine.calls),
        mine.status,
        f"{theirs.digits:.1f}",
        str(theirs.calls),
        theirs.status,
    ]


def summary(found: list[tuple[Regression, int, Run, Run]], digits: float = 6.0) -> list[str]:
    """How many of the runs from each start reached so many digits, and the typical cost."""
    lines = []
    for number in (1, 2):
        chosen = [(mine, theirs) for _, start, mine, theirs in found if start == number]
        mine_reached = sum(mine.digits >= digits for mine, _ in chosen)
        theirs_reached = sum(theirs.digits >= digits for _, theirs in chosen)
        median = [int(np.median([run.calls for run in runs])) for runs in zip(*chosen, strict=True)]
        lines.append(
            f"Start {number}: {mine_reached} of {len(chosen)} with at least {digits:g} correct "
            f"digits in every "
            f"parameter, scipy {theirs_reached}; calls in the median {median[0]}, scipy "
            f"{median[1]}."
        )
    return lines


def markdown(found: list[tuple[Regression, int, Run, Run]], options: argparse.Namespace) -> str:
    """The table as a page of its own."""
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
        "Digits: correct digits of the worst parameter against NIST's certified values, which have "
        "11. Calls: "
        "evaluations of the residuals, plus Jacobians. Status: `stalled` is a run that ended "
        "because nothing was left "
        "to gain that the precision could show, or from where the method found no way down; the "
        "digits tell which.",
        "",
        *summary(found),
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{'---|' * len(HEADINGS)}",
    ]
    return "\n".join([*head, *(f"| {' | '.join(cells(row))} |" for row in found)]) + "\n"


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
    found = rows(options)
    table = Table(
        *HEADINGS, title=f"NIST StRD: {options.method} and scipy's lm", box=SIMPLE, padding=0
    )
    for row in found:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    for line in summary(found):
        console.print(line)
    if options.write:
        options.write.write_text(markdown(found, options), encoding="utf-8")


if __name__ == "__main__":
    main()
