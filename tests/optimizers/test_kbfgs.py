"""K-BFGS: scipy's BFGS update, a plain twin of the whole method, exact steps where theory has
them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.optimize import BFGS as ScipyBFGS
from torch import Tensor, nn

from optimizers.errors import UnsupportedError
from optimizers.natural_gradient import KBFGS, KFAC
from optimizers.natural_gradient.secants import bfgs, dot, double_damped, times
from tests.optimizers.cases import CASES, Problem, close, mlp
from tests.optimizers.digits import best_of_momentum, trained


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def run(problem: Problem, optimizer: KBFGS, steps: int, **options: object) -> list[Tensor]:
    objective = problem.objective(**options)
    return [optimizer.step(objective.on(problem.inputs, problem.targets)) for _ in range(steps)]


def pairs(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """(s, B s) for one positive definite B."""
    torch.manual_seed(0)
    rows = torch.randn(size, size, dtype=torch.float64)
    matrix = rows @ rows.T + torch.eye(size).double()
    steps = torch.randn(count, size, dtype=torch.float64)
    return [(s, matrix @ s) for s in steps]


# -- pairs -----------------------------------------------------------------------------------------


def test_the_update_is_scipys() -> None:
    theirs = ScipyBFGS(init_scale=1.0)
    theirs.initialize(5, "inv_hess")
    inverse = torch.eye(5).double()
    for s, y in pairs(8, 5):
        theirs.update(s.numpy(), y.numpy())
        inverse, good = bfgs(inverse, s, y, y)
        assert bool(good)
        close(inverse, torch.tensor(theirs.get_matrix()))
        close(times(inverse, y), s)


def test_damping_twice_makes_both_bounds_true() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 4, 4, dtype=torch.float64)
    inverse = rows @ rows.mT + 0.1 * torch.eye(4).double()
    s, y = torch.randn(2, 50, 4, dtype=torch.float64).unbind()
    inverse[40:], y[40:] = torch.eye(4).double(), 0.5 * s[40:]
    middle, _ = double_damped(inverse, s, y, 0.2, 0.0)
    new, other = double_damped(inverse, s, y, 0.2, 0.3)
    assert bool((dot(middle, y) >= 0.2 * dot(y, times(inverse, y)) - 1e-12).all())
    assert bool((dot(new, other) >= 0.3 * dot(new, new) - 1e-12).all())
    assert torch.equal(new, middle)
    untouched = (dot(s, y) >= 0.2 * dot(y, times(inverse, y))) & (dot(s, y) >= 0.3 * dot(s, s))
    assert 10 <= int(untouched.sum()) < 50
    close(new[untouched], s[untouched])
    close(other[untouched], y[untouched])
    changed, good = bfgs(inverse, new, other, torch.zeros(50, 4).double())
    assert bool(good.all())
    assert float(torch.linalg.eigvalsh(changed).min()) > 0


def test_pairs_that_are_flat_or_not_finite_change_nothing() -> None:
    inverse = torch.eye(3).double().repeat(4, 1, 1)
    s = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 2, 3]]).double()
    y = torch.tensor([[-1.0, 0, 0], [1e-5, 1, 0], [0, 0, 0], [float("nan"), 0, 0]]).double()
    changed, good = bfgs(inverse, s, y, torch.ones(4, 3).double())
    assert not bool(good.any())
    assert torch.equal(changed, inverse)


# -- the method ------------------------------------------------------------------------------------


class Twin:
    """The method for linear layers and a mean cross-entropy, in numpy, one small formula after the
    other."""

    def __init__(self, problem: Problem, lr: float, damping: float, steps: int) -> None:
        self.problem, self.lr, self.root = problem, lr, damping**0.5
        self.layers = [m for m in problem.model if isinstance(m, nn.Linear)]
        self.state: list[dict[str, np.ndarray]] = [{} for _ in self.layers]
        for step in range(1, steps + 1):
            self.step(step)

    def look(self) -> list[tuple[np.ndarray, ...]]:
        """abar, s, g by examples, and the gradient of the matrix, for each layer."""
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        handles = [
            m.register_forward_hook(lambda m, i, o: seen.update({m: (i[0], o)}))
            for m in self.layers
        ]
        loss = self.problem.loss_fn(self.problem.model(self.problem.inputs), self.problem.targets)
        for handle in handles:
            handle.remove()
        slopes = torch.autograd.grad(loss, [seen[m][1] for m in self.layers])
        results = []
        for layer, slope in zip(self.layers, slopes, strict=True):
            a, s = (part.detach().numpy() for part in seen[layer])
            abar, g = np.hstack([a, np.ones((len(a), 1))]), slope.numpy()
            results.append((abar, s, g * len(g), g.T @ abar))
        return results

    def step(self, number: int) -> None:
        before = self.look()
        keep = min(1 - 1 / number, 0.9)
        for (abar, s, _, gradient), state, layer in zip(
            before, self.state, self.layers, strict=True
        ):
            state["A"] = keep * state.get("A", 0) + (1 - keep) * abar.T @ abar / len(abar)
            if number == 1:
                state["Ha"] = np.linalg.inv(state["A"] + self.root * np.eye(len(state["A"])))
                state["Hg"], state["m"] = np.eye(s.shape[1]), np.zeros_like(gradient)
                state["s"], state["y"] = np.zeros(s.shape[1]), np.zeros(s.shape[1])
            state["m"] = 0.9 * state["m"] + 0.1 * gradient
            change = torch.tensor(self.lr * state["Hg"] @ state["m"] @ state["Ha"])
            layer.weight.data -= change[:, :-1]
            layer.bias.data -= change[:, -1]
        for first, second, state in zip(before, self.look(), self.state, strict=True):
            state["s"] = 0.9 * state["s"] + 0.1 * (second[1].mean(0) - first[1].mean(0))
            state["y"] = 0.9 * state["y"] + 0.1 * (second[2].mean(0) - first[2].mean(0))
            state["Hg"] = _update(
                state["Hg"], *self.damped(state), np.linalg.norm(first[2].mean(0))
            )
            mean = first[0].mean(0)
            s = state["Ha"] @ mean
            y = state["A"] @ s + self.root * s
            state["Ha"] = _update(state["Ha"], s, y, np.linalg.norm(mean))

    def damped(self, state: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        s, y, image = state["s"], state["y"], state["Hg"] @ state["y"]
        if s @ y < 0.2 * y @ image:
            theta = 0.8 * (y @ image) / (y @ image - s @ y)
            s = theta * s + (1 - theta) * image
        if s @ y < self.root * s @ s:
            theta = (1 - self.root) * (s @ s) / (s @ s - s @ y)
            y = theta * y + (1 - theta) * s
        return s, y


def _update(inverse: np.ndarray, s: np.ndarray, y: np.ndarray, norm: float) -> np.ndarray:
    if s @ y <= 1e-4 * (s @ s) * norm:
        return inverse
    left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
    return left @ inverse @ left.T + np.outer(s, s) / (s @ y)


@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_a_plain_twin(damping: float) -> None:
    problem = CASES["mlp_ce"]()
    other = copy.deepcopy(problem)
    optimizer = KBFGS(problem.model.named_parameters(), lr=0.5, damping=damping)
    run(problem, optimizer, 25)
    twin = Twin(other, 0.5, damping, 25)
    close(flat(problem), flat(other), 1e-8)
    for layer, state in zip(
        [m for m in problem.model if isinstance(m, nn.Linear)], twin.state, strict=True
    ):
        close(optimizer.state[layer.weight]["a_inverse"], torch.tensor(state["Ha"]), 1e-7)
        close(optimizer.state[layer.weight]["g_inverse"], torch.tensor(state["Hg"]), 1e-7)


def test_least_squares_is_solved_once_the_curvature_is_known() -> None:
    """One output: the first pair gives H_g = 1 / 2 exactly, and the second step is Newton's."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(20, 4).double(), torch.randn(20, 1).double()
    problem = Problem(nn.Linear(4, 1).double(), nn.MSELoss(), inputs, targets)
    optimizer = KBFGS(
        problem.model.named_parameters(), lr=1.0, momentum=0.0, damping=1e-18, pair_decay=0.0
    )
    run(problem, optimizer, 2)
    close(optimizer.state[problem.params[0]]["g_inverse"], torch.tensor([[0.5]]).double(), 1e-8)
    rows = torch.cat([inputs, torch.ones(20, 1).double()], dim=1)
    close(flat(problem), torch.linalg.lstsq(rows, targets).solution.flatten(), 1e-7)


