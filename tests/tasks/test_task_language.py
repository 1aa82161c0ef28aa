"""The character models: windows of text, causality, weight tying."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tasks.data.text import encode, split_windows
from tasks.language.char_rnn import CharRNN
from tasks.language.char_transformer import CharTransformer

TEXT = "".join(chr(97 + n * n % 26) for n in range(1000)) + "é"


@pytest.fixture
def book(tmp_path: Path) -> str:
    path = tmp_path / "book.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_encoding_can_be_undone() -> None:
    numbers, alphabet = encode(TEXT)
    assert "".join(alphabet[n] for n in numbers) == TEXT
    assert list(alphabet) == sorted(set(TEXT))


def test_windows_are_contiguous_disjoint_and_shifted_by_one() -> None:
    splits = split_windows(torch.arange(107), context=9, val_size=3, test_size=2)
    assert {split: len(inputs) for split, (inputs, _) in splits.items()} == {
        "train": 5,
        "val": 3,
        "test": 2,
    }
    rows = torch.cat(
        [torch.cat([inputs, targets[:, -1:]], dim=1) for inputs, targets in splits.values()]
    )
    assert torch.equal(rows.flatten(), torch.arange(100))
    for inputs, targets in splits.values():
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


@pytest.mark.parametrize("task_class", [CharRNN, CharTransformer])
def test_any_text_file_will_do(
    task_class: type[CharRNN] | type[CharTransformer], book: str
) -> None:
    task = task_class(path=book, context=10, val_size=5, test_size=5, batch_size=4)
    assert len(task.alphabet) == len(set(TEXT))
    inputs, targets = next(task.batches("train", 0))
    logits = task.model(0)(inputs)
    assert logits.shape == (4, len(task.alphabet), 10)
    assert targets.shape == (4, 10)
    assert task.evaluate(task.model(0), "val")["bits_per_char"] == pytest.approx(
        math.log2(len(task.alphabet)), rel=0.1
    )


def test_bits_are_the_loss_over_ln_two() -> None:
    task = CharTransformer(val_size=2, test_size=2, context=8)
    metrics = task.evaluate(task.model(0), "val")
    assert metrics["bits_per_char"] == pytest.approx(metrics["loss"] / math.log(2))


@pytest.mark.parametrize("task_class", [CharRNN, CharTransformer])
def test_a_prediction_does_not_see_what_follows(
    task_class: type[CharRNN] | type[CharTransformer], book: str
) -> None:
    task = task_class(path=book, context=10, val_size=5, test_size=5)
    model = task.model(0).double()
    inputs, _ = next(task.batches("val", 0))
    changed = inputs.clone()
    changed[:, 6] = (changed[:, 6] + 1) % len(task.alphabet)
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[..., :6], after[..., :6])
    assert not torch.allclose(before[..., 6], after[..., 6])


def test_attention_equals_its_formula() -> None:
    model = CharTransformer(val_size=2, test_size=2, width=8, heads=2).model(0).double()
    attention = next(module for name, module in model.named_modules() if name.endswith("attention"))
    stream = torch.randn(3, 5, 8, dtype=torch.float64)
    projected = attention.qkv(stream)
    heads = []
    for head in range(2):
        queries, keys, values = (
            projected[..., 8 * part + 4 * head : 8 * part + 4 * head + 4] for part in range(3)
        )
        scores = queries @ keys.transpose(1, 2) / 2
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(F.softmax(scores, dim=-1) @ values)
    expected = attention.contract(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(stream), expected)


def test_tied_transformer_shares_its_embedding_with_the_head() -> None:
    free, tied = (
        CharTransformer(val_size=2, test_size=2, tied=tied).model(0) for tied in (False, True)
    )
    matrix = next(
        module.weight.numel() for module in free.modules() if isinstance(module, nn.Embedding)
    )
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (free, tied)]
    assert counts[0] - counts[1] == matrix
    assert tied.head.weight is tied.embedding.weight  # type: ignore[union-attr]


def test_dropout_acts_in_training_only() -> None:
    task = CharTransformer(val_size=2, test_size=2, dropout=0.5)
    model = task.model(0)
    inputs, _ = next(task.batches("val", 0))
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (CharRNN, {"path": "no/such/file"}, "path must be a text file or null, got 'no/such/file'"),
        (
            CharRNN,
            {"val_size": 10**6},
            r"val_size \+ test_size must be below the text's \d+ windows, got 1000000 \+ 500",
        ),
        (CharRNN, {"context": 0}, "context must be above 0, got 0"),
        (CharRNN, {"hidden": 0}, "hidden must be above 0, got 0"),
        (CharTransformer, {"heads": 3}, r"heads must divide width \(64\), got 3"),
        (CharTransformer, {"layers": 0}, "layers must be above 0, got 0"),
        (CharTransformer, {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_bad_values_are_named(task: type, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)
