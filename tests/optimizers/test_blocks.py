"""Blocks of the Fisher matrix.

Equal to the exact ones where theory says so, to naive computations elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient.blocks import Block, KroneckerBlock, Measure
from optimizers.natural_gradient.model_blocks import blocks_of
from optimizers.natural_gradient.scale_shift import SCALE_SHIFT, ScaleShiftBlock
from tests.optimizers.cases import Problem, Reference, TiedEmbedding, close

torch.set_num_threads(1)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def classes(high: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def factored(
    problem: Problem, fisher: str = "exact", **options: object
) -> tuple[list[tuple[Block, dict]], float]:
    """The blocks of a problem's model with their factors, and the scale of its loss."""
    blocks = blocks_of(problem.model, {id(parameter): 0 for parameter in problem.params})
    kinds = tuple({type(module) for block in blocks for module in block.modules})
    objective = problem.objective()
    _, passes = objective.scores(kinds, fisher)
    measure = Measure(objective.terms, objective.scale, **options)  # type: ignore[arg-type]
    found = [(block, block.sums(passes, measure)) for block in blocks]
    return [
        (block, block.factors(sums)) for block, sums in found if sums is not None
    ], objective.scale


def indices(problem: Problem, block: Block) -> Tensor:
    """Where the entries of a block's matrix stand in the flat vector of all parameters."""
    offsets, offset = {}, 0
    for parameter in problem.params:
        offsets[id(parameter)] = torch.arange(offset, offset + parameter.numel()).view(
            parameter.shape
        )
        offset += parameter.numel()
    return block.matrix([offsets[id(parameter)] for parameter in block.parameters]).long()


def dense(block: Block, factors: dict[str, Tensor]) -> Tensor:
    """The block as matrices (K, n, n), in the order of the entries of each of its matrices."""
    if isinstance(block, ScaleShiftBlock):
        return factors["b"]
    full = {n: f if block.is_dense(f) else torch.diag_embed(f) for n, f in factors.items()}
    a, g = (full[name].reshape(-1, *full[name].shape[-2:]) for name in ("a", "g"))
    return torch.stack([torch.kron(one_g, one_a) for one_a, one_g in zip(a, g, strict=True)])


def exact(problem: Problem, block: Block) -> Tensor:
    """The same part of the exact Gauss-Newton matrix."""
    ggn = Reference(problem).ggn()
    index = indices(problem, block)
    stack = index.reshape(-1, *index.shape[-2:]).flatten(1)
    return torch.stack([ggn[row][:, row] for row in stack])


