"""Targets drawn from the model, the exact Fisher's roots, fresh batches, scale and terms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.objective.fisher import fisher_roots
from optimizers.objective.likelihoods import Bernoulli, Categorical, Gaussian, family_of
from tests.optimizers.cases import CASES, COUPLED, LOSSES, ExampleBCE, ExampleMSE, Reference, close

KNOWN = [name for name in CASES if name not in COUPLED]


class Outputs(nn.Module):
    """A model whose outputs are its parameters, the same for every example."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.outputs.expand(len(inputs), *self.outputs.shape)


def output_gradients(objective: Objective) -> Tensor:
    """The gradient of an objective's loss by each example's outputs, for a model of type Outputs
    made of rows."""
    objective()
    (parameter,) = objective.params
    assert parameter.grad is not None
    return parameter.grad


# -- sampled ---------------------------------------------------------------------------------------


def rows_objective(loss_fn: nn.Module, logits: list[float], count: int) -> tuple[Objective, Tensor]:
    """An objective whose outputs are `count` equal rows, each a parameter of its own so that
    gradients stay apart."""
    table = torch.tensor(logits, dtype=torch.float64).repeat(count, 1)
    model = nn.Embedding.from_pretrained(table, freeze=False)
    targets = (
        torch.zeros(count, dtype=torch.long)
        if isinstance(loss_fn, nn.CrossEntropyLoss)
        else torch.zeros_like(table)
    )
    return Objective(model, loss_fn, torch.arange(count), targets), table


def test_drawn_classes_have_the_models_frequencies() -> None:
    count = 40_000
    objective, table = rows_objective(nn.CrossEntropyLoss(reduction="sum"), [0.0, 1.0, -1.0], count)
    gradients = output_gradients(objective.sampled()).view(count, 3)
    probability = table[0].softmax(0)
    frequency = (probability - gradients).mean(0)  # softmax - one_hot is the gradient
    sigma = (probability * (1 - probability) / count).sqrt()
    assert bool(((frequency - probability).abs() < 5 * sigma).all())


def test_drawn_bits_have_the_models_frequencies() -> None:
    count = 40_000
    objective, table = rows_objective(nn.BCEWithLogitsLoss(reduction="sum"), [0.5, -2.0], count)
    gradients = output_gradients(objective.sampled()).view(count, 2)
    probability = table[0].sigmoid()
    sigma = (probability * (1 - probability) / count).sqrt()
    assert bool((gradients.mean(0).abs() < 5 * sigma).all())
    covariance = gradients.T @ gradients / count
    close(covariance, torch.diag(probability * (1 - probability)), 0.05)


def test_drawn_numbers_have_the_variance_of_the_squared_error() -> None:
    count = 40_000
    objective, _ = rows_objective(nn.MSELoss(reduction="sum"), [3.0, -1.0], count)
    gradients = output_gradients(objective.sampled()).view(count, 2)
    close(gradients.T @ gradients / count, 2 * torch.eye(2, dtype=torch.float64), 0.05)
    assert float(gradients.mean(0).abs().max()) < 5 * (2 / count) ** 0.5


def test_sampled_targets_of_sequences_follow_their_positions() -> None:
    """Logits (B, V, T) that make one class certain at each position."""
    classes = torch.tensor([[0, 2, 1], [1, 1, 0]])
    logits = 100.0 * nn.functional.one_hot(classes, 4).double().movedim(-1, 1)
    family = Categorical("mean")
    drawn = family.sample(logits, family.noise(logits, torch.Generator().manual_seed(0)))
    assert torch.equal(drawn, classes)


def test_the_class_is_the_one_whose_interval_holds_the_noise() -> None:
    probability = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    noise = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1 - 2**-53, 1.0], dtype=torch.float64)
    drawn = Categorical("mean").sample(probability.log().expand(len(noise), -1), noise)
    # the last two are rounded up to the sum of all, and held below it
    assert drawn.tolist() == [1, 1, 3, 3, 4, 4, 4]


