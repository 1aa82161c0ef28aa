"""Networks made of every kind of layer under K-FAC.

All parameters preconditioned, by the blocks' own inverses.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from optimizers.natural_gradient import EKFAC, KFAC
from tests.optimizers.cases import Problem, close

torch.set_num_threads(1)


def classes(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(len(shape)))


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).double()


class Recurrent(nn.Module):
    """Tokens (N, T) to logits (N, V, T) by an embedding, a recurrent layer and a head."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.recurrent = kind(4, 6, batch_first=True, **options)
        self.head = nn.Linear(6 * (2 if self.recurrent.bidirectional else 1), 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0]).transpose(1, 2)


class Stepped(nn.Module):
    """The same with a cell that is called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = nn.Embedding(5, 4), nn.GRUCell(4, 6), nn.Linear(6, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        state, logits = torch.zeros(len(tokens), 6).double(), []
        for value in self.embedding(tokens).unbind(1):
            state = self.cell(value, state)
            logits.append(self.head(state))
        return torch.stack(logits, dim=2)


class Transformer(nn.Module):
    """Tokens (N, T) to logits (N, V, T), with positions, torch's own encoder layer, and the
    embedding as the head."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(5, 4), nn.Embedding(6, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        self.mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.encoder(hidden, mask=self.mask, is_causal=True)).transpose(1, 2)


def residual() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 1),
        nn.InstanceNorm2d(6, affine=True),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def one_and_three_axes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, 3, padding=1),
        nn.BatchNorm3d(2),
        nn.Tanh(),
        nn.Flatten(2),
        nn.Conv1d(2, 3, 4, stride=3, dilation=2),
        nn.RMSNorm(7),
        nn.ConvTranspose1d(3, 2, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.LayerNorm(30),
        nn.Linear(30, 3),
    )


def of_tokens(model: Callable[[], nn.Module]) -> Callable[[], Problem]:
    return lambda: Problem(
        model().double(), nn.CrossEntropyLoss(), classes(5, 8, 6), (classes(5, 8, 6) + 1) % 5
    )


NETWORKS: dict[str, Callable[[], Problem]] = {
    "rnn": of_tokens(lambda: Recurrent(nn.RNN)),
    "lstm": of_tokens(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True)),
    "gru": of_tokens(lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.1)),
    "cell": of_tokens(Stepped),
    "transformer": of_tokens(lambda: Transformer(False)),
    "transformer_tied": of_tokens(lambda: Transformer(True)),
    "images": lambda: Problem(
        residual().double(), nn.CrossEntropyLoss(), normal(8, 2, 6, 6), classes(3, 8)
    ),
    "other_axes": lambda: Problem(
        one_and_three_axes().double(), nn.CrossEntropyLoss(), normal(8, 1, 3, 3, 3), classes(3, 8)
    ),
}
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "exact": {"fisher": "exact"},
    "empirical_reduce": {"fisher": "empirical", "shared_weights": "reduce"},
    "diagonal": {"max_dim": 5},
    "eigen": {"inverse": "eigen"},
}


