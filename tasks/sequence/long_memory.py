"""Problems of long memory for recurrent networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.checks import require_at_least, require_choice, require_positive
from tasks.sequence.memory_problems import PROBLEMS, Lengths
from tasks.task import SPLITS, DataTask, generator_for

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
INITIALISATIONS = ("sparse", "torch")
CONNECTIONS, RADIUS = 15, 1.1


class LongMemory(DataTask):
    """Store a little information over many steps, with vanishing or exploding gradients.

    `adding`: the sum of the two marked ones among `length` numbers; squared error, chance 1/6 =
    0.1667. `copy`: repeat a word of `items` symbols after a pause of `length` steps; cross-entropy
    over the answers, averaged over examples and positions, chance ln(symbols). The metric `error`
    is the squared error of `adding`, and the share of wrong symbols of `copy` (chance 1 -
    1/symbols); the attribute `chance` is the error of the best constant answer. A network that
    predicts the targets' mean stays at that error, often for a long time.

    Hochreiter and Schmidhuber, "Long short-term memory", 1997; as problems for a second-order
    method Martens and Sutskever, "Learning recurrent neural networks with Hessian-free
    optimization", 2011; in today's form Le, Jaitly and Hinton 2015 (arXiv 1504.00941) and Arjovsky,
    Shah and Bengio 2016 (arXiv 1511.06464). Differences from the latter: the training set is finite
    and fixed, and the loss of copying covers the answers alone, not the blanks before them.

    The recurrent layer is the one `nn.RNNBase` among `model.modules()`, with `batch_first=True` and
    a single layer: its first output, `(N, T, hidden)`, has the hidden states for structural
    damping.

    Args:
        problem: `adding` or `copy`.
        length: T for `adding`, the pause for `copy`.
        items: the length of a word (`copy` only).
        symbols: the size of the alphabet (`copy` only).
        cell: `rnn` (plain tanh), `lstm` or `gru`.
        hidden: the number of hidden units.
        init: `sparse`: each hidden unit (each gate's unit) has 15 standard normal recurrent
            weights, rescaled to a spectral radius of 1.1, and the recurrent layer's biases are
            zero, after Martens and Sutskever 2011 and Sutskever et al. 2013; or `torch` for torch's
            default.
        train_size, val_size, test_size: the number of sequences.
        problem_seed: the seed of the sequences.
        batch_size: None is the full batch.

    Raises:
        ValueError: an argument is out of its range or none of its choices, or `copy` has too few
            words.
    """

    offers = frozenset(
        {"hessian", "ggn", "jacobian", "sampled", "per_example", "layers", "matrices"}
    )
    metric = "error"
    direction = "min"

    def __init__(
        self,
        problem: str = "adding",
        length: int = 50,
        items: int = 10,
        symbols: int = 8,
        cell: str = "rnn",
        hidden: int = 64,
        init: str = "sparse",
        train_size: int = 4000,
        val_size: int = 500,
        test_size: int = 500,
        problem_seed: int = 0,
        batch_size: int | None = 250,
        steps: int = 1000,
        eval_every: int = 20,
        target: float | None = None,
    ) -> None:
        require_choice(PROBLEMS, problem=problem)
        require_choice(CELLS, cell=cell)
        require_choice(INITIALISATIONS, init=init)
        require_positive(length=length, items=items, hidden=hidden)
        require_positive(train_size=train_size, val_size=val_size, test_size=test_size)
        require_at_least(2, symbols=symbols)
        self.problem = PROBLEMS[problem](Lengths(length, items, symbols))
        self.chance = self.problem.chance
        self.cell, self.hidden, self.init = cell, hidden, init
        self.loss_fn = self.problem.loss_fn
        sizes = [train_size, val_size, test_size]
        inputs, targets = self.problem.draw(sum(sizes), generator_for(problem_seed, 0))
        parts = zip(inputs.split(sizes), targets.split(sizes), strict=True)
        self.splits = dict(zip(SPLITS, parts, strict=True))
        if not isinstance(self.loss_fn, nn.MSELoss):
            self.offers = type(self).offers - {"jacobian"}
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The recurrent layer and a linear head for the answers."""
        features = self.splits["train"][0].shape[2]
        recurrent = CELLS[self.cell](features, self.hidden, batch_first=True)
        if self.init == "sparse":
            sparse_recurrent_(recurrent)
        return Memory(recurrent, self.problem.outputs, self.problem.answers)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `error` of each sequence, `(N,)`."""
        return {
            "loss": self.problem.loss(outputs, targets),
            "error": self.problem.error(outputs, targets),
        }


class Memory(nn.Module):
    """Sequences to one answer after the last step, or to one at each of the last steps.

    Several answers have the shape `(N, outputs, answers)`, as cross-entropy expects.
    """

    def __init__(self, recurrent: nn.RNNBase, outputs: int, answers: int | None) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, outputs)
        self.answers = answers

    def forward(self, inputs: Tensor) -> Tensor:
        """The answers `(N, outputs)` or `(N, outputs, answers)` of sequences `(N, T, features)`."""
        states: Tensor = self.recurrent(inputs)[0]
        if self.answers is None:
            final: Tensor = self.head(states[:, -1])
            return final
        answers: Tensor = self.head(states[:, -self.answers :])
        return answers.transpose(1, 2)


@torch.no_grad()
def sparse_recurrent_(layer: nn.RNNBase) -> None:
    """Give each gate's recurrent matrix 15 normal weights a row and spectral radius 1.1."""
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            parameter.zero_()
        if name.startswith("weight_hh"):
            for block in parameter.split(layer.hidden_size):
                chosen = torch.rand_like(block).argsort(dim=1)[:, :CONNECTIONS]
                block.zero_().scatter_(1, chosen, torch.randn(chosen.shape))
                block.mul_(RADIUS / torch.linalg.eigvals(block).abs().max())
