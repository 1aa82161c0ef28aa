"""How an objective's evaluations are made: what the objectives of a run share, and one random state for each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from optimizers.known import Known
from optimizers.losses import Family

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
    observer: Observer | None = None
    known: Known | None = None
    counts: Counts = field(default_factory=Counter)


class Moment:
    """The point in a step at which every evaluation is made: one random state, one update of the running statistics."""

    __slots__ = ("device", "device_state", "host_state")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_state: Tensor | None = None
        self.device_state: Tensor | None = None

    @contextmanager
    def replayed(self, norms: Sequence[_NormBase]) -> Iterator[None]:
        """Evaluate again as if for the first time, and leave generators and running statistics as they are."""
        assert self.host_state is not None
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
        return state is not None and self.device_state is not None and not torch.equal(state, self.device_state)

    def begin(self) -> None:
        """Remember the random state from which the first evaluation starts."""
        self.host_state, self.device_state = torch.get_rng_state(), self._device_state()

    def _device_state(self) -> Tensor | None:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def _set(self, host_state: Tensor, device_state: Tensor | None) -> None:
        torch.set_rng_state(host_state)
        if device_state is not None:
            torch.cuda.set_rng_state(device_state, self.device)


@contextmanager
def held_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Layers in training mode normalise by the batch as before, but their running statistics do not move.

    Restoring the buffers afterwards instead would change them in place and so break the kept graph and torch.func.
    """
    tracking = [(n, n.running_mean, n.running_var) for n in norms if n.training and n.track_running_stats]
    for norm, _, _ in tracking:
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    try:
        yield
    finally:
        for norm, mean, variance in tracking:
            norm.track_running_stats, norm.running_mean, norm.running_var = True, mean, variance


@contextmanager
def twice_differentiable(plain_rnn: bool) -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False) if plain_rnn else nullcontext():
        yield


def couples(norm: _NormBase) -> bool:
    """Whether a layer mixes the examples of a batch."""
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)


def weighted_mean(loss_fn: nn.Module) -> bool:
    """Whether a classification loss divides by a sum of weights that depends on the batch's targets."""
    if not isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) or loss_fn.reduction != "mean":
        return False
    return loss_fn.weight is not None or loss_fn.ignore_index != -100