def assert_exact(problem: Problem, names: set[str] | None = None, **options: object) -> None:
    """Every block, or those of the names, equals the exact one; all parameters have a block."""
    found, scale = factored(problem, **options)
    checked = set()
    for block, factors in found:
        if names is None or block.name in names:
            close(scale * dense(block, factors), exact(problem, block), 1e-12)
            checked.add(block.name)
    if names is None:
        assert {id(p) for block, _ in found for p in block.parameters} == {
            id(p) for p in problem.params
        }
    else:
        assert checked == names


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double()
    for name, parameter in model.named_parameters():
        if "bias" in name or parameter.ndim == 1:
            nn.init.normal_(parameter)
    return model


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
    found, _ = factored(problem, reduce=True)
    counts = torch.nn.functional.one_hot(index, 5).double().mean(1)
    close(
        {block.name: factors for block, factors in found}["0.weight"]["a"],
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
    h, c, kept, hs = torch.zeros(5, 4).double(), torch.zeros(5, 4).double(), [], []
    for t in range(6):
        x = problem.inputs[:, t]
        from_input, from_state = (
            x @ layer.weight_ih_l0.T + layer.bias_ih_l0,
            h @ layer.weight_hh_l0.T + layer.bias_hh_l0,
        )
        kept.append((x, from_input, h, from_state))
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
    found = {block.name: factors for block, factors in factored(problem, fisher)[0]}
    for number, name in ((0, "0.weight_ih_l0"), (2, "0.weight_hh_l0")):
        a = torch.cat([torch.cat([use[number], torch.ones(5, 1)], 1) for use in kept])
        close(found[name]["a"], (a.T @ a / 5).detach(), 1e-12)
        products = [use[number + 1] for use in kept]
        slopes = [
            torch.cat(torch.autograd.grad(logits, products, root, retain_graph=True))
            for root in roots
        ]
        close(found[name]["g"], sum(g.T @ g for g in slopes) / 30, 1e-12)


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
    found, scale = factored(problem, reduce=sharing == "reduce")
    assert len(found) == 4
    for block, factors in found:
        index = indices(problem, block).flatten()
        close(scale * dense(block, factors)[0], whole[index][:, index])


# -- scale and shift -------------------------------------------------------------------------------


class Affine(nn.Module):
    """A norm, followed by a nonlinear function of all of an example's outputs."""

    def __init__(self, norm: nn.Module, size: int) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.Linear(size, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(inputs).flatten(1)))


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer": (lambda: nn.LayerNorm(4), (3, 4)),
    "layer_positions": (lambda: nn.LayerNorm(4), (3, 2, 5, 4)),
    "layer_two_axes": (lambda: nn.LayerNorm((2, 4)), (3, 5, 2, 4)),
    "layer_no_shift": (lambda: nn.LayerNorm(4, bias=False), (3, 5, 4)),
    "rms": (lambda: nn.RMSNorm(4), (3, 5, 4)),
    "group": (lambda: nn.GroupNorm(2, 4), (3, 4, 2, 3)),
    "batch1d": (lambda: nn.BatchNorm1d(4), (3, 4)),
    "batch1d_places": (lambda: nn.BatchNorm1d(4), (3, 4, 5)),
    "batch2d": (lambda: nn.BatchNorm2d(2), (3, 2, 3, 2)),
    "batch3d": (lambda: nn.BatchNorm3d(2), (3, 2, 2, 1, 2)),
    "batch_no_statistics": (lambda: nn.BatchNorm2d(2, track_running_stats=False), (3, 2, 3, 2)),
    "instance1d": (lambda: nn.InstanceNorm1d(4, affine=True), (3, 4, 5)),
    "instance2d": (lambda: nn.InstanceNorm2d(2, affine=True), (3, 2, 3, 2)),
    "instance2d_statistics": (
        lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
        (3, 2, 3, 2),
    ),
    "instance3d": (lambda: nn.InstanceNorm3d(2, affine=True), (3, 2, 2, 1, 2)),
}


def affine(name: str, loss: nn.Module) -> Problem:
    make, shape = NORMS[name]
    torch.manual_seed(0)
    norm = make()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    for buffer in norm.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    model = Affine(norm, torch.Size(shape[1:]).numel()).double()
    targets = classes(3, 3) if isinstance(loss, nn.CrossEntropyLoss) else normal(3, 3)
    return Problem(model, loss, 2 * normal(*shape) + 1, targets)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), nn.MSELoss()]
)
@pytest.mark.parametrize("name", NORMS)
def test_scale_and_shift_are_exact_for_any_number_of_examples(
    name: str, loss: nn.Module, training: bool
) -> None:
    """Also a batch normalisation with the statistics of its batch, if none follows it."""
    problem = affine(name, loss)
    problem.model.train(training)
    names = {"norm.weight"}
    assert_exact(problem, names)
    (block,) = (block for block, _ in factored(problem)[0] if block.name == "norm.weight")
    assert {id(p) for p in block.parameters} == {id(p) for p in problem.model.norm.parameters()}


def test_every_kind_of_scale_and_shift_is_tested() -> None:
    assert {type(make()) for make, _ in NORMS.values()} == set(SCALE_SHIFT)


