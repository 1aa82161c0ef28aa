"""What is timed: windows of whole runs or whole periods, on a clock that passes only when it is
told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from optimizers.phases import OTHER
from suite.config import device
from suite.config.plan import Plan
from suite.time import windows
from suite.time.windows import Extent, NotTimedError, TimedRun, beginning_of, extent, period_of
from suite.training.runner import build_task

BUMPY = '''
import torch
from optimizers.phases import phase

now = 0.0


class Bumpy(torch.optim.SGD):
    """A second a step, and seven more in every `period`-th; a hundred in the first."""

    def __init__(self, params, lr, period, explode=0):
        super().__init__(params, lr=lr)
        self.period, self.explode, self.taken = period, explode, 0

    def step(self, closure):
        global now
        loss = closure()
        now += 1 + 100 * (self.taken == 0)
        with phase("inverse"):
            now += 7 * (self.taken % self.period == 0)
        self.taken += 1
        return loss * float("nan") if self.taken == self.explode else loss
'''


@pytest.fixture
def bumpy(
    module: Callable[[str, str], str], planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """`bumpy(steps=20, period=5)`: the plan, and what begins its training, on the module's
    clock."""
    import importlib

    name = module("bumpy", BUMPY)
    own = importlib.import_module(name)
    monkeypatch.setattr(device, "clock", lambda place: lambda: own.now)

    def make(
        steps: int = 20, period: int = 5, explode: int = 0
    ) -> tuple[Plan, Callable[[], TimedRun]]:
        words = [
            "optimizer=sgd",
            "task=quadratic",
            "task.dimension=3",
            f"steps={steps}",
            "allow=[bumpy]",
        ]
        plan = planned(*words)
        plan.config["optimizer"].clear()
        plan.config["optimizer"].update(
            {"_target_": "bumpy.Bumpy", "lr": 0.01, "period": period}
            | ({"explode": explode} if explode else {})
        )
        place = torch.device("cpu")
        task = build_task(plan, place)
        return plan, lambda: TimedRun(plan, task, place)

    return make


# -- periods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "period", "beginning"),
    [
        ({"lr": 0.1, "momentum": 0.9}, 1, 0),
        ({"statistics_period": 5, "inverse_period": 20}, 20, 0),
        ({"statistics_period": 4, "inverse_period": 6}, 12, 0),
        ({"period": 20, "start": 30}, 20, 30),
        ({"update_freq": 3, "hidden": {"period": 4, "warmup": 7}}, 12, 7),
        ({"period": 10, "warmup": None, "warmup_steps": 0, "steps_per_epoch": 50}, 10, 0),
        ({"period": True, "periodic": 9, "warm_start": 0.95}, 1, 0),
    ],
)
def test_periods_are_read_from_the_settings(
    node: dict[str, Any], period: int, beginning: int
) -> None:
    assert (period_of(node), beginning_of(node)) == (period, beginning)


@pytest.mark.parametrize(
    ("step", "budget", "expected"),
    [
        (0.01, 0.2, Extent(0, 20, 1)),  # 20 steps fit exactly
        (0.01, 60.0, Extent(0, 20, 1)),
        (0.001, 60.0, Extent(0, 20, 10)),  # ten runs make up the shortest window
        (1.0, 19.0, Extent(5, 10)),  # after the first period two more fit into 19 steps
        (1.0, 10.0, Extent(5, 5)),
        (0.0, 1.0, Extent(0, 20, 1)),
    ],
)
def test_a_window_is_the_run_or_whole_periods_of_it(
    bumpy: Any, step: float, budget: float, expected: Extent
) -> None:
    assert extent(step, bumpy()[0], budget) == expected


def test_a_window_begins_after_what_a_method_does_at_first(bumpy: Any) -> None:
    plan, _ = bumpy()
    plan.config["optimizer"]["start"] = 9
    assert extent(1.0, plan, 19.0) == Extent(9, 10)
    assert extent(1.0, plan, 20.0) == Extent(0, 20)


def test_a_window_without_a_whole_period_is_refused(bumpy: Any) -> None:
    with pytest.raises(
        NotTimedError,
        match="hold 5 steps, a whole period, after the first 5: about 10 s, and one has 9 s",
    ):
        extent(1.0, bumpy()[0], 9.0)


# -- seconds ---------------------------------------------------------------------------------------


def test_the_mean_of_a_whole_run_has_its_first_step_and_all_refreshes(bumpy: Any) -> None:
    _, begin = bumpy(steps=20, period=5)
    assert windows.window(begin, Extent(0, 20)) == (20 + 4 * 7 + 100) / 20
    assert windows.window(begin, Extent(0, 20, 3)) == (20 + 4 * 7 + 100) / 20


def test_whole_periods_have_their_refreshes_and_not_the_first_step(bumpy: Any) -> None:
    _, begin = bumpy(period=5)
    assert windows.window(begin, Extent(5, 10)) == (10 + 2 * 7) / 10
    assert windows.window(begin, Extent(7, 5)) == (5 + 7) / 5  # wherever it begins


def test_the_warm_up_tells_a_later_steps_seconds(bumpy: Any) -> None:
    _, begin = bumpy(period=5)
    assert windows.warm_up(begin, 5, 1000.0) == 1.0  # four steps without a refresh
    assert windows.warm_up(begin, 6, 1000.0) == (5 + 7) / 5
    assert windows.warm_up(begin, 1, 1000.0) == 1.0  # three steps at least


def test_a_warm_up_that_takes_too_long_ends(bumpy: Any) -> None:
    _, begin = bumpy(period=5)
    with pytest.raises(
        NotTimedError, match=r"1 of its steps took 108 s, and it has 50 s. max_seconds="
    ):
        windows.warm_up(begin, 5, 50.0)
    assert windows.warm_up(begin, 100, 113.0) == pytest.approx((5 + 7) / 5)  # six steps


def test_a_run_that_diverges_is_not_timed(bumpy: Any) -> None:
    _, begin = bumpy(explode=7)
    with pytest.raises(NotTimedError, match=r"diverged at step 7 \(loss nan\)"):
        windows.window(begin, Extent(0, 20))
    assert windows.window(begin, Extent(0, 6)) > 0


def test_a_window_that_becomes_slow_ends(bumpy: Any) -> None:
    _, begin = bumpy(period=5)
    with pytest.raises(
        NotTimedError, match="its steps became slower: 6 of a window's 20 took more than the 115 s"
    ):
        windows.window(begin, Extent(0, 20), 115.0)
    with pytest.raises(NotTimedError, match="6 of a window's 11"):
        windows.window(begin, Extent(8, 3), 115.0)
    assert windows.window(begin, Extent(0, 5), 115.0) == 112 / 5


def test_phases_add_up_to_the_steps_seconds(bumpy: Any) -> None:
    _, begin = bumpy(period=5)
    for part in (Extent(0, 20), Extent(5, 10)):
        phases = windows.phases(begin, part)
        assert sum(phases.values()) == windows.window(begin, part)
        assert list(phases)[-1] == OTHER
    assert phases == {"inverse": 1.4, "forward": 0.0, "backward": 0.0, OTHER: 1.0}


def test_only_the_optimizers_step_is_on_the_clock_and_a_window_begins_anew(bumpy: Any) -> None:
    plan, begin = bumpy()
    ongoing = begin()
    first = [ongoing.step() for _ in range(3)]
    assert first == [108.0, 1.0, 1.0]
    assert begin().step() == 108.0
    assert not plan.directory.exists()
