"""Small float64 problems and the naive references that the objective's oracles are checked
against."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from optimizers import Objective
from optimizers.linalg.flat import flatten, unflatten

torch.set_num_threads(1)


class ExampleMSE(nn.MSELoss):
    """Squared error, summed over outputs and averaged over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "example_mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction="sum") / len(input)


class ExampleBCE(nn.BCEWithLogitsLoss):
    """Binary cross-entropy, summed over outputs and averaged over examples."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "example_mean"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(input, target, reduction="sum") / len(input)


class LSTMNet(nn.Module):
    """(B, T, 2) to logits (B, V, T)."""

    def __init__(self, vocabulary: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True, num_layers=2 if dropout else 1, dropout=dropout)
        self.head = nn.Linear(3, vocabulary)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.lstm(inputs)[0]).transpose(1, 2)


class SelfAttention(nn.Module):
    """(B, T, 4) to logits (B, V, T), by the fused attention function."""

    def __init__(self, vocabulary: int = 3) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)
        self.head = nn.Linear(4, vocabulary)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.qkv(inputs).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(
            query[:, None], key[:, None], value[:, None], is_causal=True
        )
        return self.head(mixed[:, 0]).transpose(1, 2)


class MultiHead(nn.Module):
    """(B, T, 4) to (B, 2), by nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(1))


class TiedEmbedding(nn.Module):
    """Tokens (B, T) to logits (B, V, T); the embedding is the output layer too."""

    def __init__(self, vocabulary: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 3)
        self.hidden = nn.Linear(3, 3)
        self.head = nn.Linear(3, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens)))).transpose(1, 2)


