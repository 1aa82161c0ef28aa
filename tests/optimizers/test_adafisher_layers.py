"""AdaFisher on every kind of layer, and its options."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from optimizers.diagonal import AdaFisher
from tests.optimizers.adafisher_cases import batches, classes, perceptron, trained
from tests.optimizers.cases import CASES, Problem, TiedEmbedding, close

# -- layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name != "rosenbrock"])
@pytest.mark.parametrize("as_released", [True, False])
def test_every_kind_of_layer_has_factors(name: str, as_released: bool) -> None:
    problem = CASES[name]()
    start = copy.deepcopy(problem)
    method = AdaFisher(problem.model.named_parameters(), as_released=as_released, lr=1e-4)
    method.step(problem.objective())
    assert method.telemetry()["preconditioned"] == 1
    assert set(method.layer_coverage().values()) == {"adafisher"}
    for before, after in zip(start.params, problem.params, strict=True):
        assert after.grad is not None
        # a bias before a normalisation
        assert not torch.equal(before, after) or float(after.grad.abs().max()) < 1e-12


def test_an_unknown_layer_goes_to_the_fallback_and_the_last_layers_move() -> None:
    """There the walk over the parameters loses its place at a layer it does not know."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(8))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * self.gain

    torch.manual_seed(0)
    problem = classes(nn.Sequential(nn.Linear(6, 8), Gate(), nn.Tanh(), nn.Linear(8, 3)), 6)
    start = copy.deepcopy(problem)
    method = trained(problem, 2, as_released=True)
    assert method.layer_coverage() == {
        "0.weight": "adafisher",
        "0.bias": "adafisher",
        "1.gain": "adamw",
        "3.weight": "adafisher",
        "3.bias": "adafisher",
    }
    assert all(not torch.equal(a, b) for a, b in zip(start.params, problem.params, strict=True))
    assert 0.9 < method.telemetry()["preconditioned"] < 1


def test_a_table_of_vectors_has_the_counts_of_its_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3))
    tokens = torch.tensor([[0, 1], [0, 2], [0, 1], [3, 1]])
    problem = Problem(model.double(), nn.CrossEntropyLoss(), tokens, torch.tensor([0, 1, 2, 0]))
    method = AdaFisher(model.named_parameters(), lr=0.0)
    method.step(problem.objective())
    counts = torch.tensor([3.0, 3.0, 1.0, 1.0, 0.0]).double()
    close(method.state[problem.params[0]]["a"], 0.8 + 0.2 * counts / 3, 1e-12)


def test_a_tied_table_has_one_factor_for_both_uses() -> None:
    problem = CASES["tied"]()
    assert isinstance(problem.model, TiedEmbedding)
    method = AdaFisher(problem.model.named_parameters())
    method.step(problem.objective())
    state = method.state[problem.model.embedding.weight]
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "a": (5,),
        "g": (3,),
        "mean_gradient": (5, 3),
    }


# -- the rest --------------------------------------------------------------------------------------


def test_the_true_fisher_costs_a_backward_pass_at_its_turn() -> None:
    counts = {}
    for fisher in ("empirical", "sampled"):
        problem = perceptron()
        method, objective = (
            AdaFisher(problem.model.named_parameters(), fisher=fisher, statistics_period=5),
            problem.objective(),
        )
        for batch in batches(problem, 10):
            method.step(objective.on(*batch))
        counts[fisher] = objective.counts["grad"]
        assert method.needs == ({"layers"} if fisher == "empirical" else {"layers", "sampled"})
    assert counts == {"empirical": 10, "sampled": 12}


def test_the_state_is_as_long_as_said() -> None:
    problem = perceptron()
    method = trained(problem, 1)
    numbers = sum(value.numel() for state in method.state.values() for value in state.values())
    assert numbers == sum(p.numel() for p in problem.params) + (6 + 1 + 8) + (8 + 1 + 3)


def test_statistics_that_are_not_finite_are_left_out() -> None:
    problem = perceptron()
    method = AdaFisher(problem.model.named_parameters(), lr=1e-3)
    method.step(problem.objective())
    held = method.state[problem.params[0]]["a"].clone()
    loss = method.step(problem.objective().on(problem.inputs * float("nan"), problem.targets))
    assert bool(loss.isnan())
    assert method.failures == {"non_finite": 1}
    assert torch.equal(method.state[problem.params[0]]["a"], held)
