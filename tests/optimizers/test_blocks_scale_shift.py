"""Blocks of scale and shift, and of weights that are used several times."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from optimizers.natural_gradient.blocks import KroneckerBlock
from optimizers.natural_gradient.scale_shift import SCALE_SHIFT, ScaleShiftBlock
from tests.optimizers.blocks_cases import (
    assert_exact,
    classes,
    dense,
    factored,
    net,
    normal,
)
from tests.optimizers.cases import Problem, TiedEmbedding, close

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
    factored_blocks = {block.name: (block, factors) for block, factors in factored(problem)[0]}
    block, factors = factored_blocks["embedding.weight"]
    assert isinstance(block, KroneckerBlock)
    assert len(block.maps) == 2
    assert block.is_dense(factors["a"])
    _, passes = objective.scores((nn.Embedding, nn.Linear), "exact")
    embedding, head = problem.model.embedding, problem.model.head
    total = torch.zeros(15, 15).double()
    counts = torch.bincount(problem.inputs.flatten(), minlength=5).double()
    slopes = torch.cat([record[embedding].gradients[0].flatten(0, 1) for record in passes]) * 24
    # (dim, tokens) in both axes
    total += torch.kron(slopes.T @ slopes / 24, torch.diag(counts) / 24)
    inputs = passes[0][head].inputs[0].flatten(0, 1)
    slopes = torch.cat([record[head].gradients[0].flatten(0, 1) for record in passes]) * 24
    total += torch.kron(inputs.T @ inputs / 24, slopes.T @ slopes / 24)
    tensor = total.view(3, 5, 3, 5)
    block_matrix = torch.kron(factors["g"], factors["a"]).view(3, 5, 3, 5)
    close(torch.einsum("ikjk->ij", block_matrix), torch.einsum("ikjk->ij", tensor), 1e-12)
    close(torch.einsum("kikj->ij", block_matrix), torch.einsum("kikj->ij", tensor), 1e-12)


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
    by_name = {block.name: factors for block, factors in factored(problem, "empirical")[0]}
    assert set(by_name) == {"one.weight", "one.bias", "two.bias"}
    model = problem.model
    s1 = model.one(problem.inputs)
    s2 = model.one(torch.tanh(s1))
    s3 = model.two(torch.tanh(s2))
    slopes = torch.autograd.grad(problem.loss_fn(s3, problem.targets), [s1, s2, s3])
    rows = torch.cat([problem.inputs, torch.tanh(s1), torch.tanh(s2)]).detach()
    close(by_name["one.weight"]["a"], rows.T @ rows / 4, 1e-12)
    close(by_name["one.weight"]["g"], torch.cat(slopes).T @ torch.cat(slopes) / 12, 1e-12)
    close(by_name["one.bias"]["a"], torch.full((1, 1), 2.0).double(), 1e-12)
    close(by_name["two.bias"]["g"], slopes[2].T @ slopes[2] / 4, 1e-12)


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
