"""The cases of the methods' contract, the problems that they are tried on, and a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from optimizers.method import Method
from optimizers.registry import FOLDER
from suite.config.instantiate import construct
from tests.optimizers.cases import Problem, mlp

Builder = Callable[[Iterable[Any]], torch.optim.Optimizer]

# their first step moves nothing, or they are evaluated at averaged weights: test_packaged.py
ELSEWHERE = {"adopt", "schedule_free", "schedule_free_sgd"}
TABLE = yaml.safe_load(Path(__file__).with_name("contract_cases.yaml").read_text())


def _builder(values: dict[str, Any]) -> Builder:
    """The class of a YAML with its values, some of them replaced."""
    yaml_of = yaml.safe_load((FOLDER / f"{values['of']}.yaml").read_text())
    own = {key: value for key, value in values.items() if key != "of"}
    return construct({**yaml_of, **own, "_partial_": True})  # type: ignore[no-any-return]


VARIANTS: dict[str, dict[str, Any]] = {
    name: {"of": name, **TABLE.get(name, {})}
    for name in [*(path.stem for path in sorted(FOLDER.glob("*.yaml"))), *TABLE]
    if name not in ELSEWHERE
}
ALL: dict[str, Builder] = {name: _builder(values) for name, values in VARIANTS.items()}
METHODS: dict[str, type[Any]] = {
    name: build.func for name, build in ALL.items() if isinstance(build, partial)
}
OURS = {name: build for name, build in ALL.items() if issubclass(METHODS[name], Method)}
TORCH = {name: build for name, build in ALL.items() if name not in OURS}
# need squared errors
SQUARES = {name for name in OURS if "jacobian" in METHODS[name].needs}
# take all parameters in one group
ONE_GROUP = {
    *("torch_lbfgs", "newton", "newton_cg", "saddle_free_newton", "ggn_cg", "gauss_newton"),
    *("levenberg_marquardt", "trust_region", "tron", "arc", "subsampled_arc", "hessian_free"),
    *("ksd", "bfgs", "dfp", "sr1", "lbfgs", "bb", "fosi", "ogr_full", "ogr_subspace"),
    "momentum_parabola",
}
WHOLE = {name for name, values in VARIANTS.items() if values["of"] in ONE_GROUP} | {"ogr_mixed"}


class Assorted(nn.Module):
    """Parameters of 0, 1, 2 and 4 dimensions, one of size one, one that the loss does not use."""

    def __init__(self, unused: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 2)
        self.hidden = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.shift = nn.Parameter(torch.zeros(1))
        if unused:
            self.unused = nn.Parameter(torch.ones(3, 2))
        self.out = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.hidden(torch.tanh(self.conv(inputs)).flatten(1))
        return self.out(torch.tanh(hidden) * self.scale + self.shift)


def small(dtype: torch.dtype = torch.float32, dropout: bool = False, name: str = "") -> Problem:
    """A classification, or a regression for a method that needs one."""
    torch.manual_seed(0)
    model = mlp((4, 6, 5, 3))
    if dropout:
        model.insert(2, nn.Dropout(0.2))
    inputs = torch.randn(32, 4, dtype=dtype)
    if name in SQUARES:
        return Problem(model.to(dtype), nn.MSELoss(), inputs, torch.randn(32, 3, dtype=dtype))
    return Problem(model.to(dtype), nn.CrossEntropyLoss(), inputs, torch.randint(3, (32,)))


def assorted(name: str = "") -> Problem:
    torch.manual_seed(0)
    return Problem(Assorted(), nn.MSELoss(), torch.randn(6, 1, 3, 3), torch.randn(6, 2))


def batches(problem: Problem, steps: int, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(len(problem.inputs), generator=generator)[:size] for _ in range(steps)]
    return [(problem.inputs[index], problem.targets[index]) for index in chosen]


def train(
    problem: Problem,
    optimizer: torch.optim.Optimizer,
    data: list[tuple[Tensor, Tensor]],
    seed: int = 0,
) -> list[Tensor]:
    objective = problem.objective(generator=torch.Generator().manual_seed(seed))
    return [optimizer.step(objective.on(*batch)) for batch in data]  # type: ignore[arg-type,misc]


def values(problem: Problem) -> list[Tensor]:
    return [p.detach().clone() for p in problem.params]


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