def build(name: str) -> Problem:
    torch.manual_seed(0)
    return NETWORKS[name]()


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_parameters_are_preconditioned_and_the_loss_falls(name: str, kind: type[KFAC]) -> None:
    problem = build(name)
    optimizer = kind(
        problem.model.named_parameters(), lr=0.3, damping=0.1, statistics_period=1, inverse_period=2
    )
    objective = problem.objective()
    losses = [
        float(optimizer.step(objective.on(problem.inputs, problem.targets))) for _ in range(15)
    ]
    assert set(optimizer.layer_coverage().values()) == {kind.rule}
    assert optimizer.telemetry()["preconditioned"] == 1
    assert not optimizer.failures
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_first_step_is_the_damped_inverse_times_the_gradient(name: str, options: str) -> None:
    """Kronecker products written out and solved densely.

    The parameters by slices of their own shape.
    """
    problem = build(name)
    before = [parameter.detach().clone() for parameter in problem.params]
    optimizer = KFAC(
        problem.model.named_parameters(),
        lr=0.5,
        momentum=0.0,
        damping=0.2,
        kl_clip=None,
        **OPTIONS[options],
    )  # type: ignore[arg-type]
    objective = problem.objective()
    optimizer.step(objective)
    steps = {
        id(p): (start - p.detach()) / 0.5 for p, start in zip(problem.params, before, strict=True)
    }
    assert optimizer._blocks
    for block in optimizer._blocks:
        state = optimizer.state[block.parameters[0]]
        factors = {key: state[key] for key in ("a", "g", "b") if key in state}
        if OPTIONS[options].get("inverse") == "eigen" and "b" not in factors:
            damped, extra = factors, 0.2
        else:
            damped, extra = block.damped(factors, 0.2), 0.0
        dense = [
            t if block.is_dense(t) else torch.diag_embed(t)
            for t in (damped[key] for key in sorted(damped))
        ]
        stacks = [t.reshape(-1, *t.shape[-2:]) for t in dense]
        matrix = block.matrix([p.grad for p in block.parameters]) / objective.scale  # type: ignore[misc]
        computed = block.matrix([steps[id(p)] for p in block.parameters])
        for number, (slope, step) in enumerate(
            zip(*(m.reshape(-1, *m.shape[-2:]) for m in (matrix, computed)), strict=True)
        ):
            whole = (
                stacks[0][number]
                if len(stacks) == 1
                else torch.kron(stacks[1][number], stacks[0][number])
            )
            whole = whole + extra * torch.eye(len(whole)).double()
            close(step.flatten(), torch.linalg.solve(whole, slope.flatten()), 1e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_parameter_groups_are_as_one(name: str) -> None:
    """Layers, not the parameters of a layer, are shared out."""
    results = []
    for split in (False, True):
        problem = build(name)
        named = list(problem.model.named_parameters())
        last = named[-1][0].split(".")[0]
        parts = [
            [pair for pair in named if pair[0].startswith(last) == side] for side in (True, False)
        ]
        assert all(parts)
        optimizer = KFAC(
            [{"params": part} for part in parts] if split else named, lr=0.1, kl_clip=None
        )
        for _ in range(2):
            optimizer.step(problem.objective(generator=torch.Generator().manual_seed(0)))
        results.append(problem.params)
    for one, other in zip(*results, strict=True):
        close(other.detach(), one.detach(), 1e-12)


def test_frozen_parts_and_unknown_layers_are_left_to_the_fallback() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.attention = (
                nn.LSTM(3, 4, batch_first=True),
                nn.MultiheadAttention(4, 2, batch_first=True),
            )
            self.bilinear, self.factor = nn.Bilinear(4, 4, 2), nn.Parameter(torch.ones(2))

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.lstm(inputs)[0]
            mixed = self.attention(hidden, hidden, hidden)[0].mean(1)
            return self.factor * self.bilinear(mixed, mixed)

    torch.manual_seed(0)
    problem = Problem(Scaled().double(), nn.MSELoss(), normal(4, 5, 3), normal(4, 2))
    problem.model.lstm.weight_hh_l0.requires_grad_(False)
    problem.model.attention.in_proj_bias.requires_grad_(False)
    optimizer = KFAC(
        (pair for pair in problem.model.named_parameters() if pair[1].requires_grad), lr=0.1
    )
    optimizer.step(problem.objective())
    coverage = optimizer.layer_coverage()
    assert {name for name, rule in coverage.items() if rule == "kfac"} == {
        "lstm.weight_ih_l0",
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "attention.out_proj.bias",
    }
    assert {name for name, rule in coverage.items() if rule == "adamw"} == {
        "bilinear.weight",
        "bilinear.bias",
        "factor",
    }


@pytest.mark.parametrize("options", [{"bias_k": True}, {"packed": True}])
def test_what_torch_computes_itself_is_left_to_the_fallback(options: dict[str, bool]) -> None:
    class Left(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)
            self.attention = nn.MultiheadAttention(
                4, 2, batch_first=True, add_bias_kv="bias_k" in options
            )
            self.head = nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            if "packed" in options:
                lengths = torch.full((len(inputs),), inputs.shape[1])
                packed = nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True)
                hidden = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]
            else:
                hidden = self.lstm(inputs)[0]
            return self.head(self.attention(hidden, hidden, hidden)[0].mean(1))

    torch.manual_seed(0)
    problem = Problem(Left().double(), nn.MSELoss(), normal(4, 5, 3), normal(4, 2))
    optimizer = KFAC(problem.model.named_parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in problem.params]
    optimizer.step(problem.objective())
    left = "lstm" if "packed" in options else "attention"
    assert all(
        (rule == "adamw") == name.startswith(left)
        for name, rule in optimizer.layer_coverage().items()
    )
    assert all(not torch.equal(p, start) for p, start in zip(problem.params, before, strict=True))


class Checkpointed(nn.Module):
    """An LSTM and attention that are computed again in the backward pass."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.layer, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def body(self, inputs: Tensor) -> Tensor:
        hidden = self.lstm(torch.tanh(self.layer(inputs)))[0]
        return self.attention(hidden, hidden, hidden, need_weights=False)[0]

    def forward(self, inputs: Tensor) -> Tensor:
        mixed = (
            checkpoint(self.body, inputs, use_reentrant=False)
            if self.checkpointed
            else self.body(inputs)
        )
        return self.head(mixed.mean(1))


@pytest.mark.parametrize("fisher", ["sampled", "exact", "empirical"])
def test_checkpointed_layers_are_seen_once(fisher: str) -> None:
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        problem = Problem(
            Checkpointed(checkpointed).double(), nn.MSELoss(), normal(3, 5, 4), normal(3, 2)
        )
        optimizer = KFAC(
            problem.model.named_parameters(), lr=0.1, fisher=fisher, statistics_period=1
        )
        for _ in range(3):
            optimizer.step(problem.objective(generator=torch.Generator().manual_seed(0)))
        assert set(optimizer.layer_coverage().values()) == {"kfac"}
        results.append(problem.params)
    for one, other in zip(*results, strict=True):
        close(other.detach(), one.detach(), 1e-12)


def test_bfloat16_autocast_keeps_the_factors_in_float32() -> None:
    torch.manual_seed(0)
    for model, inputs, targets in (
        (Recurrent(nn.LSTM), classes(5, 8, 6), classes(5, 8, 6)),
        (residual(), normal(8, 2, 6, 6).float(), classes(3, 8)),
    ):
        problem = Problem(model, nn.CrossEntropyLoss(), inputs, targets)
        optimizer = KFAC(model.named_parameters(), lr=0.1)
        optimizer.step(problem.objective(autocast=True))
        assert set(optimizer.layer_coverage().values()) == {"kfac"}
        for state in optimizer.state.values():
            assert all(state[key].dtype == torch.float32 for key in ("a", "g", "b") if key in state)
