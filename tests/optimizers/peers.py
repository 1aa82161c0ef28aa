"""Other people's minimisers on the test functions, their oracle calls counted as an objective
counts them."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from optimizers import minimize
from tasks.functions.problems import PROBLEMS

Vector = Any


@dataclass(frozen=True)
class Run:
    """Whether a run got the gradient below the tolerance, and what it asked for.

    Value, grad (a value too), hvp.
    """

    solved: bool
    counts: dict[str, int]


class _SolvedError(Exception):
    pass


def start_of(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor, float]:
    """The function, its standard start and the tolerance.

    1e-6, or 1e-9 of the first gradient where that is more.
    """
    problem = PROBLEMS[name]
    x0 = problem.start(problem.dimension).double()
    gradient = torch.func.grad(problem)(x0)
    return problem, x0, max(1e-6, 1e-9 * float(gradient.norm()))


def scipy_run(name: str, method: str, **options: Any) -> Run:
    """scipy's method, ended at the first gradient that it asks for and that is small enough.

    A product with the Hessian counts as one, as if its graph came for nothing.
    """
    problem, x0, tol = start_of(name)
    counts: Counter[str] = Counter()

    def fun(x: Vector) -> float:
        counts["value"] += 1
        return float(problem(torch.tensor(x)))

    def jac(x: Vector) -> Vector:
        counts.update(value=1, grad=1)
        gradient = torch.func.grad(problem)(torch.tensor(x))
        if float(gradient.norm()) <= tol:
            raise _SolvedError
        return gradient.numpy()

    def hessp(x: Vector, vector: Vector) -> Vector:
        counts["hvp"] += 1
        point = torch.tensor(x).requires_grad_()
        (gradient,) = torch.autograd.grad(problem(point), point, create_graph=True)
        (image,) = torch.autograd.grad(
            gradient, point, torch.tensor(vector), materialize_grads=True
        )
        return image.numpy()

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            scipy.optimize.minimize(
                fun, x0.numpy(), method=method, jac=jac, hessp=hessp, options=options
            )
        except _SolvedError:
            return Run(True, dict(counts))
    return Run(False, dict(counts))


def our_run(name: str, method: str, max_steps: int, **options: Any) -> Run:
    """A method of ours on the same function, from the same start, to the same tolerance."""
    problem, x0, tol = start_of(name)
    result = minimize(problem, x0, method, max_steps=max_steps, tol=tol, **options)
    return Run(result.status == "converged", result.counts)


def median_ratio(ours: list[Run], theirs: list[Run], kind: str) -> float:
    """The median, over the problems that both solve, of our calls of a kind over theirs."""
    both = [
        (a.counts, b.counts) for a, b in zip(ours, theirs, strict=True) if a.solved and b.solved
    ]
    return statistics.median(a.get(kind, 0) / max(b.get(kind, 0), 1) for a, b in both)
