"""Any optimizer of pytorch-optimizer by its name, and what is refused."""

from __future__ import annotations

import gc
import io
import random
import re
from collections import Counter
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from optimizers import Objective, UnsupportedError
from optimizers.packaged import PytorchOptimizer, catalogue, packing
from tests.optimizers.packaged_cases import batches, far, named, po, problem, train
from tests.optimizers.packaged_trials import Trial, survey

# -- any of them by its name -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials() -> dict[str, Trial]:
    return {trial.name.split()[0]: trial for trial in survey()}


def test_nearly_all_of_the_package_runs_and_what_does_not_says_why(
    trials: dict[str, Trial],
) -> None:
    assert set(catalogue.listed()) == {kind.__name__ for kind in po.optimizer.OPTIMIZER_LIST}
    failed = {name: trial.why for name, trial in trials.items() if not trial.runs}
    print(*(f"{name}: {why}" for name, why in failed.items()), sep="\n")
    assert len(trials) == len(po.get_supported_optimizers())
    assert len(trials) - len(failed) >= 110
    assert all(name in why for name, why in failed.items())
    for name in ("DeMo", "DistributedMuon"):
        assert "process group" in failed[name]
    assert "2D" in failed["SpectralSphere"]


def test_nearly_all_lower_the_loss_in_a_dozen_steps_and_continue_from_a_checkpoint(
    trials: dict[str, Trial],
) -> None:
    running = [trial for trial in trials.values() if trial.runs]
    assert sum(trial.last < trial.first for trial in running) >= 118
    assert [trial.name for trial in running if not trial.continues] == []


def test_what_they_declare_is_what_they_get(trials: dict[str, Trial]) -> None:
    needs = {name: trial.needs for name, trial in trials.items()}
    assert needs["AdaHessian"] == needs["SophiaH"] == "gradients with their graph"
    assert needs["LOMO"] == needs["AdaLOMO"] == "the backward pass"
    assert needs["Ranger21"] == needs["BSAM"] == "the length of the training"
    assert needs["Muon"] == needs["NorMuon"] == "hidden matrices apart"
    assert needs["ScheduleFreeAdamW"] == "train/eval"
    assert needs["Lion"] == ""
    cost = {name: (trial.gradients, trial.products) for name, trial in trials.items()}
    assert (cost["Lion"], cost["AdaHessian"], cost["SophiaH"]) == (
        (1, 0),
        (1, 1),
        (1, pytest.approx(2 / 12)),
    )
    assert cost["BSAM"] == (3, 0)
    assert (trials["Lion"].state, trials["AdEMAMix"].state, trials["SGD"].state) == (1, 3, 0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SAM", {"base_optimizer": "SGD", "lr": 0.1, "rho": 0.05}),
        ("WSAM", {"base_optimizer": "SGD", "lr": 0.1}),
        ("LookSAM", {"base_optimizer": "SGD", "lr": 0.1, "k": 3}),
        ("FriendlySAM", {"base_optimizer": "SGD", "lr": 0.1}),
        ("Lookahead", {"optimizer": "AdamW", "lr": 0.01, "k": 3}),
        ("OrthoGrad", {"optimizer": "SGD", "lr": 0.1}),
        ("ScheduleFreeWrapper", {"optimizer": "RMSprop", "lr": 0.01}),
        ("Magma", {"optimizer": "Adam", "lr": 0.01}),
        (
            "GaLore",
            {"rank": 4, "update_proj_gap": 3, "scale": 0.25, "projection_type": "std", "lr": 0.01},
        ),
        ("SCION", {"norm_type": "auto", "lr": 0.01}),
        ("MARS", {"mars_type": "lion", "betas": [0.9, 0.99]}),
        ("QHAdam", {"nus": [0.7, 1.0]}),
    ],
)
def test_wrapped_ones_and_settings_of_every_kind(name: str, settings: dict[str, Any]) -> None:
    (trial,) = survey([name], **settings)
    assert trial.runs, trial.why
    assert trial.last < trial.first
    assert trial.continues


def test_sam_is_a_gradient_at_the_perturbed_point() -> None:
    case, twin = problem(), problem()
    optimizer = named(case, "SAM", base_optimizer="SGD", lr=0.1, rho=0.05)
    train(case, optimizer, steps=3)
    params = [p.detach() for p in twin.params]
    for batch in batches(twin, 3):
        objective = twin.objective().on(*batch)
        objective()
        slope = objective.gradient()
        away = [0.05 * p.grad / slope.norm() for p in twin.params]  # type: ignore[operator]
        torch._foreach_add_(params, away)
        objective()
        torch._foreach_sub_(params, away)
        torch._foreach_add_(params, [p.grad for p in twin.params], alpha=-0.1)  # type: ignore[misc]
    assert far(case, twin) < 1e-9


