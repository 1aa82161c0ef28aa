"""Blocks of the Fisher matrix.

Equal to the exact ones where theory says so, to naive computations elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.optimizers.blocks_cases import (
    assert_exact,
    classes,
    dense,
    factored,
    indices,
    net,
    normal,
)
from tests.optimizers.cases import Problem, close

torch.set_num_threads(1)


class First(nn.Module):
    """The first of several results."""

    def forward(self, results: tuple[Tensor, ...]) -> Tensor:
        return results[0]


class MeanPool(nn.Module):
    """The mean over the positions, axis 1."""

    def forward(self, values: Tensor) -> Tensor:
        return values.mean(1)


class Attended(nn.Module):
    """Attention of (N, 1, 4) to keys and values of its own."""

    def __init__(self, length: int, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)  # type: ignore[arg-type]
        self.keys = normal(1, length, self.attention.kdim)
        self.values = normal(1, length, self.attention.vdim, seed=3)

    def forward(self, query: Tensor) -> Tensor:
        size = (len(query), -1, -1)
        return self.attention(
            query, self.keys.expand(size), self.values.expand(size), need_weights=False
        )[0]


# -- one example at one position: exact for every kind ---------------------------------------------

ONE: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "conv1d": (
        lambda: net(nn.Conv1d(2, 3, 4, dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2)),
        normal(1, 2, 7),
    ),
    "conv2d_grouped": (
        lambda: net(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)),
        normal(1, 4, 3, 3),
    ),
    "conv3d": (
        lambda: net(nn.Conv3d(2, 3, (2, 1, 3)), nn.Flatten(), nn.Linear(3, 2)),
        normal(1, 2, 2, 1, 3),
    ),
    "conv2d_strided": (
        lambda: net(nn.Conv2d(2, 3, 3, stride=4), nn.Flatten(), nn.Linear(3, 2)),
        normal(1, 2, 4, 5),
    ),
    "transposed": (
        lambda: net(
            nn.ConvTranspose2d(4, 2, 2, groups=2, bias=False),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        normal(1, 4, 1, 1),
    ),
    "embedding": (lambda: net(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2)), torch.tensor([3])),
    "rnn": (
        lambda: net(nn.RNN(3, 4, 2, batch_first=True), First(), nn.Flatten(), nn.Linear(4, 2)),
        normal(1, 1, 3),
    ),
    "lstm": (
        lambda: net(
            nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
            First(),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        normal(1, 1, 3),
    ),
    "lstm_projected": (
        lambda: net(
            nn.LSTM(3, 4, proj_size=2, batch_first=True), First(), nn.Flatten(), nn.Linear(2, 2)
        ),
        normal(1, 1, 3),
    ),
    "gru": (
        lambda: net(nn.GRU(3, 4, batch_first=True), First(), nn.Flatten(), nn.Linear(4, 2)),
        normal(1, 1, 3),
    ),
    "attention": (lambda: net(Attended(1), nn.Flatten(), nn.Linear(4, 2)), normal(1, 1, 4)),
    "attention_sizes": (
        lambda: net(Attended(1, kdim=3, vdim=5), nn.Flatten(), nn.Linear(4, 2)),
        normal(1, 1, 4),
    ),
}


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("name", ONE)
def test_exact_for_one_example_at_one_position(name: str, loss: str) -> None:
    build, value = ONE[name]
    targets = torch.tensor([1]) if loss == "ce" else normal(1, 2)
    assert_exact(
        Problem(build(), nn.CrossEntropyLoss() if loss == "ce" else nn.MSELoss(), value, targets)
    )


def test_the_queries_of_one_position_are_exact_where_keys_are_many() -> None:
    """A gradient by queries that is not zero: one query among four keys."""
    problem = Problem(
        net(Attended(4, kdim=3, vdim=5), nn.Flatten(), nn.Linear(4, 2)),
        nn.MSELoss(),
        normal(1, 1, 4),
        normal(1, 2),
    )
    assert_exact(problem, {"0.attention.q_proj_weight", "0.attention.out_proj.weight", "2.weight"})
    with pytest.raises(AssertionError, match="relative error"):
        assert_exact(problem, {"0.attention.v_proj_weight"})


# -- any number of examples: deep linear networks with squared error -------------------------------

LINEAR: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "embedding": (lambda: net(nn.Embedding(5, 3), nn.Linear(3, 2)), classes(5, 7)),
    "embedding_positions": (lambda: net(nn.Embedding(5, 3), nn.Linear(3, 2)), classes(5, 4, 6)),
    "embedding_padding": (
        lambda: net(nn.Embedding(5, 3, padding_idx=2), nn.Linear(3, 2)),
        classes(5, 4, 6),
    ),
    "linear_positions": (lambda: net(nn.Linear(3, 4), nn.Linear(4, 2)), normal(5, 6, 3)),
    "conv1d_one_place": (
        lambda: net(nn.Conv1d(2, 3, 4), nn.Flatten(), nn.Linear(3, 2)),
        normal(5, 2, 4),
    ),
    "conv2d_grouped_one_place": (
        lambda: net(nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(6, 2)),
        normal(5, 4, 2, 2),
    ),
    "conv1d_pointwise": (lambda: net(nn.Conv1d(2, 3, 1), nn.Conv1d(3, 2, 1)), normal(5, 2, 6)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_exact_for_deep_linear_networks_with_squared_error(name: str) -> None:
    build, value = LINEAR[name]
    model = build()
    assert_exact(Problem(model, nn.MSELoss(), value, normal(*model(value).shape, seed=4)))


POOLED: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: net(nn.Linear(3, 4), MeanPool(), nn.Linear(4, 2)), normal(5, 6, 3)),
    "conv2d": (
        lambda: net(
            nn.Conv2d(2, 3, 2, stride=(1, 2)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 2),
        ),
        normal(5, 2, 4, 6),
    ),
    "conv1d_grouped": (
        lambda: net(
            nn.Conv1d(4, 6, 3, groups=2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2)
        ),
        normal(5, 4, 6),
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_reduce_is_exact_for_linear_networks_with_mean_pooling(name: str) -> None:
    build, value = POOLED[name]
    problem = Problem(build(), nn.MSELoss(), value, normal(5, 2))
    assert_exact(problem, reduce=True)
    with pytest.raises(AssertionError, match="relative error"):
        assert_exact(problem)


def test_a_reduced_embedding_keeps_the_diagonal_of_its_mean_counts() -> None:
    index = classes(5, 4, 6)
    problem = Problem(
        net(nn.Embedding(5, 3), MeanPool(), nn.Linear(3, 2)), nn.MSELoss(), index, normal(4, 2)
    )
    factored_blocks, _ = factored(problem, reduce=True)
    counts = torch.nn.functional.one_hot(index, 5).double().mean(1)
    close(
        {block.name: factors for block, factors in factored_blocks}["0.weight"]["a"],
        counts.square().sum(0) / 4,
    )


# -- several positions: a naive computation --------------------------------------------------------


@pytest.mark.parametrize("fisher", ["empirical", "exact"])
def test_the_factors_of_an_lstm_are_moments_over_examples_and_times(fisher: str) -> None:
    """A cell written out, every product kept, one backward pass per root."""
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, batch_first=True).double()
    model = nn.Sequential(layer, First(), MeanPool(), nn.Linear(4, 2).double())
    problem = Problem(model, nn.CrossEntropyLoss(), normal(5, 6, 3), classes(2, 5))
    h, c, saved, hs = torch.zeros(5, 4).double(), torch.zeros(5, 4).double(), [], []
    for t in range(6):
        x = problem.inputs[:, t]
        from_input, from_state = (
            x @ layer.weight_ih_l0.T + layer.bias_ih_l0,
            h @ layer.weight_hh_l0.T + layer.bias_hh_l0,
        )
        saved.append((x, from_input, h, from_state))
        i, f, g, o = (from_input + from_state).split(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        hs.append(h)
    logits = torch.stack(hs).mean(0) @ model[3].weight.T + model[3].bias
    probability = logits.softmax(1).detach()
    if fisher == "empirical":
        roots = [probability - nn.functional.one_hot(problem.targets, 2)]
    else:
        roots = [
            probability[:, k : k + 1].sqrt() * (torch.eye(2).double()[k] - probability)
            for k in range(2)
        ]
    by_name = {block.name: factors for block, factors in factored(problem, fisher)[0]}
    for number, name in ((0, "0.weight_ih_l0"), (2, "0.weight_hh_l0")):
        a = torch.cat([torch.cat([use[number], torch.ones(5, 1)], 1) for use in saved])
        close(by_name[name]["a"], (a.T @ a / 5).detach(), 1e-12)
        products = [use[number + 1] for use in saved]
        slopes = [
            torch.cat(torch.autograd.grad(logits, products, root, retain_graph=True))
            for root in roots
        ]
        close(by_name[name]["g"], sum(g.T @ g for g in slopes) / 30, 1e-12)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("loss", ["ce", "mse_sum"])
def test_convolutions_against_curvlinops(sharing: str, loss: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    model = net(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 2, (2, 3), stride=(1, 2), padding="valid"),
        nn.Tanh(),
        nn.Conv2d(2, 2, 2, dilation=2, bias=False),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    targets = classes(3, 4) if loss == "ce" else normal(4, 3)
    loss_fn = nn.CrossEntropyLoss() if loss == "ce" else nn.MSELoss(reduction="sum")
    problem = Problem(model, loss_fn, normal(4, 2, 5, 9), targets)
    operator = curvlinops.KFACLinearOperator(
        model,
        loss_fn,
        problem.params,
        [(problem.inputs, targets)],
        fisher_type=curvlinops.FisherType.TYPE2,
        kfac_approx=curvlinops.KFACType(sharing),
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    whole = (operator @ torch.eye(sum(p.numel() for p in problem.params)).double()).double()
    factored_blocks, scale = factored(problem, reduce=sharing == "reduce")
    assert len(factored_blocks) == 4
    for block, factors in factored_blocks:
        index = indices(problem, block).flatten()
        close(scale * dense(block, factors)[0], whole[index][:, index])
