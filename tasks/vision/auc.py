"""The area under the ROC curve as an objective, for one rare class."""

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
    """Rank shirts above all other clothes by a score, with few shirts for training.

    The area under the ROC curve is the chance that a positive scores above a negative. Its square
    surrogate is

        L = mean over pairs (i positive, j negative) of (1 - (s_i - s_j))^2
          = (1 - m_+ + m_-)^2 + v_+ + v_-,

    with the mean m and the variance v of each class's scores. L is the value of the min-max problem
    of Ying, Wen and Lyu, "Stochastic online AUC maximization", 2016 (networks: Liu et al. 2020,
    arXiv 1908.10831),

        min over a, b, max over alpha of
          E_+ (s - a)^2 + E_- (s - b)^2 + 2 (1 + alpha)(E_- s - E_+ s) - alpha^2 + 1,

    with the inner problems solved in closed form on the batch: a = m_+, b = m_-, alpha = m_- -
    m_+. An ordinary minimiser can therefore minimise L. In both papers a, b and alpha are variables
    updated with the network, as a batch may lack a class. Here every batch has the classes in the
    training set's proportion (each epoch interleaves two shuffles), and as L is a mean over pairs,
    its gradient on such a batch is unbiased.

    The loss couples the examples of a batch, hence no `per_example`; it is convex in the scores and
    has no predictive distribution. With `accumulate` or several ranks, pairs are formed within each
    slice only.

    The metric `roc_auc` and the validation loss refer to a whole split, with the data's own
    proportion of positives.

    Args:
        data: see `ImageClassification`.
        positive: the class to rank first; 6 is Fashion-MNIST's shirt, the most often confused one.
        share: the positives' share of the training examples, at most their share in the data.
        hidden: the widths of the hidden layers, at least one.
        val_size, test_size, image_size: see `ImageClassification`.

    Raises:
        ValueError: an argument does not fit the data, or a batch is too small for both classes.
    """

    offers = frozenset({"hessian", "ggn", "layers", "matrices"})
    metric = "roc_auc"
    direction = "max"
    evaluation_batch: ClassVar[int] = 100_000  # a split at once: the loss needs all pairs

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
        """A fully connected network with one score as output."""
        widths = [math.prod(self.splits["train"][0].shape[1:]), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def order(self, generator: torch.Generator) -> Tensor:
        """Two shuffles, one a class, interleaved evenly: every batch has its share of positives."""
        positive = self.splits["train"][1][:, 0].cpu() > 0.5
        place = torch.empty(len(positive), dtype=torch.float64)
        for members in (positive, ~positive):
            count = int(members.sum())
            place[members] = (torch.randperm(count, generator=generator).double() + 0.5) / count
        return place.argsort(stable=True)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Rows `loss` and `roc_auc` `(N,)`; their means are the loss and the area."""
        loss = self.loss_fn(outputs, targets)
        return {
            "loss": loss.expand(len(outputs)),
            "roc_auc": ranked_above(outputs[:, 0], targets[:, 0] > 0.5),
        }


class PairwiseSquare(nn.Module):
    """The mean of (1 - (s_i - s_j))^2 over pairs of a positive i and a negative j.

    It is computed from the classes' means and variances, in O(N). Zero without any pair.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar, of scores and targets `(N, 1)`."""
        positive = targets > 0.5
        above, below = outputs[positive], outputs[~positive]
        if not len(above) or not len(below):
            return 0.0 * outputs.sum()
        gap = 1 - above.mean() + below.mean()
        return gap.square() + above.var(correction=0) + below.var(correction=0)


def ranked_above(scores: Tensor, positive: Tensor) -> Tensor:
    """Values `(N,)` whose mean is the area under the ROC curve, the share of ordered pairs.

    A tie counts half. The values are NaN without any pair or with a score that is not finite.
    """
    values = torch.zeros_like(scores, dtype=torch.float64)
    above, below = scores[positive], scores[~positive].sort().values
    if not len(above) or not len(below) or not torch.isfinite(scores).all():
        return values.fill_(torch.nan)
    lower = torch.searchsorted(below, above) + torch.searchsorted(below, above, right=True)
    values[positive] = lower.double() * (len(scores) / (2 * len(above) * len(below)))
    return values


def thinned(examples: Pair, share: float) -> Pair:
    """The examples with positives removed, by a fixed shuffle, down to a share.

    Raises:
        ValueError: the data have too few positives, or the share leaves no pair.
    """
    inputs, targets = examples
    positive = targets[:, 0] > 0.5
    most = float(positive.double().mean())
    count = round(share / (1 - share) * int((~positive).sum())) if 0 < share < 1 else 0
    if count < 1 or count > int(positive.sum()):
        raise ValueError(f"share must be above 0 and at most {most:.4f}, got {share}")
    drawn = torch.randperm(int(positive.sum()), generator=torch.Generator().manual_seed(0))[:count]
    chosen = torch.cat([(~positive).nonzero()[:, 0], positive.nonzero()[:, 0][drawn]]).sort().values
    return inputs[chosen], targets[chosen]
