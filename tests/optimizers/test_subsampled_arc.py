"""ARC with sub-sampled Hessian, gradient and function values."""

from __future__ import annotations

import io
from math import log, nan

import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from optimizers.trust_region import ARC, SubsampledARC
from tests.optimizers.cases import Problem, close, mlp
from tests.optimizers.trust_region_cases import normal

# -- sub-samples -----------------------------------------------------------------------------------

ALL = {"hessian_share": 1.0, "gradient_share": 1.0, "function_share": 1.0}


def classifier(loss_fn: nn.Module | None = None) -> Problem:
    torch.manual_seed(0)
    return Problem(
        mlp((4, 5, 3)).double(),
        loss_fn or nn.CrossEntropyLoss(),
        normal(60, 4),
        torch.randint(3, (60,)),
    )


@pytest.mark.parametrize("sampling", ["adaptive", "fixed"])
def test_with_all_the_examples_it_is_arc(sampling: str) -> None:
    problem, twin = classifier(), classifier()
    whole = ARC(problem.model.parameters(), max_trials=4)
    part = SubsampledARC(twin.model.parameters(), sampling=sampling, **ALL)  # type: ignore[arg-type]
    for _ in range(8):
        assert torch.equal(
            whole.step(problem.objective(l2=0.01)), part.step(twin.objective(l2=0.01))
        )
    for one, two in zip(problem.params, twin.params, strict=True):
        assert torch.equal(one, two)


def test_fixed_shares_are_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizers import Objective

    problem, seen = classifier(), []
    subset = Objective.subset
    monkeypatch.setattr(
        Objective, "subset", lambda self, index: seen.append(index) or subset(self, index)
    )
    options = {
        "hessian_share": 0.2,
        "gradient_share": 0.5,
        "function_share": 0.3,
        "sampling": "fixed",
    }
    SubsampledARC(problem.model.parameters(), **options).step(problem.objective())  # type: ignore[arg-type]
    hessian, function, gradient = sorted(
        (set(index.tolist()) for index in seen if len(index) > 1), key=len
    )
    assert (len(hessian), len(gradient), len(function)) == (12, 30, 18)
    assert hessian < function < gradient


def test_adaptive_sizes_follow_the_steps_length() -> None:
    problem = classifier()
    size = sum(p.numel() for p in problem.params)
    optimizer = SubsampledARC(problem.model.parameters(), constant=0.01)
    group = optimizer.param_groups[0]
    # the shares
    assert (optimizer._size("hessian", 2, 1000), optimizer._size("gradient", 4, 1000)) == (100, 250)
    group["length"] = 0.01
    assert optimizer._size("hessian", 2, 1000) == round(0.01 * log(size) / 0.01**2 + 0.5)
    assert optimizer._size("gradient", 4, 1000) == 1000
    group["refused"], group["hessian_size"] = True, 400
    assert optimizer._size("hessian", 2, 1000) == 500
    group["length"], group["refused"] = 10.0, False
    assert optimizer._size("hessian", 2, 1000) == 100
    assert optimizer._size("hessian", 2, 1) == 1


@torch.no_grad()
@pytest.mark.parametrize(
    "loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")], ids=str
)
def test_estimates_are_unbiased_in_the_batchs_units(loss_fn: nn.Module) -> None:
    """The mean over many draws of loss, gradient and Hessian product, also for a loss that is a
    sum; with an l2."""
    problem = classifier(loss_fn)
    options = {
        "hessian_share": 0.3,
        "gradient_share": 0.4,
        "function_share": 0.5,
        "sampling": "fixed",
    }
    optimizer = SubsampledARC(problem.model.parameters(), **options)  # type: ignore[arg-type]
    objective = problem.objective(l2=0.5)
    exact, vector = objective.hessian(), normal(43, seed=5)
    draws = [optimizer._view(objective) for _ in range(300)]
    for name, expected, actual in (
        ("loss", exact.loss[None], [view.loss[None] for view in draws]),
        ("gradient", exact.gradient, [view.gradient for view in draws]),
        ("product", exact(vector), [view.product(vector) for view in draws[:100]]),
        (
            "value",
            objective.value(0.1 * vector)[None],
            [view.value(0.1 * vector)[None] for view in draws],
        ),
    ):
        stacked = torch.stack(actual)
        error = (stacked.mean(0) - expected).abs() / (stacked.std(0) / len(actual) ** 0.5 + 1e-12)
        assert float(error.max()) < 5, name
        assert float(stacked.std(0).max()) > 0
    assert {view.scale for view in draws} == {objective.scale}
    close(draws[0].dense() @ vector, draws[0].product(vector), 1e-10)