def test_the_input_factor_stays_the_inverse_of_a_constant_matrix() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KBFGS(problem.model.named_parameters(), damping=0.04)
    run(problem, optimizer, 30)
    state = optimizer.state[problem.params[0]]  # the first layer's inputs do not change
    damped = state["a"] + 0.2 * torch.eye(5).double()
    close(state["a_inverse"] @ damped, torch.eye(5).double(), 1e-9)


def test_the_output_factor_satisfies_the_last_pair() -> None:
    """H_g (g+ - g) = s+ - s, the change of the mean pre-activation, on a loss that curves more than
    the damping."""
    problem = CASES["mlp_mse_sum"]()
    optimizer = KBFGS(problem.model.named_parameters(), lr=0.1, pair_decay=0.0, damping=1e-4)
    run(problem, optimizer, 12)
    state = optimizer.state[problem.params[2]]
    close(state["y"], 2 * state["s"], 1e-9)
    close(state["g_inverse"] @ state["y"], state["s"], 1e-9)


def test_huge_damping_is_momentum_where_the_loss_curves_little() -> None:
    """H_a -> I / sqrt(damping), and with mu_2 = 1 a pair of curvature below one leaves H_g = I."""
    damping = 1e20
    problem = CASES["mlp_ce"]()
    twin = copy.deepcopy(problem)
    run(
        problem, KBFGS(problem.model.named_parameters(), lr=0.2 * damping**0.5, damping=damping), 10
    )
    averages = [torch.zeros_like(p) for p in twin.params]
    for _ in range(10):
        twin.objective()()
        for average, parameter in zip(averages, twin.params, strict=True):
            assert parameter.grad is not None
            average.lerp_(parameter.grad, 0.1)
            parameter.data -= 0.2 * average
    close(flat(problem), flat(twin), 1e-8)


