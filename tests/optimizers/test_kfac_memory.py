"""The memory of K-FAC's factors: refused, kept small, left out, and as large as it says."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from optimizers import UnsupportedError
from optimizers.natural_gradient import EKFAC, KFAC
from optimizers.natural_gradient.factored import require_fitting
from optimizers.natural_gradient.model_blocks import blocks_of
from tests.optimizers.cases import CASES, Problem, close, mlp
from tests.optimizers.kfac_cases import flat, stack


def test_factors_that_do_not_fit_are_refused_before_the_first_step() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 6))
    problem = Problem(model, nn.MSELoss(), torch.randn(4, 10), torch.randn(4, 6))
    bytes_of = {"0": 8 * (11**2 + 30**2), "2": 8 * (31**2 + 6**2)}
    before = flat(problem)
    optimizer = KFAC(model.named_parameters(), max_gib=1e-6)
    objective = problem.objective()
    with pytest.raises(UnsupportedError) as refusal:
        optimizer.step(objective)
    for word in ("KFAC", "GiB", "0.weight", "max_gib=1e-06", "max_dim=29", "skip=[0.weight]"):
        assert word in str(refusal.value)
    assert torch.equal(flat(problem), before)
    assert not objective.counts
    enough = KFAC(model.named_parameters(), max_gib=sum(bytes_of.values()) / 2**30)
    enough.step(problem.objective())
    with pytest.raises(UnsupportedError):
        KFAC(model.named_parameters(), max_gib=(sum(bytes_of.values()) - 1) / 2**30).step(
            problem.objective()
        )
    KFAC(model.named_parameters(), max_gib=(bytes_of["2"]) / 2**30, skip=["0."]).step(
        problem.objective()
    )


def test_the_refusal_says_how_many_gib() -> None:
    model = nn.Sequential(
        nn.Linear(511, 4, device="meta"), nn.Linear(40_000, 50_000, bias=False, device="meta")
    )
    blocks = blocks_of(model, {id(p): 0 for p in model.parameters()})
    sizes = [2 * (fan_in**2 + out**2) * 4 / 2**30 for fan_in, out in ((512, 4), (40_000, 50_000))]
    expected = (
        rf"would keep {sum(sizes):,.3g} GiB of factors, {sizes[1]:,.3g} GiB of them for 1.weight"
    )
    optimizer = KFAC(model.named_parameters())
    with pytest.raises(UnsupportedError, match=expected):
        require_fitting(optimizer, blocks, float("inf"), 8.0)
    require_fitting(optimizer, blocks, 1024, 8.0)  # as the refusal advises


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("name", ["mlp_ce", "conv"])
def test_large_factors_are_kept_as_diagonals(method: type[KFAC], name: str) -> None:
    """The diagonal of the dense factor, and a step that is the dense solve with the diagonal
    matrix."""
    problem = CASES[name]()
    dense, limited = copy.deepcopy(problem), copy.deepcopy(problem)
    options: dict[str, object] = {
        "lr": 0.5,
        "damping": 0.1,
        "fisher": "exact",
        "kl_clip": None,
        "momentum": 0.0,
    }
    # above: (in + bias, out) = (5, 5), (6, 3); (9, 3), (13, 2)
    limit = 4 if name == "mlp_ce" else 5
    whole = KFAC(dense.model.named_parameters(), **options)
    whole.step(dense.objective())
    optimizer = method(limited.model.named_parameters(), max_dim=limit, **options)
    objective = limited.objective()
    optimizer.step(objective)
    layers = [[m for m in p.model if hasattr(m, "weight")] for p in (problem, dense, limited)]
    for start, full, short in zip(*layers, strict=True):
        expected, state = whole.state[full.weight], optimizer.state[short.weight]
        for key in ("a", "g"):
            wanted = expected[key] if len(expected[key]) <= limit else expected[key].diagonal()
            close(state[key], wanted)
        a, g = (torch.diag(state[k]) if state[k].ndim == 1 else state[k] for k in ("a", "g"))
        root, gradient = 0.1**0.5, matrix(short.weight.grad, short.bias.grad) / objective.scale
        if method is KFAC:
            pi = ((a.trace() / len(a)) / (g.trace() / len(g))) ** 0.5
            curved = torch.kron(
                g + root / pi * torch.eye(len(g)).double(),
                a + pi * root * torch.eye(len(a)).double(),
            )
        else:
            bases = [
                state.get(f"{k}_basis", torch.eye(len(f)).double()) for k, f in (("g", g), ("a", a))
            ]
            basis = torch.kron(*(base.contiguous() for base in bases))
            curved = (basis * (state["scales"].flatten() + 0.1)) @ basis.T
        move = matrix(short.weight, short.bias) - matrix(start.weight, start.bias)
        close(move.flatten(), -0.5 * torch.linalg.solve(curved, gradient.flatten()))
    assert any(optimizer.state[m.weight]["a"].ndim == 1 for m in layers[2])
    assert any(optimizer.state[m.weight]["g"].ndim == 2 for m in layers[2])


def matrix(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight.detach().flatten(1), bias.detach()[:, None]], dim=1)


def test_skipped_layers_are_left_to_the_fallback() -> None:
    problem = stack(3)
    whole = KFAC(copy.deepcopy(problem).model.named_parameters(), fallback="sgd")
    assert whole.skip == ()
    optimizer = KFAC(
        problem.model.named_parameters(), skip=["2."], fallback="sgd", fallback_lr=0.01
    )
    before = problem.model[2].weight.detach().clone()
    optimizer.step(problem.objective())
    rules = optimizer.layer_coverage()
    assert {name for name, rule in rules.items() if rule == "sgd"} == {"2.weight", "2.bias"}
    assert {rules[name] for name in rules if not name.startswith("2.")} == {"kfac"}
    assert not {"a", "g"} & set(optimizer.state[problem.model[2].weight])
    close(problem.model[2].weight.detach(), before - 0.01 * problem.model[2].weight.grad)
    assert optimizer.telemetry()["preconditioned"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("step_rule", ["lr", "exact"])
def test_state_bytes_are_the_formula(method: type[KFAC], step_rule: str) -> None:
    """2 (in^2 + out^2) + in out floats a layer, EKFAC in out more."""
    torch.manual_seed(0)
    sizes = (20, 30, 25, 10)
    problem = Problem(
        mlp(sizes), nn.CrossEntropyLoss(), torch.randn(8, 20), torch.randint(10, (8,))
    )
    optimizer = method(problem.model.named_parameters(), step_rule=step_rule)
    for _ in range(2):
        optimizer.step(problem.objective())
    tensors = [
        t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
    ]
    assert {t.dtype for t in tensors} == {torch.float32}
    shapes = [(fan_in + 1, out) for fan_in, out in itertools.pairwise(sizes)]
    extra = 2 if method is EKFAC else 1
    floats = sum(2 * (a**2 + g**2) + extra * a * g for a, g in shapes)
    assert sum(t.numel() for t in tensors) == pytest.approx(floats, rel=0.01)


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize(
    "options", [{}, {"staggered": True}, {"step_rule": "exact"}, {"fisher": "empirical"}], ids=str
)
def test_a_model_without_known_layers_is_trained_by_the_fallback(
    method: type[KFAC], options: dict[str, object]
) -> None:
    problem = CASES["rosenbrock"]()
    twin = copy.deepcopy(problem)
    optimizer = method(problem.model.named_parameters(), fallback_lr=0.05, **options)
    other = torch.optim.AdamW(twin.model.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(5):
        optimizer.step(problem.objective())
        other.step(twin.objective())
    close(flat(problem), flat(twin))
    assert optimizer.layer_coverage() == {"x": "adamw"}
    assert optimizer.telemetry()["preconditioned"] == 0
