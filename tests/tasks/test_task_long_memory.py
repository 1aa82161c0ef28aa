"""The adding and the copy problem, and the recurrent network that is to solve them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian as second_derivative
from torch.nn import functional as F

from optimizers import Objective
from optimizers.least_squares import GGNCG
from tasks.sequence.long_memory import LongMemory
from tasks.sequence.memory_problems import distinct_words

torch.set_num_threads(1)
TINY: dict[str, Any] = {"length": 6, "items": 3, "symbols": 4, "hidden": 3}
SIZES: dict[str, Any] = {"train_size": 9, "val_size": 3, "test_size": 2, "batch_size": None}


def tiny(problem: str, **arguments: Any) -> LongMemory:
    return LongMemory(**{"problem": problem, **TINY, **SIZES, **arguments}).to("cpu", torch.float64)


def recurrent_layer(model: nn.Module) -> nn.RNNBase:
    (layer,) = (module for module in model.modules() if isinstance(module, nn.RNNBase))
    return layer


def outputs_jacobian(model: nn.Module, inputs: Tensor) -> Tensor:
    """The Jacobian of all outputs, row by row: `(outputs, n)`."""
    rows = []
    for output in model(inputs).flatten():
        parts = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding_marks_one_number_in_either_half_and_asks_for_the_sum(length: int) -> None:
    inputs, targets = LongMemory(length=length, train_size=300).splits["train"]
    assert inputs.shape == (300, length, 2)
    numbers, marks = inputs.unbind(2)
    assert torch.equal(marks[:, : length // 2].sum(1), torch.ones(300))
    assert torch.equal(marks[:, length // 2 :].sum(1), torch.ones(300))
    torch.testing.assert_close(targets[:, 0], numbers[marks == 1].view(300, 2).sum(1))
    assert 0 <= float(numbers.min()) < float(numbers.max()) < 1


def test_adding_by_the_mean_leaves_a_sixth() -> None:
    task = LongMemory(train_size=40_000, length=4)
    targets = task.splits["train"][1]
    errors = task.measure(torch.ones_like(targets), targets)["error"]
    assert task.chance == 1 / 6
    assert float(errors.mean()) == pytest.approx(task.chance, abs=4 * float(errors.std()) / 200)


def test_copy_shows_a_word_a_pause_and_a_signal() -> None:
    inputs, targets = LongMemory(problem="copy", length=7, items=4, symbols=5, **SIZES).splits[
        "train"
    ]
    assert inputs.shape == (9, 7 + 2 * 4, 5 + 2)
    assert torch.equal(inputs.sum(2), torch.ones(9, 15))
    tokens = inputs.argmax(2)
    assert torch.equal(tokens[:, :4], targets)
    assert (tokens[:, 4:10] == 5).all()
    assert (tokens[:, 10] == 6).all()
    assert (tokens[:, 11:] == 5).all()


def test_copy_by_guessing_is_wrong_as_often_as_chance_says() -> None:
    task = LongMemory(problem="copy", symbols=4, items=8, train_size=3000)
    targets = task.splits["train"][1]
    always_two = F.one_hot(torch.full_like(targets, 2), 4).transpose(1, 2).float()
    errors = task.measure(always_two, targets)["error"]
    assert task.chance == 0.75
    assert float(errors.mean()) == pytest.approx(task.chance, abs=0.02)
    equal = task.measure(torch.zeros(3000, 4, 8), targets)["loss"]
    torch.testing.assert_close(equal, torch.full((3000,), math.log(4)))
    right = F.one_hot(targets, 4).transpose(1, 2).float()
    assert not task.measure(right, targets)["error"].any()


def test_words_differ_and_so_do_the_splits() -> None:
    words = distinct_words(100, 4, 4, torch.Generator().manual_seed(0))
    assert len(words.unique(dim=0)) == 100
    splits = LongMemory(
        problem="copy", items=4, symbols=4, train_size=80, val_size=10, test_size=10
    ).splits
    assert len(torch.cat([targets for _, targets in splits.values()]).unique(dim=0)) == 100


@pytest.mark.parametrize("problem", ["adding", "copy"])
def test_data_follow_the_problem_seed(problem: str) -> None:
    first, again, other = (
        tiny(problem, problem_seed=seed).splits["train"][0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("problem", "shape"), [("adding", (9, 1)), ("copy", (9, 4, 3))])
def test_outputs_are_a_linear_map_of_the_hidden_states(
    problem: str, shape: tuple[int, ...]
) -> None:
    task = tiny(problem)
    model = task.model(0)
    inputs = task.splits["train"][0]
    layer = recurrent_layer(model)
    states, _ = layer(inputs)
    weights = dict(layer.named_parameters())
    state, unrolled = torch.zeros(9, 3, dtype=torch.float64), []
    for now in inputs.unbind(1):
        drive = F.linear(now, weights["weight_ih_l0"], weights["bias_ih_l0"])
        state = torch.tanh(drive + F.linear(state, weights["weight_hh_l0"], weights["bias_hh_l0"]))
        unrolled.append(state)
    torch.testing.assert_close(states, torch.stack(unrolled, dim=1))
    output = model(inputs)
    assert output.shape == shape
    head = list(model.parameters())[-2:]
    torch.testing.assert_close(
        output[..., -1] if problem == "copy" else output, F.linear(states[:, -1], *head)
    )


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("problem", ["adding", "copy"])
def test_gauss_newton_products_equal_the_dense_matrix(problem: str, cell: str) -> None:
    task = tiny(problem, cell=cell)
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    jacobian = outputs_jacobian(model, inputs)
    outputs = model(inputs).detach()
    inner = second_derivative(
        lambda z: task.loss_fn(z.view_as(outputs), targets), outputs.flatten()
    )
    vector = torch.randn(jacobian.shape[1], dtype=torch.float64)
    product = Objective(model, task.loss_fn, inputs, targets).ggn()(vector)
    torch.testing.assert_close(product, jacobian.T @ (inner @ (jacobian @ vector)))


@pytest.mark.parametrize("problem", ["adding", "copy"])
def test_hessian_products_equal_differences_of_gradients(problem: str) -> None:
    task = tiny(problem)
    model = task.model(0)
    objective = Objective(model, task.loss_fn, *next(task.batches("train", 0)))
    vector = torch.randn(
        sum(parameter.numel() for parameter in model.parameters()), dtype=torch.float64
    )
    product = objective.hessian()(vector)
    gradients = []
    for sign in (1, -1):
        moved = tiny(problem).model(0)
        flat = nn.utils.parameters_to_vector(model.parameters()) + sign * 1e-5 * vector
        nn.utils.vector_to_parameters(flat.detach(), moved.parameters())
        shifted = Objective(moved, task.loss_fn, *next(task.batches("train", 0)))
        shifted()
        gradients.append(shifted.gradient())
    torch.testing.assert_close(product, (gradients[0] - gradients[1]) / 2e-5, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("problem", ["adding", "copy"])
def test_per_example_gradients_average_to_the_gradient(problem: str) -> None:
    task = tiny(problem)
    objective = Objective(task.model(0), task.loss_fn, *next(task.batches("train", 0)))
    objective()
    torch.testing.assert_close(objective.per_example_grads().mean(0), objective.gradient())


def test_only_adding_offers_residuals() -> None:
    assert "jacobian" in tiny("adding").offers
    assert tiny("copy").offers == tiny("adding").offers - {"jacobian"}
    assert "jacobian" in LongMemory.offers


@pytest.mark.parametrize(("cell", "gates"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_sparse_initialisation_has_fifteen_connections_and_its_radius(
    cell: str, gates: int
) -> None:
    layer = recurrent_layer(LongMemory(cell=cell, hidden=20, train_size=1).model(0))
    weights = dict(layer.named_parameters())
    blocks = weights["weight_hh_l0"].detach().split(20)
    assert len(blocks) == gates
    for block in blocks:
        assert torch.equal((block != 0).sum(1), torch.full((20,), 15))
        assert float(torch.linalg.eigvals(block.double()).abs().max()) == pytest.approx(
            1.1, rel=1e-4
        )
    assert not weights["bias_ih_l0"].any()
    plain = recurrent_layer(LongMemory(cell=cell, hidden=20, train_size=1, init="torch").model(0))
    assert max(
        float(parameter.abs().max()) for parameter in plain.state_dict().values()
    ) <= 1 / math.sqrt(20)


def test_curvature_learns_to_add() -> None:
    task = LongMemory(length=8, hidden=12, train_size=200, batch_size=None)
    model = task.model(0)
    objective = Objective(model, task.loss_fn, *next(task.batches("train", 0)))
    optimizer = GGNCG(model.named_parameters())
    for _ in range(25):
        optimizer.step(objective)
    assert task.evaluate(model, "val")["error"] < task.chance / 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": "parity"}, "problem must be one of adding, copy, got 'parity'"),
        ({"cell": "ctrnn"}, "cell must be one of rnn, lstm, gru, got 'ctrnn'"),
        ({"init": "orthogonal"}, "init must be one of sparse, torch, got 'orthogonal'"),
        ({"length": 1}, "length must be at least 2 for problem=adding, got 1"),
        ({"length": 0, "problem": "copy"}, "length must be above 0, got 0"),
        ({"items": 0}, "items must be above 0, got 0"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
        ({"hidden": 0}, "hidden must be above 0, got 0"),
        ({"val_size": 0}, "val_size must be above 0, got 0"),
        (
            {
                "problem": "copy",
                "items": 2,
                "symbols": 3,
                "train_size": 20,
                "val_size": 1,
                "test_size": 1,
            },
            r"items must be so large that symbols\^items exceeds twice the 22 sequences, got 2",
        ),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongMemory(**arguments)
