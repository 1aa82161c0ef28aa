"""DeepOBS's noisy quadratic: a bowl with ten steep directions of a hundred, and noisy examples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.checks import require_at_least, require_positive
from tasks.losses import MSEPerExample
from tasks.task import Batch, DataTask

SMALL, LARGE = 90, 10
SEED_OFFSETS = {"train": 0, "test": 1, "val": 2}


class NoisyQuadratic(DataTask):
    """A quadratic with a deep network's spectrum and a different minimum for every example.

        f(theta) = (1/N) sum_n 1/2 (theta - z_n)^T H (theta - z_n) = (1/N) sum_n |r_n(theta)|^2,
        z_n ~ N(0, noise^2 I),
        H = Q^T diag(s) Q,   r_n = diag(s)^(1/2) Q (theta - z_n) / sqrt(2)

    in 100 dimensions: 90 eigenvalues uniform in (0, 1), 10 uniform in (30, 60), Q a random
    rotation. The start is (1, ..., 1), plus `spread` times a standard normal draw of the model's
    seed. Inputs are the z_n, `(N, 100)`, targets zeros, and the outputs the residuals, so that the
    Gauss-Newton matrix is the Hessian, H, for every batch; float64.

    Training, validation and test set are separate draws of `examples` each, the latter two cut to
    whole batches. The metric `gap` is the noiseless `1/2 theta^T H theta` for every split: the
    expected loss of a new example above its minimum. `loss` is the split's mean, DeepOBS's own
    measure: the gap plus about the noise floor, `noise^2/2 tr H` (the attribute `floor`, 85.97
    here), so never near zero. The minimiser over B examples, the mean of their z, has itself an
    expected gap of `floor / B`: 0.67 after a full Newton step on a batch of 128, 0.086 at the
    minimum of the training loss (0.066 in DeepOBS's instance). A smaller gap is luck.

    The default is DeepOBS's TensorFlow instance in double precision: spectrum, rotation and data
    come from numpy's generator with the seeds 42 (training), 43 (test) and 44 (validation), and
    incomplete batches are dropped. With `reshuffle: false` every epoch has the same order, drawn
    once per seed, as in DeepOBS's runner in TensorFlow 1, which initialises the iterator again
    under a fixed seed. The noise is then the same in every epoch instead of a random walk, and
    heavy momentum averages it out: momentum 0.99 at lr 0.001 ends 100 epochs at a gap near 0.16,
    against 0.7 with a new order in every epoch.

    Schneider, Balles and Hennig, "DeepOBS: A deep learning optimizer benchmark suite", 2019,
    `quadratic_deep`; the spectrum follows Chaudhari et al., 2016 (arXiv 1611.01838).

    Args:
        noise: the standard deviation of a component of z; 0 is a deterministic function.
        examples: the number of z in each split.
        batch_size: examples in a training batch; None is the full batch.
        reshuffle: whether every epoch has an order of its own.
        spread: the distance between the starts of different seeds; 0 is DeepOBS's start for every
            seed.
        problem_seed: the seed of quadratic and data; 42 is DeepOBS's.

    Raises:
        ValueError: an argument is out of its range.
    """

    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example"})
    metric = "gap"
    direction = "min"
    dtype = torch.float64

    def __init__(
        self,
        noise: float = 0.6,
        examples: int = 1000,
        batch_size: int | None = 128,
        reshuffle: bool = True,
        spread: float = 0.0,
        problem_seed: int = 42,
        steps: int = 700,
        eval_every: int = 7,
        target: float | None = 0.5,
    ) -> None:
        require_at_least(0, noise=noise, spread=spread, problem_seed=problem_seed)
        require_positive(examples=examples)
        self.reshuffle = reshuffle
        self.spread = spread
        self.eigenvalues, rotation = _spectrum(problem_seed)
        self.root = self.eigenvalues.sqrt()[:, None] * rotation / math.sqrt(2)
        self.floor = noise**2 / 2 * float(self.eigenvalues.sum())
        self.splits = {
            split: _examples(problem_seed + offset, examples, noise)
            for split, offset in SEED_OFFSETS.items()
        }
        self.loss_fn = MSEPerExample()
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)
        self._drop_incomplete("val", "test")

    @property
    def hessian(self) -> Tensor:
        """The Hessian H, `(100, 100)`."""
        hessian: Tensor = 2 * self.root.T @ self.root
        return hessian

    def gap(self, theta: Tensor) -> float:
        """The expected loss of a new example at `theta`, `(100,)`, above its minimum."""
        return float((self.root @ theta.detach().cpu().double()).square().sum())

    def build(self) -> nn.Module:
        """The residuals' model at the start, spread by a normal draw."""
        start = torch.ones(SMALL + LARGE, dtype=torch.float64)
        return NoisyQuadraticResiduals(start + self.spread * torch.randn_like(start), self.root)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The squared residuals of each example, `loss` `(N,)`."""
        return {"loss": (outputs - targets).square().sum(1)}

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The noiseless `gap`, and the split's `loss`."""
        (theta,) = model.parameters()
        return {"gap": self.gap(theta)} | super().evaluate(model, split)

    def _mini_batches(self, seed: int, start: int) -> Iterator[Batch]:
        if self.reshuffle:
            yield from super()._mini_batches(seed, start)
        epoch = list(islice(super()._mini_batches(seed, 0), int(self.steps_per_epoch)))
        for step in count(start):
            yield epoch[step % len(epoch)]

    def _drop_incomplete(self, *splits: str) -> None:
        for split in splits:
            whole = self.size(split) // self.batch_size * self.batch_size
            inputs, targets = self.splits[split]
            self.splits[split] = inputs[:whole], targets[:whole]


class NoisyQuadraticResiduals(nn.Module):
    """The point `theta`, `(n,)`, and its residuals for each example, `(N, n)` to `(N, n)`."""

    root: Tensor

    def __init__(self, start: Tensor, root: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start)
        self.register_buffer("root", root, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """The residuals `(N, n)` for examples z `(N, n)`."""
        return (self.theta - inputs) @ self.root.T


def _spectrum(seed: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues, `(n,)`, and the rotation, `(n, n)`, from one generator in this order."""
    random = np.random.RandomState(seed)
    eigenvalues = np.concatenate([random.uniform(0, 1, SMALL), random.uniform(30, 60, LARGE)])
    return torch.from_numpy(eigenvalues), torch.from_numpy(_rotation(random, len(eigenvalues)))


def _rotation(random: np.random.RandomState, dimension: int) -> NDArray[np.float64]:
    """A rotation from the Haar measure, by Diaconis and Shahshahani's subgroup algorithm (1987).

    Each step extends a rotation of d dimensions to d + 1: it fixes the first axis, then reflects
    that axis onto a random direction. The published code gives -R instead of R, with the same H.
    """
    angle = 2 * math.pi * random.uniform()
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for size in range(3, dimension + 1):
        direction = random.normal(size=size)
        normal = -direction / np.linalg.norm(direction)
        normal[0] += 1
        normal /= np.linalg.norm(normal)
        embedded = np.eye(size)
        embedded[1:, 1:] = rotation
        rotation = embedded - 2 * np.outer(normal, normal @ embedded)
    return rotation


def _examples(seed: int, count: int, noise: float) -> Batch:
    """The z of a split, `(count, n)`, and its targets, zeros of the same shape."""
    random = np.random.RandomState(seed)
    z = torch.from_numpy(random.normal(0, noise, (count, SMALL + LARGE)))
    return z, torch.zeros_like(z)
