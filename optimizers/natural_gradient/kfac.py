"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from optimizers.capture import Captured
from optimizers.fallback import FALLBACKS
from optimizers.linalg.kronecker import (
    KroneckerLayer,
    damped_inverses,
    gradient_factor,
    has_trained_bias,
    input_factor,
    split_matrix,
    supports,
    weight_gradient,
)
from optimizers.method import Method, require_choice, require_range
from optimizers.objective import Objective

FISHERS = ("sampled", "exact", "empirical")


class KFAC(Method):
    r"""Kronecker-factored approximate curvature (Martens and Grosse, 2015, arXiv 1503.05671).

    Each Linear or Conv2d layer's block of the Fisher matrix is approximated by A (x) G, A = E[abar abar'] of its inputs
    and G = E[g g'] of its output gradients under targets drawn from the model (convolutions as in Grosse and Martens,
    2016, arXiv 1602.01407). The gradient W' of a layer becomes U = (G + damping_G I)^{-1} W' (A + damping_A I)^{-1}
    with factored Tikhonov damping, is shortened so that the predicted change of the model stays below `kl_clip`
    (nu = min(1, sqrt(kl_clip / (lr^2 sum U.W')))), and goes through heavy-ball momentum:
    b = momentum b + nu U, theta -= lr b.

    Factors are exponential averages, updated every `statistics_period` steps by one more forward and backward pass on
    sampled targets; their inverses are refreshed every `inverse_period` steps. A regulariser in the loss adds its
    curvature to the damping. Parameters without a factorisation (normalisation, embeddings, recurrent weights, weights
    shared between layers) are updated by `fallback`; `layer_coverage()` lists both.

    Cost: 1 gradient a step, 1 more and (in^2 + out^2) positions a statistics update, in^3 + out^3 an inverse.
    State per layer: 2 (in^2 + out^2) + in out floats.

    Differences from the paper: a fixed learning rate with a KL clip instead of the exact quadratic model, a fixed
    damping.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        momentum: of the preconditioned gradient.
        damping: lambda, for a loss that is summed over outputs and averaged over examples.
        kl_clip: the largest predicted change of the loss's quadratic form in a step; None for no clip.
        decay: of the factors' exponential averages, at most (the average is plain in the first steps).
        statistics_period, inverse_period: the number of steps between two updates of factors and of inverses.
        fisher: `sampled` (the true Fisher by one drawn target), `exact` (summed over all outputs) or `empirical`.
        weight_decay: decoupled, theta *= 1 - lr weight_decay.
        fallback: `adamw` or `sgd`, for parameters that cannot be preconditioned.
        fallback_lr: its learning rate; a schedule scales it with `lr`.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"layers", "sampled"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        damping: float = 0.03,
        kl_clip: float | None = 1e-3,
        decay: float = 0.95,
        statistics_period: int = 5,
        inverse_period: int = 20,
        fisher: str = "sampled",
        weight_decay: float = 0.0,
        fallback: str = "adamw",
        fallback_lr: float = 1e-3,
    ) -> None:
        require_range("lr", lr)
        require_range("momentum", momentum, high=1)
        require_range("damping", damping, open_low=True)
        if kl_clip is not None:
            require_range("kl_clip", kl_clip, open_low=True)
        require_range("decay", decay, high=1)
        require_range("statistics_period", statistics_period, low=1, whole=True)
        require_range("inverse_period", inverse_period, low=1, whole=True)
        require_range("weight_decay", weight_decay)
        require_range("fallback_lr", fallback_lr)
        require_choice("fisher", fisher, FISHERS)
        require_choice("fallback", fallback, FALLBACKS)
        self.decay = decay
        self.statistics_period = statistics_period
        self.inverse_period = inverse_period
        self.fisher = fisher
        self.fallback = fallback
        self.failures: Counter[str] = Counter()
        self._preconditioned: list[KroneckerLayer] | None = None
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "damping": damping,
                "kl_clip": kl_clip,
                "weight_decay": weight_decay,
                "fallback_lr": fallback_lr,
                "step": 0,
            },
        )
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        step = self.param_groups[0]["step"]
        refresh = step % self.statistics_period == 0
        if refresh and self.fisher != "empirical":
            self._observe(*self._fisher_objectives(objective))
        if refresh and self.fisher == "empirical":
            with objective.capture() as captured:
                loss = objective()
            self._average(objective, [captured])
        else:
            loss = objective()
        if not self.finite(loss, objective):
            return loss
        if step % self.inverse_period == 0:
            self._invert(objective)
        self._update(objective)
        for group in self.param_groups:
            group["step"] += 1
        return loss

    def layer_coverage(self) -> dict[str, str]:
        """The rule that updates each named parameter: `kfac` or the fallback's name; known after the first step."""
        covered = {id(part) for layer in self._preconditioned or [] for part in _variables(layer)}
        return {
            name: "kfac" if id(parameter) in covered else self.fallback
            for name, parameter in zip(self.names(), self.parameters(), strict=True)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._preconditioned = None

    # -- curvature -----------------------------------------------------------------------------------------------------

    def _fisher_objectives(self, objective: Objective) -> Iterable[Objective]:
        return [objective.sampled()] if self.fisher == "sampled" else objective.fisher_roots()

    def _observe(self, *targets: Objective) -> None:
        passes = []
        for target in targets:
            with target.capture() as captured:
                target()
            passes.append(captured)
        self._average(targets[0], passes)

    def _average(self, seen: Objective, passes: list[Captured]) -> None:
        """Fold one batch into the factors: inputs from the first pass, output gradients summed over the passes."""
        shared = _shared_parameters(seen.model)
        group_of = {id(parameter): id(group) for group in self.param_groups for parameter in group["params"]}
        terms, scale = seen.terms, seen.scale
        for module, record in passes[0].items():
            if not supports(module):
                continue
            layer = cast(KroneckerLayer, module)
            parts = _variables(layer)
            groups = {group_of.get(id(part)) for part in parts}
            uses = record.uses()
            if not uses or None in groups or len(groups) > 1 or any(id(part) in shared for part in parts):
                continue
            gradients = [gradient for captured in passes for _, gradient in captured[module].uses()]
            a = torch.stack([input_factor(layer, value, terms) for value, _ in uses]).sum(0)
            g = torch.stack([gradient_factor(layer, gradient, terms, scale) for gradient in gradients]).sum(0)
            self._fold(self.state[layer.weight], a, g / len(uses))

    def _fold(self, state: dict[str, Any], a: Tensor, g: Tensor) -> None:
        if not bool(torch.isfinite(a).all() and torch.isfinite(g).all()):
            self.failures["statistics"] += 1
            return
        state["updates"] = state.get("updates", 0) + 1
        keep = min(1 - 1 / state["updates"], self.decay)
        for name, new in (("a", a), ("g", g)):
            state[name] = new if name not in state else state[name].mul_(keep).add_(new, alpha=1 - keep)

    def _invert(self, objective: Objective) -> None:
        """Refresh the inverses; a factor that cannot be inverted keeps its last good inverse, and is counted."""
        self._preconditioned = None
        regulariser = objective.l2 / objective.scale
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "a" not in state:
                    continue
                inverses = damped_inverses(state["a"], state["g"], group["damping"] + regulariser)
                if inverses is None:
                    self.failures["inverse"] += 1
                else:
                    state["a_inverse"], state["g_inverse"] = inverses

    # -- the step ------------------------------------------------------------------------------------------------------

    def _layers(self, objective: Objective) -> list[KroneckerLayer]:
        """The layers whose inverses are known."""
        if self._preconditioned is None:
            self._preconditioned = [
                cast(KroneckerLayer, module)
                for module in objective.model.modules()
                if supports(module) and "a_inverse" in self.state.get(cast(Tensor, module.weight), {})
            ]
        return self._preconditioned

    def _update(self, objective: Objective) -> None:
        layers = self._layers(objective)
        groups = {id(parameter): group for group in self.param_groups for parameter in group["params"]}
        directions: dict[Tensor, Tensor] = {}
        scale = objective.scale
        predicted = torch.zeros((), device=objective.params[0].device)
        for layer in layers:
            if layer.weight.grad is None:
                continue
            gradient = weight_gradient(layer) / scale
            state = self.state[layer.weight]
            direction = state["g_inverse"] @ gradient @ state["a_inverse"]
            predicted = predicted + groups[id(layer.weight)]["lr"] ** 2 * (direction * gradient).sum()
            directions.update(zip(_variables(layer), split_matrix(layer, direction), strict=True))
        if not bool(torch.isfinite(predicted)):
            self.failures["step"] += 1
            return
        for group in self.param_groups:
            shrink = _clip(group["kl_clip"], float(predicted))
            for parameter in group["params"]:
                if parameter in directions:
                    self._heavy_ball(parameter, directions[parameter], group, shrink)
                elif parameter.grad is not None:
                    self._fall_back(parameter, group)

    def _heavy_ball(self, parameter: nn.Parameter, direction: Tensor, group: dict[str, Any], shrink: float) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        state["momentum_buffer"].mul_(group["momentum"]).add_(direction, alpha=shrink)
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])

    def _fall_back(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        schedule = group["lr"] / group["initial_lr"] if group["initial_lr"] else 1.0
        options = {**group, "lr": group["fallback_lr"] * schedule}
        FALLBACKS[self.fallback](parameter, parameter.grad, self.state[parameter], options)


def _clip(kl_clip: float | None, predicted: float) -> float:
    return 1.0 if kl_clip is None or predicted <= kl_clip else (kl_clip / predicted) ** 0.5


def _variables(layer: KroneckerLayer) -> list[Tensor]:
    """The parameters that a layer's matrix is made of: the weight, and a bias that is trained."""
    return [layer.weight, cast(Tensor, layer.bias)] if has_trained_bias(layer) else [layer.weight]


def _shared_parameters(model: nn.Module) -> set[int]:
    """Parameters that more than one module owns: their gradient is not one layer's."""
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return {parameter for parameter, count in owners.items() if count > 1}
