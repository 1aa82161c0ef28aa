"""Matrix factorisation: a low-rank matrix from some of its entries."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_positive
from tasks.losses import MSEPerExample
from tasks.task import Batch, DataTask


class MatrixFactorisation(DataTask):
    """Complete a matrix of low rank as a product of two thin factors.

        f(U, V) = (1/N) sum_(i,j) observed (u_i^T v_j - Y_ij)^2,   U (m, k), V (n, k),
        Y = M + noise,   M = sqrt(m n) A diag(s) B^T,   A^T A = B^T B = I,
        s_r evenly spaced from 1 down to 1 / condition

    so that an entry of M is of order one. Inputs are index pairs, `(N, 2)` int64, targets entries,
    `(N,)`, outputs the predictions, `(N,)`; float64. Unobserved entries are held out without noise,
    half for validation, half for test. The metric `error` is the relative error on the split's
    entries, `|U V^T - M| / |M|` (Frobenius). With `observed: 1` validation and test are the whole
    of M. The minimum is then known: the k largest singular triplets of Y, where the loss is the sum
    of the other squared singular values over m n (Eckart and Young, 1936).

    Difficulties for a method:

    - (U G, V G^-T) has the same product for every invertible G: at a minimum with factors of full
      rank, k^2 directions have no curvature, and undamped Newton has no unique step;
    - (0, 0) is a saddle point, with zero gradient and an indefinite Hessian, and the start, of
      scale `init`, lies near it;
    - gradient descent needs a number of steps proportional to `condition`; preconditioned by (V^T
      V)^-1 and (U^T U)^-1 it does not (Tong, Ma and Chi, 2021, "ScaledGD").

    With enough entries of an incoherent matrix, and a bound on the rows, no local minimum is
    spurious (Ge, Lee and Ma, 2016). With `rank` above `true_rank` several matrices may fit the
    observed entries equally well: the error then measures a method's choice among them, too. The
    parametrisation is Burer and Monteiro's, 2003.

    Args:
        rows: m.
        columns: n.
        rank: k, the columns of the factors.
        true_rank: the rank of M.
        condition: the largest over the smallest nonzero singular value of M, at least 1.
        noise: the standard deviation of the noise on observed entries.
        observed: the fraction of observed entries, above 0 up to 1.
        init: the standard deviation of the factors' entries at the start, drawn by the model's
            seed.
        batch_size: entries in a batch; None is all observed ones.
        problem_seed: the seed of matrix, noise and observed entries.

    Raises:
        ValueError: an argument is out of its range, or too few entries remain for training or for
            the held-out splits.
    """

    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example"})
    metric = "error"
    direction = "min"
    dtype = torch.float64
    evaluation_batch = 100_000

    def __init__(
        self,
        rows: int = 60,
        columns: int = 40,
        rank: int = 5,
        true_rank: int = 5,
        condition: float = 30.0,
        noise: float = 0.0,
        observed: float = 0.5,
        init: float = 0.1,
        batch_size: int | None = None,
        problem_seed: int = 0,
        steps: int = 2000,
        eval_every: int = 20,
        target: float | None = 1e-4,
    ) -> None:
        require_positive(
            rows=rows, columns=columns, rank=rank, true_rank=true_rank, observed=observed, init=init
        )
        require_at_least(1, condition=condition)
        require_at_least(0, noise=noise)
        _require_at_most(min(rows, columns), rank=rank, true_rank=true_rank)
        _require_at_most(1, observed=observed)
        self.shape, self.rank, self.init = (rows, columns), rank, init
        generator = torch.Generator().manual_seed(problem_seed)
        self.matrix = _low_rank(rows, columns, _singular_values(true_rank, condition), generator)
        self.splits = _observe(self.matrix, noise, observed, generator)
        self.loss_fn = MSEPerExample()
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The factors with normal entries of deviation `init`."""
        left, right = (
            self.init * torch.randn(size, self.rank, dtype=torch.float64) for size in self.shape
        )
        return Factors(left, right)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The squared error of each entry, `loss` `(N,)`."""
        return {"loss": (outputs - targets).square()}

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The relative `error` and the `loss` on the split's entries."""
        metrics = super().evaluate(model, split)
        scale = float(self.splits[split][1].double().square().mean())
        return {"error": math.sqrt(metrics["loss"] / scale)} | metrics


class Factors(nn.Module):
    """The factors `left` `(m, k)` and `right` `(n, k)`, and entries of their product."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        super().__init__()
        self.left = nn.Parameter(left)
        self.right = nn.Parameter(right)

    def forward(self, inputs: Tensor) -> Tensor:
        """The entries `(N,)` of the product at index pairs `(N, 2)`."""
        return (self.left[inputs[:, 0]] * self.right[inputs[:, 1]]).sum(1)


def _singular_values(count: int, condition: float) -> Tensor:
    return torch.linspace(1, 1 / condition, count, dtype=torch.float64)


def _low_rank(rows: int, columns: int, singular: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix with these singular values times `sqrt(rows columns)`, in random directions."""
    left, right = (
        torch.linalg.qr(
            torch.randn(size, len(singular), generator=generator, dtype=torch.float64)
        ).Q
        for size in (rows, columns)
    )
    matrix: Tensor = math.sqrt(rows * columns) * (left * singular) @ right.T
    return matrix


def _observe(
    matrix: Tensor, noise: float, observed: float, generator: torch.Generator
) -> dict[str, Batch]:
    """The noisy observed entries, and the exact ones for validation and test."""
    pairs = torch.cartesian_prod(torch.arange(len(matrix)), torch.arange(matrix.shape[1]))
    exact = matrix.flatten()
    noisy = exact + noise * torch.randn(exact.shape, generator=generator, dtype=exact.dtype)
    order = torch.randperm(len(pairs), generator=generator)
    seen = round(observed * len(pairs))
    if seen == len(pairs):
        return {"train": (pairs, noisy), "val": (pairs, exact), "test": (pairs, exact)}
    half = (len(pairs) - seen) // 2
    if seen == 0 or half == 0:
        raise ValueError(
            f"observed must leave entries to train on and to hold out, got {observed} of "
            f"{len(pairs)}"
        )
    train, val, test = order[:seen].sort().values, order[seen : seen + half], order[seen + half :]
    return {
        "train": (pairs[train], noisy[train]),
        "val": (pairs[val], exact[val]),
        "test": (pairs[test], exact[test]),
    }


def _require_at_most(most: float, **values: float) -> None:
    for name, value in values.items():
        if value > most:
            raise ValueError(f"{name} must be at most {most}, got {value}")
