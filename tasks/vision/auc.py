"""Rank one rare class above all others: the area under the ROC curve as an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from tasks.checks import positive_widths, require_at_least
from tasks.data.images import load_images
from tasks.data.splits import Pair, three_way
from tasks.task import DataTask
from tasks.vision.classification import normalised


class Auc(DataTask):
    """Tell shirts from all other clothes by a score, with few shirts to learn from.

    The area under the ROC curve is the chance that a positive scores above a negative. Its square
    surrogate is

        L = mean over pairs (i positive, j negative) of (1 - (s_i - s_j))^2
          = (1 - m_+ + m_-)^2 + v_+ + v_-,

    m and v the mean and the variance of each class's scores. It is the value of the min-max problem
    of Ying, Wen and Lyu, "Stochastic online AUC maximization", 2016 (networks: Liu et al. 2020,
    arXiv 1908.10831),

        min over a, b, max over alpha of E_+ (s - a)^2 + E_- (s - b)^2 + 2 (1 + alpha)(E_- s - E_+
        s) - alpha^2 + 1,

    whose inner problems are solved in closed form, on the batch: a = m_+, b = m_-, alpha = m_- -
    m_+. So an ordinary minimiser can run it. Both papers keep a, b and alpha as variables instead,
    stepped along with the network, as their batches may lack a class; here every batch has the
    classes in the training set's proportion (each epoch interleaves two shuffles), and as L is a
    mean over pairs, its gradient on such a batch is unbiased.

    The loss couples the examples of a batch, hence no `per_example`; it is convex in the scores and
    has no predictive distribution. With `accumulate` or several ranks, pairs are formed within each
    slice only.

    The metric `roc_auc` and the validation loss are of a whole split, at the data's own proportion
    of positives.

    Args:
        data: see `ImageClassification`.
        positive: the class to rank first; 6 is Fashion-MNIST's shirt, the one most often mistaken.
        share: the positives' share of the training examples, at most the one they have; the others
            are left out.
        hidden: the widths of the hidden layers, at least one.
        val_size, test_size, image_size: see `ImageClassification`.

    Raises:
        ValueError: an argument does not fit the data, or a batch would be too small to have both
            classes.
    """

    offers = frozenset({"hessian", "ggn", "layers", "matrices"})
    metric = "roc_auc"
    direction = "max"
    evaluation_batch: ClassVar[int] = 100_000  # a split at once, since pairs are looked at

    def __init__(
        self,
        data: str = "fashion_mnist_small",
        positive: int = 6,
        share: float = 0.05,
        hidden: Sequence[int] = (64,),
        val_size: int = 1000,
        test_size: int | None = None,
        image_size: int | None = None,
        batch_size: int | None = 200,
        steps: int = 1000,
        eval_every: int = 50,
        target: float | None = None,
    ) -> None:
        self.hidden = positive_widths("hidden", hidden)
        images = load_images(data, image_size)
        if not 0 <= positive < images.classes:
            raise ValueError(
                f"positive must be a class from 0 to {images.classes - 1}, got {positive}"
            )
        splits = three_way(images.train, images.test, val_size, test_size)
        splits = {
            split: (inputs, (labels == positive).float()[:, None])
            for split, (inputs, labels) in splits.items()
        }
        self.splits = normalised(splits | {"train": thinned(splits["train"], share)})
        self.loss_fn = PairwiseSquare()
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)
        require_at_least(math.ceil(2 / share), batch_size=self.batch_size)

    def build(self) -> nn.Module:
        widths = [math.prod(self.splits["train"][0].shape[1:]), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def order(self, generator: torch.Generator) -> Tensor:
        """Two shuffles, one a class, interleaved evenly.

        Every stretch of the epoch has its share of positives.
        """
        positive = self.splits["train"][1][:, 0].cpu() > 0.5
        place = torch.empty(len(positive), dtype=torch.float64)
        for members in (positive, ~positive):
            count = int(members.sum())
            place[members] = (torch.randperm(count, generator=generator).double() + 0.5) / count
        return place.argsort(stable=True)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The mean over the rows is the loss, and the area, of all of these examples."""
        loss = self.loss_fn(outputs, targets)
        return {
            "loss": loss.expand(len(outputs)),
            "roc_auc": ranked_above(outputs[:, 0], targets[:, 0] > 0.5),
        }


class PairwiseSquare(nn.Module):
    """The mean of (1 - (s_i - s_j))^2 over pairs of a positive i and a negative j, for scores and targets `(N, 1)`.

    From the classes' means and variances, in O(N). Zero where a class is absent: there is no pair.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        positive = targets > 0.5
        above, below = outputs[positive], outputs[~positive]
        if not len(above) or not len(below):
            return 0.0 * outputs.sum()
        gap = 1 - above.mean() + below.mean()
        return gap.square() + above.var(correction=0) + below.var(correction=0)


def ranked_above(scores: Tensor, positive: Tensor) -> Tensor:
    """Values `(N,)` whose mean is the area under the ROC curve.

    Pairs in the right order, a tie counting half.

    NaN where there is no pair or a score is not finite.
    """
    found = torch.zeros_like(scores, dtype=torch.float64)
    above, below = scores[positive], scores[~positive].sort().values
    if not len(above) or not len(below) or not torch.isfinite(scores).all():
        return found.fill_(torch.nan)
    lower = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
    found[positive] = lower.double() * (len(scores) / (2 * len(above) * len(below)))
    return found


def thinned(examples: Pair, share: float) -> Pair:
    """The examples with only so many positives, chosen by a shuffle that is always the same, that they are a share.

    Raises:
        ValueError: there are fewer than that, or the share leaves no pair.
    """
    inputs, targets = examples
    positive = targets[:, 0] > 0.5
    most = float(positive.double().mean())
    kept = round(share / (1 - share) * int((~positive).sum())) if 0 < share < 1 else 0
    if kept < 1 or kept > int(positive.sum()):
        raise ValueError(f"share must be above 0 and at most {most:.4f}, got {share}")
    drawn = torch.randperm(int(positive.sum()), generator=torch.Generator().manual_seed(0))[:kept]
    chosen = torch.cat([(~positive).nonzero()[:, 0], positive.nonzero()[:, 0][drawn]]).sort().values
    return inputs[chosen], targets[chosen]
