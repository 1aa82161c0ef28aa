"""OGR: a Hessian from online regression of the gradients on the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import add_, flatten
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.objective import Objective
from optimizers.online import entrywise, subspace
from optimizers.online.moments import Averages, begin, follow
from optimizers.online.regression import Estimate

ENTRYWISE = ("diagonal", "cd")
DENSE = ("full", "subspace", "mixed")
CENTERS = ("origin", "first")


class OGR(Method):
    r"""Newton steps with a Hessian from regression of gradients on parameters (Duda, 2019).

    arXiv 1901.11457. On a quadratic loss g = H (theta - p). Exponential averages with the rate
    beta, of the deviations dt = theta - mean(theta) and dg = g - mean(g) from the updated means,
    give H by least squares from gradients alone:

        C += beta (dt dt' - C),  B += beta (dg dt' - B),  m += gamma (g - m)
        diagonal:  h = B_ii / C_ii
        cd:        h = (cov(g, g)_ii / C_ii)^(1/2), without a sign: `diagonal` at correlation 1
        full:      H of H C + C H = B + B', by the eigenvectors of C
        step:      theta -= lr |H|^-1 m, with max(div |l|, cut) for the eigenvalues l (or h)

    so that a step leaves a direction of negative curvature. `subspace` does the full regression in
    the space of `dimension` orthonormal rows V, which turn towards the gradients, V <-
    orthonormalised(V + rotation g), and steps by `outside` (m - V'V m) in the rest of the space.
    `mixed` takes the diagonal step s and replaces the share `weight` of its part in the subspace by
    the subspace's step: s - weight (V'V s - step). The moments do not turn with the basis, as in
    the author's notebooks.

    cut and div determine the step: a rate is at most lr / cut. Both are in units of curvature, so
    cut has to fit the loss.

    Where a parameter stops moving, C goes to 0 and the regression would divide rounding errors by
    rounding errors. A variance is therefore at least `floor`: h goes to 0, and the rate to lr /
    cut. The step of `cd` is proportional to the deviation of theta and never grows again from zero;
    the floor prevents that zero. A step with a variance at its floor is counted as `degenerate`.
    Moments that overflow start again and are counted as `restarted`.

    Cost: a gradient, and about 15 passes over 5 n numbers; `full` two eigen-decompositions of n x
    n, `subspace` and `mixed` about 2 n d^2 + 8 n d operations more, d the dimension. State: 5 n
    (`diagonal`, `cd`), 3 n + 2 n^2 (`full`), (3 + d) n + 2 d^2 (`subspace`), (5 + d) n + 2 d^2
    (`mixed`).

    Differences from the notebooks (github.com/JarekDuda/SGD-OGR-Hessian-estimator): the floor; lr,
    1 there; eta of `cd` is 1 / div, and cut bounds it too. The defaults are for networks;
    on Beale's function the author has beta 0.4 to 0.6, gamma 0.5 to 0.9, cut 5 to 15, rotation 0.1,
    outside 0.001 (docs/results/ogr.md).

    Args:
        params: the parameters, or pairs of name and parameter; for `full`, `subspace` and `mixed`
            all those of the model, in its order.
        form: `diagonal`, `cd`, `full`, `subspace` or `mixed`.
        lr: a multiplier of the whole step; 1 is the author's.
        beta: the rate of the regression's averages.
        gamma: the rate of the momentum; 1 is the gradient itself.
        div: the factor of the curvatures.
        cut: the smallest curvature.
        dimension: the dimension of the subspace, at most n.
        rotation: the rate at which the subspace turns towards a gradient.
        outside: the rate outside the subspace.
        weight: the share of the subspace in `mixed`.
        variance: the first value of the variances.
        center: the means and the momentum begin at zero (`origin`, the author's) or at the `first`
            point and gradient.
        floor: the smallest variance.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        seed: the seed of the subspace's first directions, uniform in (0, 0.001).
        max_parameters: the largest n for which `full` is allowed.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: `full` with more than `max_parameters` parameters.
    """

    def __init__(
        self,
        params: Iterable[Any],
        form: str = "diagonal",
        lr: float = 1.0,
        beta: float = 0.1,
        gamma: float = 0.2,
        div: float = 1.4,
        cut: float = 2.0,
        dimension: int = 4,
        rotation: float = 0.01,
        outside: float = 0.5,
        weight: float = 0.4,
        variance: float = 1.0,
        center: str = "origin",
        floor: float = 1e-16,
        weight_decay: float = 0.0,
        seed: int = 0,
        max_parameters: int = 1000,
    ) -> None:
        require_choice("form", form, ENTRYWISE + DENSE)
        require_choice("center", center, CENTERS)
        for name, share in (("beta", beta), ("gamma", gamma)):
            require_range(name, share, high=1, open_low=True)
        for name, value in (("div", div), ("cut", cut), ("floor", floor)):
            require_range(name, value, open_low=True)
        for name, value in (
            ("lr", lr),
            ("rotation", rotation),
            ("outside", outside),
            ("variance", variance),
        ):
            require_range(name, value)
        require_range("weight", weight, high=1)
        require_range("weight_decay", weight_decay)
        require_range("dimension", dimension, low=1, whole=True)
        require_range("seed", seed, low=0, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.form, self.center, self.variance, self.seed = form, center, variance, seed
        self.dimension, self.rotation = dimension, rotation
        self.outside, self.weight = outside, weight
        self.estimate: Estimate | None = None
        names = ("lr", "beta", "gamma", "div", "cut", "floor", "weight_decay")
        given = (lr, beta, gamma, div, cut, floor, weight_decay)
        super().__init__(params, dict(zip(names, given, strict=True)))
        if form == "full":
            require_dense(
                self, max_parameters, "form=diagonal and form=subspace need no such matrix"
            )

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Update the regression and take its Newton step; return the loss before the step."""
        if self.form in DENSE:
            self.whole(objective)
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        degenerate = False
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["weight_decay"] and moving:
                torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            if self.form in DENSE:
                degenerate = self._dense(group, objective.gradient())
            else:
                degenerate |= self._entrywise(group)
        if degenerate:
            self.failures["degenerate"] += 1
        return loss

    def telemetry(self) -> dict[str, float]:
        """Shares of the coordinates, or of the Hessian's eigenvectors for the dense forms.

        `degenerate_share` has a variance at its floor, `negative_share` a negative curvature, and
        `cut_share` a curvature below the cut, where the step is that of plain momentum.
        """
        group = self.param_groups[0]
        if self.estimate is not None:
            shares = subspace.shares(self.estimate, group["div"], group["cut"], group["floor"])
        else:
            shares = entrywise.shares(
                [averages for averages in self.state.values() if "variance" in averages], group
            )
        return {**super().telemetry(), **shares}

    def _entrywise(self, group: dict[str, Any]) -> bool:
        """Step coordinate by coordinate; return whether a variance was at its floor."""
        moving = [(p, p.grad, self.state[p]) for p in group["params"] if p.grad is not None]
        for point, gradient, averages in moving:
            entrywise.prepare(
                averages,
                point,
                gradient,
                self.variance,
                self.center == "first",
                self.form == "diagonal",
            )
        points, gradients, states = [list(each) for each in zip(*moving, strict=True)] or (
            [],
            [],
            [],
        )
        return bool(points) and entrywise.move(points, states, gradients, group)

    def _dense(self, group: dict[str, Any], gradient: Tensor) -> bool:
        """Step by the regression of a space; return whether a variance is below the floor."""
        averages, point = self.state[group["params"][0]], flatten(group["params"]).detach()
        if "momentum" not in averages:
            self._prepare(averages, point, gradient)
        (deviation,), (gradient_deviation,) = follow(
            [averages], [point], [gradient], group["beta"], group["gamma"]
        )
        if self.form == "full":
            step = self._newton(
                averages, group, deviation, gradient_deviation, averages["momentum"]
            )
        else:
            basis = subspace.turn(averages, gradient, self.rotation)
            parts = (basis @ each for each in (deviation, gradient_deviation, averages["momentum"]))
            inner = self._newton(averages, group, *parts)
            rest, share = self._outside(averages, group, deviation, gradient_deviation)
            step = rest - share * (basis.T @ (basis @ rest - inner))
        add_(group["params"], step, alpha=-group["lr"])
        return self.estimate is not None and bool((self.estimate.variances <= group["floor"]).any())

    def _prepare(self, averages: Averages, point: Tensor, gradient: Tensor) -> None:
        """Create the averages of the dense forms in the state of the first parameter."""
        at_start, size = self.center == "first", len(point)
        if self.form == "mixed":
            entrywise.prepare(averages, point, gradient, self.variance, at_start, signed=True)
        else:
            begin(averages, point, gradient, at_start)
        if self.form != "full":
            size = min(self.dimension, size)
            subspace.directions(averages, size, self.seed, point)
        subspace.prepare(averages, size, self.variance, point)

    def _newton(
        self,
        averages: Averages,
        group: dict[str, Any],
        deviation: Tensor,
        gradient_deviation: Tensor,
        momentum: Tensor,
    ) -> Tensor:
        """The step |H|^-1 m (k,) in a space, or m / cut where the moments are not finite."""
        self.estimate = subspace.regress(
            averages, deviation, gradient_deviation, group["beta"], group["floor"]
        )
        if self.estimate is not None:
            return self.estimate.step(momentum, group["div"], group["cut"])
        self.failures["restarted"] += 1
        subspace.prepare(averages, len(momentum), self.variance, momentum)
        plain: Tensor = momentum / group["cut"]
        return plain

    def _outside(
        self,
        averages: Averages,
        group: dict[str, Any],
        deviation: Tensor,
        gradient_deviation: Tensor,
    ) -> tuple[Tensor, float]:
        """The step outside the subspace, and the share of its inside part to be replaced."""
        momentum: Tensor = averages["momentum"]
        if self.form == "subspace":
            return self.outside * momentum, 1.0
        least = group["cut"] / group["div"]
        (estimate,), _ = entrywise.curvatures(
            [averages], [deviation], [gradient_deviation], group["beta"], group["floor"], least
        )
        return momentum / (group["div"] * estimate), self.weight
