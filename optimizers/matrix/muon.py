"""Muon: orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt
from typing import Any

import torch
from torch import Tensor

from optimizers.layers.roles import Role
from optimizers.linalg.roots import QUINTIC, newton_schulz
from optimizers.matrix.layout import Layout
from optimizers.matrix.preconditioned import Preconditioned
from optimizers.matrix.stacks import Stack
from optimizers.method import require_choice, require_range

SCALES = ("original", "match_rms_adamw")
PRECISIONS = ("auto", "bfloat16", "parameter")


class Muon(Preconditioned):
    r"""Steps along the orthogonal factor of the momentum (Jordan et al., 2024).

    "Muon: an optimizer for hidden layers":

        B <- momentum B + (1 - momentum) G
        u = G + momentum (B - G), or B without Nesterov's form
        theta -= lr s NewtonSchulz(u)

    The direction has the singular vectors of u and singular values near one, so a step's spectral
    norm is about lr s. The rule takes hidden matrices only, a kernel (out, in, height, width) as
    the matrix (out, in height width); the fallback takes embeddings, head and vectors, as in the
    source.

    Cost: ns_steps (4 m^2 n + 2 m^3) operations for a matrix m x n, m <= n. State: m n numbers.

    Differences from torch.optim.Muon: kernels and whole models; equal shapes are orthogonalised
    together; Newton-Schulz runs in bfloat16 only on request or on a GPU (its rounding changes a
    step by about 1 %).

    Args:
        params: the parameters, or pairs of name and parameter; names identify embeddings until a
            model is known.
        lr: the learning rate, the spectral norm of a step.
        momentum: decay of the gradient's exponential average.
        nesterov: look ahead by one average.
        ns_steps: Newton-Schulz iterations.
        coefficients: a, b, c of the Newton-Schulz polynomial.
        adjust: `original` s = sqrt(max(1, rows / columns)) or `match_rms_adamw` s = 0.2
            sqrt(max(rows, columns)).
        precision: precision of Newton-Schulz: `bfloat16`, `parameter` (the parameter's own), or
            `auto`, bfloat16 on a GPU.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for all other parameters.
        fallback_lr: learning rate of the fallback; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
        UnsupportedError: the model has no hidden matrix.
    """

    rule = "muon"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        coefficients: Sequence[float] = QUINTIC,
        adjust: str = "original",
        precision: str = "auto",
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 0.003,
    ) -> None:
        require_range("momentum", momentum, high=1)
        require_range("ns_steps", ns_steps, low=1, whole=True)
        require_choice("adjust", adjust, SCALES)
        require_choice("precision", precision, PRECISIONS)
        self.nesterov = nesterov
        self.ns_steps = ns_steps
        self.coefficients = _three(coefficients)
        self.adjust = adjust
        self.precision = precision
        options = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "fallback_lr": fallback_lr,
        }
        layout = Layout(roles=(Role.HIDDEN,), flatten=True, identity=True)
        super().__init__(params, options, layout, fallback, max_gib=None)

    def update(self, stack: Stack, gradient: Tensor) -> Tensor:
        """The orthogonalised momentum (k, *shape)."""
        momentum = stack.group["momentum"]
        buffer = stack.zeros("momentum_buffer", gradient)
        buffer.lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(buffer, momentum) if self.nesterov else buffer
        half = self.precision == "bfloat16" or (self.precision == "auto" and gradient.is_cuda)
        direction = direction.to(torch.bfloat16) if half else direction
        return newton_schulz(direction, self.ns_steps, self.coefficients).to(gradient.dtype)

    def scale(self, shape: tuple[int, ...]) -> float:
        """The factor s of the learning rate for a matrix of this shape."""
        rows, columns = shape
        return (
            sqrt(max(1.0, rows / columns))
            if self.adjust == "original"
            else 0.2 * sqrt(max(rows, columns))
        )

    def floats(self, shape: tuple[int, ...]) -> int:
        """The numbers of the momentum buffer."""
        rows, columns = shape
        return rows * columns


def _three(value: object) -> tuple[float, float, float]:
    numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) and isfinite(n) for n in numbers):
        raise ValueError(f"coefficients must be three numbers, got {value!r}")
    a, b, c = map(float, numbers)
    return a, b, c
