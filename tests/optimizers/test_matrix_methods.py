"""What Muon, Shampoo, SOAP and KL-Shampoo share: invariances, refusals, coverage, state,
telemetry."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from optimizers import UnsupportedError
from optimizers.matrix import SOAP, KLShampoo, Muon, Shampoo
from optimizers.matrix.preconditioned import Preconditioned
from tests.optimizers.cases import Problem, TiedEmbedding, mlp
from tests.optimizers.matrix_cases import (
    batches,
    classifier,
    distance,
    kernels,
    linear_layers,
    train,
)

Make = Callable[..., Preconditioned]

METHODS: dict[str, Make] = {
    "muon": Muon,
    "shampoo": partial(Shampoo, period=3, start=2),
    "shampoo_sum": partial(
        Shampoo, beta1=0.0, beta2=1.0, period=2, start=0, grafting="none", eps=1e-30
    ),
    "shampoo_staggered": partial(
        Shampoo, period=4, start=0, grafting="adagrad", staggered=True, block_size=4
    ),
    "soap": partial(SOAP, period=3),
    "soap_staggered": partial(SOAP, period=4, staggered=True, block_size=4, precondition_1d=True),
    "kl_shampoo": partial(KLShampoo, period=3),
    "kl_soap": partial(KLShampoo, period=3, adam_in_basis=True, basis="eigh", staggered=True),
}
every = pytest.mark.parametrize("name", METHODS)
deciding = pytest.mark.parametrize("name", ["muon", "shampoo", "soap", "kl_shampoo"])


def values(problem: Problem) -> list[Tensor]:
    return [p.detach().clone() for p in problem.params]


# -- invariances -----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("make", [classifier, kernels])
def test_the_order_of_the_parameters_does_not_matter(
    name: str, make: Callable[[], Problem]
) -> None:
    problem, twin = make(), make()
    train(problem, METHODS[name](problem.model.named_parameters()), 10)
    train(twin, METHODS[name](list(twin.model.named_parameters())[::-1]), 10)
    assert distance(problem, twin) < 1e-9


@every
def test_two_groups_are_one(name: str) -> None:
    problem, twin = classifier(), classifier()
    train(problem, METHODS[name](problem.model.named_parameters()), 10)
    named = list(twin.model.named_parameters())
    train(twin, METHODS[name]([{"params": named[:3]}, {"params": named[3:]}]), 10)
    assert distance(problem, twin) < 1e-9


@every
def test_the_scale_of_the_loss_does_not_matter(name: str) -> None:
    """Where nothing is added to the factors.

    By a power of two the trajectories agree to the diagonal methods' eps.
    """
    problem, scaled = linear_layers(5, 6, 4, 3), linear_layers(5, 6, 4, 3)
    scaled.loss_fn = Times(4.0)
    eps = {"eps": 1e-30} if name.startswith(("shampoo", "soap")) else {}
    for each in (problem, scaled):
        train(each, METHODS[name](each.model.named_parameters(), **eps, fallback_lr=0.0), 10)
    assert distance(problem, scaled) < 1e-5


class Times(nn.MSELoss):
    """A multiple of the mean squared error."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.factor * super().forward(outputs, targets)


@deciding
def test_a_decay_shrinks_the_weights_before_the_step(name: str) -> None:
    problem, plain, start = (linear_layers(5, 6, 4, 3) for _ in range(3))
    train(
        problem,
        METHODS[name](problem.model.named_parameters(), lr=0.1, weight_decay=0.5, fallback_lr=0.1),
        1,
    )
    train(
        plain,
        METHODS[name](plain.model.named_parameters(), lr=0.1, weight_decay=0.0, fallback_lr=0.1),
        1,
    )
    still = name == "soap"  # its first step moves nothing
    for a, b, c in zip(problem.params, plain.params, start.params, strict=True):
        torch.testing.assert_close(a - b, torch.zeros_like(a) if still else -0.05 * c)