def test_a_batch_normalisation_before_another_is_not_exact() -> None:
    model = net(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    problem = Problem(model, nn.MSELoss(), normal(6, 4), normal(6, 3))
    assert_exact(problem, {"3.weight"})
    with pytest.raises(AssertionError, match="relative error"):
        assert_exact(problem, {"0.weight"})
    model.eval()
    assert_exact(problem, {"0.weight", "3.weight"})


@pytest.mark.parametrize("frozen", ["weight", "bias", "neither"])
def test_scale_and_shift_solve_their_damped_systems(frozen: str) -> None:
    problem = affine("layer_positions", nn.MSELoss())
    for name, parameter in problem.model.norm.named_parameters():
        parameter.requires_grad_(name != frozen)
    block, factors = next((b, f) for b, f in factored(problem)[0] if isinstance(b, ScaleShiftBlock))
    objective = problem.objective()
    objective()
    gradients = [parameter.grad for parameter in block.parameters]
    matrix = block.matrix(gradients)  # type: ignore[arg-type]
    inverses = {
        name: torch.linalg.inv(tensor) for name, tensor in block.damped(factors, 0.1).items()
    }
    steps = block.tensors(block.solve(inverses, matrix))
    for channel in range(4):
        damped = factors["b"][channel] + 0.1 * torch.eye(len(block.parameters)).double()
        slope = torch.stack([gradient[channel] for gradient in gradients])  # type: ignore[index]
        close(
            torch.stack([step[channel] for step in steps]), torch.linalg.solve(damped, slope), 1e-12
        )
    assert block.state_bytes(1.0) == 2 * factors["b"].numel() * 8


def test_one_example_without_a_batch_axis() -> None:
    for norm, shape in ((nn.LayerNorm(4), (4,)), (nn.InstanceNorm1d(2, affine=True), (2, 4))):
        model = norm.double()
        problem = Problem(model, nn.MSELoss(reduction="sum"), normal(*shape), normal(*shape))
        (block, factors), *_ = factored(problem, "empirical")[0]
        objective = problem.objective()
        objective()
        r = block.matrix([p.grad for p in block.parameters]) / objective.scale * objective.terms  # type: ignore[misc]
        close(factors["b"], r @ r.mT / objective.terms, 1e-12)


# -- several uses of a weight ----------------------------------------------------------------------


def test_a_tied_embedding_keeps_the_partial_traces_of_both_uses() -> None:
    torch.manual_seed(0)
    problem = Problem(
        TiedEmbedding().double(), nn.CrossEntropyLoss(), classes(5, 4, 6), classes(5, 4, 6, seed=3)
    )
    objective = problem.objective()
    found = {block.name: (block, factors) for block, factors in factored(problem)[0]}
    block, factors = found["embedding.weight"]
    assert isinstance(block, KroneckerBlock)
    assert len(block.maps) == 2
    assert block.is_dense(factors["a"])
    _, passes = objective.scores((nn.Embedding, nn.Linear), "exact")
    embedding, head = problem.model.embedding, problem.model.head
    total = torch.zeros(15, 15).double()
    counts = torch.bincount(problem.inputs.flatten(), minlength=5).double()
    slopes = torch.cat([record[embedding].gradients[0].flatten(0, 1) for record in passes]) * 24
    total += torch.kron(
        slopes.T @ slopes / 24, torch.diag(counts) / 24
    )  # (dim, tokens) in both axes
    inputs = passes[0][head].inputs[0].flatten(0, 1)
    slopes = torch.cat([record[head].gradients[0].flatten(0, 1) for record in passes]) * 24
    total += torch.kron(inputs.T @ inputs / 24, slopes.T @ slopes / 24)
    tensor = total.view(3, 5, 3, 5)
    kept = torch.kron(factors["g"], factors["a"]).view(3, 5, 3, 5)
    close(torch.einsum("ikjk->ij", kept), torch.einsum("ikjk->ij", tensor), 1e-12)
    close(torch.einsum("kikj->ij", kept), torch.einsum("kikj->ij", tensor), 1e-12)


@pytest.mark.parametrize("head_first", [False, True])
def test_a_tied_embedding_in_either_order_and_with_large_factors(head_first: bool) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            head.weight = embedding.weight
            layers = (
                {"head": head, "embedding": embedding}
                if head_first
                else {"embedding": embedding, "head": head}
            )
            for name, layer in layers.items():
                self.add_module(name, layer)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embedding(tokens)).transpose(1, 2)

    torch.manual_seed(0)
    problem = Problem(
        Tied().double(), nn.CrossEntropyLoss(), classes(5, 4, 6), classes(5, 4, 6, seed=3)
    )
    (block, factors), *rest = factored(problem)[0]
    assert not rest
    order = ("a", "g") if not head_first else ("g", "a")
    assert tuple(factors[name].shape for name in order) == ((5, 5), (3, 3))
    close(
        block.tensors(block.matrix([block.parameters[0]]))[0].detach(), block.parameters[0].detach()
    )
    (block, few), *_ = factored(problem, largest=4)[0]
    assert tuple(few[name].shape for name in order) == ((5,), (3, 3))
    close(few[order[0]], factors[order[0]].diagonal(), 1e-12)
    close(few[order[1]], factors[order[1]], 1e-12)
    inverses = {
        name: torch.linalg.inv(tensor) if block.is_dense(tensor) else 1 / tensor
        for name, tensor in block.damped(few, 0.3).items()
    }
    gradient = normal(*block.matrix([block.parameters[0]]).shape)
    full = torch.kron(
        *(t.contiguous() if t.ndim == 2 else t.diag() for t in (inverses["g"], inverses["a"]))
    )
    close(block.solve(inverses, gradient).flatten(), full @ gradient.flatten(), 1e-12)