@pytest.mark.filterwarnings("ignore:.*create_graph=True", "ignore:.*requires_grad=True")
@pytest.mark.parametrize("name", ["AdaHessian", "SophiaH"])
def test_the_graph_gives_the_steps_of_a_plain_loop_with_create_graph(name: str) -> None:
    case, twin = problem(), problem()
    torch.manual_seed(5)
    losses = train(case, named(case, name, lr=0.05), steps=12)

    optimizer = getattr(po, name)(twin.model.parameters(), lr=0.05)
    torch.manual_seed(5)
    plain = []
    for inputs, targets in batches(twin, 12):
        optimizer.zero_grad()
        loss = twin.loss_fn(twin.model(inputs), targets)
        loss.backward(create_graph=True)
        optimizer.step()
        plain.append(float(loss))
    assert losses == plain
    assert far(case, twin) == 0


def test_no_graph_outlives_its_step() -> None:
    case = problem()
    optimizer = named(case, "AdaHessian", lr=0.01)
    objective = case.objective()

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    counts = []
    for steps in (2, 60):
        for _ in range(steps):
            optimizer.step(objective.on(case.inputs, case.targets))
        counts.append(alive())
    assert counts[1] <= counts[0]  # what other tests left behind may go meanwhile
    assert all(p.grad is not None and p.grad.grad_fn is None for p in case.params)


def test_a_gradient_that_nothing_moves_has_a_graph_too() -> None:
    model = nn.Linear(3, 1, dtype=torch.float64)
    objective = Objective(model, Mean(), torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, 1))
    optimizer = PytorchOptimizer(model.named_parameters(), "AdaHessian", lr=0.1)
    optimizer.step(objective)
    assert all(not state["hessian"].any() for state in optimizer.state.values())
    assert dict(objective.counts) == {"value": 1, "grad": 1, "hvp": 1}


class Mean(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()


def test_the_fused_backward_counts_as_a_gradient_and_obeys_a_schedule() -> None:
    case, twin = problem(torch.float32), problem(torch.float32)
    optimizer, plain = named(case, "LOMO", lr=0.1), torch.optim.SGD(twin.model.parameters(), lr=0.1)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (optimizer, plain)]
    objective, other = case.objective(), twin.objective()
    for batch in batches(case, 4):
        optimizer.step(objective.on(*batch))
        plain.step(other.on(*batch))  # type: ignore[arg-type]
        for schedule in schedules:
            schedule.step()
    assert far(case, twin) < 1e-7
    assert dict(objective.counts) == {"value": 4, "grad": 4}


def test_the_length_of_the_training_comes_from_whoever_knows_it() -> None:
    case = problem()
    ranger = named(case, "Ranger21")
    with pytest.raises(
        ValueError, match=r"Ranger21 needs num_iterations: pass optimizer\.settings\.num_iterations"
    ):
        train(case, ranger, 1)
    ranger.expect(40, 3.0)
    train(case, ranger, 1)
    assert ranger.state_dict()["told"] == {"num_iterations": 40}
    optimizer = named(case, "Ranger21", num_iterations=7)
    train(case, optimizer, 1)
    assert optimizer.state_dict()["told"] == {}
    bayesian = named(case, "BSAM")
    bayesian.expect(40, 3.0)
    train(case, bayesian, 1)
    assert bayesian.inner.num_data == 3 * 16  # type: ignore[union-attr]


def test_a_checkpoint_holds_the_facts_of_the_training() -> None:
    case, twin = problem(), problem()
    optimizer = named(case, "BSAM")
    optimizer.expect(40, 3.0)
    train(case, optimizer, 2)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = named(twin, "BSAM")  # without facts, and not yet built
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.inner.num_data == 48  # type: ignore[union-attr]


def test_a_checkpoint_makes_no_object_from_outside_the_package() -> None:
    with pytest.raises(ValueError, match=r"subprocess\.Popen, which is not of pytorch_optimizer"):
        packing.unpack({"packed": "subprocess.Popen", "fields": {}})


def elsewhere() -> tuple[Any, Any]:
    return random.getstate(), numpy.random.get_state()[1].tolist()  # noqa: NPY002  (the one that Kron draws from)


