"""Cubic regularisation with sub-sampled Hessian, gradient and function values."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, log
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.flat import flatten
from optimizers.method import require_choice, require_range
from optimizers.objective import Objective
from optimizers.trust_region.arc import ARC, Solver, View
from optimizers.trust_region.trials import expansion

SAMPLINGS = ("adaptive", "fixed")


class SubsampledARC(ARC):
    r"""ARC with Hessian, gradient and loss each from a random part of the mini-batch.

    With `sampling="adaptive"` the samples grow as the steps shrink, so that their errors allow
    convergence: |S_H| = `constant` log(n) / |s|^2 and |S_g| = `constant` log(n) / |s|^4, s the last
    step, and by the factor `growth` after a step in which sigma rose (Kohler and Lucchi, 2017,
    "Sub-sampled cubic regularization for non-convex optimization", arXiv 1705.05933, up to the
    constants). The shares are the smallest sizes. `fixed` leaves the shares constant. With
    `gradient_share=1` it is the inexact Hessian of Xu, Roosta and Mahoney, 2017 (arXiv 1708.07164);
    with all three below 1, it has the inexact Hessian, gradient and function values analysed by
    Liu, Liu, Hsieh and Tao, 2018 (arXiv 1809.09853). With all shares 1 the method is ARC.

    The samples are uniform without replacement, the first examples of one random order, so that the
    smaller lie within the larger; f(x) and f(x + s) in rho share their sample. A loss on examples
    outside the gradient's sample failed in tests: where the gradient's noise dominates, no step is
    accepted and sigma diverges. `step` returns the first loss of rho, which is the batch's only
    with `function_share=1`, at the cost of one evaluation of the batch, without gradient, and one a
    trial.

    Counts: a call on a sample counts as one call, at its share of the cost: weigh `hvp` by
    `hessian_share`, `grad` by the larger of the first two shares, `value` by `function_share`
    (fixed sampling).

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        hessian_share: the share of the batch for curvature products, at least two examples.
        gradient_share: the share for the gradient.
        function_share: the share for rho.
        sampling: `adaptive` or `fixed`.
        constant: the factor of the adaptive sizes; it depends on the units of the parameters.
        growth: the factor of the sizes after a step in which sigma rose.
        seed: the seed of the random orders.
        max_trials: the number of sigmas tried on one draw; few, because some draws accept no step.
        others: as for ARC.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: as ARC.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        subproblem: str = "auto",
        curvature: str = "hessian",
        sigma: float = 1.0,
        accept: float = 0.1,
        good: float = 0.9,
        increase: float = 2.0,
        decrease: float = 2.0,
        tolerance: float = 0.1,
        max_iterations: int = 100,
        max_trials: int = 4,
        dense_limit: int = 300,
        max_parameters: int = 5000,
        hessian_share: float = 0.1,
        gradient_share: float = 0.25,
        function_share: float = 1.0,
        sampling: str = "adaptive",
        constant: float = 1.0,
        growth: float = 1.25,
        seed: int = 0,
    ) -> None:
        for name, share in (
            ("hessian_share", hessian_share),
            ("gradient_share", gradient_share),
            ("function_share", function_share),
        ):
            require_range(name, share, high=1, open_low=True)
        require_choice("sampling", sampling, SAMPLINGS)
        require_range("constant", constant, open_low=True)
        require_range("growth", growth, low=1)
        require_range("seed", seed, whole=True)
        super().__init__(
            params,
            lr,
            subproblem,
            curvature,
            sigma,
            accept,
            good,
            increase,
            decrease,
            tolerance,
            max_iterations,
            max_trials,
            dense_limit,
            max_parameters,
        )
        self.hessian_share = hessian_share
        self.gradient_share = gradient_share
        self.function_share = function_share
        self.sampling = sampling
        self.constant = constant
        self.growth = growth
        self.seed = seed
        fresh = {
            "draws": 0,
            "hessian_size": 0,
            "gradient_size": 0,
            "length": None,
            "refused": False,
        }
        self.param_groups[0].update(fresh)

    def _view(self, objective: Objective) -> View:
        group, count = self.param_groups[0], len(objective.inputs)
        order = torch.randperm(
            count, generator=torch.Generator().manual_seed(self.seed + group["draws"])
        )
        order = order.to(objective.inputs.device)
        group["draws"] += 1
        for kind, power in (("hessian", 2), ("gradient", 4)):
            group[f"{kind}_size"] = self._size(kind, power, count)
        sizes = group["hessian_size"], group["gradient_size"], _at_least(self.function_share, count)
        parts = {
            size: objective if size == count else objective.subset(order[:size])
            for size in set(sizes)
        }
        hessian_part, gradient_part, value_part = (parts[size] for size in sizes)
        model = expansion(hessian_part, self.curvature)
        loss, gradient = model.loss, model.gradient
        if gradient_part is not hessian_part:
            loss, gradient = gradient_part.value_and_gradient()
        if value_part is hessian_part:
            loss = model.loss
        elif value_part is not gradient_part:
            loss = value_part.value()
        return _common(
            objective,
            (hessian_part, gradient_part, value_part),
            View(loss, 1.0, gradient, model, model.dense, value_part.value),
        )

    def _size(self, kind: str, power: int, count: int) -> int:
        """The sample's size: `growth` times the last after a refusal, else by the step's length."""
        group = self.param_groups[0]
        share = self.hessian_share if kind == "hessian" else self.gradient_share
        size = _at_least(share, count)
        if self.sampling == "fixed" or group["length"] is None:
            return size
        if group["refused"]:
            grown: float = self.growth * group[f"{kind}_size"]
            return min(count, max(size, ceil(grown)))
        parameters = sum(p.numel() for p in self.parameters())
        wanted = self.constant * max(1.0, log(parameters)) / max(group["length"], 1e-30) ** power
        return count if wanted >= count else max(size, ceil(wanted))

    def _search(self, objective: Objective, view: View, solver: Solver) -> int:
        refused = super()._search(objective, view, solver)
        self.param_groups[0]["refused"] = refused > 0
        return refused

    def _accepted(self, objective: Objective, step: Tensor) -> None:
        self.param_groups[0]["length"] = float(step.norm())
        super()._accepted(objective, step)


