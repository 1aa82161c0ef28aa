"""The adding and the copy problem, whose answers depend on distant steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.losses import MSEPerExample
from tasks.task import Batch


@dataclass(frozen=True)
class Lengths:
    """The sizes of a problem: `length` steps, and for copying `items` out of `symbols`."""

    length: int
    items: int
    symbols: int


@dataclass(frozen=True)
class MemoryProblem:
    """The data of a problem, and the form and error of its answers.

    Args:
        draw: inputs `(count, T, features)` and targets of that many sequences, no two alike.
        outputs: the number of outputs of an answer.
        answers: the number of last steps with an answer; None for one answer after the last step.
        loss_fn: the loss of a batch.
        loss: the loss of each example, `(N,)`.
        error: the metric of each example, `(N,)`.
        chance: the error of the best constant answer.
    """

    draw: Callable[[int, torch.Generator], Batch]
    outputs: int
    answers: int | None
    loss_fn: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]
    chance: float


def adding(lengths: Lengths) -> MemoryProblem:
    """Add the two marked numbers: inputs `(N, T, 2)`, a uniform number and a mark a step.

    Targets are `(N, 1)`. One mark lies in either half. The error is the squared error; the constant
    answer 1 has the error 1/6, the sum's variance.
    """
    if lengths.length < 2:
        raise ValueError(f"length must be at least 2 for problem=adding, got {lengths.length}")

    def draw(count: int, generator: torch.Generator) -> Batch:
        numbers = torch.rand(count, lengths.length, generator=generator)
        half = lengths.length // 2
        early = torch.randint(half, (count, 1), generator=generator)
        late = torch.randint(half, lengths.length, (count, 1), generator=generator)
        marks = torch.zeros_like(numbers).scatter_(1, torch.cat([early, late], dim=1), 1.0)
        return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(dim=1, keepdim=True)

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(dim=1)

    return MemoryProblem(draw, 1, None, MSEPerExample(), squares, squares, chance=1 / 6)


def copying(lengths: Lengths) -> MemoryProblem:
    """Repeat a word after a pause: inputs `(N, length + 2 items, symbols + 2)`, one-hot.

    Targets are `(N, items)`. The word's `items` symbols come first, then `length - 1` blanks and
    the signal to begin, then `items` blanks for the answer. The error is the share of wrong
    symbols, `1 - 1 / symbols` for a guess.
    """
    items, symbols = lengths.items, lengths.symbols

    def draw(count: int, generator: torch.Generator) -> Batch:
        words = distinct_words(count, items, symbols, generator)
        tokens = torch.full((count, lengths.length + 2 * items), symbols)
        tokens[:, :items] = words
        tokens[:, items + lengths.length - 1] = symbols + 1
        return F.one_hot(tokens, symbols + 2).float(), words

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none").mean(dim=1)

    def wrong(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) != targets).double().mean(dim=1)

    return MemoryProblem(
        draw, symbols, items, nn.CrossEntropyLoss(), cross_entropy, wrong, chance=1 - 1 / symbols
    )


def distinct_words(count: int, items: int, symbols: int, generator: torch.Generator) -> Tensor:
    """Random words, `(count, items)`, all different.

    Raises:
        ValueError: too few words of that length exist.
    """
    words: Tensor = torch.randint(symbols, (2 * count, items), generator=generator).unique(dim=0)
    if len(words) < count:
        raise ValueError(
            f"items must be so large that symbols^items exceeds twice the {count} sequences, got "
            f"{items}"
        )
    chosen = torch.randperm(len(words), generator=generator)[:count]
    return words.index_select(0, chosen)


PROBLEMS: dict[str, Callable[[Lengths], MemoryProblem]] = {"adding": adding, "copy": copying}
