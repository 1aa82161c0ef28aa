"""Statistics and inverses of K-FAC, spread over the steps of their periods or taken from a share of
the batch."""

from __future__ import annotations

import copy

import pytest
import torch

from optimizers import Objective
from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import CASES, close
from tests.optimizers.kfac_cases import STILL, flat, stack, weights


@pytest.mark.parametrize(("layers", "period"), [(5, 3), (2, 5), (3, 3), (1, 4), (7, 1)])
@pytest.mark.parametrize("inverse", ["cholesky", "eigen"])
def test_every_inverse_is_renewed_once_a_period(layers: int, period: int, inverse: str) -> None:
    problem = stack(layers)
    optimizer = KFAC(
        problem.model.named_parameters(), staggered=True, inverse_period=period, inverse=inverse
    )
    renewed = []
    original, optimizer._refresh = (
        optimizer._refresh,
        lambda blocks, objective: (  # type: ignore[method-assign]
            renewed.append([block.name for block in blocks]),
            original(blocks, objective),
        ),
    )
    name = "a_inverse" if inverse == "cholesky" else "a_basis"
    saved, changed = [None] * layers, []
    for _ in range(1 + 3 * period):
        optimizer.step(problem.objective())
        now = [optimizer.state[weight][name] for weight in weights(problem)]
        changed.append([old is not new for old, new in zip(saved, now, strict=True)])
        saved = now
    assert changed[0] == [True] * layers
    for first in range(1, 1 + 2 * period):  # any window of a period's length
        counts = [sum(column) for column in zip(*changed[first : first + period], strict=True)]
        assert counts == [1] * layers
    # no step has more than its share
    assert max(sum(step) for step in changed[1:]) == -(-layers // period)
    assert sum(len(names) for names in renewed) == layers * 4


@pytest.mark.parametrize("staggered", [False, True])
def test_the_first_steps_each_renew_all_inverses(staggered: bool) -> None:
    problem = stack(3)
    optimizer = KFAC(
        problem.model.named_parameters(), staggered=staggered, inverse_period=5, first_inverses=4
    )
    ages, changed = [], []
    saved: list[object] = [None] * 3
    for _ in range(11):
        optimizer.step(problem.objective())
        now = [optimizer.state[weight]["a_inverse"] for weight in weights(problem)]
        changed.append(sum(old is not new for old, new in zip(saved, now, strict=True)))
        ages.append(optimizer.telemetry()["age"])
        saved = now
    assert changed[:4] == [3] * 4
    assert sum(changed[4:9]) == 3
    if not staggered:
        assert ages == [0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(("examples", "period"), [(6, 3), (7, 3), (3, 5), (6, 1)])
def test_every_example_is_used_once_a_period(examples: int, period: int) -> None:
    problem = stack(2, examples)
    optimizer = KFAC(
        problem.model.named_parameters(), staggered=True, statistics_period=period, **STILL
    )
    seen: list[list[float]] = []
    original = Objective.scores

    def scores(self: Objective, *args: object, **options: object) -> object:
        seen[-1] += self.inputs[:, 0].tolist()
        return original(self, *args, **options)  # type: ignore[arg-type]

    objective = problem.objective()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "scores", scores)
        for _ in range(1 + 2 * period):
            seen.append([])
            optimizer.step(objective.on(problem.inputs, problem.targets))
    everything = sorted(problem.inputs[:, 0].tolist())
    assert sorted(seen[0]) == everything
    for first in range(1, 2 + period):
        assert (
            sorted(value for step in seen[first : first + period] for value in step) == everything
        )
    assert max(len(step) for step in seen[1:]) == -(-examples // period)


@pytest.mark.parametrize("method", [KFAC, EKFAC])
@pytest.mark.parametrize("name", ["mlp_ce", "mlp_ce_sum", "mlp_mse", "conv"])
@pytest.mark.parametrize("period", [2, 3, 4, 20])
def test_spread_statistics_are_those_of_the_whole_batch(
    method: type[KFAC], name: str, period: int
) -> None:
    """At a point that does not move, after whole periods, also where the slices differ in size or
    are empty."""
    results = []
    for staggered in (False, True):
        problem = CASES[name]()
        optimizer = method(
            problem.model.named_parameters(),
            staggered=staggered,
            statistics_period=period,
            inverse_period=100,
            decay=1.0,
            fisher="exact",
            **STILL,
        )
        objective = problem.objective()
        for _ in range(1 + 2 * period):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        results.append([optimizer.state[p] for p in problem.params])
    compared = 0
    for plain, spread in zip(*results, strict=True):
        for key in plain:
            if key in ("a", "g", "a_inverse", "g_inverse", "scales"):
                close(spread[key], plain[key], 1e-12)
                compared += 1
        assert spread.get("updates", 0) == pytest.approx(plain.get("updates", 0))
        assert spread.get("scale_updates", 0) == pytest.approx(plain.get("scale_updates", 0))
    assert compared >= (8 if method is KFAC else 6)


def test_averages_over_periods_forget_at_the_same_rate() -> None:
    """Old statistics keep the weight decay^periods, however they are spread."""
    saved = []
    for staggered in (False, True):
        problem = stack(2)
        optimizer = KFAC(
            problem.model.named_parameters(),
            staggered=staggered,
            statistics_period=3,
            decay=0.5,
            fisher="exact",
            **STILL,
        )
        objective = problem.objective()
        for _ in range(91):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        state = optimizer.state[problem.model[0].weight]
        before = state["a"].clone()
        state["a"].add_(torch.eye(5).double())  # a disturbance of one
        for _ in range(3):
            optimizer.step(objective.on(problem.inputs, problem.targets))
        saved.append(float((state["a"] - before).diagonal().mean()))
    assert saved == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("fisher", "passes"), [("sampled", 1), ("exact", 4), ("empirical", 1)])
def test_spread_statistics_cost_what_plain_ones_do(fisher: str, passes: int) -> None:
    counts = []
    for staggered in (False, True):
        problem = stack(2)
        optimizer = KFAC(
            problem.model.named_parameters(),
            staggered=staggered,
            statistics_period=3,
            fisher=fisher,
        )
        objective, each = problem.objective(), []
        for _ in range(1 + 6):
            before = dict(objective.counts)
            optimizer.step(objective.on(problem.inputs, problem.targets))
            each.append(
                {key: objective.counts[key] - before.get(key, 0) for key in ("value", "grad")}
            )
        counts.append((each, dict(objective.counts)))
    (_, plain), (each, spread) = counts
    assert each[1]["grad"] == pytest.approx(1 + passes / 3)
    assert each[1]["value"] == pytest.approx(1 + 1 / 3)  # a pass of its own for the slice
    shared = 2 if fisher == "empirical" else 0  # plain empirical statistics come with the gradient
    assert spread["grad"] == pytest.approx(plain["grad"] + shared)
    assert spread["value"] == pytest.approx(plain["value"] + 2)
    if fisher != "empirical":
        assert spread["grad"] == pytest.approx(7 + 3 * passes)


def test_spread_work_with_huge_damping_is_sgd_with_momentum() -> None:
    damping = 1e14
    problem = stack(3)
    twin = copy.deepcopy(problem)
    ours = KFAC(
        problem.model.named_parameters(),
        lr=0.2 * damping,
        damping=damping,
        kl_clip=None,
        momentum=0.8,
        staggered=True,
        statistics_period=2,
        inverse_period=3,
    )
    theirs = torch.optim.SGD(twin.model.parameters(), lr=0.2, momentum=0.8)
    objective, other = problem.objective(), twin.objective()
    for _ in range(10):
        ours.step(objective.on(problem.inputs, problem.targets))
        theirs.step(other.on(problem.inputs, problem.targets))
    close(flat(problem), flat(twin), 1e-5)


def test_statistics_of_a_share_of_the_batch() -> None:
    problem = stack(2)
    part = copy.deepcopy(problem)
    part.inputs, part.targets = part.inputs[:2], part.targets[:2]
    ours = KFAC(problem.model.named_parameters(), statistics_share=0.3, fisher="exact", **STILL)
    theirs = KFAC(part.model.named_parameters(), fisher="exact", **STILL)
    objective = problem.objective()
    ours.step(objective)
    theirs.step(part.objective())
    assert objective.counts["grad"] == pytest.approx(1 + 4 / 3)
    assert objective.counts["value"] == pytest.approx(4 / 3)
    for mine, other in zip(weights(problem), weights(part), strict=True):
        for key in ("a", "g", "a_inverse"):
            close(ours.state[mine][key], theirs.state[other][key])
    tiny = KFAC(problem.model.named_parameters(), statistics_share=1e-6, **STILL)
    tiny.step(problem.objective())  # an example at least
    assert tiny.state[weights(problem)[0]]["updates"] == 1