@pytest.mark.parametrize("classes", [3, 70, 1000])
def test_no_class_is_drawn_that_has_no_probability(classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(500, classes)
    logits[:, -1] = logits[:, 0] = -torch.inf
    for level in (0.0, 1 - 2**-24):
        drawn = Categorical("mean").sample(logits, torch.full((500,), level))
        assert 0 < int(drawn.min()) <= int(drawn.max()) < classes - 1


@pytest.mark.parametrize("name", KNOWN)
def test_targets_are_fixed_within_one_sampled_objective(name: str) -> None:
    problem = CASES[name]()
    objective = problem.objective()
    sampled = objective.sampled()
    value = sampled.value()
    close(sampled(), value)
    close(sampled.hessian().loss, value)
    close(sampled.ggn().loss, value)
    assert float(objective.sampled().value()) != float(value)


def test_sampling_leaves_the_global_generator_and_follows_its_own() -> None:
    problem = CASES["mlp_bce"]()
    state = torch.get_rng_state()
    first = problem.objective(generator=torch.Generator().manual_seed(1)).sampled().value()
    again = problem.objective(generator=torch.Generator().manual_seed(1)).sampled().value()
    other = problem.objective(generator=torch.Generator().manual_seed(2)).sampled().value()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    first = problem.objective().sampled().value()
    torch.manual_seed(3)
    assert torch.equal(problem.objective().sampled().value(), first)
    torch.manual_seed(3)
    assert problem.objective()._batch.problem.generator.initial_seed() != 3
    torch.set_rng_state(state)


def test_per_example_grads_of_sampled_targets_average_to_the_gradient() -> None:
    problem = CASES["mlp_ce"]()
    sampled = problem.objective().sampled()
    rows = sampled.per_example_grads()
    sampled()
    close(rows.mean(0), sampled.gradient())


def test_mean_of_sampled_gradients_outer_products_is_the_fisher() -> None:
    """E[g g'] over drawn targets, g one example's gradient, is the Gauss-Newton matrix of these
    losses."""
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    size = sum(p.numel() for p in problem.params)
    total = torch.zeros(size, size, dtype=torch.float64)
    draws = 600
    for _ in range(draws):
        rows = objective.sampled().per_example_grads()
        total += rows.T @ rows / len(rows)
    ggn = objective.ggn().dense()
    assert float((total / draws - ggn).norm() / ggn.norm()) < 0.05


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_roots_sum_to_the_gauss_newton_matrix(name: str) -> None:
    """sum_c sum_n (J_n' s_nc)(J_n' s_nc)' by one backward pass per root and example."""
    problem = CASES[name]()
    objective = problem.objective()
    expected = Reference(problem).ggn()
    total = torch.zeros_like(expected)
    objective.value()
    scale, terms = objective.scale, objective.terms
    batch = objective._batch
    for root in fisher_roots(batch, batch.span, problem.model(problem.inputs), "exact"):
        outputs = problem.model(problem.inputs)
        by_outputs = root * terms / scale
        for output, vector in zip(outputs, by_outputs, strict=True):
            parts = torch.autograd.grad(output, problem.params, vector, retain_graph=True)
            flat = torch.cat([part.flatten() for part in parts])
            total += torch.outer(flat, flat) * scale / terms
    close(total, expected)


def test_exact_scores_have_a_pass_for_each_output() -> None:
    problem = CASES["mlp_mse"]()
    _, scores = problem.objective().scores(fisher="exact")
    assert len(scores) == 3
    for column, captured in enumerate(scores):
        ((_, gradient),) = captured[problem.model[2]].uses()
        expected = torch.zeros(6, 3, dtype=torch.float64)
        # sqrt(2) per term, a mean over 6 examples and 3 outputs
        expected[:, column] = 2**0.5 / 6 / 3
        close(gradient, expected)


def test_scores_fill_the_gradient_and_see_what_a_capture_sees() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective(l2=0.1)
    with objective.capture() as captured:
        expected = objective()
    gradient = objective.gradient()
    for fisher in ("empirical", "sampled"):
        loss, (seen,) = objective.scores(fisher=fisher)
        close(loss, expected)
        close(objective.gradient(), gradient)
        for layer, record in captured.items():
            ((inputs, slope),) = record.uses()
            ((other_inputs, other_slope),) = seen[layer].uses()
            assert torch.equal(inputs, other_inputs)
            assert torch.allclose(slope, other_slope) == (fisher == "empirical")


def test_scores_without_the_gradient_leave_it_alone() -> None:
    problem = CASES["mlp_ce"]()
    for fisher in ("empirical", "sampled", "exact"):
        objective = problem.objective()
        objective.scores(fisher=fisher, gradient=False)
        assert all(parameter.grad is None for parameter in problem.params)


# -- fresh -----------------------------------------------------------------------------------------


def test_fresh_is_another_batch_of_the_same_step() -> None:
    problem = CASES["dropout"]()
    others = [(torch.randn(6, 4).double(), torch.randint(3, (6,))) for _ in range(2)]
    queue = list(others)
    objective = problem.objective(sampler=lambda: queue.pop(0))
    first = objective()
    for inputs, targets in others:
        fresh = objective.fresh()
        assert fresh.inputs is inputs
        same_masks = Objective(problem.model, problem.loss_fn, inputs, targets)
        same_masks._batch.random_state = objective._batch.random_state
        close(fresh.value(), same_masks.value())
        assert fresh.counts is objective.counts
    assert torch.equal(objective.value(), first)


def test_fresh_does_not_move_running_statistics() -> None:
    problem = CASES["conv_bn"]()
    objective = problem.objective(sampler=lambda: (problem.inputs + 1, problem.targets))
    objective()
    before = {name: buffer.clone() for name, buffer in problem.model.named_buffers()}
    objective.fresh()()
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, before[name])


