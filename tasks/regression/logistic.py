"""Regularised logistic regression: strictly convex, smooth, with an exactly known minimum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.data.splits import hold_out, three_way
from tasks.losses import BCEPerExample
from tasks.task import Batch, DataTask

NEWTON_STEPS = 100


class Logistic(DataTask):
    """Classify tumours as malignant or benign by 30 measurements, with 31 parameters.

        f(theta) = (1/N) sum_n log(1 + e^z_n) - t_n z_n + l2/2 |theta|^2,   z_n = w^T x_n + b

    Inputs `(N, 30)`, standardised with the training split's mean and deviation; targets `(N, 1)` in
    {0, 1}; float64. The l2 term covers the bias too. It belongs to the task, not to the loss
    function: the objective adds `l2` to loss, gradient and curvature.

    Optimizers differ on a convex problem in the final distance from the minimum, long after
    accuracy and validation loss are constant. The metric is therefore `gap`: the regularised
    objective over the whole *training* split minus its minimum, the same number for every split.
    `loss` and `accuracy` are the split's own. Damped Newton steps compute the minimum once.

    Data: Breast Cancer Wisconsin (Diagnostic), Wolberg, Street and Mangasarian 1995, from
    scikit-learn.

    Args:
        l2: the weight of the regularisation; a smaller one makes the problem harder.
        val_size: the number of validation examples.
        test_size: the number of test examples.
        batch_size: None is the full batch.

    Raises:
        ValueError: `l2` is not above 0 (without it the separable classes leave no minimum), or a
            size does not fit the 569 examples.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers"})
    metric = "gap"
    direction = "min"
    dtype = torch.float64

    def __init__(
        self,
        l2: float = 0.001,
        val_size: int = 100,
        test_size: int = 100,
        batch_size: int | None = None,
        steps: int = 1000,
        eval_every: int = 10,
        target: float | None = 1e-6,
    ) -> None:
        require_positive(l2=l2)
        self.l2 = l2
        self.loss_fn = BCEPerExample()
        self.splits = _breast_cancer(val_size, test_size)
        self.optimum = _minimise(*self.splits["train"], l2)
        self.minimum = self._objective(*self.splits["train"], self.optimum)
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The linear model of 31 parameters."""
        return nn.Linear(self.splits["train"][0].shape[1], 1, dtype=torch.float64)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `accuracy` of each example, `(N,)`."""
        loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        correct = (outputs > 0) == (targets > 0.5)
        return {"loss": loss.squeeze(1), "accuracy": correct.squeeze(1)}

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """The `gap` on the training split, and the split's `loss` and `accuracy`."""
        theta = torch.cat(
            [parameter.detach().double().flatten() for parameter in model.parameters()]
        )
        inputs, targets = self.splits["train"]
        gap = self._objective(inputs.double(), targets.double(), theta) - self.minimum
        return {"gap": max(gap, 0.0)} | super().evaluate(model, split)

    def _objective(self, inputs: Tensor, targets: Tensor, theta: Tensor) -> float:
        """The regularised training loss at weights and bias `theta`, `(31,)`."""
        logits = F.linear(inputs, theta[None, :-1], theta[-1:])
        return float(self.loss_fn(logits, targets) + self.l2 / 2 * theta @ theta)


def _breast_cancer(val_size: int, test_size: int) -> dict[str, Batch]:
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    inputs, targets = torch.as_tensor(features), torch.as_tensor(labels).double()[:, None]
    rest, test = hold_out(inputs, targets, test_size, "test_size")
    splits = three_way(rest, test, val_size, None)
    mean, deviation = splits["train"][0].mean(0), splits["train"][0].std(0)
    return {split: ((x - mean) / deviation, t) for split, (x, t) in splits.items()}


def _minimise(inputs: Tensor, targets: Tensor, l2: float) -> Tensor:
    """The minimiser of the regularised loss, by damped Newton steps.

    The damping divides a step by `1 + decrement`, which makes Newton's method converge from any
    point of a self-concordant function and vanishes near the minimum.
    """
    design = torch.cat([inputs, torch.ones_like(targets)], dim=1)
    theta = torch.zeros(design.shape[1], dtype=design.dtype)
    count = len(design)
    for _ in range(NEWTON_STEPS):
        chance = torch.sigmoid(design @ theta)
        gradient = design.T @ (chance - targets[:, 0]) / count + l2 * theta
        hessian = (design.T * (chance * (1 - chance))) @ design / count + l2 * torch.eye(
            len(theta), dtype=theta.dtype
        )
        step = torch.linalg.solve(hessian, gradient)
        theta = theta - step / (1 + (count * gradient @ step).clamp(min=0).sqrt())
    return theta
