"""Other packages' minimisers on a test function, with oracle calls counted as the suite's."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchmin
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor
from torch.func import hessian, jacrev

from tasks.functions.problem import Problem

Array = NDArray[np.float64]
STEPS, TOLERANCE = 1000, 1e-8


@dataclass
class Outcome:
    """The outcome of a solver on a function.

    Attributes:
        status: `converged` or the package's own message.
        fun: the lowest value.
        counts: all oracle calls; a gradient counts as a `value`, too.
        reached: the calls up to the first point at the target; None without one.
    """

    status: str
    fun: float
    counts: Counter[str]
    reached: Counter[str] | None


class Counted:
    """A function that counts its oracle calls, and records the first value at a target."""

    def __init__(self, problem: Problem, target: float) -> None:
        self.problem = problem
        self.target = target
        self.counts: Counter[str] = Counter()
        self.reached: Counter[str] | None = None
        self.best = float("inf")

    def start(self) -> Tensor:
        """The standard start."""
        return self.problem.start(self.problem.dimension)

    def note(self, value: float) -> None:
        """Record a computed value."""
        self.best = min(self.best, value)
        if value <= self.target and self.reached is None:
            self.reached = self.counts.copy()

    def value(self, x: Array) -> float:
        """The value f."""
        self.counts["value"] += 1
        with torch.no_grad():
            value = float(self.problem(torch.from_numpy(x)))
        self.note(value)
        return value

    def tensor(self, x: Tensor) -> Tensor:
        """The value f with its graph, counted as a value and a gradient: every peer needs both."""
        self.counts.update(("value", "grad"))
        value = self.problem(x)
        self.note(float(value.detach()))
        return value

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The value f and its gradient."""
        point = torch.from_numpy(x.copy()).requires_grad_()
        value = self.tensor(point)
        (gradient,) = torch.autograd.grad(value, point)
        return float(value), gradient.numpy()

    def gradient(self, x: Array) -> Array:
        """The gradient, whose graph computes f too."""
        return self.value_and_gradient(x)[1]

    def product(self, x: Array, vector: Array) -> Array:
        """The Hessian times a vector."""
        self.counts["hvp"] += 1
        point = torch.from_numpy(x.copy()).requires_grad_()
        (gradient,) = torch.autograd.grad(self.problem(point), point, create_graph=True)
        if not gradient.requires_grad:
            return np.zeros_like(x)
        (result,) = torch.autograd.grad(
            gradient, point, torch.from_numpy(vector), materialize_grads=True
        )
        return result.numpy()

    def hessian(self, x: Array) -> Array:
        """The Hessian, counted as n products."""
        self.counts["hvp"] += x.size
        return hessian(self.problem)(torch.from_numpy(x.copy())).numpy()

    def residuals(self, x: Array) -> Array:
        """The residuals r."""
        self.counts["value"] += 1
        with torch.no_grad():
            residuals = self.problem.outputs(torch.from_numpy(x))
        self.note(float(residuals.square().sum()))
        return residuals.numpy()

    def jacobian(self, x: Array) -> Array:
        """The Jacobian J, counted with the evaluation that it contains."""
        self.counts.update(("value", "jac"))
        return jacrev(self.problem.outputs)(torch.from_numpy(x.copy())).numpy()


Peer = Callable[[Counted], str]


def _scipy(method: str, **options: Any) -> Peer:
    together = method in ("BFGS", "L-BFGS-B")
    second = {"Newton-CG": "hessp", "trust-ncg": "hessp", "trust-exact": "hess"}.get(method)

    def run(function: Counted) -> str:
        fun = function.value_and_gradient if together else function.value
        curvature = {"hessp": function.product, "hess": function.hessian}
        extra = {second: curvature[second]} if second else {}
        jac: Any = True if together else function.gradient
        result = optimize.minimize(
            fun, function.start().numpy(), jac=jac, method=method, options=options, **extra
        )
        return "converged" if result.success else str(result.message)

    return run


def _least_squares(function: Counted) -> str:
    if function.problem.residuals is None:
        return "no residuals"
    result = optimize.least_squares(
        function.residuals,
        function.start().numpy(),
        function.jacobian,
        method="lm",
        x_scale="jac",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
        max_nfev=5 * STEPS,
    )
    return "converged" if result.success else str(result.message)


def _torch_lbfgs(function: Counted) -> str:
    x = function.start().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=STEPS,
        max_eval=5 * STEPS,
        history_size=10,
        tolerance_grad=TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = function.tensor(x)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return (
        "converged" if x.grad is not None and float(x.grad.norm()) <= TOLERANCE else "not converged"
    )


def _torchmin(method: str, **options: Any) -> Peer:
    def run(function: Counted) -> str:
        limits = {"gtol": TOLERANCE, "max_iter": STEPS} | options
        result = torchmin.minimize(function.tensor, function.start(), method, options=limits)
        return "converged" if result.success else str(result.message)

    return run


PEERS: dict[str, Peer] = {
    "scipy BFGS": _scipy("BFGS", gtol=TOLERANCE, norm=2, maxiter=STEPS),
    "scipy L-BFGS-B": _scipy(
        "L-BFGS-B", gtol=TOLERANCE, ftol=0.0, maxcor=10, maxiter=STEPS, maxfun=5 * STEPS
    ),
    "scipy Newton-CG": _scipy("Newton-CG", xtol=1e-14, maxiter=STEPS),
    "scipy trust-ncg": _scipy("trust-ncg", gtol=TOLERANCE, maxiter=STEPS),
    "scipy trust-exact": _scipy("trust-exact", gtol=TOLERANCE, maxiter=STEPS),
    "scipy lm": _least_squares,
    "torch LBFGS": _torch_lbfgs,
    "torchmin bfgs": _torchmin("bfgs"),
    "torchmin l-bfgs": _torchmin("l-bfgs", history_size=10),
}


def run_peer(peer: Peer, problem: Problem, target: float) -> Outcome:
    """The outcome of a peer on a function, an exception included."""
    function = Counted(problem, target)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            status = peer(function)
        except Exception as error:
            status = f"{type(error).__name__}: {error}".partition("\n")[0]
    return Outcome(status, function.best, function.counts, function.reached)
