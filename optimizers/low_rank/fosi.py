"""FOSI: Newton steps along the Hessian's extreme eigenvectors, a first-order method elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from optimizers.fallback import FALLBACKS, scheduled_rate
from optimizers.linalg.curvature import Curvature
from optimizers.linalg.flat import unflatten
from optimizers.linalg.lanczos import lanczos
from optimizers.low_rank.rows import Rows
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective
from optimizers.phases import phase, phased


class FOSI(Method):
    r"""First-order and second-order integration (Sivan, Gabel and Schuster, ICLR 2024).

    arXiv 2302.08484, algorithm 2. V (k, n) holds the eigenvectors of the Hessian's `top` largest
    and `bottom` smallest eigenvalues e, from Lanczos' process on the current mini-batch every
    `period` steps. The gradient is split, g1 = V'Vg and g2 = g - g1:

        c = momentum c + (1 - momentum) V g      (adamw; c = momentum c + V g with sgd),
        theta += (I - V'V) scale d(g2) - alpha V' diag(1/|e|) c,

    with d the base optimizer's step on g2. scale is 1 for adamw. For sgd it is the quotient of the
    largest and the smallest of the top eigenvalues, at most `max_scale`: without the steepest
    directions, steps longer by that factor are stable. The first `warmup` steps are the base
    optimizer's alone. alpha follows the schedule of `lr`.

    Differences from the paper: the Hessian is that of the current mini-batch, where the authors use
    one mini-batch for the whole training; c is stored by its coordinates and projected onto the new
    basis when V changes, so that components outside the new space vanish at once; an |e| below
    `floor` times the largest one is raised to that value, where in the paper a Ritz value near zero
    makes a step of any length; weight decay is decoupled and acts in all directions, where the base
    optimizer's weight decay has to be zero in the paper.

    Cost: 1 gradient-equivalent a step and 8 k n operations; every `period` steps a gradient,
    `order` Hessian-vector products and 4 order^2 n operations for the orthogonality of Lanczos'
    vectors. At the defaults the products are 0.2 to 0.4 gradient-equivalents a step. The
    orthogonalisation adds little to a convolutional network, and more than a gradient to a
    perceptron with few examples in a mini-batch. State: that of the base optimizer, and k n + 2 k
    numbers.

    Args:
        params: the parameters, or pairs of name and parameter; all those of the model, in its
            order.
        lr: the base optimizer's learning rate.
        base: `adamw` or `sgd`.
        top, bottom: the numbers of eigenpairs at either end (k and l in the paper).
        period: steps between two estimates (T).
        warmup: steps before the first (W); `period` if None.
        order: the number of Lanczos iterations; 4 (top + bottom) if None.
        alpha: the length of the Newton step.
        momentum: the momentum of c, and of sgd.
        max_scale: the largest scale, for sgd.
        floor: the least |e|, as a share of the largest one.
        weight_decay: decoupled.
        seed: the seed of the start vectors.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        base: str = "adamw",
        top: int = 5,
        bottom: int = 0,
        period: int = 100,
        warmup: int | None = None,
        order: int | None = None,
        alpha: float = 0.1,
        momentum: float = 0.9,
        max_scale: float = 3.0,
        floor: float = 1e-3,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_range("lr", lr)
        require_choice("base", base, FALLBACKS)
        require_range("top", top, low=1, whole=True)
        require_range("bottom", bottom, whole=True)
        require_range("period", period, low=1, whole=True)
        require_range("alpha", alpha)
        require_range("momentum", momentum, high=1)
        require_range("max_scale", max_scale, low=1)
        require_range("floor", floor, high=1)
        require_range("weight_decay", weight_decay)
        require_range("seed", seed, whole=True)
        for name, value, low in (("warmup", warmup, 0), ("order", order, top + bottom)):
            if value is not None:
                require_range(name, value, low=low, whole=True)
        self.base = base
        self.top, self.bottom = top, bottom
        self.period = period
        self.warmup = period if warmup is None else warmup
        self.order = 4 * (top + bottom) if order is None else order
        self.max_scale, self.floor = max_scale, floor
        self.seed = seed
        self._split: tuple[Tensor, Tensor] | None = None
        defaults = {"lr": lr, "alpha": alpha, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(
            params, {**defaults, "initial_lr": lr, "step": 0, "draws": 0, "age": -1, "scale": 1.0}
        )
        self.basis = Rows(self, "eigenvectors", top + bottom)

    def telemetry(self) -> dict[str, float]:
        """Extreme eigenvalues, `subspace_share` of |g|^2, `scale` and `age`, by name."""
        group, numbers = self.param_groups[0], super().telemetry()
        values = self.state.get(self.parameters()[0], {}).get("eigenvalues")
        if group["age"] < 0 or values is None:
            return numbers
        inside, whole = map(float, self._split or (nan, nan))
        nonzero = values[values != 0]
        ends = (float(nonzero.max()), float(nonzero.min())) if len(nonzero) else (0.0, 0.0)
        return {
            **numbers,
            "largest_eigenvalue": ends[0],
            "smallest_eigenvalue": ends[1],
            "subspace_share": inside / whole if whole else nan,
            "scale": group["scale"],
            "age": float(group["age"]),
        }

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Split the gradient, move by Newton's and the base step; return the loss before it."""
        group = self.whole(objective)
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        self._prepare()
        group["age"] += group["age"] >= 0
        if group["step"] >= self.warmup and (group["step"] - self.warmup) % self.period == 0:
            with phase("curvature"):
                self._estimate(objective.hessian())
        gradient = objective.gradient()
        delta = self._based(gradient) if group["age"] < 0 else self._integrated(gradient)
        if group["weight_decay"]:
            torch._foreach_mul_(
                list[Tensor](self.parameters()), 1 - group["lr"] * group["weight_decay"]
            )
        objective.move(delta)
        group["step"] += 1
        return loss

    def _prepare(self) -> None:
        first = self.parameters()[0]
        self.basis.matrix()
        for key in ("eigenvalues", "velocity"):
            if key not in self.state[first]:
                self.state[first][key] = torch.zeros(
                    self.top + self.bottom, dtype=first.dtype, device=first.device
                )

    # -- the subspace ------------------------------------------------------------------------------

    def _estimate(self, hessian: Curvature) -> None:
        """Replace eigenvalues and eigenvectors, unless Lanczos' process fails."""
        extremes = self._extremes(hessian)
        if extremes is None:
            self.failures["lanczos"] += 1
            return
        values, vectors = extremes
        state, group = self.state[self.parameters()[0]], self.param_groups[0]
        basis = self.basis.matrix()
        state["velocity"].copy_(vectors @ (basis.T @ state["velocity"]))
        basis.copy_(vectors)
        state["eigenvalues"].copy_(values)
        group["age"] = 0
        top = values[self.bottom :].abs()
        low = float(top.min())
        stable = float(top.max()) / low if low > 0 else 1.0
        group["scale"] = min(self.max_scale, max(1.0, stable)) if self.base == "sgd" else 1.0

    def _extremes(self, hessian: Curvature) -> tuple[Tensor, Tensor] | None:
        """The `bottom` smallest and `top` largest eigenvalues and vectors, padded by zeros."""
        group, like = self.param_groups[0], hessian.gradient
        generator = torch.Generator().manual_seed(self.seed + group["draws"])
        group["draws"] += 1
        start = torch.randn(len(like), generator=generator, dtype=like.dtype).to(like.device)
        process = lanczos(hessian, start, self.order)
        if not isfinite(process.residual):
            return None
        ritz, weights = process.eigen()
        count, wanted = len(ritz), self.top + self.bottom
        if count < min(wanted, len(like)):
            self.failures["breakdown"] += 1
        chosen = [
            *range(min(self.bottom, count)),
            *range(max(count - self.top, min(self.bottom, count)), count),
        ]
        values, vectors = like.new_zeros(wanted), like.new_zeros(wanted, len(like))
        slots = [
            *range(min(self.bottom, count)),
            *range(wanted - (len(chosen) - min(self.bottom, count)), wanted),
        ]
        values[slots] = ritz[chosen].to(like.dtype)
        vectors[slots] = weights[:, chosen].T.to(like.dtype) @ process.basis
        return values, vectors

    @phased("precondition")
    def _integrated(self, gradient: Tensor) -> Tensor:
        """The step (I - V'V) scale d(g2) - alpha V' diag(1/|e|) c."""
        along = self.basis.times(gradient)
        self._split = (along @ along, gradient @ gradient)
        delta = self._based(gradient - self.basis.combined(along)).mul_(
            self.param_groups[0]["scale"]
        )
        return delta.sub_(self.basis.combined(self.basis.times(delta) + self._newton(along)))

    def _newton(self, along: Tensor) -> Tensor:
        """The coordinates alpha diag(1/|e|) c, (k,), for the coordinates of a gradient."""
        group, state = self.param_groups[0], self.state[self.parameters()[0]]
        fresh = 1.0 if self.base == "sgd" else 1 - group["momentum"]
        velocity: Tensor = state["velocity"].mul_(group["momentum"]).add_(along, alpha=fresh)
        sizes = state["eigenvalues"].abs()
        least = torch.clamp(self.floor * sizes.max(), min=torch.finfo(sizes.dtype).tiny)
        alpha = scheduled_rate({**group, "fallback_lr": group["alpha"]})
        coordinates: Tensor = alpha * velocity / sizes.clamp(min=least)
        return coordinates

    def _based(self, gradient: Tensor) -> Tensor:
        """The base optimizer's step (n,) for a gradient: its change of zeros."""
        params = self.parameters()
        delta = torch.zeros_like(gradient)
        parts = zip(params, unflatten(delta, params), unflatten(gradient, params), strict=True)
        used = [part for part in parts if part[0].grad is not None]
        states = [self.state[parameter] for parameter, _, _ in used]
        options = {**self.param_groups[0], "weight_decay": 0.0}
        FALLBACKS[self.base](
            [part[1] for part in used], [part[2] for part in used], states, options
        )
        return delta
