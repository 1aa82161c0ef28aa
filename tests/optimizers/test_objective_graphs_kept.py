"""Rules of the objective: kept graphs, nothing left behind, numbers that are not finite."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers import Objective
from optimizers.linalg.flat import flatten
from tests.optimizers.cases import CASES, Problem, close, conv_bn
from tests.optimizers.objective_rules_cases import ORACLES, allowed

PAIRS = [(name, oracle) for name in CASES for oracle in ORACLES if allowed(oracle, CASES[name]())]


def snapshot(problem: Problem) -> dict[str, object]:
    """Everything about a model that an oracle must not change."""
    model = problem.model
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "identity": [id(p) for p in model.parameters()],
        "buffers": {
            name: b.clone()
            for name, b in model.named_buffers()
            if "running" not in name and "num" not in name
        },
        "buffer_identity": [id(b) for b in model.buffers()],
        "modes": [m.training for m in model.modules()],
        "tracking": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "recurrent": [
            [id(w) for w in m._flat_weights] for m in model.modules() if isinstance(m, nn.RNNBase)
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "grad_enabled": torch.is_grad_enabled(),
        "default_dtype": torch.get_default_dtype(),
        "kernels": (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cudnn.enabled,
        ),
    }


def assert_same(before: object, after: object) -> None:
    if isinstance(before, dict):
        assert isinstance(after, dict)
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert isinstance(after, Tensor)
        assert torch.equal(before, after)
    else:
        assert before == after


# -- rule 3: kept graphs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_a_kept_graph_survives_trial_points(name: str, kind: str) -> None:
    problem = CASES[name]()
    objective = problem.objective(0.1)
    curvature = getattr(objective, kind)()
    vector = torch.randn_like(curvature.gradient)
    before = curvature(vector)
    evaluations = objective.counts["value"]
    theta = flatten(objective.params).detach().clone()
    objective.value(0.5 * vector)
    objective.value(vector)
    assert torch.equal(curvature(vector), before)
    assert torch.equal(flatten(objective.params), theta)
    assert objective.counts["value"] == evaluations + 2


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_products_run_no_forward_pass(kind: str) -> None:
    problem = CASES["mlp_ce"]()
    calls: list[int] = []
    problem.model.register_forward_hook(lambda *_: calls.append(1))
    curvature = getattr(problem.objective(), kind)()
    curvature(curvature.gradient)
    curvature.dense()
    assert len(calls) == 1


def test_products_inside_no_grad() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    with torch.no_grad():
        hessian, ggn = objective.hessian().dense(), objective.ggn().dense()
        rows = objective.per_example_grads()
        objective()
    close(hessian, objective.hessian().dense())
    close(ggn, objective.ggn().dense())
    close(rows.mean(0), objective.gradient())


def test_fused_attention_is_used_outside_of_curvature() -> None:
    """Only curvature pays for kernels that can be differentiated twice."""
    problem = CASES["sdpa"]()
    objective = problem.objective()
    seen: list[bool] = []
    problem.model.register_forward_pre_hook(
        lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled())
    )
    objective()
    objective.hessian()
    objective.ggn()
    assert seen == [True, False, False]


# -- rule 4: nothing is left behind ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "oracle"), PAIRS)
def test_nothing_is_left_behind(name: str, oracle: str) -> None:
    problem = CASES[name]()
    before = snapshot(problem)
    objective = problem.objective(0.1)
    ORACLES[oracle](objective)
    random_state = torch.get_rng_state()
    ORACLES[oracle](objective)
    assert_same(before, snapshot(problem))
    assert torch.equal(torch.get_rng_state(), random_state)
    copy.deepcopy(problem.model.state_dict())
    for parameter in problem.model.parameters():
        parameter.grad = None
    twin = copy.deepcopy(problem.model)
    torch.manual_seed(3)
    expected = problem.model(problem.inputs)
    torch.manual_seed(3)
    assert torch.equal(twin(problem.inputs), expected)


def test_capture_removes_its_hooks_when_the_block_raises() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()

    def interrupted() -> None:
        with objective.capture():
            assert any(m._forward_hooks for m in problem.model.modules())
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        interrupted()
    assert not any(m._forward_hooks for m in problem.model.modules())


def test_gradients_are_replaced_not_accumulated() -> None:
    problem = CASES["mlp_ce"]()
    objective = problem.objective()
    objective()
    first = objective.gradient().clone()
    objective()
    assert torch.equal(objective.gradient(), first)
    objective.hessian().dense()
    objective.ggn().dense()
    objective.value()
    objective.per_example_grads()
    assert torch.equal(objective.gradient(), first)


# -- rule 5: numbers that are not finite -----------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_ce", "mlp_bce", "mlp_mse"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_comes_back_as_a_value(name: str, bad: float) -> None:
    problem = CASES[name]()
    with torch.no_grad():
        problem.params[0][0, 0] = bad
        problem.params[2][:] *= 1e300
        problem.params[2][0, 0] = bad
    objective = problem.objective()
    assert not objective().isfinite()
    assert not objective.value().isfinite()
    assert not objective.hessian().loss.isfinite()
    assert not objective.ggn().loss.isfinite()
    assert not objective.per_example_grads().isfinite().all()
    assert not objective.sampled()().isfinite()
    assert not objective.scores()[0].isfinite()


def test_autocast_runs_in_bfloat16_and_answers_in_the_parameters_type() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    inputs, targets = torch.randn(6, 4), torch.randint(3, (6,))
    objective = Objective(model, nn.CrossEntropyLoss(), inputs, targets, autocast=True)
    loss = objective()
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in objective.params)
    close(loss, F.cross_entropy(model(inputs), targets).detach(), 2e-2)
    assert not torch.is_autocast_enabled("cpu")


def test_conv_bn_builder_is_in_training_mode() -> None:
    """The tests of rule 2 mean nothing otherwise."""
    assert all(module.training for module in conv_bn().modules())
