"""GGT: full-matrix AdaGrad of the last gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.low_rank.window import Windowed
from optimizers.method import require_range


class GGT(Windowed):
    r"""Full-matrix adaptive regularisation (Agarwal et al., 2018, arXiv 1806.02958, algorithm 1).

    The update is

        theta -= lr [ (G'G / c)^{1/2} + eps I ]^{-1} m,

    where the rows of G (window, n) are the last vectors m, row t - k times beta2^k, m = momentum m
    + (1 - momentum) g, and c is the sum of the rows' weights beta2^{2k} (`average`) or 1. With
    G G' / c = W diag(s^2) W' of size (window, window) the matrix is U diag(s) U' + eps I, U =
    G'W / (s sqrt(c)). As the newest row, m lies in the span of U:

        theta -= lr G' W diag( 1 / (s + eps) ) W' e,      e the unit vector of the newest row.

    The paper's factor 1/eps outside the window's span therefore acts on nothing, and its
    interpolation with SGD, a free choice of that factor, changes nothing, unless the preconditioned
    vector is no row of the window. Directions with s^2 below the rounding of the matrix are
    dropped.

    Differences from the paper's text, all as in the authors' code: the mean over the window, where
    the text has the sum (`average=false`), and momentum before the window. Their code takes s^2 /
    (s + 1e-2)^3 for 1 / (s + eps).

    Cost per step: 1 gradient-equivalent, 4 n window operations and about 9 window^3. State: window
    n numbers, n with momentum, and window^2 in float64.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate; a step has about the length lr sqrt(rank of the window) at most.
        momentum: decay of the average of gradients that enters the window; 0 for none.
        window: the number of stored vectors (200 in the paper).
        beta2: the factor of a vector's weight per step of age; 1 for equal weights.
        eps: the multiple of the identity added to the root.
        average: divide by the sum of weights.
        weight_decay: decoupled.
        precision: precision of the window: `parameter`, `float32` or `bfloat16`.
        max_gib: the window's largest size.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the window would need more than `max_gib`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.03,
        momentum: float = 0.9,
        window: int = 50,
        beta2: float = 1.0,
        eps: float = 1e-3,
        average: bool = True,
        weight_decay: float = 0.0,
        precision: str = "parameter",
        max_gib: float = 8.0,
    ) -> None:
        require_range("beta2", beta2, high=1, open_low=True)
        require_range("eps", eps, open_low=True)
        self.average = average
        options = {
            "lr": lr,
            "momentum": momentum,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, options, window, precision, max_gib)

    def telemetry(self) -> dict[str, float]:
        """`rank` of the window, and `condition` of its root on its span.

        The condition is (largest s + eps) / (smallest s + eps).
        """
        return super().telemetry()

    def _entry(self, gradient: Tensor) -> Tensor:
        return self._averaged(gradient)

    def _push(self, entry: Tensor, vector: Tensor, gram: Tensor) -> None:
        super()._push(entry, vector, gram)
        self._remember(entry)

    def _ages(self) -> Tensor:
        """The age (window,) of each row in steps; rows that are still zero are the oldest."""
        return (self._slot - torch.arange(self.window)) % self.window

    def _solve(self, gram: Tensor) -> Tensor | None:
        group = self.param_groups[0]
        ages = self._ages()
        weights = (group["beta2"] ** ages.double()).to(gram.device)
        total = (
            float(weights.square()[(ages < self._filled).to(gram.device)].sum())
            if self.average
            else 1.0
        )
        decomposition = symmetric_eigen(weights[:, None] * gram * weights / total)
        if decomposition is None:
            return None
        squares, vectors = decomposition
        resolved = squares > self.window * self.rows.resolution * squares[-1].clamp(min=0)
        roots, vectors = squares[resolved].sqrt(), vectors[:, resolved]
        self.diagnostics["rank"] = float(len(roots))
        if len(roots):
            self.diagnostics["condition"] = float(
                (roots[-1] + group["eps"]) / (roots[0] + group["eps"])
            )
        along: Tensor = weights * (vectors @ (vectors[self._slot] / (roots + group["eps"])))
        return along
