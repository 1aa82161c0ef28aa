"""What layers saw: inputs and output gradients against a manual computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective
from optimizers.natural_gradient.layer_maps import linear_maps_of
from tests.optimizers.cases import CASES, MODELS, Problem, close, mlp


def test_inputs_and_output_gradients_of_a_network() -> None:
    problem = CASES["mlp_ce"]()
    first, activation, second = problem.model
    hidden = first(problem.inputs)
    active = activation(hidden)
    outputs = second(active)
    loss = problem.loss_fn(outputs, problem.targets)
    by_hidden, by_outputs = torch.autograd.grad(loss, [hidden, outputs])

    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    assert list(captured) == [first, second]
    ((inputs, gradient),) = captured[first].uses()
    close(inputs, problem.inputs)
    close(gradient, by_hidden)
    ((inputs, gradient),) = captured[second].uses()
    close(inputs, active.detach())
    close(gradient, by_outputs)
    assert not inputs.requires_grad


@pytest.mark.parametrize(
    "name", [name for name in CASES if name not in ("rosenbrock", "multihead", "tied")]
)
def test_rows_multiply_to_the_weight_gradient(name: str) -> None:
    problem = CASES[name]()
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    assert captured
    for module, record in captured.items():
        (linear_map,) = linear_maps_of(module)
        pairs = [
            (linear_map.inputs(inputs), linear_map.gradients(gradient))
            for inputs, gradient in record.uses()
        ]
        product = sum(g.flatten(0, 1).T @ a.flatten(0, 1) for a, g in pairs)
        assert isinstance(product, Tensor)
        close(product, linear_map.weight_matrix(module.weight.grad))
        if module.bias is not None:
            close(sum(g.sum((0, 1)) for _, g in pairs), module.bias.grad)


def test_a_layer_used_twice_has_two_records_in_order() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(torch.tanh(self.layer(inputs)))

    torch.manual_seed(0)
    problem = Problem(
        Twice().double(), nn.MSELoss(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    )
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    layer = problem.model.layer
    uses = captured[layer].uses()
    assert len(uses) == 2
    close(uses[0][0], problem.inputs)
    close(uses[1][0], torch.tanh(layer(problem.inputs)).detach())
    close(sum(gradient.T @ inputs for inputs, gradient in uses), layer.weight.grad)


def test_a_use_that_the_loss_ignores_is_left_out() -> None:
    class Ignored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            self.other(inputs)
            self.layer(2 * inputs)
            return self.layer(inputs)

    torch.manual_seed(0)
    problem = Problem(
        Ignored().double(), nn.MSELoss(), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    )
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    assert captured[problem.model.other].uses() == []
    ((inputs, gradient),) = captured[problem.model.layer].uses()
    close(inputs, problem.inputs)
    close(gradient.T @ inputs, problem.model.layer.weight.grad)


def test_kinds_frozen_layers_and_values() -> None:
    problem = MODELS["conv_bn"]()
    convolution, norm, *_, head = problem.model
    objective = problem.objective()
    with objective.capture() as captured:
        objective.value()
    assert not captured
    with objective.capture([nn.BatchNorm2d]) as captured:
        objective()
    assert list(captured) == [norm]
    head.requires_grad_(False)
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    assert list(captured) == [convolution]


def test_inplace_activation_after_the_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).double()
    problem = Problem(model, nn.MSELoss(), torch.randn(6, 4).double(), torch.randn(6, 2).double())
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    for module, record in captured.items():
        ((inputs, gradient),) = record.uses()
        close(gradient.T @ inputs, module.weight.grad)


def test_a_layer_called_by_keyword_is_not_seen_and_does_no_harm() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.layer(input=inputs)

    problem = Problem(Keyword(), nn.MSELoss(), torch.randn(4, 3), torch.randn(4, 2))
    objective = problem.objective()
    with objective.capture() as captured:
        objective()
    assert not captured


def test_capture_of_a_sampled_objective_sees_its_targets() -> None:
    torch.manual_seed(0)
    model = mlp((3, 2)).double()
    inputs, targets = torch.randn(5, 3).double(), torch.zeros(5, 2).double()
    objective = Objective(model, nn.MSELoss(reduction="sum"), inputs, targets)
    sampled = objective.sampled()
    with sampled.capture() as captured:
        sampled()
    ((_, gradient),) = captured[model[0]].uses()
    drawn = model(inputs).detach() - gradient / 2
    close(sampled.value(), (model(inputs) - drawn).square().sum().detach())
    assert float((drawn - targets).abs().min()) > 0
