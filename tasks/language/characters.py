"""Base of the character models: text, loss and metric."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.data.text import encode, read_text, split_windows
from tasks.task import DataTask


class CharacterModel(DataTask):
    """Predict the next character of a text.

    Inputs and targets `(N, context)` are character numbers, the targets one character ahead; the
    model's logits have the shape `(N, characters, context)`, so that the loss is a plain
    cross-entropy, averaged over examples and positions. The metric is `bits_per_char`, the loss
    divided by ln 2. The alphabet is that of the whole text.

    Args:
        path: a UTF-8 text file; None is Moby Dick (Melville 1851, 1.2 million characters), in the
            repository.
        context: the number of characters in a window; the windows do not overlap.
        val_size: the number of validation windows, before the test windows.
        test_size: the number of test windows, at the end of the text.

    Raises:
        ValueError: `path` is no file, or the text is too short.
    """

    metric = "bits_per_char"
    direction = "min"
    evaluation_batch: ClassVar[int] = 100

    def __init__(
        self,
        *,
        path: str | None,
        context: int,
        val_size: int,
        test_size: int,
        batch_size: int | None,
        steps: int,
        eval_every: int,
        target: float | None,
    ) -> None:
        require_positive(context=context, val_size=val_size, test_size=test_size)
        numbers, self.alphabet = encode(read_text(path))
        self.context = context
        self.splits = split_windows(numbers, context, val_size, test_size)
        self.loss_fn = nn.CrossEntropyLoss()
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss` and `bits_per_char` of each window, `(N,)`."""
        loss = F.cross_entropy(outputs, targets, reduction="none").mean(dim=1)
        return {"loss": loss, "bits_per_char": loss / math.log(2)}
