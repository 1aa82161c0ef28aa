"""SINGD: the singd package's trajectory, the inverse it approaches, what it contains."""

from __future__ import annotations

import copy
import io
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from optimizers.errors import UnsupportedError
from optimizers.natural_gradient import SINGD
from tests.optimizers.cases import CASES, Problem, close, mlp
from tests.optimizers.digits import best_of_momentum, trained

COMMON: dict[str, object] = {"lr": 0.05, "lr_cov": 0.05, "damping": 0.01}


def classes(model: nn.Module, *shape: int, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(1)
    inputs, targets = torch.randn(20, *shape, dtype=torch.float64), torch.randint(3, (20,))
    return Problem(model.to(dtype), nn.CrossEntropyLoss(), inputs.to(dtype), targets)


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(75, 3))


def net(*sizes: int) -> nn.Module:
    torch.manual_seed(0)
    return mlp(sizes)


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def run(problem: Problem, optimizer: SINGD, steps: int, **options: object) -> list[Tensor]:
    objective = problem.objective(generator=torch.Generator().manual_seed(0), **options)
    return [optimizer.step(objective.on(problem.inputs, problem.targets)) for _ in range(steps)]


def package_run(problem: Problem, steps: int, **options: object) -> None:
    """The singd package on the same full batches."""
    pytest.importorskip("singd")
    from singd.optim.optimizer import SINGD as Package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow fall-backs
        optimizer = Package(problem.model, **COMMON, T=3, loss_average="batch", **options)
        for _ in range(steps):
            optimizer.zero_grad()
            problem.loss_fn(problem.model(problem.inputs), problem.targets).backward()
            optimizer.step()


TWINS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "plain": ({}, {}),
    "normalized": ({"normalize": True}, {"normalize_lr_cov": True}),
    "kfac_like": ({"kfac_like": True}, {"kfac_like": True, "alpha1": 0.0}),
    "diagonal": (
        {"input_structure": "diagonal", "output_structure": "diagonal"},
        {"structures": ("diagonal", "diagonal")},
    ),
    "reduce": ({"shared_weights": "reduce"}, {"kfac_approx": "reduce"}),
}


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("twin", TWINS)
def test_the_trajectory_of_the_package(kind: str, twin: str) -> None:
    problem = classes(net(4, 7, 5, 3), 4) if kind == "mlp" else classes(conv(), 2, 4, 4)
    other = copy.deepcopy(problem)
    ours, theirs = TWINS[twin]
    optimizer = SINGD(
        problem.model.named_parameters(),
        **COMMON,
        statistics_period=3,
        **{"normalize": False, **ours},
    )
    run(problem, optimizer, 20)
    package_run(other, 20, **theirs)
    close(flat(problem), flat(other), 1e-9)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("block", "block30diagonal"),
        ("hierarchical", "hierarchical15_15"),
        ("lower_toeplitz", "triltoeplitz"),
        ("upper_toeplitz", "triutoeplitz"),
    ],
)
def test_structures_in_the_package_s_only_precision(name: str, theirs: str) -> None:
    problem = classes(net(40, 35, 3), 40, dtype=torch.float32)
    other = copy.deepcopy(problem)
    structures = {"input_structure": name, "output_structure": name}
    run(
        problem,
        SINGD(
            problem.model.named_parameters(),
            **COMMON,
            statistics_period=3,
            normalize=False,
            **structures,
        ),
        9,
    )
    package_run(other, 9, structures=(theirs, theirs))
    close(flat(problem), flat(other), 1e-4)


# -- what the factors approach ---------------------------------------------------------------------


def settled(problem: Problem, steps: int = 400, **options: object) -> SINGD:
    """After many updates of the factors at a fixed point."""
    optimizer = SINGD(
        problem.model.named_parameters(),
        lr=0.0,
        fallback_lr=0.0,
        statistics_period=1,
        lr_cov=0.2,
        **options,
    )
    run(problem, optimizer, steps)
    return optimizer


