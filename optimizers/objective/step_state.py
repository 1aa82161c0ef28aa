"""The state in which all evaluations of a step are made: random numbers, running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

_FIRST = nullcontext()


class RandomState:
    """The random state of a step, taken at the first evaluation and replayed at the others."""

    __slots__ = ("device", "device_state", "host_state")

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host_state: Tensor | None = None
        self.device_state: Tensor | None = None

    def evaluation(self, norms: Sequence[_NormBase]) -> AbstractContextManager[None]:
        """One evaluation, of all parts of the mini-batch in their order.

        The first one draws its random numbers and moves the running statistics; the others repeat
        it, and leave generators and statistics as they are.
        """
        if self.host_state is None:  # most steps have no other, so that it is to cost little
            self.host_state = torch.default_generator.get_state()
            self.device_state = self._device_state()
            return _FIRST
        return self._repeated(norms)

    @contextmanager
    def _repeated(self, norms: Sequence[_NormBase]) -> Iterator[None]:
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
        """Whether random numbers have been drawn since the first evaluation began."""
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
    """Layers normalise by the batch as before, but their running statistics do not move.

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
    """Kernels with a second derivative; `plain_rnn` turns off cuDNN, whose RNNs have none."""
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False) if plain_rnn else nullcontext(),
    ):
        yield


def couples(norm: _NormBase) -> bool:
    """Whether a layer mixes the examples of a batch."""
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)
