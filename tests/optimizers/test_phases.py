"""The stopwatch of phases: no second counts twice or is lost, and marks change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from optimizers import Objective, phases
from optimizers.least_squares import GGNCG
from optimizers.linalg.cg import conjugate_gradients
from optimizers.linalg.line_search import armijo
from optimizers.matrix import Shampoo
from optimizers.natural_gradient import KFAC
from optimizers.newton import Newton
from optimizers.phases import OTHER, PHASES, Phase, Stopwatch, phase, phased
from optimizers.quasi_newton import LBFGS


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


class Ticking(Clock):
    """Time that passes by one unit with each look at it."""

    def __call__(self) -> float:
        self.now += 1
        return super().__call__()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    assert phases._watch is None


def objective(outputs: int = 3, batch: int = 16) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    return Objective(
        model,
        nn.CrossEntropyLoss(),
        torch.randn(batch, 5).double(),
        torch.randint(outputs, (batch,)),
    )


# -- the stopwatch ---------------------------------------------------------------------------------


def test_a_second_belongs_to_the_innermost_phase(clock: Clock) -> None:
    watch = Stopwatch(clock)
    with watch:
        clock.spend(1)
        with phase("inverse"):
            clock.spend(2)
            with phase("curvature"):
                clock.spend(4)
                with phase("inverse"):
                    clock.spend(8)
            clock.spend(16)
        clock.spend(32)
        with phase("precondition"):
            clock.spend(64)
    assert watch.seconds == {OTHER: 33, "inverse": 26, "curvature": 4, "precondition": 64}
    assert sum(watch.seconds.values()) == 127


@pytest.mark.parametrize("passing", ["forward", "backward"])
def test_a_pass_within_another_phase_belongs_to_that(clock: Clock, passing: Phase) -> None:
    watch = Stopwatch(clock)
    with watch:
        with phase(passing):
            clock.spend(1)
        with phase("line search"):
            clock.spend(2)
            with phase(passing):
                clock.spend(4)
        with phase(passing), phase("curvature"):
            clock.spend(8)
    assert watch.seconds == {passing: 1, "line search": 6, "curvature": 8, OTHER: 0}


def test_steps_add_up_and_the_time_between_them_does_not_count(clock: Clock) -> None:
    watch = Stopwatch(clock)
    for _ in range(3):
        with watch:
            clock.spend(1)
            with phase("backward"):
                clock.spend(2)
        clock.spend(1000)
    assert watch.seconds == {OTHER: 3, "backward": 6}


def test_a_failure_closes_the_phases_it_leaves(clock: Clock) -> None:
    watch = Stopwatch(clock)

    @phased("curvature")
    def fail() -> None:
        clock.spend(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watch, phase("inverse"):
        fail()
    assert watch.seconds == {"inverse": 0, "curvature": 5, OTHER: 0}
    with watch:
        clock.spend(7)
    assert watch.seconds[OTHER] == 7


def test_there_is_one_stopwatch_at_a_time(clock: Clock) -> None:
    with Stopwatch(clock), pytest.raises(RuntimeError, match="running already"), Stopwatch(clock):
        pass


def test_a_function_may_be_a_phase(clock: Clock) -> None:
    @phased("line search")
    def search(seconds: float, *, more: float = 0) -> float:
        """What it does."""
        clock.spend(seconds + more)
        return seconds

    watch = Stopwatch(clock)
    assert search(1) == 1
    with watch:
        assert search(2, more=4) == 2
    assert watch.seconds == {"line search": 6, OTHER: 0}
    assert (search.__name__, search.__doc__) == ("search", "What it does.")


def test_while_nobody_measures_no_clock_is_read_and_nothing_is_made(clock: Clock) -> None:
    managers = [phase(name) for name in PHASES]
    assert len({id(mark) for mark in managers}) == 1
    with managers[0], managers[0]:  # one mark serves all, within itself too
        pass
    assert clock.reads == 0


def test_the_clock_is_read_at_the_edges_and_nowhere_else(clock: Clock) -> None:
    with Stopwatch(clock), phase("inverse"), phase("inverse"):
        pass
    assert clock.reads == 2 * 3


# -- the marks -------------------------------------------------------------------------------------


def measured(act: Callable[[], Any]) -> dict[str, float]:
    """The looks at the clock that each phase took: more than none where it was entered."""
    watch = Stopwatch(Ticking())
    with watch:
        act()
    return watch.seconds


def test_a_gradient_is_a_forward_and_a_backward_pass() -> None:
    assert set(measured(objective())) == {"forward", "backward", OTHER}
    assert set(measured(objective().value_and_gradient)) == {"forward", "backward", OTHER}
    assert set(measured(objective().value)) == {"forward", OTHER}


def test_products_are_curvature_and_their_graph_is_not() -> None:
    vector = torch.ones(39, dtype=torch.float64)
    for kind in ("hessian", "ggn"):
        assert set(measured(getattr(objective(), kind))) == {"forward", "backward", OTHER}
        curvature = getattr(objective(), kind)()
        for act in (lambda c=curvature: c(vector), curvature.dense):
            assert set(measured(act)) == {"curvature", OTHER}
    assert set(measured(objective().per_example_grads)) == {"curvature", OTHER}


def test_the_extra_pass_of_sampled_targets_is_curvature() -> None:
    assert set(measured(lambda: objective().scores(fisher="empirical"))) == {
        "forward",
        "backward",
        OTHER,
    }
    assert set(measured(lambda: objective().scores(fisher="sampled"))) == {
        "forward",
        "backward",
        "curvature",
        OTHER,
    }


def test_a_line_search_owns_the_values_it_asks_for() -> None:
    problem = objective()
    slope = -problem.value_and_gradient()[1]
    seconds = measured(lambda: armijo(lambda a: float(problem.value(a * slope)), 1e9, -1.0))
    assert set(seconds) == {"line search", OTHER}


def test_products_within_conjugate_gradients_are_not_the_solvers() -> None:
    ggn = objective().ggn()
    seconds = measured(lambda: conjugate_gradients(ggn, -ggn.gradient, max_iterations=5))
    assert set(seconds) == {"inverse", "curvature", OTHER}
    assert seconds["curvature"] >= 5


METHODS: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.1), set()),
    "kfac": (
        lambda p: KFAC(p, lr=0.1, statistics_period=1, inverse_period=1),
        {"curvature", "inverse", "precondition"},
    ),
    "shampoo": (lambda p: Shampoo(p, start=0, period=1), {"curvature", "inverse", "precondition"}),
    "newton": (lambda p: Newton(p), {"curvature", "inverse", "line search"}),
    "ggn_cg": (lambda p: GGNCG(p), {"curvature", "inverse", "line search"}),
    "lbfgs": (lambda p: LBFGS(p), {"curvature", "precondition", "line search"}),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_second_of_a_step_has_one_phase(name: str) -> None:
    make, expected = METHODS[name]
    problem, watch, clock = objective(), Stopwatch(Ticking()), Ticking()
    watch._clock = clock
    optimizer = make(problem.model.named_parameters())
    spent = 0.0
    for _ in range(4):
        with watch:
            began = clock.now
            optimizer.step(problem.on(problem.inputs, problem.targets))
            spent += clock.now - began
        spent += 1  # the last look, at the exit
    assert set(watch.seconds) - {"forward", "backward", OTHER} == expected
    assert sum(watch.seconds.values()) == spent
    assert set(watch.seconds) <= {*PHASES, OTHER}


@pytest.mark.parametrize("name", METHODS)
def test_measuring_changes_no_step(name: str) -> None:
    results = []
    for watched in (False, True):
        problem = objective()
        torch.manual_seed(1)
        optimizer = METHODS[name][0](problem.model.named_parameters())
        for _ in range(3):
            current = problem.on(problem.inputs, problem.targets)
            if watched:
                with Stopwatch():
                    optimizer.step(current)
            else:
                optimizer.step(current)
        results.append(torch.cat([p.detach().flatten() for p in problem.params]))
    assert torch.equal(*results)
