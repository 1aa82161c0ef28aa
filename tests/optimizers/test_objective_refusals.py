"""What cannot be given is refused with a message that says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from optimizers import Objective, UnsupportedError
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp


def problem_with(loss_fn: nn.Module, classes: bool = False) -> Problem:
    torch.manual_seed(0)
    targets = torch.randint(3, (6,)) if classes else torch.randn(6, 3).double()
    return Problem(mlp().double(), loss_fn, torch.randn(6, 4).double(), targets)


@pytest.mark.parametrize("oracle", ["sampled", "scores"])
@pytest.mark.parametrize(
    ("loss_fn", "classes"),
    [
        (nn.HuberLoss(), False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (nn.CrossEntropyLoss(torch.ones(3).double()), True),
    ],
)
def test_no_distribution_no_samples(oracle: str, loss_fn: nn.Module, classes: bool) -> None:
    objective = problem_with(loss_fn, classes).objective()
    with pytest.raises(UnsupportedError, match=f"{oracle} needs .* got {type(loss_fn).__name__}"):
        getattr(objective, oracle)()
    assert not objective.counts


@pytest.mark.parametrize(
    ("loss_fn", "classes"), [(nn.HuberLoss(), False), (nn.CrossEntropyLoss(), True)]
)
def test_no_squares_no_jacobian(loss_fn: nn.Module, classes: bool) -> None:
    with pytest.raises(
        UnsupportedError, match=f"jacobian needs a squared error .* got {type(loss_fn).__name__}"
    ):
        problem_with(loss_fn, classes).objective().jacobian()


def test_jacobian_wants_targets_of_the_outputs_shape() -> None:
    problem = problem_with(nn.MSELoss())
    problem.targets = problem.targets[:, :1]
    with pytest.raises(ValueError, match=r"\(6, 3\), got \(6, 1\)"):
        problem.objective().jacobian()


def _norm(track: bool, training: bool) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=track), nn.Linear(5, 3)
    ).train(training)


@pytest.mark.parametrize(("track", "training"), [(True, True), (False, True), (False, False)])
def test_batch_statistics_couple_the_examples(track: bool, training: bool) -> None:
    problem = problem_with(nn.MSELoss())
    problem.model = _norm(track, training)().double()
    with pytest.raises(UnsupportedError, match="batch normalisation"):
        problem.objective().per_example_grads()


def test_fixed_statistics_do_not_couple_the_examples() -> None:
    problem = problem_with(nn.MSELoss())
    problem.model = _norm(True, False)().double()
    close(problem.objective().per_example_grads(), Reference(problem).per_example_grads())


@pytest.mark.parametrize("options", [{"weight": torch.ones(3).double()}, {"ignore_index": 0}])
def test_weighted_means_couple_the_examples(options: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError, match="weights"):
        problem_with(nn.CrossEntropyLoss(**options), True).objective().per_example_grads()
    problem = problem_with(nn.CrossEntropyLoss(**options, reduction="sum"), True)
    objective = problem.objective()
    rows = objective.per_example_grads()
    objective()
    close(rows.mean(0), objective.gradient())


@pytest.mark.parametrize(
    ("loss_fn", "classes"),
    [
        (nn.HuberLoss(), False),
        (nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (nn.L1Loss(), False),
    ],
)
def test_an_unknown_loss_still_has_curvature_and_example_gradients(
    loss_fn: nn.Module, classes: bool
) -> None:
    problem = problem_with(loss_fn, classes)
    reference = Reference(problem)
    objective = problem.objective()
    close(objective.hessian().dense(), reference.hessian())
    close(objective.ggn().dense(), reference.ggn())
    close(objective.per_example_grads(), reference.per_example_grads())


def test_fresh_needs_a_sampler() -> None:
    with pytest.raises(UnsupportedError, match="sampler"):
        CASES["mlp_ce"]().objective().fresh()


def test_a_model_needs_a_trainable_parameter() -> None:
    for model in (nn.Linear(2, 2).requires_grad_(False), nn.Identity()):
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no parameter"):
            Objective(model, nn.MSELoss(), torch.zeros(1, 2), torch.zeros(1, 2))


def test_unsupported_is_a_value_error() -> None:
    assert issubclass(UnsupportedError, ValueError)
