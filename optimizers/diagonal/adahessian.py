"""AdaHessian: Adam whose second moment holds an estimate of the Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.diagonal.lazy import Group, LazyHessian
from optimizers.method import require_choice, require_range

AVERAGINGS = ("none", "kernels", "rows", "blocks")


class AdaHessian(LazyHessian):
    r"""Adam with the second moment of the Hessian's diagonal (Yao et al., 2021).

    arXiv 2006.00719, algorithm 1. With random signs z, k = `hessian_power`, and mhat and vhat
    corrected for their start at zero:

        D = z o Hz, averaged in space
        v <- beta2 v + (1 - beta2) D^2
        m <- beta1 m + (1 - beta1) g
        theta -= lr (mhat / (sqrt(vhat)^k + eps) + weight_decay theta)

    The average in space is that of the released code, the mean of |Hz| = |z o Hz|: over the
    positions of a kernel (all dimensions after the second), and over a matrix's rows or blocks of
    the flattened matrix on request. With `signed=True` it is the paper's, the mean of z o Hz
    (section 3.2).

    v does not estimate the squared diagonal: for random signs E[(z o Hz)_i^2] = sum_j H_ij^2, the
    squared norm of a row of H, which is never smaller. v has no sign either: a coordinate of
    negative curvature moves as one of positive curvature. `optimizers.diagonal.agreement` measures
    both effects on a small network.

    Cost per step: 1 gradient with its graph and `probes` products, about 3 gradients; (period + 2)
    / period at a longer period. Memory: the graph, about twice that of a gradient. State: m and
    sqrt(v), 2 n numbers.

    Differences: v is corrected by the number of refreshes, which is the number of steps at period
    1. With a longer period davda54/ada-hessian counts an old D again in every step, and
    pytorch_optimizer corrects by the number of steps: its first steps are up to sqrt(period) times
    too long. Kernels have any number of dimensions; the last block of a matrix may be shorter.
    `eps` refers to the canonical loss.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        beta1: decay of the momentum.
        beta2: decay of the squared diagonal, per refresh.
        eps: added to the denominator.
        hessian_power: k; 1 is AdaHessian, 0 momentum.
        period: steps between two probes of the Hessian.
        probes: products per refresh; their z o Hz are averaged.
        averaging: `none`, `kernels` (tensors of three or more dimensions over their positions),
            `rows` (and matrices over their rows) or `blocks` (and matrices over blocks of
            `block_size`, row by row).
        block_size: length of a block of `blocks`; 32 for the paper's transformers.
        signed: average z o Hz, not |z o Hz|.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        seed: seed of the probes.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.15,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-4,
        hessian_power: float = 1.0,
        period: int = 1,
        probes: int = 1,
        averaging: str = "kernels",
        block_size: int = 32,
        signed: bool = False,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_range("hessian_power", hessian_power, high=1)
        require_choice("averaging", averaging, AVERAGINGS)
        require_range("block_size", block_size, low=1, whole=True)
        self.averaging = averaging
        self.block_size = block_size
        self.signed = signed
        options = {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(
            params, options | {"hessian_power": hessian_power}, period, "rademacher", probes, seed
        )

    def learn(
        self, group: Group, running: list[Tensor], estimates: list[Tensor], scale: float
    ) -> None:
        """Average the estimates in space and update the root of their second moment."""
        averages = [self._averaged(estimate) for estimate in estimates]
        torch._foreach_mul_(running, running)
        torch._foreach_mul_(running, group["beta2"])
        torch._foreach_addcmul_(running, averages, averages, value=(1 - group["beta2"]) / scale**2)
        # stored as the root, which the steps until the next refresh use
        torch._foreach_sqrt_(running)

    def _averaged(self, estimate: Tensor) -> Tensor:
        if (
            self.averaging == "none"
            or estimate.dim() < 2
            or (estimate.dim() == 2 and self.averaging == "kernels")
        ):
            return estimate
        values = estimate if self.signed else estimate.abs()
        if estimate.dim() == 2 and self.averaging == "blocks":
            return blockwise_mean(values, self.block_size)
        return values.mean(
            dim=tuple(range(min(2, estimate.dim() - 1), estimate.dim())), keepdim=True
        ).expand_as(values)

    def move(
        self, group: Group, params: list[Tensor], momenta: list[Tensor], running: list[Tensor]
    ) -> None:
        """Apply Adam's update with the k-th power of the root as denominator."""
        power = group["hessian_power"]
        # the correction of sqrt(v)^k, taken out of the quotient
        correction = (1 - group["beta2"] ** group["refreshes"]) ** (power / 2)
        roots = running if power == 1 else list(torch._foreach_pow(running, power))
        denominators = torch._foreach_add(roots, group["eps"] * correction)
        length = group["lr"] * correction / (1 - group["beta1"] ** group["steps"])
        torch._foreach_addcdiv_(params, momenta, denominators, value=-length)

    def estimated(self, group: Group) -> list[Tensor]:
        """The estimate sqrt(vhat), which has no sign."""
        correction = (1 - group["beta2"] ** group["refreshes"]) ** 0.5
        return [root / correction for root in super().estimated(group)]

    def telemetry(self) -> dict[str, float]:
        """`condition` of the denominators, beside the common numbers."""
        extremes = [
            (part ** group["hessian_power"] + group["eps"]).aminmax()
            for group in self.param_groups
            for part in self.estimated(group)
            if part.numel()
        ]
        numbers = super().telemetry()
        if extremes:
            numbers["condition"] = max(float(high) for _, high in extremes) / min(
                float(low) for low, _ in extremes
            )
        return numbers


def blockwise_mean(matrix: Tensor, size: int) -> Tensor:
    """Every entry replaced by the mean of its block of `size` entries, row by row.

    The last block may be shorter.
    """
    flat = matrix.flatten()
    whole = flat.numel() // size * size
    parts = [flat[:whole].view(-1, size)] + (
        [flat[whole:].view(1, -1)] if whole < flat.numel() else []
    )
    return torch.cat(
        [part.mean(1, keepdim=True).expand_as(part).flatten() for part in parts]
    ).view_as(matrix)
