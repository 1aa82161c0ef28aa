"""The recurrent character models differ in their cells alone."""

from __future__ import annotations

import torch
from torch import nn

from tasks.language.char_gru import CharGRU
from tasks.language.char_rnn import CharRNN

TINY = {"context": 8, "embedding": 4, "hidden": 6, "val_size": 20, "test_size": 20}


def test_the_cell_is_a_gru_and_the_data_are_the_same() -> None:
    gru, lstm = CharGRU(**TINY), CharRNN(**TINY)
    assert torch.equal(gru.splits["val"][0], lstm.splits["val"][0])
    cells = [
        [m for m in task.model(0).modules() if isinstance(m, nn.RNNBase)] for task in (gru, lstm)
    ]
    assert [[type(cell) for cell in modules] for modules in cells] == [[nn.GRU], [nn.LSTM]]
    counts = [sum(p.numel() for p in modules[0].parameters()) for modules in cells]
    assert counts[0] * 4 == counts[1] * 3


def test_a_prediction_does_not_see_what_follows() -> None:
    task = CharGRU(**TINY)
    model = task.model(0).double()
    inputs, _ = next(task.batches("val", 0))
    changed = inputs.clone()
    changed[:, 5] = (changed[:, 5] + 1) % len(task.alphabet)
    before, after = model(inputs), model(changed)
    torch.testing.assert_close(before[..., :5], after[..., :5])
    assert not torch.allclose(before[..., 5], after[..., 5])


def test_it_learns() -> None:
    task = CharGRU(**TINY, batch_size=64)
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = task.batches("train", 0)
    for _ in range(60):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        task.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    start, end = (task.evaluate(net, "val")["bits_per_char"] for net in (task.model(0), model))
    assert end < 4.6 < 6 < start  # the frequencies of characters alone give 4.5 bits