@deciding
def test_a_group_that_is_added_later_is_taken_too(name: str) -> None:
    problem, twin = linear_layers(5, 6, 4, 3), linear_layers(5, 6, 4, 3)
    named = list(problem.model.named_parameters())
    optimizer = METHODS[name](named[:2])
    optimizer.add_param_group({"params": named[2:]})
    train(problem, optimizer, 8)
    train(twin, METHODS[name](twin.model.named_parameters()), 8)
    assert distance(problem, twin) < 1e-9


# -- gradients that come and go --------------------------------------------------------------------


class Switched(nn.Module):
    """Two layers of one shape, the second used in every other step only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.both = True

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.layers[0](inputs))
        hidden = torch.tanh(self.layers[1](hidden)) if self.both else hidden
        outputs: Tensor = self.layers[2](hidden)
        return outputs


@every
def test_a_layer_without_a_gradient_rests(name: str) -> None:
    torch.manual_seed(0)
    problem = Problem(
        Switched().double(), nn.MSELoss(), torch.randn(32, 4).double(), torch.randn(32, 4).double()
    )
    optimizer = METHODS[name](problem.model.named_parameters())
    objective = problem.objective()
    for step, batch in enumerate(batches(problem, 12)):
        problem.model.both = step % 2 == 0
        before, weights = values(problem), [layer.weight for layer in problem.model.layers]
        for parameter in problem.params:
            parameter.grad = None
        optimizer.step(objective.on(*batch))
        rested = torch.equal(weights[1], before[2])
        assert rested is not problem.model.both or (step == 0 and "soap" in name)
    assert [optimizer.state[weight]["step"] for weight in weights] == [12, 6, 12]


@every
@pytest.mark.parametrize("where", ["0.weight", "6.bias"])
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, where: str) -> None:
    problem = classifier()
    optimizer = METHODS[name](problem.model.named_parameters())
    train(problem, optimizer, 5)
    before, state = values(problem), copy.deepcopy(optimizer.state_dict())
    dict(problem.model.named_parameters())[where].register_hook(lambda grad: grad * float("nan"))
    assert train(problem, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, values(problem), strict=True))
    assert str(optimizer.state_dict()) == str(state)
    assert optimizer.telemetry()["failures/non_finite"] == 1


@deciding
def test_an_update_that_is_not_finite_is_not_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = classifier()
    optimizer = METHODS[name](problem.model.named_parameters(), fallback_lr=0.0, weight_decay=0.0)
    train(problem, optimizer, 4)
    before = values(problem)
    monkeypatch.setattr(
        type(optimizer), "update", lambda self, stack, gradient: gradient * float("inf")
    )
    train(problem, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, values(problem), strict=True))
    assert optimizer.failures == {"step": 1}


# -- state -----------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_saved_in_mid_run_it_continues_bit_equal(name: str, dtype: torch.dtype) -> None:
    """Also where the state is finer than the parameters."""
    problem, other = classifier(dtype), classifier(dtype)
    optimizer, resumed = (METHODS[name](each.model.named_parameters()) for each in (problem, other))
    train(problem, optimizer, 7)
    file = io.BytesIO()
    torch.save({"model": problem.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other.model.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    assert train(problem, optimizer, 7) == train(other, resumed, 7)
    assert all(torch.equal(a, b) for a, b in zip(values(problem), values(other), strict=True))


@every
@pytest.mark.parametrize("make", [classifier, kernels])
def test_the_state_has_the_size_that_the_formula_says(
    name: str, make: Callable[[], Problem]
) -> None:
    problem = make()
    optimizer = METHODS[name](problem.model.named_parameters())
    train(problem, optimizer, 6)
    for parameter, pieces in optimizer._pieces.items():
        own = sum(
            value.numel()
            for value in optimizer.state[parameter].values()
            if isinstance(value, Tensor)
        )
        assert own == sum(optimizer.floats(piece.shape) for piece in pieces)


@pytest.mark.parametrize("name", ["shampoo", "soap", "kl_shampoo"])
def test_state_that_would_not_fit_is_refused_with_its_size_and_what_avoids_it(name: str) -> None:
    problem = linear_layers(300, 4, 3)
    with pytest.raises(
        UnsupportedError, match=r"of state, the limit is max_gib=0.001; .* shape \(4, 300\)"
    ) as refusal:
        METHODS[name](problem.model.named_parameters(), max_gib=0.001, block_size=None)
    assert "block_size" in str(refusal.value)
    assert "max_dimension" in str(refusal.value)
    for way_out in (
        {"block_size": 16},
        {"max_dimension": 100, "block_size": None},
        {"max_gib": 1.0},
    ):
        METHODS[name](problem.model.named_parameters(), **({"max_gib": 0.001} | way_out))


# -- coverage and telemetry ------------------------------------------------------------------------


def test_coverage_by_role_and_size() -> None:
    model = nn.Sequential(TiedEmbedding(), nn.Linear(2, 40), nn.Linear(40, 3))
    named = list(model.named_parameters())
    assert Shampoo(named).layer_coverage() == {
        "0.embedding.weight": "shampoo",
        "0.hidden.weight": "shampoo",
        "0.hidden.bias": "adamw",
        "1.weight": "shampoo",
        "1.bias": "adamw",
        "2.weight": "shampoo",
        "2.bias": "adamw",
    }
    hidden = KLShampoo(
        named, roles=["hidden"], max_dimension=30, precondition_1d=True, fallback="sgd"
    )
    assert hidden.layer_coverage() == {
        "0.embedding.weight": "sgd",
        "0.hidden.weight": "kl_shampoo",
        "0.hidden.bias": "kl_shampoo",
        "1.weight": "kl_shampoo",
        "1.bias": "sgd",
        "2.weight": "sgd",
        "2.bias": "kl_shampoo",
    }


def test_the_model_tells_roles_where_the_parameters_have_no_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model.add_module("embedding", nn.Linear(2, 2))
    problem = Problem(model, nn.MSELoss(), torch.randn(8, 4), torch.randn(8, 2))
    optimizer = Muon(list(model.parameters())[::-1])
    train(problem, optimizer, 1)
    rules = list(optimizer.layer_coverage().values())[::-1]
    assert [
        name
        for (name, _), rule in zip(model.named_parameters(), rules, strict=True)
        if rule == "muon"
    ] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("name", ["shampoo", "soap", "kl_shampoo"])
def test_a_model_without_matrices_is_refused(name: str) -> None:
    vectors = nn.Sequential(nn.LayerNorm(4), nn.Linear(1, 3))
    with pytest.raises(UnsupportedError, match=r"is for matrices .* the model has none"):
        METHODS[name](vectors.named_parameters())
    optimizer = METHODS[name](vectors.named_parameters(), precondition_1d=True)
    assert set(optimizer.layer_coverage().values()) == {optimizer.rule}
    only = {"roles": ["embedding"]}
    with pytest.raises(UnsupportedError, match="of the roles embedding"):
        METHODS[name](mlp((4, 5, 3)).named_parameters(), **only)


@every
def test_telemetry(name: str) -> None:
    problem = classifier()
    optimizer = METHODS[name](problem.model.named_parameters())
    train(problem, optimizer, 9)
    telemetry = optimizer.telemetry()
    sizes = {key: p.numel() for key, p in problem.model.named_parameters()}
    mine = sum(
        size for key, size in sizes.items() if optimizer.layer_coverage()[key] == optimizer.rule
    )
    assert telemetry["preconditioned"] == pytest.approx(mine / sum(sizes.values()))
    assert 0 <= telemetry["age"] < optimizer.period
    assert ("condition" in telemetry) is (name != "muon")
    assert telemetry.get("condition", 1.0) >= 1
