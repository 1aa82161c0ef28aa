"""AdaFisher: momentum divided by the diagonals of Kronecker factors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimizers.diagonal.factor_diagonals import Averages, entries, observed, spread
from optimizers.layers.capture import Captured
from optimizers.linalg.curvature import Curvature
from optimizers.method import require_choice, require_range
from optimizers.natural_gradient.blocks import Block, Measure, Tensors
from optimizers.natural_gradient.factored import Factored
from optimizers.objective import Objective

FISHERS = ("empirical", "sampled")
NORMALISED = ("observation", "average")


class AdaFisher(Factored):
    r"""Momentum over a diagonal Kronecker-factored Fisher matrix (Martins Gomes et al., 2025).

    arXiv 2405.16397. A layer has the input abar, a one appended for the bias, and the output
    gradient g. Its factors H = diag(E[abar abar']) and S = diag(E[g g']) are min-max normalised to
    [0, 1] and averaged over time:

        F = H (x) S + damping,    theta -= lr mhat / F

    with mhat the bias-corrected exponential average of the gradient. There is no square root.

    The averages of the paper, the default, are H <- gamma H + (1 - gamma) H_new. With
    `as_released=True` they are those of the authors' code, H <- gamma H / 10 + gamma H_new / 100,
    whose weights do not add up to one. Both begin with ones. The released averages fall to at most
    gamma / (100 - 10 gamma), 0.0087 at the defaults. F then lies in [damping, damping + 7.6e-5],
    and the method is momentum with the learning rate lr / damping. `spread` in `telemetry`, the
    largest over the smallest number in F, shows it. In the paper's form the smallest entry of each
    factor goes to zero and the spread to 1 + 1 / damping; lr / damping is the learning rate of the
    flattest coordinates.

    The released code normalises the diagonals of each mini-batch and averages the results
    (`normalize="observation"`). The paper's equations, as others quote them, normalise the averages
    (`"average"`). The start of the averages then has no influence, and the spread is 1 + 1 /
    damping from the first step on.

    Every matrix product that K-FAC covers has factors: convolutions, embeddings, attention,
    recurrent and shared weights. A normalisation layer has, as in the released code, two numbers H
    = (sum of the squared sums of its input channels, number of channels) for scale and shift, and
    one number S for each channel, the squared sum of its output gradients. The normalisation turns
    H into (0, 1) or (1, 0), so that one of scale and shift has F = damping.

    Differences from the paper: a factor of equal numbers becomes ones (min-max leaves 0 / 0; the
    released form gives zeros). Differences from the released code: `fallback` updates the
    parameters of other layers, where in the released code one unknown layer shifts all layers after
    it and the last layers do not move; the sums for LayerNorm run over all axes but the channels in
    the paper's form (in the released code over all but the second axis).

    Cost: 1 gradient a step; every `statistics_period` steps a square of the layers' inputs and
    output gradients. State: n numbers, and for each layer the lengths of its inputs (with the
    bias's one) and outputs.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        momentum: beta, of the average of the gradient.
        damping: lambda, added to F.
        gamma: the weight of the factors' averages, see above.
        statistics_period: the number of steps between two updates of the factors.
        fisher: `empirical` (the gradients of the training loss, at no cost) or `sampled` (the
            gradients of targets drawn from the model, one more backward pass).
        normalize: `observation` or `average`, see above.
        as_released: average the factors as the authors' code does.
        weight_decay: of AdaFisherW, theta *= 1 - lr weight_decay.
        decoupled: False for AdaFisher's own weight decay, an L2 term in the gradient.
        skip: names, or parts of names, of parameters for the fallback.
        fallback: `adamw` or `sgd`, for parameters without factors.
        fallback_lr: the learning rate of the fallback; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range, or `as_released` with `normalize="average"`.
    """

    rule = "adafisher"
    needs = frozenset({"layers"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.9,
        damping: float = 1e-3,
        gamma: float = 0.8,
        statistics_period: int = 100,
        fisher: str = "empirical",
        normalize: str = "observation",
        as_released: bool = False,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        skip: Sequence[str] = (),
        fallback: str = "adamw",
        fallback_lr: float = 1e-3,
    ) -> None:
        require_range("weight_decay", weight_decay)
        require_range("gamma", gamma, high=1)
        require_choice("fisher", fisher, FISHERS)
        require_choice("normalize", normalize, NORMALISED)
        afterwards = normalize == "average"
        if as_released and afterwards:
            raise ValueError(
                "as_released normalises each observation: take normalize=observation, not "
                f"{normalize!r}"
            )
        self.as_released = as_released
        own = Averages(gamma, 1 - gamma, afterwards=afterwards)
        self.averages = Averages.released(gamma) if as_released else own
        options = {"lr": lr, "momentum": momentum, "damping": damping, "fallback_lr": fallback_lr}
        decays = (
            {"weight_decay": weight_decay, "l2": 0.0}
            if decoupled
            else {"weight_decay": 0.0, "l2": weight_decay}
        )
        super().__init__(
            params,
            options | decays,
            statistics_period=statistics_period,
            inverse_period=statistics_period,
            fisher=fisher,
            statistics_share=1.0,
            shared_weights="expand",
            staggered=False,
            averaging=0.0,
            batch_growth=1.0,
            max_batches=1,
            max_dim=None,
            max_gib=1.0,
            skip=skip,
            fallback=fallback,
        )
        if fisher == "sampled":
            self.needs = type(self).needs | {"sampled"}

    def telemetry(self) -> dict[str, float]:
        """`spread`, the largest over the smallest number in F, beside the common numbers.

        The common numbers are `preconditioned`, `age` and `damping`.
        """
        group_of = {id(p): group for group in self.param_groups for p in group["params"]}
        ready = [block for block in self._blocks or [] if self._ready(block)]
        dampings = [group_of[id(block.parameters[0])]["damping"] for block in ready]
        factors = [self.averages.factors(self.state[block.parameters[0]]) for block in ready]
        return {**super().telemetry(), **({"spread": spread(factors, dampings)} if ready else {})}

    # -- the factors -------------------------------------------------------------------------------

    def _measure(self, seen: Objective) -> Measure:
        return Measure(terms=1, scale=1.0, largest=0)  # diagonals, of the unscaled loss

    def _sums(self, block: Block, passes: list[Captured], measure: Measure) -> Tensors | None:
        return observed(block, passes, measure, self.as_released)

    def _update_statistics(
        self, block: Block, state: dict[str, Any], sums: Tensors, share: float
    ) -> None:
        self.averages.update(block, state, sums)

    def _refresh(self, blocks: Sequence[Block], objective: Objective) -> None:
        """Do nothing: diagonals need no inversion."""

    def _seen(self, block: Block) -> bool:
        return self._ready(block)

    def _ready(self, block: Block) -> bool:
        return "a" in self.state.get(block.parameters[0], {})

    def _direction(
        self, block: Block, state: dict[str, Any], gradient: Tensor, damping: float
    ) -> Tensor:
        return gradient / (entries(*self.averages.factors(state)) + damping)

    # -- the move ----------------------------------------------------------------------------------

    def _move(self, objective: Objective, curvature: Curvature | None) -> None:
        for group in self.param_groups:
            for parameter in group["params"] if group["l2"] else []:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=group["l2"])
        super()._move(objective, curvature)

    def _directions(self, objective: Objective) -> tuple[dict[Tensor, Tensor], float] | None:
        """The directions mhat / F of the parameters that have factors and a gradient."""
        directions: dict[Tensor, Tensor] = {}
        for group, blocks in self._grouped():
            correction = 1 - group["momentum"] ** (group["step"] + 1)
            for block in blocks:
                means = [self._mean_gradient(p, group["momentum"]) for p in block.parameters]
                state = self.state[block.parameters[0]]
                direction = self._direction(
                    block, state, block.matrix(means) / correction, group["damping"]
                )
                directions.update(zip(block.parameters, block.tensors(direction), strict=True))
        return directions, 0.0

    def _changes(
        self,
        objective: Objective,
        directions: dict[Tensor, Tensor],
        predicted: float,
        curvature: Curvature | None,
    ) -> dict[Tensor, Tensor] | None:
        rates = {
            parameter: group["lr"] for group in self.param_groups for parameter in group["params"]
        }
        return {
            parameter: -rates[parameter] * direction for parameter, direction in directions.items()
        }

    def _grouped(self) -> list[tuple[dict[str, Any], list[Block]]]:
        """The groups, each with its blocks that have factors and gradients."""
        pairs: list[tuple[dict[str, Any], list[Block]]] = [
            (group, []) for group in self.param_groups
        ]
        number_of = {
            id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]
        }
        for block in self._blocks or []:
            if self._ready(block) and all(p.grad is not None for p in block.parameters):
                pairs[number_of[id(block.parameters[0])]][1].append(block)
        return pairs

    def _mean_gradient(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "mean_gradient" not in state:
            state["mean_gradient"] = torch.zeros_like(parameter)
        mean: Tensor = state["mean_gradient"]
        assert parameter.grad is not None
        return mean.lerp_(parameter.grad, 1 - momentum)
