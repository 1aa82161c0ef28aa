"""TNT: a dense twin, the Fisher matrix that its covariances estimate, what it contains."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from optimizers.errors import UnsupportedError
from optimizers.natural_gradient import TNT
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp
from tests.optimizers.digits import best_of_momentum, trained
from tests.optimizers.matrix_cases import classifier, kernels


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def run(problem: Problem, optimizer: TNT, steps: int, **options: object) -> list[Tensor]:
    objective = problem.objective(generator=torch.Generator().manual_seed(0), **options)
    return [optimizer.step(objective.on(problem.inputs, problem.targets)) for _ in range(steps)]


# -- a dense twin ----------------------------------------------------------------------------------


def sampled_gradients(problem: Problem, steps: int) -> list[dict[Tensor, Tensor]]:
    """The gradients under the targets that a run of so many steps draws, all at the initial
    point."""
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    results = []
    for _ in range(steps):
        own = objective.on(problem.inputs, problem.targets)
        own()
        drawn = own.sampled()
        drawn()
        weight = drawn.terms**0.5 / drawn.scale
        results.append({p: p.grad.clone() * weight for p in problem.params})  # type: ignore[union-attr]
    return results


def dense_direction(
    samples: list[Tensor], gradient: Tensor, view: tuple[int, ...], damping: float
) -> Tensor:
    """The Kronecker product of all damped covariances as one matrix, and its solve."""
    samples, gradient = [sample.reshape(view) for sample in samples], gradient.reshape(view)
    unfolded = [
        [sample.movedim(i, 0).reshape(size, -1) for sample in samples]
        for i, size in enumerate(view)
    ]
    second = [torch.stack([each @ each.T for each in mode]).mean(0) for mode in unfolded]
    mean = (second[0].trace() / math.prod(view)) ** (1 / len(view))
    dense = torch.ones(1, 1).double()
    for size, moment in zip(view, second, strict=True):
        covariance = moment / (mean ** (len(view) - 1) * math.prod(view) / size)
        close(covariance.trace() / size, mean)  # all modes have the same mean eigenvalue
        damped = covariance + damping ** (1 / len(view)) * torch.eye(size).double()
        dense = torch.kron(dense, damped)
    return torch.linalg.solve(dense, gradient.flatten())


def views(parameter: Tensor, kernels: str) -> tuple[int, ...]:
    if kernels == "matrix" and parameter.ndim == 4:
        return (parameter.shape[0], parameter.shape[1:].numel())
    if kernels == "filter" and parameter.ndim == 4:
        return (*parameter.shape[:2], parameter.shape[2:].numel())
    return tuple(parameter.shape)


@pytest.mark.parametrize("shape", ["filter", "matrix", "tensor"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_dense_twin(shape: str, steps: int) -> None:
    """With a plain mean of the factors (decay one) at a fixed point, then one step."""
    problem = kernels() if steps == 1 else classifier()
    for parameter in problem.params[3:]:
        parameter.requires_grad_(False)  # the dense matrix stays small
    samples = sampled_gradients(problem, steps)
    objective = problem.objective()
    objective()
    gradients = {p: p.grad.clone() / objective.scale for p in problem.params}  # type: ignore[union-attr]
    before = {p: p.detach().clone() for p in problem.params}
    optimizer = TNT(
        problem.params,
        lr=0.0,
        damping=0.2,
        decay=1.0,
        momentum=0.0,
        statistics_period=1,
        period=1,
        kernels=shape,
    )
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    for number in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 if number == steps - 1 else 0.0
        optimizer.step(objective.on(problem.inputs, problem.targets))
    for parameter in problem.params:
        seen = [sample[parameter] for sample in samples]
        expected = dense_direction(seen, gradients[parameter], views(parameter, shape), 0.2)
        close((before[parameter] - parameter.detach()).flatten(), 0.5 * expected, 1e-9)


def test_momentum_is_the_gradients() -> None:
    """With inverses from the first step alone: M = 0.9 M + g between them."""
    problem = classifier()
    twin = copy.deepcopy(problem)
    optimizer = TNT(
        problem.model.named_parameters(), lr=0.1, damping=0.3, statistics_period=100, period=100
    )
    run(problem, optimizer, 4)
    objective = twin.objective(generator=torch.Generator().manual_seed(0))
    averages = [torch.zeros_like(p) for p in twin.params]
    for _ in range(4):
        objective.on(twin.inputs, twin.targets)()
        for average, theirs, ours in zip(averages, twin.params, problem.params, strict=True):
            average.mul_(0.9).add_(theirs.grad)  # type: ignore[arg-type]
            state = optimizer.state[ours]
            move = state["inverse_0"] @ average
            theirs.data -= 0.1 * (move @ state["inverse_1"] if average.ndim == 2 else move)
    close(flat(problem), flat(twin), 1e-10)


# -- what the covariances are ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_ce_sum", "mlp_mse", "mlp_bce_example"])
def test_the_factors_estimate_the_fisher_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over many draws a vector's is its block of the exact Gauss-Newton matrix, a matrix's two its
    partial traces."""
    monkeypatch.setattr(TNT, "_refresh", lambda *_: None)
    problem = CASES[name]()
    optimizer = TNT(problem.model.named_parameters(), lr=0.0, decay=1.0, statistics_period=1)
    run(problem, optimizer, 600)
    objective = problem.objective()
    objective.value()
    ggn = Reference(problem).ggn() / objective.scale
    weight, bias = (optimizer.state[p] for p in problem.params[-2:])  # (3, 5) and (3,)
    block = ggn[-18:-3, -18:-3].reshape(3, 5, 3, 5)
    rows, columns = block.diagonal(dim1=1, dim2=3).sum(-1), block.diagonal(dim1=0, dim2=2).sum(-1)
    close(bias["factor_0"], ggn[-3:, -3:], 0.2)
    close(weight["factor_0"], rows, 0.2)
    close(weight["factor_1"], columns, 0.2)


