"""K-FAC's averages of the iterates and its growing batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from optimizers import Objective, UnsupportedError
from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import CASES, close, mlp
from tests.optimizers.kfac_cases import flat, stack


@pytest.mark.parametrize("method", [KFAC, EKFAC])
def test_average_of_the_iterates(method: type[KFAC]) -> None:
    """xi = min(1 - 1 / k, averaging), Martens and Grosse (2015), section 8."""
    problem = CASES["conv_bn"]()
    optimizer = method(problem.model.named_parameters(), averaging=0.7)
    average = torch.zeros(len(flat(problem))).double()
    for k in range(1, 9):
        optimizer.step(problem.objective())
        keep = min(1 - 1 / k, 0.7)
        average = keep * average + (1 - keep) * flat(problem)
        iterate = flat(problem)
        optimizer.eval()
        close(flat(problem), average, 1e-12)
        optimizer.eval()  # a second call changes nothing
        close(flat(problem), average, 1e-12)
        optimizer.train()
        assert torch.equal(flat(problem), iterate)
        optimizer.train()
        assert torch.equal(flat(problem), iterate)


def test_a_step_or_a_checkpoint_in_the_middle_of_an_evaluation() -> None:
    ends = []
    for interrupted in (False, True):
        problem = CASES["mlp_ce"]()
        optimizer = KFAC(problem.model.named_parameters(), averaging=0.7, fisher="exact")
        for _ in range(3):
            optimizer.step(problem.objective())
        if interrupted:
            optimizer.eval()
            saved = copy.deepcopy((problem.model.state_dict(), optimizer.state_dict()))
        optimizer.step(problem.objective())  # from the iterate, not from the average
        ends.append(flat(problem))
    close(ends[1], ends[0], 1e-14)
    problem.model.load_state_dict(saved[0])
    other = KFAC(problem.model.named_parameters(), averaging=0.7, fisher="exact")
    other.load_state_dict(saved[1])
    other.step(problem.objective())
    close(flat(problem), ends[0], 1e-14)


def test_without_an_average_evaluation_sees_the_iterate() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters())
    optimizer.eval()
    optimizer.train()
    optimizer.step(problem.objective())
    before = flat(problem)
    optimizer.eval()
    assert torch.equal(flat(problem), before)
    assert not any("average" in optimizer.state[p] for p in problem.params)


def test_the_average_survives_a_checkpoint() -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(problem.model.named_parameters(), averaging=0.9)
    for _ in range(3):
        optimizer.step(problem.objective(generator=torch.Generator().manual_seed(1)))
    twin = copy.deepcopy(problem)
    other = KFAC(twin.model.named_parameters(), averaging=0.9)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        optimizer.step(problem.objective(generator=torch.Generator().manual_seed(2)))
        other.step(twin.objective(generator=torch.Generator().manual_seed(2)))
    assert torch.equal(flat(twin), flat(problem))
    iterate = flat(problem)
    optimizer.eval()
    other.eval()
    assert torch.equal(flat(twin), flat(problem))
    assert not torch.equal(flat(problem), iterate)


class Stream:
    """Mini-batches of two examples, each of them another, in order."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(100, 4, dtype=torch.float64, generator=generator)
        self.targets = torch.randint(4, (100,), generator=generator)
        self.next = 0

    def __call__(self) -> tuple[Tensor, Tensor]:
        chosen = slice(self.next, self.next + 2)
        self.next += 2
        return self.inputs[chosen], self.targets[chosen]


def test_joined_batches_grow_to_their_limit() -> None:
    problem, stream = stack(2), Stream()
    optimizer = KFAC(
        problem.model.named_parameters(),
        batch_growth=1.5,
        max_batches=4,
        fisher="exact",
        statistics_period=1,
    )
    objective, sizes, calls = problem.objective(sampler=stream), [], []
    original = Objective.scores

    def scores(self: Objective, *args: object, **options: object) -> object:
        sizes.append(len(self.inputs))
        return original(self, *args, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "scores", scores)
        for _ in range(6):
            before = objective.counts["value"]
            optimizer.step(objective.on(*stream()))
            calls.append(objective.counts["value"] - before)
    batches = [1, 1, 2, 3, 4, 4]  # 1.5^k, rounded down
    assert sizes == [2 * count for count in batches]
    assert calls == batches
    assert stream.next == 2 * sum(batches)


def test_a_joined_batch_is_that_batch() -> None:
    ends = []
    for whole in (False, True):
        problem, stream = stack(2), Stream()
        optimizer = KFAC(
            problem.model.named_parameters(), batch_growth=1.0 if whole else 4.0, fisher="exact"
        )
        first = stream()
        objective = problem.objective(sampler=stream)
        loss = optimizer.step(objective.on(*first))
        if whole:
            loss = optimizer.step(objective.on(stream.inputs[2:10], stream.targets[2:10]))
        else:
            loss = optimizer.step(objective.on(*stream()))
        ends.append((flat(problem), loss))
    close(ends[0][0], ends[1][0])
    close(ends[0][1], ends[1][1])


def test_growing_batches_need_a_sampler() -> None:
    problem = stack(2)
    optimizer = KFAC(problem.model.named_parameters(), batch_growth=2.0)
    optimizer.step(problem.objective())  # one batch
    before = flat(problem)
    with pytest.raises(UnsupportedError, match=r"pass Objective\(..., sampler=...\)"):
        optimizer.step(problem.objective())
    assert torch.equal(flat(problem), before)


def test_growth_has_no_largest_step() -> None:
    optimizer = KFAC(mlp().named_parameters(), batch_growth=1.5, max_batches=3)
    assert [optimizer._joined(step) for step in (0, 1, 2, 3, 10, 10**6)] == [1, 1, 2, 3, 3, 3]
    assert KFAC(mlp().named_parameters())._joined(10**9) == 1
