"""A task from a file of the user's.

What it takes, what it offers, and what it says of a file that is broken.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from tasks.custom.custom import EXAMPLE, Custom
from tests.tasks.custom_files import DATA, LOSS, MODEL, Make, custom, net


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return partial(custom, tmp_path)


def test_example_is_short_and_learns() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 50
    task = Custom()
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = task.batches("train", 0)
    for _ in range(150):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        task.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    assert (task.metric, task.direction, task.batch_size) == ("accuracy", "max", 100)
    assert (
        task.evaluate(task.model(0), "test")["accuracy"]
        < 0.5
        < 0.7
        < task.evaluate(model, "test")["accuracy"]
    )


def test_three_names_are_enough(make: Make) -> None:
    task = make(MODEL, LOSS, DATA)
    assert {split: task.size(split) for split in task.splits} == {"train": 40, "val": 5, "test": 5}
    assert (task.metric, task.direction, task.batch_size) == ("accuracy", "max", 40)
    metrics = task.evaluate(task.model(0), "val")
    inputs, targets = task.splits["val"]
    outputs = task.model(0)(inputs).detach()
    assert metrics["loss"] == pytest.approx(float(F.cross_entropy(outputs, targets)))
    assert metrics["accuracy"] == pytest.approx(
        float((outputs.argmax(1) == targets).float().mean())
    )


@pytest.mark.parametrize(
    "data",
    [
        "x, y = np.random.rand(50, 4), np.arange(50, dtype=np.int32) % 3\ndata = x, y\n",
        "x, y = torch.randn(50, 4), torch.arange(50) % 3\ndata = torch.utils.data.TensorDataset(x, "
        "y)\n",
        "x, y = torch.randn(50, 4), torch.arange(50) % 3\n"
        "class Set(torch.utils.data.Dataset):\n    def __len__(self):\n        return 50\n"
        "    def __getitem__(self, i):\n        return x[i], int(y[i])\n"
        "data = torch.utils.data.DataLoader(Set(), 7, shuffle=True)\n",
        "x, y = torch.randn(50, 4), torch.arange(50) % 3\ndef data():\n    return {'train': (x, "
        "y)}\n",
    ],
    ids=["numpy", "TensorDataset", "loader of a data set", "function"],
)
def test_data_may_come_as_arrays_sets_loaders_and_functions(make: Make, data: str) -> None:
    task = make(MODEL, LOSS, data)
    labels = torch.cat([targets for _, targets in task.splits.values()])
    assert sorted(labels.tolist()) == sorted(n % 3 for n in range(50))
    inputs, targets = task.to("cpu").splits["train"]
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_splits_that_are_given_stay_and_the_missing_one_is_held_out(make: Make) -> None:
    pairs = (
        "x = torch.arange(60.0).view(60, 1)\nmodel = lambda: nn.Linear(1, 1)\nloss = nn.MSELoss()\n"
    )
    three = make(pairs, "data = (x[:40], x[:40]), (x[40:50], x[40:50]), (x[50:], x[50:])\n")
    assert [three.splits[split][0][0].item() for split in ("train", "val", "test")] == [0, 40, 50]
    two = make(
        pairs, "data = {'train': (x[:40], x[:40]), 'test': (x[50:], x[50:])}\n", held_out=0.2
    )
    assert torch.equal(two.splits["test"][0], torch.arange(50.0, 60.0)[:, None])
    assert (two.size("train"), two.size("val")) == (32, 8)
    parts = torch.cat([two.splits["train"][0], two.splits["val"][0]])
    assert sorted(parts.flatten().tolist()) == list(range(40))


def test_unseeded_data_and_weights_are_the_same_in_every_process(make: Make) -> None:
    draws = "data = torch.randn(50, 4), torch.from_numpy(np.random.randint(3, size=50))\n"
    weights = (
        "def model():\n    net = nn.Linear(4, 3)\n"
        "    net.bias.data.fill_(np.random.rand())\n    return net\n"
    )
    torch.manual_seed(5)
    first = make(weights, LOSS, draws, "# one\n")
    torch.manual_seed(6)
    second = make(weights, LOSS, draws, "# another text, so that it is run again\n")
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.splits["train"], second.splits["train"], strict=True)
    )
    assert torch.equal(first.model(3).bias, second.model(3).bias)
    assert not torch.equal(first.model(3).bias, first.model(4).bias)


def test_running_a_file_leaves_the_generators_alone(make: Make) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    make(MODEL, LOSS, DATA, "np.random.rand()\n").model(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002


def test_a_module_is_copied_for_every_run(make: Make) -> None:
    task = make("model = nn.Linear(4, 3)\n", LOSS, DATA)
    first = task.model(0)
    with torch.no_grad():
        first.weight.zero_()
    assert float(task.model(1).weight.detach().norm()) > 0


def test_a_metric_of_the_whole_split_is_not_averaged_over_batches(make: Make) -> None:
    task = make(
        "from sklearn.metrics import roc_auc_score\nmodel = lambda: nn.Linear(4, 1)\nloss = "
        "nn.BCEWithLogitsLoss()\n"
        "x = torch.randn(3000, 4)\ndata = x, (x[:, :1] + torch.randn(3000, 1) > 0).float()\n"
        "def area(outputs, targets):\n    return roc_auc_score(targets, outputs)\n"
        "metrics = {'auc': area, 'size': lambda outputs, targets: "
        "outputs.abs().flatten()}\ndirection = 'max'\n"
    )
    model = task.model(0)
    inputs, targets = task.splits["train"]
    assert len(inputs) > task.evaluation_batch
    metrics = task.evaluate(model, "train")
    outputs = model(inputs).detach()
    assert task.metric == "auc"
    assert metrics["auc"] == pytest.approx(roc_auc_score(targets, outputs))
    assert metrics["size"] == pytest.approx(float(outputs.abs().mean()), rel=1e-5)


@pytest.mark.parametrize(("given", "size"), [("batch_size = 7\n", 7), ("batch_size = None\n", 40)])
def test_batch_size_of_the_file(make: Make, given: str, size: int) -> None:
    assert make(MODEL, LOSS, DATA, given).batch_size == size
    assert make(MODEL, LOSS, DATA, given, batch_size=9).batch_size == 9


CLASSIFIES = {"hessian", "ggn", "sampled", "per_example", "layers"}
OFFERED = {
    "one layer": ((MODEL, LOSS, DATA), CLASSIFIES),
    "torch's function": ((MODEL, "loss = F.cross_entropy\n", DATA), CLASSIFIES),
    "hidden": (
        (
            "model = lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))\n",
            LOSS,
            DATA,
        ),
        CLASSIFIES | {"matrices"},
    ),
    "batch normalisation": (
        (
            "model = lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))\n",
            LOSS,
            DATA,
        ),
        (CLASSIFIES | {"matrices"}) - {"per_example"},
    ),
    "attention over the batch": (
        (net("self.layer(x - x.mean(0))"), LOSS, DATA),
        CLASSIFIES - {"per_example"},
    ),
    "squares": (
        (
            "model = lambda: nn.Linear(4, 1)\nloss = nn.MSELoss()\ndata = torch.randn(50, 4), "
            "torch.randn(50, 1)\n",
        ),
        CLASSIFIES | {"jacobian"},
    ),
    "class weights": (
        (MODEL, "loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]))\n", DATA),
        CLASSIFIES - {"sampled", "per_example"},
    ),
    "label smoothing": (
        (MODEL, "loss = nn.CrossEntropyLoss(label_smoothing=0.1)\n", DATA),
        CLASSIFIES - {"sampled"},
    ),
    "function": (
        (MODEL, "def loss(o, t):\n    return F.cross_entropy(o, t)\n", DATA),
        {"hessian", "layers"},
    ),
    "subclass": (
        (MODEL, "class Mine(nn.CrossEntropyLoss): pass\nloss = Mine\n", DATA),
        {"hessian", "layers"},
    ),
    "embedding and head": (
        (
            "model = lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))\n",
            LOSS,
            "data = torch.randint(9, (50, 2)), torch.arange(50) % 3\n",
        ),
        CLASSIFIES,
    ),
    "recurrent": (
        (
            net("self.layer(self.gru(x)[0][:, -1])").replace(
                "super().__init__()",
                "super().__init__()\n        self.gru = nn.GRU(2, 4, batch_first=True)",
            ),
            LOSS,
            "data = torch.randn(50, 6, 2), torch.arange(50) % 3\n",
        ),
        CLASSIFIES | {"matrices"},
    ),
    "no second derivative": (
        (
            "class Once(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n   "
            "     return x.clone()\n"
            "    @staticmethod\n    @torch.autograd.function.once_differentiable\n    def "
            "backward(ctx, g):\n"
            "        return g * 1.0\n",
            net("Once.apply(self.layer(x))"),
            LOSS,
            DATA,
        ),
        {"sampled", "per_example", "layers"},
    ),
}


@pytest.mark.parametrize("case", OFFERED)
def test_offers_follow_from_model_and_loss(make: Make, case: str) -> None:
    parts, offered = OFFERED[case]
    assert make(*parts).offers == offered


def test_a_path_is_relative_to_the_current_directory_and_neighbours_can_be_imported(
    make: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "beside_mine.py").write_text(
        "import torch\ndata = torch.randn(50, 4), torch.arange(50) % 3\n"
    )
    make(MODEL, LOSS, "from beside_mine import data\n")
    monkeypatch.chdir(tmp_path)
    assert Custom(file="mine.py").size("train") == 40


@pytest.mark.parametrize(
    "data", ["data = {}\n", "def data():\n    return {{'train': {}}}\n", "data = {{'train': {}}}\n"]
)
def test_a_training_loader_says_the_batch_size_unless_the_file_does(make: Make, data: str) -> None:
    pair = (
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "x, y = torch.randn(50, 4), torch.arange(50) % 3\n"
    )
    loader = pair + data.format("DataLoader(TensorDataset(x, y), batch_size=7)")
    assert make(MODEL, LOSS, loader).batch_size == 7
    assert make(MODEL, LOSS, loader, "batch_size = 5\n").batch_size == 5
    assert make(MODEL, LOSS, loader, batch_size=3).batch_size == 3
    assert make(MODEL, LOSS, loader, "batch_size = None\n").batch_size == 40


def test_names_that_only_resemble_pass(make: Make) -> None:
    task = make(
        MODEL,
        LOSS,
        DATA,
        "from sklearn import metrics\nbatch_sizes = [1, 2]\ntest_batch_size = 7\n",
    )
    assert (task.metric, task.batch_size) == ("accuracy", 40)


def test_what_is_missing_has_a_reason_that_says_what_would_change_it(make: Make) -> None:
    own = make(
        "model = lambda: nn.Embedding(9, 3)\nloss = lambda o, t: F.cross_entropy(o, t)\n",
        "data = torch.arange(50) % 9, torch.arange(50) % 3\n",
    )
    assert set(own.lacks) == {"ggn", "jacobian", "sampled", "per_example", "layers", "matrices"}
    assert own.lacks["sampled"].startswith("the loss is a function; nn.CrossEntropyLoss()")
    assert "no nn.Linear" in own.lacks["layers"]
    smooth = make(MODEL, "loss = nn.CrossEntropyLoss(label_smoothing=0.1)\n", DATA)
    assert set(smooth.lacks) == {"jacobian", "sampled", "matrices"}
    assert "label_smoothing" in smooth.lacks["sampled"]
    assert "nn.MSELoss()" in smooth.lacks["jacobian"]


def test_batch_norm_model_is_evaluated_in_evaluation_mode(make: Make) -> None:
    task = make("model = lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))\n", LOSS, DATA)
    model = task.model(0)
    assert isinstance(model[1], nn.BatchNorm1d)
    before = model[1].running_mean.clone()
    task.evaluate(model, "val")
    assert model.training
    assert torch.equal(model[1].running_mean, before)
