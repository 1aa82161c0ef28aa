"""L-BFGS: the recursion against dense matrices, trajectories against torch and scikit-learn, pairs
on mini-batches."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from optimizers import Objective
from optimizers.minimize import minimize
from optimizers.quasi_newton import BFGS, LBFGS
from optimizers.quasi_newton.dense import bfgs_update_
from optimizers.quasi_newton.lbfgs import two_loop
from tasks.functions.problems import PROBLEMS
from tests.optimizers.cases import CASES, Problem, Reference, close, mlp


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(problem: Problem) -> Tensor:
    return torch.cat([p.detach().flatten() for p in problem.params])


def dense(steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The BFGS matrix of the pairs from (s.y / y.y) I of the newest."""
    s, y = steps[-1], changes[-1]
    inverse = torch.eye(len(s), dtype=s.dtype) * (s @ y / (y @ y))
    for s, y in zip(steps, changes, strict=True):
        bfgs_update_(inverse, s, y)
    return inverse


def pairs_of(count: int, size: int = 12) -> tuple[list[Tensor], list[Tensor]]:
    matrix = normal(size, size) @ normal(size, size).T + torch.eye(size).double()
    steps = [normal(size, seed=i) for i in range(count)]
    return steps, [matrix @ s for s in steps]


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_the_recursion_is_the_dense_inverse(count: int) -> None:
    steps, changes = pairs_of(count)
    vector = normal(12, seed=99)
    saved = vector.clone()
    inverse = dense(steps, changes)
    close(two_loop(vector, steps, changes), inverse @ vector, 1e-11)
    close(two_loop(changes[-1], steps, changes), steps[-1], 1e-12)
    assert torch.equal(vector, saved)


def test_the_buffer_keeps_the_newest_pairs_in_order() -> None:
    model = nn.Linear(3, 3, bias=False).double()
    optimizer = LBFGS(model.parameters(), history=3)
    steps, changes = pairs_of(8, 9)
    vector = normal(9, seed=99)
    for i, pair in enumerate(zip(steps, changes, strict=True)):
        optimizer.learn(*pair)
        optimizer.param_groups[0]["pairs"] += 1
        first = max(0, i - 2)
        close(
            optimizer.apply(vector),
            two_loop(vector, steps[first : i + 1], changes[first : i + 1]),
            1e-12,
        )
    state = optimizer.state[model.weight]
    assert sum(t.numel() for t in state.values()) == 2 * 3 * 9


def test_with_a_long_memory_every_direction_is_that_of_bfgs() -> None:
    """Scaled alike: the dense matrix is built anew from (s.y / y.y) I of the newest pair."""
    problem = CASES["mlp_ce"]()
    optimizer = LBFGS(problem.model.parameters(), history=100)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(25):
        before = Reference(problem)
        optimizer.step(problem.objective(0.01))
        after = Reference(problem)
        steps.append(after.theta - before.theta)
        changes.append(after.gradient() - before.gradient() + 0.01 * steps[-1])
        gradient = after.gradient() + 0.01 * after.theta
        close(optimizer.apply(gradient), dense(steps, changes) @ gradient, 1e-6)


def test_the_first_two_steps_are_those_of_bfgs() -> None:
    """Then H0 stays that of the first pair in BFGS and moves on in L-BFGS."""
    ends = []
    for kind in (LBFGS, BFGS):
        problem = CASES["mlp_ce"]()
        optimizer = kind(problem.model.parameters())  # type: ignore[operator]
        for _ in range(2):
            optimizer.step(problem.objective())
        ends.append(flat(problem))
    close(ends[0], ends[1], 1e-12)


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_mse", "conv"])
def test_fixed_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = CASES[name](), CASES[name]()
    optimizer = LBFGS(ours.model.parameters(), lr=0.3, history=5, line_search="none")
    reference = torch.optim.LBFGS(
        theirs.model.parameters(), lr=0.3, history_size=5, max_iter=1, tolerance_grad=0
    )
    objective = theirs.objective()
    for _ in range(20):
        optimizer.step(ours.objective())
        reference.step(objective.on(theirs.inputs, theirs.targets))  # type: ignore[arg-type]
    close(flat(ours), flat(theirs), 1e-8)


def test_logistic_regression_as_scikit_learn() -> None:
    inputs, weight = normal(60, 4), normal(4, 3, seed=1)
    targets = (inputs @ weight + normal(60, 3, seed=2)).argmax(1)
    reference = LogisticRegression(
        C=1 / (60 * 0.01), tol=1e-12, max_iter=10000, fit_intercept=False
    )
    reference.fit(inputs.numpy(), targets.numpy())
    model = nn.Linear(4, 3, bias=False).double()
    optimizer = LBFGS(model.parameters())
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets, l2=0.01)
    for _ in range(60):
        optimizer.step(objective.on(inputs, targets))
        if float(objective.value_and_gradient()[1].norm()) < 1e-11:
            break
    close(model.weight.detach(), torch.from_numpy(reference.coef_), 1e-5)


