"""What a run measures about itself: memory, the cost of its oracles, its threads, its precision."""

from __future__ import annotations

import gc
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from suite.config import device
from suite.errors import ConfigError
from suite.training.measures import memory, oracle_costs
from suite.training.run_context import build_context
from suite.training.runner import build_task

Train = Callable[..., Any]
CPU = torch.device("cpu")
MLP = ("task=mlp", "task.hidden=[8]")
SIZES = (196 * 8, 8, 8 * 10, 10)


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("sgd", 0),
        ("momentum", 4 * sum(SIZES)),
        (
            "adam",
            4 * (2 * sum(SIZES) + len(SIZES)),
        ),  # two moments, and a step count for each tensor
        (
            "muon",
            4 * (8 * 196 + 2 * (8 + 80 + 10) + 3),
        ),  # one moment of the hidden matrix, AdamW for the rest
    ],
)
def test_the_state_of_an_optimizer_is_counted_to_the_byte(
    train: Train, optimizer: str, expected: int
) -> None:
    assert train(f"optimizer={optimizer}", *MLP, "steps=2").summary["state_bytes"] == expected


def test_a_storage_counts_once_however_often_it_is_seen() -> None:
    class Shared:
        def state_dict(self) -> dict[str, Any]:
            whole = torch.zeros(100)
            return {
                "a": whole,
                "b": [whole[:10], (whole.view(10, 10),)],
                "c": {"d": torch.zeros(3).double()},
                "e": 7,
            }

    assert memory.state_bytes(Shared()) == 400 + 24


def test_the_high_water_mark_of_known_allocations_is_exact_and_repeatable() -> None:
    def step() -> None:
        first = torch.empty(1000)
        second = torch.empty(500, dtype=torch.float64)
        del first
        third = torch.empty(250)
        del second, third
        torch.empty(10)

    assert [memory.peak_bytes(lambda: step, 50, CPU) for _ in range(3)] == [50 + 8000] * 3
    assert memory.peak_bytes(lambda: lambda: None, 50, CPU) == 50


def test_what_a_step_frees_is_taken_off_and_what_came_before_it_is_no_peak() -> None:
    def prepare() -> Callable[[], None]:
        torch.empty(5000)
        held = [torch.empty(1000)]

        def step() -> None:
            held.clear()
            held.append(torch.empty(1500))

        return step

    assert memory.peak_bytes(prepare, 0, CPU) == 6000

    def forget() -> Callable[[], None]:
        prepare()
        return lambda: None

    assert memory.peak_bytes(forget, 7, CPU) == 7


def test_no_garbage_of_earlier_runs_is_collected_during_a_measurement() -> None:
    collecting: list[bool] = []
    memory.peak_bytes(lambda: lambda: collecting.append(gc.isenabled()), 0, CPU)
    with pytest.raises(ZeroDivisionError):
        memory.peak_bytes(lambda: lambda: 1 / 0, 0, CPU)

    assert collecting == [False]
    assert gc.isenabled()


def test_the_peak_of_a_run_repeats_and_grows_with_model_and_state(train: Train) -> None:
    def peak(*overrides: str) -> int:
        peak_bytes: int = train(*MLP, "steps=2", *overrides).summary["peak_memory_bytes"]
        return peak_bytes

    sgd = peak("optimizer=sgd")
    assert sgd == peak("optimizer=sgd", "force=true")
    batch = 128 * (196 * 4 + 8)
    assert sgd > 2 * 4 * sum(SIZES) + batch  # parameters, gradients, and the batch they come from
    assert sgd + 8 * sum(SIZES) <= peak("optimizer=adam") < sgd + 9 * sum(SIZES)
    assert peak("optimizer=sgd", "task.hidden=[64]") > sgd


# -- costs -----------------------------------------------------------------------------------------


class Ticking:
    """A clock by which the oracles take the given times, in turn."""

    def __init__(self, *durations: float) -> None:
        self.durations = itertools.cycle(durations)
        self.now = 0.0
        self.running = False

    def __call__(self) -> float:
        if self.running:
            self.now += next(self.durations)
        self.running = not self.running
        return self.now


@pytest.fixture
def problem(planned: Train) -> tuple[Any, Any]:
    """A small task with its objective."""
    plan = planned("optimizer=sgd", "task=quadratic", "task.dimension=4", "task.batch_size=3")
    task = build_task(plan, CPU)
    return task, build_context(plan, task, CPU).objective


def test_costs_are_medians_relative_to_a_gradient(problem: tuple[Any, Any]) -> None:
    both, value, hvp, ggnvp, jac, examples = 0.2, 0.05, 0.3, 0.4, 0.5, 0.9

    costs = oracle_costs.measure(*problem, clock=Ticking(both, value, hvp, ggnvp, jac, examples))

    assert costs == {
        "value": 0.25,
        "grad": 0.75,
        "hvp": 1.5,
        "ggnvp": 2,
        "jac": 2.5,
        "examples": 1.5,
    }


def test_a_slow_forward_pass_costs_no_more_than_a_gradient(problem: tuple[Any, Any]) -> None:
    costs = oracle_costs.measure(*problem, clock=Ticking(0.1, 0.3, 0.1, 0.1, 0.1, 0.1))
    assert (costs["value"], costs["grad"]) == (1.0, 0.0)


