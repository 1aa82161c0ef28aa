"""SGD-PH: momentum, for vectors divided by a Hessian's diagonal of one product per step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from optimizers.diagonal.lazy import use_gradient
from optimizers.diagonal.probes import probe
from optimizers.linalg.curvature import Curvature
from optimizers.method import Method, require_range
from optimizers.objective import Objective

ROWS = 2**24  # numbers in the vectors of one batch of products


class SGDPH(Method):
    r"""SGD with a partial Hessian (Sun and Sun, 2024, arXiv 2403.02681).

    Each step serves one of the M tensors with one dimension (scales, shifts, biases), in turn. One
    product with the Hessian gives D = |H_kk 1|, averaged as diag <- decay diag + (1 - decay) D.
    With the heavy-ball momentum b <- momentum b + g,

        theta -= lr (c tau b / (diag + eps) + weight_decay theta),
        c = 1 - decay^(floor(t / M) + 1),

    for all these tensors but the last (the output layer's bias). SGD with momentum and an L2 term
    updates the last one, the matrices and the kernels: theta -= lr b with b <- momentum b + g +
    weight_decay theta.

    H_kk 1 is the diagonal if H_kk is diagonal, which the paper assumes for the scales and shifts of
    batch normalisation. For the bias before a softmax H_kk 1 is zero: hence the exception for the
    last tensor. `exact_block=True` takes the diagonal itself, from the whole block by as many
    products as the tensor is long, batched where autograd allows it. For a tensor longer than
    `max_exact` it takes z o H_kk z of `probes` random signs z. From the block `telemetry` reports
    `off_diagonal`, the norm of all other entries over that of the diagonal, and `ones_error`,
    |H_kk 1 - diagonal| / |diagonal|, each a mean over the last measurements of the tensors longer
    than one. `negative_share` is the share of negative entries in D before the absolute value.

    Cost: 1 gradient and its graph, and 1 product a step (`exact_block`: the tensor's length, or
    `probes`). State: n numbers, and one for each number in a tensor of one dimension.

    Differences from the released code: SGD with momentum trains a network without such tensors (the
    released code divides by zero), and momentum may be 0. The factor c corrects for the average's
    start at zero; as in the released code, it is up to one turn ahead of the average.

    Args:
        params: the parameters, or pairs of name and parameter.
        lr: the learning rate.
        momentum: the weight of the momentum buffer.
        tau: the scale of the preconditioned steps.
        eps: added to the diagonal.
        decay: the decay of the diagonal's average.
        weight_decay: an L2 term for matrices, kernels and the last vector, decoupled for the other
            vectors.
        exact_block: the diagonal of the block, not its product with ones.
        max_exact: the length of a tensor above which `exact_block` takes random signs.
        probes: the number of random signs.
        plain_last: leave the last tensor of one dimension to SGD.
        seed: the seed of the random signs.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    needs = frozenset({"hessian"})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.1,
        momentum: float = 0.9,
        tau: float = 1e-3,
        eps: float = 1e-4,
        decay: float = 0.9,
        weight_decay: float = 0.0,
        exact_block: bool = False,
        max_exact: int = 256,
        probes: int = 10,
        plain_last: bool = True,
        seed: int = 0,
    ) -> None:
        require_range("lr", lr)
        require_range("momentum", momentum, high=1)
        require_range("tau", tau, open_low=True)
        require_range("eps", eps, open_low=True)
        require_range("decay", decay, high=1)
        require_range("weight_decay", weight_decay)
        require_range("max_exact", max_exact, whole=True)
        require_range("probes", probes, low=1, whole=True)
        require_range("seed", seed, whole=True)
        self.tau = tau
        self.eps = eps
        self.decay = decay
        self.exact_block = exact_block
        self.max_exact = max_exact
        self.probes = probes
        self.plain_last = plain_last
        self.seed = seed
        self._curvature_signs: dict[str, float] = {}
        self._blocks: dict[int, tuple[float, float]] = {}
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "step": 0, "draws": 0},
        )

    def telemetry(self) -> dict[str, float]:
        """`negative_share`, and with `exact_block` also `off_diagonal` and `ones_error`."""
        numbers = dict(self._curvature_signs)
        if self._blocks:
            ratios, errors = zip(*self._blocks.values(), strict=True)
            numbers |= {
                "off_diagonal": sum(ratios) / len(ratios),
                "ones_error": sum(errors) / len(errors),
            }
        return {**super().telemetry(), **numbers}

    @torch.no_grad()
    def step(self, objective: Objective) -> Tensor:  # type: ignore[override]
        """Update one tensor's diagonal, move by preconditioned momentum; return the loss before."""
        vectors = [p for p in self.parameters() if p.requires_grad and p.ndim == 1]
        curvature = objective.hessian() if vectors else None
        if curvature is None:
            loss = objective()
        else:
            loss = curvature.loss
            use_gradient(objective, curvature.gradient)
        if not self.finite(loss, objective):
            return loss
        if curvature is not None:
            self._learn(objective, curvature, vectors)
        self._move(vectors)
        return loss

    # -- the diagonal ------------------------------------------------------------------------------

    def _learn(self, objective: Objective, curvature: Curvature, vectors: Sequence[Tensor]) -> None:
        """Update the average of the tensor whose turn it is."""
        for vector in vectors:
            if "diag" not in self.state[vector]:
                self.state[vector]["diag"] = torch.zeros_like(vector)
        turn = self.param_groups[0]["step"] % len(vectors)
        chosen = vectors[turn]
        first = _place(objective.params, chosen)
        place = slice(first, first + chosen.numel())
        if not self.exact_block:
            diagonal = curvature(_ones(curvature.gradient, place))[place]
        elif chosen.numel() <= self.max_exact:
            block = _block(curvature, place)
            diagonal = block.diagonal()
            self._judge(turn, block)
        else:
            diagonal = self._probed(curvature, place)
        if not bool(torch.isfinite(diagonal.norm())):
            self.failures["curvature"] += 1
            return
        self._curvature_signs["negative_share"] = float((diagonal < 0).to(torch.float64).mean())
        self.state[chosen]["diag"].lerp_(diagonal.abs(), 1 - self.decay)

    def _judge(self, turn: int, block: Tensor) -> None:
        """Record the block's distance from its diagonal, and the error of its product with ones."""
        diagonal = block.diagonal()
        size = float(diagonal.norm())
        if len(block) == 1 or size == 0:
            return
        rest = float((block - torch.diag(diagonal)).norm())
        self._blocks[turn] = rest / size, float((block.sum(1) - diagonal).norm()) / size

    def _probed(self, curvature: Curvature, place: slice) -> Tensor:
        """The mean of z o H_kk z over random signs z."""
        group = self.param_groups[0]
        total = torch.zeros_like(curvature.gradient[place])
        for _ in range(self.probes):
            signs = torch.zeros_like(curvature.gradient)
            signs[place] = probe(total, "rademacher", self.seed + group["draws"])
            group["draws"] += 1
            total.addcmul_(signs[place], curvature(signs)[place])
        return total / self.probes

    # -- the move ----------------------------------------------------------------------------------

    def _move(self, vectors: Sequence[Tensor]) -> None:
        """Move all parameters: the vectors preconditioned, the rest by SGD."""
        preconditioned = {id(p) for p in (vectors[:-1] if self.plain_last else vectors)}
        self.param_groups[0]["step"] += 1
        refreshes = self.param_groups[0]["step"] // max(len(vectors), 1) + 1
        scale = (1 - self.decay**refreshes) * self.tau
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            self._move_plain([p for p in used if id(p) not in preconditioned], group)
            self._move_vectors([p for p in used if id(p) in preconditioned], group, scale)

    def _move_plain(self, params: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        buffers = [state.get("momentum_buffer") for state in states]
        gradients = [p.grad for p in params if p.grad is not None]
        sgd(
            params,
            gradients,
            buffers,
            foreach=len(params) > 1,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for state, buffer in zip(states, buffers, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer

    def _move_vectors(self, params: list[Tensor], group: dict[str, Any], scale: float) -> None:
        if not params:
            return
        buffers = [self._buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, [p.grad for p in params if p.grad is not None])
        below = torch._foreach_add([self.state[p]["diag"] for p in params], self.eps)
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(params, buffers, below, value=-group["lr"] * scale)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _place(params: Sequence[Tensor], chosen: Tensor) -> int:
    """The offset of a parameter in the flat vector."""
    offset = 0
    for parameter in params:
        if parameter is chosen:
            return offset
        offset += parameter.numel()
    raise ValueError(
        "SGDPH has a parameter that the objective's model does not train; pass the model's own "
        "parameters"
    )


def _ones(like: Tensor, place: slice) -> Tensor:
    vector = torch.zeros_like(like)
    vector[place] = 1
    return vector


def _block(curvature: Curvature, place: slice) -> Tensor:
    """The symmetrised block (size, size) of the Hessian, a few rows at a time to limit memory."""
    size, length = place.stop - place.start, curvature.gradient.numel()
    rows = []
    for part in torch.arange(place.start, place.stop, device=curvature.gradient.device).split(
        max(1, ROWS // length)
    ):
        vectors = curvature.gradient.new_zeros(len(part), length)
        vectors[torch.arange(len(part), device=part.device), part] = 1
        rows.append(curvature.rows(vectors)[:, place])
    block = torch.cat(rows)
    assert block.shape == (size, size)
    return (block + block.T) / 2
