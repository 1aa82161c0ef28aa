"""K-FAC's adaptive damping."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient import KFAC
from tests.optimizers.cases import CASES, Problem, Reference, mlp
from tests.optimizers.kfac_quadratic_cases import ADAPTED, EVERY, QUADRATIC, flat, scale_of

# -- the damping -----------------------------------------------------------------------------------


RUNS = {
    "exact": [{"step_rule": "exact", "damping": 0.02}],
    "lr": [
        {"lr": 1.0, "momentum": 0.0},
        {"lr": 2.0, "momentum": 0.9},
        {"lr": 1.5, "momentum": 0.5, "damping": 3.0},
    ],
}


@pytest.mark.parametrize("step_rule", RUNS)
@pytest.mark.parametrize("l2", [0.0, 0.2])
def test_ratio_and_rule(step_rule: str, l2: float) -> None:
    """rho of the exact model with its damping, and what section 6.5 makes of it, by dense
    matrices."""
    seen = set()
    for options in RUNS[step_rule]:
        problem = CASES["mlp_ce_sum"]()
        scale = scale_of(problem)
        optimizer = KFAC(
            problem.model.named_parameters(), kl_clip=None, **{**EVERY, **ADAPTED, **options}
        )
        for _ in range(10):
            reference, before, damping = (
                Reference(problem, l2),
                flat(problem),
                optimizer.param_groups[0]["damping"],
            )
            optimizer.step(problem.objective(l2))
            step = flat(problem) - before
            matrix = reference.ggn() + scale * damping * torch.eye(len(step)).double()
            model = reference.gradient() @ step + step @ matrix @ step / 2
            actual = reference.loss(before + step) - reference.loss(before)
            ratio = float(actual / model) if model < 0 else float("nan")
            assert optimizer.telemetry()["reduction_ratio"] == pytest.approx(
                ratio, rel=1e-6, nan_ok=True
            )
            factor = 0.8 if ratio > 0.75 else 1.0 if ratio >= 0.25 else 1 / 0.8
            assert optimizer.param_groups[0]["damping"] == pytest.approx(damping * factor)
            assert optimizer.telemetry()["damping"] == optimizer.param_groups[0]["damping"]
            seen.add(factor)
    assert seen >= ({0.8} if step_rule == "exact" else {0.8, 1 / 0.8})
    assert l2 == 0 or step_rule == "lr" or 1.0 in seen


def test_ratio_of_a_scheduled_step() -> None:
    """A share s of the best step has the model's change (2 s - s^2) times the best one."""
    problem = CASES["mlp_mse"]()
    optimizer = KFAC(problem.model.named_parameters(), damping=0.1, **{**QUADRATIC, **ADAPTED})
    scale = scale_of(problem)
    for share in (1.0, 0.7, 0.4):
        optimizer.param_groups[0]["lr"] = share * optimizer.param_groups[0]["initial_lr"]
        reference, before, damping = (
            Reference(problem),
            flat(problem),
            optimizer.param_groups[0]["damping"],
        )
        optimizer.step(problem.objective())
        step = flat(problem) - before
        matrix = reference.ggn() + scale * damping * torch.eye(len(step)).double()
        model = reference.gradient() @ step + step @ matrix @ step / 2
        actual = reference.loss(before + step) - reference.loss(before)
        assert optimizer.telemetry()["reduction_ratio"] == pytest.approx(
            float(actual / model), rel=1e-6
        )


@pytest.mark.parametrize("step_rule", ["exact", "lr"])
def test_the_damping_is_judged_once_a_period(step_rule: str) -> None:
    problem = CASES["mlp_ce"]()
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=1e-3,
        step_rule=step_rule,
        fisher="exact",
        damping=1.0,
        statistics_period=10,
        damping_rule="adaptive",
        damping_period=3,
        damping_decay=0.9,
        min_damping=0.6,
    )
    dampings, values = [], []
    objective = problem.objective()
    for _ in range(9):
        before = objective.counts["value"]
        optimizer.step(objective.on(problem.inputs, problem.targets))
        values.append(objective.counts["value"] - before)
        dampings.append(optimizer.param_groups[0]["damping"])
    # a tiny step is predicted well
    expected = [1.0, 1.0, 0.9**3, 0.9**3, 0.9**3, 0.6, 0.6, 0.6, 0.6]
    assert dampings == pytest.approx(expected)
    judged = [values[i] - values[i - 1] for i in (2, 5, 8)]
    # the trial; and the model's own
    assert judged == ([1, 1, 1] if step_rule == "exact" else [2, 2, 2])


class Cliff(nn.MSELoss):
    """The squared error of an example, infinite for outputs beyond 2.

    Further than they are, nearer than they go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "example_mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = (input - target).square().sum(1).mean()
        return loss if float(input.detach().abs().max()) < 2 else loss * float("inf")


@pytest.mark.parametrize("step_rule", ["exact", "lr"])
def test_a_trial_that_is_not_finite_refuses_the_step(step_rule: str) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(8, 3).double()
    problem = Problem(mlp((3, 2)).double(), Cliff(), inputs, 3 * torch.ones(8, 2).double())
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=1.0,
        momentum=0.5,
        kl_clip=None,
        damping=1e-2,
        weight_decay=0.1,
        averaging=0.5,
        **{**EVERY, **ADAPTED, "step_rule": step_rule},
    )
    before = flat(problem)
    for refused in range(1, 4):
        loss = optimizer.step(problem.objective())
        assert bool(loss.isfinite())
        assert torch.equal(flat(problem), before)
        assert optimizer.failures == {"step": refused}
        assert optimizer.telemetry()["failures/step"] == refused
        assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-2 / 0.8**refused)
        state = optimizer.state[problem.params[0]]
        assert "last_step" not in state
        assert "average" not in state
        assert not bool(state.get("momentum_buffer", torch.zeros(1)).any())
    for _ in range(40):
        optimizer.step(problem.objective())
    assert not torch.equal(flat(problem), before)
    assert float(problem.objective().value()) < float(loss)


def test_the_damping_decays_to_its_floor() -> None:
    problem = CASES["mlp_ce"]()
    groups = [
        {"params": list(problem.model[0].parameters())},
        {"params": list(problem.model[2].parameters()), "damping": 4.0},
    ]
    optimizer = KFAC(groups, damping=1.0, damping_rule="decay", damping_decay=0.5, min_damping=0.2)
    dampings = []
    for _ in range(5):
        optimizer.step(problem.objective())
        dampings.append([group["damping"] for group in optimizer.param_groups])
    assert dampings == [[0.5, 2.0], [0.25, 1.0], [0.2, 0.5], [0.2, 0.25], [0.2, 0.2]]
    assert optimizer.needs == {"layers", "sampled"}


@pytest.mark.parametrize(("decay", "period"), [(1.0, 5), (1e-3, 200)])
def test_a_rule_that_could_not_adapt_is_refused(decay: float, period: int) -> None:
    with pytest.raises(ValueError, match="needs damping_decay below 1"):
        KFAC(
            mlp().named_parameters(),
            damping_rule="adaptive",
            damping_decay=decay,
            damping_period=period,
        )