def moments(problem: Problem, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """A and G of a linear layer from plain autograd, for a mean loss."""
    seen: dict[str, Tensor] = {}
    handle = layer.register_forward_hook(
        lambda _, inputs, output: seen.update(a=inputs[0], s=output)
    )
    loss = problem.loss_fn(problem.model(problem.inputs), problem.targets)
    (g,) = torch.autograd.grad(loss, seen["s"])
    handle.remove()
    count = len(g)
    abar = torch.cat([seen["a"], torch.ones(count, 1, dtype=g.dtype)], dim=1).detach()
    return abar.T @ abar / count, count * g.T @ g


def test_on_fixed_moments_it_approaches_the_damped_inverse() -> None:
    problem = classes(net(4, 5, 3), 4)
    optimizer = settled(problem, kfac_like=True, damping=0.2)
    for layer in (problem.model[0], problem.model[2]):
        assert isinstance(layer, nn.Linear)
        for name, moment in zip("ag", moments(problem, layer), strict=True):
            root, one = (
                optimizer.state[layer.weight][f"{name}_root"],
                torch.eye(len(moment)).double(),
            )
            close(root @ root.T @ (moment + 0.2 * one), one, 1e-10)


def test_without_the_option_each_factor_is_weighed_by_the_other() -> None:
    """K'(tr(C'GC) / q A + damping tr(C'C) / q I) K = I, and the same for C."""
    problem = classes(net(4, 5, 3), 4)
    optimizer = settled(problem, damping=0.2)
    layer = problem.model[0]
    assert isinstance(layer, nn.Linear)
    a, g = moments(problem, layer)
    k, c = (optimizer.state[layer.weight][name] for name in ("a_root", "g_root"))
    for root, moment, other, weight in ((k, a, c, g), (c, g, k, a)):
        size = len(other)
        goal = (other.T @ weight @ other).trace() / size * moment
        goal += 0.2 * (other.T @ other).trace() / size * torch.eye(len(moment)).double()
        close(root.T @ goal @ root, torch.eye(len(moment)).double(), 1e-10)


def test_a_factor_that_blows_up_is_left_as_it_was() -> None:
    problem = classes(net(4, 5, 3), 4)
    problem.inputs *= 1e80
    optimizer = SINGD(
        problem.model.named_parameters(),
        lr=0.0,
        statistics_period=1,
        lr_cov=0.5,
        normalize=False,
        kfac_like=True,
    )
    run(problem, optimizer, 4)
    assert optimizer.failures["factor"] > 0
    roots = [state["a_root"] for state in optimizer.state.values() if "a_root" in state]
    assert len(roots) == 2
    assert all(bool(root.isfinite().all()) for root in roots)
    assert bool(flat(problem).isfinite().all())


# -- what it contains and what it does not need ----------------------------------------------------


def test_factors_that_stay_at_the_identity_are_momentum() -> None:
    problem = CASES["mlp_ce"]()
    twin = copy.deepcopy(problem)
    theirs = torch.optim.SGD(twin.model.parameters(), lr=0.2, momentum=0.8)
    run(problem, SINGD(problem.model.named_parameters(), lr=0.2, momentum=0.8, lr_cov=0.0), 10)
    for _ in range(10):
        theirs.step(twin.objective())  # type: ignore[arg-type]
    close(flat(problem), flat(twin), 1e-12)


def test_nothing_is_inverted_or_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("inverse or decomposition")

    for name in (
        "inv",
        "inv_ex",
        "cholesky",
        "cholesky_ex",
        "eigh",
        "solve",
        "solve_ex",
        "qr",
        "svd",
        "lu_factor",
    ):
        monkeypatch.setattr(torch.linalg, name, refuse)
    for name in ("inverse", "cholesky_inverse", "cholesky_solve", "pinverse"):
        monkeypatch.setattr(torch, name, refuse)
    problem = classes(net(4, 5, 3), 4)
    losses = run(problem, SINGD(problem.model.named_parameters(), statistics_period=2), 20)
    assert losses[-1] < 0.95 * losses[0]


def test_bfloat16_is_enough() -> None:
    """Factors and all arithmetic with them in half the bits; the checkpoint keeps them."""
    ends = {}
    for precision in ("float32", "bfloat16"):
        problem = classes(net(4, 8, 3), 4, dtype=torch.float32)
        optimizer = SINGD(
            problem.model.named_parameters(), precision=precision, statistics_period=2, lr=0.02
        )
        losses = run(problem, optimizer, 60)
        ends[precision] = float(losses[-1])
        assert losses[-1] < 0.7 * losses[0]
        roots = [state["a_root"] for state in optimizer.state.values() if "a_root" in state]
        assert {str(root.dtype) for root in roots} == {f"torch.{precision}"}
    assert ends["bfloat16"] == pytest.approx(ends["float32"], rel=0.05)
    other = SINGD(copy.deepcopy(problem.model).named_parameters(), precision="bfloat16")
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    loaded = [state["a_root"] for state in other.state.values() if "a_root" in state]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(loaded, roots, strict=True))