@pytest.mark.parametrize("name", ["extended_rosenbrock", "penalty1"])
def test_many_parameters(name: str) -> None:
    result = minimize(PROBLEMS[name], PROBLEMS[name].start(2000), LBFGS, tol=1e-6)
    assert result.success
    assert result.counts["value"] <= 120


# -- mini-batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["mlp_mse", "mlp_mse_sum", "mlp_mse_example", "mlp_ce", "mlp_ce_sum"]
)
@pytest.mark.parametrize(("overlap", "count"), [(0.5, 3), (0.2, 1), (0.01, 1), (0.999, 6)])
def test_a_pair_on_an_overlap_is_the_change_of_its_mean_gradient(
    name: str, overlap: float, count: int
) -> None:
    """On the last examples of the batch, in units of the batch's loss, with all of the
    regulariser."""
    problem = CASES[name]()
    part = Problem(
        problem.model, problem.loss_fn, problem.inputs[-count:], problem.targets[-count:]
    )
    before = Reference(part, 0.3)
    optimizer = LBFGS(problem.model.parameters(), line_search="none", overlap=overlap, lr=0.1)
    optimizer.step(problem.objective(0.3))
    after = Reference(part, 0.3)
    s = after.theta - before.theta
    data = after.gradient() - before.gradient() - 0.3 * s
    if name.endswith("sum"):
        data *= len(problem.inputs) / count
    state = optimizer.state[problem.params[0]]
    close(state["steps"][0], s)
    close(state["changes"][0], data + 0.3 * s, 1e-8)


def test_a_whole_overlap_is_the_full_batch() -> None:
    """0.999 of six examples are six: the pair is measured apart, and nothing else changes."""
    ends = []
    for overlap in (1.0, 0.999):
        problem = CASES["mlp_ce"]()
        optimizer = LBFGS(problem.model.parameters(), line_search="none", lr=0.5, overlap=overlap)
        for _ in range(15):
            optimizer.step(problem.objective(0.01))
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-9)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"line_search": "none"}, {"value": 2, "grad": 2}),
        ({"line_search": "none", "overlap": 0.5}, {"value": 2, "grad": 2}),  # two of them on half
        ({"line_search": "armijo"}, {"value": 2, "grad": 2}),
        ({"line_search": "armijo", "overlap": 0.5}, {"value": 3, "grad": 2}),
    ],
)
def test_counts_of_a_first_step_on_a_mini_batch(
    options: dict[str, object], counts: dict[str, int]
) -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    LBFGS(problem.model.parameters(), lr=0.1, **options).step(objective)  # type: ignore[arg-type]
    assert objective.counts == counts


def test_an_overlap_with_whole_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap must be 1 with line_search='strong_wolfe'"):
        LBFGS(mlp().parameters(), overlap=0.5)


def test_damped_pairs_keep_their_share_of_the_curvature() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = LBFGS(problem.model.parameters(), history=50, line_search="armijo", damping=0.2)
    objective = problem.objective()
    for step in range(20):
        index = torch.tensor([step % 6, (step + 2) % 6, (step + 3) % 6])
        batch = Problem(
            problem.model, problem.loss_fn, problem.inputs[index], problem.targets[index]
        )
        known = optimizer.param_groups[0]["pairs"]
        before = Reference(batch)
        direction = -optimizer.apply(before.gradient()) if known else -before.gradient()
        optimizer.step(objective.on(batch.inputs, batch.targets))
        s = flat(problem) - before.theta
        alpha = float(s @ direction / (direction @ direction))
        if known and optimizer.param_groups[0]["pairs"] == known + 1:
            state = optimizer.state[problem.params[0]]
            bent = -alpha * float(s @ before.gradient())
            assert float(state["steps"][known] @ state["changes"][known]) >= 0.2 * bent * (1 - 1e-6)


@pytest.mark.parametrize(
    ("line_search", "overlap"), [("strong_wolfe", 1.0), ("armijo", 0.5), ("none", 0.25)]
)
def test_mini_batches_of_a_convex_problem(line_search: str, overlap: float) -> None:
    """Logistic regression on batches of a quarter with short steps ends near the optimum of all
    examples."""
    inputs, weight = normal(400, 5), normal(5, 3, seed=1)
    targets = (inputs @ weight + normal(400, 3, seed=2)).argmax(1)
    generator = torch.Generator().manual_seed(0)

    def end(optimizer: LBFGS, model: nn.Module, size: int) -> float:
        objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets, l2=0.01)
        for _ in range(60):
            index = torch.randperm(400, generator=generator)[:size]
            optimizer.step(objective.on(inputs[index], targets[index]))
        return float(objective.on(inputs, targets).value())

    torch.manual_seed(0)
    model, twin = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    best = end(LBFGS(model.parameters()), model, 400)
    ours = LBFGS(twin.parameters(), lr=0.2, line_search=line_search, overlap=overlap, damping=0.2)
    assert best < end(ours, twin, 100) < 1.05 * best
