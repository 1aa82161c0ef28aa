"""The AUC task: the surrogate against its pairs and its min-max form, the metric against
scikit-learn."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from optimizers import Objective
from tasks.vision.auc import Auc, PairwiseSquare, ranked_above

TINY: dict[str, Any] = {
    "hidden": [4],
    "image_size": 7,
    "val_size": 200,
    "test_size": 200,
    "batch_size": 40,
}


@pytest.fixture(scope="module")
def task() -> Auc:
    return Auc(**TINY)


@pytest.fixture
def scored() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(60, 1, generator=generator) < 0.2).double()
    return torch.randn(60, 1, generator=generator, dtype=torch.float64) + targets, targets


def min_max(scores: Tensor, targets: Tensor, a: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
    """The objective of Ying, Wen and Lyu as they write it, divided by p (1 - p), p the share of
    positives."""
    p = targets.mean()
    positive, negative = targets, 1 - targets
    terms = (1 - p) * (scores - a) ** 2 * positive + p * (scores - b) ** 2 * negative
    terms = terms + 2 * (1 + alpha) * (p * scores * negative - (1 - p) * scores * positive)
    return (terms.mean() - p * (1 - p) * alpha**2) / (p * (1 - p)) + 1


def test_loss_is_the_mean_over_all_pairs(scored: tuple[Tensor, Tensor]) -> None:
    scores, targets = scored
    above, below = scores[targets > 0.5], scores[targets < 0.5]
    pairs = (1 - (above[:, None] - below[None])).square().mean()
    torch.testing.assert_close(PairwiseSquare()(scores, targets), pairs, rtol=1e-13, atol=0)


def test_loss_is_the_value_of_the_min_max_problem(scored: tuple[Tensor, Tensor]) -> None:
    scores, targets = scored
    above, below = scores[targets > 0.5].mean(), scores[targets < 0.5].mean()
    inner = [above, below, below - above]
    loss = PairwiseSquare()(scores, targets)
    torch.testing.assert_close(loss, min_max(scores, targets, *inner), rtol=1e-12, atol=0)
    slopes = torch.autograd.functional.jacobian(
        lambda *x: min_max(scores, targets, *x), tuple(inner)
    )
    assert max(abs(float(slope)) for slope in slopes) < 1e-12
    # alpha maximises
    assert float(min_max(scores, targets, above, below, inner[2] + 0.1)) < float(loss)
    # a and b minimise
    assert float(min_max(scores, targets, above + 0.1, below, inner[2])) > float(loss)
    assert float(min_max(scores, targets, above, below + 0.1, inner[2])) > float(loss)


def test_loss_is_convex_in_the_scores(scored: tuple[Tensor, Tensor]) -> None:
    scores, targets = scored
    hessian = torch.autograd.functional.hessian(
        lambda s: PairwiseSquare()(s, targets), scores
    ).reshape(60, 60)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    assert eigenvalues[0] > -1e-12
    assert eigenvalues[-1] > 0.01


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_batch_without_pairs_has_nothing_to_learn(label: float) -> None:
    scores = torch.randn(5, 1, requires_grad=True)
    loss = PairwiseSquare()(scores, torch.full((5, 1), label))
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()
    assert ranked_above(scores[:, 0].detach(), torch.full((5,), bool(label))).isnan().all()


@pytest.mark.parametrize("digits", [0, 1, 12])
def test_area_is_that_of_scikit_learn_ties_included(
    scored: tuple[Tensor, Tensor], digits: int
) -> None:
    scores, targets = scored
    rounded = scores.round(decimals=digits)
    area = ranked_above(rounded[:, 0], targets[:, 0] > 0.5).mean()
    assert float(area) == pytest.approx(roc_auc_score(targets, rounded), abs=1e-14)


def test_area_of_a_split_is_that_of_scikit_learn(task: Auc) -> None:
    model = task.model(0)
    inputs, targets = task.splits["test"]
    assert task.evaluate(model, "test")["roc_auc"] == pytest.approx(
        roc_auc_score(targets, model(inputs).detach())
    )


def test_training_positives_are_thinned_and_the_others_stay(task: Auc) -> None:
    full = Auc(**{**TINY, "share": 0.099})
    assert float(task.splits["train"][1].mean()) == pytest.approx(0.05, abs=1e-4)
    assert float(full.splits["train"][1].mean()) == pytest.approx(0.099, abs=1e-4)
    negatives = [int((t.splits["train"][1] < 0.5).sum()) for t in (task, full)]
    assert negatives[0] == negatives[1]
    assert torch.equal(task.splits["val"][1], full.splits["val"][1])
    assert float(task.splits["val"][1].mean()) > 0.07


def test_every_batch_has_its_share_of_positives(task: Auc) -> None:
    counts = [
        int(targets.sum())
        for _, targets in islice(task.batches("train", 0), 2 * int(task.steps_per_epoch))
    ]
    assert set(counts) <= {1, 2, 3}
    assert sum(counts) / len(counts) == pytest.approx(2, abs=0.02)


def test_gradients_of_the_batches_of_an_epoch_agree_with_the_whole_on_average() -> None:
    task = Auc(**{**TINY, "share": 0.09, "batch_size": 30}).to("cpu", torch.float64)
    model = task.model(0)
    parameters = list(model.parameters())

    def gradient(inputs: Tensor, targets: Tensor) -> Tensor:
        gradients = torch.autograd.grad(task.loss_fn(model(inputs), targets), parameters)
        return torch.cat([part.flatten() for part in gradients])

    steps = 5 * int(task.steps_per_epoch)
    mean = torch.stack(
        [gradient(*batch) for batch in islice(task.batches("train", 1), steps)]
    ).mean(dim=0)
    whole = gradient(*task.splits["train"])
    assert float((mean - whole).norm()) < 0.05 * float(whole.norm())


def test_gauss_newton_products_are_those_of_the_pairs(task: Auc) -> None:
    model = task.model(0).double()
    inputs, targets = (tensor.double() for tensor in next(task.batches("train", 0)))
    objective = Objective(model, task.loss_fn, inputs, targets)
    parameters = list(model.parameters())
    scores = model(inputs)
    jacobian = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(s, parameters, retain_graph=True)])
            for s in scores
        ]
    )
    above, below = jacobian[targets[:, 0] > 0.5], jacobian[targets[:, 0] < 0.5]
    vector = torch.randn(
        jacobian.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    apart = (above[:, None] - below[None]).flatten(0, 1)
    expected = 2 * apart.T @ (apart @ vector) / len(apart)
    torch.testing.assert_close(objective.ggn()(vector), expected, rtol=1e-9, atol=1e-12)


def test_a_network_learns_to_rank(task: Auc) -> None:
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for inputs, targets in islice(task.batches("train", 0), 150):
        optimizer.zero_grad()
        task.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    start, end = (task.evaluate(net, "val")["roc_auc"] for net in (task.model(0), model))
    assert start < 0.75 < 0.8 < end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive": 10}, "positive must be a class from 0 to 9, got 10"),
        ({"share": 0.0}, r"share must be above 0 and at most 0\.1\d*, got 0.0"),
        ({"share": 0.5}, r"share must be above 0 and at most 0\.1\d*, got 0.5"),
        ({"batch_size": 39}, "batch_size must be at least 40, got 39"),
        ({"hidden": []}, "hidden must be a list of at least one number above 0"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Auc(**{**TINY, **arguments})
