"""Direct use: what a result says, what is refused, what a callback sees, what is counted."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optimizers import Iterate, UnsupportedError, least_squares, minimize
from optimizers.method import Method
from optimizers.registry import builder, names

FUNCTIONS = (
    "bfgs",
    "dfp",
    "sr1",
    "lbfgs",
    "newton",
    "newton_cg",
    "saddle_free_newton",
    "tron",
    "trust_region",
    "arc",
)
RESIDUALS = ("gauss_newton", "levenberg_marquardt", "ggn_cg", "hessian_free", "ksd")


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rosenbrock(x: Tensor) -> Tensor:
    return valley(x).square().sum() / 2


def valley(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def gradient_norm(fn: Any, x: Tensor) -> float:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fn(x), x)
    return float(gradient.norm())


# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", FUNCTIONS)
def test_every_method_for_functions_finds_the_end_of_the_valley(method: str) -> None:
    result = minimize(rosenbrock, vector(-1.2, 1.0), method)
    assert (result.status, result.success) == ("converged", True), result.message
    torch.testing.assert_close(result.x, vector(1, 1), atol=1e-6, rtol=0)
    assert result.grad_norm <= 1e-8
    assert result.grad_norm == pytest.approx(gradient_norm(rosenbrock, result.x), abs=1e-12)
    assert result.fun == pytest.approx(float(rosenbrock(result.x)), abs=1e-20)
    assert 0 < result.steps < 200
    assert result.counts["value"] >= result.counts["grad"] >= 1


@pytest.mark.parametrize("method", [*RESIDUALS, "bfgs", "tron", "arc"])
def test_every_method_for_residuals_finds_the_end_of_the_valley(method: str) -> None:
    result = least_squares(valley, vector(-1.2, 1.0), method)
    assert result.status == "converged", result.message
    torch.testing.assert_close(result.x, vector(1, 1), atol=1e-6, rtol=0)
    assert result.fun == pytest.approx(float(rosenbrock(result.x)), abs=1e-20)
    assert result.grad_norm == pytest.approx(gradient_norm(rosenbrock, result.x), abs=1e-12)


def test_any_shape_is_kept_and_the_start_is_left_alone() -> None:
    start = torch.zeros(2, 3, dtype=torch.float64)
    result = minimize(lambda x: (x - 1).square().sum(), start, "bfgs")
    assert result.x.shape == (2, 3)
    assert not result.x.requires_grad
    torch.testing.assert_close(result.x, torch.ones(2, 3, dtype=torch.float64))
    assert not start.any()
    scalar = minimize(lambda x: (x - 3) ** 2, torch.tensor(0.0, dtype=torch.float64), "bfgs")
    assert scalar.x.shape == ()
    assert float(scalar.x) == pytest.approx(3)


def test_the_steps_of_torch_and_a_class_of_ones_own() -> None:
    named = minimize(rosenbrock, vector(-1.2, 1), "momentum", lr=1e-3, max_steps=50, tol=0.0)
    solution = minimize(
        rosenbrock, vector(-1.2, 1), torch.optim.SGD, lr=1e-3, momentum=0.9, max_steps=50, tol=0.0
    )
    x = torch.nn.Parameter(vector(-1.2, 1))
    optimizer = torch.optim.SGD([x], lr=1e-3, momentum=0.9)
    for _ in range(50):
        optimizer.zero_grad()
        rosenbrock(x).backward()
        optimizer.step()
    assert torch.equal(named.x, x.detach())
    assert torch.equal(solution.x, x.detach())
    assert (named.status, named.steps, named.counts) == ("max_steps", 50, {"value": 51, "grad": 51})


def test_no_evaluation_is_wasted_at_the_end() -> None:
    """A quadratic takes one Newton step.

    The gradient that shows it is the last thing that is computed.
    """
    result = minimize(
        lambda x: (x * vector(1, 10)).square().sum(), vector(3, 4), "newton", line_search="none"
    )
    assert (result.status, result.steps, result.counts["grad"]) == ("converged", 1, 2)


def test_every_plain_optimizer_of_the_registry_can_be_named() -> None:
    refused = set()
    for name in names():
        try:
            result = minimize(lambda x: (x - 1).square().sum(), vector(0.5, 2), name, max_steps=3)
        except UnsupportedError:
            refused.add(name)
        else:
            assert math.isfinite(result.fun)
    matrices = {"muon", "shampoo", "soap", "kl_shampoo", "tnt"}
    layers = {
        "kfac",
        "kfac_adaptive",
        "ekfac",
        "kbfgs",
        "singd",
        "adafisher",
        "adafisher_released",
        "locoprop",
    }
    others = {
        "subsampled_arc",
        "sophia_g",
        "gen",
    }  # want examples, targets to draw, another optimizer
    assert refused <= {*others, *matrices, *layers, *RESIDUALS}
    assert {"kfac", *matrices, "levenberg_marquardt"} <= refused


# -- failures --------------------------------------------------------------------------------------


def test_running_out_of_steps_is_no_success() -> None:
    result = minimize(rosenbrock, vector(-1.2, 1), "bfgs", max_steps=3)
    assert (result.status, result.success, result.steps) == ("max_steps", False, 3)
    assert "after 3 steps" in result.message
    assert result.grad_norm == pytest.approx(gradient_norm(rosenbrock, result.x), abs=1e-12)


@pytest.mark.parametrize(
    "method", ["sgd", "bfgs", "newton", "trust_region", "newton_cg", "lbfgs", "arc", "tron"]
)
def test_a_function_without_a_lower_bound_is_never_a_success(method: str) -> None:
    options = {"lr": 0.5} if method == "sgd" else {}
    result = minimize(
        lambda x: x[0] ** 2 - x[1] ** 4, vector(1, 1), method, max_steps=60, **options
    )
    assert result.status in ("diverged", "max_steps", "stalled")


@pytest.mark.parametrize("method", FUNCTIONS)
def test_a_start_that_is_not_finite_diverges_at_once(method: str) -> None:
    result = minimize(lambda x: x.log().sum(), vector(-1, 1), method)
    assert result.status == "diverged"
    assert "nan" in result.message


@pytest.mark.parametrize("method", FUNCTIONS)
def test_trial_points_outside_the_domain_are_survived(method: str) -> None:
    """x - log x in each coordinate: nan beyond zero, where a long first step leads."""
    result = minimize(lambda x: (x - x.log()).sum(), vector(4, 0.05), method, max_steps=300)
    assert result.status == "converged", result
    torch.testing.assert_close(result.x, vector(1, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", FUNCTIONS)
def test_a_stationary_start_is_said_to_be_one(method: str) -> None:
    result = minimize(lambda x: x.square().sum(), vector(0, 0), method)
    assert (result.status, result.steps) == ("converged", 0)
    assert "start is a stationary point" in result.message
    assert not result.x.any()


def test_the_exact_methods_leave_a_start_on_a_saddle() -> None:
    def saddle(x: Tensor) -> Tensor:
        return 5 * x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4

    for method in ("trust_region", "arc"):
        result = minimize(saddle, vector(0, 0), method)
        assert (result.status, result.fun) == ("converged", pytest.approx(-1))
    stays = minimize(saddle, vector(0, 0), "bfgs")
    assert (stays.status, stays.fun) == ("converged", 0)


class Stubborn(Method):
    """Never moves."""

    def step(self, objective: Any) -> Tensor:
        loss, _ = objective.value_and_gradient()
        return loss


def test_a_method_that_does_not_move_is_stopped_and_named() -> None:
    result = minimize(rosenbrock, vector(-1.2, 1), lambda params: Stubborn(params, {}))
    assert (result.status, result.steps) == ("stalled", 10)
    assert "has not changed for 10 steps" in result.message


def test_float32_is_named_where_it_may_be_the_reason() -> None:
    slopes = torch.linspace(1.1, 3.3, 20)
    result = minimize(
        lambda x: (x.exp() - slopes * x).sum(), torch.zeros(20), "bfgs", tol=1e-12, max_steps=200
    )
    assert not result.success
    assert "float32" in result.message


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["levenberg_marquardt", "gauss_newton", "ggn_cg", "hessian_free"]
)
def test_methods_for_residuals_are_refused_a_plain_function(method: str) -> None:
    with pytest.raises(UnsupportedError, match=r"least_squares\(residuals"):
        minimize(rosenbrock, vector(-1.2, 1), method)


def test_names_values_and_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"no method 'bgfs'. Did you mean 'bfgs'"):
        minimize(rosenbrock, vector(-1.2, 1), "bgfs")
    with pytest.raises(ValueError, match="max_steps"):
        minimize(rosenbrock, vector(-1.2, 1), max_steps=-1)
    with pytest.raises(ValueError, match="one number"):
        minimize(valley, vector(-1.2, 1))
    with pytest.raises(ValueError, match="does not depend on x"):
        minimize(lambda x: torch.tensor(1.0), vector(-1.2, 1))
    with pytest.raises(ValueError, match="floating-point"):
        minimize(rosenbrock, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"a tensor, got list; pass torch.tensor\(x0\)"):
        minimize(rosenbrock, [1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="radiuss"):
        minimize(rosenbrock, vector(-1.2, 1), "trust_region", radiuss=1)
    assert isinstance(builder("adamw"), partial)
    assert builder("soap").keywords["roles"] == ["hidden", "embedding", "head"]


def test_an_optimizer_put_together_from_others_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pair.yaml").write_text(
        "_target_: my.Pair\nhidden:\n  _target_: torch.optim.Muon\n"
    )
    monkeypatch.setattr("optimizers.registry.FOLDER", tmp_path)
    with pytest.raises(UnsupportedError, match="put together from other"):
        builder("pair")


# -- callbacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bfgs", "newton", "tron", "torch_lbfgs", "adam"])
def test_a_callback_sees_every_point_with_its_value_and_gradient(method: str) -> None:
    seen: list[Iterate] = []
    options = {"max_iter": 1} if method == "torch_lbfgs" else {}
    result = minimize(
        rosenbrock, vector(-1.2, 1), method, max_steps=12, callback=seen.append, **options
    )
    assert [iterate.step for iterate in seen] == list(range(len(seen)))
    assert len(seen) == result.steps + 1
    assert torch.equal(seen[0].x, vector(-1.2, 1))
    assert torch.equal(seen[-1].x, result.x)
    for iterate in seen:
        assert iterate.fun == pytest.approx(float(rosenbrock(iterate.x)), rel=1e-12)
        assert iterate.grad_norm == pytest.approx(gradient_norm(rosenbrock, iterate.x), rel=1e-9)
    assert all(a.counts["value"] < b.counts["value"] for a, b in pairwise(seen))


def test_a_callback_can_stop_the_run() -> None:
    result = minimize(rosenbrock, vector(-1.2, 1), "bfgs", callback=lambda iterate: iterate.fun < 1)
    assert result.status == "stopped"
    assert result.fun < 1
    assert result.fun == pytest.approx(float(rosenbrock(result.x)))
