"""The parts of a training by themselves: its state, its cadence, the size of its loop."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from optimizers.distributed import SINGLE_PROCESS
from suite.config.plan import Plan
from suite.training.distributed import World
from suite.training.evaluation import Evaluator
from suite.training.history import FIRST_ROWS, LOGGED_ROWS, Cadence, Due
from suite.training.state import EXPLODED, RunState, failures_of, restore_failures
from suite.training.training import Training

MOST_METHODS = 12


def test_the_loop_is_all_that_a_training_does() -> None:
    assert len(inspect.getmembers(Training, inspect.isfunction)) <= MOST_METHODS


# -- the state -------------------------------------------------------------------------------------


def test_a_state_equals_the_numbers_of_its_checkpoint() -> None:
    state = RunState(step=3, seconds=0.5, loss=2.0, first_loss=4.0, value=0.1, best=0.2)
    state.target["step"] = 2
    other = RunState(fresh_drawn=9)
    other.restore({**state.to_dict(), "failures": {"step": 1}})  # those are the optimizer's
    assert other == state
    assert list(state.to_dict()) == [
        "step",
        "seconds",
        "loss",
        "first_loss",
        "value",
        "best",
        "target",
        "fresh_drawn",
    ]


def test_a_state_sums_seconds_and_remembers_the_first_loss() -> None:
    state = RunState()
    assert all(state.advance(loss, 0.25) for loss in (3.0, 2.0))
    assert (state.step, state.seconds, state.loss, state.first_loss) == (2, 0.5, 2.0, 3.0)


@pytest.mark.parametrize(
    ("first", "loss", "sound"),
    [
        (0.1, EXPLODED, True),  # a small first loss counts as one
        (0.1, 1.01 * EXPLODED, False),
        (-5.0, 4.9 * EXPLODED, True),
        (5.0, 5.1 * EXPLODED, False),
        (5.0, math.nan, False),
        (5.0, -math.inf, False),
    ],
)
def test_a_loss_that_will_not_come_back_is_not_sound(
    first: float, loss: float, sound: bool
) -> None:
    state = RunState()
    assert state.advance(first, 0.0)
    assert state.advance(loss, 0.0) is sound


@pytest.mark.parametrize(("direction", "values"), [("max", (0.4, 0.5)), ("min", (0.6, 0.5))])
def test_the_target_counts_as_reached_at_its_value_and_once(
    direction: str, values: tuple[float, float]
) -> None:
    context: Any = SimpleNamespace(
        state=RunState(),
        task=SimpleNamespace(direction=direction, metric="value"),
        plan=SimpleNamespace(config={"target": 0.5}),
        grad_equivalents=lambda: 7.0,
    )
    evaluator, state = Evaluator(context), context.state
    for step, value in enumerate((*values, values[1])):
        state.step = step
        evaluator.judge({"value": value})
        assert bool(state.target) is (step > 0)
    assert state.target == {"step": 1, "seconds": 0.0, "grad_equivalents": 7.0}


@pytest.mark.parametrize(("sign", "best"), [(1.0, 3.0), (-1.0, 1.0)])
def test_the_best_value_is_that_of_the_direction(sign: float, best: float) -> None:
    state = RunState()
    for value in (2.0, 3.0, 1.0, 2.0):
        state.judge(value, sign)
    assert (state.value, state.best) == (2.0, best)


def test_failures_belong_to_the_optimizer_and_count_on() -> None:
    class Optimizer:
        failures: dict[str, int]

    optimizer = Optimizer()
    restore_failures(optimizer, {})
    assert failures_of(optimizer) == {}
    assert not hasattr(optimizer, "failures")
    restore_failures(optimizer, {"curvature": 2})
    optimizer.failures["curvature"] += 1
    assert failures_of(optimizer) == {"curvature": 3}


# -- what is due -----------------------------------------------------------------------------------


def test_each_step_has_what_is_due_and_the_last_one_the_end() -> None:
    cadence = Cadence(steps=13, eval_every=5, log_every=3, first=2)
    due = {step: cadence.due(step) for step in range(1, 14)}
    assert {step for step, what in due.items() if what is Due.ROW} == {1, 2, 3, 6, 9, 12}
    assert {step for step, what in due.items() if what is Due.EVALUATION} == {5, 10}
    assert due[13] is Due.END
    assert Cadence(steps=10, eval_every=5, log_every=3).due(10) is Due.END


@pytest.mark.parametrize(
    "cadence", [Cadence(13, 5, 3, 2), Cadence(10, 5, 3), Cadence(7, 100, 50, 4), Cadence(1, 1, 1)]
)
def test_nothing_is_due_before_the_next_due_step(cadence: Cadence) -> None:
    for step in range(cadence.steps):
        following = range(step + 1, cadence.steps + 1)
        first = next(later for later in following if cadence.due(later) is not Due.NOTHING)
        assert cadence.next_due(step) == first


def test_rows_are_few_after_the_first_steps_unless_the_plan_says_how_many(
    planned: Callable[..., Plan],
) -> None:
    def cadence(*words: str) -> Cadence:
        return Cadence.of(planned("optimizer=sgd", "task=quadratic", "steps=2000", *words), 50)

    assert cadence() == Cadence(2000, 50, 2000 // LOGGED_ROWS, FIRST_ROWS)
    assert cadence("log_every=7") == Cadence(2000, 50, 7, 0)
    assert cadence("steps=3").log_every == 1


# -- ends ------------------------------------------------------------------------------------------


def test_a_process_that_is_asked_twice_was_asked_once() -> None:
    world: Any = World()
    assert (world.asked, world.leads, world.ranks) == (False, True, SINGLE_PROCESS)
    world.ask()
    first = world._asked_at
    world.note(15, None)
    assert world.asked
    assert world._asked_at == first
