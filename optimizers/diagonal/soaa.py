"""SOAA: AdamW with a diagonal Fisher denominator and a step factor from the loss's fall."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective

PREDICTIONS = ("diagonal", "model", "linear")
SCOPES = ("all", "tensor")


class SOAA(Method):
    r"""Second-order adaptive Adam (Vo and Vo, 2024, arXiv 2410.02293).

    With Adam's bias-corrected moments mhat and vhat, F = (1 + sum mhat^2 / sum (vhat + eps)) vhat
    stands for the diagonal of the Fisher matrix, and with a factor d, one for all parameters,

        u = d mhat / (max(d F, sqrt(vhat)) + eps),    theta -= lr (u + weight_decay theta).

    d follows the ratio of the observed to the predicted fall of the loss, within bounds that
    narrow over T steps:

        d_t = clip(d_{t-1} (lhat - l_t) / max(p, eps), (1 - gamma)^s, 1 + gamma^s)

    with s = (t - 1) / T, lhat the running mean of the loss, and p the predicted gain of the last
    step.

    Where d F <= sqrt(vhat), that is sqrt(vhat) <= 1 / (d (1 + ratio)), a coordinate moves exactly
    as with AdamW at the learning rate d lr (and the decay weight_decay / d). The bounds hold d
    within [1 - gamma, 2], and the ratio is about 1 at most, so this covers every coordinate whose
    gradient is below 1/4 in root mean square. `differs_share` in `telemetry` is the share of the
    other coordinates. Scaling the loss changes the steps of this method, and not those of AdamW.

    The published text leaves open the running mean's decay, p, T beyond a run of known length and
    whether d_t serves step t or the next. Each is an option here; the defaults for gamma, the decay
    and p are those of the one public implementation that names the paper (the C++ library nadir,
    which uses d a step later: `delay=True`). After T steps the bounds stay constant.

    Cost: 1 gradient a step. State: 2 n numbers. The loss is brought to the CPU in every step.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        beta1, beta2: decays of the moments.
        eps: in all denominators.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        gamma: the width of the bounds on d: from [1, 2] at the first step to [1 - gamma, 1 + gamma]
            at the last.
        first_d: d before the first step.
        loss_decay: decay of the running mean of the loss, which is bias-corrected and contains l_t.
        prediction: p: `diagonal` lr (mhat.u - u'diag(vhat)u / 2), `model` lr mhat.u - lr^2
            u'diag(F)u / 2, the prediction of the quadratic model with F, or `linear` lr mhat.u.
        scope: whether the sums in F run over `all` parameters or over each `tensor`.
        delay: let step t use d_{t-1}.
        total_steps: T; None for the training's number of steps, if `expect` announced it.

    Raises:
        ValueError: a hyperparameter out of its range; at the first step, no T.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        gamma: float = 0.1,
        first_d: float = 1.0,
        loss_decay: float = 0.9,
        prediction: str = "diagonal",
        scope: str = "all",
        delay: bool = False,
        total_steps: int | None = None,
    ) -> None:
        require_range("lr", lr)
        require_range("beta1", beta1, high=1 - 1e-12)
        require_range("beta2", beta2, high=1 - 1e-12)
        require_range("eps", eps, open_low=True)
        require_range("weight_decay", weight_decay)
        require_range("gamma", gamma, high=1)
        require_range("first_d", first_d, open_low=True)
        require_range("loss_decay", loss_decay, high=1 - 1e-12)
        require_choice("prediction", prediction, PREDICTIONS)
        require_choice("scope", scope, SCOPES)
        if total_steps is not None:
            require_range("total_steps", total_steps, low=1, whole=True)
        self.eps = eps
        self.gamma = gamma
        self.loss_decay = loss_decay
        self.prediction = prediction
        self.scope = scope
        self.delay = delay
        self.total_steps = total_steps
        counters = {
            "step": 0,
            "d": first_d,
            "next_d": first_d,
            "mean_loss": 0.0,
            "predicted": 0.0,
            "bounded": 0,
        }
        super().__init__(
            params,
            {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": weight_decay} | counters,
        )

    def telemetry(self) -> dict[str, float]:
        """`d`, `differs_share` and `bounded_share`, beside the common numbers.

        `differs_share` is the share of coordinates with d F > sqrt(vhat), `bounded_share` that of
        the steps whose d was clipped.
        """
        first = self.param_groups[0]
        numbers = {"d": float(first["d"])}
        if first["step"]:
            numbers["bounded_share"] = first["bounded"] / first["step"]
            numbers["differs_share"] = self._differs_share()
        return {**super().telemetry(), **numbers}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Update d from the loss's fall and take AdamW's step with F; return the loss before it."""
        total = self._total()
        loss = objective()
        if not self.finite(loss, objective):
            return loss
        first = self.param_groups[0]
        first["step"] += 1
        following = self._next_d(float(loss), total)
        first["d"] = first["next_d"] if self.delay else following
        first["next_d"] = following
        self._average()
        first["predicted"] = self._move_all(first["d"])
        return loss

    def _total(self) -> int:
        if self.total_steps is not None:
            return self.total_steps
        if self.horizon is None:
            raise ValueError(
                "SOAA needs the number of steps its bounds close over: pass total_steps=1000, say"
            )
        return self.horizon.steps

    def _next_d(self, loss: float, total: int) -> float:
        """The factor d, scaled by the observed over the predicted fall, within its bounds."""
        first, t = self.param_groups[0], self.param_groups[0]["step"]
        first["mean_loss"] = self.loss_decay * first["mean_loss"] + (1 - self.loss_decay) * loss
        fall = first["mean_loss"] / (1 - self.loss_decay**t) - loss
        done = min((t - 1) / total, 1.0)
        low, high = (1 - self.gamma) ** done, 1 + self.gamma**done
        wanted = fall / max(first["predicted"], self.eps) * first["next_d"]
        first["bounded"] += not low <= wanted <= high
        return float(min(max(wanted, low), high))

    # -- the moments -------------------------------------------------------------------------------

    def _used(self) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """The groups, each with its parameters that have a gradient."""
        pairs = [
            (group, [p for p in group["params"] if p.grad is not None])
            for group in self.param_groups
        ]
        return [(group, params) for group, params in pairs if params]

    def _average(self) -> None:
        """Update the moments with the gradients."""
        for group, params in self._used():
            gradients = [p.grad for p in params if p.grad is not None]
            first, second = self._moments(params)
            torch._foreach_lerp_(first, gradients, 1 - group["beta1"])
            torch._foreach_mul_(second, group["beta2"])
            torch._foreach_addcmul_(second, gradients, gradients, value=1 - group["beta2"])

    def _moments(self, params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        for parameter in params:
            if "exp_avg" not in self.state[parameter]:
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in params]
        return [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]

    def _corrections(self, group: dict[str, Any]) -> tuple[float, float]:
        """The divisors that correct the moments for their start at zero."""
        step = self.param_groups[0]["step"]
        return 1 - group["beta1"] ** step, 1 - group["beta2"] ** step

    def _fisher_factors(self) -> list[float]:
        """F / v of each parameter that has a gradient, in their order."""
        squares, sums, corrections = [], [], []
        for group, params in self._used():
            first, second = self._moments(params)
            one, two = self._corrections(group)
            squares += [norm.double().square() / one**2 for norm in torch._foreach_norm(first)]
            sizes = [self.eps * moment.numel() for moment in second]
            totals = torch._foreach_norm(second, 1)
            sums += [total.double() / two + size for total, size in zip(totals, sizes, strict=True)]
            corrections += [two] * len(params)
        if not squares:
            return []
        above, below = torch.stack(squares), torch.stack(sums)
        if self.scope == "all":
            above, below = above.sum().expand_as(above), below.sum()
        ratios: list[float] = (above / below).tolist()
        return [(1 + ratio) / two for ratio, two in zip(ratios, corrections, strict=True)]

    # -- the move ----------------------------------------------------------------------------------

    def _move_all(self, d: float) -> float:
        """Move every parameter with a gradient; return the predicted fall of the loss."""
        factors = self._fisher_factors()
        gain = 0.0
        for group, params in self._used():
            own, factors = factors[: len(params)], factors[len(params) :]
            directions, predicted = self._directions(group, params, own, d)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, directions, alpha=-group["lr"])
            gain += predicted
        return gain

    def _directions(
        self, group: dict[str, Any], params: list[Tensor], factors: list[float], d: float
    ) -> tuple[list[Tensor], float]:
        """The directions u of a group's parameters, and the predicted gain along them."""
        first, second = self._moments(params)
        one, two = self._corrections(group)
        below = self._roots(second, two)
        torch._foreach_maximum_(
            below, torch._foreach_mul(second, [d * factor for factor in factors])
        )
        torch._foreach_add_(below, self.eps)
        directions = list(torch._foreach_div(first, below))
        torch._foreach_mul_(directions, d / one)
        lr = group["lr"]
        gain = torch.stack([_dot(m, u) for m, u in zip(first, directions, strict=True)]).sum() / one
        if self.prediction != "linear":
            weights = (
                [1 / two] * len(factors)
                if self.prediction == "diagonal"
                else [lr * factor for factor in factors]
            )
            bends = zip(second, directions, weights, strict=True)
            gain = gain - torch.stack([weight * _dot(v, u * u) for v, u, weight in bends]).sum() / 2
        return directions, float(lr * gain)

    def _roots(self, second: list[Tensor], correction: float) -> list[Tensor]:
        """The roots sqrt(vhat)."""
        roots = list(torch._foreach_sqrt(second))
        torch._foreach_div_(roots, correction**0.5)
        return roots

    @torch.no_grad()
    def _differs_share(self) -> float:
        """The share of coordinates that the last step moved otherwise than AdamW."""
        factors, d, size, differing = self._fisher_factors(), self.param_groups[0]["d"], 0, 0
        for group, params in self._used():
            own, factors = factors[: len(params)], factors[len(params) :]
            _, second = self._moments(params)
            roots = self._roots(second, self._corrections(group)[1])
            for v, root, factor in zip(second, roots, own, strict=True):
                differing += int((d * factor * v > root).sum())
                size += v.numel()
        return differing / max(size, 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return torch.dot(one.reshape(-1), other.reshape(-1))
