"""Limited-memory BFGS, also for mini-batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.line_search import armijo
from optimizers.method import require_range
from optimizers.objective import Objective
from optimizers.phases import phased
from optimizers.quasi_newton.line_searched import LineSearched, SearchResult


class LBFGS(LineSearched):
    r"""Limited-memory BFGS: d = -H g, H the BFGS matrix of the last `history` pairs from gamma I.

    H is applied by the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4) with gamma =
    s.y / y.y of the newest pair. Search, choice of pairs, Powell's damping and restart are those of
    `LineSearched`. A step is one search; the next step uses the gradient at its end if the batch is
    the same.

    On mini-batches both gradients of a pair belong to the batch of their step, never to two
    different ones. With a full overlap (`overlap=1`) y is the change over the whole batch: free
    with a line search, which ends with a gradient, twice the cost of gradient descent with
    `line_search="none"`. With `overlap` < 1 it is the change over that share of the batch, its last
    examples, as in Berahas, Nocedal and Takac, "A multi-batch L-BFGS method for machine learning",
    2016, eq. 2.3, and searches look at values alone.

    Cost per step with a line search: one value and gradient per trial, mostly one, and 4 `history`
    n multiplications; with `overlap` < 1 one gradient, 2 `overlap` more for the pair, one value per
    trial. Memory: (2 `history` + 4) n floats, of which 2 `history` n are state, on the first
    parameter.

    Differences from Berahas et al.: the batches come from the loop, so the examples of y do not
    enter the next batch. y is the same, but the gradient at its end costs an evaluation instead of
    serving the next step.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the first step length tried along a quasi-Newton direction, and the only one without a
            line search.
        history: the number of stored pairs.
        line_search: `strong_wolfe`, `armijo` (halving) or `none` (fixed steps).
        curvature: the constant of the second Wolfe condition.
        damping: Powell's share, 0.2 in the literature; 0 for no damping.
        skip: pairs with s.y at most this share of s.Bs are skipped.
        overlap: the share of the batch on which y is measured.
        max_trials: the largest number of trials of a search.

    Raises:
        ValueError: a hyperparameter out of its range; `overlap` < 1 with `strong_wolfe`, which has
            whole gradients.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        history: int = 10,
        line_search: str = "strong_wolfe",
        curvature: float = 0.9,
        damping: float = 0.0,
        skip: float = 1e-8,
        overlap: float = 1.0,
        max_trials: int = 25,
    ) -> None:
        require_range("history", history, low=1, whole=True)
        require_range("overlap", overlap, high=1, open_low=True)
        if overlap < 1 and line_search == "strong_wolfe":
            raise ValueError(
                "overlap must be 1 with line_search='strong_wolfe', which has the whole batch's "
                f"gradients, got {overlap!r}; choose 'armijo' or 'none'"
            )
        self.history = history
        self.overlap = overlap
        super().__init__(params, lr, line_search, curvature, damping, skip, max_trials)

    @phased("precondition")
    def apply(self, vector: Tensor) -> Tensor:
        """The product H v (n,), by the two-loop recursion."""
        state, pairs = self.state[self.parameters()[0]], self.param_groups[0]["pairs"]
        order = [i % self.history for i in range(max(0, pairs - self.history), pairs)]
        steps, changes = ([state[key][i] for i in order] for key in ("steps", "changes"))
        return two_loop(vector, steps, changes)

    def learn(self, s: Tensor, y: Tensor) -> None:
        """Store a pair in the place of the oldest one."""
        state = self.state[self.parameters()[0]]
        place = self.param_groups[0]["pairs"] % self.history
        for key, vector in (("steps", s), ("changes", y)):
            if key not in state:
                state[key] = vector.new_zeros(self.history, len(vector))
            state[key][place] = vector

    @phased("line search")
    def search(
        self, objective: Objective, loss: Tensor, gradient: Tensor, direction: Tensor, first: float
    ) -> SearchResult | None:
        """The accepted point along the direction, or None; by values alone with `overlap` < 1."""
        if self.overlap == 1:
            return super().search(objective, loss, gradient, direction, first)
        start, slope = float(loss), float(gradient @ direction)
        if self.line_search == "none" or not slope < 0:
            return SearchResult(first, first * direction) if slope < 0 else None

        def value(alpha: float) -> float:
            return float(objective.value(alpha * direction))

        accepted = armijo(value, start, slope, first=first, max_trials=self.max_trials)
        return None if accepted is None else SearchResult(accepted[0], accepted[0] * direction)

    @phased("curvature")
    def _gradient_change(
        self, objective: Objective, gradient: Tensor, result: SearchResult
    ) -> Tensor:
        if result.gradient is not None:
            return result.gradient - gradient
        size = len(objective.inputs)
        count = max(1, round(self.overlap * size))
        shared = objective.subset(torch.arange(size - count, size, device=objective.inputs.device))
        before, after = (shared.value_and_gradient(step)[1] for step in (None, result.step))
        # a loss that is summed over examples is smaller on fewer, its regulariser is not
        ratio = objective.scale / shared.scale
        return ratio * (after - before) + (1 - ratio) * objective.l2 * result.step


def two_loop(vector: Tensor, steps: Sequence[Tensor], changes: Sequence[Tensor]) -> Tensor:
    """The product H v for the BFGS matrix H of pairs (s, y), oldest first, from (s.y / y.y) I.

    Nocedal and Wright, 2006, algorithm 7.4: 4 m n multiplications for m pairs, without
    synchronisation of the device. The newest pair gives s.y / y.y.
    """
    result = vector.clone()
    weights: list[tuple[Tensor, Tensor]] = []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        inverse = 1 / (s @ y)
        alpha = inverse * (s @ result)
        result.addcmul_(y, alpha, value=-1)
        weights.append((inverse, alpha))
    result *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, (inverse, alpha) in zip(steps, changes, reversed(weights), strict=True):
        result.addcmul_(s, alpha - inverse * (y @ result))
    return result
