"""How an objective's evaluations are made.

What the objectives of a run share, and one random state for each step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from optimizers.distributed import SINGLE_PROCESS, SingleProcess
from optimizers.objective.cache import Known
from optimizers.objective.likelihoods import Family

Batch = tuple[Tensor, Tensor]
Counts = Counter[str]
Observer = Callable[[Tensor, Tensor], None]


@dataclass
class Problem:
    """What the objectives of one run have in common."""

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
    known: Known | None = None
    counts: Counts = field(default_factory=Counter)


class Moment:
    """The point in a step at which every evaluation is made.

    One random state, one update of the running statistics.
    """

    __slots__ = ("device", "device_state", "host_state")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_state: Tensor | None = None
        self.device_state: Tensor | None = None

    @contextmanager
    def evaluation(self, norms: Sequence[_NormBase]) -> Iterator[None]:
        """One evaluation, of all parts of the mini-batch in their order.

        The first one draws its random numbers and moves the running statistics; the others repeat
        it, and leave generators and statistics as they are.
        """
        if self.host_state is None:
            self.host_state, self.device_state = torch.get_rng_state(), self._device_state()
            yield
            return
        host_state, device_state = torch.get_rng_state(), self._device_state()
        self._set(self.host_state, self.device_state)
        try:
            with held_statistics(norms):
                yield
        finally:
            self._set(host_state, device_state)

    @property
    def random(self) -> bool:
        """Whether random numbers have been drawn since the moment began."""
        if self.host_state is None or not torch.equal(self.host_state, torch.get_rng_state()):
            return True
        state = self._device_state()
        return (
            state is not None
            and self.device_state is not None
            and not torch.equal(state, self.device_state)
        )

    def _device_state(self) -> Tensor | None:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def _set(self, host_state: Tensor, device_state: Tensor | None) -> None:
        torch.set_rng_state(host_state)
        if device_state is not None:
            torch.cuda.set_rng_state(device_state, self.device)


@contextmanager
def held_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Layers in training mode normalise by the batch as before, but their running statistics do not move.

    Restoring the buffers afterwards instead would change them in place and so break the kept graph
    and torch.func.
    """
    tracking = [
        (n, n.running_mean, n.running_var) for n in norms if n.training and n.track_running_stats
    ]
    for norm, _, _ in tracking:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, mean, variance in tracking:
            norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, variance


@contextmanager
def twice_differentiable(plain_rnn: bool) -> Iterator[None]:
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False) if plain_rnn else nullcontext(),
    ):
        yield


def couples(norm: _NormBase) -> bool:
    """Whether a layer mixes the examples of a batch."""
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)


def weighted_mean(loss_fn: nn.Module) -> bool:
    """Whether a classification loss divides by a sum of weights that depends on the batch's targets."""
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or loss_fn.reduction != "mean":
        return False
    return loss_fn.weight is not None or loss_fn.ignore_index != -100


def share_of(loss_fn: nn.Module, targets: Tensor | None, part: slice, count: int) -> float:
    """The weight of a part's own loss in that of the `count` examples, so that the weighted parts add up to it.

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
