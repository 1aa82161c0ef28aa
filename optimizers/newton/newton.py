"""Newton's method with the exact Hessian, made safe for saddles."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimizers.errors import Unsupported
from optimizers.linalg.damping import RatioRule, reduction_ratio
from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.linalg.flat import add_
from optimizers.method import Method, require_range
from optimizers.objective import Objective


class Newton(Method):
    r"""Newton's method with a damped, saddle-free Hessian: d = -(|H| + damping I)^{-1} g, theta += lr d.

    |H| = V |diag(e)| V' replaces negative eigenvalues by their absolute values, so that a step moves away from saddle
    points instead of towards them (Dauphin et al., 2014, "Identifying and attacking the saddle point problem",
    arXiv 1406.2572, eq. 12); `saddle_free=False` keeps H itself. With `adaptive=True` a step that does not lower the
    loss is refused and tried again with more damping, and the damping follows the ratio of actual to predicted
    reduction (Nocedal and Wright, 2006, section 4.1); the decomposition is reused, a trial costs one evaluation.

    Cost per step: n Hessian-vector products, an eigen-decomposition (n^3), one evaluation per trial. Memory: 8 n^2
    bytes for each of three matrices in float64.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its order.
        lr: the length of the step along the Newton direction; 1 is Newton's own.
        damping: the first multiple of the identity, for a loss that is summed over outputs and averaged over examples.
        saddle_free: use |H| instead of H.
        adaptive: refuse steps that raise the loss, and adapt the damping.
        max_trials: how often a refused step is tried again.
        max_parameters: the largest n for which the dense matrix is built.

    Raises:
        ValueError: a hyperparameter out of its range.
        Unsupported: more than `max_parameters` parameters.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        damping: float = 1e-3,
        saddle_free: bool = True,
        adaptive: bool = True,
        max_trials: int = 10,
        max_parameters: int = 5000,
    ) -> None:
        require_range("lr", lr, open_low=True)
        require_range("damping", damping)
        require_range("max_trials", max_trials, low=1, whole=True)
        require_range("max_parameters", max_parameters, low=1, whole=True)
        self.saddle_free = saddle_free
        self.adaptive = adaptive
        self.max_trials = max_trials
        self.rule = RatioRule(increase=4.0, decrease=1 / 3)
        super().__init__(params, {"lr": lr, "damping": damping})
        size = sum(p.numel() for p in self.parameters())
        if size > max_parameters:
            raise Unsupported(
                f"newton builds the dense Hessian: {size:,} parameters need {8 * size**2 / 2**30:,.1f} GiB a matrix, "
                f"the limit is max_parameters={max_parameters:,}; ggn_cg and kfac need no matrix of that size"
            )

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        group = self.whole(objective)
        hessian = objective.hessian()
        decomposition = symmetric_eigen(hessian.dense())
        if decomposition is None or not bool(torch.isfinite(hessian.loss + hessian.gradient.norm())):
            return hessian.loss
        values, vectors = decomposition
        slopes = vectors.T @ hessian.gradient.double()
        for _ in range(self.max_trials if self.adaptive else 1):
            along = -group["lr"] * slopes / self._curvatures(values, group["damping"] * objective.scale)
            step = (vectors @ along).to(hessian.gradient.dtype)
            model_change = float(slopes @ along + values @ along**2 / 2)
            if not self.adaptive or self._accepts(objective, hessian.loss, step, model_change):
                add_(objective.params, step)
                break
            if group["damping"] == 0:  # every further trial would be the same
                break
        return hessian.loss

    def _curvatures(self, values: Tensor, damping: float) -> Tensor:
        """The damped eigenvalues that divide the gradient, kept away from zero by round-off's size."""
        curvatures = (values.abs() if self.saddle_free else values) + damping
        smallest = torch.finfo(values.dtype).eps * float(values.abs().max()) + torch.finfo(values.dtype).tiny
        return torch.where(curvatures.abs() < smallest, smallest, curvatures)

    def _accepts(self, objective: Objective, before: Tensor, step: Tensor, model_change: float) -> bool:
        """Whether the loss fell; the damping follows the ratio of its fall to the quadratic model's."""
        group = self.param_groups[0]
        after = float(objective.value(step))
        ratio = reduction_ratio(float(before), after, -model_change, torch.finfo(step.dtype).eps)
        group["damping"] = self.rule(group["damping"], ratio)
        return ratio > 0
