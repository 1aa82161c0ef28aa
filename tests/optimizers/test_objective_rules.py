"""Rules 1-5 of the architecture.

One function per step, running statistics once per step, kept graphs, nothing left.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimizers import Objective
from optimizers.linalg.flat import flatten
from tests.optimizers.cases import CASES, LSTMNet, Problem, close, conv_bn

Oracle = Callable[[Objective], object]

ORACLES: dict[str, Oracle] = {
    "call": lambda o: o(),
    "value": lambda o: o.value(),
    "value(step)": lambda o: o.value(
        torch.full((sum(p.numel() for p in o.params),), 0.1, dtype=torch.float64)
    ),
    "hessian": lambda o: o.hessian()(o.hessian().gradient),
    "hessian.dense": lambda o: o.hessian().dense(),
    "ggn": lambda o: o.ggn()(o.ggn().gradient),
    "ggn.dense": lambda o: o.ggn().dense(),
    "jacobian": lambda o: o.jacobian(),
    "per_example_grads": lambda o: o.per_example_grads(),
    "sampled": lambda o: o.sampled()(),
    "scores": lambda o: o.scores(),
    "scores.exact": lambda o: o.scores(fisher="exact", gradient=False),
    "capture": lambda o: _captured(o),
}


def _captured(objective: Objective) -> None:
    with objective.capture():
        objective()


def allowed(oracle: str, problem: Problem) -> bool:
    """Whether the problem can answer.

    No Jacobian without squares, no example's gradient under batch normalisation.
    """
    coupled = any(isinstance(m, nn.BatchNorm2d) for m in problem.model.modules())
    if oracle == "jacobian":
        return isinstance(problem.loss_fn, nn.MSELoss)
    return oracle != "per_example_grads" or not coupled


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


# -- rule 1: random state --------------------------------------------------------------------------


def test_every_evaluation_of_a_step_sees_the_same_masks() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    value = objective.value()
    assert (
        len(
            {
                float(problem.loss_fn(problem.model(problem.inputs), problem.targets).detach())
                for _ in range(5)
            }
        )
        == 5
    )
    for again in (
        objective.value,
        objective,
        lambda: objective.hessian().loss,
        lambda: objective.ggn().loss,
    ):
        assert torch.equal(again(), value)
    close(objective.value(torch.zeros_like(objective.gradient())), value)
    close(objective.per_example_grads().mean(0), objective.gradient())


def test_masks_differ_between_steps() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    values = []
    for _ in range(5):
        objective = objective.on(problem.inputs, problem.targets)
        values.append(float(objective.value()))
    assert len(set(values)) == 5


def test_numbers_drawn_between_creation_and_first_evaluation_do_not_matter() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective().on(problem.inputs, problem.targets)
    torch.rand(3)
    first = objective()
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(objective.value(), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("oracle", ORACLES)
def test_global_generator_advances_as_by_one_forward(oracle: str) -> None:
    problem = CASES["dropout"]()
    if not allowed(oracle, problem):
        problem.loss_fn, problem.targets = nn.MSELoss(), torch.zeros(6, 3, dtype=torch.float64)
    torch.manual_seed(5)
    problem.model(problem.inputs)
    after_one = torch.get_rng_state()
    torch.manual_seed(5)
    objective = problem.objective()  # its own draws must not show either
    ORACLES[oracle](objective)
    assert torch.equal(torch.get_rng_state(), after_one)
    ORACLES[oracle](objective)
    objective.value()
    assert torch.equal(torch.get_rng_state(), after_one)
    ORACLES[oracle](objective.on(problem.inputs, problem.targets))
    assert not torch.equal(torch.get_rng_state(), after_one)


def test_a_failing_forward_gives_the_generator_back() -> None:
    problem = CASES["dropout"]()
    objective = problem.objective()
    objective()
    torch.rand(3)
    state = torch.get_rng_state()
    broken = problem.model.register_forward_hook(
        lambda *_: (_ for _ in ()).throw(RuntimeError("boom"))
    )
    with pytest.raises(RuntimeError, match="boom"):
        objective.value()
    broken.remove()
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_in_a_recurrent_layer() -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(3, 4, 2).double(), torch.randint(3, (3, 4))
    problem = Problem(LSTMNet(dropout=0.5).double(), nn.CrossEntropyLoss(), inputs, targets)
    objective = problem.objective()
    loss = objective()
    assert torch.equal(objective.value(), loss)
    close(objective.hessian().gradient, objective.gradient())
    close(objective.per_example_grads().mean(0), objective.gradient())


# -- rule 2: running statistics --------------------------------------------------------------------


def plain_statistics(problem: Problem, steps: int) -> dict[str, Tensor]:
    model = copy.deepcopy(problem.model)
    for _ in range(steps):
        model(problem.inputs)
    return dict(model.named_buffers())


FIRST = [name for name in ORACLES if name not in ("value(step)", "per_example_grads", "jacobian")]


@pytest.mark.parametrize("first", FIRST)
def test_running_statistics_move_once_per_step(first: str) -> None:
    problem = CASES["conv_bn"]()
    expected = plain_statistics(problem, 2)
    objective = problem.objective()
    for _ in range(2):
        objective = objective.on(problem.inputs, problem.targets)
        for name in (first, *FIRST, "value(step)"):
            ORACLES[name](objective)
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, expected[name]), name


def test_evaluation_mode_leaves_the_statistics_alone() -> None:
    problem = CASES["conv_bn"]()
    problem.model(problem.inputs)
    problem.model.eval()
    expected = plain_statistics(problem, 0)
    objective = problem.objective()
    first = objective()
    assert torch.equal(objective.value(), first)
    close(objective.per_example_grads().mean(0), objective.gradient())
    for name, buffer in problem.model.named_buffers():
        assert torch.equal(buffer, expected[name])


def test_instance_normalisation_with_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(18, 2),
    ).double()
    problem = Problem(
        model, nn.MSELoss(), torch.randn(3, 1, 4, 4).double(), torch.randn(3, 2).double()
    )
    expected = plain_statistics(problem, 1)
    objective = problem.objective()
    loss = objective()
    assert torch.equal(objective.value(), loss)
    close(objective.per_example_grads().mean(0), objective.gradient())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    model.eval()
    objective = objective.on(problem.inputs, problem.targets)
    close(objective.value(), problem.loss_fn(model(problem.inputs), problem.targets).detach())
    close(objective.value(), problem.loss_fn(model(problem.inputs), problem.targets).detach())


def test_training_with_batch_normalisation_equals_a_plain_loop() -> None:
    problem = CASES["conv_bn"]()
    twin = copy.deepcopy(problem)
    ours, theirs = (torch.optim.SGD(p.model.parameters(), lr=0.1) for p in (problem, twin))
    objective = problem.objective()
    for _ in range(5):
        objective = objective.on(problem.inputs, problem.targets)
        ours.step(objective)
        objective.value()
        theirs.zero_grad()
        twin.loss_fn(twin.model(twin.inputs), twin.targets).backward()
        theirs.step()
    for (name, mine), other in zip(
        problem.model.state_dict().items(), twin.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, other), name


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
