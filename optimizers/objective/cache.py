"""The loss and the gradient at a point, cached for a step that begins where the last one ended."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Self

import torch
from torch import Tensor


class CachedEvaluation:
    """Loss and gradient of one mini-batch at the present parameters.

    It holds as long as the parameters have not been written since and the same tensors are asked
    about; after a checkpoint, when tensors are new, as long as their content is the same.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        params: Sequence[Tensor],
        loss: Tensor,
        gradient: Tensor,
    ) -> None:
        self.batch: tuple[Tensor, Tensor] | tuple[int, int] = (inputs, targets)
        self.versions = [parameter._version for parameter in params]
        self.loss = loss
        self.gradient = gradient

    def holds(self, inputs: Tensor, targets: Tensor, params: Sequence[Tensor]) -> bool:
        """Whether this is the loss of this mini-batch at these parameters."""
        if any(
            parameter._version != version
            for parameter, version in zip(params, self.versions, strict=True)
        ):
            return False
        if isinstance(self.batch[0], int) and self.batch == (
            _fingerprint(inputs),
            _fingerprint(targets),
        ):
            self.batch = (inputs, targets)
        return self.batch[0] is inputs and self.batch[1] is targets

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that a checkpoint can keep."""
        batch = tuple(part if isinstance(part, int) else _fingerprint(part) for part in self.batch)
        return {"batch": batch, "loss": self.loss, "gradient": self.gradient}

    @classmethod
    def restored(cls, state: dict[str, Any], params: Sequence[Tensor]) -> Self:
        """The inverse of `state_dict`, for parameters that have been restored already."""
        cached = cls(state["loss"], state["gradient"], params, state["loss"], state["gradient"])
        first, second = state["batch"]
        cached.batch = (int(first), int(second))
        return cached


def _fingerprint(tensor: Tensor) -> int:
    """A number that depends on every bit of the content."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 1
