"""The parts that all objectives of a run share: model, loss, processes, options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.linalg.flat import unflatten
from optimizers.objective.cache import CachedEvaluation
from optimizers.objective.jacobian import outputs_at
from optimizers.objective.likelihoods import Family, family_of, require_family
from optimizers.objective.step_state import couples, twice_differentiable

Batch = tuple[Tensor, Tensor]
Counts = Counter[str]
Observer = Callable[[Tensor, Tensor], None]


@dataclass
class Problem:
    """A model with its loss, and how it is evaluated; `Objective` explains the options."""

    model: nn.Module
    loss_fn: nn.Module
    family: Family | None
    names: list[str]
    params: list[nn.Parameter]
    norms: list[_NormBase]
    recurrent: list[nn.RNNBase]
    l2: float
    autocast: bool
    sampler: Callable[[], Batch] | None
    generator: torch.Generator
    ranks: SingleProcess = SINGLE_PROCESS
    parts: int = 1
    clip: float | None = None
    observer: Observer | None = None
    cached: CachedEvaluation | None = None
    counts: Counts = field(default_factory=Counter)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        loss_fn: nn.Module,
        *,
        generator: torch.Generator | None,
        ranks: SingleProcess,
        parts: int,
        **options: Any,
    ) -> Self:
        """The problem of a model's trainable parameters.

        Raises:
            ValueError: the model has no trainable parameter; `parts` is below one.
        """
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(f"{type(model).__name__} has no parameter with requires_grad=True")
        if parts < 1:
            raise ValueError(f"parts must be at least 1, got {parts}")
        params = list(trained.values())
        return cls(
            model=model,
            loss_fn=loss_fn,
            family=family_of(loss_fn),
            names=list(trained),
            params=params,
            norms=[module for module in model.modules() if isinstance(module, _NormBase)],
            recurrent=[module for module in model.modules() if isinstance(module, nn.RNNBase)],
            generator=_generator(params[0].device, ranks) if generator is None else generator,
            ranks=ranks,
            parts=parts,
            **options,
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.params[0].device

    @property
    def size(self) -> int:
        """The number of variables."""
        return sum(parameter.numel() for parameter in self.params)

    @property
    def own_l2(self) -> float:
        """This rank's part of the regulariser's factor."""
        return self.l2 / self.ranks.size

    @property
    def coupled(self) -> bool:
        """Whether a layer mixes the examples of a batch."""
        return any(couples(norm) for norm in self.norms)

    def known_family(self, oracle: str) -> Family:
        """The family of the loss.

        Raises:
            UnsupportedError: the loss has no known family, which the oracle needs.
        """
        return require_family(self.family, self.loss_fn, oracle)

    def regulariser(self, params: Sequence[Tensor]) -> Tensor:
        """This rank's part of l2 / 2 |theta|^2."""
        squares = torch.stack([parameter.square().sum() for parameter in params])
        return self.own_l2 / 2 * squares.sum()

    def params_at(self, step: Tensor | None) -> list[Tensor] | None:
        """The parameters plus a flat step; None without one."""
        if step is None:
            return None
        parts = unflatten(step, self.params)
        return [p.detach() + d for p, d in zip(self.params, parts, strict=True)]

    def outputs(self, inputs: Tensor, params: Sequence[Tensor] | None = None) -> Tensor:
        """The model's outputs, in the type of its parameters; at other parameters if given."""
        run = self.model if params is None else partial(self.outputs_at, params=params)
        if not self.autocast:
            outputs: Tensor = run(inputs)
            return outputs
        with torch.autocast(self.device.type, torch.bfloat16):
            rounded: Tensor = run(inputs)
        return rounded.to(self.params[0].dtype)

    def outputs_at(self, inputs: Tensor, params: Sequence[Tensor]) -> Tensor:
        """The model's outputs with other values of the parameters."""
        values = dict(zip(self.names, params, strict=True))
        outputs = outputs_at(self.model, values, inputs)
        for layer in self.recurrent:  # they hold on to the parameters of their last call
            layer._update_flat_weights()
        return outputs

    def differentiable_kernels(self) -> AbstractContextManager[None]:
        """Attention and recurrent kernels with a second derivative, which the fast ones lack."""
        return twice_differentiable(plain_rnn=bool(self.recurrent) and self.device.type == "cuda")

    def summed(self, *values: Tensor) -> Tensor:
        """The sum of the parts' values, over the ranks."""
        total = values[0] if len(values) == 1 else torch.stack(values).sum(0)
        if self.ranks.size > 1:
            total = total.detach().clone()
            self.ranks.all_reduce_([total])
        return total

    def summed_pair(self, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The sums of the parts' losses and gradients, over the ranks, in one message."""
        if len(pairs) == 1 and self.ranks.size == 1:
            return pairs[0]
        loss, gradient = (torch.stack(values).sum(0) for values in zip(*pairs, strict=True))
        self.ranks.all_reduce_([loss, gradient])
        return loss, gradient


def _generator(device: torch.device, ranks: SingleProcess) -> torch.Generator:
    """A source of random numbers seeded by torch's global generator, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        seed = ranks.broadcast_object(int(torch.randint(2**62, ())))
        return torch.Generator(device).manual_seed(seed)


def weighted_mean(loss_fn: nn.Module) -> bool:
    """Whether a classification loss divides by a sum of weights of the batch's targets."""
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or loss_fn.reduction != "mean":
        return False
    return loss_fn.weight is not None or loss_fn.ignore_index != -100


def share_of(loss_fn: nn.Module, targets: Tensor | None, part: slice, count: int) -> float:
    """The weight of a part's loss in the loss of all `count` examples, which the parts add up to.

    1 for a sum; for a mean what the part's divides by over what the whole one's does. A loss of
    one's own is taken to be a mean over examples unless its `reduction` says sum.
    """
    if getattr(loss_fn, "reduction", "mean") in ("sum", "half_sum"):
        return 1.0
    if targets is None or targets.is_floating_point() or not weighted_mean(loss_fn):
        return float((part.stop - part.start) / count)
    weights = _target_weights(loss_fn, targets)
    return float(weights[part].sum() / weights.sum())


def _target_weights(loss_fn: nn.Module, targets: Tensor) -> Tensor:
    """What each target adds to the divisor of a weighted mean."""
    assert isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss)
    counted = targets != loss_fn.ignore_index
    if loss_fn.weight is None:
        return counted.double()
    return loss_fn.weight[targets.where(counted, 0)] * counted