# -- layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "conv_bn", "lstm", "multihead", "tied", "sdpa"])
@pytest.mark.parametrize("structure", ["dense", "block"])
def test_layers_of_all_kinds(name: str, structure: str) -> None:
    problem = CASES[name]()
    optimizer = SINGD(
        problem.model.named_parameters(),
        input_structure=structure,
        output_structure=structure,
        block_size=2,
        lr=0.02,
        fallback="sgd",
        fallback_lr=0.02,
        statistics_period=3,
    )
    losses = run(problem, optimizer, 60)
    assert losses[-1] < 0.97 * losses[0]
    fallback = {key for key, rule in optimizer.layer_coverage().items() if rule == "sgd"}
    assert fallback == ({"1.weight", "1.bias"} if name == "conv_bn" else set())


def test_large_factors_are_diagonal_or_refused() -> None:
    problem = classes(net(4, 5, 3), 4)
    optimizer = SINGD(problem.model.named_parameters(), max_dim=4, statistics_period=1)
    run(problem, optimizer, 2)
    first, last = problem.model[0], problem.model[2]
    shapes = [
        tuple(optimizer.state[m.weight][key].shape)
        for m in (first, last)
        for key in ("a_root", "g_root")
    ]
    assert shapes == [(5,), (5,), (6,), (3, 3)]
    with pytest.raises(UnsupportedError, match="max_gib"):
        run(problem, SINGD(problem.model.named_parameters(), max_gib=1e-9), 1)
    assert optimizer.telemetry()["preconditioned"] == 1


@pytest.mark.parametrize(
    ("structure", "numbers"), [("dense", 25 + 25), ("diagonal", 5 + 5), ("block", 12 + 12)]
)
def test_state_is_what_the_formula_says(structure: str, numbers: int) -> None:
    problem = CASES["mlp_ce"]()
    optimizer = SINGD(
        problem.model.named_parameters(),
        input_structure=structure,
        output_structure=structure,
        block_size=2,
    )
    run(problem, optimizer, 2)
    state = optimizer.state[problem.params[0]]  # (5, 4), with the bias (5, 5)
    assert (
        sum(
            value.numel()
            for key, value in state.items()
            if key.startswith(("a_", "g_")) and "root" in key
        )
        == numbers
    )
    assert sum(state[f"{name}_momentum"].numel() for name in "ag") == numbers
    assert state["momentum_buffer"].numel() == 20


def test_what_it_asks_for() -> None:
    params = mlp().parameters()
    assert SINGD(params).needs == {"layers"}
    assert SINGD(mlp().parameters(), fisher="sampled").needs == {"layers", "sampled"}
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    optimizer = SINGD(problem.model.named_parameters(), statistics_period=2)
    for _ in range(4):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    assert objective.counts["grad"] == 4


# -- invariances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mse", "bce"])
@pytest.mark.parametrize("fisher", ["empirical", "sampled", "exact"])
def test_same_trajectory_whatever_the_reduction(family: str, fisher: str) -> None:
    ends = []
    for reduction in ("", "_sum", "_example"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        run(
            problem, SINGD(problem.model.named_parameters(), fisher=fisher, statistics_period=2), 10
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
        run(problem, SINGD(arrange(list(problem.model.named_parameters())), statistics_period=2), 8)
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-12)
    close(ends[2], ends[0], 1e-12)


def test_it_beats_momentum_on_the_autoencoder() -> None:
    assert trained(SINGD) < 0.95 * best_of_momentum()


def test_bfloat16_factors_beat_momentum_too() -> None:
    assert trained(partial(SINGD, precision="bfloat16")) < 0.97 * best_of_momentum()
