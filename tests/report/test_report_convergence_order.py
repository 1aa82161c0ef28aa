"""Observed orders of convergence: sequences whose order is known, and optimizers whose rate is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from optimizers import Objective
from optimizers.newton import Newton
from suite.report.__main__ import main
from suite.results.suboptimality import consecutive, gap_sequence, worth_drawing
from suite.stats.convergence_order import (
    NOT_CONVERGING,
    TOO_EARLY,
    TOO_FEW,
    Order,
    observed_order,
    rate_text,
)
from tasks.functions.quadratic import Quadratic
from tasks.functions.rosenbrock import Rosenbrock
from tasks.regression.logistic import Logistic
from tasks.task import Task

EPS = 2.0**-52
Record = Callable[..., Path]


def order(gaps: Any, minimum: float = 0.0, eps: float = EPS, every: int = 1) -> Order:
    values = np.asarray(gaps, dtype=float)
    return observed_order(every * np.arange(len(values), dtype=float), values, eps, minimum)


def powers(q: float, start: float = 0.5, smallest: float = 1e-28) -> list[float]:
    """`e_{k+1} = e_k^q`, the definition of order q with C = 1."""
    gaps = [start]
    while gaps[-1] ** q > smallest:
        gaps.append(gaps[-1] ** q)
    return gaps


STEPS = np.arange(200.0)
NOISE = np.random.default_rng(0).standard_normal(400)


# -- sequences whose order is known ----------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.98, 0.9, 0.5, 0.1, 0.01])
def test_a_geometric_sequence_is_linear_with_its_ratio(rate: float) -> None:
    estimate = order(3 * rate**STEPS)
    assert estimate.kind == "linear"
    assert estimate.rate == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_power_of_k_is_sublinear(power: float) -> None:
    estimate = order(1 / (STEPS + 1) ** power)
    assert estimate.kind == "sublinear"
    assert estimate.order == pytest.approx(power, rel=0.02)


@pytest.mark.parametrize("q", [1.3, 1.6, 3.0])
def test_powers_of_the_gap_are_superlinear(q: float) -> None:
    estimate = order(powers(q))
    assert (estimate.kind, str(estimate)) == ("superlinear", f"superlinear (order {q})")
    assert estimate.order == pytest.approx(q, rel=1e-6)


@pytest.mark.parametrize("constant", [0.3, 1.0, 20.0])
def test_doubled_digits_are_quadratic_whatever_the_constant(constant: float) -> None:
    gaps = [0.02 / constant]
    while constant * gaps[-1] ** 2 > 1e-25:
        gaps.append(constant * gaps[-1] ** 2)
    estimate = order([50.0, 20.0, 8.0, 3.0, *gaps])
    assert estimate.kind == "quadratic"
    assert estimate.order == pytest.approx(2.0, rel=0.03)


def test_a_factor_that_keeps_falling_is_superlinear_of_order_one() -> None:
    # e_{k+1} / e_k halves in every step: faster than any linear rate
    factors = 0.3 * 0.5 ** np.arange(12)
    estimate = order(np.cumprod([1.0, *factors]))
    assert estimate.kind == "superlinear"
    assert 1 <= estimate.order < 1.3


@pytest.mark.parametrize(
    ("gaps", "word"), [(0.7**STEPS, "linear (rate 0.70)"), (powers(2.0), "quadratic (order 2.0)")]
)
@pytest.mark.parametrize("floor", [1e-16, 3e-15])
def test_a_plateau_at_round_off_is_not_part_of_the_sequence(
    gaps: list[float], word: str, floor: float
) -> None:
    plateau = np.abs(floor * NOISE[:150])
    assert (
        str(order(np.concatenate([gaps, 0 * plateau]) + np.abs(floor * NOISE[: len(gaps) + 150])))
        == word
    )
    assert str(order([*gaps, *[0.0] * 20])) == word
    assert str(order([*gaps, *-plateau], minimum=1.0)) == word  # below f* by as much as f* is known


def test_what_a_minimum_rounds_off_is_not_believed() -> None:
    """Gaps to a minimum of 1000 are multiples of its last digit, 1.1e-13."""
    rounded = np.round(np.array(powers(2.0)) / 1.1e-13) * 1.1e-13
    # 0.5 to 2e-10; the next are a few roundings, and zeros
    assert order(rounded, minimum=1000.0).points == 6


def test_a_linear_sequence_that_wiggles_keeps_its_rate() -> None:
    estimate = order(3 * 0.9**STEPS * (1 + 0.5 * np.sin(STEPS)))
    assert estimate.kind == "linear"
    assert estimate.rate == pytest.approx(0.9, rel=0.01)


def test_a_linear_end_is_seen_after_a_plateau_and_a_fall() -> None:
    """As at a saddle: nothing for a while, a jump, and then the rate of the minimum."""
    estimate = order(np.concatenate([np.linspace(1.0, 0.9, 130), 0.01 * 0.9 ** np.arange(170)]))
    assert estimate.kind == "linear"
    assert estimate.rate == pytest.approx(0.9, rel=1e-3)


def test_noise_seldom_hides_the_word() -> None:
    def count(word: str, gaps: Callable[[np.ndarray], np.ndarray]) -> int:
        draws = np.random.default_rng(1).standard_normal((100, 200))
        return sum(order(gaps(draw)).kind == word for draw in draws)

    assert count("linear", lambda noise: 0.95**STEPS * np.exp(0.5 * noise)) >= 95
    assert count("sublinear", lambda noise: np.exp(0.1 * noise) / (STEPS + 1)) >= 95
    assert count(NOT_CONVERGING, lambda noise: 1e-3 * np.exp(0.5 * noise)) >= 95
    assert count("superlinear", lambda noise: 0.3**STEPS * np.exp(0.7 * noise)) <= 3


@pytest.mark.parametrize(
    "gaps",
    [
        np.full(50, 3.98),
        3.98 + 0.5**STEPS,
        1.1**STEPS,
        1e-3 + 0.9**STEPS,
        [5.0, 1.0, -1.0, -3.0],
        [1.0, 0.1, np.inf],
    ],
)
def test_a_gap_that_stays_rises_or_goes_below_the_minimum_does_not_converge(gaps: Any) -> None:
    assert order(gaps).kind == NOT_CONVERGING


@pytest.mark.parametrize(
    "gaps", [[], [1.0], [1.0, 0.1, 0.01], [5.0, 1e-31, 0.0, 0.0], [1.0, 0.5, 0.2, 0.1, 0.05]]
)
def test_a_handful_of_points_says_nothing(gaps: list[float]) -> None:
    assert order(gaps).kind == TOO_FEW


def test_a_gap_that_has_hardly_moved_says_nothing_yet() -> None:
    assert order(10 * 0.99 ** np.arange(100)).kind == TOO_EARLY


def test_the_order_does_not_depend_on_how_often_steps_are_logged() -> None:
    every_second = order(powers(1.3)[::2], every=2)
    assert every_second.order == pytest.approx(1.3, rel=1e-6)
    assert order(0.81**STEPS, every=2).rate == pytest.approx(0.9, rel=1e-6)


def test_rates_are_written_with_the_digits_that_matter() -> None:
    assert [rate_text(rate) for rate in (0.83, 0.0012, 0.998, 0.99957)] == [
        "0.83",
        "0.0012",
        "0.9980",
        "0.99957",
    ]
    assert str(Order("linear", rate=0.83)) == "linear (rate 0.83)"
    assert str(Order("sublinear", order=1.0)) == "sublinear (like k^-1.0)"
    # no power law falls like that
    assert str(order(np.exp(-3 * (STEPS + 1) ** 0.5))) == "sublinear"
    assert str(Order(NOT_CONVERGING)) == "not converging"


# -- gaps from a history ---------------------------------------------------------------------------


def history(losses: list[float], gaps: dict[int, float]) -> pd.DataFrame:
    """Rows of steps 0, 1, ...; the loss of row k+1 is the function after step k."""
    steps = np.arange(len(losses) + 1)
    return pd.DataFrame(
        {
            "step": steps.astype(float),
            "loss": [math.nan, *losses],
            "grad_equivalents": 2.0 * steps,
            "val/gap": [gaps.get(step, math.nan) for step in steps],
        }
    )


def test_exact_losses_fill_in_the_gaps_between_evaluations() -> None:
    values = 7 + 0.5 ** np.arange(9.0)
    gaps = gap_sequence(history(list(values[:-1]), {0: 1.0, 4: 0.5**4, 8: 0.5**8}), EPS)
    assert gaps is not None
    assert gaps.minimum == pytest.approx(7, abs=1e-15)
    assert list(gaps.steps) == list(range(9))
    assert list(gaps.calls) == list(range(0, 18, 2))
    assert gaps.gaps == pytest.approx(0.5 ** np.arange(9.0), abs=1e-14)


def test_noisy_losses_are_left_alone() -> None:
    values = 0.5 ** np.arange(9.0)
    noisy = history(list(values[:-1] * (1 + 0.01 * NOISE[:8])), {0: 1.0, 4: 0.5**4, 8: 0.5**8})
    gaps = gap_sequence(noisy, EPS)
    assert gaps is not None
    assert list(gaps.steps) == [0, 4, 8]
    # one pair cannot tell a minimum of 2 from noise
    one = gap_sequence(history([3.0, 2.0], {0: 1.0, 2: 0.1}), EPS)
    assert one is not None
    assert list(one.steps) == [0, 2]


def test_a_history_without_gaps_has_no_sequence() -> None:
    assert gap_sequence(history([3.0, 2.0], {}).drop(columns="val/gap"), EPS) is None
    assert gap_sequence(history([math.nan], {0: 1.0}), EPS) is None


def test_what_is_drawn_ends_where_round_off_begins() -> None:
    gaps = gap_sequence(history([1.0, 1e-4, 1e-9, 2e-17, 1e-17], {0: 1.0, 5: 3e-17}), EPS)
    assert gaps is not None
    assert list(worth_drawing(gaps).gaps) == [1.0, 1e-4, 1e-9, 2e-17]
    before, after = consecutive(worth_drawing(gaps))
    assert list(zip(before, after, strict=True)) == [(1.0, 1e-4), (1e-4, 1e-9), (1e-9, 2e-17)]
    stuck = gap_sequence(history([1.0, 0.5, 0.5], {0: 1.0, 3: 0.5}), EPS)
    assert stuck is not None
    assert worth_drawing(stuck) is stuck


# -- optimizers whose rate is known ----------------------------------------------------------------


def trained(task: Task, make: Callable[[list[torch.nn.Parameter]], Any], steps: int) -> Order:
    """What the report says of a run of so many steps that is evaluated at the start, at the end and
    in the middle."""
    torch.set_num_threads(1)
    model = task.model(0)
    inputs, targets = next(task.batches("train", 0))
    objective = Objective(model, task.loss_fn, inputs, targets, l2=task.l2)
    optimizer = make(list(model.parameters()))
    gaps = {0: task.evaluate(model, "val")["gap"]}
    losses = []
    for step in range(1, steps + 1):
        losses.append(float(optimizer.step(objective.on(inputs, targets))))
        if step % (steps // 4) == 0:
            gaps[step] = task.evaluate(model, "val")["gap"]
    one = gap_sequence(history(losses, gaps), EPS)
    assert one is not None
    assert len(one.steps) == steps + 1  # no step is missing
    return observed_order(one.steps, one.gaps, EPS, one.minimum)


@pytest.mark.parametrize(("condition", "lr"), [(10.0, 1.0), (10.0, 0.5), (4.0, 1.6)])
def test_gradient_descent_on_a_quadratic_has_the_rate_of_the_textbook(
    condition: float, lr: float
) -> None:
    """The error along an eigenvector shrinks by |1 - lr s|, the function by its square.

    The slowest one stays.
    """
    trained_run = trained(
        Quadratic(2, condition), lambda params: torch.optim.SGD(params, lr=lr), 120
    )
    assert trained_run.kind == "linear"
    assert trained_run.rate == pytest.approx(
        max((1 - lr) ** 2, (1 - lr / condition) ** 2), rel=1e-3
    )


@pytest.mark.parametrize("task", [Rosenbrock(2), Logistic()])
def test_newton_is_quadratic(task: Task) -> None:
    trained_run = trained(task, Newton, 28)
    assert trained_run.kind == "quadratic"


# -- the report ------------------------------------------------------------------------------------


def sequence(
    record: Record, optimizer: str, gaps: list[float], seed: int = 0, **kwargs: Any
) -> None:
    """A run of a function task, evaluated at every step."""
    settings = {"metric": "gap", "direction": "min", "precision": "float64"}
    directory = record("bowl", optimizer, seed, config=settings, **kwargs)
    table = history(gaps[:-1], dict(enumerate(gaps))).assign(seconds=0.0)
    table.to_csv(directory / "history.csv", index=False)


def test_the_report_says_and_draws_the_orders(
    record: Record, runs: Path, training: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1, 2):
        sequence(record, "sgd", list((0.9 - 0.01 * seed) ** STEPS[:100]), seed)
    sequence(record, "newton", powers(2.0))
    # as many as converge: the modest word
    sequence(record, "newton", [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0], seed=1)
    sequence(record, "kfac", [1.0, 9.0], training=training(status="diverged", cut=2))
    record("mlp", "sgd", 0)
    assert main(["--runs", str(runs), "--out", str(runs.parent / "report")]) == 0
    table = pd.read_csv(
        runs.parent / "report" / "tables" / "orders_numbers.csv", dtype=str
    ).set_index("optimizer")
    assert list(table["observed"]) == ["linear (rate 0.89)", "not converging", "diverged 1/1"]
    assert list(table.index) == ["sgd", "newton", "kfac"]
    assert list(table["agree"]) == ["3/3", "1/2", "0/1"]
    assert set(table["problem"]) == {"bowl"}  # not the one that is judged by accuracy
    assert (runs.parent / "report" / "figures" / "order-bowl.png").exists()
    page = (runs.parent / "report" / "tasks" / "bowl.html").read_text()
    assert '<section id="orders"' in page
    assert "newton: not converging; kfac: diverged 1/1." in page  # what the picture shows, in words
    assert "not converging 1/2" in (runs.parent / "report" / "index.html").read_text()
    assert "linear (rate 0.89)" in capsys.readouterr().out


def test_without_gaps_there_is_no_such_section(record: Record, runs: Path, training: Any) -> None:
    record("mlp", "sgd", 0)
    sequence(record, "kfac", [1.0, 9.0], training=training(status="diverged", cut=2))
    assert main(["--runs", str(runs), "--out", str(runs.parent / "report")]) == 0
    pages = [page.read_text() for page in (runs.parent / "report").rglob("*.html")]
    assert len(pages) == 3
    assert not any('<section id="orders"' in page for page in pages)
    assert not list((runs.parent / "report").rglob("order*"))
