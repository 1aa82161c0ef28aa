"""Broken files of a user's: what the message says, and which line it shows."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.custom.custom import Custom
from tasks.custom.source import BrokenFileError
from tests.tasks.custom_files import DATA, LOSS, MODEL, Make, custom, net


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return partial(custom, tmp_path)


BROKEN = {  # the file, what is said, and the line of the user's that is shown
    "syntax": (
        (MODEL, "loss = nn.CrossEntropyLoss(\n", DATA),
        "this is no Python",
        "loss = nn.CrossEntropyLoss(",
    ),
    "raises": (
        (MODEL, LOSS, "data = torch.load('no.pt')\n"),
        "FileNotFoundError",
        "data = torch.load('no.pt')",
    ),
    "exits": (("raise SystemExit(1)\n",), "SystemExit", "raise SystemExit(1)"),
    "other name": (
        (MODEL, "criterion = nn.MSELoss()\n", DATA),
        "write loss = criterion",
        "criterion = nn.MSELoss()",
    ),
    "unnamed class": (
        (LOSS, DATA, net().replace("model = Net\n", "")),
        "write model = Net",
        "class Net(nn.Module):",
    ),
    "model raises": (
        (net(inputs=5), LOSS, DATA),
        "shapes cannot be multiplied",
        "        return self.layer(x)",
    ),
    "model wants more": (
        ("class Net(nn.Module):\n    def __init__(self, n): pass\nmodel = Net\n", LOSS, DATA),
        "missing 1 required positional argument: 'n'",
        "model = Net",
    ),
    "no module": (
        ("model = lambda: torch.ones(3)\n", LOSS, DATA),
        "not an nn.Module",
        "model = lambda: torch.ones(3)",
    ),
    "two outputs": (
        (net("(self.layer(x), x)"), LOSS, DATA),
        "gives a tuple",
        "    def forward(self, x):",
    ),
    "no rows": (
        (net("self.layer(x).sum(0)"), LOSS, DATA),
        r"shape \(3,\) for 8 examples",
        "    def forward(self, x):",
    ),
    "no parameters": (
        ("model = nn.Flatten\n", LOSS, DATA),
        "no trainable parameters",
        "model = nn.Flatten",
    ),
    "vector": (
        (MODEL, "loss = nn.CrossEntropyLoss(reduction='none')\n", DATA),
        r"shape \(8,\), not one number",
        "loss = nn.CrossEntropyLoss(reduction='none')",
    ),
    "loss raises": (
        (MODEL, "def loss(o, t):\n    return F.cross_entropy(o, targets)\n", DATA),
        "NameError",
        "    return F.cross_entropy(o, targets)",
    ),
    "no return": (
        (MODEL, "def loss(o, t):\n    F.cross_entropy(o, t)\n", DATA),
        "return missing",
        "def loss(o, t):",
    ),
    "no gradient": (
        (MODEL, "loss = lambda o, t: F.cross_entropy(o, t).detach()\n", DATA),
        "cannot be differentiated",
        "loss = lambda o, t: F.cross_entropy(o, t).detach()",
    ),
    "no loss": ((MODEL, "loss = 'mse'\n", DATA), "loss is a str", "loss = 'mse'"),
    "NaN loss": (
        (MODEL, "loss = lambda o, t: (o - 1e9).log().mean()\n", DATA),
        "loss is nan",
        "loss = lambda",
    ),
    "own parameters": (
        (MODEL, "loss = nn.Linear(3, 1)\n", DATA),
        "belong in the model",
        "loss = nn.Linear(3, 1)",
    ),
    "too few outputs": (
        (MODEL, LOSS, "data = torch.randn(50, 4), torch.arange(50) % 5\n"),
        "go from 0 to 4, and the model has 3 outputs",
        "data = ",
    ),
    "float classes": (
        (MODEL, LOSS, "data = torch.randn(50, 4), torch.rand(50)\n"),
        r"targets.long\(\)",
        "data = ",
    ),
    "whole numbers": (
        (
            "model = lambda: nn.Linear(4, 1)\nloss = nn.BCEWithLogitsLoss()\n",
            "data = torch.randn(50, 4), torch.ones(50, 1).long()\n",
        ),
        r"targets.float\(\)",
        "data = ",
    ),
    "broadcast": (
        (
            "model = lambda: nn.Linear(4, 1)\nloss = nn.MSELoss()\n",
            "data = torch.randn(50, 4), torch.randn(50)\n",
        ),
        r"equal shapes.*targets\[:, None\]",
        "data = ",
    ),
    "lengths": (
        (MODEL, LOSS, "data = torch.randn(50, 4), torch.arange(49)\n"),
        "50 inputs and 49 targets",
        "data = ",
    ),
    "NaN": (
        (
            MODEL,
            LOSS,
            "x = torch.randn(50, 4)\nx[7, 2] = float('nan')\ndata = x, torch.arange(50) % 3\n",
        ),
        "NaN or infinity in 1 of 50 examples, first in number 7",
        "data = x, torch.arange",
    ),
    "lists": (
        (MODEL, LOSS, "data = [[1.0]], [1]\n"),
        "must be a tensor or an array of numbers, got list",
        "data = ",
    ),
    "frames": (
        (MODEL, LOSS, "import pandas\nf = pandas.DataFrame({'a': [1]})\ndata = f, f\n"),
        "to_numpy",
        "data = f",
    ),
    "a path": (
        (MODEL, LOSS, "data = 'data.csv'\n"),
        r"pair \(inputs, targets\), got str",
        "data = 'data.csv'",
    ),
    "keys": (
        (MODEL, LOSS, "data = {'training': 1}\n"),
        "must have the key train.*keys are: training",
        "data = ",
    ),
    "complex": (
        (MODEL, LOSS, "data = torch.ones(5, 4) * 1j, torch.ones(5)\n"),
        "dense and real",
        "data = ",
    ),
    "too few": (
        (MODEL, LOSS, "data = torch.ones(2, 4), torch.arange(2)\n"),
        "too few to hold some out",
        "data = ",
    ),
    "direction": (
        (MODEL, LOSS, DATA, "def metric(o, t):\n    return 1.0\n"),
        "direction must be",
        "def metric(o, t):",
    ),
    "metric raises": (
        (MODEL, LOSS, DATA, "direction = 'max'\ndef metric(o, t):\n    return o.argmax(3)\n"),
        "IndexError",
        "    return o.argmax(3)",
    ),
    "matrix metric": (
        (MODEL, LOSS, DATA, "direction = 'max'\nmetric = lambda o, t: o\n"),
        r"shape \(5, 3\)",
        "metric = lambda o, t: o",
    ),
    "batch": (
        (MODEL, LOSS, DATA, "batch_size = 'all'\n"),
        "batch_size is 'all'",
        "batch_size = 'all'",
    ),
    "steps": ((MODEL, LOSS, DATA, "steps = 500\n"), "belongs on the command line", "steps = 500"),
    "misspelt": (
        (MODEL, LOSS, DATA, "batchsize = 3\n"),
        "write batch_size = batchsize",
        "batchsize = 3",
    ),
    "capitals": (
        (MODEL, LOSS, DATA, "BATCH_SIZE = 3\n"),
        "write batch_size = BATCH_SIZE",
        "BATCH_SIZE = 3",
    ),
    "metrics": (
        (MODEL, LOSS, DATA, "def metrics(o, t):\n    return 1.0\n"),
        "metrics is a function, not a dictionary",
        "def metrics(o, t):",
    ),
    "column": (
        (MODEL, LOSS, "data = torch.randn(50, 4), torch.ones(50, 1).long()\n"),
        r"targets\[:, 0\]",
        "data = ",
    ),
    "endless": (
        (
            MODEL,
            LOSS,
            "class Set(torch.utils.data.IterableDataset):\n    __iter__ = None\n",
            "data = torch.utils.data.DataLoader(Set())\n",
        ),
        "may have no end",
        "data = ",
    ),
    "dictionaries": (
        (
            MODEL,
            LOSS,
            "class Set(torch.utils.data.Dataset):\n    def __len__(self):\n        return 9\n",
            "    def __getitem__(self, i):\n        return {'x': i}\ndata = Set()\n",
        ),
        r"dictionaries with 'x'; return \(inputs, targets\)",
        "data = Set()",
    ),
    "beside": (
        (MODEL, LOSS, "data = np.load('no.npy')\n"),
        "is the folder of this file",
        "data = np.load",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_own_line(make: Make, tmp_path: Path, case: str) -> None:
    parts, message, shown = BROKEN[case]
    with pytest.raises(BrokenFileError, match=message) as refusal:
        make(*parts)
    place, quoted, expected, *example = str(refusal.value).splitlines()
    number = int(re.search(r"mine\.py, line (\d+): ", place)[1])  # type: ignore[index]
    line = (tmp_path / "mine.py").read_text().splitlines()[number - 1]
    assert quoted == f"  {number} | {line}"
    assert line.startswith(shown)
    assert expected.startswith("Expected: ")
    assert example


def test_a_name_that_is_missing_altogether_has_no_line(make: Make) -> None:
    with pytest.raises(
        BrokenFileError,
        match=r"mine\.py: the file does not say what data is\nExpected: two tensors",
    ):
        make(MODEL, LOSS)


def test_an_absent_file_is_named_with_the_place_that_was_looked_at(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BrokenFileError,
        match=re.escape(f"task.file=no.py: there is no such file; looked for {tmp_path}"),
    ):
        Custom(file="no.py")


def test_bad_values_are_named(make: Make) -> None:
    with pytest.raises(ValueError, match=r"held_out must be above 0 and below 0\.5, got 0\.5"):
        make(MODEL, LOSS, DATA, held_out=0.5)
    with pytest.raises(ValueError, match="has changed since"):
        make(MODEL, LOSS, DATA, digest="0" * 64)
    with pytest.raises(ValueError, match="batch_size must be above 0, got 0"):
        make(MODEL, LOSS, DATA, batch_size=0)