def test_a_second_gradient_in_the_steps_with_statistics() -> None:
    problem = CASES["mlp_ce"]()
    assert KBFGS(problem.model.parameters()).needs == {"layers"}
    for period, expected in ((1, 8), (2, 6), (4, 5)):
        objective = problem.objective()
        optimizer = KBFGS(problem.model.named_parameters(), statistics_period=period)
        for _ in range(4):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        assert objective.counts["grad"] == expected


def test_a_new_point_that_is_not_finite_leaves_the_factors() -> None:
    class Exponential(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.exp()

    problem = CASES["mlp_ce"]()
    problem.model = nn.Sequential(nn.Linear(4, 5), Exponential(), nn.Linear(5, 3)).double()
    optimizer = KBFGS(problem.model.named_parameters())
    run(problem, optimizer, 3)
    saved = [
        state["g_inverse"].clone() for state in optimizer.state.values() if "g_inverse" in state
    ]
    for group in optimizer.param_groups:
        group["lr"] = 1e8
    run(problem, optimizer, 1)
    after = [state["g_inverse"] for state in optimizer.state.values() if "g_inverse" in state]
    assert optimizer.failures["pair"] > 0
    assert all(torch.equal(a, b) for a, b in zip(saved, after, strict=True))


def test_a_first_inverse_that_fails_leaves_the_layer_to_the_fallback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KBFGS(problem.model.named_parameters())
    with monkeypatch.context() as patched:
        patched.setattr(
            "optimizers.natural_gradient.kbfgs.inverses_positive",
            lambda matrices: [None] * len(matrices),
        )
        run(problem, optimizer, 1)
    assert optimizer.failures["inverse"] == 2
    assert set(optimizer.layer_coverage().values()) == {"adamw"}
    run(problem, optimizer, 1)
    assert set(optimizer.layer_coverage().values()) == {"kbfgs"}


def test_state_is_what_the_formula_says() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KBFGS(problem.model.named_parameters())
    run(problem, optimizer, 2)
    for layer, (size, out) in zip(
        (problem.params[:2], problem.params[2:]), [(5, 5), (6, 3)], strict=True
    ):
        states = [optimizer.state[parameter] for parameter in layer]
        held = sum(
            value.numel()
            for state in states
            for value in state.values()
            if isinstance(value, Tensor)
        )
        assert held == 2 * size**2 + out**2 + size * out + 2 * out


@pytest.mark.parametrize("kind", [KBFGS, KFAC])
def test_factors_above_the_parameters_precision_survive_a_checkpoint(
    kind: type[KBFGS | KFAC],
) -> None:
    problem = CASES["mlp_ce"]()
    problem.model, problem.inputs = problem.model.bfloat16(), problem.inputs.bfloat16()
    optimizer = kind(problem.model.named_parameters(), statistics_period=1)
    objective = problem.objective(generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        optimizer.step(objective.on(problem.inputs, problem.targets))
    other = copy.deepcopy(problem)
    resumed = kind(other.model.named_parameters(), statistics_period=1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, run_on in ((problem, optimizer), (other, resumed)):
        objective = each.objective(generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            run_on.step(objective.on(each.inputs, each.targets))
    assert torch.equal(flat(problem), flat(other))
    assert resumed.state[other.params[0]]["a"].dtype == torch.float32


# -- layers and invariances ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "left"),
    [("conv", 0), ("conv_bn", 2), ("lstm", 0), ("multihead", 0), ("sdpa", 0), ("tied", 1)],
)
def test_layers_of_all_kinds(name: str, left: int) -> None:
    problem = CASES[name]()
    optimizer = KBFGS(problem.model.named_parameters(), fallback_lr=0.01, lr=0.1)
    losses = run(problem, optimizer, 60)
    assert losses[-1] < 0.97 * losses[0]
    assert list(optimizer.layer_coverage().values()).count("adamw") == left
    assert optimizer.telemetry()["condition"] >= 1


def test_large_layers_are_left_out_or_refused() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KBFGS(problem.model.named_parameters(), max_dim=5)
    run(problem, optimizer, 1)
    assert optimizer.layer_coverage() == {
        "0.weight": "kbfgs",
        "0.bias": "kbfgs",
        "2.weight": "adamw",
        "2.bias": "adamw",
    }
    with pytest.raises(UnsupportedError, match="max_gib"):
        run(problem, KBFGS(problem.model.named_parameters(), max_gib=1e-9), 1)


@pytest.mark.parametrize("family", ["mse", "bce"])
def test_same_trajectory_whatever_the_reduction(family: str) -> None:
    ends = []
    for reduction in ("", "_sum", "_example"):
        problem = CASES[f"mlp_{family}{reduction}"]()
        run(problem, KBFGS(problem.model.named_parameters()), 10)
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-8)
    close(ends[2], ends[0], 1e-8)


def test_order_and_groups_of_the_parameters_do_not_matter() -> None:
    ends = []
    for arrange in (
        list,
        lambda named: named[::-1],
        lambda named: [{"params": named[:2]}, {"params": named[2:]}],
    ):
        problem = CASES["mlp_ce"]()
        run(problem, KBFGS(arrange(list(problem.model.named_parameters()))), 8)
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-10)
    close(ends[2], ends[0], 1e-10)


def test_a_regulariser_adds_to_the_damping() -> None:
    first, second = CASES["mlp_ce"](), CASES["mlp_ce"]()
    one = KBFGS(first.model.named_parameters(), damping=0.1)
    two = KBFGS(second.model.named_parameters(), damping=0.3)
    run(first, one, 1, l2=0.2)
    run(second, two, 1)
    close(one.state[first.params[0]]["a_inverse"], two.state[second.params[0]]["a_inverse"])


def test_it_beats_momentum_on_the_autoencoder() -> None:
    """At equal steps, each with two gradients."""
    assert trained(KBFGS) < 0.96 * best_of_momentum()


def test_names() -> None:
    assert KBFGS(mlp().named_parameters()).rule == "kbfgs"