def _at_least(share: float, count: int) -> int:
    """A share of the batch, two examples at least where there are two."""
    return min(count, max(2, ceil(share * count)))


def _common(
    objective: Objective, parts: tuple[Objective, Objective, Objective], view: View
) -> View:
    """The same view in the units of the whole batch's loss, a mean or a sum over examples."""
    l2, theta = objective.l2, flatten(objective.params)
    bends, slopes, values = (_weight(objective, part) for part in parts)

    def product(vector: Tensor) -> Tensor:
        return _rescaled(view.product(vector), l2 * vector, bends)

    def dense() -> Tensor:
        matrix = view.dense()
        return _rescaled(
            matrix, l2 * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), bends
        )

    def value(step: Tensor) -> Tensor:
        return _rescaled(view.value(step), l2 / 2 * (theta + step).square().sum(), values)

    loss = _rescaled(view.loss, l2 / 2 * theta.square().sum(), values)
    gradient = _rescaled(view.gradient, l2 * theta, slopes)
    return View(loss, values * parts[-1].scale, gradient, product, dense, value)


def _weight(objective: Objective, part: Objective) -> float:
    """The whole batch's loss over the part's: 1 for a mean, the ratio of examples for a sum."""
    if part is objective:
        return 1.0
    single = part.subset(torch.zeros(1, dtype=torch.long, device=part.inputs.device))
    return 1.0 if single.scale == part.scale else len(objective.inputs) / len(part.inputs)


def _rescaled(estimate: Tensor, regulariser: Tensor, weight: float) -> Tensor:
    """An estimate with its data part times the weight; the regulariser's part stays."""
    return estimate if weight == 1 else weight * (estimate - regulariser) + regulariser
