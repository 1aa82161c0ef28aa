"""OGR: a Hessian by online regression of the gradients on the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import add_, flatten
from optimizers.method import Method, require_choice, require_dense, require_range
from optimizers.objective import Objective
from optimizers.online import entrywise, subspace
from optimizers.online.moments import Kept, begin, follow
from optimizers.online.regression import Estimate

ENTRYWISE = ("diagonal", "cd")
DENSE = ("full", "subspace", "mixed")
CENTERS = ("origin", "first")


class OGR(Method):
    r"""Newton's step with a Hessian from the regression of gradients on parameters (Duda, 2019, arXiv 1901.11457).

    Where the loss is quadratic, g = H (theta - p). Averages that forget at the rate beta, with the
    deviations dt = theta - mean(theta) and dg = g - mean(g) from the updated means, give H by least
    squares from gradients alone:

        C += beta (dt dt' - C),  B += beta (dg dt' - B),  m += gamma (g - m)
        diagonal:  h = B_ii / C_ii
        cd:        h = (cov(g, g)_ii / C_ii)^(1/2): what `diagonal` gives at a correlation of 1,
            without a sign
        full:      H of H C + C H = B + B', by the eigenvectors of C
        step:      theta -= lr |H|^-1 m, the absolute eigenvalues |l| (or h) taken as max(div |l|,
            cut)

    so that a direction of negative curvature is left instead of entered. `subspace` does the full
    regression in the space of `dimension` orthonormal rows V, which turn towards the gradients, V
    <- orthonormalised(V + rotation g), and steps by `outside` (m - V'V m) in the rest of the space.
    `mixed` takes the diagonal step s and exchanges the share `weight` of its part in the subspace
    for the subspace's own: s - weight (V'V s - step). The moments are not turned with the basis, as
    in the author's notebooks.

    cut and div make the step: a rate is at most lr / cut. Both are in units of curvature, so cut
    has to fit the loss.

    Where a parameter stops moving C -> 0, and the regression would divide rounding by rounding. A
    variance is therefore kept at `floor` at least: h goes to 0 there, and the rate to lr / cut. For
    `cd`, whose step is proportional to the deviation of theta itself and never grows again once
    that is gone, the floor is what keeps it alive. A step on which some variance was at its floor
    is counted as `degenerate`; moments that overflowed are begun anew and counted as `restarted`.

    Cost: a gradient, and about 15 passes over 5 n numbers; `full` two eigen-decompositions of n x
    n, `subspace` and `mixed` about 2 n d^2 + 8 n d operations more, d the dimension. State: 5 n
    (`diagonal`, `cd`), 3 n + 2 n^2 (`full`), (3 + d) n + 2 d^2 (`subspace`), (5 + d) n + 2 d^2
    (`mixed`).

    Differences from the notebooks (github.com/JarekDuda/SGD-OGR-Hessian-estimator): the floor; lr,
    1 there; eta of `cd` is 1 / div here, and cut holds for it too. The defaults are for networks;
    on Beale's function the author has beta 0.4 to 0.6, gamma 0.5 to 0.9, cut 5 to 15, rotation 0.1,
    outside 0.001 (docs/results/ogr.md).

    Args:
        params: the parameters, or pairs of name and parameter; for `full`, `subspace` and `mixed`
            all those of the model, in its order.
        form: `diagonal`, `cd`, `full`, `subspace` or `mixed`.
        lr: a multiplier of the whole step; 1 is the author's.
        beta: the rate at which the regression forgets.
        gamma: the rate of the momentum; 1 is the gradient itself.
        div: what curvatures are multiplied by.
        cut: the smallest curvature.
        dimension: of the subspace; n where that is less.
        rotation: how far the subspace turns towards a gradient.
        outside: the rate outside the subspace.
        weight: the share of the subspace in `mixed`.
        variance: what the variances begin with.
        center: the means and the momentum begin at zero (`origin`, the author's) or at the `first`
            point and gradient.
        floor: the smallest variance.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        seed: of the subspace's first directions, uniform in (0, 0.001).
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
        self.dimension, self.rotation, self.outside, self.weight = (
            dimension,
            rotation,
            outside,
            weight,
        )
        self.found: Estimate | None = None
        names = ("lr", "beta", "gamma", "div", "cut", "floor", "weight_decay")
        given = (lr, beta, gamma, div, cut, floor, weight_decay)
        super().__init__(params, dict(zip(names, given, strict=True)))
        if form == "full":
            require_dense(
                self, max_parameters, "form=diagonal and form=subspace need no such matrix"
            )

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
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
        """Beside the common names, shares of the coordinates, or of the Hessian's eigenvectors for the dense forms.

        `degenerate_share`: a variance at its floor; `negative_share`: a negative curvature;
        `cut_share`: a curvature below the cut, where the step is that of plain momentum.
        """
        group = self.param_groups[0]
        if self.found is not None:
            told = subspace.shares(self.found, group["div"], group["cut"], group["floor"])
        else:
            told = entrywise.shares(
                [kept for kept in self.state.values() if "variance" in kept], group
            )
        return {**super().telemetry(), **told}

    def _entrywise(self, group: dict[str, Any]) -> bool:
        """Step coordinate by coordinate; whether a variance is at its floor."""
        moving = [(p, p.grad, self.state[p]) for p in group["params"] if p.grad is not None]
        for point, gradient, kept in moving:
            entrywise.prepare(
                kept,
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
        """Step by the regression in all of the space or a part.

        Whether a direction's variance is below the floor.
        """
        kept, point = self.state[group["params"][0]], flatten(group["params"]).detach()
        if "momentum" not in kept:
            self._prepare(kept, point, gradient)
        (apart,), (gradient_apart,) = follow(
            [kept], [point], [gradient], group["beta"], group["gamma"]
        )
        if self.form == "full":
            step = self._newton(kept, group, apart, gradient_apart, kept["momentum"])
        else:
            basis = subspace.turn(kept, gradient, self.rotation)
            parts = (basis @ each for each in (apart, gradient_apart, kept["momentum"]))
            inner = self._newton(kept, group, *parts)
            rest, share = self._outside(kept, group, apart, gradient_apart)
            step = rest - share * (basis.T @ (basis @ rest - inner))
        add_(group["params"], step, alpha=-group["lr"])
        return self.found is not None and bool((self.found.variances <= group["floor"]).any())

    def _prepare(self, kept: Kept, point: Tensor, gradient: Tensor) -> None:
        """Make what the dense forms keep, in the state of the first parameter."""
        at_start, size = self.center == "first", len(point)
        if self.form == "mixed":
            entrywise.prepare(kept, point, gradient, self.variance, at_start, signed=True)
        else:
            begin(kept, point, gradient, at_start)
        if self.form != "full":
            size = min(self.dimension, size)
            subspace.directions(kept, size, self.seed, point)
        subspace.prepare(kept, size, self.variance, point)

    def _newton(
        self,
        kept: Kept,
        group: dict[str, Any],
        apart: Tensor,
        gradient_apart: Tensor,
        momentum: Tensor,
    ) -> Tensor:
        """|H|^-1 m for deviations and momentum (k,) in some space.

        M / cut where the moments are not finite.
        """
        self.found = subspace.regress(kept, apart, gradient_apart, group["beta"], group["floor"])
        if self.found is not None:
            return self.found.step(momentum, group["div"], group["cut"])
        self.failures["restarted"] += 1
        subspace.prepare(kept, len(momentum), self.variance, momentum)
        plain: Tensor = momentum / group["cut"]
        return plain

    def _outside(
        self, kept: Kept, group: dict[str, Any], apart: Tensor, gradient_apart: Tensor
    ) -> tuple[Tensor, float]:
        """The step that goes outside the subspace, and the share of its part inside that is exchanged."""
        momentum: Tensor = kept["momentum"]
        if self.form == "subspace":
            return self.outside * momentum, 1.0
        least = group["cut"] / group["div"]
        (found,), _ = entrywise.curvatures(
            [kept], [apart], [gradient_apart], group["beta"], group["floor"], least
        )
        return momentum / (group["div"] * found), self.weight
