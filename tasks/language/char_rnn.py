"""A recurrent character model."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from tasks.checks import require_positive
from tasks.language.characters import CharacterModel


class CharRNN(CharacterModel):
    """Embedding, LSTM and a linear head: long products of Jacobians, shared over the positions.

    Every window starts from a zero state. Hochreiter and Schmidhuber, "Long short-term memory",
    1997. The head is the only layer whose inputs and output gradients can be captured; the
    recurrent matrices are hidden matrices.

    Args:
        path, context, val_size, test_size: see `CharacterModel`.
        embedding: the width of a character's vector.
        hidden: the width of a recurrent layer.
        layers: the number of stacked recurrent layers.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})
    cell: ClassVar[type[nn.RNNBase]] = nn.LSTM

    def __init__(
        self,
        path: str | None = None,
        context: int = 64,
        embedding: int = 32,
        hidden: int = 128,
        layers: int = 1,
        val_size: int = 500,
        test_size: int = 500,
        batch_size: int | None = 32,
        steps: int = 2000,
        eval_every: int = 200,
        target: float | None = None,
    ) -> None:
        require_positive(embedding=embedding, hidden=hidden, layers=layers)
        self.embedding = embedding
        self.hidden = hidden
        self.layers = layers
        super().__init__(
            path=path,
            context=context,
            val_size=val_size,
            test_size=test_size,
            batch_size=batch_size,
            steps=steps,
            eval_every=eval_every,
            target=target,
        )

    def build(self) -> nn.Module:
        """The embedding, the recurrent layers and the head."""
        return Recurrent(self.cell, len(self.alphabet), self.embedding, self.hidden, self.layers)


class Recurrent(nn.Module):
    """Embedding, recurrent layers and head."""

    def __init__(
        self,
        cell: Callable[..., nn.RNNBase],
        characters: int,
        embedding: int,
        hidden: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.recurrent = cell(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, characters)

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits `(N, characters, T)` of character numbers `(N, T)`."""
        states, _ = self.recurrent(self.embedding(inputs))
        logits: Tensor = self.head(states)
        return logits.transpose(1, 2)