class Residuals(nn.Module):
    """A function of its parameters alone: `residuals(x)` repeated for every row of the inputs."""

    def __init__(self, start: Sequence[float], residuals: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.residuals = residuals

    def forward(self, inputs: Tensor) -> Tensor:
        return self.residuals(self.x).expand(len(inputs), -1)


class Scalar(nn.Module):
    """A function whose value is the model's output.

    With `Identity` as the loss it is minimised as it is.
    """

    def __init__(self, start: Sequence[float], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.x).expand(len(inputs))


class Identity(nn.Module):
    """The mean of the outputs as the loss."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()


@dataclass
class Problem:
    """A model in training mode, a loss and one mini-batch."""

    model: nn.Module
    loss_fn: nn.Module
    inputs: Tensor
    targets: Tensor

    def objective(self, l2: float = 0.0, **options: object) -> Objective:
        return Objective(self.model, self.loss_fn, self.inputs, self.targets, l2=l2, **options)  # type: ignore[arg-type]

    @property
    def params(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def mlp(sizes: Sequence[int] = (4, 5, 3), activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def _build(
    model: Callable[[], nn.Module],
    loss_fn: nn.Module,
    inputs: Callable[[], Tensor],
    targets: Callable[[], Tensor],
):
    def build() -> Problem:
        torch.manual_seed(0)
        return Problem(model().double(), loss_fn, inputs(), targets())

    return build


def _normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, dtype=torch.float64)


def _classes(high: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(high, shape)


def _bits(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(2, shape).double()


def conv_bn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def conv_plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(12, 2))


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 3))


def rosenbrock() -> nn.Module:
    return Residuals((-1.2, 1.0), lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]))


Builder = Callable[[], Problem]

LOSSES: dict[str, Builder] = {
    "mlp_ce": _build(mlp, nn.CrossEntropyLoss(), _normal(6, 4), _classes(3, 6)),
    "mlp_ce_sum": _build(mlp, nn.CrossEntropyLoss(reduction="sum"), _normal(6, 4), _classes(3, 6)),
    "mlp_bce": _build(mlp, nn.BCEWithLogitsLoss(), _normal(6, 4), _bits(6, 3)),
    "mlp_bce_sum": _build(mlp, nn.BCEWithLogitsLoss(reduction="sum"), _normal(6, 4), _bits(6, 3)),
    "mlp_bce_example": _build(mlp, ExampleBCE(), _normal(6, 4), _bits(6, 3)),
    "mlp_mse": _build(mlp, nn.MSELoss(), _normal(6, 4), _normal(6, 3)),
    "mlp_mse_sum": _build(mlp, nn.MSELoss(reduction="sum"), _normal(6, 4), _normal(6, 3)),
    "mlp_mse_example": _build(mlp, ExampleMSE(), _normal(6, 4), _normal(6, 3)),
}
MODELS: dict[str, Builder] = {
    "conv": _build(conv_plain, nn.MSELoss(), _normal(3, 2, 4, 4), _normal(3, 2)),
    "conv_bn": _build(conv_bn, nn.CrossEntropyLoss(), _normal(5, 1, 4, 4), _classes(3, 5)),
    "dropout": _build(dropout_net, nn.CrossEntropyLoss(), _normal(6, 4), _classes(3, 6)),
    "lstm": _build(LSTMNet, nn.CrossEntropyLoss(), _normal(2, 3, 2), _classes(3, 2, 3)),
    "sdpa": _build(
        SelfAttention, nn.CrossEntropyLoss(reduction="sum"), _normal(2, 3, 4), _classes(3, 2, 3)
    ),
    "multihead": _build(MultiHead, nn.MSELoss(), _normal(3, 3, 4), _normal(3, 2)),
    "tied": _build(TiedEmbedding, nn.CrossEntropyLoss(), _classes(5, 2, 4), _classes(5, 2, 4)),
    "rosenbrock": _build(
        rosenbrock,
        nn.MSELoss(reduction="sum"),
        _normal(1, 1),
        lambda: torch.zeros(1, 2, dtype=torch.float64),
    ),
}
CASES = LOSSES | MODELS
RANDOM = {"dropout"}  # evaluations draw random numbers
COUPLED = {"conv_bn"}  # an example's loss depends on its batch


# -- references: one backward pass per row, nothing kept, nothing batched --------------------------


class Reference:
    """The same loss as a function of a flat vector, on a copy of the model, every random draw the
    same."""

    def __init__(self, problem: Problem, l2: float = 0.0) -> None:
        self.problem = copy.deepcopy(problem)
        self.l2 = l2
        self.random_state = torch.get_rng_state()
        self.names = [name for name, p in self.problem.model.named_parameters() if p.requires_grad]
        self.theta = flatten(self.problem.params).detach()

    def outputs(self, theta: Tensor) -> Tensor:
        params = dict(zip(self.names, unflatten(theta, self.problem.params), strict=True))
        with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
            torch.set_rng_state(self.random_state)
            return functional_call(
                copy.deepcopy(self.problem.model), params, (self.problem.inputs,)
            )

    def data_loss(self, outputs: Tensor) -> Tensor:
        return self.problem.loss_fn(outputs, self.problem.targets)

    def loss(self, theta: Tensor) -> Tensor:
        return self.data_loss(self.outputs(theta)) + self.l2 / 2 * theta.square().sum()

    def gradient(self) -> Tensor:
        return torch.autograd.functional.jacobian(self.loss, self.theta)

    def hessian(self) -> Tensor:
        return torch.autograd.functional.hessian(self.loss, self.theta)

    def jacobian(self) -> Tensor:
        """Of the outputs, (outputs, n)."""
        return torch.autograd.functional.jacobian(
            lambda theta: self.outputs(theta).flatten(), self.theta
        )

    def ggn(self) -> Tensor:
        outputs = self.outputs(self.theta).detach()
        curvature = torch.autograd.functional.hessian(
            lambda flat: self.data_loss(flat.view_as(outputs)), outputs.flatten()
        )
        jacobian = self.jacobian()
        return jacobian.T @ curvature @ jacobian + self.l2 * torch.eye(
            len(self.theta), dtype=self.theta.dtype
        )

    def per_example_grads(self) -> Tensor:
        """The gradient of each example's loss, alone where the model draws nothing, else cut out of
        the batch."""
        rows = []
        for i in range(len(self.problem.inputs)):

            def loss(theta: Tensor, i: int = i) -> Tensor:
                return self.problem.loss_fn(
                    self.outputs(theta)[i : i + 1], self.problem.targets[i : i + 1]
                )

            rows.append(torch.autograd.functional.jacobian(loss, self.theta))
        factor = len(rows) if getattr(self.problem.loss_fn, "reduction", "") == "sum" else 1
        return factor * torch.stack(rows) + self.l2 * self.theta


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Assert that two tensors agree relative to the largest entry of the expected one."""
    assert actual.shape == expected.shape
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    error = float((actual - expected).abs().max()) / scale if expected.numel() else 0.0
    assert error <= tolerance, f"relative error {error:.2e} above {tolerance:.0e}"
