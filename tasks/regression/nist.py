"""NIST's nonlinear regressions: small, hard, with parameters certified to eleven digits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import repeat

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_choice
from tasks.data.vendored import read_vendored
from tasks.losses import MSEPerExample
from tasks.regression.nist_models import MODELS, Model
from tasks.task import Batch, Task, require_split

HEADER = "NIST/ITL StRD"
CERTIFIED_DIGITS = 11
NUMBER = r"(-?[\d.]+(?:E[+-]?\d+)?)"
ROW = re.compile(rf"^\s*b\d+ =\s+{NUMBER}\s+{NUMBER}\s+{NUMBER}\s+{NUMBER}\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Regression:
    """A regression: minimise `|residuals(b)|^2` over the p parameters b, in float64.

    Attributes:
        name: NIST's name, the key of `datasets()`.
        level: NIST's level of difficulty, `lower`, `average` or `higher`.
        model: b `(p,)` and x `(N, k)` to predictions `(N,)`.
        x: the predictors, `(N, k)`.
        y: the predicted quantity, `(N,)`: the response, for Nelson its logarithm.
        starts: the two starting points, `(p,)` each; the second is nearer to the solution.
        certified: the certified parameters, `(p,)`, eleven digits.
        deviations: their certified standard deviations, `(p,)`.
        residual_sum: the certified residual sum of squares.
    """

    name: str
    level: str
    model: Model
    x: Tensor
    y: Tensor
    starts: tuple[Tensor, Tensor]
    certified: Tensor
    deviations: Tensor
    residual_sum: float

    def residuals(self, b: Tensor) -> Tensor:
        """The residuals prediction minus observation, `(N,)`, at parameters `(p,)`."""
        return self.model(b, self.x) - self.y

    def digits(self, b: Tensor) -> float:
        """The correct significant digits of the worst parameter, from 0 to 11.

        They are NIST's log relative error `min_i -log10(|b_i - c_i| / |c_i|)`; a parameter that is
        not finite has no correct digit.
        """
        error = ((b.detach().cpu().double() - self.certified) / self.certified).abs().max()
        digits = -math.log10(float(error)) if error > 0 else CERTIFIED_DIGITS
        return min(max(digits, 0.0), float(CERTIFIED_DIGITS)) if torch.isfinite(error) else 0.0


@cache
def datasets() -> dict[str, Regression]:
    """The 27 regressions by name, from NIST's published files.

    Raises:
        DataCorruptError: the vendored file is not the recorded one.
    """
    text = read_vendored("nist_strd.xz").decode("ascii")
    parsed = [_parse(file) for file in text.split(HEADER)[1:]]
    return {regression.name: regression for regression in parsed}


class Nist(Task):
    """Fit one of NIST's 27 nonlinear regressions from one of its two starting points.

        f(b) = (1/N) sum_n (model(b, x_n) - y_n)^2

    Inputs are the predictors, `(N, k)`, targets the responses, `(N, 1)`: N from 6 to 250, k = 1
    (Nelson 2). The parameters are one vector `(p,)`, p from 2 to 9, whose components differ by up
    to nine decades within a problem (Nelson): the problems are hard for methods without scale
    invariance. Every batch and every split is the whole problem; float64.

    The metric `digits` is the number of correct significant digits of the worst parameter (NIST's
    log relative error), between 0 and the certified 11. `residual_sum` is N times the loss.
    Lanczos1's certified residual sum, 1.4e-25, lies at the rounding error of the data in double
    precision: only its parameters can be compared.

    Data, starts and certified values: NIST's Statistical Reference Datasets (StRD), nonlinear
    regression. The loss differs from NIST's residual sum by the factor 1/N.

    Args:
        name: NIST's name of the regression.
        start: 1 for NIST's first starting point, far from the solution, 2 for the second.
        spread: the start's components are multiplied by 1 plus `spread` times a standard normal
            draw of the model's seed; 0 is NIST's start for every seed.

    Raises:
        ValueError: no regression has that name, `start` is neither 1 nor 2, or `spread` is below 0.
    """

    offers = frozenset({"hessian", "ggn", "jacobian", "sampled", "per_example"})
    metric = "digits"
    direction = "max"
    dtype = torch.float64

    def __init__(
        self,
        name: str = "Misra1a",
        start: int = 2,
        spread: float = 0.0,
        steps: int = 1000,
        eval_every: int = 10,
        target: float | None = 6.0,
    ) -> None:
        require_choice(MODELS, name=name)
        require_at_least(0, spread=spread)
        if start not in (1, 2):
            raise ValueError(f"start must be 1 or 2, got {start}")
        super().__init__(steps=steps, eval_every=eval_every, target=target)
        self.regression = datasets()[name]
        self.start = self.regression.starts[start - 1]
        self.spread = spread
        self.loss_fn = MSEPerExample()

    def build(self) -> nn.Module:
        """The model function at the start, spread by a normal draw."""
        factor = 1 + self.spread * torch.randn(len(self.start), dtype=torch.float64)
        return NistModel(self.start * factor, self.regression.model)

    def batches(self, split: str, seed: int, start: int = 0) -> Iterator[Batch]:
        """The whole problem as one batch: predictors `(N, k)` and responses `(N, 1)`."""
        require_split(split)
        return repeat(self._problem()) if split == "train" else iter([self._problem()])

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """`digits`, `residual_sum` and `loss` at the model's parameters."""
        require_split(split)
        inputs, targets = self._problem()
        with torch.no_grad():
            loss = float(self.loss_fn(model(inputs), targets))
        (b,) = model.parameters()
        return {
            "digits": self.regression.digits(b),
            "residual_sum": len(inputs) * loss,
            "loss": loss,
        }

    def _problem(self) -> Batch:
        x, y = self.regression.x, self.regression.y[:, None]
        return x.to(self.device, self.precision), y.to(self.device, self.precision)


class NistModel(nn.Module):
    """The parameters `b`, `(p,)`, and the model function: `(N, k)` to `(N, 1)`."""

    def __init__(self, start: Tensor, function: Model) -> None:
        super().__init__()
        self.b = nn.Parameter(start)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        """The predictions `(N, 1)` for predictors `(N, k)`."""
        return self.function(self.b, inputs)[:, None]


def _parse(text: str) -> Regression:
    """A regression from the text of one of NIST's files: parameters, certified sums, data."""
    name = _find(r"Dataset Name:\s+(\w+)", text)
    columns = torch.tensor(
        [[float(value) for value in row] for row in ROW.findall(text)], dtype=torch.float64
    ).T
    data = _find(r"\nData:\s+y\s.*\n([\s\S]+)", text)
    rows = torch.tensor(
        [[float(value) for value in line.split()] for line in data.splitlines()],
        dtype=torch.float64,
    )
    return Regression(
        name=name,
        level=_find(r"(\w+) Level of Difficulty", text).lower(),
        model=MODELS[name],
        x=rows[:, 1:],
        y=rows[:, 0].log() if "log[y] =" in text else rows[:, 0],
        starts=(columns[0], columns[1]),
        certified=columns[2],
        deviations=columns[3],
        residual_sum=float(_find(rf"Residual Sum of Squares:\s+{NUMBER}", text)),
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]