def test_a_regulariser_is_damping_and_no_part_of_the_covariances() -> None:
    factors = []
    for l2 in (0.0, 0.7):
        problem = CASES["mlp_mse"]()
        optimizer = TNT(
            problem.model.named_parameters(), lr=0.0, statistics_period=1, period=1, damping=0.1
        )
        run(problem, optimizer, 1, l2=l2)
        factors.append(optimizer.state[problem.params[0]])
        scale = problem.objective()
        scale.value()
    close(factors[1]["factor_0"], factors[0]["factor_0"])
    added = 0.1 + 0.7 / scale.scale
    one = torch.linalg.inv(factors[1]["inverse_0"]) - torch.linalg.inv(factors[0]["inverse_0"])
    close(one, (added**0.5 - 0.1**0.5) * torch.eye(5).double(), 1e-8)


# -- inclusions and invariances --------------------------------------------------------------------


def test_huge_damping_is_momentum() -> None:
    damping = 1e24
    problem = classifier()
    twin = copy.deepcopy(problem)
    run(
        problem,
        TNT(problem.model.named_parameters(), lr=0.2 * damping, damping=damping, momentum=0.8),
        12,
    )
    theirs = torch.optim.SGD(twin.model.parameters(), lr=0.2, momentum=0.8)
    for _ in range(12):
        theirs.step(twin.objective())  # type: ignore[arg-type]
    close(flat(problem), flat(twin), 1e-9)


@pytest.mark.parametrize("family", ["mse", "bce"])
@pytest.mark.parametrize("fisher", ["sampled", "empirical"])
def test_same_trajectory_whatever_the_reduction(family: str, fisher: str) -> None:
    ends = []
    for reduction in ("", "_sum", "_example"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        run(
            problem,
            TNT(problem.model.named_parameters(), fisher=fisher, statistics_period=2, period=4),
            10,
        )
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-9)
    close(ends[2], ends[0], 1e-9)


def test_order_and_groups_of_the_parameters_do_not_matter() -> None:
    ends = []
    for arrange in (
        list,
        lambda named: named[::-1],
        lambda named: [{"params": named[:2]}, {"params": named[2:]}],
    ):
        problem = CASES["mlp_ce"]()
        run(problem, TNT(arrange(list(problem.model.named_parameters())), statistics_period=2), 8)
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-11)
    close(ends[2], ends[0], 1e-11)