def test_layers_that_share_a_weight_count_as_further_examples() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, inputs: Tensor) -> Tensor:
            return self.two(torch.tanh(self.one(torch.tanh(self.one(inputs)))))

    torch.manual_seed(0)
    problem = Problem(
        Shared().double(), nn.MSELoss(reduction="sum"), normal(4, 3), normal(4, 3, seed=3)
    )
    found = {block.name: factors for block, factors in factored(problem, "empirical")[0]}
    assert set(found) == {"one.weight", "one.bias", "two.bias"}
    model = problem.model
    s1 = model.one(problem.inputs)
    s2 = model.one(torch.tanh(s1))
    s3 = model.two(torch.tanh(s2))
    slopes = torch.autograd.grad(problem.loss_fn(s3, problem.targets), [s1, s2, s3])
    rows = torch.cat([problem.inputs, torch.tanh(s1), torch.tanh(s2)]).detach()
    close(found["one.weight"]["a"], rows.T @ rows / 4, 1e-12)
    close(found["one.weight"]["g"], torch.cat(slopes).T @ torch.cat(slopes) / 12, 1e-12)
    close(found["one.bias"]["a"], torch.full((1, 1), 2.0).double(), 1e-12)
    close(found["two.bias"]["g"], slopes[2].T @ slopes[2] / 4, 1e-12)


class Positions(nn.Module):
    """Tokens plus learned positions, which are looked up once for all examples or once for each."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.each = each
        self.tokens, self.positions, self.head = (
            nn.Embedding(4, 2),
            nn.Embedding(3, 2),
            nn.Linear(2, 2),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        index = torch.arange(inputs.shape[1])
        hidden = self.tokens(inputs) + self.positions(
            index.expand(inputs.shape) if self.each else index
        )
        return self.head(torch.tanh(hidden).mean(1))


def test_positions_broadcast_over_the_batch_are_estimated_without_bias() -> None:
    """The mean over all targets, by the model's own probabilities, is the block of positions looked
    up by each."""
    torch.manual_seed(0)
    once, each = Positions(False).double(), Positions(True).double()
    each.load_state_dict(once.state_dict())
    inputs, name = classes(4, 3, 3), "positions.weight"
    probability = once(inputs).softmax(1).detach()
    total = torch.zeros(6, 6).double()
    for labels in itertools.product(range(2), repeat=3):
        problem = Problem(once, nn.CrossEntropyLoss(), inputs, torch.tensor(labels))
        block, factors = next(
            (b, f) for b, f in factored(problem, "empirical")[0] if b.name == name
        )
        total += probability[torch.arange(3), list(labels)].prod() * dense(block, factors)[0]
    problem = Problem(each, nn.CrossEntropyLoss(), inputs, torch.zeros(3).long())
    block, factors = next((b, f) for b, f in factored(problem)[0] if b.name == name)
    close(total, dense(block, factors)[0], 1e-12)
