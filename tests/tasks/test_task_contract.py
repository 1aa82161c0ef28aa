"""What holds for every task that has a YAML, at its quick size."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tasks import SPLITS, DataTask, Task
from tasks.functions.function import FunctionTask
from tasks.vision.auc import PairwiseSquare

FILES = {
    file.stem: file
    for file in sorted((Path(__file__).parents[2] / "configs" / "task").glob("*.yaml"))
}
OFFERS = {"hessian", "ggn", "jacobian", "sampled", "per_example", "layers", "matrices"}
QUICK, SMALL = 0, 1

torch.set_num_threads(1)
every_task = pytest.mark.parametrize("name", FILES)


def settings(name: str, size: int) -> dict[str, Any]:
    """The YAML with `${size:QUICK,SMALL,FULL}` replaced by one of its values."""

    def pick(match: re.Match[str]) -> str:
        return re.split(r",(?![^\[]*\])", match[1])[size]

    loaded: dict[str, Any] = yaml.safe_load(
        re.sub(r"\$\{size:([^}]*)\}", pick, FILES[name].read_text())
    )
    return loaded


def target_class(name: str) -> type[Task]:
    module, _, title = settings(name, QUICK)["_target_"].rpartition(".")
    needs: type[Task] = getattr(import_module(module), title)
    return needs


def build(name: str) -> Task:
    arguments = OmegaConf.create(
        {key: value for key, value in settings(name, QUICK).items() if key != "_target_"}
    )
    return target_class(name)(**{str(key): arguments[key] for key in arguments})


@cache
def shared(name: str) -> Task:
    return build(name)


def loss_of(task: Task, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    loss: Tensor = task.loss_fn(model(batch[0]), batch[1])
    return loss + task.l2 / 2 * sum(parameter.square().sum() for parameter in model.parameters())


def first_batches(task: Task, seed: int, start: int, count: int) -> list[tuple[Tensor, Tensor]]:
    return list(islice(task.batches("train", seed, start), count))


def same(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    return all(
        torch.equal(a, b)
        for pair in zip(left, right, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def test_there_are_nine_tasks() -> None:
    assert len(FILES) >= 9


def small_size(name: str) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings(name, SMALL).items()
        if key != "_target_"
    }


def defaults(task_class: type[Task]) -> dict[str, Any]:
    return {
        key: parameter.default
        for key, parameter in inspect.signature(task_class).parameters.items()
    }


@every_task
def test_yaml_names_every_argument_of_its_class(name: str) -> None:
    assert set(small_size(name)) == set(defaults(target_class(name)))


@every_task
def test_small_size_of_a_yaml_of_the_class_is_the_default(name: str) -> None:
    sharing = [other for other in FILES if target_class(other) is target_class(name)]
    assert defaults(target_class(name)) in [small_size(other) for other in sharing]


@every_task
def test_yaml_begins_with_a_line_that_says_what_the_task_is(name: str) -> None:
    assert FILES[name].read_text().startswith("# ")


@every_task
def test_declarations(name: str) -> None:
    task = shared(name)
    assert task.offers <= OFFERS
    assert task.direction in ("min", "max")
    assert task.metric in task.evaluate(task.model(0), "val")
    assert inspect.getdoc(type(task)) != inspect.getdoc(Task)


@every_task
def test_offers_are_true(name: str) -> None:
    task = shared(name)
    modules = list(task.model(0).modules())
    layers = [module for module in modules if isinstance(module, nn.Linear | nn.Conv2d)]
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
    assert ("layers" in task.offers) == bool(layers)
    assert ("matrices" in task.offers) == (len(layers) > 1 or recurrent)
    assert ("jacobian" in task.offers) == isinstance(task.loss_fn, nn.MSELoss)
    coupled = any(isinstance(module, nn.BatchNorm2d) for module in modules) or isinstance(
        task.loss_fn, PairwiseSquare
    )
    assert ("per_example" in task.offers) != coupled


@every_task
def test_loss_can_be_differentiated_twice_where_hessian_is_offered(name: str) -> None:
    task = shared(name)
    assert "hessian" in task.offers
    model = task.model(0)
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        loss = loss_of(task, model, first_batches(task, 0, 0, 1)[0])
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        inner = torch.stack([(g * g.detach()).sum() for g in gradient]).sum()
        product = torch.autograd.grad(inner, parameters, allow_unused=True)
    assert sum(float(p.norm()) for p in product if p is not None) > 0


@every_task
def test_loss_is_the_mean_over_examples_where_per_example_is_offered(name: str) -> None:
    task = shared(name)
    if "per_example" not in task.offers:
        return
    model = task.model(0)
    inputs, targets = (tensor[:4] for tensor in first_batches(task, 0, 0, 1)[0])
    single = [
        task.loss_fn(model(inputs[n : n + 1]), targets[n : n + 1]) for n in range(len(inputs))
    ]
    torch.testing.assert_close(torch.stack(single).mean(), task.loss_fn(model(inputs), targets))


@every_task
def test_same_seed_same_model_whatever_happened_before(name: str) -> None:
    task = shared(name)
    before = torch.get_rng_state()
    first = task.model(3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again, other = task.model(3).state_dict(), task.model(4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    if (
        getattr(task, "spread", None) != 0
    ):  # with a spread of zero every seed has the published start
        assert any(not torch.equal(first[key], other[key]) for key in first)


@every_task
def test_batches_follow_the_seed_alone(name: str) -> None:
    task = shared(name)
    first = first_batches(task, 3, 0, 3)
    torch.rand(7)
    assert same(first, first_batches(task, 3, 0, 3))
    if task.steps_per_epoch > 1:
        assert not same(first, first_batches(task, 4, 0, 3))


@every_task
def test_resumed_batches_are_those_of_an_unbroken_stream(name: str) -> None:
    task = shared(name)
    epoch = int(task.steps_per_epoch)
    unbroken = first_batches(task, 1, 0, epoch + 3)
    for start in {1, epoch - 1, epoch, epoch + 1}:
        assert same(unbroken[start : start + 2], first_batches(task, 1, start, 2))


@every_task
def test_an_epoch_shows_each_example_once(name: str) -> None:
    task = shared(name)
    if not isinstance(task, DataTask):
        return
    epoch = int(task.steps_per_epoch)
    shown = sum(len(inputs) for inputs, _ in first_batches(task, 0, 0, epoch))
    assert task.size("train") - task.batch_size < shown <= task.size("train")


@every_task
def test_splits_share_no_examples(name: str) -> None:
    task = shared(name)
    if not isinstance(task, DataTask):
        return
    rows = {split: [row.tobytes() for row in task.splits[split][0].numpy()] for split in SPLITS}
    for held in ("val", "test"):
        shared_rows = set(rows["train"]) & set(rows[held])
        assert len(shared_rows) == 0, f"{len(shared_rows)} of {held}"
    assert not set(rows["val"]) & set(rows["test"])


@every_task
@pytest.mark.parametrize("split", SPLITS)
def test_evaluation_equals_a_single_pass_over_all_data(name: str, split: str) -> None:
    task = shared(name)
    model = task.model(0)
    if isinstance(task, FunctionTask):
        with torch.no_grad():
            inputs, targets = next(iter(task.batches(split, 0)))
            value = float(task.loss_fn(model(inputs), targets))
        assert task.evaluate(model, split) == {
            "gap": pytest.approx(value),
            "loss": pytest.approx(value),
        }
        return
    if not isinstance(task, DataTask):  # every batch is the whole problem
        with torch.no_grad():
            inputs, targets = next(iter(task.batches(split, 0)))
            assert task.evaluate(model, split)["loss"] == pytest.approx(
                float(task.loss_fn(model(inputs), targets))
            )
        return
    if task.size(split) > 10_000:  # the training text, as one batch, takes half a minute
        return
    metrics = task.evaluate(model, split)
    model.eval()
    inputs, targets = task.splits[split]
    with torch.no_grad():
        whole = task.measure(model(inputs), targets)
        loss = float(task.loss_fn(model(inputs), targets))
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    for key, values in whole.items():
        assert values.shape == (task.size(split),)
        assert metrics[key] == pytest.approx(float(values.double().mean()), rel=1e-5)


@every_task
def test_evaluation_leaves_the_model_as_it_was(name: str) -> None:
    task = shared(name)
    model = task.model(0).train()
    list(model.modules())[-1].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    task.evaluate(model, "val")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@every_task
def test_start_has_a_finite_loss_and_a_gradient(name: str) -> None:
    task = shared(name)
    model = task.model(0)
    loss = loss_of(task, model, first_batches(task, 0, 0, 1)[0])
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert sum(float(gradient.norm()) for gradient in gradients if gradient is not None) > 0


@every_task
def test_precision_can_be_chosen(name: str) -> None:
    task = build(name).to("cpu", torch.float64)
    model = task.model(0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert loss_of(task, model, first_batches(task, 0, 0, 1)[0]).dtype == torch.float64
    assert (
        task.evaluate(model, "val").keys()
        == shared(name).evaluate(shared(name).model(0), "val").keys()
    )


@every_task
def test_unknown_split_is_refused(name: str) -> None:
    task = shared(name)
    with pytest.raises(ValueError, match="no split 'training'; choose one of train, val, test"):
        task.evaluate(task.model(0), "training")
    with pytest.raises(ValueError, match="no split 'training'"):
        list(task.batches("training", 0))


@every_task
@pytest.mark.parametrize("parameter", ["steps", "eval_every"])
def test_lengths_must_be_positive(name: str, parameter: str) -> None:
    arguments: dict[str, Any] = {parameter: 0}
    with pytest.raises(ValueError, match=f"{parameter} must be above 0, got 0"):
        target_class(name)(**arguments)


def test_full_batch_is_the_stored_tensors_themselves() -> None:
    task = shared("autoencoder")
    assert isinstance(task, DataTask)
    inputs, targets = first_batches(task, 0, 0, 1)[0]
    assert inputs.data_ptr() == task.splits["train"][0].data_ptr()
    assert targets.data_ptr() == task.splits["train"][1].data_ptr()


def test_batch_size_of_zero_is_refused() -> None:
    arguments: dict[str, Any] = {"batch_size": 0}
    with pytest.raises(ValueError, match="batch_size must be above 0, got 0"):
        target_class("mlp")(**arguments)


def test_import_is_light() -> None:
    code = (
        "import sys, tasks; print(*sorted({'sklearn', 'torchvision', 'PIL', 'optimizers', "
        "'suite'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == ""