# -- cost, state, faults ---------------------------------------------------------------------------


def test_a_second_gradient_in_the_steps_with_statistics() -> None:
    problem = CASES["mlp_ce"]()
    for fisher, expected in (("sampled", 6), ("empirical", 4)):
        objective = problem.objective()
        optimizer = TNT(problem.model.named_parameters(), statistics_period=2, fisher=fisher)
        assert optimizer.needs == ({"sampled"} if fisher == "sampled" else set())
        for _ in range(4):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        assert objective.counts["grad"] == expected


def test_state_is_what_the_formula_says() -> None:
    problem = kernels()
    optimizer = TNT(problem.model.named_parameters())
    run(problem, optimizer, 2)
    for parameter in problem.params:
        view = views(parameter, "filter")
        held = sum(
            t.numel()
            for key, t in optimizer.state[parameter].items()
            if isinstance(t, Tensor) and key != "step"
        )
        assert held == 2 * sum(size**2 for size in view) + parameter.numel()


def test_an_inverse_that_fails_keeps_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = classifier()
    optimizer = TNT(problem.model.named_parameters(), statistics_period=1, period=1)
    run(problem, optimizer, 2)
    saved = [state["inverse_0"].clone() for state in optimizer.state.values()]
    monkeypatch.setattr(
        "optimizers.natural_gradient.tnt.inverses_positive", lambda matrices: [None] * len(matrices)
    )
    before = flat(problem)
    run(problem, optimizer, 1)
    after = [state["inverse_0"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(saved, after, strict=True))
    assert optimizer.failures["inverse"] == sum(p.ndim for p in problem.params)
    assert not torch.equal(before, flat(problem))


def test_sampled_gradients_that_are_not_finite_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = classifier()
    optimizer = TNT(problem.model.named_parameters(), statistics_period=1, period=1)
    run(problem, optimizer, 2)
    saved = [state["factor_0"].clone() for state in optimizer.state.values()]
    monkeypatch.setattr(
        TNT, "_fisher_gradient", lambda self, stack, like: torch.full_like(like, float("nan"))
    )
    run(problem, optimizer, 1)
    after = [state["factor_0"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(saved, after, strict=True))
    assert optimizer.failures["statistics"] > 0
    assert bool(flat(problem).isfinite().all())


@pytest.mark.parametrize("name", ["conv", "conv_bn", "lstm", "multihead", "tied", "sdpa"])
def test_layers_of_all_kinds(name: str) -> None:
    """It needs the shapes only: every parameter has its covariances."""
    problem = CASES[name]()
    optimizer = TNT(problem.model.named_parameters(), statistics_period=2, period=5)
    losses = run(problem, optimizer, 60)
    assert losses[-1] < 0.97 * losses[0]
    assert set(optimizer.layer_coverage().values()) == {"tnt"}
    telemetry = optimizer.telemetry()
    assert telemetry["preconditioned"] == 1
    assert telemetry["condition"] >= 1


def test_vectors_and_long_sides_are_left_out_on_request() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = TNT(problem.model.named_parameters(), vectors=False, max_dimension=4, lr=0.1)
    run(problem, optimizer, 3)
    assert optimizer.layer_coverage() == {
        "0.weight": "tnt",
        "0.bias": "adamw",
        "2.weight": "tnt",
        "2.bias": "adamw",
    }
    assert "factor_0" not in optimizer.state[problem.params[0]]
    assert optimizer.needs == {"sampled", "matrices"}
    with pytest.raises(UnsupportedError, match="max_gib"):
        TNT(mlp().named_parameters(), max_gib=1e-9)


def test_it_beats_momentum_on_the_autoencoder() -> None:
    assert trained(TNT) < 0.99 * best_of_momentum()


def test_an_unknown_loss_is_refused() -> None:
    problem = CASES["mlp_ce"]()
    problem.loss_fn = nn.MultiMarginLoss()
    with pytest.raises(UnsupportedError, match="sampled"):
        run(problem, TNT(problem.model.named_parameters()), 1)
    run(problem, TNT(problem.model.named_parameters(), fisher="empirical"), 1)