def test_measured_costs_are_those_of_a_gradient_in_all(problem: tuple[Any, Any]) -> None:
    costs = oracle_costs.measure(*problem)
    assert costs["value"] + costs["grad"] == pytest.approx(1)
    assert all(cost >= 0 for cost in costs.values())


def test_oracle_calls_are_weighted_by_their_costs() -> None:
    weights = {"value": 0.25, "grad": 0.75, "hvp": 2.0}
    assert oracle_costs.grad_equivalents(Counter(value=4, grad=4), weights) == 4
    assert (
        oracle_costs.grad_equivalents(Counter(value=5, grad=4, hvp=3, unheard=7), weights)
        == 4.25 + 6
    )
    assert oracle_costs.grad_equivalents({}, weights) == 0


def test_the_first_run_measures_the_costs_and_all_others_use_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlp-12345678.json"
    assert oracle_costs.load_or_measure(path, lambda: {"value": 0.25}) == {"value": 0.25}
    assert oracle_costs.load_or_measure(path, lambda: pytest.fail("measured again")) == {
        "value": 0.25
    }
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_of_two_runs_that_measure_at_once_the_first_to_write_counts(tmp_path: Path) -> None:
    path = tmp_path / "costs" / "mlp-12345678.json"

    def overtaken() -> dict[str, float]:
        path.write_text(json.dumps({"value": 0.5}))  # another process was faster
        return {"value": 0.25}

    assert oracle_costs.load_or_measure(path, overtaken) == {"value": 0.5}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_runs_of_a_task_share_their_costs_and_other_sizes_have_their_own(
    train: Train, measured_costs: Path
) -> None:
    pair = ("task=quadratic", "task.dimension=17", "steps=2")
    before = set(measured_costs.iterdir())
    first = train("optimizer=sgd", *pair).environment["oracle_costs"]
    (new,) = set(measured_costs.iterdir()) - before
    assert new.name.startswith("quadratic-")
    assert (
        train("optimizer=adam", *pair, "seed=3").environment["oracle_costs"]
        == first
        == json.loads(new.read_text())
    )
    train("optimizer=sgd", "task=quadratic", "task.dimension=18", "steps=2")
    assert len(set(measured_costs.iterdir()) - before) == 2


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "workers", "threads"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (2, 2, 1), (2, 7, 1)]
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    threads_set: list[int] = []
    monkeypatch.setattr(device, "cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", threads_set.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)

    assert device.set_threads("auto", workers) == threads
    assert threads_set == [threads]
    assert device.set_threads(3, workers) == 3


@pytest.mark.parametrize("wanted", [0, -1, 1.5, "two", None])
def test_a_number_of_threads_that_makes_no_sense_is_refused(wanted: Any) -> None:
    with pytest.raises(ConfigError, match="threads must be auto or a whole number"):
        device.set_threads(wanted, 1)


def test_a_run_that_shares_the_machine_says_so(train: Train) -> None:
    pair = ("optimizer=sgd", "task=quadratic", "steps=2")
    assert train(*pair).summary["parallel"] is False
    assert train(*pair, "force=true", workers=2).summary["parallel"] is True


# -- precision -------------------------------------------------------------------------------------


def test_float64_runs_in_float64(train: Train) -> None:
    done = train("optimizer=adam", *MLP, "steps=3", "precision=float64")

    assert {tensor.dtype for tensor in done.checkpoint["model"].values()} == {torch.float64}
    assert done.config["precision"] == "float64"
    single = train("optimizer=adam", *MLP, "steps=3", "precision=float32")
    assert done.summary["final_loss"] == pytest.approx(single.summary["final_loss"], rel=1e-4)
    assert done.summary["final_loss"] != single.summary["final_loss"]


def test_a_function_may_be_run_in_float32(train: Train) -> None:
    done = train("optimizer=sgd", "task=quadratic", "steps=3", "precision=float32")
    assert {tensor.dtype for tensor in done.checkpoint["model"].values()} == {torch.float32}


@pytest.mark.parametrize("optimizer", ["sgd", "kfac"])
def test_bf16_computes_the_forward_pass_in_bfloat16_and_keeps_float32_weights(
    train: Train, optimizer: str
) -> None:
    pair = (f"optimizer={optimizer}", "task=mlp", "steps=3", "task.eval_every=3", "log_every=1")
    rounded, exact = train(*pair, "precision=bf16"), train(*pair)

    assert rounded.status == "done"
    assert {tensor.dtype for tensor in rounded.checkpoint["model"].values()} == {torch.float32}
    assert rounded.column("loss") != exact.column("loss")
    assert rounded.column("loss") == pytest.approx(exact.column("loss"), rel=0.02)
    assert (rounded.config["precision"], exact.config["precision"]) == ("bf16", "float32")


def test_a_step_too_long_for_the_profiler_has_no_peak(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LONGEST", 0.0)
    done = train("optimizer=ggn_cg", "task=quadratic", "steps=2")
    assert (done.status, done.summary["peak_memory_bytes"]) == ("done", None)


def test_calls_are_refused_after_their_time() -> None:
    counts = memory.Limited(1e6)
    counts["value"] += 1
    late = memory.Limited(-1.0)
    with pytest.raises(memory.TooLongError):
        late["value"] += 1
    assert (dict(counts), dict(late)) == ({"value": 1}, {})