def test_all_random_numbers_come_from_torchs_generator() -> None:
    """Kron draws from numpy's, which no checkpoint of torch's holds."""
    runs = []
    for seed in (1, 1, 2):
        case = problem()
        torch.manual_seed(seed)
        before = elsewhere()
        runs.append(train(case, named(case, "Kron", lr=0.01, balance_prob=0.5), 12))
        assert elsewhere() == before
    assert runs[0] == runs[1] != runs[2]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Ranger22", {}, "no optimizer 'Ranger22'. Did you mean Ranger21"),
        ("zzzzzz", {}, "no optimizer 'zzzzzz'. There are: A2Grad, "),
        (
            "Adan",
            {"beta": 3},
            "Adan of pytorch-optimizer has no setting 'beta'. Did you mean betas",
        ),
        ("SGDP", {"eps": -1.0}, "SGDP of pytorch-optimizer cannot be made"),
        ("Adan", {"lr": -1.0}, "Adan of pytorch-optimizer cannot be made: learning rate"),
        ("AdamP", {"delta": 0.2, "lrr": 1}, "Did you mean lr"),
        (
            "SAM",
            {"lr": 0.1},
            "SAM wraps another optimizer; name it: optimizer.settings.base_optimizer=SGD",
        ),
        ("SAM", {"base_optimizer": "SDG"}, "Did you mean SGD"),
        ("SAM", {"base_optimizer": "SGD", "momentun": 0.9}, "Did you mean momentum"),
        ("ADOPT", {"clip_lambda": "sqrt"}, "clip_lambda of ADOPT is a function"),
        ("SCION", {"norm_type": "long"}, "norm_type must be one of none, auto, "),
        (
            "FAdam",
            {"momentum_dtype": "float33"},
            "momentum_dtype must be a precision such as float32",
        ),
    ],
)
def test_a_name_or_setting_that_is_not_there_is_a_value_error_with_what_is_close(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as refusal:
        named(problem(), name, **settings)
    assert not isinstance(refusal.value, UnsupportedError)


def test_a_learning_rate_goes_by_whatever_name_the_class_has() -> None:
    case = problem()
    assert PytorchOptimizer(case.params, "alig", lr=0.5).param_groups[0]["max_lr"] == 0.5
    assert PytorchOptimizer(case.params, "lion", lr=0.5).param_groups[0]["lr"] == 0.5


def test_what_a_class_cannot_do_here_is_unsupported_and_says_why() -> None:
    case = problem()
    with pytest.raises(
        UnsupportedError, match=r"SpectralSphere of pytorch-optimizer cannot take a step here: .*2D"
    ):
        train(case, named(case, "SpectralSphere"), 1)
    with pytest.raises(UnsupportedError, match="GSAM of pytorch-optimizer needs rho_scheduler"):
        named(problem(), "GSAM", base_optimizer="SGD")
    with pytest.raises(UnsupportedError, match="no setting 'update_proj_gap' and no default"):
        train(case, named(case, "GaLore", rank=2), 1)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_an_error_of_the_objective_is_left_as_it_is() -> None:
    case = problem()
    with pytest.raises(RuntimeError, match="must match"):
        named(case, "Lion").step(
            Objective(case.model, nn.MSELoss(), case.inputs, torch.zeros(48, 7))
        )


def test_an_end_that_somebody_else_wants_is_no_fault_of_the_package() -> None:
    """Such as the limit on what is profiled, which counts calls in the midst of the package's own
    backward pass."""

    class EnoughError(Exception):
        pass

    class Limited(Counter[str]):
        def __setitem__(self, key: str, value: int) -> None:
            if "hvp".startswith(key):
                raise EnoughError
            super().__setitem__(key, value)

    case = problem()
    with pytest.raises(EnoughError):
        named(case, "AdaHessian").step(case.objective(counts=Limited()))


def test_the_package_that_is_missing_is_named_with_what_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(catalogue, "import_module", absent)
    catalogue.listed.cache_clear()
    catalogue.wrappers.cache_clear()
    with pytest.raises(UnsupportedError, match=r"python -m pip install 'pytorch-optimizer>=4\.1'"):
        named(problem(), "Lion")


def test_narrow_state_under_parameters_of_float64_is_said() -> None:
    case = problem()
    with pytest.warns(
        UserWarning,
        match=r"QHAdam of pytorch-optimizer keeps beta1_weight \(float32\), beta2_weight",
    ):
        train(case, named(case, "QHAdam"), 2)
    wide = named(case, "FAdam")  # its float32 is a setting, and follows the parameters
    train(case, wide, 2)
    assert {v.dtype for s in wide.state.values() for v in s.values() if isinstance(v, Tensor)} == {
        torch.float64
    }
    with pytest.raises(
        UnsupportedError,
        match=r"FAdam of pytorch-optimizer cannot take a step here.*use precision=float32",
    ):
        train(case, named(case, "FAdam", momentum_dtype="float32"), 1)


@pytest.mark.parametrize("name", ["Lion", "AdaHessian", "Lamb", "BSAM", "LOMO"])
def test_a_loss_that_is_no_number_moves_nothing(name: str) -> None:
    case = problem()
    optimizer = named(case, name)
    optimizer.expect(9, 3.0)
    objective = case.objective()
    optimizer.step(objective.on(case.inputs, case.targets))
    before = [p.detach().clone() for p in case.params]
    saved = {key: value.clone() for key, value in tensors(optimizer).items()}
    loss = optimizer.step(objective.on(case.inputs * float("nan"), case.targets))
    assert loss.isnan()
    assert optimizer.failures == {"non_finite": 1}
    assert all(torch.equal(a, b) for a, b in zip(before, case.params, strict=True))
    assert all(torch.equal(value, tensors(optimizer)[key]) for key, value in saved.items())


def tensors(optimizer: torch.optim.Optimizer) -> dict[tuple[int, str], Tensor]:
    """The tensors of a state, by the number of the parameter and their key."""
    states = enumerate(optimizer.state.values())
    return {
        (i, key): value for i, s in states for key, value in s.items() if isinstance(value, Tensor)
    }
