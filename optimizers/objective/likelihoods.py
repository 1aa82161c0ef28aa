"""The predictive distribution of a loss, its curvature and its scale.

A loss is seen as `scale` times a canonical loss: the sum over outputs and the mean over examples of
a negative log-likelihood. Curvature methods define their damping for the canonical loss, so that it
means the same whatever the reduction, the number of outputs and the batch size are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from optimizers.errors import UnsupportedError


class Family(ABC):
    """The predictive distribution whose negative log-likelihood is the loss, up to `scale`."""

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction

    @abstractmethod
    def terms(self, outputs: Tensor) -> int:
        """The number of log-likelihood terms M over which the canonical loss is a mean."""

    @abstractmethod
    def scale(self, outputs: Tensor) -> float:
        """The factor between the loss as it is computed and the canonical one."""

    def noise(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """The random numbers that `sample` turns into targets, independent from example to example.

        Of `outputs` only shape, type and device matter: a process that sees some of the examples
        draws for all of them and takes its rows, and so its targets are those of one process alone.
        """
        return torch.rand(
            outputs.shape, generator=generator, device=outputs.device, dtype=_exact(outputs)
        )

    @abstractmethod
    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Targets from the distribution with these parameters, any where they are not finite."""

    @abstractmethod
    def roots(self, outputs: Tensor) -> Iterator[Tensor]:
        """Tensors s_c like the outputs with sum_c s_c s_c' = the Hessian of each canonical term."""


class _Elementwise(Family):
    """Independent outputs: the sum over all axes but the first is an example's loss."""

    def terms(self, outputs: Tensor) -> int:
        """An example is a term."""
        return len(outputs)

    def scale(self, outputs: Tensor) -> float:
        """1 for a mean over examples, N for a sum, 1 / (outputs of an example) for a mean."""
        count = float(len(outputs))
        scales = {
            "sum": count,
            "half_sum": count / 2,
            "mean": count / outputs.numel(),
            "example_mean": 1.0,
        }
        return scales[self.reduction]

    def roots(self, outputs: Tensor) -> Iterator[Tensor]:
        """One per output of an example: the square root of its second derivative."""
        deviation = self.hessian_diagonal(outputs).sqrt().reshape(len(outputs), -1)
        for column in range(deviation.shape[1]):
            root = torch.zeros_like(deviation)
            root[:, column] = deviation[:, column]
            yield root.view_as(outputs)

    @abstractmethod
    def hessian_diagonal(self, outputs: Tensor) -> Tensor:
        """Second derivative of the canonical term by each output."""


class Gaussian(_Elementwise):
    """Squared error |z - t|^2 of `nn.MSELoss`: a Gaussian with variance 1/2."""

    def noise(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal numbers, one per output."""
        return torch.randn(
            outputs.shape, generator=generator, device=outputs.device, dtype=_exact(outputs)
        )

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The outputs plus noise / sqrt(2)."""
        return outputs + math.sqrt(0.5) * noise.to(outputs.dtype)

    def hessian_diagonal(self, outputs: Tensor) -> Tensor:
        """2 for every output."""
        return torch.full_like(outputs, 2.0)

    def residual_weight(self, outputs: Tensor) -> float:
        """The w in loss = w * sum of squared errors."""
        return self.scale(outputs) / len(outputs)


class Bernoulli(_Elementwise):
    """Binary cross-entropy with logits z (`nn.BCEWithLogitsLoss`)."""

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """1 with the probability sigmoid(z), else 0."""
        probability = outputs.to(noise.dtype).sigmoid().nan_to_num(0.5)
        return (noise < probability).to(outputs.dtype)

    def hessian_diagonal(self, outputs: Tensor) -> Tensor:
        """The variance p (1 - p), p = sigmoid(z)."""
        probability = outputs.sigmoid()
        return probability * (1 - probability)


class Categorical(Family):
    """Softmax cross-entropy (`nn.CrossEntropyLoss`).

    Classes along dimension 1, every position is a term.
    """

    def terms(self, outputs: Tensor) -> int:
        """Every position of every example is a term."""
        return outputs.numel() // outputs.shape[1]

    def scale(self, outputs: Tensor) -> float:
        """1 for a mean over terms, their number for a sum."""
        return {"sum": float(self.terms(outputs)), "mean": 1.0}[self.reduction]

    def noise(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform numbers, one per term."""
        return super().noise(outputs.select(1, 0), generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The class c with p_1 + ... + p_{c-1} <= u < p_1 + ... + p_c, u the noise scaled."""
        cumulative = outputs.movedim(1, -1).to(noise.dtype).softmax(-1).nan_to_num(1.0).cumsum(-1)
        total = cumulative[..., -1]
        # the product may be rounded up to the total, above which there is no class
        level = torch.minimum(noise * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(cumulative, level[..., None], right=True)[..., 0]

    def roots(self, outputs: Tensor) -> Iterator[Tensor]:
        """One per class, the columns of diag(sqrt p) - p sqrt(p)'."""
        # diag(p) - p p' = B B' with B = diag(sqrt p) - p sqrt(p)', whose columns are the roots
        probability = outputs.softmax(1)
        for column in range(outputs.shape[1]):
            deviation = probability[:, column : column + 1].sqrt()
            root = -probability * deviation
            root[:, column : column + 1] += deviation
            yield root


def _exact(outputs: Tensor) -> torch.dtype:
    """The type in which probabilities are compared with noise."""
    return torch.promote_types(outputs.dtype, torch.float32)


def family_of(loss_fn: nn.Module) -> Family | None:
    """The family of a standard torch loss, or None for a loss that is not known.

    A loss of one's own is known when it derives from the torch loss it generalises and its
    `reduction` is `mean`, `sum`, `half_sum` or `example_mean` (summed over outputs, averaged over
    examples). Class weights, label smoothing, `pos_weight` and ignored targets make it another
    distribution, hence unknown.
    """
    reduction = getattr(loss_fn, "reduction", "none")
    if isinstance(loss_fn, nn.CrossEntropyLoss) and reduction in ("mean", "sum"):
        plain = (
            loss_fn.weight is None and loss_fn.label_smoothing == 0 and loss_fn.ignore_index == -100
        )
        return Categorical(reduction) if plain else None
    if reduction not in ("mean", "sum", "half_sum", "example_mean"):
        return None
    if isinstance(loss_fn, nn.BCEWithLogitsLoss):
        return (
            Bernoulli(reduction) if loss_fn.weight is None and loss_fn.pos_weight is None else None
        )
    return Gaussian(reduction) if isinstance(loss_fn, nn.MSELoss) else None


def require_family(family: Family | None, loss_fn: nn.Module, wanted: str) -> Family:
    """The family, or a refusal that says what was wanted of which loss."""
    if family is None:
        raise UnsupportedError(
            f"{wanted} needs a loss with a known predictive distribution (CrossEntropyLoss, "
            f"BCEWithLogitsLoss or MSELoss without weights), got {type(loss_fn).__name__}"
        )
    return family