# -- scale and terms -------------------------------------------------------------------------------

SCALES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, int]] = {
    "ce": (nn.CrossEntropyLoss, (6, 3), 1.0, 6),
    "ce_sum": (lambda: nn.CrossEntropyLoss(reduction="sum"), (6, 3), 6.0, 6),
    "ce_sequences": (nn.CrossEntropyLoss, (2, 5, 4), 1.0, 8),
    "ce_sequences_sum": (lambda: nn.CrossEntropyLoss(reduction="sum"), (2, 5, 4), 8.0, 8),
    "mse": (nn.MSELoss, (6, 3), 1 / 3, 6),
    "mse_images": (nn.MSELoss, (2, 3, 4, 4), 1 / 48, 2),
    "mse_sum": (lambda: nn.MSELoss(reduction="sum"), (6, 3), 6.0, 6),
    "mse_example": (ExampleMSE, (6, 3), 1.0, 6),
    "bce": (nn.BCEWithLogitsLoss, (6, 3), 1 / 3, 6),
    "bce_vector": (nn.BCEWithLogitsLoss, (6,), 1.0, 6),
    "bce_example": (ExampleBCE, (6, 3), 1.0, 6),
    "huber": (nn.HuberLoss, (6, 3), 1.0, 6),
}


@pytest.mark.parametrize("name", SCALES)
def test_scale_and_terms(name: str) -> None:
    make, shape, scale, terms = SCALES[name]
    model = Outputs(torch.randn(shape[1:], dtype=torch.float64))
    inputs = torch.zeros(shape[0], 1)
    loss_fn = make()
    classes = (
        torch.randint(shape[1], (shape[0], *shape[2:]))
        if isinstance(loss_fn, nn.CrossEntropyLoss)
        else None
    )
    objective = Objective(
        model, loss_fn, inputs, torch.rand(shape).double() if classes is None else classes
    )
    if family_of(loss_fn) is not None:
        with pytest.raises(RuntimeError, match="call it first"):
            _ = objective.scale
    value = objective.value()
    assert objective.scale == pytest.approx(scale, rel=1e-15)
    assert objective.terms == terms
    canonical = {nn.MSELoss: ExampleMSE, nn.BCEWithLogitsLoss: ExampleBCE}.get(type(loss_fn))
    if canonical is not None:
        close(value, scale * canonical()(model(inputs), objective.targets).detach())


def test_l2_is_shown() -> None:
    assert CASES["mlp_ce"]().objective(0.25).l2 == 0.25


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "huber": nn.HuberLoss,
    "l1": nn.L1Loss,
    "smoothing": lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
    "class weights": lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
    "ignored": lambda: nn.CrossEntropyLoss(ignore_index=0),
    "pos_weight": lambda: nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)),
    "weight": lambda: nn.BCEWithLogitsLoss(weight=torch.ones(3)),
    "unreduced": lambda: nn.MSELoss(reduction="none"),
    "own": nn.Identity,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_losses_that_are_another_distribution_are_unknown(name: str) -> None:
    assert family_of(UNKNOWN[name]()) is None


def test_known_losses_and_their_subclasses() -> None:
    assert isinstance(family_of(nn.CrossEntropyLoss()), Categorical)
    assert isinstance(family_of(nn.BCEWithLogitsLoss()), Bernoulli)
    assert isinstance(family_of(nn.MSELoss()), Gaussian)
    assert isinstance(family_of(ExampleMSE()), Gaussian)
    assert isinstance(family_of(ExampleBCE()), Bernoulli)


@pytest.mark.parametrize("family", [Categorical("mean"), Bernoulli("mean"), Gaussian("mean")])
def test_outputs_that_are_not_finite_can_be_sampled(
    family: Categorical | Bernoulli | Gaussian,
) -> None:
    outputs = torch.tensor([[float("nan"), 1.0], [float("inf"), 0.0], [1.0, 2.0]])
    drawn = family.sample(outputs, family.noise(outputs, torch.Generator().manual_seed(0)))
    assert len(drawn) == 3
