"""From spelling to pronunciation with a recurrent encoder and decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.checks import require_positive
from tasks.data.cmudict import PAD, encode_entries, load_entries
from tasks.data.splits import hold_out, three_way
from tasks.task import DataTask

LETTERS = 26
# the logit of PAD after a word's end: every other class has probability e^-100 or less
CERTAIN = 100.0


class Seq2Seq(DataTask):
    """Predict the pronunciation of an English word: one GRU reads letters, another writes phonemes.

    The decoder starts from the encoder's last state and reads the right phonemes so far (teacher
    forcing). With `attention` each of its states attends to all of the encoder's: softmax of their
    inner products, then a linear layer on both. Cho et al. 2014 (arXiv 1406.1078); Sutskever,
    Vinyals and Le 2014 (arXiv 1409.3215); the attention is the `dot` form of Luong, Pham and
    Manning 2015 (arXiv 1508.04025).

    Inputs are `(N, 2 longest + 1)`: the letters, then the decoder's inputs, both padded. Targets
    are the phonemes, an end, and PAD, `(N, longest + 1)`; the logits have the shape `(N, symbols,
    longest + 1)`.

    After a word's end the model predicts PAD with certainty for any parameters. Loss, gradient and
    curvature of these places are exactly zero, targets drawn from the model are PAD, and captured
    states are zero. The loss is a plain cross-entropy, the mean over examples and all `longest + 1`
    places: a mean over examples of sums over phonemes, up to a constant. In a mean over the
    phonemes alone, the weight of an example would depend on the others of its batch, and the
    curvature would count places after the end.

    The metric `token_error` is the share of a word's phonemes (its end included) that are wrong
    under teacher forcing, averaged over words. `exact` is the share of words without a mistake,
    the same as for greedy decoding: both agree until the first mistake.

    Data: the Carnegie Mellon Pronouncing Dictionary, a quarter of it in the repository; first
    pronunciations of words of letters. Validation and test words are drawn at random, so that
    training may contain a related word.

    Args:
        data: `cmudict_small` (29,127 words) or `cmudict` (116,506; python scripts/fetch_data.py
            cmudict).
        stress: distinguish the stresses of vowels: 69 phonemes in place of 39.
        longest: the largest number of letters and of phonemes in a word.
        embedding: the width of a letter's and a phoneme's vector.
        hidden: the width of either GRU.
        attention: let the decoder attend to the encoder's states.
        val_size, test_size: the numbers of validation and of test words.

    Raises:
        ValueError: an argument is out of its range.
        DataMissingError: the full set is not in the data directory.
    """

    offers = frozenset({"hessian", "ggn", "sampled", "per_example", "layers", "matrices"})
    metric = "token_error"
    direction = "min"
    evaluation_batch: ClassVar[int] = 500

    def __init__(
        self,
        data: str = "cmudict_small",
        stress: bool = False,
        longest: int = 12,
        embedding: int = 32,
        hidden: int = 128,
        attention: bool = True,
        val_size: int = 1000,
        test_size: int = 1000,
        batch_size: int | None = 64,
        steps: int = 2000,
        eval_every: int = 200,
        target: float | None = None,
    ) -> None:
        require_positive(longest=longest, embedding=embedding, hidden=hidden)
        letters, phonemes, self.symbols = encode_entries(
            load_entries(data, stress, longest), longest
        )
        inputs, targets = torch.cat([letters, given_to_decoder(phonemes)], dim=1), phonemes[:, 1:]
        rest, test = hold_out(inputs, targets, test_size, "test_size")
        self.splits = three_way(rest, test, val_size, None)
        self.longest, self.attention = longest, attention
        self.embedding, self.hidden = embedding, hidden
        self.loss_fn = nn.CrossEntropyLoss()
        super().__init__(steps=steps, eval_every=eval_every, batch_size=batch_size, target=target)

    def build(self) -> nn.Module:
        """The encoder, the decoder and the head."""
        return EncoderDecoder(
            len(self.symbols) + 2,
            self.embedding,
            self.hidden,
            self.longest,
            attention=self.attention,
        )

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss`, `token_error` and `exact` of each word, `(N,)`."""
        wrong = (outputs.argmax(dim=1) != targets).double().sum(dim=1)
        return {
            "loss": F.cross_entropy(outputs, targets, reduction="none").mean(dim=1),
            "token_error": wrong / (targets != PAD).sum(dim=1),
            "exact": (wrong == 0).double(),
        }


class EncoderDecoder(nn.Module):
    """Two GRUs, with attention or without, and a head."""

    def __init__(
        self, symbols: int, embedding: int, hidden: int, longest: int, *, attention: bool
    ) -> None:
        super().__init__()
        self.longest = longest
        self.letter_embedding = nn.Embedding(LETTERS + 1, embedding)
        self.phoneme_embedding = nn.Embedding(symbols, embedding)
        self.encoder = nn.GRU(embedding, hidden, batch_first=True)
        self.decoder = nn.GRU(embedding, hidden, batch_first=True)
        self.mixer = nn.Linear(2 * hidden, hidden) if attention else None
        self.head = nn.Linear(hidden, symbols)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits `(N, symbols, places)` of letters and phonemes so far, `(N, longest + places)`."""
        letters, phonemes = inputs[:, : self.longest], inputs[:, self.longest :]
        read, _ = self.encoder(self.letter_embedding(letters))
        last = (letters != PAD).sum(dim=1) - 1
        start = read[torch.arange(len(read), device=read.device), last]
        states, _ = self.decoder(self.phoneme_embedding(phonemes), start[None].contiguous())
        if self.mixer is not None:
            states = torch.tanh(
                self.mixer(torch.cat([states, _attended(states, read, letters)], dim=2))
            )
        speaking = (phonemes != PAD)[:, :, None]
        logits: Tensor = self.head(states * speaking)
        silence = F.one_hot(torch.tensor(PAD, device=logits.device), logits.shape[2]) * CERTAIN
        return torch.where(speaking, logits, silence.to(logits.dtype)).transpose(1, 2)


def given_to_decoder(phonemes: Tensor) -> Tensor:
    """The decoder's inputs: the boundary and all phonemes, without the end."""
    before = phonemes[:, :-1]
    return before.where(phonemes[:, 1:] != PAD, PAD)


def _attended(states: Tensor, read: Tensor, letters: Tensor) -> Tensor:
    """The encoder's states, averaged by the softmax of products with each decoder state."""
    scores = (states @ read.transpose(1, 2)).masked_fill((letters == PAD)[:, None], -torch.inf)
    return scores.softmax(dim=2) @ read
