"""Every method on Moré, Garbow and Hillstrom's functions, beside other packages' minimisers.

    python benchmarks/functions.py [--write docs/results/functions.md] [--csv FILE]
        [--methods bfgs,tron] [--problems rosenbrock,wood]

Each begins at the standard start and stops by its own rules (gradient norm 1e-8, 1,000 steps). A
function counts as solved if the published minimum is reached to a relative 1e-5 (1e-10 where it is
zero). The costs are compared at the first such point, in oracle calls, not seconds.
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy
import scipy
import torch
from peers import PEERS, STEPS, TOLERANCE, Outcome, run_peer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from optimizers import Iterate, least_squares, minimize
from tasks.functions.problems import MORE_GARBOW_HILLSTROM, PROBLEMS, Problem

METHODS: dict[str, tuple[str, ...]] = {  # with the peers of each
    "newton": (),
    "saddle_free_newton": (),
    "newton_cg": ("scipy Newton-CG",),
    "bfgs": ("scipy BFGS", "torchmin bfgs"),
    "dfp": (),
    "sr1": (),
    "lbfgs": ("scipy L-BFGS-B", "torch LBFGS", "torchmin l-bfgs"),
    "trust_region": ("scipy trust-exact",),
    "trust_region steihaug": ("scipy trust-ncg",),
    "tron": ("scipy trust-ncg",),
    "arc": ("scipy trust-exact",),
    "gauss_newton": ("scipy lm",),
    "levenberg_marquardt": ("scipy lm",),
    "hessian_free": (),
    "ksd": (),
}
RESIDUALS = {"gauss_newton", "levenberg_marquardt", "hessian_free", "ksd"}
COUNTS = ("value", "grad", "hvp", "ggnvp", "jac")
Solver = Callable[[Problem, float], Outcome]


def goal(problem: Problem) -> float:
    """The value at or below which the published minimum counts as reached."""
    lowest = problem.lowest(problem.dimension)
    assert lowest is not None
    return lowest + 1e-5 * abs(lowest) if lowest else 1e-10


def is_solved(problem: Problem, value: float) -> str:
    """`solved`, `local` for a published local minimum, or nothing."""
    if value <= goal(problem):
        return "solved"
    return (
        "local"
        if any(abs(value - other) <= 1e-5 * abs(other) for other in problem.local_minima)
        else ""
    )


def ours(name: str) -> Solver:
    """A method with its defaults; `name subproblem` chooses a trust region's subproblem."""
    method, _, subproblem = name.partition(" ")
    options = {"subproblem": subproblem} if subproblem else {}

    def run(problem: Problem, target: float) -> Outcome:
        reached: list[Counter[str]] = []
        lowest = [float("inf")]
        factor = 2.0 if method in RESIDUALS else 1.0  # least_squares minimises half the sum

        def watch(iterate: Iterate) -> None:
            value = factor * iterate.fun
            lowest[0] = min(lowest[0], value)
            if value <= target and not reached:
                reached.append(Counter(iterate.counts))

        start = problem.start(problem.dimension)
        if method in RESIDUALS:
            assert problem.residuals is not None
            result = least_squares(
                problem.residuals,
                start,
                method,
                max_steps=STEPS,
                tol=TOLERANCE / 2,
                callback=watch,
                **options,
            )
        else:
            result = minimize(
                problem, start, method, max_steps=STEPS, tol=TOLERANCE, callback=watch, **options
            )
        return Outcome(
            result.status, lowest[0], Counter(result.counts), reached[0] if reached else None
        )

    return run


def peer(name: str) -> Solver:
    """A solver of another package."""
    return lambda problem, target: run_peer(PEERS[name], problem, target)


def compare(names: Sequence[str], problems: Sequence[str]) -> dict[tuple[str, str], Outcome]:
    """The outcome of every solver on every function; an exception is a failure."""
    solvers = {name: peer(name) if name in PEERS else ours(name) for name in names}
    pairs = [(problem, name) for problem in problems for name in names]
    results: dict[tuple[str, str], Outcome] = {}
    for problem, name in track(pairs, "functions", console=Console(stderr=True), transient=True):
        target = goal(PROBLEMS[problem])
        try:
            results[problem, name] = solvers[name](PROBLEMS[problem], target)
        except Exception as error:
            results[problem, name] = Outcome(
                f"{type(error).__name__}: {error}", float("nan"), Counter(), None
            )
    return results


def ratio(
    results: dict[tuple[str, str], Outcome],
    problems: Sequence[str],
    one: str,
    other: str,
    name: str,
) -> str:
    """The median ratio of calls over the functions that both solve."""
    pairs = [
        (results[problem, one].reached, results[problem, other].reached) for problem in problems
    ]
    quotients = [a[name] / b[name] for a, b in pairs if a is not None and b is not None and b[name]]
    return f"{median(quotients):.2f}" if quotients else "—"


def summary(
    results: dict[tuple[str, str], Outcome], names: Sequence[str], problems: Sequence[str]
) -> list[list[str]]:
    """A row for each method and peer: solved functions, and the ratios of their calls."""
    rows = []
    for name in names:
        if name in PEERS:
            continue
        own = verdicts(results, name, problems)
        for other in METHODS[name] or ("",):
            if other not in names:
                rows.append([name, own, "", "", *[""] * 4])
                continue
            counts = [
                ratio(results, problems, name, other, key)
                for key in ("value", "grad", "hvp", "jac")
            ]
            rows.append([name, own, other, verdicts(results, other, problems), *counts])
    return rows


