"""M-FAC: the damped inverse of an empirical Fisher matrix of the last gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.linalg.decompositions import symmetric_eigen
from optimizers.low_rank.window import Windowed
from optimizers.method import require_choice, require_range

AVERAGES = ("seen", "window")


class MFAC(Windowed):
    r"""Matrix-free approximate curvature (Frantar, Kurtic and Alistarh, 2021, arXiv 2107.03356).

    The direction is u = F^{-1} g with

        F = damping I + (1/m) sum_i g_i g_i',

    the sum over the last `window` mini-batch gradients, g among them. By Woodbury's identity

        F^{-1} g = ( g - G' (m damping I + G G')^{-1} G g ) / damping,

    where the gradients are the rows of G (window, n). No n-by-n matrix is formed: the matrix in the
    middle is (window, window), updated by rows and factored by Cholesky in float64. As g is the
    newest row, u lies in the span of the window, and the quotient by `damping` cancels. The
    computed form, with e the unit vector of the newest row, is

        u = G' m (m damping I + G G')^{-1} e,
        v = momentum v + (1 - momentum) u,    theta *= 1 - lr weight_decay,    theta -= lr v.

    F consists of gradients of mini-batches, not of examples, and is not scaled: a loss times c has
    the effect of a damping divided by c^2 and a learning rate divided by c.

    Differences from the paper: the paper has the recursion of its section 3.2 (O(window^2) a step)
    in the place of Cholesky's window^3 / 3; it divides by m = window from the first step on
    (`average=window`), where missing rows count as zeros and early steps are up to `window` times
    as long; it adds an L2 term to the gradient, where weight decay is decoupled here.

    Cost per step: 1 gradient-equivalent, 4 n window operations and window^3 / 3. State: window n
    numbers, n with momentum, and window^2 in float64.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate; F^{-1} g has the unit of 1 / g.
        momentum: decay of the average of preconditioned gradients; 0 for none.
        window: the number of gradients in F (1,024 in the paper).
        damping: the multiple of the identity (1e-5 in the paper), in units of a gradient's squared
            length.
        average: m is the number of gradients `seen` in the window so far, or the whole `window`.
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
        lr: float = 0.01,
        momentum: float = 0.9,
        window: int = 64,
        damping: float = 0.01,
        average: str = "seen",
        weight_decay: float = 0.0,
        precision: str = "parameter",
        max_gib: float = 8.0,
    ) -> None:
        require_range("damping", damping, open_low=True)
        require_choice("average", average, AVERAGES)
        self.average = average
        options = {"lr": lr, "momentum": momentum, "damping": damping, "weight_decay": weight_decay}
        super().__init__(params, options, window, precision, max_gib)

    def telemetry(self) -> dict[str, float]:
        """`damping` and `shrinkage`, beside the common numbers.

        The shrinkage is g'F^{-1}g damping / g'g: 1 for a new direction, near 0 for one that the
        window holds many times.
        """
        return {**super().telemetry(), "damping": float(self.param_groups[0]["damping"])}

    def _solve(self, gram: Tensor) -> Tensor | None:
        damping = self.param_groups[0]["damping"]
        count = self._filled if self.average == "seen" else self.window
        unit = torch.zeros(self.window, dtype=gram.dtype, device=gram.device)
        unit[self._slot] = count
        weights = self._solved(gram, count * damping, unit)
        if weights is None:
            return None
        square = float(gram[self._slot, self._slot])
        self.diagnostics["shrinkage"] = (
            damping * float(weights @ gram[self._slot]) / square if square else 1.0
        )
        return weights

    def _solved(self, gram: Tensor, shift: float, right: Tensor) -> Tensor | None:
        """The solution (gram + shift I)^{-1} right, by eigenvalues for an indefinite gram."""
        factor, failed = torch.linalg.cholesky_ex(
            gram + shift * torch.eye(len(gram), dtype=gram.dtype).to(gram)
        )
        if int(failed) == 0:
            return torch.cholesky_solve(right[:, None], factor)[:, 0]
        self.failures["cholesky"] += 1
        decomposition = symmetric_eigen(gram)
        if decomposition is None:
            return None
        values, vectors = decomposition
        return vectors @ ((vectors.T @ right) / (values.clamp(min=0) + shift))

    def _direction(self, preconditioned: Tensor) -> Tensor:
        mean = self._averaged(preconditioned)
        self._remember(mean)
        return mean