def test_the_draws_continue_after_a_checkpoint() -> None:
    problem, other = classifier(), classifier()
    options = {
        "hessian_share": 0.2,
        "gradient_share": 0.3,
        "function_share": 0.4,
        "seed": 3,
        "constant": 0.01,
    }
    first = SubsampledARC(problem.model.parameters(), **options)  # type: ignore[arg-type]
    for _ in range(4):
        first.step(problem.objective())
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    second = SubsampledARC(other.model.parameters(), **options)  # type: ignore[arg-type]
    other.model.load_state_dict(loaded["model"])
    second.load_state_dict(loaded["optimizer"])
    for _ in range(4):
        assert torch.equal(first.step(problem.objective()), second.step(other.objective()))
    assert first.param_groups[0]["draws"] == 8


def cancer() -> Problem:
    data = load_breast_cancer()
    features = torch.from_numpy(StandardScaler().fit_transform(data.data))
    model = nn.Linear(30, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    return Problem(
        model, nn.BCEWithLogitsLoss(), features, torch.from_numpy(data.target).double()[:, None]
    )


def test_a_tenth_of_the_hessian_reaches_sklearns_optimum() -> None:
    """With the whole gradient the fixed point is exact, however rough the Hessian (Xu, Roosta and
    Mahoney)."""
    problem, l2 = cancer(), 0.01
    features, targets = problem.inputs.numpy(), problem.targets[:, 0].numpy()
    solver = LogisticRegression(
        C=1 / (l2 * len(features)), solver="newton-cholesky", fit_intercept=False, tol=1e-12
    )
    optimum = torch.from_numpy(solver.fit(features, targets).coef_)
    optimizer = SubsampledARC(
        problem.model.parameters(),
        sampling="fixed",
        hessian_share=0.1,
        gradient_share=1.0,
        sigma=0.1,
    )
    for _ in range(150):
        optimizer.step(problem.objective(l2=l2))
    close(problem.params[0].detach(), optimum, 1e-6)


def test_growing_samples_reach_sklearns_optimum() -> None:
    problem, l2 = cancer(), 0.01
    features, targets = problem.inputs.numpy(), problem.targets[:, 0].numpy()
    solver = LogisticRegression(
        C=1 / (l2 * len(features)), solver="newton-cholesky", fit_intercept=False, tol=1e-12
    )
    optimum = torch.from_numpy(solver.fit(features, targets).coef_)
    optimizer = SubsampledARC(
        problem.model.parameters(), hessian_share=0.05, gradient_share=0.05, sigma=0.1
    )
    sizes = []
    for _ in range(40):
        optimizer.step(problem.objective(l2=l2))
        sizes.append(optimizer.param_groups[0]["gradient_size"])
    assert sizes[0] == 29
    assert sizes[-1] == len(features)
    close(problem.params[0].detach(), optimum, 1e-8)


def test_a_sample_with_a_bad_example_leaves_the_parameters() -> None:
    problem = classifier()
    problem.inputs[:, 0] = nan
    before = [p.detach().clone() for p in problem.params]
    loss = SubsampledARC(problem.model.parameters()).step(problem.objective())
    assert bool(loss.isnan())
    assert all(torch.equal(a, b) for a, b in zip(before, problem.params, strict=True))