def verdicts(results: dict[tuple[str, str], Outcome], name: str, problems: Sequence[str]) -> str:
    """`33 + 2`: functions solved, and those with a published local minimum."""
    counts = Counter(
        is_solved(PROBLEMS[problem], results[problem, name].fun) for problem in problems
    )
    return f"{counts['solved']} + {counts['local']}"


SUMMARY = (
    "method",
    "solved + local",
    "peer",
    "solved + local",
    "values",
    "gradients",
    "products",
    "Jacobians",
)


def cell(problem: Problem, outcome: Outcome) -> str:
    """The calls to the target, or the failure and the value."""
    if outcome.reached is not None:
        return f"{outcome.reached['value']}"
    word = "local" if is_solved(problem, outcome.fun) else outcome.status.partition(":")[0][:24]
    return f"{word} {outcome.fun:.3g}"


def listing(results: dict[tuple[str, str], Outcome], path: Path) -> None:
    """All numbers as a CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        totals, firsts = [f"{name}" for name in COUNTS], [f"{name}_to_target" for name in COUNTS]
        writer.writerow(
            ["problem", "solver", "status", "f", "f_published", "verdict", *totals, *firsts]
        )
        for (problem, name), outcome in results.items():
            known = PROBLEMS[problem]
            reached = (
                [""] * len(COUNTS)
                if outcome.reached is None
                else [outcome.reached[c] for c in COUNTS]
            )
            row = [
                problem,
                name,
                outcome.status,
                f"{outcome.fun:.9g}",
                f"{known.lowest(known.dimension):.9g}",
            ]
            row += [
                is_solved(known, outcome.fun) or "failed",
                *(outcome.counts[c] for c in COUNTS),
                *reached,
            ]
            writer.writerow(row)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as GitHub shows it."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(line.replace("_", "\\_") for line in lines)


DETAILS = ("solver", "status", "f", "verdict", *COUNTS)


def details(results: dict[tuple[str, str], Outcome], names: Sequence[str], name: str) -> str:
    """A folded table of one function: the status, the value and all calls of every solver."""
    problem, rows = PROBLEMS[name], []
    for solver in names:
        outcome = results[name, solver]
        verdict = is_solved(problem, outcome.fun) or "failed"
        calls = [str(outcome.counts[key]) for key in COUNTS]
        rows.append(
            [solver, outcome.status.partition(":")[0], f"{outcome.fun:.6g}", verdict, *calls]
        )
    title = f"{name}, n = {problem.dimension}, f* = {problem.lowest(problem.dimension):.6g}"
    return f"<details><summary>{title}</summary>\n\n{markdown(DETAILS, rows)}\n\n</details>\n"


def page(
    results: dict[tuple[str, str], Outcome],
    names: Sequence[str],
    problems: Sequence[str],
    command: str,
) -> str:
    """The document."""
    matrix = [[p, *(cell(PROBLEMS[p], results[p, name]) for name in names)] for p in problems]
    versions = f"torch {torch.__version__}, scipy {scipy.__version__}, numpy {numpy.__version__}"
    return f"""# The functions of Moré, Garbow and Hillstrom

Made by `{command}` (Python {platform.python_version()}, {versions}; float64,
one thread). Every method with its default settings, from the standard start, until the gradient's \
norm is below
{TOLERANCE:g}, {STEPS} steps are done or it gives up.

**Solved**: the published minimum is met to a relative 1e-5 (1e-10 where it is zero). **Local**: a \
published local
minimum is. Ratios are medians, over the functions that both solve, of the oracle calls up to the \
first point that meets
the minimum, ours over the peer's. A value is an evaluation of f, those inside a gradient or a \
Jacobian included;
products are those with the Hessian (a dense Hessian is n of them).

{markdown(SUMMARY, summary(results, names, problems))}

## Evaluations of f up to the minimum

A number: solved after so many evaluations. Words: how it ended otherwise, and the lowest f.

{markdown(["function", *names], matrix)}

## In full

All calls until a solver stopped by itself; \
[functions.csv](../../results/reference/functions.csv) also has those up to the minimum.

{"".join(details(results, names, problem) for problem in problems)}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print the summary, write the page and the CSV if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="PAGE",
        help="write the tables to this page",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers to this CSV")
    parser.add_argument(
        "--methods", default=",".join(METHODS), metavar="NAMES", help="only these methods"
    )
    parser.add_argument(
        "--problems", default=",".join(MORE_GARBOW_HILLSTROM), metavar="NAMES", help="only these"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chosen, problems = options.methods.split(","), options.problems.split(",")
    names = list(dict.fromkeys([*chosen, *(other for name in chosen for other in METHODS[name])]))
    results = compare(names, problems)
    table = Table(*SUMMARY, title="calls to the minimum, ours over the peer's (medians)")
    for row in summary(results, names, problems):
        table.add_row(*row)
    console = Console()
    console.print(table)
    for name in chosen:
        failed = [p for p in problems if not is_solved(PROBLEMS[p], results[p, name].fun)]
        if failed:
            words = (
                f"{p} ({results[p, name].status} at {results[p, name].fun:.3g})" for p in failed
            )
            console.print(f"{name} fails on: {', '.join(words)}", markup=False)
    if options.write:
        options.write.write_text(
            page(
                results,
                names,
                problems,
                "python benchmarks/functions.py --write " + str(options.write),
            )
        )
    if options.csv:
        listing(results, options.csv)


if __name__ == "__main__":
    main(sys.argv[1:])
